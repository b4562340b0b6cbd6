"""Questions about MSR-VTT and MSVD. Clips have the ids that the adapters of their captions give them.

The type of an open question is the word it begins with: what, who, how, when or where.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stoa.data.published import COUNTS
from stoa.prepare.adapters.base import Annotations, Questions, clips_asked
from stoa.prepare.adapters.files import (
    Source,
    as_list,
    chained,
    read_csv,
    read_json_list,
    read_jsonl,
    read_names,
    require_source,
    split_sources,
    text_of,
    texts_of,
)
from stoa.prepare.adapters.videos import video_stem
from stoa.questions import QuestionRow

_NAMES = ("train", "val", "test")


def msrvtt_qa(folder: Path) -> Annotations:
    """MSRVTT-QA, per split in one of its published forms.

    ``<split>_qa.json`` is a list of ``answer``, ``id``, ``question`` and ``video_id``, a number; ``<split>.csv`` has
    ``video``, a number, ``question``, ``answer`` and ``qid`` (its ``type`` is the category of the video);
    ``<split>.jsonl`` has ``video_id``, a name, ``question``, ``answer`` and ``answer_type``, and no id.
    """
    forms = {split: (f"{split}_qa.json", f"{split}.csv", f"{split}.jsonl") for split in _NAMES}
    sources, absent = split_sources(folder, forms, "msrvtt-qa")
    readers = {".json": _msrvtt_json, ".csv": _msrvtt_csv, ".jsonl": _msrvtt_jsonl}
    parts = [partial(readers[Path(source.name).suffix], source, split) for split, source in sources.items()]
    return _annotations("msrvtt-qa", lambda: chained(parts), absent)


def msvd_qa(folder: Path) -> Annotations:
    """MSVD-QA: ``<split>_qa.json`` as above, and ``youtube_mapping.txt`` from the stem of a file to its ``vidN``."""
    mapping = require_source(folder, "youtube_mapping.txt", "msvd-qa")
    sources, absent = split_sources(folder, {split: (f"{split}_qa.json",) for split in _NAMES}, "msvd-qa")

    def rows() -> Questions:
        stems = _stems(mapping)
        for split, source in sources.items():
            for where, entry in read_json_list(source):
                name = f"vid{text_of(entry, 'video_id', where)}"
                if name not in stems:
                    raise ValueError(f"{where}: video {name} is not in {mapping}; use the files of one release")
                yield where, _open_question(entry, "id", stems[name], split, where)

    return _annotations("msvd-qa", rows, absent)


def msrvtt_mc(folder: Path) -> Annotations:
    """MSRVTT-MC, multiple choice: the caption of a clip among five. It has a test split only.

    ``msrvtt_mc_test.jsonl`` has ``qid``, ``clip_name``, ``options`` and ``answer``, the index of the right one, from 0
    (the form ClipBERT released); ``msrvtt_mc_test.json`` is a list of ``video``, ``caption``, the options, and
    ``answer`` (the form Singularity released).
    """
    sources, _ = split_sources(folder, {"test": ("msrvtt_mc_test.jsonl", "msrvtt_mc_test.json")}, "msrvtt-mc")
    source = sources["test"]

    def rows() -> Questions:
        if source.name.endswith(".jsonl"):
            for where, entry in read_jsonl(source):
                yield where, _choice(entry, text_of(entry, "qid", where), "clip_name", "options", where)
        else:
            for number, (where, entry) in enumerate(read_json_list(source)):
                yield where, _choice(entry, str(number), "video", "caption", where)

    return _annotations("msrvtt-mc", rows, ())


def _annotations(dataset: str, rows: Callable[[], Questions], absent: tuple[str, ...]) -> Annotations:
    return Annotations(dataset, clips_asked(rows), rows, COUNTS[dataset], absent=absent)


def _msrvtt_json(source: Source, split: str) -> Questions:
    for where, entry in read_json_list(source):
        yield where, _open_question(entry, "id", f"video{text_of(entry, 'video_id', where)}", split, where)


def _msrvtt_csv(source: Source, split: str) -> Questions:
    for where, cells in read_csv(source, ("video", "question", "answer", "qid")):
        yield where, _open_question(cells, "qid", f"video{cells['video']}", split, where)


def _msrvtt_jsonl(source: Source, split: str) -> Questions:
    for number, (where, entry) in enumerate(read_jsonl(source)):
        numbered = {**entry, "id": f"{split}-{number}"}
        yield where, _open_question(numbered, "id", text_of(entry, "video_id", where), split, where)


def _open_question(entry: dict[str, Any], id_key: str, clip: str, split: str, where: str) -> QuestionRow:
    question, answer = text_of(entry, "question", where).strip(), text_of(entry, "answer", where).strip()
    for key, value in (("question", question), ("answer", answer)):
        if not value:
            raise ValueError(f"{where}: key {key!r} is empty; every row needs a question and an answer")
    return QuestionRow(text_of(entry, id_key, where), clip, question, answer, question.split()[0].lower(), split=split)


def _choice(entry: dict[str, Any], id: str, clip_key: str, options_key: str, where: str) -> QuestionRow:
    options = texts_of(as_list(entry.get(options_key), f"{where}, key {options_key!r}"), where)
    answer = entry.get("answer")
    if type(answer) is not int or not 0 <= answer < len(options):
        raise ValueError(f"{where}: answer is {answer!r}; expected the index of one of the {len(options)} options")
    clip = video_stem(text_of(entry, clip_key, where))
    return QuestionRow(id, clip, "", options[answer], "multiple_choice", tuple(options), "test")


def _stems(mapping: Source) -> dict[str, str]:
    stems: dict[str, str] = {}
    for where, line in read_names(mapping):
        words = line.split()
        if len(words) != 2:
            raise ValueError(f"{where}: {line!r} is not a file stem and a vidN; fetch the file again")
        if words[1] in stems:
            raise ValueError(f"{where}: {words[1]} is mapped twice, to {stems[words[1]]!r} and to {words[0]!r}")
        stems[words[1]] = words[0]
    return stems
