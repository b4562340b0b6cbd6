"""What tells on Moving Shapes which action goes on: how well a linear reader finds it in boxes, looks and tokens.

    python benchmarks/told.py --run runs/study/pretrain-stoa-0

Of single trajectories the reader says which of the solo actions theirs is: from the slope of their boxes, the slope of
what the patches under them hold, both, and their tokens. Of clips it says of every action whether it occurs: from the
action tokens, the [CLS] of all frames, and the trajectory tokens, of each dimension the largest. Tokens are those of
the run and fresh ones, of a model that starts from its towers. A reader is a ridge regression that has not seen the
clips of its fold; a trajectory's action is the one it gives the most, and of clips the area under the curve is taken,
where chance is 50.

Shape legend: B clips, T frames, K boxes, N trajectories, h vision width, R rows, D values of a row, A actions.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import torch
from motion import AT_ONCE, FOLDS, readings, truth
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.motion import fit_lines, levers_of
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.matching import majority_class
from stoa.ops import roi_align_max
from stoa.synthetic.actions import SOLO_ACTIONS
from stoa.tasks.evaluation import open_split
from stoa.tasks.opened import open_model
from stoa.tasks.videos import VideoReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run, or one of its checkpoints")
    parser.add_argument("--clips", type=Path, default=Path("data/study"), help="Moving Shapes")
    parser.add_argument("--split", default="train")
    parser.add_argument("--num_clips", type=int, default=1600)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    trained, _, _, _ = open_model(args.run)
    models = {"trained": trained.model, "fresh": fresh(trained.model)}
    objects = truth(args.clips / "truth" / f"{args.split}.jsonl")
    clips = open_split(str(args.clips / "manifest.jsonl"), args.split)
    reader = VideoReader(clips, trained.model.config, trained.side, batch_size=AT_ONCE)
    of_trajectories, of_clips = defaultdict[str, list[torch.Tensor]](list), defaultdict[str, list[torch.Tensor]](list)
    actions, occurring, folds = list[str](), list[set[str]](), list[int]()
    for read in islice(reader, -(-args.num_clips // AT_ONCE)):
        shown = [{thing["label"]: thing["action"] for thing in once(objects[row.id])} for row in read.rows]
        found, classes_BN = of_batch(models, read.batch)
        one_BN = torch.tensor([[int(label) in of for label in row] for of, row in zip(shown, classes_BN, strict=True)])
        one_BN &= found.pop("moves").bool()
        for name, rows in found.items():
            (of_trajectories if rows.ndim == 3 else of_clips)[name].append(rows[one_BN] if rows.ndim == 3 else rows)
        for row, of, labels_N, one_N in zip(read.rows, shown, classes_BN.tolist(), one_BN.tolist(), strict=True):
            actions += [of[label] for label, one in zip(labels_N, one_N, strict=True) if one]
            folds += [len(occurring) % FOLDS] * sum(one_N)
            occurring.append({thing["action"] for thing in objects[row.id]})
    report = {
        "of a trajectory, percent right": told(of_trajectories, actions, torch.tensor(folds), tuple(SOLO_ACTIONS)),
        "of one that changes its light": told(of_trajectories, actions, torch.tensor(folds), ("brighten", "darken")),
        "of a clip, area under the curve": occurs(of_clips, occurring),
    }
    for name, values in report.items():
        print(name, json.dumps(values))
    if args.out:
        args.out.write_text(json.dumps({"run": args.run, **report}, indent=2) + "\n")


def fresh(model: VideoLanguageModel) -> VideoLanguageModel:
    """One of the same architecture that has learned nothing but its towers."""
    torch.manual_seed(0)
    ids = None if model.lm_head.used_ids is None else model.lm_head.used_ids.tolist()
    new = VideoLanguageModel(model.config, used_token_ids=ids)
    new.clip.load_state_dict(model.clip.state_dict())
    new.start_from_towers()
    return new.eval()


def once(things: list[dict]) -> list[dict]:
    """Objects whose label no other one of the clip has."""
    counts = Counter(thing["label"] for thing in things)
    return [thing for thing in things if counts[thing["label"]] == 1]


@torch.no_grad()
def of_batch(
    models: dict[str, VideoLanguageModel], batch: VideoTextBatch
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What there is to read from, of trajectories (B, N, D) and clips (B, D), and the label of each trajectory."""
    found: dict[str, torch.Tensor] = {}
    for name, model in models.items():
        video = model.encode_video(batch)
        tokens_BNd = model.group(video, "objects")
        found[f"token, {name}"] = tokens_BNd
        there_BN1 = (video.trajectory_labels_BN >= 0)[..., None]
        found[f"trajectory tokens, {name}"] = tokens_BNd.masked_fill(~there_BN1, -1e4).amax(dim=1)
        if "actions" in model.fusion.group_sizes:
            found[f"action tokens, {name}"] = model.group(video, "actions").flatten(1)
    found["[CLS] of the frames"] = model.group(video, "frames").flatten(1)
    labels_BN = video.trajectory_labels_BN
    levers = levers_of(batch.scores_BTK, batch.labels_BTK, labels_BN)
    lines = fit_lines(batch.boxes_BTK4, batch.labels_BTK, levers)
    tap = len(model.clip.visual.blocks) - model.config.objects.tap_from_top
    _, tapped = model.clip.encode_frames(batch.frames_BTCHW, frozenset([tap]))
    valid_FK = (batch.labels_BTK >= 0).flatten(0, 1)
    pooled_FKh, _ = roi_align_max(
        tapped[tap][:, 1:], batch.boxes_BTK4.flatten(0, 1), valid_FK, grid_hw=model.clip.visual.grid_hw
    )
    looks_BSh = F.layer_norm(pooled_FKh, pooled_FKh.shape[-1:]).unflatten(0, batch.labels_BTK.shape[:2]).flatten(1, 2)
    changes_BNh = levers.levers_BNTK.flatten(2) @ looks_BSh
    found |= {"boxes": lines.slopes_BN4, "looks": changes_BNh}
    found |= {"boxes and looks": torch.cat([lines.slopes_BN4, changes_BNh], dim=-1), "moves": levers.moves_BN}
    return found, labels_BN if batch.true_labels_BTK.max() < 0 else majority_class(labels_BN, batch)


