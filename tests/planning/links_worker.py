"""Run by test_links.py on each of two ranks: what a step of DeepSpeed sends, by the calls that reach torch."""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent.parent))

from factories import USED, tiny_config  # noqa: E402

from stoa.costs.batches import full_batch  # noqa: E402
from stoa.models.video_language import VideoLanguageModel  # noqa: E402
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.gather import rank  # noqa: E402
from stoa.objectives.total import TrainingObjective
from stoa.training import engine as ds  # noqa: E402
from stoa.training.config import OptimConfig
from stoa.training.optim import build_optimizer

NAMES = {
    "allreduce_": "all_reduce",
    "broadcast_": "broadcast",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
}


class Sent(TorchDispatchMode):
    """Counts collectives by name and bytes of the whole, the larger of what goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, name = str(func).split(".")[:2]
        if namespace == "c10d" and name != "barrier":
            sizes = [
                sum(x.numel() * x.element_size() for x in tree_leaves(given) if isinstance(x, torch.Tensor))
                for given in args[: 1 if name in ("allreduce_", "broadcast_") else 2]
            ]
            self.calls[NAMES[name], max(sizes)] += 1
        return func(*args, **(kwargs or {}))


def main(out: str, clips: int, runs: str) -> None:
    device = ds.init_distributed()
    told = {}
    for name, deepspeed in json.loads(runs).items():
        torch.manual_seed(0)
        objective = TrainingObjective(
            VideoLanguageModel(tiny_config(), used_token_ids=USED), ObjectivesConfig(), seed=0
        )
        engine = ds.initialize(objective, build_optimizer(objective, OptimConfig(warmup_steps=0)), deepspeed)
        batch = full_batch(objective.model.config, clips, device)
        for step in range(2):  # the first may make what the others reuse
            with Sent() as forward:
                loss, _ = engine(batch, torch.full((), step))
            with Sent() as backward:
                engine.backward(loss)
            with Sent() as update:
                engine.step()
        parts = {"forward": forward, "backward": backward, "update": update}
        told[name] = {part: [[*call, n] for call, n in sent.calls.items()] for part, sent in parts.items()}
    if rank() == 0:
        Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
