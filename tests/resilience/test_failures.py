"""Whatever ends one process of a run ends all of them, soon, and is told in one line."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from families import Family
from launch import ROOT, finish, free_port

from stoa.cli._errors import end_with
from stoa.endings import Status
from stoa.files import storage_error
from stoa.training import processes
from stoa.training.processes import Place, difference, meet

WORKER = str(Path(__file__).parent / "faulty_rank.py")
MOST_SECONDS = 60
ENDLESS = ("--training.max_steps", "100000", "--training.save_every", "100000", "--data.num_workers", "1")

# What a rank does, the status that it ends with, and what is told of it.
ENDS = {
    "refuse": (2, "train.py: rank 1: error: planted: the data is not what it should be"),
    "fail": (1, "train.py: rank 1: error: RuntimeError: planted: CUDA error: an illegal memory access was encountered"),
    "leave": (7, None),
    "die": (-signal.SIGKILL, None),
}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("kind", ENDS)
def test_a_rank_that_ends_ends_all(start, tmp_path, monkeypatch, launchers, launcher, kind):
    monkeypatch.setenv("FAULT", f"{kind} 40 1")
    program = start(tmp_path / "run", *ENDLESS, processes=2, launcher=launchers(launcher, WORKER))
    family = Family(program, step=2)
    assert len(family.of("faulty_rank")) >= 2
    program.wait()
    assert family.seconds < MOST_SECONDS and family.is_gone()
    _, err = program.output
    status, line = ENDS[kind]
    said = [text for text in err.splitlines() if re.match(r"(train\.py|cluster/node\.sh): ", text)]
    if line is not None:
        assert said[0] == line and err.count("Traceback") == (kind == "fail")
    if launcher == "torchrun":
        assert program.code == (status if status >= 0 else 128 - status)
        last = err.rstrip().splitlines()[-1]
        assert last.startswith("cluster/node.sh: rank 1 ") and (line is None or last.endswith(line))
        assert "torch/distributed/elastic" not in err
    else:
        assert program.code != 0


@pytest.mark.slow
@pytest.mark.dist
def test_who_has_lost_another_leaves_it_the_word(start, tmp_path, monkeypatch):
    """To be ended by the launcher, in silence."""
    monkeypatch.setenv("FAULT", "refuse 40 1")
    port = free_port()
    first, second = [
        start(tmp_path / "run", *ENDLESS, processes=2, ranks=(rank, port), program=(WORKER,)) for rank in (0, 1)
    ]
    family = Family(first, second, step=2)
    _, err = finish(second, code=Status.BAD_INPUT)
    assert err.rstrip().splitlines()[-1] == ENDS["refuse"][1]
    _, err = finish(first, code=Status.LOST)
    assert err.rstrip().splitlines()[-1].startswith("train.py: rank 0: error: another process of the run has gone, see")
    assert "Traceback" not in err
    assert family.seconds < MOST_SECONDS and family.is_gone()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("launcher", "victim"),
    [("torchrun", "cluster/torchrun.py"), ("deepspeed", "bin/deepspeed"), ("deepspeed", "deepspeed.launcher.launch")],
)
def test_a_killed_launcher_takes_all_with_it(start, tmp_path, monkeypatch, launchers, launcher, victim):
    monkeypatch.setenv("FAULT", "sleep 1000000 0")
    program = start(tmp_path / "run", *ENDLESS, processes=2, launcher=launchers(launcher, WORKER))
    family = Family(program, step=2)
    (killed,) = family.of(victim)
    killed.kill()
    assert family.is_gone(20)


LAUNCHER = """
import subprocess, sys
subprocess.Popen(sys.argv[1:]).wait()
"""
RANK = """
import time
from stoa.parents import die_with_launcher
die_with_launcher()
print("here", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("names", "victim"),
    [
        (["torchrun"], 0),
        (["deepspeed", "-m deepspeed.launcher.launch"], 0),
        (["deepspeed", "-m deepspeed.launcher.launch"], 1),
        (["torchrun", "wrapper.py"], 0),
        (["wrapper.py", "other.py"], None),  # a shell that ends is no launcher
    ],
    ids=str,
)
def test_ranks_die_with_whatever_launched_them(tmp_path, names, victim):
    module = tmp_path / "deepspeed" / "launcher" / "launch.py"
    for path in (module, tmp_path / "torchrun", tmp_path / "wrapper.py", tmp_path / "other.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LAUNCHER)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "deepspeed").write_text(LAUNCHER)
    for folder in (tmp_path / "deepspeed", module.parent):
        (folder / "__init__.py").touch()
    command = [sys.executable, "-c", RANK]
    for name in reversed(names):
        where = [str(tmp_path / ("bin" if name == "deepspeed" else ".") / name)]
        command = [sys.executable, "-u", *(name.split() if name.startswith("-m") else where), *command]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    top = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert top.stdout.readline() == "here\n"
    line = [psutil.Process(top.pid), *psutil.Process(top.pid).children(recursive=True)]
    rank = line[len(names)]
    line[victim or 0].kill()
    if not victim:
        top.wait()
    gone, _ = psutil.wait_procs([rank], timeout=10 if victim is not None else 2)
    for process in line:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    top.wait()
    top.stdout.close()
    assert bool(gone) is (victim is not None)


LATE = """
import os, time
launcher = os.getpid()
if not os.fork():
    print(os.getpid(), flush=True)
    while os.getppid() == launcher:
        time.sleep(0.01)
    from stoa.parents import die_with_launcher
    die_with_launcher()
    time.sleep(1000)
"""


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RUN_ID", "CROSS_RANK", None])
def test_a_rank_whose_launcher_ended_before_it_looked(variable):
    """Of torchrun and of DeepSpeed's; what neither has started lives on."""
    if Path("/proc/1/cmdline").read_bytes().split(b"\0")[0].rpartition(b"/")[2].startswith(b"python"):
        pytest.skip("process 1 is of Python, as a launcher may be")
    given = {name: value for name, value in os.environ.items() if name not in ("TORCHELASTIC_RUN_ID", "CROSS_RANK")}
    environment = given | ({} if variable is None else {variable: "1"})
    command = [sys.executable, "-c", LATE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT) as launcher:
        rank = psutil.Process(int(launcher.stdout.readline()))
        launcher.wait()
    gone, _ = psutil.wait_procs([rank], timeout=10 if variable else 1)
    with contextlib.suppress(psutil.NoSuchProcess):
        rank.kill()
    assert bool(gone) is (variable is not None)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "address", "message"),
    [
        (
            0,
            "127.0.0.1",
            r"waited \d+ s for 1 of 2 nodes at \S+:{} \(NNODES is 2\): start cluster/node.sh on the others",
        ),
        (1, "127.0.0.1", r"waited \d+ s for node 0 at \S+:{} \(NNODES is 2\): start cluster/node.sh on the others"),
        (
            1,
            "nowhere.invalid",
            r"MASTER_ADDR is 'nowhere.invalid', which is not found \(Name or service not known\); na",
        ),
    ],
)
def test_a_node_that_never_joins(start, tmp_path, monkeypatch, rank, address, message):
    """What torchrun would wait for without a word and without this limit."""
    port, limit = free_port(), 4
    settings = {"NNODES": 2, "NODE_RANK": rank, "MASTER_ADDR": address, "STOA_START_MINUTES": limit / 60}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    program = start(tmp_path / "run", processes=2, port=port)
    begun = time.monotonic()
    _, err = finish(program, code=Status.BAD_INPUT)
    assert time.monotonic() - begun < limit + MOST_SECONDS
    assert re.match(f"cluster/node.sh: error: {message.format(port)}", err) and len(err.splitlines()) == 1


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_never_joins(start, tmp_path, monkeypatch):
    """As of a node that DeepSpeed's launcher did not start."""
    monkeypatch.setenv("STOA_START_MINUTES", "0.05")
    _, err = finish(start(tmp_path / "run", processes=2, ranks=(0, free_port())), code=Status.BAD_INPUT)
    assert re.search(
        r"^train\.py: rank 0: error: waited 3 s for 1 of 2 processes at \S+ \(WORLD_SIZE is 2\)", err, re.M
    )


