"""What ``stoa plan`` says of memory, against a training step that is measured: live bytes of tensors, on a CPU.

    python benchmarks/plan_memory.py --out benchmarks/results/plan-memory-cpu.json

A step of DeepSpeed is watched operation by operation; what lived before it began is found by the garbage collector. In
fp32, since half precision is slow on most CPUs; tests/planning/test_planned_memory.py compares it on a narrow model,
where the attention is told to compute as a GPU does: for speed it computes in fp32 on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from stoa.config import Config, parse_run
from stoa.costs.batches import full_batch
from stoa.costs.tracing import Tracer
from stoa.models import layers
from stoa.models.config import recomputed_parts
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.total import TrainingObjective
from stoa.planning.imagined import ImaginedRun
from stoa.planning.memory import memory_of
from stoa.planning.states import precision_of, states
from stoa.training import engine as ds
from stoa.training.optim import build_optimizer

_BUCKET = 50_000_000
CASES: list[dict[str, Any]] = [
    {"recipe": "stoa", "recomputed": "[towers,fusion]", "stage": 1, "clips": 8, "world": 1},
    {"recipe": "base", "recomputed": "[]", "stage": 0, "clips": 2, "world": 1},
    {"recipe": "stoa_stgt", "recomputed": "[graph,fusion]", "stage": 2, "clips": 1, "world": 1},
    {"recipe": "stgt", "recomputed": "[]", "stage": 1, "clips": 2, "world": 1},
    {"recipe": "stoa", "recomputed": "[]", "stage": 1, "clips": 4, "world": 2},
    {"recipe": "stoa", "recomputed": "[towers]", "stage": 2, "clips": 4, "world": 2},
]


def deepspeed_config(case: dict[str, Any]) -> dict[str, Any]:
    zero = {"stage": case["stage"], "overlap_comm": case["stage"] > 0, "reduce_bucket_size": _BUCKET}
    config = {"train_micro_batch_size_per_gpu": case["clips"], "gradient_clipping": 1.0, "zero_optimization": zero}
    return {**config, case["precision"]: {"enabled": True}} if "precision" in case else config


def planned(config: Config, deepspeed: dict[str, Any], world: int) -> int:
    """Bytes."""
    run = ImaginedRun(config.model, config.objectives, config.training, precision=precision_of(deepspeed))
    assert config.model.activation_checkpointing != "auto"
    held = states(run.parameters, run.trained, deepspeed, world=world)
    step = run.step(
        deepspeed["train_micro_batch_size_per_gpu"],
        world=world,
        recomputed=recomputed_parts(config.model.activation_checkpointing),
        keeps_gradients=not held.gradients,
    )
    return memory_of(held, step.before, step.after).total


def measured(config: Config, deepspeed: dict[str, Any]) -> int:
    """Most live bytes of tensors in a step of this process."""
    device = ds.init_distributed()
    layers.computes_slowly = lambda q: False
    model = VideoLanguageModel(config.model)
    model.clip.visual.freeze(config.training.optim.frozen_vision_blocks or 0)
    objective = TrainingObjective(model, config.objectives, seed=0)
    engine = ds.initialize(objective, build_optimizer(objective, config.training.optim), deepspeed)
    peak, clips = 0, deepspeed["train_micro_batch_size_per_gpu"]
    for step, size in enumerate((1, clips)):  # the first makes the optimiser's states
        gc.collect()
        held = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.device == device]
        tracer = Tracer()
        with tracer:
            tracer.know("held", held)
            del held
            loss, _ = engine(full_batch(config.model, size, device), step)
            engine.backward(loss)
            engine.step()
            del loss
        peak = tracer.peak
    return peak


def case_config(case: dict[str, Any]) -> Config:
    recipe = Path(__file__).parent.parent / "recipes" / f"{case['recipe']}.yaml"
    given = ["--recipe", str(recipe), "--deepspeed_config", "none"]
    return parse_run([*given, "--model.activation_checkpointing", case["recomputed"]])


def _one_rank(case: dict[str, Any]) -> None:
    config, deepspeed = case_config(case), deepspeed_config(case)
    print(json.dumps({"planned": planned(config, deepspeed, case["world"]), "measured": measured(config, deepspeed)}))


def _run(number: int) -> dict[str, Any]:
    case = CASES[number]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": case["world"], "LOCAL_WORLD_SIZE": case["world"], "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--case", str(number)],
            env=os.environ
            | {k: str(v) for k, v in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            | {"MASTER_ADDR": "127.0.0.1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(case["world"])
    ]
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"case {case} failed")
    ranks = [json.loads(text.splitlines()[-1]) for text in told]
    most = max(ranks, key=lambda rank: rank["measured"])
    return {**case, **most, "planned over measured": most["planned"] / most["measured"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, help="one rank of one case, in this process")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.case is not None:
        return _one_rank(CASES[args.case])
    results = []
    for number in range(len(CASES)):
        results.append(found := _run(number))
        print(
            f"{found['recipe']:10} ZeRO {found['stage']} {found['recomputed']:16} {found['clips']} clips, "
            f"{found['world']} rank(s): planned {found['planned'] / 2**30:.2f} GiB, measured "
            f"{found['measured'] / 2**30:.2f}, {found['planned over measured']:.3f}",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps({"cases": results, "torch": torch.__version__}, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
