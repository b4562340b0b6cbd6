"""The figures of the model that comes with the package, from the reports of its run: into made.json, and into its card.

python benchmarks/small_card.py --run runs/small
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from stoa.files import write_whole
from stoa.shipped import SMALL

HEAD = "| | percent, but for CIDEr |"
_TABLE = re.compile(rf"{re.escape(HEAD)}\n(?:\|.*\n)+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="with the reports of stoa evaluate on it")
    args = parser.parse_args()
    made = SMALL / "made.json"
    facts = json.loads(made.read_text())
    weights = json.loads((SMALL / "config.json").read_text())["weights_sha256"]
    scores = scores_of(args.run)
    facts |= {"weights_sha256": weights, "scores": {name: round(score, 1) for name, score in scores.items()}}
    write_whole(made, json.dumps(facts, indent=2) + "\n")
    card = SMALL / "README.md"
    text, tables = _TABLE.subn(lambda _: table(facts["scores"]), card.read_text())
    if tables != 1:
        raise ValueError(f"{card} has {tables} tables of scores; expected one, which begins with {HEAD}")
    write_whole(card, text)


def scores_of(run: Path) -> dict[str, float]:
    """Percent by what it is of, from the reports of a run."""
    retrieval, answering, captioning = (
        json.loads((run / f"{task}-test.json").read_text()) for task in ("retrieval", "answering", "captioning")
    )
    ranked = {way: found["text-to-video"] for way, found in retrieval["retrieval"]["trained"].items()}
    said = answering["answering"]["said"]
    scores = {
        "text-to-video R@1, towers": ranked["itc"]["r1"],
        "R@1, re-ranked by the matching head": ranked["itc+vtm"]["r1"],
        "R@10, re-ranked": ranked["itc+vtm"]["r10"],
    }
    for name, by in retrieval["hard_sets"].items():
        scores[f"{name.replace('_', ' ')}, by the matching head"] = by["trained"]["vtm"]
    scores["trajectories matched to their nouns"] = retrieval["matches"]["trained"]["distinct"]["accuracy"]
    scores["questions, in its own words, all types"] = said["accuracy"]
    for name, (percent, _) in said["by_type"].items():
        scores[f"questions: {name}"] = percent
    return scores | {"captions: CIDEr x 100": 100 * captioning["captioning"]["cider"]}


def table(scores: dict[str, float]) -> str:
    rows = "".join(f"| {name} | {score:.1f} |\n" for name, score in scores.items())
    return f"{HEAD}\n|---|---|\n{rows}"


if __name__ == "__main__":
    main()
