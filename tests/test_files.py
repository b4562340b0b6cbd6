"""Files that are whole or not there, and errors of disks in one line, whatever library met them."""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stoa.data.ledger import Ledger
from stoa.detections import Detections
from stoa.files import (
    DiskFull,
    StorageError,
    bytes_of,
    in_units,
    remove_temporaries,
    replacing,
    require_writable,
    temporary_of,
    write_whole,
    writing,
)
from stoa.synthetic.render import encode

LARGE = 1 << 21


def with_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(LARGE // 4)}, path)


def with_torch(path: Path) -> None:
    torch.save({"a": torch.zeros(LARGE // 4)}, path)


def with_torch_in_many_parts(path: Path) -> None:
    torch.save([torch.zeros(1 << 14) for _ in range(40)], path)


def with_numpy(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(LARGE, dtype=np.uint8))


def with_numpy_itself(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(LARGE, dtype=np.uint8))


def with_detections(path: Path) -> None:
    boxes = np.zeros((LARGE // 16, 4), dtype=np.float32)
    ints, ones = np.zeros(len(boxes), dtype=np.int64), np.ones(len(boxes), dtype=np.float32)
    found = Detections(
        boxes=boxes,
        labels=ints,
        scores=ones,
        frame_index=ints,
        frame_times_seconds=np.zeros(1),
        size_wh=np.array([64, 64]),
    )
    with open(path, "wb") as file:
        found.save(file)


def with_text(path: Path) -> None:
    path.write_text("x" * LARGE)


def with_ffmpeg(path: Path) -> None:
    rng = np.random.default_rng(0)
    encode(rng.integers(0, 255, (8, 256, 256, 3), dtype=np.uint8), path, fps=8)


WRITERS: list[Callable[[Path], None]] = [
    with_safetensors,
    with_torch,
    with_torch_in_many_parts,
    with_numpy,
    with_numpy_itself,
    with_detections,
    with_text,
    with_ffmpeg,
]


@pytest.fixture
def short_files() -> Iterator[None]:
    """No file may grow beyond 200 kB: to whoever writes it the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_disk_that_refuses_is_told_in_one_line(tmp_path, short_files, write):
    write_whole(tmp_path / "there", "before")
    with pytest.raises(StorageError) as caught, replacing(tmp_path / "there") as temporary:
        write(temporary)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'there'} cannot be written: ") and "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "before"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_what_is_needed_and_free_is_said_where_room_is_short(tmp_path, number):
    with pytest.raises(StorageError) as caught, writing(tmp_path / "x", needed=3 << 20, then="the last is y"):
        raise OSError(number, os.strerror(number))
    found = str(caught.value)
    assert os.strerror(number) in found and found.endswith("; the last is y") and caught.value.errno == number
    assert ("(3.0 MiB needed, " in found and "iB free)" in found) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_other_errors_are_left_alone(tmp_path):
    for error in (ValueError("a mistake"), RuntimeError("shapes differ"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, writing(tmp_path / "x"):
            raise error
        assert caught.value is error


def test_an_inner_message_is_kept(tmp_path):
    inner, outer = writing(tmp_path / "inner"), writing(tmp_path / "outer")
    with pytest.raises(StorageError, match="inner cannot be written"), outer, inner:
        raise OSError(errno.EIO, "x")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_files_have_ordinary_modes(tmp_path, write, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "x") as temporary:
            write(temporary)
        Ledger(tmp_path / "ledger.jsonl").record("skipped", "a", "b")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("name", ["a.json", "x" * 200, "ü" * 100, "[a]*?.json", "a(b.npz"])
def test_two_writers_never_share_a_name_and_leave_none(tmp_path, name):
    path = tmp_path / name
    assert len({temporary_of(path) for _ in range(50)}) == 50
    with replacing(path) as one, replacing(path) as two:
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    left, other = temporary_of(path), temporary_of(tmp_path / f"{name[:20]}other")
    for file in (left, other):
        file.write_text("killed")
    remove_temporaries(tmp_path, name)
    assert {p.name for p in tmp_path.iterdir()} == {name, other.name}
    remove_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_a_folder_is_tried_before_the_work(tmp_path, monkeypatch):
    require_writable(tmp_path / "a" / "b", "--out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    for below, which in (("file", "which"), ("file/a/b", r"and \S+/file")):
        with pytest.raises(ValueError, match=rf"^--out is .*, {which} is a file; pass a folder$"):
            require_writable(tmp_path / below, "--out")

    def refused(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr("builtins.open", refused)  # root may write where permissions say no
    with pytest.raises(StorageError, match="cannot be written: Read-only file system; choose another --out$"):
        require_writable(tmp_path, "--out")


def test_sizes(tmp_path):
    assert [in_units(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(7))
    assert bytes_of(tmp_path) == 7


def refused(folder, number, of_the_part):
    with writing(folder / "whole", then="make room"), writing(folder / "part", then=of_the_part):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("of_the_part", ["", "make room"])
@pytest.mark.parametrize(("number", "is_full"), [(errno.ENOSPC, True), (errno.EFBIG, True), (errno.EACCES, False)])
def test_what_is_said_of_a_part_is_said_of_the_whole(tmp_path, number, is_full, of_the_part):
    """Once, and of the same kind: a disk that is full is one wherever it was met."""
    with pytest.raises(StorageError, match=r"part cannot be written: [^;]*; make room$") as caught:
        refused(tmp_path, number, of_the_part)
    assert caught.value.errno == number
    assert isinstance(caught.value, DiskFull) == is_full
