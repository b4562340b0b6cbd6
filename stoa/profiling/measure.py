"""Steps of a run, measured: where the time goes, what is issued, what memory holds."""

from __future__ import annotations

import gzip
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from stoa.costs.devices import peak_tflops
from stoa.costs.flops import total_flops
from stoa.costs.tracing import Tracer
from stoa.data.dataset import LoadedBatch
from stoa.files import replacing
from stoa.objectives.gather import rank, world_size
from stoa.parts import watching
from stoa.profiling.profile import UNEXPLAINED, Profile
from stoa.profiling.snapshot import memory_snapshot
from stoa.profiling.stopwatch import STEP, Stopwatch
from stoa.training import engine as ds
from stoa.training.trainer import Trainer

WARMUP_STEPS = 3
TRACED_STEPS = 2
TRACE, SNAPSHOT = "trace.json.gz", "out_of_memory.pickle"
_GIB = 2**30


def measure(trainer: Trainer, batches: Iterator[LoadedBatch], *, steps: int, folder: Path) -> Profile:
    """All ranks: measure steps of a trainer. They are real steps, of which nothing is kept.

    Args:
        trainer: that has not trained yet.
        batches: of its sampler.
        steps: to time; as many more are timed without the stopwatch, and six are for warming up, counting and tracing.
        folder: for the trace, of Perfetto or chrome://tracing, and for what memory held where it does not suffice.

    Raises:
        ValueError: the memory of the GPU does not suffice.
    """
    trainer.engine.train()
    with memory_snapshot(trainer.device, folder / SNAPSHOT):  # whose recording costs time
        for _ in range(WARMUP_STEPS):
            trainer.train_step(batches)
    bare, watched, parts = [], [], Counter[str]()
    for _ in range(steps):
        bare.append(_timed(trainer, batches))
        _wait(trainer.device)
        begun = time.perf_counter()
        stopwatch = Stopwatch(trainer.device)
        with watching(stopwatch):
            trainer.train_step(batches)
        parts.update(stopwatch.seconds())
        watched.append(time.perf_counter() - begun)
    reserved = _reserved(trainer.device)
    tracer = _count(trainer, batches)
    events = _trace(trainer, batches, folder / TRACE)
    seconds = statistics.median(bare)
    unexplained = parts.pop(STEP, 0.0)
    flops = trainer.flops()
    clips = trainer.accumulation * trainer.global_batch
    metrics = {
        "throughput/samples_per_second": clips / seconds,
        "time/step(s)": seconds,
        "time/data_loading(%)": 100 * parts["data wait"] / sum(watched),
        "tflops": total_flops(flops) / seconds / 1e12,
    }
    if (peak := peak_tflops(trainer.device_name, ds.precision(trainer.engine))) is not None:
        metrics["mfu(%)"] = 100 * metrics["tflops"] / peak
    return Profile(
        device=trainer.device_name,
        precision=ds.precision(trainer.engine),
        ranks=world_size(),
        clips=clips,
        steps=steps,
        step_seconds=seconds,
        overhead=statistics.median(w / b for w, b in zip(watched, bare, strict=True)) - 1,
        parts={name: value / steps for name, value in parts.most_common()} | {UNEXPLAINED: unexplained / steps},
        metrics=metrics | reserved,
        counts={"operations": tracer.operations, **events},
        memory_gib={kind: value / _GIB for kind, value in tracer.peak_by_kind.most_common() if value},
        flops={name: part.total for name, part in flops.items()},
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _reserved(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    most = {"reserved": torch.cuda.max_memory_reserved(), "active": torch.cuda.max_memory_allocated()}
    return {f"memory/max_{name}(GiB)": value / _GIB for name, value in most.items()}


def _timed(trainer: Trainer, batches: Iterator[LoadedBatch]) -> float:
    _wait(trainer.device)
    begun = time.perf_counter()
    trainer.train_step(batches)
    _wait(trainer.device)
    return time.perf_counter() - begun


def _count(trainer: Trainer, batches: Iterator[LoadedBatch]) -> Tracer:
    tracer = Tracer()
    with tracer:
        tracer.know("weights", trainer.objective.parameters())
        tracer.know("optimiser", ds.optimizer_tensors(trainer.engine))
        trainer.train_step(batches)
    return tracer


def _trace(trainer: Trainer, batches: Iterator[LoadedBatch], path: Path) -> dict[str, int]:
    """Write the trace; counts of a step on a GPU."""
    activities = [ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler, watching(_Ranges()):
        for _ in range(TRACED_STEPS):
            trainer.train_step(batches)
        _wait(trainer.device)
    if rank() == 0:
        with replacing(path) as whole, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            plain = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(plain))
            with plain.open("rb") as source, gzip.open(whole, "wb") as packed:
                shutil.copyfileobj(source, packed)
    if trainer.device.type != "cuda":
        return {}
    names: Counter[str] = Counter()
    for event in profiler.key_averages():
        names[event.key] += event.count
    launches = sum(count for name, count in names.items() if "LaunchKernel" in name)
    waits = sum(count for name, count in names.items() if name.startswith("cuda") and "Synchronize" in name)
    waits = max(0, waits - 1)  # the last is the measuring's
    return {"launches": launches // TRACED_STEPS, "waits": waits // TRACED_STEPS}


class _Ranges:
    """Parts as ranges of the trace."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def enter(self, part: str) -> None:
        self._open.append(torch.profiler.record_function(part))
        self._open[-1].__enter__()

    def leave(self) -> None:
        self._open.pop().__exit__(None, None, None)
