"""A decoder that crashes or hangs takes nothing down with it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.guard import Guard, alive

sys.path.insert(0, str(Path(__file__).parent))  # the helper finds what it is asked to call


def add(a, b):
    return a + b


def crash_until(path, times):
    """Crash ``times`` times, then answer."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        os.kill(os.getpid(), signal.SIGSEGV)
    return os.path.getsize(path)


def hang(path):
    with open(path, "a") as file:
        file.write("x")
    time.sleep(1000)


def slow(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        alive()
    return "done"


def refuse():
    raise DecodeError("truncated", "half of it is missing")


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    guard = Guard(timeout_seconds=20)
    yield guard
    guard.close()


def test_a_call(guard):
    assert guard.call(add, 1, 2) == 3
    assert guard.call(add, "a", "b") == "ab"


def test_an_error_arrives_as_it_was_raised(guard):
    with pytest.raises(DecodeError, match="half of it") as caught:
        guard.call(refuse)
    assert caught.value.kind == "truncated"


def test_a_crash_is_tried_again(guard, tmp_path):
    assert guard.call(crash_until, tmp_path / "calls", 2) == 3
    assert guard.call(add, 1, 2) == 3


def test_the_third_crash_is_blamed(guard, tmp_path):
    with pytest.raises(DecodeError, match=r"crashed its process \(SIGSEGV\), 3 times") as caught:
        guard.call(crash_until, tmp_path / "calls", 99)
    assert caught.value.kind == "crash"
    assert os.path.getsize(tmp_path / "calls") == 3
    assert guard.call(add, 1, 2) == 3


def test_a_hang_ends(guard, tmp_path):
    assert guard.call(add, 1, 2) == 3
    guard.timeout_seconds = 0.5
    with pytest.raises(DecodeError, match=r"no answer within 0.5 s$") as caught:
        guard.call(hang, tmp_path / "calls")
    assert caught.value.kind == "hang"
    assert os.path.getsize(tmp_path / "calls") == 1  # the next one would hang as well


def test_a_call_that_shows_life_is_no_hang(guard):
    assert guard.call(add, 1, 2) == 3
    guard.timeout_seconds = 3
    assert guard.call(slow, 4.5) == "done"


def test_a_helper_that_does_not_start_is_no_inputs_fault(guard, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(OSError, match=r"the process to decode videos in does not start \(exit status 1\)"):
        guard.call(add, 1, 2)
    monkeypatch.delenv("PYTHONHOME")
    assert guard.call(add, 1, 2) == 3


def test_a_helper_that_ended_between_calls_is_no_inputs_fault(guard):
    guard.attempts = 1
    ended = []
    beginner = threading.Thread(target=lambda: ended.append(guard.call(add, 1, 2)))
    beginner.start()
    beginner.join()
    guard._process.wait(20)  # it ends with the thread that began it
    assert ended == [3] and guard.call(add, 2, 2) == 4


def test_no_helper_outlives_its_owner(guard):
    assert guard.call(add, 1, 2) == 3
    process = guard._process
    assert process.poll() is None
    guard.close()
    assert process.returncode is not None
