"""Of how much of a data set a number is: what was measured, beside what was published or listed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoa.data.clips import Clips, FileClips
from stoa.data.origin import Origin, origin_of_file
from stoa.data.published import COUNTS, SAME_TEST_SET, Count
from stoa.data.shards import ShardClips
from stoa.questions import QuestionRow


@dataclass(frozen=True)
class Coverage:
    """What a number is of.

    Attributes:
        split: whose clips were asked for.
        seen: of each kind (``clips``, ``captions``, ``questions``), how many were measured.
        whole: of each kind, how many there are in all.
        data_set: the published set that ``whole`` counts; None where it counts what the manifest lists.
        lacks: clips that the store lacks, of which split it does not say.
        ids_sha256: of the clips measured; see :func:`ids_sha256`.
    """

    split: str
    seen: Mapping[str, int]
    whole: Mapping[str, int]
    data_set: str | None = None
    lacks: int = 0
    ids_sha256: str = ""

    @property
    def partial(self) -> bool:
        """Whether something of the whole was not measured."""
        return self.lacks > 0 or any(self.seen[kind] < whole for kind, whole in self.whole.items())

    def __str__(self) -> str:
        """As ``13 of 1,000 published clips (1.3%), 13 of 1,000 published captions (1.3%)``."""
        published = "" if self.data_set is None else "published "
        parts = [
            f"{seen:,} of {self.whole[kind]:,} {published}{kind}{_share(seen, self.whole[kind])}"
            if kind in self.whole
            else f"{seen:,} {kind}"
            for kind, seen in self.seen.items()
        ]
        if self.lacks:
            parts.append(f"of a store without {self.lacks:,} of the clips that it was made of")
        return ", ".join(parts)

    def card(self) -> str:
        """As the protocol card has it."""
        return f"{'partial: ' if self.partial else ''}{self}{'' if self.data_set is None else f' of {self.data_set}'}"

    def to_dict(self) -> dict[str, Any]:
        """As a report holds it."""
        counts = {kind: {"seen": seen, "of": self.whole.get(kind)} for kind, seen in self.seen.items()}
        out = {"split": self.split, "published set": self.data_set, **counts}
        return out | ({"clips lacking in the store": self.lacks} if self.lacks else {})


def coverage_of(
    clips: Clips,
    manifest: str,
    split: str,
    *,
    captions: bool,
    unreadable: Collection[str] = (),
    said_to_be: str | None = None,
    a_part: bool = False,
) -> Coverage:
    """Of a report about clips and, if wanted, their captions.

    Args:
        clips: all that there are to measure.
        manifest, split: where they come from.
        captions: count them too.
        unreadable: ids of the clips that were not measured.
        said_to_be: the published test set that they are of, where that is not known otherwise.
        a_part: ``clips`` were taken out of the split on purpose, and are the whole.
    """
    ids = clips.ids()
    read = [index for index, id in enumerate(ids) if id not in unreadable]
    per_clip = clips.caption_counts() if captions else []
    seen, whole = {"clips": len(read)}, {"clips": len(ids)}
    if captions:
        seen["captions"], whole["captions"] = sum(per_clip[index] for index in read), sum(per_clip)
    found = Coverage(split, seen, whole, ids_sha256=ids_sha256(ids[index] for index in read))
    if a_part:
        return found
    origin = _origin(clips, manifest)
    if origin is not None:
        listed = {kind: getattr(origin, kind).get(split, count) for kind, count in whole.items()}
        found = replace(found, whole=listed)
    elif isinstance(clips, ShardClips):
        found = replace(found, lacks=clips.left_out)
    elif isinstance(clips, FileClips):
        found = replace(found, whole={**whole, "clips": len(ids) + clips.left_out})
    return _as_published(found, origin, said_to_be)


def coverage_of_questions(
    asked: Collection[QuestionRow],
    absent: Collection[QuestionRow],
    questions: str,
    clips: Clips,
    manifest: str,
    split: str,
    *,
    unreadable: Collection[str] = (),
    said_to_be: str | None = None,
    a_part: bool = False,
) -> Coverage:
    """Of a report about questions.

    Args:
        asked: questions whose clip is there.
        absent: those whose clip is not.
        questions: the file that they come from.
        clips, manifest, split, unreadable, said_to_be, a_part: as in :func:`coverage_of`.
    """
    every = list(asked) if a_part else [*asked, *absent]
    read = [question for question in asked if question.clip not in unreadable]
    of_clips = {question.clip for question in read}
    seen = {"questions": len(read), "clips": len(of_clips)}
    whole = {"questions": len(every), "clips": len({question.clip for question in every})}
    found = Coverage(split, seen, whole, ids_sha256=ids_sha256(of_clips))
    if a_part:
        return found
    origin = origin_of_file(Path(questions)) or _origin(clips, manifest)
    return _as_published(found, origin, said_to_be)


def ids_sha256(ids: Iterable[str]) -> str:
    """Of a set of ids, whatever their order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode(errors="surrogatepass")).hexdigest()


def _origin(clips: Clips, manifest: str) -> Origin | None:
    return clips.origin if isinstance(clips, ShardClips) else origin_of_file(Path(manifest))


def _as_published(coverage: Coverage, origin: Origin | None, said_to_be: str | None) -> Coverage:
    """The same beside what was published, as far as that is known."""
    names = [] if origin is None else [(origin.data_set, coverage.split)]
    names += [] if said_to_be is None else [(said_to_be, "test")]
    for name, split in names:
        whole = published_counts(name, split, coverage.seen)
        if whole:
            known = SAME_TEST_SET.get(name, name) if split == "test" else name
            return replace(coverage, data_set=known, whole=whole, lacks=0)
    return coverage


def published_counts(data_set: str, split: str, kinds: Collection[str]) -> dict[str, int]:
    """How much was published, of the kinds that are known of; none at all where it has none of the questions asked."""
    count = COUNTS.get(data_set, {}).get(split, Count())
    if "questions" in kinds and count.questions is None:
        return {}
    return {kind: number for kind in kinds if (number := getattr(count, kind)) is not None}


def _share(seen: int, whole: int) -> str:
    """In brackets, where it is not all; and then it does not read as all, nor as nothing."""
    if seen == whole or not whole:
        return ""
    percent = f"{seen / whole:.1%}"
    if seen < whole and percent == "100.0%":
        percent = "over 99.9%"
    if seen and percent == "0.0%":
        percent = "under 0.1%"
    return f" ({percent})"
