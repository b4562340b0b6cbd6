"""A folder of videos and a model that nobody has trained, which tells pictures apart as well as any."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import tiny_model, write_video

from stoa.api import Model
from stoa.tasks.evaluation import Abilities
from stoa.tasks.trained import TrainedModel


def moving(seed: int, frames: int = 16) -> list[np.ndarray]:
    """Frames of a bright square that crosses a picture of its own."""
    ground = np.random.default_rng(seed).integers(0, 200, (1, 1, 3)).repeat(48, 0).repeat(64, 1).astype(np.uint8)
    pictures = []
    for number in range(frames):
        picture = ground.copy()
        picture[10 + seed % 20 : 26 + seed % 20, 3 * number % 48 : 3 * number % 48 + 16] = 255 - seed
        pictures.append(picture)
    return pictures


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """Six videos of 2 s, one of them below another folder."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "below").mkdir()
    for seed in range(6):
        write_video(folder / ("below" if seed == 5 else "") / f"{seed}.mp4", moving(30 * seed), fps=8)
    return folder


@pytest.fixture
def videos(sources, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(sources, tmp_path / "videos"))


@pytest.fixture(scope="session")
def model() -> Model:
    return _model(0)


@pytest.fixture(scope="session")
def other_model() -> Model:
    return _model(1)


def _model(seed: int) -> Model:
    trained = TrainedModel(tiny_model(seed).eval(), torch.device("cpu"), 32, {})
    return Model(trained, Abilities("one_pass", "end", None))