@pytest.mark.dist
@pytest.mark.slow
def test_a_port_in_use(start, tmp_path, hold_port):
    program = start(tmp_path / "run", processes=2, port=hold_port)
    _, err = finish(program, code=Status.BAD_INPUT)
    assert f"cluster/node.sh: error: port {hold_port} is taken by another program" in err and len(err.splitlines()) == 1


@pytest.mark.dist
@pytest.mark.slow
def test_mixed_versions_are_refused_at_the_start(start, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "other_versions 0 1")
    port = free_port()
    said = r"deepspeed is 0\S+ on \S+ \(rank 0\) and 0\.1 on \S+ \(rank 1\); install the same everywhere"
    both = [start(tmp_path / "run", processes=2, ranks=(rank, port), program=(WORKER,)) for rank in (0, 1)]
    for rank, program in enumerate(both):
        _, err = finish(program, code=Status.BAD_INPUT)
        (line,) = [text for text in err.splitlines() if text.startswith(f"train.py: rank {rank}: error: ")]
        assert re.search(said, line)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_all_learn_which_of_them_differs(monkeypatch, odd):
    """Whoever comes last; what one has not at all differs too."""
    port, said = free_port(), {}

    def come(rank: int) -> None:
        own = {"torch": "2.10.0", "stoa": "1"} if rank != odd else {"torch": "2.10.0"}
        try:
            meet(Place(rank, rank, 3, "127.0.0.1", port), own)
        except ValueError as error:
            said[rank] = str(error)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    one, other = ("not installed", "1") if odd == 0 else ("1", "not installed")
    (line,) = set(said.values())
    assert len(said) == 3
    assert re.fullmatch(rf"stoa is {one} on \S+ \(rank 0\) and {other} on \S+ \(rank {odd or 1}\); install .*", line)


def test_what_is_alike_is_no_difference():
    assert difference([("a", {"torch": "2"}), ("b", {"torch": "2"})]) is None


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_limit_of_the_start_that_cannot_be(monkeypatch, text):
    monkeypatch.setenv(processes.START_MINUTES, text)
    with pytest.raises(ValueError, match=f"environment variable STOA_START_MINUTES is '{text}'; expected minutes"):
        processes.start_limit()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), 2),
        (OSError("no"), 2),
        (FloatingPointError("no"), 3),
        (storage_error(Path("x"), 28, "No space left on device"), 5),
        (OSError(28, "No space left on device"), 5),
        (storage_error(Path("x"), 30, "Read-only file system"), 2),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("no"), 1),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 2),  # comes up anywhere
        (RuntimeError("no"), 1),
    ],
)
def test_statuses(capsys, error, status):
    assert end_with("stoa", error) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_statuses_are_documented():
    said = (ROOT / "docs" / "reliability.md").read_text()
    assert all(re.search(rf"^\| {status.value} \| ", said, re.MULTILINE) for status in Status)
