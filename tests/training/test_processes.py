"""How processes find each other, and what is said while they do not."""

import base64
import json
import re
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from launch import free_port

from stoa.endings import LostProcess, complain
from stoa.training import processes
from stoa.training.processes import Place, meet, place


def test_without_a_launcher_there_is_one_process():
    assert place({}) == Place(0, 0, 1, "127.0.0.1", 0)
    assert place({"RANK": "", "WORLD_SIZE": "", "MASTER_ADDR": ""}) == Place(0, 0, 1, "127.0.0.1", 0)


def test_what_a_launcher_says_is_taken():
    said = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "29501"}
    assert place(said) == Place(3, 1, 4, "node0", 29501, local_world_size=4)
    assert place({"WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"}).port == 29500


@pytest.mark.parametrize(
    ("environment", "processes_here"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, 2),
        ({"LOCAL_SIZE": "2"}, 2),  # DeepSpeed's launcher
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 2),
        ({"LOCAL_WORLD_SIZE": "", "LOCAL_SIZE": "1"}, 1),
        ({"LOCAL_WORLD_SIZE": "8"}, 4),  # of an earlier launcher
        ({}, 4),
    ],
)
def test_how_many_are_on_this_machine(environment, processes_here):
    assert place({"WORLD_SIZE": "4", **environment}).local_world_size == processes_here


@pytest.mark.dist
@pytest.mark.slow
def test_the_launchers_say_how_many_are_on_a_machine(tmp_path):
    """Under the names that are known here."""
    script = tmp_path / "say.py"
    script.write_text(
        "import os, sys\n"
        "from stoa.training.processes import place\n"
        "here = place(os.environ)\n"
        "open(os.path.join(sys.argv[-1], str(here.rank)), 'w').write(str(here.local_world_size))\n"
    )
    machines = base64.urlsafe_b64encode(json.dumps({"a": [0, 1], "b": [0, 1]}).encode()).decode()
    deepspeed = ["deepspeed.launcher.launch", f"--world_info={machines}", "--node_rank=1", "--master_addr=127.0.0.1"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, launcher, ranks in (("deepspeed", deepspeed, "23"), ("torchrun", torchrun, "01")):
        out = tmp_path / name
        out.mkdir()
        subprocess.run([sys.executable, "-m", *launcher, str(script), str(out)], check=True, capture_output=True)
        assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(ranks, "2")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"LOCAL_WORLD_SIZE": "x"},
            "variable LOCAL_WORLD_SIZE is 'x'; expected a whole number, 1 or more",
        ),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2; ranks count from 0 to WORLD_SIZE - 1"),
        ({"RANK": "1"}, "RANK is 1 and WORLD_SIZE is not set; .* or unset both"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is 1 and WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "two"}, "variable WORLD_SIZE is 'two'; expected a whole number, 1 or more, or unset it"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; expected a whole number, 1 or more"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE is '1.5'"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'; expected a whole number, 0 or more"),
        (
            {"MASTER_PORT": "70000", "WORLD_SIZE": "2"},
            "MASTER_PORT is '70000'; expected a whole number from 0 to 65535",
        ),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 processes .* unset SLURM_STEP_NUM_TASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes .* unset OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2"}, "mpirun started 2 processes"),
    ],
)
def test_variables_that_cannot_be_are_named(environment, message):
    with pytest.raises(ValueError, match=message) as caught:
        place(environment)
    assert "\n" not in str(caught.value)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(processes, "SAY_AFTER", timedelta(seconds=0.4))
    monkeypatch.setenv(processes.START_MINUTES, str(1 / 60))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


@pytest.mark.parametrize(
    ("rank", "what"), [(0, "for 1 of 2 processes at 127.0.0.1:{}"), (1, "for rank 0 at 127.0.0.1:{}")]
)
def test_who_waits_for_others_says_so_and_ends(impatient, capsys, rank, what):
    port = free_port()
    advice = "(WORLD_SIZE is 2): start the others, or unset WORLD_SIZE, RANK and LOCAL_RANK for a single process"
    with pytest.raises(ValueError) as caught:
        meet(Place(rank, rank, 2, "127.0.0.1", port))
    assert re.fullmatch(r"waited \d+ s " + re.escape(f"{what.format(port)} {advice}"), str(caught.value))
    assert capsys.readouterr().err.splitlines()[0].endswith(f" s {what.format(port)} {advice}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_launcher_that_no_longer_listens_is_not_waited_for(impatient, monkeypatch, rank):
    """Before it starts a process it listens."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv(processes.START_MINUTES, "10")
    monkeypatch.setattr(processes, "_LAUNCHER_SECONDS", 0.5)
    with pytest.raises(LostProcess, match="torchrun does not listen at 127.0.0.1:.*, where it did: it has ended"):
        meet(Place(rank, rank, 2, "127.0.0.1", free_port()))


def test_late_processes_are_waited_for(impatient, monkeypatch, capsys):
    monkeypatch.setenv(processes.START_MINUTES, "1")
    port, met = free_port(), []
    threads = [
        threading.Thread(target=lambda rank=rank: met.append(meet(Place(rank, rank, 3, "127.0.0.1", port))))
        for rank in (1, 0, 2)
    ]
    for thread in threads:  # the one that the others look for comes second, the last one when it has been said
        thread.start()
        time.sleep(0.6)
    for thread in threads:
        thread.join(60)
    assert len(met) == 3
    assert "for rank 0 at" in capsys.readouterr().err


def test_one_process_needs_no_port(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        store = meet(place({"MASTER_PORT": str(other.getsockname()[1])}))
    store.set("key", "value")
    assert store.get("key") == b"value"


def test_a_taken_port_names_the_option(impatient):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} is taken .* --master_port \d+ .*MASTER_PORT=\d+") as caught:
            meet(Place(0, 0, 2, "127.0.0.1", port))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_is_not_found_is_named(impatient, rank):
    with pytest.raises(ValueError, match=r"MASTER_ADDR is 'nowhere.invalid', which is not found \("):
        meet(Place(rank, rank, 2, "nowhere.invalid", free_port()))


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2", "RANK": "y"}, {}])
def test_complaints_come_out_whatever_the_variables(monkeypatch, capsys, variables):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    complain("stoa", "no")
    complain("stoa", "never", once=True)
    assert capsys.readouterr().err.count("stoa: ") == 2
