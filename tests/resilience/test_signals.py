"""A signal ends a run saved; the same once more ends it at once, whatever it is stuck in."""

import signal
import subprocess
import sys
import time

import pytest
from families import Family
from launch import ROOT, finish
from test_hangs import WORKER

from stoa.endings import Status

pytestmark = pytest.mark.dist


@pytest.mark.parametrize(
    ("number", "apart"), [(signal.SIGINT, 0.5), pytest.param(signal.SIGTERM, 6, marks=pytest.mark.slow)]
)
def test_a_second_one_ends_a_step_that_is_stuck(start, tmp_path, monkeypatch, number, apart):
    """In a library that does not let Python's handlers run."""
    monkeypatch.setenv("FAULT", "sleep_in_a_library 3 0")
    program = start(tmp_path / "run", "--data.num_workers", "1", program=(WORKER,))
    family = Family(program, step=2)
    time.sleep(1)
    program.signal(number)
    time.sleep(apart)
    assert program.code is None
    program.signal(number)
    _, err = finish(program, code=Status.INTERRUPTED)
    assert f"train.py: a second {number.name}: ended at once, see the last checkpoint" in err
    assert family.is_gone()


CHILD = """
import os, signal, time
from stoa.training.signals import asked_to_end

with asked_to_end() as came:
    pid = os.fork()
    if not pid:
        time.sleep(1)
        os._exit(0)
    time.sleep(0.2)
    for number in {sent}:
        os.kill({whom}, number)
        time.sleep(0.2)
    os.waitpid(pid, 0)
    print(sorted(came))
"""


@pytest.mark.parametrize(
    ("sent", "whom", "code"),
    [
        ([signal.SIGINT], "os.getpid()", 0),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2], "os.getpid()", 0),
        ([signal.SIGTERM, signal.SIGTERM], "os.getpid()", 0),  # sent on by a launcher
        ([signal.SIGINT, signal.SIGINT], "os.getpid()", 130),
        ([signal.SIGINT, signal.SIGINT], "pid", 0),  # a loader's
    ],
)
def test_what_counts_as_a_second_one(sent, whom, code):
    script = CHILD.format(sent=[int(number) for number in sent], whom=whom)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    if code == 0:
        assert done.stdout.strip() == str(sorted({int(number) for number in sent} if whom != "pid" else set()))
