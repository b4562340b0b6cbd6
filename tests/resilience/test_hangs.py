"""What hangs ends: each process by itself, within its limit, with the stacks of its threads and a status of its own."""

import re
from pathlib import Path

import pytest
from families import Family
from launch import finish, free_port

from stoa.endings import Status
from stoa.training.config import TrainingConfig

pytestmark = pytest.mark.dist
WORKER = str(Path(__file__).parent / "faulty_rank.py")
LIMIT = 8.0  # a step takes a second where all tests run at once
LIMITED = ("--training.hang_minutes", str(LIMIT / 60))
# Of a launcher, from the end of the first process to that of the last one.
LAUNCHER_SECONDS = 60


def hung(err: str, what: str, at: str, rank: int | None = None) -> Path:
    """The file with the stacks, of the one line that says so."""
    prefix = "" if rank is None else f"rank {rank}: "
    found = re.findall(
        rf"^train\.py: {prefix}error: hung: {what} has not ended within (\S+) s, at (\S+ \(\S+\)); "
        r"the stacks of all its threads are in (\S+)$",
        err,
        re.MULTILINE,
    )
    assert len(found) == 1, err
    assert at in found[0][1]
    return Path(found[0][2])


def test_a_step_that_never_ends(start, tmp_path, monkeypatch):
    """Its loader processes go with it."""
    monkeypatch.setenv("FAULT", "sleep 3 0")
    program = start(tmp_path / "run", *LIMITED, "--data.num_workers", "1", program=(WORKER,))
    family = Family(program, step=2)
    assert len(family.members) >= 3  # the loader, and what it decodes in
    _, err = finish(program, code=Status.HUNG)
    assert LIMIT - 1 < family.seconds < LIMIT + 30 and family.is_gone()
    stacks = hung(err, "step 3", "faulty_rank.py").read_text()
    assert stacks.count("\nThread ") >= 1 and "in sleep" in stacks and "in train_step" not in stacks.split("Thread")[0]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_loader_that_waits_for_ever(start, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "never_loads 3 0")
    program = start(tmp_path / "run", *LIMITED, "--data.num_workers", "1", program=(WORKER,))
    family = Family(program, step=2)
    _, err = finish(program, code=Status.HUNG)
    assert "in train_step" in hung(err, r"step \d+", "").read_text()  # some batches are there
    assert family.is_gone()


@pytest.mark.slow
def test_a_start_that_never_ends(start, tmp_path, monkeypatch):
    """It has a limit of its own: what is needed may be made, loaded or compiled first."""
    monkeypatch.setenv("FAULT", "sleep 1 0")
    monkeypatch.setenv("STOA_START_MINUTES", str(LIMIT / 60))
    _, err = finish(start(tmp_path / "run", program=(WORKER,)), code=Status.HUNG)
    hung(err, "the start", "faulty_rank.py")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [("never_saves", 3), ("sleep_with_the_interpreter", 2)])
def test_what_else_never_ends(start, tmp_path, monkeypatch, kind, step):
    monkeypatch.setenv("FAULT", f"{kind} {step} 0")
    program = start(tmp_path / "run", *LIMITED, "--training.save_every", "4", program=(WORKER,))
    family = Family(program, step=step - 1)
    if kind == "never_saves":  # which has three times as long
        _, err = finish(program, code=Status.HUNG)
        assert "in save" in hung(err, "the save after step 4", "faulty_rank.py").read_text()
        assert 3 * LIMIT - 1 < family.seconds < 3 * LIMIT + 30
    else:  # the system does it where no thread of Python can, by the limit of a step from the first one on
        _, err = finish(program, code=1)
        assert "Timeout" in err and "in sleep_with_the_interpreter" in err
        assert family.seconds < LIMIT + 30
    assert family.is_gone()


@pytest.mark.parametrize("kind", [pytest.param("sleep", marks=pytest.mark.slow), "stop"])
def test_the_others_end_by_themselves(start, tmp_path, monkeypatch, kind):
    """Whatever the one that hangs does: it may be stopped."""
    monkeypatch.setenv("FAULT", f"{kind} 3 1")
    port = free_port()
    first, second = [
        start(tmp_path / "run", *LIMITED, processes=2, ranks=(rank, port), program=(WORKER,)) for rank in (0, 1)
    ]
    family = Family(first, second, step=2)
    _, err = finish(first, code=Status.HUNG)
    assert family.seconds < LIMIT + 30
    assert "step 3" in hung(err, "step 3", "torch/distributed", rank=0).read_text()
    if kind == "sleep":
        _, err = finish(second, code=Status.HUNG)
        hung(err, "step 3", "faulty_rank.py", rank=1)
        assert family.is_gone()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("kind", ["sleep", "stop"])
def test_under_a_launcher(start, tmp_path, monkeypatch, launchers, launcher, kind):
    monkeypatch.setenv("FAULT", f"{kind} 3 1")
    program = start(tmp_path / "run", *LIMITED, processes=2, launcher=launchers(launcher, WORKER))
    family = Family(program, step=2)
    program.wait()
    assert family.seconds < LIMIT + LAUNCHER_SECONDS and family.is_gone()
    out, err = program.output
    if kind == "sleep":
        hung(err, "step 3", "faulty_rank.py", rank=1)
    if launcher == "torchrun":
        who = 1 if kind == "sleep" else 0
        assert f"cluster/node.sh: rank {who} ended with status 4 (hung), and with it all others: train.py: rank" in err
        assert program.code == Status.HUNG
    else:
        assert program.code != 0
    assert "Traceback" not in err


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_cannot_be(value):
    with pytest.raises(ValueError, match=r"training.hang_minutes is .*; expected more than 0"):
        TrainingConfig(hang_minutes=value)
