"""MSR-VTT: the JSON files of 2016, and the split 1k-A, whose lists go around with one JSON file that holds both.

A clip is a file of its own, cut already: the times in the JSON are those of the film it was cut from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stoa.data.published import COUNTS
from stoa.manifest import Caption, ClipRow
from stoa.prepare.adapters.base import Annotations, Clips
from stoa.prepare.adapters.files import (
    Source,
    as_list,
    as_object,
    chained,
    find_source,
    read_csv,
    read_json,
    require_source,
    split_sources,
    text_of,
)

_TRAIN_VAL, _TEST, _BOTH = "train_val_videodatainfo.json", "test_videodatainfo.json", "MSRVTT_data.json"
_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}


@dataclass(frozen=True)
class _Clip:
    where: str
    split: str
    captions: list[str]


def full(folder: Path) -> Annotations:
    """The split of 2016: 20 captions a clip."""
    names = {"train and val": (_TRAIN_VAL,), "test": (_TEST,)}
    if _both(folder, (_TRAIN_VAL, _TEST)) is not None:
        names = {"all": (_BOTH,)}
    sources, absent = split_sources(folder, names, "msrvtt")

    return Annotations(
        "msrvtt",
        lambda: chained(partial(_rows, source) for source in sources.values()),
        published=COUNTS["msrvtt"],
        absent=absent,
    )


def one_k_a(folder: Path) -> Annotations:
    """The split 1k-A: 9,000 clips to train with all their captions, 1,000 to test with one (Yu et al., ECCV 2018)."""
    return _jsfusion(folder, "msrvtt-1k-a", "MSRVTT_train.9k.csv", (_TRAIN_VAL, _TEST))


def seven_k(folder: Path) -> Annotations:
    """The test clips of 1k-A, and 7,010 to train: those of the split of 2016, and its validation clips."""
    return _jsfusion(folder, "msrvtt-7k", "MSRVTT_train.7k.csv", (_TRAIN_VAL,))


def _jsfusion(folder: Path, dataset: str, train_list: str, jsons: tuple[str, ...]) -> Annotations:
    listed = require_source(folder, train_list, dataset)
    tested = require_source(folder, "MSRVTT_JSFUSION_test.csv", dataset)
    both = _both(folder, jsons)
    described = [both] if both is not None else [require_source(folder, name, dataset) for name in jsons]

    def train_rows() -> Clips:
        clips = {id: clip for source in described for id, clip in _clips(source).items()}
        for where, cells in read_csv(listed, ("video_id",)):
            id = cells["video_id"]
            yield where, _row(id, clips[id].captions if id in clips else [], "train")

    def test_rows() -> Clips:
        for where, cells in read_csv(tested, ("video_id", "sentence")):
            yield where, _row(cells["video_id"], [cells["sentence"]], "test")

    return Annotations(dataset, lambda: chained((train_rows, test_rows)), published=COUNTS[dataset])


def _both(folder: Path, wanted: tuple[str, ...]) -> Source | None:
    """The file that holds what the wanted ones do, where one of these is not there."""
    return None if all(find_source(folder, name) for name in wanted) else find_source(folder, _BOTH)


def _rows(source: Source) -> Clips:
    for id, clip in _clips(source).items():
        yield clip.where, _row(id, clip.captions, clip.split)


def _row(id: str, captions: list[str], split: str) -> ClipRow:
    return ClipRow(id, id, tuple(map(Caption, captions)), split)


def _clips(source: Source) -> dict[str, _Clip]:
    """The clips of a file by id, in its order, each with its sentences in their order."""
    content = as_object(read_json(source), str(source))
    clips: dict[str, _Clip] = {}
    for where, video in _entries(content, "videos", source):
        id, split = text_of(video, "video_id", where), text_of(video, "split", where)
        if split not in _SPLITS:
            raise ValueError(f"{where}: split is {split!r}; expected one of {', '.join(_SPLITS)}")
        if id in clips:
            raise ValueError(f"{where}: id {id!r} already stands in {clips[id].where}; ids must be unique")
        clips[id] = _Clip(where, _SPLITS[split], [])
    for where, sentence in _entries(content, "sentences", source):
        id = text_of(sentence, "video_id", where)
        if id not in clips:
            raise ValueError(f"{where}: video_id is {id!r}, which is none of the videos; fetch the file again")
        clips[id].captions.append(text_of(sentence, "caption", where))
    return clips


def _entries(content: dict[str, object], key: str, source: Source) -> Iterator[tuple[str, dict[str, object]]]:
    for number, entry in enumerate(as_list(content.get(key), f"{source}, key {key!r}"), start=1):
        where = f"{source}, {key} entry {number}"
        yield where, as_object(entry, where)
