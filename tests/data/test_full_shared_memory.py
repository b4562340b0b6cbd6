"""A /dev/shm that is full, as in a container by default, is told in one line, and nobody waits for ever."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stoa.data.loading import one_line_errors
from stoa.files import StorageError

MESSAGES = [
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback\nRuntimeError: unable to allocate shared "
    "memory(shm) for file </torch_3091_27_0>: No space left on device (28)",
    "DataLoader worker (pid 27) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.",
    "unable to write to file </torch_3091_27_0>: No space left on device (28)",
    "unable to mmap 4096 bytes from file </torch_3091_27_0>: Cannot allocate memory (12)",
    "unable to open shared memory object </torch_3091_27_0> in read-write mode: No space left on device (28)",
]


def failing(error: Exception) -> Iterator[int]:
    yield 1
    raise error


@pytest.mark.parametrize("message", MESSAGES)
def test_it_names_what_helps(message):
    batches = one_line_errors(failing(RuntimeError(message)), "data.num_workers")
    assert next(batches) == 1
    with pytest.raises(ValueError, match=r"^shared memory is full .*/dev/shm.*--shm-size.*set data.num_workers 0$"):
        next(batches)


def test_other_errors_of_workers_are_their_last_line():
    around = "Caught {0} in DataLoader worker process 0.\nOriginal Traceback\n{0}: x cannot be read"
    for error, kind, expected in [
        (ValueError(around.format("ValueError")), ValueError, "x cannot be read"),
        (StorageError(around.format("stoa.files.StorageError")), StorageError, "x cannot be read"),
        (OSError("data: x"), OSError, "data: x"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), ValueError, "a loader process died"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
    ]:
        with pytest.raises(kind, match=f"^{re.escape(expected)}"):
            list(one_line_errors(failing(error), "data.num_workers"))


READ = """
import torch
from pathlib import Path
from factories import gray_frames, write_video
from stoa.data.clips import FileClips
from stoa.manifest import Caption, ClipRow
from stoa.models.config import ModelConfig
from stoa.tasks.videos import VideoReader
import tempfile
if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    write_video(folder / "a.mp4", gray_frames(10))
    rows = [ClipRow(str(i), "a.mp4", (Caption("a"),)) for i in range(4)]
    reader = VideoReader(FileClips(rows, folder), ModelConfig(num_frames=4), 224, num_workers=1)
    try:
        print(len(list(reader)))
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_an_evaluation_in_a_container_of_64_kib(repo_root):
    """For real, where a name space of one's own may be had."""
    own = ["unshare", "--map-root-user", "--mount"]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "
    if shutil.which("unshare") is None or subprocess.run([*own, "sh", "-c", mount + "true"], check=False).returncode:
        pytest.skip("no name space of one's own here")
    done = subprocess.run(
        [*own, "sh", "-c", mount + '"$0" -c "$1"', sys.executable, READ],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=repo_root / "tests",
    )
    assert done.stdout.startswith("shared memory is full (unable to allocate"), done.stderr[-2000:]
    assert done.stdout.endswith("or set --num_workers 0\n") and "Traceback" not in done.stderr
