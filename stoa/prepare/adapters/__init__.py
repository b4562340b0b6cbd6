"""Published annotation files, read into clips and questions."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from stoa.prepare.adapters import msrvtt
from stoa.prepare.adapters.base import Adapter, Annotations, Found, resolve
from stoa.prepare.adapters.didemo import didemo
from stoa.prepare.adapters.lsmdc import lsmdc
from stoa.prepare.adapters.msvd import msvd
from stoa.prepare.adapters.own import own
from stoa.prepare.adapters.qa import msrvtt_mc, msrvtt_qa, msvd_qa
from stoa.prepare.adapters.videos import VideoFolder
from stoa.prepare.adapters.webvid import webvid

__all__ = ["ADAPTERS", "Adapter", "Annotations", "Found", "VideoFolder", "open_annotations", "resolve"]

ADAPTERS: dict[str, Adapter] = {
    "webvid": webvid,
    "msrvtt": msrvtt.full,
    "msrvtt-1k-a": msrvtt.one_k_a,
    "msrvtt-7k": msrvtt.seven_k,
    "msvd": msvd,
    "lsmdc": lsmdc,
    "didemo": didemo,
    "msrvtt-qa": msrvtt_qa,
    "msvd-qa": msvd_qa,
    "msrvtt-mc": msrvtt_mc,
    "manifest": own,
}


def open_annotations(dataset: str, folder_or_file: str | os.PathLike[str]) -> Annotations:
    """Find the published files of a data set; they are read when the rows are gone over.

    Args:
        dataset: a key of :data:`ADAPTERS`.
        folder_or_file: the folder that holds the files, zipped or not, or the file where it is one.

    Raises:
        ValueError: the data set is unknown, or a file is missing; the message names it.
    """
    if dataset not in ADAPTERS:
        near = difflib.get_close_matches(dataset, ADAPTERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"data set {dataset!r} is unknown{hint} (known: {', '.join(ADAPTERS)})")
    path = Path(folder_or_file)
    if not path.exists():
        what = "your .jsonl or .csv file" if dataset == "manifest" else "the folder that holds the published files"
        raise ValueError(f"{dataset}: {path} does not exist; pass {what}")
    return ADAPTERS[dataset](path)
