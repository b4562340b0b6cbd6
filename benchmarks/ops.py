"""The operators against the best alternative a user has: times as ratios within a round, and memory.

    python benchmarks/ops.py --out cpu.json      on the CPU, fp32; on a GPU: gpu/timings.py

Ours and the alternative take turns, so that what else the machine does meets both alike; a ratio is the median over
rounds of the ratio within a round. Forward and backward pass together, unless an operator has none.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from stoa.models.layers import Block
from stoa.ops import batched_assignment, roi_align_max, trajectory_attention
from stoa.ops.roi_align_max import reference as separable_roi_align_max

FRAMES, BOXES, GRID, WIDTH = 12, 10, (14, 14), 768
TRAJECTORIES, HEADS, LABELS = 20, 12, 30
NOUNS = 10
Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table. Times are seconds of one step, on an otherwise idle machine."""

    operator: str
    against: str
    sizes: str
    ratio: float
    lowest: float
    highest: float
    ours: float
    theirs: float
    target: float | None

    def __str__(self) -> str:
        verdict = "" if self.target is None else f"  target {self.target:g}x {'met' if self.met else 'MISSED'}"
        return (
            f"{self.operator:24} {self.sizes:34} {self.ratio:8.1f}x faster than {self.against:32} "
            f"({self.lowest:.1f} to {self.highest:.1f}), {1e3 * self.ours:.3f} ms against {1e3 * self.theirs:.3f} ms"
            f"{verdict}"
        )

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target


def forward_and_backward(run: Callable[[], Tensor], inputs: list[Tensor], weight: Tensor) -> Step:
    return lambda: torch.autograd.grad(run(), inputs, weight)


class RoiCase:
    """Frames of ViT-B/16 with all box slots filled."""

    def __init__(self, clips: int, device: torch.device, dtype: torch.dtype) -> None:
        frames = clips * FRAMES
        generator = torch.Generator().manual_seed(0)
        patches = torch.randn(frames, GRID[0] * GRID[1], WIDTH, generator=generator)
        corners = torch.rand(frames, BOXES, 2, 2, generator=generator).sort(dim=-2).values.flatten(-2)
        self.sizes = f"F={frames} K={BOXES} {GRID[0]}x{GRID[1]}x{WIDTH}"
        self.tokens = patches.to(device, dtype).requires_grad_()
        self.boxes = corners.to(device)
        self.valid = torch.ones(frames, BOXES, dtype=torch.bool, device=device)
        self.weight = torch.randn(frames, BOXES, WIDTH, generator=generator).to(device, dtype)

    def ours(self) -> Tensor:
        return roi_align_max(self.tokens, self.boxes, self.valid, grid_hw=GRID)[0]

    def separable(self) -> Tensor:
        return separable_roi_align_max(self.tokens, self.boxes, self.valid, GRID, GRID)[0]

    def torchvision(self) -> Tensor:
        maps = self.tokens.transpose(1, 2).unflatten(-1, GRID)
        boxes = list((self.boxes * GRID[0]).to(maps.dtype))
        bins = roi_align(maps, boxes, GRID, spatial_scale=1.0, sampling_ratio=-1, aligned=True)
        return bins.flatten(-2).amax(dim=-1).unflatten(0, (-1, BOXES))

    def step(self, name: str) -> Step:
        return forward_and_backward(getattr(self, name), [self.tokens], self.weight)


class EncoderCase:
    """Two layers over the trajectories of each clip: packed with [CLS] queries in the last, or a copy for each."""

    def __init__(self, clips: int, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        boxes = FRAMES * BOXES
        self.sizes = f"B={clips} {TRAJECTORIES} of {boxes} boxes, 2 layers"
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, 4 * WIDTH, nn.GELU()) for _ in range(2)).to(device, dtype)
        self.cls = torch.randn(1, 1, WIDTH, device=device, dtype=dtype)
        self.features = torch.randn(clips, boxes, WIDTH, device=device, dtype=dtype, requires_grad=True)
        self.labels = torch.randint(0, LABELS, (clips, boxes), device=device)
        self.kept = torch.arange(TRAJECTORIES, device=device).expand(clips, -1)
        self.weight = torch.randn(clips, TRAJECTORIES, WIDTH, device=device, dtype=dtype)

    def packed(self) -> Tensor:
        x = torch.cat([self.cls.expand(len(self.features), TRAJECTORIES, -1), self.features], dim=1)
        labels = torch.cat([self.kept, self.labels], dim=1)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return trajectory_attention(q, k, v, labels, labels[:, : q.shape[2]])

        return self.blocks[1](self.blocks[0](x, attend), attend, lambda x: x[:, :TRAJECTORIES])

    def dense(self) -> Tensor:
        clips, boxes, _ = self.features.shape
        copies = self.features[:, None].expand(clips, TRAJECTORIES, boxes, WIDTH)
        x = torch.cat([self.cls.expand(clips, TRAJECTORIES, 1, WIDTH), copies], dim=2).flatten(0, 1)
        own = self.labels[:, None] == self.kept[..., None]
        keys = torch.cat([own.new_ones(clips, TRAJECTORIES, 1), own], dim=2).flatten(0, 1)[:, None, None]
        attend = functools.partial(F.scaled_dot_product_attention, attn_mask=keys)
        for block in self.blocks:
            x = block(x, attend)
        return x[:, 0].unflatten(0, (clips, TRAJECTORIES))

    def step(self, name: str) -> Step:
        return forward_and_backward(getattr(self, name), [self.features, *self.blocks.parameters()], self.weight)


