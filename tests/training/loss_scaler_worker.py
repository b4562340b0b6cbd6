"""Run by test_loss_scaler.py: DeepSpeed's fp16 engine on the CPU, with infinities planted in gradients
and a temperature that starts above its ceiling.

DeepSpeed refuses fp16 where the accelerator says it lacks it; the CPU computes fp16, slowly, so here it may.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent))

from factories import random_batch, tiny_model  # noqa: E402

from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.training import engine as ds  # noqa: E402
from stoa.training.config import OptimConfig
from stoa.training.optim import build_optimizer, set_learning_rates

STEPS, PLANTED = 9, {2, 3, 5}


CONFIG = {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0}
FP16 = {"enabled": True, "loss_scale": 0, "initial_scale_power": 4, "loss_scale_window": 2, "hysteresis": 1}


def first_norms() -> dict[str, float]:
    """Norm of the gradients of one step: by plain autograd, and as DeepSpeed tells it."""
    objective = TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0)
    objective(random_batch(4), 0)[0].backward()
    found = {"plain": float(torch.stack([p.grad.norm() for p in objective.parameters() if p.grad is not None]).norm())}
    for stage in (0, 1, 2):
        for precision in ({}, *([{"bf16": {"enabled": True}}, {"fp16": FP16}] if stage else [])):
            objective = TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0)
            config = {**CONFIG, **precision, "zero_optimization": {"stage": stage}}
            engine = ds.initialize(objective, build_optimizer(objective, OptimConfig()), config)
            engine.backward(engine(random_batch(4), 0)[0])
            engine.step()
            found[f"stage {stage} {next(iter(precision), 'fp32')}"] = float(ds.grad_norm(engine, torch.device("cpu")))
    return found


def main(out: str) -> None:
    ds.init_distributed()
    from deepspeed.accelerator import get_accelerator

    type(get_accelerator()).is_fp16_supported = lambda self: True
    norms = first_norms()
    config = {**CONFIG, "zero_optimization": {"stage": 1}, "fp16": FP16}
    objective = TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0)
    with torch.no_grad():
        objective.model.clip.logit_scale.fill_(6.0)
    engine = ds.initialize(objective, build_optimizer(objective, OptimConfig(clip_lr=3e-3)), config)
    weight = engine.module.model.clip.visual.proj
    inject = [False]
    weight.register_hook(lambda grad: torch.full_like(grad, torch.inf) if inject[0] else grad)
    record = []
    for step in range(STEPS):
        set_learning_rates(engine.optimizer, 1.0)
        inject[0] = step in PLANTED
        before = weight.detach().clone()
        loss, scalars = engine(random_batch(4, seed=step), step)
        engine.backward(loss)
        engine.step()
        record.append(
            {
                "loss": float(loss),
                "moved": not torch.equal(before, weight),
                "scale": float(engine.optimizer.loss_scale),
                "temperature": float(scalars["temperature"]),
                "logit_scale": float(engine.module.model.clip.logit_scale),
                "skipped": ds.skipped_steps(engine),
            }
        )
    torch.save({"record": record, "norms": norms, "fp16": ds.uses_fp16(engine), "dtype": str(weight.dtype)}, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
