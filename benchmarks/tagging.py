"""Noun and verb F1 on the test split of UD English EWT: spans found in raw text against gold spans.

    python benchmarks/tagging.py

The baseline gives each word of the gold segmentation the part of speech it has most often in the train split.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "prepare"))
from tagger import KINDS, baseline_f1, f1, read_conllu  # noqa: E402

from stoa.prepare.pipelines import PIPELINE  # noqa: E402
from stoa.prepare.tagging import Tagger  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("STOA_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with pos/ (STOA_TEST_DATA)")
    parser.add_argument("--pipeline", default=PIPELINE, help="name or path of a spaCy pipeline")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    train = list(read_conllu(args.data / "pos" / "en_ewt-ud-train.conllu.gz"))
    test = list(read_conllu(args.data / "pos" / "en_ewt-ud-test.conllu"))
    tagger = Tagger.load(args.pipeline)
    started = time.perf_counter()
    captions = list(tagger.tag(sentence.text for sentence in test))
    words_per_second = sum(len(sentence.words) for sentence in test) / (time.perf_counter() - started)
    results: dict[str, object] = {"pipeline": tagger.name, "words_per_second": round(words_per_second)}
    print(f"{tagger.name}: {len(test)} sentences, {words_per_second:,.0f} words/s")
    for kind in KINDS:
        reached = f1((set(getattr(caption, kind)) for caption in captions), [s.spans(kind) for s in test])
        baseline = baseline_f1(train, test, kind)
        results[kind] = {"f1": reached, "baseline_f1": baseline}
        print(f"{kind}  F1 {reached:.4f}, baseline {baseline:.4f}")
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