class AttentionCase:
    """One layer's attention over packed trajectories."""

    def __init__(self, clips: int, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        tokens, head_dim = TRAJECTORIES + FRAMES * BOXES, WIDTH // HEADS
        self.sizes = f"B={clips} H={HEADS} S={tokens} D={head_dim}"
        shape = (clips, HEADS, tokens, head_dim)
        self.inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
        kept = torch.arange(TRAJECTORIES, device=device).expand(clips, -1)
        self.labels = torch.cat([kept, torch.randint(0, LABELS, (clips, FRAMES * BOXES), device=device)], dim=1)
        self.mask = (self.labels[:, :, None] == self.labels[:, None, :])[:, None]
        self.weight = torch.randn(shape, device=device, dtype=dtype)

    def ours(self) -> Tensor:
        q, k, v = self.inputs
        return trajectory_attention(q, k, v, self.labels)

    def sdpa(self) -> Tensor:
        q, k, v = self.inputs
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)

    def step(self, name: str) -> Step:
        return forward_and_backward(getattr(self, name), self.inputs, self.weight)


class AssignmentCase:
    """Trajectories to nouns; the costs of a softmax."""

    def __init__(self, clips: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sizes = f"{clips} problems {TRAJECTORIES}x{NOUNS}"
        scores = torch.randn(clips, TRAJECTORIES, NOUNS, generator=generator)
        self.cost = -(5 * scores).softmax(dim=-1).to(device)

    def ours(self) -> Tensor:
        return batched_assignment(self.cost)[0]

    def scipy(self) -> object:
        return [linear_sum_assignment(problem) for problem in self.cost.cpu().numpy()]

    def step(self, name: str) -> Step:
        return getattr(self, name)


def seconds(step: Step, device: torch.device, repeat: int) -> float:
    """Time of one step, the mean of ``repeat``."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeat):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeat
    started = time.perf_counter()
    for _ in range(repeat):
        step()
    return (time.perf_counter() - started) / repeat


def compare(
    operator: str,
    against: str,
    sizes: str,
    steps: tuple[Step, Step],
    device: torch.device,
    *,
    rounds: int,
    target: float | None = None,
) -> Row:
    """Ours, the first step, against the second."""
    repeats = []
    for step in steps:
        step()
        # Long enough for a clock, short enough for many rounds.
        repeats.append(max(1, int(0.02 / max(1e-6, seconds(step, device, 1)))))
    pairs = [tuple(seconds(s, device, n) for s, n in zip(steps, repeats, strict=True)) for _ in range(rounds)]
    ratios = [theirs / ours for ours, theirs in pairs]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    row = Row(operator, against, sizes, statistics.median(ratios), min(ratios), max(ratios), ours, theirs, target)
    print(row, flush=True)
    return row


def cpu_rows() -> list[Row]:
    device, dtype = torch.device("cpu"), torch.float32
    roi, encoder, attention = (case(8, device, dtype) for case in (RoiCase, EncoderCase, AttentionCase))
    assignment = AssignmentCase(64, device)
    return [
        compare(
            "batched_assignment", "a loop over SciPy", assignment.sizes,
            (assignment.step("ours"), assignment.step("scipy")), device, rounds=15, target=4,
        ),
        compare(
            "trajectory_attention", "SDPA with the mask", attention.sizes,
            (attention.step("ours"), attention.step("sdpa")), device, rounds=15, target=3,
        ),
        compare(
            "roi_align_max", "two separable products", roi.sizes,
            (roi.step("ours"), roi.step("separable")), device, rounds=5, target=15,
        ),
        compare(
            "roi_align_max", "torchvision roi_align + amax", roi.sizes,
            (roi.step("ours"), roi.step("torchvision")), device, rounds=2, target=60,
        ),
        compare(
            "trajectory encoder", "20 masked copies", encoder.sizes,
            (encoder.step("packed"), encoder.step("dense")), device, rounds=2, target=25,
        ),
    ]  # fmt: skip


def memory_of(name: str) -> None:
    """Print the peak in bytes that a step of roi_align_max takes beyond inputs, outputs and the input's gradient."""
    case = RoiCase(8, torch.device("cpu"), torch.float32)
    print(peak_of(case.step(name), kept=4 * (case.tokens.numel() + case.weight.numel())))


def peak_of(step: Step, *, kept: int) -> int:
    """Peak in bytes that this process takes for a step, beyond what it had before and ``kept``."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    gradients = step()
    peak = _status("VmHWM") - before - kept
    del gradients
    return peak


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def memory_ratio() -> dict[str, float]:
    """Peaks of ours and torchvision's, each in a process of its own."""
    peaks = {}
    for name in ("ours", "torchvision"):
        answer = subprocess.run([sys.executable, __file__, "--memory_of", name], check=True, capture_output=True)
        peaks[name] = float(answer.stdout)
    peaks["ours as a part of torchvision's"] = peaks["ours"] / peaks["torchvision"]
    print(
        f"roi_align_max peak memory beyond inputs, outputs and input gradient: {peaks['ours'] / 2**20:.1f} MiB against "
        f"torchvision's {peaks['torchvision'] / 2**20:.1f} MiB, 1/{peaks['torchvision'] / peaks['ours']:.0f}"
    )
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--memory_of", choices=["ours", "torchvision"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory_of(args.memory_of)
        return
    report: dict[str, object] = {"device": "cpu", "torch": torch.__version__, "threads": torch.get_num_threads()}
    report["memory"] = memory_ratio()
    finish(report, cpu_rows(), args.out)


def finish(report: dict[str, object], rows: list[Row], out: Path | None) -> None:
    """Write the report; exits with an error where a target is missed."""
    report["rows"] = [asdict(row) for row in rows]
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n")
    if missed := [row for row in rows if not row.met]:
        sys.exit(f"{len(missed)} target(s) missed")


if __name__ == "__main__":
    main()
