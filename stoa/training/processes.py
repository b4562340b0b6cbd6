"""How the processes of a run find each other, and what is said while they do not."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, NamedTuple

import torch.distributed as dist

from stoa.endings import LostProcess

START_MINUTES = "STOA_START_MINUTES"
"""Environment variable: how long a start may take, see :func:`start_limit`."""

SAY_AFTER = timedelta(seconds=60)
COLLECTIVE_LIMIT = timedelta(days=1)
"""What hangs is ended by the watchdog of a run, which knows what is being done."""

_START_MINUTES = 30.0  # the first rank may make a data set while the others wait
_LEAST_POLL_SECONDS, _MOST_POLL_SECONDS = 0.005, 0.2
_LAUNCHER_SECONDS = 30.0  # in which one that listens answers
_TELL_SECONDS = 5.0

# What gloo, NCCL and torch's store say when the other side has gone.
_LOST = re.compile(
    r"gloo/transport|gloo/rendezvous|remote process exited|[Nn]etwork error|Connection (closed|reset)|Broken pipe"
    r"|communicator was aborted|failed to recv, got 0 bytes"
)
# Processes of the run on this machine: torchrun's name, DeepSpeed's, and OpenMPI's.
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
# Launchers that start processes without telling them of each other in torch's variables.
_STARTERS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun"}


class Place(NamedTuple):
    """Where this process stands among those of the run, and where they meet."""

    rank: int
    local_rank: int
    world_size: int
    address: str
    port: int
    local_world_size: int = 1
    kind: Literal["rank", "node"] = "rank"

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def kinds(self) -> str:
        return "processes" if self.kind == "rank" else "nodes"

    @property
    def advice(self) -> str:
        """For who waits."""
        if self.kind == "node":
            return "start cluster/node.sh on the others, with the same MASTER_ADDR and MASTER_PORT"
        return "start the others, or unset WORLD_SIZE, RANK and LOCAL_RANK for a single process"


def place(environment: Mapping[str, str]) -> Place:
    """What a launcher has set, or a single process where there is none.

    Raises:
        ValueError: several processes were started that do not know of each other, or a variable is wrong.
    """
    for name, starter in _STARTERS.items():
        tasks = environment.get(name, "1")
        if tasks != "1" and "WORLD_SIZE" not in environment:
            raise ValueError(
                f"{starter} started {tasks} processes ({name}) that do not know of each other (WORLD_SIZE is not set); "
                f"use cluster/slurm.sbatch, or {starter} one cluster/node.sh a node; for a single process unset {name}"
            )
    world_size = _whole(environment, "WORLD_SIZE", 1, least=1)
    rank, local_rank = (_whole(environment, name, 0, least=0) for name in ("RANK", "LOCAL_RANK"))
    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank)):
        if value >= world_size:
            of = f"WORLD_SIZE is {world_size}" if "WORLD_SIZE" in environment else "WORLD_SIZE is not set"
            raise ValueError(
                f"{name} is {value} and {of}; ranks count from 0 to WORLD_SIZE - 1: start a launcher, or unset both"
            )
    port = _whole(environment, "MASTER_PORT", 29500 if world_size > 1 else 0, least=0, most=65_535)
    told = next((name for name in _LOCAL_SIZES if environment.get(name)), "WORLD_SIZE")  # at most all are here
    local_world_size = min(_whole(environment, told, 1, least=1), world_size)
    address = environment.get("MASTER_ADDR") or "127.0.0.1"
    return Place(rank, local_rank, world_size, address, port, local_world_size)


def _whole(environment: Mapping[str, str], name: str, default: int, *, least: int, most: int | None = None) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    limits = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        raise ValueError(f"the environment variable {name} is {text!r}; expected {limits}, or unset it")
    return int(text)


def start_limit() -> timedelta:
    """How long processes wait for each other, and after that for the end of the first step: 30 minutes, or as many as
    :data:`START_MINUTES` says.

    Raises:
        ValueError: it says something else.
    """
    text = os.environ.get(START_MINUTES) or str(_START_MINUTES)
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise ValueError(f"the environment variable {START_MINUTES} is {text!r}; expected minutes, as 30 or 0.5")
    return timedelta(minutes=minutes)


def meet(here: Place, alike: Mapping[str, str] | None = None) -> dist.Store:
    """The store of the processes' group, once all of them have come.

    Who waits says so every :data:`SAY_AFTER`: most often variables of an earlier launcher are left.

    Args:
        here: this process.
        alike: what has to be the same everywhere, as versions by name.

    Raises:
        ValueError: the address is not found, the port is taken, not all have come after :func:`start_limit`, or they
            are not alike.
    """
    if here.world_size == 1:
        return dist.HashStore()  # no port that could be taken, no network
    limit = start_limit()
    wait = _Wait(here, limit)
    _resolve(here, wait)
    store = _open_store(here, wait)
    meeting = dist.PrefixStore(f"stoa/{here.kind}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    meeting.set(f"of {here.rank}", json.dumps([socket.gethostname(), dict(alike or {})]))
    if meeting.add("arrived", 1) == here.world_size:
        of_all = [tuple(json.loads(text)) for text in meeting.multi_get([f"of {n}" for n in range(here.world_size)])]
        meeting.set("all", difference(of_all, here.kind) or "")
    pause = _LEAST_POLL_SECONDS
    while not meeting.check(["all"]):
        time.sleep(pause)
        pause = min(2 * pause, _MOST_POLL_SECONDS)
        wait.look(f"for {meeting.add('arrived', 0)} of {here.world_size} {here.kinds} at {here.where}", here.rank == 0)
    differs = meeting.get("all").decode()
    if differs:
        told, begun = meeting.add("told", 1), time.monotonic()
        while here.rank == 0 and told < here.world_size and time.monotonic() - begun < _TELL_SECONDS:  # which serves
            time.sleep(_MOST_POLL_SECONDS)
            told = meeting.add("told", 0)
        raise ValueError(f"{differs}; install the same everywhere")
    return store


def difference(of_all: Sequence[tuple[str, Mapping[str, str]]], kind: str = "rank") -> str | None:
    """The first thing in which processes differ, in rank order each with its machine and what it has, or ``None``."""
    first_host, first = of_all[0]
    for number, (host, own) in enumerate(of_all):
        for name in sorted(first.keys() | own.keys()):
            theirs, ours = first.get(name, "not installed"), own.get(name, "not installed")
            if theirs != ours:
                return f"{name} is {theirs} on {first_host} ({kind} 0) and {ours} on {host} ({kind} {number})"
    return None


@contextmanager
def noticing_losses() -> Iterator[None]:
    """What a collective says when another process has gone is no error of this one's.

    Raises:
        LostProcess: in its place.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not _LOST.search(text):
            raise
        raise LostProcess(f"another process of the run has gone, see what it says ({text[:200]})") from None


