"""Decoding leaves no thread and no picture behind: a guard decodes clips for days, within a limit of memory."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, write_video
from mutations import base_videos

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.clip import PartReader, open_part
from stoa.data.decoding.cpu import decode_clip, seek_frames
from stoa.data.decoding.encoded import choose
from stoa.data.decoding.guard import Guard
from stoa.data.decoding.probe import probe
from stoa.prepare.examine import examine_video
from stoa.prepare.transcode import to_frames, to_video
from stoa.search.cutting import _cut
from stoa.synthetic.footage import read_reel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")

READERS = {
    "probe": lambda path, out: probe(path),
    "decode": lambda path, out: decode_clip(path, 5),
    "decode again": lambda path, out: [decode_clip(path, 5), decode_clip(path, 3)],
    "seek": lambda path, out: seek_frames(path, probe(path), np.array([2, 7, 15])),
    "judge": lambda path, out: PartReader(path, open_part(path, None, None)).judge(),
    "choose": lambda path, out: choose(path, 4, None, None),
    "to frames": lambda path, out: to_frames(path, None, None, 4, 32, 90),
    "to video": lambda path, out: to_video(path, None, None, 32, 4, 30),
    "examine": lambda path, out: examine_video("clip", path),
    "cut": lambda path, out: _cut(path, 0.2, 0.6, str(out)),
    "reel": lambda path, out: read_reel(path, 8, 32, 42),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, str]:
    videos = base_videos(tmp_path_factory.mktemp("bases"))
    cut = videos["mp4"].with_name("cut.mp4")
    content = videos["fast"].read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    bits = videos["mp4"].with_name("bits.ts")
    content = bytearray(videos["ts"].read_bytes())
    content[len(content) // 3 : len(content) // 3 + 40] = bytes(40)
    bits.write_bytes(content)
    some = ("mp4", "webm", "mpg", "mjpeg", "gif")
    return {name: str(videos[name]) for name in some} | {"cut": str(cut), "bits": str(bits)}


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new():
    """What the other tests hold is not gone through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Before Python looks for cycles."""
    gc.collect()
    threads = set(os.listdir("/proc/self/task"))
    gc.disable()
    try:
        yield
        assert set(os.listdir("/proc/self/task")) <= threads
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(thing).__qualname__ for thing in gc.garbage if str(type(thing).__module__).startswith("av.")}
        assert not left
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("reader", READERS)
def test_neither_threads_nor_pictures(reader, bases, tmp_path):
    with contextlib.suppress(DecodeError):
        READERS[reader](bases["mp4"], tmp_path / "first.mp4")  # libraries start threads of their own
    for name, path in bases.items():
        with nothing_left(), contextlib.suppress(DecodeError):
            READERS[reader](path, tmp_path / f"{name}.mp4")


def test_what_would_be_left_is_found(bases):
    """A frame's own converter, and its own side data."""
    import av

    def frames() -> Iterator[av.VideoFrame]:
        with av.open(bases["mp4"]) as container:
            yield from container.decode(video=0)

    for leave in (lambda frame: frame.side_data, lambda frame: frame.side_data and frame.to_ndarray(format="rgb24")):
        with pytest.raises(AssertionError), nothing_left():
            for frame in frames():
                leave(frame)


def _held() -> int:
    of_a_clip = {"VideoFrame", "InputContainer", "VideoStream", "Packet", "PyIOFile", "PartReader"}
    return sum(type(thing).__name__ in of_a_clip for thing in gc.get_objects())


def test_a_guard_holds_nothing_of_bad_clips(bases, monkeypatch):
    for folder in (Path(__file__).parent, Path(__file__).parent.parent):  # for what it is asked to call
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    guard = Guard(60.0)
    try:
        guard.call(gc.disable)
        for path in (bases["cut"], bases["bits"]) * 3:
            with pytest.raises(DecodeError):
                guard.call(decode_clip, path, 5)
        assert guard.call(_held) == 0
    finally:
        guard.close()


def test_many_frames_need_no_more_memory_than_few(tmp_path):
    """500 of them, in a guard that may take 300 MB."""
    path = str(write_video(tmp_path / "v.mp4", gray_frames(20) * 25))
    guard = Guard(60.0, memory_bytes=300 << 20)
    try:
        assert len(guard.call(to_video, path, None, None, 32, 8, 30).times_seconds) == 500
        for _ in range(5):
            assert guard.call(decode_clip, path, 100).frames_THWC.shape[0] == 100
    finally:
        guard.close()
