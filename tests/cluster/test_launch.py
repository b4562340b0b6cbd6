"""What cluster/ runs on a node, run on this machine with two processes on gloo."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.timeout(180)]

ENTRY = """
import os, sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
ranks = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(ranks)
line = f"rank {dist.get_rank()} of {dist.get_world_size()} sum {ranks.item()} arguments {sys.argv[-2:]}"
with open(os.path.join(os.environ["RESULTS"], f"rank{dist.get_rank()}"), "w") as file:
    file.write(line)
dist.destroy_process_group()
"""
EXPECTED = [f"rank {rank} of 2 sum 3 arguments ['--run', 'a b.yaml']" for rank in (0, 1)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    entry = tmp_path / "entry.py"
    entry.write_text(ENTRY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "NODE_", "NNODES"))}
    return clean | {"STOA_ENTRY": str(entry), "RESULTS": str(tmp_path), "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}


def start(script: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(script), *arguments, "--run", "a b.yaml"],  # which torchrun must not take for its --run-path
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 0, output


def stand_ins(folder: Path, commands: dict[str, str]) -> str:
    """PATH with these shell commands first."""
    for name, body in commands.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


def results(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("rank*"))]


def test_one_node(repo_root: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    finish(start(repo_root / "cluster" / "node.sh", environment | {"NPROC_PER_NODE": "2"}))
    assert results(tmp_path) == EXPECTED


@pytest.mark.slow
def test_two_nodes(repo_root: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    script = repo_root / "cluster" / "node.sh"
    shared = environment | {"NNODES": "2", "NPROC_PER_NODE": "1", "MASTER_ADDR": "127.0.0.1"}
    # Under Slurm the node is known by SLURM_NODEID alone.
    finish(start(script, shared | {"NODE_RANK": "0"}), start(script, shared | {"SLURM_NODEID": "1"}))
    assert results(tmp_path) == EXPECTED


def test_several_nodes_need_an_address(repo_root: Path, environment: dict[str, str]) -> None:
    process = start(repo_root / "cluster" / "node.sh", environment | {"NNODES": "2"})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "MASTER_ADDR is not set" in output


@pytest.mark.slow
def test_slurm_runs_the_node_script_once_a_node(repo_root: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """The batch script with stand-ins for Slurm's two commands; srun starts one task with the job's environment."""
    srun = 'while [[ "$1" == --* ]]; do shift; done; exec "$@"'
    slurm = {
        "PATH": stand_ins(tmp_path, {"scontrol": "echo 127.0.0.1; echo node02", "srun": srun}),
        "SLURM_SUBMIT_DIR": str(repo_root),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node[01-02]",
        "SLURM_JOB_ID": "7",
        "SLURM_NODEID": "0",
        "SLURM_GPUS_ON_NODE": "2",
    }
    finish(start(repo_root / "cluster" / "slurm.sbatch", environment | slurm))
    assert results(tmp_path) == EXPECTED


@pytest.mark.slow
def test_hostfile(repo_root: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("localhost slots=2\n")
    # DeepSpeed asks the first host for its address over ssh and then, for a single node, starts the processes itself.
    path = stand_ins(tmp_path, {"ssh": "echo 127.0.0.1"})
    finish(start(repo_root / "cluster" / "hostfile_launch.sh", environment | {"PATH": path}, str(hostfile)))
    assert results(tmp_path) == EXPECTED


def test_the_example_hostfile_is_read_by_deepspeed(repo_root: Path) -> None:
    from deepspeed.launcher.runner import fetch_hostfile

    assert fetch_hostfile(str(repo_root / "cluster" / "hostfile.example")) == {"node01": 8, "node02": 8}


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (
            "node01 slots=1\nnode02 slots=1\n",
            "ssh does not reach node02 without a password (ssh: no such name)",
        ),
        ("node01 slots=1\nnode03 slots=1\nnode01 slots=1\n", "names node01 twice; give it one line with all its slots"),
        ("# nobody\n", "names no node; expected lines as node01 slots=8"),
    ],
)
def test_a_hostfile_that_cannot_be_is_one_line(repo_root, tmp_path, environment, hosts, message) -> None:
    """Before DeepSpeed waits for a node, or ends in a traceback."""
    hostfile = tmp_path / "hostfile"
    hostfile.write_text(hosts)
    ssh = 'if [[ "$*" == *node02* ]]; then echo "ssh: no such name" >&2; exit 255; fi'
    path = stand_ins(tmp_path, {"ssh": ssh, "pdsh": "exit 3", "deepspeed": "exit 4"})
    process = start(repo_root / "cluster" / "hostfile_launch.sh", environment | {"PATH": path}, str(hostfile))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and len(output.splitlines()) == 1
    assert output.startswith("cluster/hostfile_launch.sh: ") and message in output
