"""How the processes of a run find each other, and what is said while they do not."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

# The first rank may make a data set while the others wait.
START_TIMEOUT = timedelta(minutes=30)
SAY_AFTER = timedelta(seconds=60)
_LEAST_POLL_SECONDS, _MOST_POLL_SECONDS = 0.005, 0.2

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

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}"


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


def meet(here: Place) -> dist.Store:
    """The store of the processes' group, once all of them have come.

    Who waits says so every :data:`SAY_AFTER`: most often variables of an earlier launcher are left.

    Raises:
        ValueError: the address is not found, the port is taken, or not all have come after :data:`START_TIMEOUT`.
    """
    if here.world_size == 1:
        return dist.HashStore()  # no port that could be taken, no network
    _resolve(here)
    begun = time.monotonic()
    store = _open_store(here, begun)
    here_now = dist.PrefixStore(f"stoa/attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    if here_now.add("arrived", 1) == here.world_size:
        here_now.set("all", "1")
    pause, said = _LEAST_POLL_SECONDS, 0
    while not here_now.check(["all"]):
        time.sleep(pause)
        pause = min(2 * pause, _MOST_POLL_SECONDS)
        waited = time.monotonic() - begun
        if waited >= (said + 1) * SAY_AFTER.total_seconds():
            said += 1
            line = f"for {here_now.add('arrived', 0)} of {here.world_size} processes at {here.where}"
            _say_or_end(line, here, waited, says=here.rank == 0)
    return store


def _open_store(here: Place, begun: float) -> dist.Store:
    serves = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        _wait_for_server(here, begun)
    try:
        return dist.TCPStore(
            here.address,
            here.port,
            here.world_size,
            serves,
            timeout=START_TIMEOUT,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            free = _free_port()
            raise ValueError(
                f"port {here.port} is taken by another program, perhaps another run (MASTER_PORT); give a free one: "
                f"deepspeed --master_port {free} ..., or MASTER_PORT={free} in the environment"
            ) from None
        raise ValueError(
            f"{here.where} (MASTER_ADDR, MASTER_PORT) cannot be used: {str(error).strip().splitlines()[0]}"
        ) from None


def _wait_for_server(here: Place, begun: float) -> None:
    """Until rank 0 listens. A store that tries itself writes a stack a minute."""
    said = 0
    while True:
        try:
            socket.create_connection((here.address, here.port), timeout=5).close()
            return
        except OSError:
            time.sleep(_MOST_POLL_SECONDS)
        waited = time.monotonic() - begun
        if waited >= (said + 1) * SAY_AFTER.total_seconds():
            said += 1
            _say_or_end(f"for rank 0 at {here.where}", here, waited, says=True)


def _say_or_end(what: str, here: Place, waited: float, *, says: bool) -> None:
    line = (
        f"waited {waited:.0f} s {what} (WORLD_SIZE is {here.world_size}): start the others, or unset WORLD_SIZE, RANK "
        "and LOCAL_RANK for a single process"
    )
    if waited >= START_TIMEOUT.total_seconds():
        raise ValueError(line)
    if says:
        print(line, file=sys.stderr, flush=True)


def _resolve(here: Place) -> None:
    """Names of machines that start together may come up later than those who look for them."""
    begun = time.monotonic()
    while True:
        try:
            socket.getaddrinfo(here.address, here.port, type=socket.SOCK_STREAM)
            return
        except OSError as error:
            if here.rank == 0 or time.monotonic() - begun >= SAY_AFTER.total_seconds():
                raise ValueError(
                    f"MASTER_ADDR is {here.address!r}, which is not found ({error.strerror}); name the machine of rank "
                    "0, or unset it for a single process on this one"
                ) from None
            time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
