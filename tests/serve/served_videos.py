"""What the tests of stoa serve share."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from factories import write_video
from starlette.testclient import TestClient

from stoa.search.query import Searcher

URL = "http://127.0.0.1:8000"
HOSTILE = "<b onclick=x>'\"&{{7*7}}.mp4"
NAMES = ("a.mp4", HOSTILE, "sub/old.avi")


class Library(NamedTuple):
    """Videos of 3 s, each with windows of 1 s, and their index; ``numbers`` are by name."""

    folder: Path
    model: Path
    numbers: dict[str, int]


class Served(NamedTuple):
    client: TestClient
    searcher: Searcher
    videos: Path
    numbers: dict[str, int]
    temporary: Path

    def uploads(self) -> list[Path]:
        return list(self.temporary.glob("stoa-serve-*/uploads/*"))


def noise_video(path: Path, seed: int, codec: str = "libx264") -> None:
    path.parent.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (30, 4, 6, 3), dtype=np.uint8)
    write_video(path, list(small.repeat(12, axis=1).repeat(12, axis=2)), codec=codec)
