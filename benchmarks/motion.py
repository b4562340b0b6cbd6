"""Where motion is lost on Moving Shapes: the directions a trained model tells, and how much of a move a linear reader
finds in its tokens.

    python benchmarks/motion.py --run runs/study/pretrain-stoa-0

A time-reversed pair differs in the direction of one object alone; the share of pairs told right is printed for every
kind of action, for the matching head (VTM) and the likelihood of the caption (PLM); chance is 50%. The reader is a
ridge regression, on the trajectory token or on the [CLS] of all frames, of how far a trajectory goes from its first box
to its last (x and y); what it explains of the variance is that of every fifth trajectory, read by a regression on the
others.

Shape legend: B clips, N trajectories, E the first and the last frame, K boxes, R rows, D values of a row.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path

import torch

from stoa.batch import VideoTextBatch
from stoa.cli._model import open_model
from stoa.synthetic.actions import SOLO_ACTIONS
from stoa.tasks.evaluation import Abilities, open_split
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.retrieval import caption_scores, match_scores
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader

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
    """Percent of the variance of moves that each source explains to a reader which has not seen them."""
    model, config = trained.model, trained.model.config
    clips = open_split(str(folder / "manifest.jsonl"), "test")
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for read in islice(VideoReader(clips, config, trained.side, batch_size=50), num_clips // 50):
        video = model.encode_video(read.batch)
        is_its_own_BN, moves_BN2 = moves(read.batch, video.trajectory_labels_BN)
        frames_Bx = model.group(video, "frames").flatten(1)[:, None]
        found["moves"].append(moves_BN2[is_its_own_BN])
        found["trajectory token"].append(model.group(video, "objects")[is_its_own_BN])
        found["[CLS] of the frames"].append(frames_Bx.expand(-1, is_its_own_BN.shape[1], -1)[is_its_own_BN])
    moves_R2 = torch.cat(found.pop("moves"))
    explained = {source: explained_linearly(torch.cat(rows), moves_R2) for source, rows in found.items()}
    return {"trajectories": float(len(moves_R2)), **{name: round(100 * share, 1) for name, share in explained.items()}}


def moves(batch: VideoTextBatch, labels_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which trajectories (B, N) have one box in the first frame and one in the last, and how far apart their centres
    are (B, N, 2)."""
    is_own_BNEK = batch.labels_BTK[:, None, [0, -1]] == labels_BN[..., None, None]
    has_one_BN = (is_own_BNEK.sum(dim=-1) == 1).all(dim=-1) & (labels_BN >= 0)
    centres_BEK2 = batch.boxes_BTK4[:, [0, -1]].unflatten(-1, (2, 2)).mean(dim=-2)
    ends_BNE2 = (is_own_BNEK[..., None] * centres_BEK2[:, None]).sum(dim=-2)
    return has_one_BN, ends_BNE2[:, :, 1] - ends_BNE2[:, :, 0]


def explained_linearly(x_RD: torch.Tensor, y_R2: torch.Tensor) -> float:
    """Share of the variance of the rows that regressions on the other four fifths explain."""
    x_RD = (x_RD - x_RD.mean(dim=0)) / (x_RD.std(dim=0) + 1e-5)
    x_RD, y_R2 = torch.cat([x_RD, torch.ones(len(x_RD), 1)], dim=1).double(), y_R2.double()
    fold_R, left = torch.arange(len(x_RD)) % FOLDS, 0.0
    for fold in range(FOLDS):
        x, y = x_RD[fold_R != fold], y_R2[fold_R != fold]
        reader_D2 = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ y)
        left += float((y_R2[fold_R == fold] - x_RD[fold_R == fold] @ reader_D2).square().sum())
    return 1 - left / float((y_R2 - y_R2.mean(dim=0)).square().sum())


def truth(path: Path) -> dict[str, list[dict]]:
    """The objects of each clip."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["objects"] for row in rows}


if __name__ == "__main__":
    main()
