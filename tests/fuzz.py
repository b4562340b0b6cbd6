"""Damaged videos and pieces of shards through all that reads them: no traceback, no hang, one verdict on each of them.

    python tests/fuzz.py --count 3000 --members 3000        (make fuzz)

Checks, prepares (both stores), detects on and trains on the same mutated videos, a process each, and compares clip by
clip which of them each found bad. Checks and trains on stores of mutated pieces: what training cannot use, a check has
found. Ends with status 1 on a traceback, on a hang, or where two differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torchvision
from crafted import boxes
from member_mutations import mutated_piece, pieces_of, write_store
from mutations import base_videos, mutated

from stoa.data.shards import ShardClips
from stoa.detections import Detections
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig, StoreConfig
from stoa.prepare.pipeline import prepare

_STEPS = 50
_SKIPPED = {"prepare": ("frames", "video"), "detect": ("detect",)}
"""Commands that may be left out, with the verdicts that are then missing."""
_LONGEST_SECONDS = 4 * 3600
_DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="mutated videos, in hundreds")
    parser.add_argument("--members", type=int, default=3000, help="mutated pieces of shards, in two hundreds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip", nargs="*", default=[], choices=list(_SKIPPED), help="commands to leave out, for time")
    arguments = parser.parse_args()
    # With half as many sound ones they make whole batches, so that training meets all of them.
    of_videos, of_members = (
        2 * _STEPS * -(-count // (2 * _STEPS)) for count in (arguments.count, arguments.members // 2)
    )
    with tempfile.TemporaryDirectory(prefix="stoa-fuzz-") as folder:
        status = 0
        if of_videos:
            (Path(folder) / "videos").mkdir()
            status |= _fuzz(Path(folder) / "videos", of_videos, arguments.seed, arguments.workers, arguments.skip)
        for kind in ("frames", "video") if of_members else ():
            (Path(folder) / kind).mkdir()
            status |= _fuzz_members(Path(folder) / kind, kind, of_members, arguments.seed, arguments.workers)
        return status


def _run(folder: Path, commands: dict[str, list[str]]) -> int:
    """How many of them raised, or did not end."""
    failed = 0
    for name, command in commands.items():
        begun = time.monotonic()
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name}: does not end, {_LONGEST_SECONDS} s", flush=True)
            failed += 1
            continue
        said = ended.stdout + ended.stderr
        (folder / f"{name}.log").write_text(said)
        raised = "Traceback (most recent call last)" in said or ended.returncode not in (0, 1)
        failed += raised
        print(f"{name}: status {ended.returncode} after {time.monotonic() - begun:.0f} s", flush=True)
        if raised or (ended.returncode and name != "check"):
            print(said[-3000:])
    return failed


def _fuzz_members(folder: Path, kind: str, count: int, seed: int, workers: int) -> int:
    """Pieces of a store of this kind; half as many are sound."""
    (folder / "videos").mkdir()
    videos = base_videos(folder / "videos")
    rows = []
    for number, path in enumerate(videos.values()):
        Detections(**boxes(2)).save(folder / f"{number}.npz")
        row = {"id": f"sound{number}", "video": f"videos/{path.name}", "caption": f"noise that moves, {number}"}
        rows.append(row | {"detections": f"{number}.npz"} if number % 2 else row)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PrepareConfig(
        out=str(folder / "sound"), videos=str(folder), spacy=None, stores=(kind,), store=StoreConfig(side=48, frames=4)
    )
    annotations = open_annotations("manifest", folder / "rows.jsonl")
    prepare(config, annotations, folder, engine="local", workers=workers, say=lambda line: None)
    sound = pieces_of(folder / "sound" / kind)
    pieces, what = list[tuple[bytes, dict[str, int]]](), dict[int, str]()
    for number in range(count):
        how, piece, wrong = mutated_piece(sound, videos, number, seed)
        what[len(pieces)] = how
        pieces += [(piece, wrong)] + [(sound[number % len(sound)], {})] * (number % 2)
    store = folder / "store"
    write_store(store, folder / "sound" / kind, pieces)
    print(f"{count:,} mutated pieces of a {kind} store, and half as many sound ones", flush=True)
    stoa = [sys.executable, "-m", "stoa.cli"]
    failed = _run(
        folder,
        {
            "check": [*stoa, "data", "check", str(store), f"--ledger={folder / 'check.jsonl'}", f"--workers={workers}"],
            "train": _training(folder, str(store), len(pieces)),
        },
    )
    clips = ShardClips(str(store), None)
    numbers = {clips.where(number): number for number in reversed(range(len(clips)))}
    checked, trained = dict[int, str](), dict[int, str]()
    for line in _lines(folder / "check.jsonl"):
        if line["error"] is not None and line["clip"] is not None:
            where = line["reason"].rpartition("(")[2].rstrip(")")
            number = numbers.get(where, -1)
            checked[number if number >= 0 else int(line["clip"].removeprefix("number "))] = line["error"]
    for line in _lines(folder / "run" / "ledger.jsonl"):
        if line["event"] == "replaced" and "no caption" not in line["reason"]:
            trained[numbers[line["path"]]] = line["reason"]
    print(f"{'':12}{'check':>10}{'train':>10}")
    for how in ("bad", *sorted(set(what.values()))):
        of_it = {number for number, done in what.items() if how in ("bad", done)}
        print(f"{how:12}{len(of_it & checked.keys()):10,}{len(of_it & trained.keys()):10,}")
    print("by kind, of the check:", dict(Counter(checked.values())))
    unseen = sorted(trained.keys() - checked.keys())
    for number in unseen:
        print(f"clip {number} ({what.get(number, 'sound')}): a check finds it sound; training: {trained[number]}")
    falsely = sorted((checked.keys() | trained.keys()) - what.keys())
    print(f"{failed} tracebacks or hangs, {len(unseen)} unseen by the check; of sound pieces found bad: {falsely}")
    return int(bool(failed or unseen or falsely))


def _fuzz(folder: Path, count: int, seed: int, workers: int, skip: Sequence[str]) -> int:
    what = _write(folder, count, seed)
    print(f"{len(what):,} mutated videos, and half as many sound clips", flush=True)
    commands = _commands(folder, len(what), workers)
    tracebacks = _run(folder, {name: command for name, command in commands.items() if name not in skip})
    left_out = {name for command in skip for name in _SKIPPED[command]}
    found = {name: verdicts for name, verdicts in _verdicts(folder).items() if name not in left_out}
    bad = set().union(*found.values()) & what.keys()
    print(f"{'':12}" + "".join(f"{name:>10}" for name in found))
    for label, clips in (("bad", bad), *_by(what, bad)):
        print(f"{label:12}" + "".join(f"{len(clips & verdicts.keys()):10,}" for verdicts in found.values()))
    print("by kind, of the check:", dict(Counter(kind for clip, kind in found["check"].items() if clip in what)))
    differing = 0
    for clip in sorted(bad):
        verdicts = {name: verdicts.get(clip) for name, verdicts in found.items()}
        kinds = {kind for name, kind in verdicts.items() if name in ("check", "frames", "video")}
        if None in verdicts.values() or len(kinds) > 1:
            differing += 1
            print(f"{clip} ({what[clip]}) differs: {verdicts}")
    falsely = {name: [clip for clip in verdicts if clip not in what] for name, verdicts in found.items()}
    differing += sum(map(len, falsely.values()))
    print(f"{tracebacks} tracebacks, {differing} unequal verdicts; of sound clips found bad: {falsely}")
    return int(bool(tracebacks or differing))


def _by(what: dict[str, str], bad: set[str]) -> Iterable[tuple[str, set[str]]]:
    for how in sorted({text.split()[1] for text in what.values()}):
        yield how, {clip for clip in bad if what[clip].split()[1] == how}


def _write(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Videos, the manifest, a detector and DeepSpeed's JSON; what was done to each mutated clip by its id."""
    (folder / "sound").mkdir()
    bases = base_videos(folder / "sound")
    what, rows = {}, []
    for number in range(count):
        suffix, how, content = mutated(bases, number, seed)
        clip, sound = f"clip{number:05d}", list(bases.values())[number % len(bases)]
        (folder / f"{clip}{suffix}").write_bytes(content)
        what[clip] = how
        rows.append({"id": clip, "video": f"{clip}{suffix}"})
        if number % 2:  # in training a bad clip is replaced, and too many of these in a row end it
            rows.append({"id": f"sound{number:05d}", "video": f"sound/{sound.name}"})
    with open(folder / "rows.jsonl", "w") as file:
        file.writelines(json.dumps({**row, "caption": f"noise that moves, {row['id']}"}) + "\n" for row in rows)
    torch.manual_seed(0)
    detector = torchvision.models.get_model(_DETECTOR, weights=None, weights_backbone=None, num_classes=3)
    torch.save(detector.state_dict(), folder / "detector.pt")
    (folder / "classes.json").write_text('["cat", "dog"]')
    return what


