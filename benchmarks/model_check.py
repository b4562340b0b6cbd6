"""The whole model on a GPU, as the recipes train it: steps of both methods in fp16 and in bf16, their losses and
gradients finite, and how often they make the host wait; captions, which are to be those of the CPU.

python benchmarks/model_check.py --out model.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from stoa.costs.batches import START, full_batch
from stoa.models.config import GraphConfig, ModelConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import CsalConfig, ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.tasks.config import GenerationConfig
from stoa.tasks.generation import generate
from stoa.training.engine import choose_attention

SECOND_STAGE = CsalConfig(share=1.0)
CASES = {
    "stoa": (ModelConfig(activation_checkpointing=True), ObjectivesConfig()),
    "stoa+stgt": (
        ModelConfig(num_frames=8, graph=GraphConfig(layers=1), activation_checkpointing=True),
        ObjectivesConfig(csal=SECOND_STAGE),
    ),
}


def check(case: str, dtype: torch.dtype, clips: int) -> dict[str, object]:
    """Three steps of a model on ViT-B/16, cast as DeepSpeed casts it."""
    device, (config, objectives) = torch.device("cuda"), CASES[case]
    torch.manual_seed(0)
    objective = TrainingObjective(VideoLanguageModel(config), objectives, seed=0).to(device, dtype)
    batch = full_batch(config, clips, device)
    torch.cuda.reset_peak_memory_stats()
    for step in range(3):
        objective.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            loss, _ = objective(batch, step)
            loss.backward()
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    waits = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
    finite = all(bool(p.grad.isfinite().all()) for p in objective.parameters() if p.grad is not None)
    return {
        "case": case,
        "dtype": str(dtype),
        "clips": clips,
        "loss": float(loss),
        "loss is finite": bool(torch.isfinite(loss)),
        "gradients are finite": finite,
        "waits of the host": len(waits),
        "seconds of a step": seconds,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


@torch.inference_mode()
def same_captions(device: torch.device, clips: int) -> bool:
    """Beam search in fp32 says on the device what it says on the CPU."""
    torch.manual_seed(0)
    config = ModelConfig(num_frames=4, max_tokens=12, objects=ObjectConfig(num_trajectories=4, motion=True))
    model = VideoLanguageModel(config).eval()
    model.lm_head.norm.weight.mul_(20)  # else all words are about as likely
    batch, said = full_batch(config, clips, torch.device("cpu")), []
    colours = torch.randint(0, 256, (clips, 1, 3, 1, 1), dtype=torch.uint8)  # noise looks like any other noise
    batch = replace(batch, frames_BTCHW=colours.expand_as(batch.frames_BTCHW).contiguous())
    for place in (torch.device("cpu"), device):
        there = copy.deepcopy(model).to(place)
        video = there.encode_video(batch.to(place))
        start, ones = torch.full((clips, 1), START, device=place), torch.ones(clips, dtype=torch.int64, device=place)
        said.append(generate(there, video, start, ones, GenerationConfig(beams=3), "one_pass"))
    assert any(caption != said[0][0] for caption in said[0]), "the captions are to depend on the clips"
    return said[0] == said[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--clips", type=int, default=8)
    args = parser.parse_args()
    choose_attention(torch.device("cuda"))
    results = [check(case, dtype, args.clips) for case in CASES for dtype in (torch.float16, torch.bfloat16)]
    for result in results:
        print(result)
    same = same_captions(torch.device("cuda"), args.clips)
    print(f"captions as on the CPU: {same}")
    if args.out:
        args.out.write_text(json.dumps({"steps": results, "captions as on the CPU": same}, indent=2) + "\n")
    fine = ("loss is finite", "gradients are finite")
    wrong = [r for r in results if not all(r[name] for name in fine) or r["waits of the host"]]
    if wrong or not same:
        raise SystemExit(f"not finite, the host waits, or the captions differ: {wrong or 'captions'}")


if __name__ == "__main__":
    main()
