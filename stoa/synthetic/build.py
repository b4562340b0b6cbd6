"""Writes a Moving Shapes data set: videos, manifest, detections, truth, questions and hard sets.

The set is a pure function of its configuration. While it is being made its folder holds ``synth.unfinished.json``,
which becomes ``synth.json`` as the last step; finished batches of clips are kept, so a killed run goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stoa.files import replacing, write_whole, writing
from stoa.locks import only_writer
from stoa.manifest import ClipRow, write_manifest
from stoa.parents import die_with_parent
from stoa.progress import Progress
from stoa.synthetic.actions import ALL_WAYS, FAMILIES, SOLO, Ways
from stoa.synthetic.captions import MOST_PARAPHRASES, Description, describe, sample_wording
from stoa.synthetic.footage import fingerprint, open_footage, read_footage, require_reels_fit, told_apart
from stoa.synthetic.hard_sets import HARD_KINDS, ROWS_PER_GALLERY, sample_gallery
from stoa.synthetic.noise import detect
from stoa.synthetic.questions import Question, ask, balance
from stoa.synthetic.render import encode, render
from stoa.synthetic.scene import SHAPES, Pool, Scene, Story, count_stories, sample_scene, sample_story
from stoa.synthetic.siblings import sample_sibling
from stoa.synthetic.windows import Footage, sample_window
from stoa.text_files import read_own

GENERATOR_VERSION = 2
"""Raised whenever the same configuration would give another data set."""

SPLITS: dict[str, Pool] = {"train": "seen", "val": "held_out", "test": "held_out"}
_STREAMS = {name: index for index, name in enumerate((*SPLITS, *HARD_KINDS))}
_CLIPS_PER_BATCH = 32
_DETECTIONS_PER_SECOND = 4
_FINISHED, _UNFINISHED, _PARTS = "synth.json", "synth.unfinished.json", "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthConfig:
    """What the data set holds.

    Attributes:
        num_train: clips to train on.
        num_val: clips to choose settings by; captions use combinations that train does not.
        num_test: clips to report; as for ``num_val``.
        num_galleries: galleries of four clips in each hard set.
        size: width and height of the videos in pixels; even.
        seconds: length of a clip.
        fps: frames per second.
        seed: start of all random draws.
        siblings: training clips in a row that show the same objects in the same layout and differ in who does what, in
            the same words: 1 (none), 2 or 4.
        paraphrases: ways to say each action, 1 to 3.
        families: of what objects do on their own: horizontal, vertical, size, bounce, sway, spin, ripple, light,
            colour, flash, pulse, rock; null is all. Fewer are learned sooner.
        footage: folder of videos that the background and the objects are windows onto: of the first 64 the first 12
            seconds, which take 108 x fps x size^2 bytes each while the set is made. Every fifth is shown in val, test
            and hard sets alone, if there are five. Null draws plain ones.
    """

    num_train: int = 4000
    num_val: int = 200
    num_test: int = 200
    num_galleries: int = 50
    size: int = 64
    seconds: float = 2.0
    fps: int = 8
    seed: int = 0
    siblings: int = 1
    paraphrases: int = MOST_PARAPHRASES
    families: list[str] | None = None
    footage: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test", "num_galleries", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; pass 0 or more")
        if self.siblings not in (1, 2, 4) or self.num_train % self.siblings:
            raise ValueError(
                f"siblings is {self.siblings}; pass 1, 2 or 4, of which num_train {self.num_train} is a multiple"
            )
        if not 1 <= self.paraphrases <= MOST_PARAPHRASES:
            raise ValueError(f"paraphrases is {self.paraphrases}; pass 1 to {MOST_PARAPHRASES}")
        self._check_families()
        if self.size > 4096:
            raise ValueError(f"size is {self.size}; pass 4096 pixels or less")
        if self.size < 32:
            raise ValueError(f"size is {self.size}; shapes are not recognisable below 32 pixels, pass 32 or more")
        if self.size % 2:
            raise ValueError(f"size is {self.size}; H.264 in yuv420p needs an even size, pass {self.size + 1}")
        if self.fps <= 0:
            raise ValueError(f"fps is {self.fps}; pass 1 or more frames per second")
        if self.footage is not None:
            require_reels_fit(self.size, self.fps)
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds is {self.seconds}; pass a length above 0")
        if self.num_frames < 4:
            raise ValueError(
                f"seconds is {self.seconds}, which at fps {self.fps} makes {self.num_frames} frames; "
                "motion needs 4 or more, raise seconds or fps"
            )
        for split, pool in SPLITS.items():
            wanted = self.num_clips(split)
            # Counting takes a moment; of all families every pool has far more stories than this.
            if (wanted > 10_000 or self.families is not None) and wanted > (most := count_stories(pool, self.ways)):
                raise ValueError(
                    f"num_{split} is {wanted}, but there are only {most} distinct captions; lower num_{split}"
                )

    def _check_families(self) -> None:
        if self.families is None:
            return
        for name in self.families:
            if name not in SOLO:
                raise ValueError(f"families names {name!r}; expected some of {', '.join(SOLO)}")
        swapped = {name for name in self.families if name != "colour"}
        if len(swapped) < 3 or sum(SOLO[name].has_direction for name in set(self.families)) < 2:
            raise ValueError(
                f"families is {self.families}; siblings and hard sets need three beside colour, and two that have a "
                "direction; add some, or leave it out for all"
            )

    @property
    def ways(self) -> Ways:
        """The solo actions that may occur."""
        return tuple(way for way in ALL_WAYS if self.families is None or way[0] in self.families)

    @property
    def num_frames(self) -> int:
        return round(self.seconds * self.fps)

    def num_clips(self, group: str) -> int:
        """Number of clips in a split or hard set."""
        return self.num_galleries * ROWS_PER_GALLERY if group in HARD_KINDS else int(getattr(self, f"num_{group}"))


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive clips of a split or hard set. ``attempts`` counts, per clip, the stories that were already taken."""

    group: str
    first: int
    attempts: tuple[int, ...]

    @property
    def part(self) -> str:
        """Where the truth of the batch stands until all are made; it exists once the batch is complete."""
        return f"{_PARTS}/{self.group}_{self.first:07d}.jsonl"


