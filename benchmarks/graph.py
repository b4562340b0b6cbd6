"""STGT's graph: the band of frames against all pairs of patches, its memory, and what it adds to a step of `base`.

    python benchmarks/graph.py                        one clip of ViT-B/16 on the CPU, fp32
    python benchmarks/graph.py --device cuda          four clips on a GPU, fp16

On a GPU what is timed is compared with float32 first, in fp16 and in bf16, at the size that is timed.

Ours and the alternative take turns; a ratio is the median over rounds of the ratio within a round. Forward and backward
pass together. The alternative is what the release computes: similarities, logits and a mask of all pairs of patches.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import torch
from ops import Row, Step, compare, finish, forward_and_backward, peak_of
from torch import Tensor
from torch.nn import functional as F
from values import check_graph, check_modules

from stoa.costs.batches import full_batch
from stoa.models.config import ActionConfig, GraphConfig, ModelConfig, ObjectConfig
from stoa.models.graph import GraphEncoder
from stoa.models.graph_attention import band_edges, density, graph_attention
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.training.engine import choose_attention

HEADS, HEAD_DIM, PATCHES, WIDTH, THRESHOLD = 12, 64, 196, 768, 0.5
TARGETS = {8: 1.6, 12: 2.2}
MEMORY_FRAMES = (8, 16, 32)
HALVES = (torch.float16, torch.bfloat16)


class AttentionCase:
    """Similarities and attention of one layer; about two thirds of the edges of the band are above the threshold."""

    def __init__(self, clips: int, frames: int, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sizes = f"B={clips} T={frames} P={PATCHES} H={HEADS} D={HEAD_DIM}"
        shape = (clips, HEADS, frames, PATCHES, HEAD_DIM)
        qkv = (torch.randn(shape, generator=generator) for _ in range(3))
        self.inputs = [x.to(device, dtype).requires_grad_() for x in qkv]
        patches = torch.randn(clips, frames, PATCHES, WIDTH, generator=generator) + 1.02
        self.patches = patches.to(device, dtype)
        self.weight = torch.randn(shape, generator=generator).to(device, dtype)

    def band(self) -> Tensor:
        edges = band_edges(self.patches, reach=1, threshold=THRESHOLD)
        q, k, v = self.inputs
        return graph_attention(q, k, v, edges, "multiply")

    def all_pairs(self) -> Tensor:
        frames = self.patches.shape[1]
        nodes = F.normalize(self.patches.flatten(1, 2), dim=-1)
        similarity = nodes @ nodes.transpose(1, 2)
        frame = torch.arange(frames, device=nodes.device).repeat_interleave(PATCHES)
        kept = (similarity >= THRESHOLD) & ((frame[:, None] - frame).abs() <= 1)
        q, k, v = (x.flatten(2, 3) for x in self.inputs)
        logits = q @ k.transpose(2, 3) / math.sqrt(HEAD_DIM) * similarity[:, None]
        weights = logits.masked_fill(~kept[:, None], -math.inf).softmax(dim=-1)
        return (weights @ v).unflatten(2, (frames, PATCHES))

    def step(self, name: str) -> Step:
        return forward_and_backward(getattr(self, name), self.inputs, self.weight)


def attention_rows(clips: int, device: torch.device, dtype: torch.dtype) -> list[Row]:
    rows = []
    for frames, target in TARGETS.items():
        if device.type == "cuda":
            for half in HALVES:
                case = AttentionCase(clips, frames, device, half)
                check_graph(f"graph attention {case.sizes}", case, half, "band", "all_pairs")
        case = AttentionCase(clips, frames, device, dtype)
        difference = (case.band() - case.all_pairs()).abs().max().item()
        kept = density(band_edges(case.patches, reach=1, threshold=THRESHOLD)).mean().item()
        print(f"T={frames}: {kept:.0%} of the band's edges; band and all pairs differ by {difference:.1e} at most")
        steps = case.step("band"), case.step("all_pairs")
        aim = target if device.type == "cpu" else None
        rows.append(compare("graph attention", "all pairs", case.sizes, steps, device, rounds=7, target=aim))
    return rows


def memory_of(name: str, frames: int) -> None:
    """Print the peak in bytes that a step takes beyond its inputs, outputs and gradients."""
    case = AttentionCase(1, frames, torch.device("cpu"), torch.float32)
    print(peak_of(case.step(name), kept=4 * sum(x.numel() for x in (case.weight, *case.inputs))))


def memory_by_frames() -> dict[str, list[float]]:
    """Peaks in MiB by number of frames, each in a process of its own."""
    peaks: dict[str, list[float]] = {}
    for name in ("band", "all_pairs"):
        command = [sys.executable, __file__, "--memory_of", name, "--frames"]
        answers = [
            subprocess.run([*command, str(n)], check=True, capture_output=True, text=True).stdout for n in MEMORY_FRAMES
        ]
        peaks[name] = [float(answer) / 2**20 for answer in answers]
        print(f"peak memory at T={MEMORY_FRAMES}, {name}: {', '.join(f'{mib:.0f} MiB' for mib in peaks[name])}")
    return peaks


def module_row(clips: int, device: torch.device, dtype: torch.dtype) -> Row:
    """The graph module, forward and backward, against the whole step of `base` with as many frames, neither with
    recomputed activations."""
    config = ModelConfig(num_frames=8, objects=ObjectConfig(num_trajectories=0), actions=ActionConfig(num_tokens=0))
    torch.manual_seed(0)
    model = VideoLanguageModel(config).to(device)
    objective = TrainingObjective(model, ObjectivesConfig(ota=0.0, asp=0.0), seed=0)
    graph = GraphEncoder(GraphConfig(layers=1), model.clip.visual, num_frames=8).to(device)
    batch = full_batch(config, clips, device)
    if device.type == "cuda":
        tokens = torch.randn(clips, 8, 1 + PATCHES, WIDTH, device=device)
        check_modules("graph module", graph, HALVES, lambda module, x: module(x).tokens_BRd, tokens)
        check_modules("losses of base", objective, HALVES, lambda module, _: module(batch, 0)[0], tokens)
    graph.to(dtype)
    objective.to(dtype)
    tokens = torch.randn(clips, 8, 1 + PATCHES, WIDTH, device=device, dtype=dtype, requires_grad=True)

    def module() -> object:
        out = graph(tokens)
        return (out.tokens_BRd.sum() + out.pooled_Bd.sum()).backward()

    def step() -> object:
        return objective(batch, 0)[0].backward()

    row = compare("graph module", "a step of base", f"B={clips} T=8 ViT-B/16", (module, step), device, rounds=5)
    print(f"graph module: {1 / row.ratio:.1%} of a step of base (bound 13%)")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--memory_of", choices=["band", "all_pairs"], help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory_of(args.memory_of, args.frames)
        return
    device = torch.device(args.device)
    choose_attention(device)
    on_cpu = device.type == "cpu"
    report: dict[str, object] = {"device": args.device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    if on_cpu:
        report["peak MiB"] = {"frames": MEMORY_FRAMES, **memory_by_frames()}
    dtype = torch.float32 if on_cpu else torch.float16
    rows = attention_rows(1 if on_cpu else 4, device, dtype)
    rows.append(module_row(2 if on_cpu else 4, device, dtype))
    finish(report, rows, args.out)


if __name__ == "__main__":
    main()
