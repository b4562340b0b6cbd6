"""Runs of train.py and of the ``stoa`` command as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import fork_server
import psutil
import torch

ROOT = Path(__file__).parent.parent
WORKER = str(Path(__file__).parent / "resilience" / "faulty_worker.py")


class Program:
    """A program that runs beside the tests, in the root of the repository and in a session of its own.

    Args:
        command: what to run; ``forked``, a file of Python or ``-m`` and a module, with arguments.
        folder: for the files that its output goes to.
        forked: see :mod:`fork_server`. What Python reads when it starts is then of an earlier time.
        environment: added to that of the tests.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, forked: bool = True, **environment: str) -> None:
        (out, self._out), (err, self._err) = (tempfile.mkstemp(dir=folder, suffix=name) for name in (".out", ".err"))
        settings = {**os.environ, "MASTER_PORT": str(free_port()), **environment}
        if forked and torch.cuda.is_available():  # which a process that is forked from one that has asked cannot use
            command, forked = [sys.executable, *command], False
        self._process: fork_server.Forked | subprocess.Popen
        if forked:
            self._process = fork_server.Forked(
                fork_server.address(), command=command, environment=settings, out=self._out, err=self._err
            )
        else:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=err, env=settings, cwd=ROOT, start_new_session=True
            )
        os.close(out)
        os.close(err)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit status, once it has ended."""
        return self._process.poll()

    @property
    def output(self) -> tuple[str, str]:
        """What it has written until now, of either kind."""
        return Path(self._out).read_text(), Path(self._err).read_text()

    def lines(self) -> Iterator[str]:
        """Lines of its output as they come, until it ends."""
        with open(self._out) as file:
            line = ""
            while self.code is None:
                line += file.readline()
                if line.endswith("\n"):
                    yield line
                    line = ""
                else:
                    time.sleep(0.002)
            yield from (line + file.read()).splitlines(keepends=True)

    def wait(self, seconds: float = 200) -> None:
        """Until it ends; it is killed when the time is over."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"did not end in {seconds} s\n{self.output}")
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def children(self) -> list[psutil.Process]:
        """Processes that it has started, and those that these have."""
        return psutil.Process(self.pid).children(recursive=True)

    def kill(self) -> None:
        """SIGKILL it and what it has started: torchrun's processes are in sessions of their own."""
        if self.code is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile
                victims = [*self.children(), psutil.Process(self.pid)]
                for victim in victims:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        victim.kill()
            self.wait()


def start_training(
    data_set: Path,
    folder: Path,
    output: Path,
    *arguments: str,
    manifest: Path | None = None,
    processes: int = 1,
    bf16: bool = False,
    stage: int = 1,
    offload: bool = False,
    clipping: float = 1.0,
    batch: int = 8,
    program: tuple[str, ...] = ("train.py",),
    launcher: tuple[str, ...] = ("cluster/node.sh",),
    ranks: tuple[int, int] | None = None,
    port: int | None = None,
) -> Program:
    """Start train.py with a tiny model on global batches of ``batch``; further arguments override. DeepSpeed's JSON
    goes to ``folder``; of one process, what runs may be another ``program`` with the arguments of train.py after its
    own. Several processes are of a ``launcher``, unless ``ranks`` says which of them this is, and the port they meet
    at; a launcher may be given a ``port``.
    """
    ds_config = folder / f"ds{processes}-{stage}-{batch}{'-bf16' if bf16 else ''}.json"
    zero = {"stage": stage, **({"offload_optimizer": {"device": "cpu"}} if offload else {})}
    values = {
        "train_micro_batch_size_per_gpu": batch // processes,
        "gradient_clipping": clipping,
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
    }
    ds_config.write_text(json.dumps(values))
    command = [
        *(*(program if processes == 1 or ranks else launcher), "--deepspeed_config", str(ds_config)),
        *("--recipe", "tests/recipe.yaml"),
        *("--data.manifest", str(manifest or data_set / "manifest.jsonl")),
        *("--training.output_dir", str(output), "--model.backbone.name", "stoa-tiny"),
        *("--model.fusion.layers", "2", "--model.num_frames", "3", "--training.log_every", "1"),
        *("--training.max_steps", "10", "--training.save_every", "5", "--training.optim.warmup_steps", "2"),
        *("--training.tensorboard", "false", "--data.num_workers", "0", *arguments),
    ]
    environment = {"NPROC_PER_NODE": str(processes)} | ({} if port is None else {"MASTER_PORT": str(port)})
    if ranks is not None:
        rank, port = (str(number) for number in ranks)
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), "MASTER_PORT": port}
    return Program(command, folder, forked=processes == 1 or ranks is not None, **environment)


def checkpoints(run: Path) -> list[str]:
    """Names of those that a run has, oldest first."""
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(program: Program, *, code: int | None = 0) -> tuple[str, str]:
    """Output and errors of a run that must end with ``code``; None is any but 0."""
    program.wait()
    out, err = program.output
    assert program.code == code if code is not None else program.code != 0, (
        f"exit {program.code}\n{out[-2000:]}\n{err[-3000:]}"
    )
    return out, err