def _commands(folder: Path, count: int, workers: int) -> dict[str, list[str]]:
    stoa, rows = [sys.executable, "-m", "stoa.cli"], str(folder / "rows.jsonl")
    sizes = ("--num_frames=2", "--min_size=64", "--max_size=96", "--device=cpu")
    detector = (f"--model={_DETECTOR}", f"--weights={folder / 'detector.pt'}", f"--labels={folder / 'classes.json'}")
    return {
        "check": [*stoa, "data", "check", rows, f"--ledger={folder / 'check.jsonl'}", f"--workers={workers}"],
        "prepare": [
            *(*stoa, "prepare", f"--annotations={rows}", f"--videos={folder}", f"--out={folder / 'out'}"),
            *("--spacy=null", '--stores=["frames", "video"]', "--store.side=64", f"--workers={workers}"),
            f"--store.clips_per_shard={max(1, count // 4)}",
        ],
        "detect": [*stoa, "detect", rows, f"--out={folder / 'boxes'}", *detector, *sizes],
        "train": _training(folder, rows, count + count // 2),
    }


def _training(folder: Path, manifest: str, clips: int) -> list[str]:
    """On all of them, once."""
    batch = {"train_micro_batch_size_per_gpu": max(2, clips // _STEPS), "zero_optimization": {"stage": 1}}
    (folder / "deepspeed.json").write_text(json.dumps(batch))
    model = ("--model.backbone.name=stoa-tiny", "--model.num_frames=3", "--model.fusion.layers=1")
    training = (f"--training.max_steps={_STEPS}", f"--training.output_dir={folder / 'run'}", "--data.num_workers=1")
    return [
        *(sys.executable, "train.py", f"--deepspeed_config={folder / 'deepspeed.json'}"),
        *("--recipe=tests/recipe.yaml", f"--data.manifest={manifest}", *model, *training),
        *("--training.tensorboard=false", "--data.decoder=auto", "--data.max_bad_share=1"),
    ]


def _verdicts(folder: Path) -> dict[str, dict[str, str]]:
    """Of each command, the bad clips and why."""
    found: dict[str, dict[str, str]] = {name: {} for name in ("check", "frames", "video", "detect", "train")}
    for line in _lines(folder / "check.jsonl"):
        if line["error"] is not None:
            found["check"][Path(line["path"]).stem] = line["error"]
    for line in _lines(folder / "out" / "ledger.jsonl"):
        if line["event"] == "failed":
            found[line["store"]][line["clip"]] = line["kind"]
    for line in _lines(folder / "boxes" / "ledger.jsonl"):
        if line["event"] == "skipped":
            found["detect"][line["clip"]] = line["reason"]
    for line in _lines(folder / "run" / "ledger.jsonl"):
        if line["event"] == "replaced":
            found["train"][line["clip"]] = line["reason"]
    return found


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
