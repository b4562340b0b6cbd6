"""Damaged videos through all that reads videos: no traceback, and one verdict on each of them.

    python tests/fuzz.py --count 3000        (make fuzz)

Checks, prepares (both stores), detects on and trains on the same mutated videos, a process each, and compares clip by
clip which of them each found bad. Ends with status 1 on a traceback, or where two differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision
from mutations import base_videos, mutated

_STEPS = 50
_DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="mutated videos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stoa-fuzz-") as folder:
        return _fuzz(Path(folder), arguments.count, arguments.seed, arguments.workers)


def _fuzz(folder: Path, count: int, seed: int, workers: int) -> int:
    what = _write(folder, count, seed)
    print(f"{len(what):,} mutated videos, and half as many sound clips", flush=True)
    tracebacks = 0
    for name, command in _commands(folder, len(what), workers).items():
        begun = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True)
        said = ended.stdout + ended.stderr
        (folder / f"{name}.log").write_text(said)
        raised = "Traceback (most recent call last)" in said or ended.returncode not in (0, 1)
        tracebacks += raised
        print(f"{name}: status {ended.returncode} after {time.monotonic() - begun:.0f} s", flush=True)
        if raised or (ended.returncode and name != "check"):
            print(said[-3000:])
    found = _verdicts(folder)
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
    batch = {"train_micro_batch_size_per_gpu": len(rows) // _STEPS, "zero_optimization": {"stage": 1}}
    (folder / "deepspeed.json").write_text(json.dumps(batch))
    return what


def _commands(folder: Path, count: int, workers: int) -> dict[str, list[str]]:
    stoa, rows = [sys.executable, "-m", "stoa.cli"], str(folder / "rows.jsonl")
    sizes = ("--num_frames=2", "--min_size=64", "--max_size=96", "--device=cpu")
    detector = (f"--model={_DETECTOR}", f"--weights={folder / 'detector.pt'}", f"--labels={folder / 'classes.json'}")
    model = ("--model.backbone.name=stoa-tiny", "--model.num_frames=3", "--model.fusion.layers=1")
    training = (f"--training.max_steps={_STEPS}", f"--training.output_dir={folder / 'run'}", "--data.num_workers=1")
    return {
        "check": [*stoa, "data", "check", rows, f"--ledger={folder / 'check.jsonl'}", f"--workers={workers}"],
        "prepare": [
            *(*stoa, "prepare", f"--annotations={rows}", f"--videos={folder}", f"--out={folder / 'out'}"),
            *("--spacy=null", '--stores=["frames", "video"]', "--store.side=64", f"--workers={workers}"),
            f"--store.clips_per_shard={max(1, count // 4)}",
        ],
        "detect": [*stoa, "detect", rows, f"--out={folder / 'boxes'}", *detector, *sizes],
        "train": [
            *(sys.executable, "train.py", f"--deepspeed_config={folder / 'deepspeed.json'}"),
            *("--recipe=recipes/demo.yaml", f"--data.manifest={rows}", *model, *training),
            *("--training.tensorboard=false", "--data.decoder=auto"),
        ],
    }


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
