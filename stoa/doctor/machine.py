"""One machine: what is installed, and how much room there is."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import torch

from stoa.data.workers import cores_of_rank
from stoa.doctor.findings import Finding
from stoa.files import free_bytes, in_units
from stoa.ops import build_info
from stoa.prepare.pipelines import installed_pipeline
from stoa.tasks.metrics.captions import require_scorers
from stoa.training.state import versions

_GIB = 2**30
_LEAST_SHARED, _LEAST_DISK, _LEAST_FILES = 1 * _GIB, 10 * _GIB, 4096


def look(folder: Path, *, spacy: str | None, port: int | None) -> list[Finding]:
    """All findings of this machine.

    Args:
        folder: that a run would write to.
        spacy: pipeline that tags captions; none is not looked for.
        port: that the processes of a run would meet at; none where they have met.
    """
    found = [_versions(), *_gpus(), _operators(), *_decoders(), _cores(), _shared_memory(), _disk(folder), _files()]
    found += [] if port is None else [_port(port)]
    return [*found, *_tagging(spacy), _java()]


def _versions() -> Finding:
    return Finding("versions", "good", ", ".join(f"{name} {version}" for name, version in versions().items()))


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        said = "torch was built without CUDA" if built is None else "torch sees none"
        yield Finding("GPU", "missing", said, "training runs on the CPU, in fp32")
        return
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        kernels = f"sm_{card.major}{card.minor}"
        fits = any(_runs(arch, card.major, card.minor) for arch in torch.cuda.get_arch_list())
        yield Finding(
            f"GPU {number}",
            "good" if fits else "bad",
            f"{card.name}, {in_units(card.total_memory)}, {kernels}",
            "" if fits else f"torch {torch.__version__} has no kernels for it: constraints/ names one that has",
        )


def _runs(architecture: str, major: int, minor: int) -> bool:
    """Whether a GPU runs kernels that were compiled for ``sm_..``, or can compile those of ``compute_..``."""
    kind, _, number = architecture.partition("_")
    theirs = int("".join(filter(str.isdigit, number)))
    if kind == "compute":
        return theirs <= 10 * major + minor
    return theirs // 10 == major and theirs % 10 <= minor


def _operators() -> Finding:
    info = build_info()
    if not info["compiled"]:
        return Finding("operators", "bad", "not compiled: the references run", "install again with a C++ compiler")
    architectures = info["cuda_architectures"] if info["cuda_toolkit"] else []
    said = f"{len(info['operators'])} compiled for CPU" + (f" and {architectures}" if architectures else "")
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if not any(f"{major}{minor}" in str(one).replace(".", "") for one in architectures):
            return Finding(
                "operators", "bad", said, f"not for this GPU, sm_{major}{minor}; install again on this machine"
            )
    return Finding("operators", "good", said)


def _decoders() -> Iterator[Finding]:
    for module, what, extra in (
        ("decord", "decodes videos on the CPU", ""),
        ("av", "decodes what decord does not, and writes", ""),
        ("nvidia.dali", "decodes on the GPU", "pip install '.[dali-cu13]'"),
    ):
        try:
            importlib.import_module(module)
        except Exception as error:
            said = "not installed" if isinstance(error, ModuleNotFoundError) else f"does not load: {error}"
            remedy = extra or "install again"
            yield Finding(module, "missing" if extra else "bad", " ".join(said.split()), remedy)
        else:
            yield Finding(module, "good", what)


def _cores() -> Finding:
    cores = cores_of_rank(os.environ)
    enough = cores >= 4 or not torch.cuda.is_available()
    remedy = (
        ""
        if enough
        else "an H200 wants 8 loader processes, a core each (stoa plan): ask for more, as by --cpus-per-task"
    )
    return Finding("cores", "good" if enough else "bad", f"{cores} for a process of this machine", remedy)


def _shared_memory() -> Finding:
    size = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    good = size >= _LEAST_SHARED
    remedy = "" if good else "loaders need it: docker --shm-size 16g, or data.num_workers 0"
    return Finding("/dev/shm", "good" if good else "bad", f"{in_units(size)} free", remedy)


def _disk(folder: Path) -> Finding:
    free = free_bytes(folder)
    good = free >= _LEAST_DISK
    remedy = "" if good else "three checkpoints of ViT-B/16 in half precision take 9 GiB"
    return Finding("disk", "good" if good else "bad", f"{in_units(free)} free for {folder}", remedy)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft >= _LEAST_FILES or soft == resource.RLIM_INFINITY
    return Finding("open files", "good" if good else "bad", f"{soft} of {hard}", "" if good else f"ulimit -n {hard}")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return Finding("port", "bad", f"{port}: {error.strerror}", "choose another: MASTER_PORT")
    return Finding("port", "good", f"{port} is free")


def _tagging(pipeline: str | None) -> Iterator[Finding]:
    if pipeline is None:
        return
    there = installed_pipeline(pipeline)
    how = f"pip install '.[tag]' or python -m spacy download {pipeline}"
    remedy = "" if there else f"stoa prepare tags with it: {how}, or --spacy null"
    yield Finding("spaCy", "good" if there else "missing", there or f"{pipeline} is not installed", remedy)


def _java() -> Finding:
    try:
        require_scorers()
    except ValueError as error:
        return Finding("Java", "missing", str(error))
    return Finding("Java", "good", "scores captions")
