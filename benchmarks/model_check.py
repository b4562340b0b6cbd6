"""The whole model on a GPU: a step in fp16 and in bf16, its losses finite, and how often it makes the host wait.

python benchmarks/model_check.py --out model.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import torch
from batches import full_batch

from stoa.models.video_language import ModelConfig, VideoLanguageModel
from stoa.objectives.total import ObjectivesConfig, TrainingObjective


def check(dtype: torch.dtype, clips: int) -> dict[str, object]:
    """Three steps of the default model, STOA-VLP on ViT-B/16, cast as DeepSpeed casts it."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    objective = TrainingObjective(VideoLanguageModel(ModelConfig()), ObjectivesConfig(), seed=0).to(device, dtype)
    batch = full_batch(ModelConfig(), clips, device)
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
        "dtype": str(dtype),
        "clips": clips,
        "loss": float(loss),
        "loss is finite": bool(torch.isfinite(loss)),
        "gradients are finite": finite,
        "waits of the host": len(waits),
        "seconds of a step": seconds,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--clips", type=int, default=8)
    args = parser.parse_args()
    results = [check(dtype, args.clips) for dtype in (torch.float16, torch.bfloat16)]
    for result in results:
        print(result)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    wrong = [r for r in results if not r["loss is finite"] or r["waits of the host"]]
    if wrong:
        raise SystemExit(f"not finite, or the host waits: {wrong}")


if __name__ == "__main__":
    main()
