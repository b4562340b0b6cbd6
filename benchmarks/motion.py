"""Where motion is lost on Moving Shapes: the directions a trained model tells, and those a linear reader finds in it.

    python benchmarks/motion.py --run runs/study/pretrain-stoa-0

A time-reversed pair differs in the direction of one object alone; the share of pairs told right is printed for every
kind of action, for the matching head (VTM) and the likelihood of the caption (PLM); chance is 50%. The reader is a
logistic regression of which way an object moves (left, right, up, down; chance 25%) on the object's trajectory token
and on the [CLS] of all frames; every fifth of the moves is read by a regression on the others. Beside it what the first
and last box say.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.cli._model import open_model
from stoa.models.video_language import VideoLanguageModel
from stoa.synthetic.actions import SOLO_ACTIONS
from stoa.tasks.evaluation import Abilities, open_split
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.retrieval import caption_scores, match_scores
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader

MOVES = ("move_left", "move_right", "move_up", "move_down")
FOLDS = 5
ROWS = 4  # of a gallery: bit 0 of a row is the direction of its first object, bit 1 that of its second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run, or one of its checkpoints")
    parser.add_argument("--hard", type=Path, default=Path("data/study"), help="Moving Shapes with hard sets")
    parser.add_argument("--clips", type=Path, default=Path("data/study-questions"), help="others, whose moves are read")
    parser.add_argument("--num_clips", type=int, default=3000)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    trained, abilities, _, _ = open_model(args.run)
    report = {"run": args.run, "told": directions_told(trained, abilities, args.hard)}
    if "objects" in trained.model.config.group_sizes:
        report["read"] = moves_read(trained, args.clips, args.num_clips)
    for name, values in report.items():
        print(name, json.dumps(values))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


@torch.inference_mode()
def directions_told(trained: TrainedModel, abilities: Abilities, folder: Path) -> dict[str, dict[str, float]]:
    """Percent of pairs told right by each score and kind of action."""
    clips = open_split(str(folder / "hard" / "time_reversal.jsonl"), None)
    (gallery,) = encode_galleries([trained], VideoReader(clips, trained.model.config, trained.side, batch_size=64))
    objects = truth(folder / "truth" / "hard.jsonl")
    assert len(gallery.ids) % ROWS == 0 and gallery.video_of_text_Q.tolist() == list(range(len(gallery.ids)))
    texts_R1 = torch.arange(len(gallery.ids))[:, None]
    videos_RV = texts_R1 // ROWS * ROWS + torch.arange(ROWS)
    texts_RV = texts_R1.expand_as(videos_RV)
    scores = {
        "vtm": match_scores(trained, gallery, texts_RV, videos_RV),
        "plm": caption_scores(trained, gallery, texts_RV, videos_RV, abilities.plm_form),
    }
    told: dict[str, dict[str, float]] = {}
    for name, scores_RV in scores.items():
        right = defaultdict(list)
        for row, clip in enumerate(gallery.ids):
            own = row % ROWS
            for bit in (0, 1):
                family = SOLO_ACTIONS[objects[clip][bit]["action"]][0]
                right[family].append(float(scores_RV[row, own] > scores_RV[row, own ^ (1 << bit)]))
        told[name] = {family: round(100 * sum(x) / len(x), 1) for family, x in sorted(right.items())}
    return told


@torch.no_grad()
def moves_read(trained: TrainedModel, folder: Path, num_clips: int) -> dict[str, float]:
    """Percent of moves that each source gives away to a reader which has not seen them."""
    model, config = trained.model, trained.model.config
    clips = open_split(str(folder / "manifest.jsonl"), "test")
    objects = truth(folder / "truth" / "test.jsonl")
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    moves: list[int] = []
    for read in islice(VideoReader(clips, config, trained.side, batch_size=50), num_clips // 50):
        for source, rows in features(model, read.batch, [objects[row.id] for row in read.rows], moves).items():
            found[source] += rows
    target = torch.tensor(moves)
    x, y = torch.stack(found.pop("boxes")).unbind(-1)
    by_boxes = torch.where(x.abs() > y.abs(), (x > 0).long(), 2 + (y > 0).long())
    shares = {"moves": float(len(moves)), "boxes": 100 * (by_boxes == target).float().mean().item()}
    shares |= {source: linear_reader(torch.stack(rows), target) for source, rows in found.items()}
    return {name: round(value, 1) for name, value in shares.items()}


def features(
    model: VideoLanguageModel, batch: VideoTextBatch, objects: list[list[dict]], moves: list[int]
) -> dict[str, list[torch.Tensor]]:
    """What shows the moves of captioned objects whose label no other box of the first and last frame has; the moves
    themselves go to ``moves``."""
    video = model.encode_video(batch)
    frames_BTd, found = model.group(video, "frames"), defaultdict(list)
    for clip, shown in enumerate(objects):
        for thing in shown:
            if thing["action"] not in MOVES or not thing["captioned"]:
                continue
            is_it_TK = batch.labels_BTK[clip, [0, -1]] == thing["label"]
            row = (video.trajectory_labels_BN[clip] == thing["label"]).nonzero().flatten()
            if is_it_TK.sum(dim=1).tolist() != [1, 1] or not len(row):
                continue
            first, last = batch.boxes_BTK4[clip, [0, -1]][is_it_TK].unflatten(-1, (2, 2)).mean(dim=-2)
            found["boxes"].append(last - first)
            found["trajectory token"].append(model.group(video, "objects")[clip, row[0]])
            found["[CLS] of the frames"].append(frames_BTd[clip].flatten())
            moves.append(MOVES.index(thing["action"]))
    return found


@torch.enable_grad()
def linear_reader(x_RD: torch.Tensor, target_R: torch.Tensor, *, steps: int = 400) -> float:
    """Percent of the rows that regressions on the other four fifths get right."""
    x_RD = (x_RD - x_RD.mean(dim=0)) / (x_RD.std(dim=0) + 1e-5)
    fold_R, right = torch.arange(len(x_RD)) % FOLDS, 0
    for fold in range(FOLDS):
        known_R = fold_R != fold
        reader = torch.nn.Linear(x_RD.shape[1], len(MOVES))
        optimizer = torch.optim.Adam(reader.parameters(), lr=0.02, weight_decay=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(reader(x_RD[known_R]), target_R[known_R]).backward()
            optimizer.step()
        right += int((reader(x_RD[~known_R]).argmax(dim=1) == target_R[~known_R]).sum())
    return 100 * right / len(x_RD)


def truth(path: Path) -> dict[str, list[dict]]:
    """The objects of each clip."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["objects"] for row in rows}


if __name__ == "__main__":
    main()