def told(
    sources: dict[str, list[torch.Tensor]], actions: list[str], fold_R: torch.Tensor, among: tuple[str, ...]
) -> dict[str, float]:
    """Percent of the trajectories with one of these actions whose action the reader gives the most."""
    names = [name for name in among if name in set(actions)]
    kept_R = torch.tensor([action in names for action in actions])
    class_R = torch.tensor([names.index(action) for action in actions if action in names])
    report = {"trajectories": float(len(class_R)), "actions": float(len(names))}
    for source, parts in sources.items():
        given_RA = readings(torch.cat(parts)[kept_R], F.one_hot(class_R, len(names)), fold_R[kept_R])
        report[source] = round(100 * float((given_RA.argmax(dim=1) == class_R).float().mean()), 1)
    return report


def occurs(sources: dict[str, list[torch.Tensor]], occurring: list[set[str]]) -> dict[str, float]:
    """Area under the curve, percent, mean over the solo actions."""
    names = [name for name in SOLO_ACTIONS if any(name in of for of in occurring)]
    target_RA = torch.tensor([[name in of for name in names] for of in occurring])
    fold_R = torch.arange(len(target_RA)) % FOLDS
    report = {"clips": float(len(target_RA))}
    for source, parts in sources.items():
        given_RA = readings(torch.cat(parts), target_RA, fold_R)
        areas = [area(given_RA[:, a], target_RA[:, a]) for a in range(len(names))]
        report[source] = round(100 * sum(areas) / len(areas), 1)
    return report


def area(given_R: torch.Tensor, is_R: torch.Tensor) -> float:
    """The probability that a row with the action is given more than one without it."""
    rank_R = given_R.argsort().argsort().double() + 1
    with_it, without = int(is_R.sum()), int((~is_R).sum())
    return (float(rank_R[is_R].sum()) - with_it * (with_it + 1) / 2) / (with_it * without)


if __name__ == "__main__":
    main()
