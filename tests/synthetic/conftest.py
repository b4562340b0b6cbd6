from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from data_sets import built_once

from stoa.synthetic import SynthConfig

CONFIG = SynthConfig(num_train=120, num_val=40, num_test=60, num_galleries=5, size=48, seed=3)


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished data set, made from CONFIG."""
    return built_once(tmp_path_factory, "of_synth", CONFIG)


@pytest.fixture(scope="session")
def read_jsonl() -> Callable[[Path], list[dict[str, Any]]]:
    return lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def decode() -> Callable[[Path], tuple[np.ndarray, list[float]]]:
    """Reads a video file: frames (F, H, W, 3) and their presentation times in seconds."""

    def read(path: Path) -> tuple[np.ndarray, list[float]]:
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), times

    return read
