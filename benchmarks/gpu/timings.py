"""The operators on a GPU against the best alternative a user has, in fp16, for 8 and 64 clips; see ops.py.

    PYTHONPATH=.:benchmarks python -m gpu.timings --out timings.json

Every case is first compared with float32, in fp16 and in bf16, at the size that is timed. A case that is wrong, or that
fails, is told and costs no other its time; the exit status tells of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from ops import GRID, AssignmentCase, AttentionCase, EncoderCase, RoiCase, Row, Step, compare
from values import check_assignment, check_layers, check_operator, check_roi

from stoa.training.engine import choose_attention

DTYPES = (torch.bfloat16, torch.float16)
MODELLED_CLIPS = 64
#: Microseconds on an H200 with so many clips, modelled: what memory bandwidth alone would take (for the assignment, the
#: scan steps of the slowest problem), and what we aim at.
MODELLED_US = {
    "roi_align_max forward": (58.0, 120.0),
    "roi_align_max": (116.0, 210.0),
    "trajectory_attention forward": (13.0, 20.0),
    "batched_assignment": (3.0, 8.0),
}


def graphed(step: Step) -> Step:
    """The step as a CUDA graph: device time without Python's, and the proof that it can be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def roi(clips: int, device: torch.device) -> Iterator[Row]:
    for dtype in DTYPES:
        case = RoiCase(clips, device, dtype)
        check_roi(f"roi_align_max {case.sizes}", case, dtype, GRID)
    for theirs, against in (("separable", "two separable products"), ("torchvision", "torchvision roi_align + amax")):
        steps = graphed(case.step("ours")), graphed(case.step(theirs))
        yield compare("roi_align_max", against, case.sizes, steps, device, rounds=15)
    steps = graphed(torch.no_grad()(case.ours)), graphed(torch.no_grad()(case.torchvision))
    yield compare("roi_align_max forward", against, case.sizes, steps, device, rounds=15)


def attention(clips: int, device: torch.device) -> Iterator[Row]:
    for dtype in DTYPES:
        case = AttentionCase(clips, device, dtype)
        check_operator(f"trajectory_attention {case.sizes}", case, dtype, "ours", "sdpa")
    steps = graphed(case.step("ours")), graphed(case.step("sdpa"))
    yield compare("trajectory_attention", "SDPA with the mask", case.sizes, steps, device, rounds=15)
    steps = graphed(torch.no_grad()(case.ours)), graphed(torch.no_grad()(case.sdpa))
    yield compare("trajectory_attention forward", "SDPA with the mask", case.sizes, steps, device, rounds=15)


def encoder(clips: int, device: torch.device) -> Iterator[Row]:
    for dtype in DTYPES:
        case = EncoderCase(clips, device, dtype)
        check_layers(f"trajectory encoder {case.sizes}", case, dtype, "packed", "dense")
    steps = graphed(case.step("packed")), graphed(case.step("dense"))
    yield compare("trajectory encoder", "20 masked copies", case.sizes, steps, device, rounds=15)


def assignment(clips: int, device: torch.device) -> Iterator[Row]:
    case = AssignmentCase(clips, device)
    for dtype in (*DTYPES, torch.float32):
        check_assignment(f"batched_assignment {case.sizes}", case.cost.to(dtype))
    # SciPy reads the costs, which no graph can hold.
    steps = graphed(case.step("ours")), case.step("scipy")
    yield compare("batched_assignment", "a loop over SciPy", case.sizes, steps, device, rounds=15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, written anew with every row")
    args = parser.parse_args()
    device = torch.device("cuda")
    choose_attention(device)
    rows: list[Row] = []
    failed: list[str] = []
    for clips in (8, MODELLED_CLIPS):
        for rows_of in (assignment, attention, roi, encoder):
            try:
                for row in rows_of(clips, device):
                    rows.append(row)
                    if clips == MODELLED_CLIPS and row.operator in MODELLED_US:
                        floor, aim = MODELLED_US[row.operator]
                        print(f"{1e6 * row.ours:.1f} us; modelled floor {floor:g} us, aim {aim:g} us")
                    write(args.out, rows, failed)
            except Exception as error:  # whatever it is, the other cases have their turn
                failed.append(f"{rows_of.__name__}, {clips} clips: {' '.join(str(error).split())[:500]}")
                print(f"FAILED {failed[-1]}", flush=True)
                write(args.out, rows, failed)
            torch.cuda.empty_cache()
    if failed:
        sys.exit(f"{len(failed)} case(s) failed, first {failed[0]}")


def write(out: Path | None, rows: list[Row], failed: list[str]) -> None:
    if out:
        report = {"device": "cuda", "torch": torch.__version__, "rows": [asdict(row) for row in rows], "failed": failed}
        out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
