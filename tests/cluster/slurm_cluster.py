"""A Slurm cluster on this machine: a controller and two nodes, from the packages of the distribution."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
HOW = "apt-get install -y slurm-wlm munge"

_CONF = """
ClusterName=stoa
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
KillWait=15
SwitchType=switch/none
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Up from entering it to leaving it; ``folder`` is for all that it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> SlurmCluster:
        sockets = [socket.socket() for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        (self.folder / "state").mkdir(parents=True)
        conf = _CONF.format(
            folder=self.folder, host=socket.gethostname().split(".")[0], ports=ports, cpus=os.cpu_count()
        )
        (self.folder / "slurm.conf").write_text(conf)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = [f"--key-file={key}", f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munge.seed"]
        self._run(
            "munged", "--force", f"--socket={self.folder}/munge.socket", *munge, f"--log-file={self.folder}/munge.log"
        )
        self._run("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.start(node)
        self.wait_for(lambda: self.states().count("idle") == 2, "two idle nodes")
        return self

    def __exit__(self, *error: object) -> None:
        self.cancel("--user", "root")
        for node in ("n1", "n2"):
            self.kill_node(node)
        for path in self.folder.glob("*.pid"):
            _kill_tree(int(path.read_text()))

    def start(self, node: str) -> None:
        self._run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """All of its processes, as of a machine that loses its power."""
        pid = self.folder / f"slurmd-{node}.pid"
        if pid.exists():
            _kill_tree(int(pid.read_text()))
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURMD_NODENAME") != node:
                    continue
                above = [parent.pid for parent in process.parents() if parent.name() == "slurmstepd"]
            except psutil.Error:
                continue
            for pid in (*above, process.pid):
                _kill_tree(pid)

    def states(self) -> list[str]:
        return self._run("sinfo", "--noheader", "--Node", "--format", "%t").split()

    def submit(self, *arguments: str, **variables: str) -> str:
        """Number of the job."""
        return self._run("sbatch", "--parsable", *arguments, **variables).strip()

    def update(self, job: str, *values: str) -> None:
        self._run("scontrol", "update", f"JobId={job}", *values)

    def cancel(self, *arguments: str) -> None:
        self._run("scancel", *arguments, check=False)

    def state(self, job: str) -> str:
        return self._run("squeue", "--noheader", "--states", "all", "--jobs", job, "--format", "%T").strip()

    def wait_for(self, what, name: str, seconds: float = 120) -> None:
        limit = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < limit, f"no {name} in {seconds} s; {self.folder} has the logs"
            time.sleep(0.5)

    def _run(self, *command: str, check: bool = True, **variables: str) -> str:
        done = subprocess.run(command, env=self.environment | variables, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


def _kill_tree(pid: int) -> None:
    try:
        parent = psutil.Process(pid)
        doomed = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
