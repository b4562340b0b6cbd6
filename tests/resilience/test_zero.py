"""ZeRO and offloading split states and change nothing: two processes reach losses and weights of plain training."""

import json
import math
from pathlib import Path

import pytest
import torch
from launch import ROOT, Program, finish, free_port
from safetensors.torch import load_file

from stoa.training.deepspeed_config import read_config
from stoa.training.engine import fit_precision

WORKER = Path(__file__).parent / "zero_worker.py"
BASE = {"train_micro_batch_size_per_gpu": 3, "gradient_clipping": 1.0}
SMALL = {"reduce_bucket_size": 50_000, "stage3_param_persistence_threshold": 0}
"""Several buckets, and no weight that ZeRO 3 does not split."""


def ready(name):
    """A file of ds_configs, in fp32, for small models."""
    config, _ = fit_precision(read_config(ROOT / "ds_configs" / f"{name}.json"), torch.device("cpu"))
    zero = config["zero_optimization"]
    zero |= {key: value for key, value in SMALL.items() if zero["stage"] == 3 or not key.startswith("stage3")}
    return {**config, **BASE, "bf16": {"enabled": False}}


READY = ["pretrain", "zero2_fp16", "zero2_offload_fp16", "zero3_fp16", "zero3_offload_bf16"]


def run(tmp_path, runs, ranks=2):
    """Train each in one group of processes; what it told, and its weights."""
    port = str(free_port())
    programs = [
        Program(
            [str(WORKER), str(tmp_path), json.dumps(runs)],
            tmp_path,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(ranks)
    ]
    for program in programs:
        finish(program)
    return {
        name: (json.loads((tmp_path / f"{name}.json").read_text()), load_file(tmp_path / f"{name}.safetensors"))
        for name in runs
    }


def same(found, other):
    (told, weights), (other_told, other_weights) = found, other
    assert told["losses"] == pytest.approx(other_told["losses"], rel=1e-6)
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, other_weights[name], rtol=1e-3, atol=5e-4, msg=name)


@pytest.mark.slow  # test_states.py goes from ZeRO 1 to 0 and 3
@pytest.mark.dist
def test_stages_and_offloading_reach_the_same(tmp_path):
    runs = {name: {"deepspeed": ready(name), "steps": 10} for name in ("zero0_fp32", *READY)}
    found = run(tmp_path, runs)
    plain = found.pop("zero0_fp32")
    assert plain[0]["losses"][-1] < 0.9 * plain[0]["losses"][0]
    for name, other in found.items():
        same(other, plain)
        norms = other[0]["norms"]
        assert all(math.isfinite(norm) and norm > 0 for norm in norms), name
        assert norms == pytest.approx(found["pretrain"][0]["norms"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.dist
def test_passes_of_a_step_add_up_in_every_stage(tmp_path):
    """ZeRO 2 reduces in every pass, and adds to what is there."""
    runs = {
        name: {"deepspeed": {**ready(name), "gradient_accumulation_steps": 2}, "steps": 4}
        for name in ("zero0_fp32", *READY)
    }
    found = run(tmp_path, runs)
    plain = found.pop("zero0_fp32")
    for other in found.values():
        same(other, plain)


@pytest.mark.slow
@pytest.mark.dist
def test_chunks_reach_the_same_as_the_whole_batch(tmp_path):
    runs = {name: {"deepspeed": ready(name), "steps": 4, "chunk_clips": 2} for name in ("zero0_fp32", *READY)}
    found = run(tmp_path, {"whole": {"deepspeed": ready("zero0_fp32"), "steps": 4}, **runs})
    whole = found.pop("whole")
    for other in found.values():
        same(other, whole)