class _Wait:
    """For others, with a limit."""

    def __init__(self, here: Place, limit: timedelta) -> None:
        self._here, self._limit = here, limit.total_seconds()
        self._begun, self._said = time.monotonic(), 0

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.monotonic() - self._begun

    def look(self, what: str, says: bool) -> None:
        """Say what is waited for, from time to time.

        Raises:
            ValueError: for too long.
        """
        waited, size = self.seconds, "NNODES" if self._here.kind == "node" else "WORLD_SIZE"
        line = f"waited {waited:.0f} s {what} ({size} is {self._here.world_size}): {self._here.advice}"
        if waited >= self._limit:
            raise ValueError(line)
        if says:
            self.say(line)

    def say(self, line: str) -> None:
        """Once every :data:`SAY_AFTER`."""
        if self.seconds >= (self._said + 1) * SAY_AFTER.total_seconds():
            self._said += 1
            print(line, file=sys.stderr, flush=True)


def _open_store(here: Place, wait: _Wait) -> dist.Store:
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and here.kind != "node"
    serves = here.rank == 0 and not of_launcher
    if not serves:
        _wait_for_server(here, wait, of_launcher=of_launcher)
    try:
        return dist.TCPStore(
            here.address,
            here.port,
            here.world_size,
            serves,
            timeout=start_limit(),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            raise ValueError(port_taken(here.port)) from None
        raise ValueError(
            f"{here.where} (MASTER_ADDR, MASTER_PORT) cannot be used: {str(error).strip().splitlines()[0]}"
        ) from None


def port_taken(port: int) -> str:
    """What is said of a port that the processes were to meet at."""
    free = _free_port()
    return (
        f"port {port} is taken by another program, perhaps another run (MASTER_PORT); give a free one: "
        f"deepspeed --master_port {free} ..., or MASTER_PORT={free} in the environment"
    )


def _wait_for_server(here: Place, wait: _Wait, *, of_launcher: bool) -> None:
    """Until rank 0 listens, or the launcher, which does so before it starts a process. A store that tries itself writes
    a stack a minute.

    Raises:
        LostProcess: the launcher does not.
    """
    while True:
        try:
            socket.create_connection((here.address, here.port), timeout=5).close()
            return
        except OSError:
            time.sleep(_MOST_POLL_SECONDS)
        if of_launcher and wait.seconds > _LAUNCHER_SECONDS:
            raise LostProcess(f"torchrun does not listen at {here.where}, where it did: it has ended")
        wait.look(f"for {here.kind} 0 at {here.where}", True)


def _resolve(here: Place, wait: _Wait) -> None:
    """Names of machines that start together may come up later than those who look for them."""
    if here.kind == "node":  # where it is looked for first
        patience = SAY_AFTER if here.rank == 0 else start_limit()
    else:
        patience = timedelta(0) if here.rank == 0 else SAY_AFTER
    while True:
        try:
            socket.getaddrinfo(here.address, here.port, type=socket.SOCK_STREAM)
            return
        except OSError as error:
            line = (
                f"MASTER_ADDR is {here.address!r}, which is not found ({error.strerror}); name the machine of "
                f"{here.kind} 0, or unset it for a single {'machine' if here.kind == 'node' else 'process on this one'}"
            )
            if wait.seconds >= min(patience, start_limit()).total_seconds():
                raise ValueError(line) from None
            wait.say(line)
            time.sleep(min(1.0, patience.total_seconds() / 10))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
