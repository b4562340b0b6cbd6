"""Two nodes that reach each other by ssh: network namespaces of this machine, each with a server of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("ip", "ssh", "ssh-keygen", "sshd", "pdsh")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
HOW = "apt-get install -y openssh-server openssh-client pdsh iproute2"

_SERVER = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/sshd-{node}.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
MaxStartups 100
"""
_CLIENT = """
IdentityFile {folder}/user_key
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking accept-new
LogLevel ERROR
"""


class SshNodes:
    """Up from entering it to leaving it; ``folder`` is for all that it writes.

    Attributes:
        addresses: of both nodes. A host of the same network, 10.77.x.9, does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [f"stoa-{os.getpid()}-{number}" for number in (1, 2)]
        net = f"10.77.{os.getpid() % 256}"
        self.addresses = [f"{net}.1", f"{net}.2"]
        self.nobody = f"{net}.9"

    def __enter__(self) -> SshNodes:
        Path("/run/sshd").mkdir(exist_ok=True)  # of the server's own, where it is not installed as a service
        for key in ("host_key", "user_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        (self.folder / "client").write_text(_CLIENT.format(folder=self.folder))
        # ssh looks for its settings where the password file says, not in HOME.
        (self.folder / "bin").mkdir()
        ssh = self.folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh", path=_PATH)} -F {self.folder}/client "$@"\n')
        ssh.chmod(0o755)
        for name in self.names:
            _run("ip", "netns", "add", name)
        first, second = self.names
        _run(*("ip", "link", "add", "eth0", "netns", first, "type", "veth"), *("peer", "eth0", "netns", second))
        for name, address in zip(self.names, self.addresses, strict=True):
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")
            self.start(name, address)
        return self

    def __exit__(self, *error: object) -> None:
        for name in self.names:
            for process in self.processes(name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _run("ip", "netns", "del", name)

    def start(self, name: str, address: str) -> None:
        settings = self.folder / f"sshd-{name}"
        settings.write_text(_SERVER.format(folder=self.folder, node=name, address=address))
        server = shutil.which("sshd", path=_PATH)
        _run("ip", "netns", "exec", name, str(server), "-f", str(settings), "-E", f"{settings}.log")

    def command(self, *command: str) -> list[str]:
        """That runs ``command`` on the first node."""
        return [str(shutil.which("ip", path=_PATH)), "netns", "exec", self.names[0], *command]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder / 'bin'}:{_PATH}", "GLOO_SOCKET_IFNAME": "eth0"}

    def processes(self, name: str) -> list[psutil.Process]:
        found = []
        for pid in _run("ip", "netns", "pids", name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def trainings(self) -> list[psutil.Process]:
        """Of either node: all but the servers, and those of their connections that nothing runs in."""
        found = [process for name in self.names for process in self.processes(name)]
        return [process for process in found if "sshd" not in _name(process)]

    def nobody_is_left(self, seconds: float = 60) -> None:
        limit = time.monotonic() + seconds
        while left := self.trainings():
            assert time.monotonic() < limit, [process.cmdline() for process in left]
            time.sleep(0.3)


def _name(process: psutil.Process) -> str:
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else "sshd"
    except psutil.NoSuchProcess:
        return "sshd"


def _run(*command: str) -> str:
    done = subprocess.run(command, env=os.environ | {"PATH": _PATH}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
