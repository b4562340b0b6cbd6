"""A folder of videos with an index, of a model that nobody has trained, and the application over it."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from factories import tiny_model
from served_videos import NAMES, URL, Library, Served, noise_video
from starlette.testclient import TestClient

import stoa
from stoa.search.building import update
from stoa.search.config import WindowConfig
from stoa.search.index import Index, Sources
from stoa.search.opening import open_index
from stoa.search.query import Searcher
from stoa.serve.app import serving
from stoa.serve.limits import Limits
from stoa.tasks.evaluation import Abilities
from stoa.tasks.export import export_model
from stoa.tasks.trained import TrainedModel


@pytest.fixture(scope="session")
def indexed(tmp_path_factory) -> Library:
    root = tmp_path_factory.mktemp("served")
    folder = root / "videos"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        noise_video(folder / name, seed, "mpeg4" if name.endswith("avi") else "libx264")
    trained = TrainedModel(tiny_model().eval(), torch.device("cpu"), 32, {"checkpoint": "step 1"})
    export_model(trained, Abilities("one_pass", "end", None), "retrieval", root / "model")
    model = stoa.load(root / "model", device="cpu")
    sources = Sources(folder, None, WindowConfig(seconds=1.0, step_seconds=1.0, skip_still=False))
    (folder / ".stoa-index").mkdir()
    index = Index.made(folder / ".stoa-index", model.key, model.width, sources)
    assert update(index, model).total_windows == 9
    return Library(folder, root / "model", {name: state.number for name, state in index.files().items()})


@pytest.fixture(scope="session")
def model(indexed) -> stoa.Model:
    return stoa.load(indexed.model, device="cpu")


@pytest.fixture
def limits() -> Limits:
    return Limits(work_seconds=600.0)  # on a machine that does other things as well


@pytest.fixture
def served(indexed, model, limits, tmp_path, monkeypatch) -> Iterator[Served]:
    """Over a copy of the folder, whose files a test may change."""
    videos, temporary = tmp_path / "videos", tmp_path / "temporary"
    shutil.copytree(indexed.folder, videos)
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    searcher = Searcher(open_index(videos, model), model)
    with (
        serving(searcher, host="127.0.0.1", small=False, limits=limits) as app,
        TestClient(app, base_url=URL, raise_server_exceptions=False) as client,
    ):
        yield Served(client, searcher, videos, indexed.numbers, temporary)
    assert not list(temporary.glob("stoa-serve-*"))
