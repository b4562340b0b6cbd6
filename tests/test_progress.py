"""One style of progress: a bar on a terminal, plain lines elsewhere, none where nobody asked for it."""

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa import progress
from stoa.progress import Progress, shown

LINE = re.compile(r"(\w+): ([\d,]+) of ([\d,]+) clips, ([\d,.e+-]+) a second, (.+ left|took .+)")
WORK = """
import sys, time
from stoa.progress import Progress, shown
with shown(), Progress(3, "synth", "clips") as bar:
    for _ in range(3):
        time.sleep(float(sys.argv[1]))
        bar.update(note="1 bad")
print("result")
"""


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def lines(clock, steps, *, skip=0):
    """What is said of steps, each of (seconds, count), with their true ends."""
    total, at = skip + sum(count for _, count in steps), clock.now
    with pytest.MonkeyPatch.context() as patch, shown():
        patch.setattr(sys, "stderr", io.StringIO())
        with Progress(total, "synth", "clips") as bar:
            bar.skip(skip)
            for seconds, count in steps:
                clock.now += seconds
                bar.update(count)
        return sys.stderr.getvalue(), total, clock.now - at


def test_the_line(clock):
    said, *_ = lines(clock, [(4, 1200), (1, 350), (114, 35_340), (6, 1860)], skip=1250)
    assert said.splitlines() == [
        "synth: 2,800 of 40,000 clips, 310 a second, 2 min left",
        "synth: 38,140 of 40,000 clips, 310 a second, 6 s left",
        "synth: 40,000 of 40,000 clips, 310 a second, 0 s left",
        "synth: 40,000 of 40,000 clips, 310 a second, took 2 min",
    ]


@given(st.lists(st.tuples(st.floats(0, 4000), st.integers(1, 10**6)), min_size=1, max_size=30), st.integers(0, 10**6))
def test_generated_work(steps, skip):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "monotonic", clock)
        said, total, seconds = lines(clock, steps, skip=skip)
    assert "\r" not in said
    assert said.count("\n") <= seconds / progress._SECONDS_BETWEEN_LINES + 1
    if seconds < progress._SECONDS_BETWEEN_LINES:
        assert said == ""
    for line in said.splitlines():
        name, done, whole, rate, _ = LINE.fullmatch(line).groups()
        assert name == "synth" and int(whole.replace(",", "")) == total
        assert skip <= int(done.replace(",", "")) <= total
    if said:
        assert float(rate.replace(",", "")) == pytest.approx((total - skip) / seconds, rel=0.06)


@pytest.mark.parametrize(
    "seconds, said",
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3540, "59 min"), (3599, "1 h 00 min"), (11_220, "3 h 07 min")]
    + [(84_700, "23 h 32 min"), (86_399, "1 d 00 h"), (190_000, "2 d 05 h")],
)
def test_durations(seconds, said):
    assert progress._time(seconds) == said


@pytest.mark.parametrize(
    "asked, show, rank, heard",
    [(True, None, "0", True), (True, None, "1", False), (True, False, "0", False), (False, None, "0", False)]
    + [(False, True, "0", True), (False, True, "3", False)],
)
def test_who_shows_it(clock, capsys, monkeypatch, asked, show, rank, heard):
    monkeypatch.setenv("RANK", rank)
    with shown() if asked else nullcontext(), Progress(2, "work", "things", show=show) as bar:
        clock.now += 10
        bar.update(2)
    assert bool(capsys.readouterr().err) == heard


def test_worker_processes_are_quiet(clock, capsys, monkeypatch):
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    with shown(), Progress(2, "work", "things") as bar:
        clock.now += 10
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_work_that_fails_has_no_last_line(clock, capsys):
    with pytest.raises(RuntimeError), shown(), Progress(2, "work", "things") as bar:
        clock.now += 10
        bar.update(1)
        raise RuntimeError
    assert capsys.readouterr().err == "work: 1 of 2 things, 0.1 a second, 10 s left\n"


def run_on_a_terminal(seconds):
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", WORK, seconds], stdout=subprocess.PIPE, stderr=follower, check=True
        )
    finally:
        os.close(follower)
    shown = b""
    while True:
        try:
            some = os.read(leader, 65_536)
        except OSError:  # the other end is closed, and all is read
            break
        if not some:
            break
        shown += some
    os.close(leader)
    assert done.stdout == b"result\n"
    return shown.decode()


def test_a_terminal_has_a_bar():
    shown = [part.strip() for part in run_on_a_terminal("0.6").split("\r") if part.strip()]
    assert re.fullmatch(r"67%\|█+.? +\| synth: 2 of 3 clips, 1 bad, 1.\d a second, 1 s left", shown[0]), shown
    assert re.fullmatch(r"100%\|█{20}\| synth: 3 of 3 clips, 1 bad, 1.\d a second, took [2-9] s", shown[-1]), shown


def test_short_work_shows_nothing_on_a_terminal():
    assert run_on_a_terminal("0.01") == ""


def test_a_pipe_has_results_alone():
    done = subprocess.run([sys.executable, "-c", WORK, "0.01"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"result\n", b"")
