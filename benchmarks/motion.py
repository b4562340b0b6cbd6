"""Where motion is lost on Moving Shapes: the directions a trained model tells, how far apart it puts their words, how
much of places and moves a linear reader finds in its tokens, and how much of a token is the same in all of them.

    python benchmarks/motion.py --run runs/study/pretrain-stoa-0

A time-reversed pair differs in the direction of one object alone; the share of pairs told right is printed for every
kind of action, for the matching head (VTM) and the likelihood of the caption (PLM); chance is 50%. The captions of a
pair differ in one word: how far apart the text tower's outputs for it are is printed in percent of their length. The
reader is a ridge regression, on the trajectory token or on the [CLS] of all frames, of where a trajectory is (the
middle between its first box and its last) and of how far it goes between them. What it explains of the variance is that
of every fifth clip, read by a regression on the others; 0 is what a reader that knows nothing gets. What is common is
the squared length of the mean token over the mean squared length: a reader may subtract it, attention cannot.

Shape legend: B clips, N trajectories, E the first and the last frame, K boxes, R rows, D values of a row, A values to
read, P pairs, L text tokens, d joint width.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path

import torch

from stoa.batch import VideoTextBatch
from stoa.synthetic.actions import SOLO_ACTIONS
from stoa.tasks.evaluation import Abilities, open_split
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.opened import open_model
from stoa.tasks.retrieval import caption_scores, match_scores
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader

FOLDS = 5
AT_ONCE = 50
RIDGE = 100.0  # beside thousands of rows of unit variance
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
    report = {"run": args.run, "directions": directions(trained, abilities, args.hard)}
    if "objects" in trained.model.config.group_sizes:
        report["read"] = moves_read(trained, args.clips, args.num_clips)
    for name, values in report.items():
        print(name, json.dumps(values))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


@torch.inference_mode()
def directions(trained: TrainedModel, abilities: Abilities, folder: Path) -> dict[str, dict[str, float]]:
    """Percent of pairs told right by each score and kind of action, and how far apart the words are."""
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
    places = [(row, bit) for row in range(len(gallery.ids)) for bit in (0, 1)]
    kinds = [SOLO_ACTIONS[objects[gallery.ids[row]][bit]["action"]][0] for row, bit in places]
    own_P, other_P = torch.tensor([(row, row ^ (1 << bit)) for row, bit in places]).unbind(dim=1)
    values = {name: (x_RV[own_P, own_P % ROWS] > x_RV[own_P, other_P % ROWS]).float() for name, x_RV in scores.items()}
    values["apart"] = apart(gallery.text_ids_QL.cpu(), gallery.text_tokens_QLd, own_P, other_P)
    report = {}
    for name, values_P in values.items():
        of_kind = {kind: values_P[[k == kind for k in kinds]] for kind in sorted(set(kinds))}
        report[name] = {kind: round(100 * float(x.mean()), 1) for kind, x in of_kind.items()}
    return report


def apart(ids_RL: torch.Tensor, tokens_RLd: torch.Tensor, own_P: torch.Tensor, other_P: torch.Tensor) -> torch.Tensor:
    """Distance between the tokens of two captions where these first differ, in parts of their length. A word may be
    longer than its opposite: what comes after it does not stand side by side."""
    first_P = (ids_RL[own_P] != ids_RL[other_P]).int().argmax(dim=1)
    a_Pd, b_Pd = tokens_RLd[own_P, first_P], tokens_RLd[other_P, first_P]
    return (a_Pd - b_Pd).norm(dim=1) / ((a_Pd.norm(dim=1) + b_Pd.norm(dim=1)) / 2)


@torch.no_grad()
def moves_read(trained: TrainedModel, folder: Path, num_clips: int) -> dict[str, dict[str, float]]:
    """Percent of the variance of places and moves that each source explains to a reader which has not seen them, and
    of each source that is common."""
    model, config = trained.model, trained.model.config
    clips = open_split(str(folder / "manifest.jsonl"), "test")
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    reader = VideoReader(clips, config, trained.side, batch_size=AT_ONCE)
    for first, read in enumerate(islice(reader, num_clips // AT_ONCE)):
        video = model.encode_video(read.batch)
        tokens_BNd = model.group(video, "objects")
        has_one_BN, ends_BNE2 = ends(read.batch, video.trajectory_labels_BN)
        clip_BN = (first * AT_ONCE + torch.arange(len(read.rows)))[:, None].expand_as(has_one_BN)
        cls_BND = model.group(video, "frames").flatten(1)[:, None].expand(-1, tokens_BNd.shape[1], -1)
        for name, rows in (("clip", clip_BN), ("ends", ends_BNE2), ("token", tokens_BNd), ("[CLS]", cls_BND)):
            found[name].append(rows[has_one_BN])
    fold_R = torch.cat(found["clip"]) % FOLDS
    first_R2, last_R2 = torch.cat(found["ends"]).unbind(dim=1)
    targets = {"place": (first_R2 + last_R2) / 2, "move": last_R2 - first_R2}
    report = {"trajectories": {"read": float(len(fold_R))}}
    for source, label in (("token", "trajectory token"), ("[CLS]", "[CLS] of the frames")):
        x_RD = torch.cat(found[source])
        report[label] = {name: round(100 * explained(x_RD, y_R2, fold_R), 1) for name, y_R2 in targets.items()}
        report[label]["common"] = round(100 * common(x_RD), 1)
    return report


def ends(batch: VideoTextBatch, labels_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which trajectories (B, N) have one box in the first frame and one in the last, and the centres of these
    (B, N, E, 2)."""
    is_own_BNEK = batch.labels_BTK[:, None, [0, -1]] == labels_BN[..., None, None]
    has_one_BN = (is_own_BNEK.sum(dim=-1) == 1).all(dim=-1) & (labels_BN >= 0)
    centres_BEK2 = batch.boxes_BTK4[:, [0, -1]].unflatten(-1, (2, 2)).mean(dim=-2)
    return has_one_BN, (is_own_BNEK[..., None] * centres_BEK2[:, None]).sum(dim=-2)


def explained(x_RD: torch.Tensor, y_R2: torch.Tensor, fold_R: torch.Tensor) -> float:
    """Share of the variance of the rows of each fold that a regression on the other folds explains."""
    y_R2 = y_R2.double()
    left = float((y_R2 - readings(x_RD, y_R2, fold_R)).square().sum())
    return 1 - left / float((y_R2 - y_R2.mean(dim=0)).square().sum())


def readings(x_RD: torch.Tensor, y_RA: torch.Tensor, fold_R: torch.Tensor) -> torch.Tensor:
    """What a ridge regression on the other folds gives of each row, (R, A)."""
    x_RD = (x_RD - x_RD.mean(dim=0)) / (x_RD.std(dim=0) + 1e-5)
    x_RD, y_RA = torch.cat([x_RD, torch.ones(len(x_RD), 1)], dim=1).double(), y_RA.double()
    given_RA = torch.zeros_like(y_RA)
    for fold in range(FOLDS):
        x, y = x_RD[fold_R != fold], y_RA[fold_R != fold]
        reader_DA = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
        given_RA[fold_R == fold] = x_RD[fold_R == fold] @ reader_DA
    return given_RA


def common(x_RD: torch.Tensor) -> float:
    """Share of the rows' squared length that is their mean's."""
    return float(x_RD.mean(dim=0).square().sum() / x_RD.square().sum(dim=1).mean())


def truth(path: Path) -> dict[str, list[dict]]:
    """The objects of each clip."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["objects"] for row in rows}


if __name__ == "__main__":
    main()