@dataclass(frozen=True, slots=True)
class Clip:
    """What a clip tells, and ``rng`` to draw its pictures and detections from."""

    id: str
    story: Story
    description: Description
    rng: np.random.Generator


def build_data_set(
    config: SynthConfig,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    say: Callable[[str], None] = print,
    wait: bool = False,
) -> None:
    """Write the data set into the folder ``out``.

    A finished folder of the same configuration is left as it is. With ``workers`` above 1 the clips are made by spawned
    processes: call from under ``if __name__ == "__main__"``.

    Args:
        say: called with one line on what was done.
        wait: where another process is making the set, wait for it.

    Raises:
        ValueError: ``workers`` is below 1, ``out`` holds another data set or other files, or another process writes to
            it.
        StorageError: the disk refuses. The same call goes on.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; pass 1 or more processes")
    out = Path(out)
    if config.footage is not None:
        folder = Path(config.footage)
        if folder.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"footage is {folder} and out {out}; pass folders of which none is in the other")
    identity = _identity(config)
    if not _is_finished(identity, out):
        with only_writer(out, "--out", wait=say if wait else None):
            if not _is_finished(identity, out):  # by who was waited for
                _build(config, identity, out, workers, say)
                return
    shutil.rmtree(out / _PARTS, ignore_errors=True)  # of a call that was killed as its last step
    say(f"{out} already holds this data set; nothing to do")


def _build(config: SynthConfig, identity: dict[str, Any], out: Path, workers: int, say: Callable[[str], None]) -> None:
    started = time.perf_counter()
    _start(identity, out)
    if config.footage is not None:
        read_footage(config.footage, out / _PARTS, fps=config.fps, side=config.size, say=say)
    batches: list[Batch] = []
    with Progress(sum(map(config.num_clips, _STREAMS)), "synth stories", "clips") as progress:
        for batch in _batches(config):
            batches.append(batch)
            progress.update(len(batch.attempts))
    todo = [batch for batch in batches if not (out / batch.part).exists()]
    clips, to_make = (sum(len(batch.attempts) for batch in some) for some in (batches, todo))
    with Progress(clips, "synth", "clips") as progress:
        progress.skip(clips - to_make)
        for batch in _made(config, out, todo, workers):
            progress.update(len(batch.attempts))
    _finish(config, identity, out, batches)
    say(f"{out}: {clips} clips of {config.num_frames} frames in {time.perf_counter() - started:.1f} s")


def _made(config: SynthConfig, out: Path, batches: list[Batch], workers: int) -> Iterator[Batch]:
    """Make them, in any order."""
    if workers == 1:
        for batch in batches:
            _make_batch(config, out, batch)
            yield batch
        return
    context = multiprocessing.get_context("spawn")
    # Workers that outlive a killed call would write to the files of the next one.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent) as pool:
        try:
            making = {pool.submit(_make_batch, config, out, batch): batch for batch in batches}
            for future in as_completed(making):
                future.result()
                yield making[future]
        finally:
            pool.shutdown(cancel_futures=True)


def _is_finished(identity: dict[str, Any], out: Path) -> bool:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out is {out}, which is a file; pass a folder")
    if not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir()):
        return False
    if (out / _FINISHED).exists():
        found = read_own(out / _FINISHED, (), "delete this folder, or pass another")
        for key, value in identity.items():
            if found.get(key) != value:
                if isinstance(value, dict) and isinstance(found.get(key), dict):
                    differ = f"other {key} ({told_apart(found[key], value)})"
                else:
                    had, asked = ("some" if isinstance(x, dict) else x for x in (found.get(key), value))
                    differ = f"{key} {had}, but {key} {asked} is asked for"
                raise ValueError(f"{out} holds a data set made with {differ}; pass another folder or delete this one")
        return True
    if not (out / _UNFINISHED).exists():
        raise ValueError(f"{out} holds other files and no {_FINISHED}; pass a new or empty folder")
    return False


def _identity(config: SynthConfig) -> dict[str, Any]:
    families = None if len(config.ways) == len(ALL_WAYS) else sorted({family for family, _ in config.ways})
    footage = None if config.footage is None else fingerprint(config.footage)
    return {"generator_version": GENERATOR_VERSION, **asdict(config), "families": families, "footage": footage}


def _start(identity: dict[str, Any], out: Path) -> None:
    """Make the folders; keep the finished batches of an earlier run only if it wanted the same data set."""
    told, marker = json.dumps(identity), out / _UNFINISHED
    if marker.exists() and marker.read_text(encoding="utf-8") != told:
        for name in ("videos", "detections", _PARTS):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(marker, told)
    for group in _STREAMS:
        for kind in ("videos", "detections"):
            (out / kind / _folder(group)).mkdir(parents=True, exist_ok=True)
    for name in ("truth", "hard", "qa", _PARTS):
        (out / name).mkdir(exist_ok=True)


def _folder(group: str) -> str:
    return f"hard/{group}" if group in HARD_KINDS else group


def _batches(config: SynthConfig) -> Iterator[Batch]:
    for group in _STREAMS:
        attempts = _attempts(config, group) if group in SPLITS else iter([0] * config.num_clips(group))
        for first in itertools.count(0, _CLIPS_PER_BATCH):
            some = tuple(itertools.islice(attempts, _CLIPS_PER_BATCH))
            if not some:
                break
            yield Batch(group, first, some)


def _attempts(config: SynthConfig, split: str) -> Iterator[int]:
    """Per clip how often to draw again until no earlier clip of the split has a caption of the same meaning."""
    taken = set[frozenset[tuple[str, ...]]]()
    size = _family_size(config, split)
    for first in range(0, config.num_clips(split), size):
        attempt = 0
        while True:
            meanings = {clip.story.meaning for clip, _ in _family(config, split, first, attempt)}
            if len(meanings) == size and not meanings & taken:
                break
            attempt += 1
        taken |= meanings
        yield from [attempt] * size


def _rng(config: SynthConfig, group: str, index: int, attempt: int = 0) -> np.random.Generator:
    return np.random.default_rng((config.seed, _STREAMS[group], index, attempt))


def _family_size(config: SynthConfig, split: str) -> int:
    return config.siblings if split == "train" else 1


def _family(config: SynthConfig, split: str, first: int, attempt: int) -> list[tuple[Clip, Scene | None]]:
    """A clip and its siblings; of a clip without any the scene is yet to be drawn. Some may be missing."""
    rng = _rng(config, split, first, attempt)
    story, size = sample_story(rng, SPLITS[split], config.ways), _family_size(config, split)
    wording = sample_wording(rng, config.paraphrases)
    if size == 1:
        return [(Clip(_id(split, first), story, describe(story, wording), rng), None)]
    scene = sample_scene(rng, story)
    others = [sample_sibling(rng, story, SPLITS[split], config.ways) for _ in range(size - 1)]
    family: list[tuple[Clip, Scene | None]] = []
    for member, told in enumerate((story, *others)):
        if told is not None and replace(scene, story=told).stays_inside:
            own = _rng(config, split, first + member, attempt)
            clip = Clip(_id(split, first + member), told, describe(told, wording), own)
            family.append((clip, replace(scene, story=told)))
    return family


def _split_clip(config: SynthConfig, split: str, index: int, attempt: int) -> tuple[Clip, Scene | None]:
    size = _family_size(config, split)
    return _family(config, split, index - index % size, attempt)[index % size]


def _id(split: str, index: int) -> str:
    return f"{split}_{index:06d}"


def _make_batch(config: SynthConfig, out: Path, batch: Batch) -> None:
    indices = range(batch.first, batch.first + len(batch.attempts))
    footage = None if config.footage is None else open_footage(out / _PARTS)
    lines = []
    if batch.group in HARD_KINDS:
        for gallery in range(indices.start // ROWS_PER_GALLERY, indices.stop // ROWS_PER_GALLERY):
            for clip, scene, extra in _hard_clips(config, batch.group, gallery):
                scene = _over(config, scene, footage, batch.group, gallery)
                lines.append(_make_clip(config, out, batch.group, clip, scene, footage) | extra)
    else:
        for index, attempt in zip(indices, batch.attempts, strict=True):
            clip, drawn = _split_clip(config, batch.group, index, attempt)
            first = index - index % _family_size(config, batch.group)
            scene = drawn or sample_scene(clip.rng, clip.story)
            scene = _over(config, scene, footage, batch.group, first)
            lines.append(_make_clip(config, out, batch.group, clip, scene, footage))
    _write_jsonl(out / batch.part, lines)


def _hard_clips(config: SynthConfig, kind: str, number: int) -> Iterator[tuple[Clip, Scene, dict[str, Any]]]:
    gallery = sample_gallery(_rng(config, kind, number), kind, config.paraphrases, config.ways)
    name = f"{kind}_{number:04d}"
    for row, (scene, other) in enumerate(zip(gallery.scenes, gallery.reversed_row, strict=True)):
        description = describe(scene.story, gallery.wording)
        clip = Clip(f"{name}_{row}", scene.story, description, _rng(config, kind, number, attempt=1 + row))
        extra = {"kind": kind, "gallery": name, "reverse_of": None if other is None else f"{name}_{other}"}
        yield clip, scene, extra


def _over(config: SynthConfig, scene: Scene, footage: Footage | None, group: str, index: int) -> Scene:
    """The scene over real video: the same for siblings, and for the clips of a gallery, which it must not tell apart.

    Args:
        index: of the first of the siblings, or of the gallery.
    """
    if footage is None:
        return scene
    rng = np.random.default_rng((config.seed, _STREAMS[group], index, 0, 1))
    reels = footage.numbers(of_training=group == "train")
    return replace(scene, windows=tuple(sample_window(rng, reels) for _ in range(len(scene.rests) + 1)))


def _make_clip(
    config: SynthConfig, out: Path, group: str, clip: Clip, scene: Scene, footage: Footage | None
) -> dict[str, Any]:
    """Write the video and the detections of one clip; returns its truth."""
    rendering = render(scene, num_frames=config.num_frames, size=config.size, footage=footage, seconds=config.seconds)
    video = out / _video(group, clip.id)
    with writing(video):
        encode(rendering.frames, video, fps=config.fps)
    frame_times_seconds = np.arange(config.num_frames) / config.fps
    seen = slice(None, None, max(1, round(config.fps / _DETECTIONS_PER_SECOND)))
    detections = detect(
        clip.rng,
        boxes=rendering.boxes[:, seen],
        visibility=rendering.visibility[:, seen],
        labels=np.array([SHAPES.index(role.shape) for role in clip.story.roles]),
        frame_times_seconds=frame_times_seconds[seen],
        size=config.size,
        num_labels=len(SHAPES),
    )
    with writing(out / _detections(group, clip.id)):
        detections.save(out / _detections(group, clip.id))
    objects = [
        {
            "shape": role.shape,
            "label": SHAPES.index(role.shape),
            "colour": role.start_colour,
            "end_colour": role.end_colour,
            "action": role.action,
            "in_boxes": FAMILIES[role.family].in_boxes,
            "partner": role.partner,
            "captioned": role.captioned,
            "held_out": role.held_out,
            "boxes": rendering.boxes[index].round(2).tolist(),
            "visibility": rendering.visibility[index].round(3).tolist(),
        }
        for index, role in enumerate(clip.story.roles)
    ]
    return {
        "id": clip.id,
        "shared_label": clip.story.shared_label,
        "noun_objects": clip.description.noun_objects,
        "verb_objects": clip.description.verb_objects,
        "frame_times_seconds": frame_times_seconds.tolist(),
        "objects": objects,
    }


def _finish(config: SynthConfig, identity: dict[str, Any], out: Path, batches: list[Batch]) -> None:
    _write_manifest(out / "manifest.jsonl", _finish_splits(config, out, batches))
    for kind in HARD_KINDS:
        galleries = range(config.num_galleries)
        clips = [clip for number in galleries for clip, _, _ in _hard_clips(config, kind, number)]
        _write_manifest(out / "hard" / f"{kind}.jsonl", (_row(kind, clip, "test", "../") for clip in clips))
    _join(out, "truth/hard.jsonl", [batch for batch in batches if batch.group in HARD_KINDS])
    write_whole(out / "labels.json", json.dumps(SHAPES))
    counts = {group: config.num_clips(group) for group in _STREAMS}
    write_whole(out / _UNFINISHED, json.dumps(identity | {"counts": counts}, indent=2) + "\n")
    os.replace(out / _UNFINISHED, out / _FINISHED)
    shutil.rmtree(out / _PARTS)


def _finish_splits(config: SynthConfig, out: Path, batches: list[Batch]) -> list[ClipRow]:
    """Write questions and truth of the splits; their rows."""
    rows: list[ClipRow] = []
    with Progress(sum(map(config.num_clips, SPLITS)), "synth manifest", "clips") as progress:
        for split in SPLITS:
            questions: list[Question] = []
            of_split = [batch for batch in batches if batch.group == split]
            for batch in of_split:
                for index, attempt in enumerate(batch.attempts, start=batch.first):
                    clip, _ = _split_clip(config, split, index, attempt)
                    rows.append(_row(split, clip, split))
                    questions.extend(ask(clip.id, clip.story))
                progress.update(len(batch.attempts))
            kept = balance(_rng(config, split, 0, attempt=1), questions)
            _write_jsonl(out / "qa" / f"{split}.jsonl", (question.to_json() for question in kept))
            _join(out, f"truth/{split}.jsonl", of_split)
    return rows


def _video(group: str, clip_id: str) -> str:
    return f"videos/{_folder(group)}/{clip_id}.mp4"


def _detections(group: str, clip_id: str) -> str:
    return f"detections/{_folder(group)}/{clip_id}.npz"


def _row(group: str, clip: Clip, split: str, root: str = "") -> ClipRow:
    return ClipRow(
        id=clip.id,
        video=root + _video(group, clip.id),
        captions=(clip.description.caption,),
        split=split,
        detections=root + _detections(group, clip.id),
    )


def _join(out: Path, name: str, batches: list[Batch]) -> None:
    with writing(out / name), open(out / name, "wb") as file:
        for batch in batches:
            file.write((out / batch.part).read_bytes())


def _write_manifest(path: Path, rows: Iterable[ClipRow]) -> None:
    with replacing(path) as temporary:
        write_manifest(temporary, rows)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
