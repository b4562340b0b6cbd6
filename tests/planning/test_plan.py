"""``stoa plan``: what fits, what is the cheapest, and what is said where nothing does."""

import dataclasses
import json
import re

import pytest
import torch
from factories import USED, tiny_config, tiny_model
from imagined_runs import imagined_once

from stoa.cli import main
from stoa.costs.batches import full_batch
from stoa.costs.devices import GPUS, gpu_named
from stoa.costs.flops import flops_per_batch, total_flops
from stoa.costs.tracing import Tracer, Work
from stoa.models.config import GraphConfig
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.planning import automatic as automatic_parts
from stoa.planning import request
from stoa.planning.automatic import recomputed_on
from stoa.planning.links import Cluster
from stoa.planning.memory import Memory, room
from stoa.planning.plan import Choice, Estimate, Planner, cheapest
from stoa.planning.roofline import MEMORY, PRODUCTS, Seconds, passes, update
from stoa.training.config import TrainingConfig
from stoa.training.deepspeed_config import read_config

RECIPE = ("--recipe", "recipes/small/base.yaml", "--model.backbone.name", "stoa-tiny", "--model.fusion.layers", "1")
RECIPE += tuple(word for name in ("vtm", "mlm", "plm") for word in (f"--objectives.{name}", "0"))  # few operations
H200 = gpu_named("H200", "--gpu")


@pytest.fixture(autouse=True)
def runs_are_shared(monkeypatch):
    for module in (request, automatic_parts):
        monkeypatch.setattr(module, "ImaginedRun", imagined_once)


def imagined(precision="fp32", graph=0, chunk_clips=None):
    config, training = tiny_config(graph=GraphConfig(layers=graph)), TrainingConfig(chunk_clips=chunk_clips)
    return imagined_once(config, ObjectivesConfig(), training, precision=precision, used_token_ids=USED)


def test_an_imagined_step_is_that_of_a_model():
    step = imagined().step(3, world=1, recomputed=(), keeps_gradients=True)
    objective = TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0)
    with Tracer() as tracer:
        tracer.know("weights", (*objective.parameters(), *objective.buffers()))
        objective(full_batch(objective.model.config, 3, torch.device("cpu")), 0)[0].backward()
    assert max(step.before, step.after) == pytest.approx(tracer.peak - tracer.live["weights"], rel=0.01)
    flops = sum(count * work.flops for work, count in step.work.items())
    assert flops == pytest.approx(total_flops(flops_per_batch(objective.model, ObjectivesConfig(), 3)), rel=0.02)


@pytest.mark.slow
def test_of_the_others_a_rank_holds_what_it_gathers():
    run = imagined()
    some, twice = (run.step(4, world=world, recomputed=()).after for world in (2048, 4096))
    config = run.model.config
    tokens = sum(config.group_sizes.values()) + config.max_tokens
    assert twice - some > 2048 * 4 * tokens * run.model.clip.joint_width * 4  # gathered for VTM's negatives


def test_half_precision_holds_about_half():
    full, half = (imagined(precision).step(32, world=1, recomputed=()).after for precision in ("fp32", "bf16"))
    assert 0.4 * full < half < 0.8 * full


@pytest.mark.slow
def test_gradients_in_buckets_are_not_held_beside_them():
    run = imagined()
    kept, handed_on = (run.step(4, world=1, recomputed=(), keeps_gradients=keeps) for keeps in (True, False))
    assert kept.before == handed_on.before
    assert kept.after > handed_on.after
    assert all(p.grad is None for p in run.objective.parameters())


def test_chunks_hold_less():
    whole, chunks = (imagined(chunk_clips=clips).step(96, world=1, recomputed=()) for clips in (None, 32))
    assert chunks.before < whole.before
    assert chunks.after < 0.6 * whole.after


@pytest.mark.slow
def test_what_passes_in_chunks_is_on_a_line_of_its_own():
    planner = Planner(imagined(chunk_clips=8), Cluster(H200, 1, 1, 100), "fp32")
    for clips in (4, 24):
        estimated, exact = (planner.estimate(Choice(1, (), clips), exact=exact) for exact in (False, True))
        assert estimated.memory.total == pytest.approx(exact.memory.total, rel=0.05)
        assert estimated.seconds.host == pytest.approx(exact.seconds.host, rel=0.05)


def test_where_the_line_was_too_low_fewer_clips_are_taken(monkeypatch):
    planner = Planner(imagined(), Cluster(H200, 1, 1, 100), "bf16")
    estimate = planner.estimate

    def steeper(choice, *, exact=False):
        found = estimate(choice)
        more = found.memory._replace(passes=planner.room + 1 if exact and choice.clips > 16 else 0)
        return dataclasses.replace(found, memory=more)

    monkeypatch.setattr(planner, "estimate", steeper)
    rows = [steeper(Choice(1, (), 64))]
    assert request._cheapest_that_fits(planner, request.Request(gpu="H200", gpus_per_node=1), rows).choice.clips == 16


@pytest.mark.slow
def test_every_choice_saves_something():
    run = imagined(graph=1)
    choices = run.recomputable()
    steps = [run.step(128, world=1, recomputed=choice) for choice in choices]
    assert steps[0].after == max(step.after for step in steps)
    assert len({step.work.total() for step in steps}) == len(choices) == 5
    assert len(imagined().recomputable()) == 4


def test_an_operation_takes_as_long_as_its_slower_side():
    products, traffic = PRODUCTS * 989e12, MEMORY * 4800e9
    work = {Work(flops=products, bytes=1): 2, Work(flops=0, bytes=3 * traffic): 1}
    assert passes(work, H200, "bf16") == pytest.approx(5)
    assert passes(work, H200, "fp32") == pytest.approx(3 + 2 * 989 / 67)


def test_an_update_is_split_over_ranks_until_the_host_is_slower():
    one, many = Cluster(H200, 1, 1, 100), Cluster(H200, 1, 8, 100)
    assert update(10**9, one, partitioned=True) == pytest.approx(8 * update(10**9, many, partitioned=True))
    assert update(10**9, many, partitioned=False) == update(10**9, one, partitioned=True)
    assert update(1, many, partitioned=True) > 1e-5


def estimate(rate, gib, stage=1, recomputed=(), clips=8):
    memory = Memory(weights=0, optimiser=0, passes=gib, update=0)
    seconds = Seconds(device=1.0, host=0.0, update=0.0, gathering=0.0, communication=0.0, waiting=0.0)
    return Estimate(choice=Choice(stage, recomputed, clips), memory=memory, seconds=seconds, samples_per_second=rate)


def test_the_cheapest_fits_and_is_the_simplest_of_equals():
    fast, large = estimate(100, 10), estimate(200, 30)
    assert cheapest([fast, large], room=20) is fast
    assert cheapest([fast, large], room=30) is large
    assert cheapest([fast, large], room=5) is None
    plain = estimate(99, 10)
    assert cheapest([estimate(100, 10, stage=2), estimate(100, 10, recomputed=("fusion",)), plain], room=20) is plain
    more = estimate(99, 12, clips=16)
    assert cheapest([plain, more], room=20) is more


def test_a_plan_can_be_written_and_read_by_training(tmp_path, capsys):
    written = tmp_path / "mine.json"
    assert main(["plan", *RECIPE, "--gpu", "v100-16gb", "--clips", "10000", "--write", str(written)]) == 0
    out = capsys.readouterr().out
    config = read_config(written)
    assert config["fp16"]["enabled"]
    sentences = ("modelled, not measured", "cheapest: ZeRO 1", "GPU hours", "epochs", "loader processes", "fits")
    for said in (*sentences, f"written to {written}"):
        assert said in out
    assert json.dumps(config["train_micro_batch_size_per_gpu"]) in out
    assert main(["plan", *RECIPE, "--gpu", "V100-16", "--write", str(written)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_as_json_for_a_global_batch(capsys):
    options = ("--gpu", "H200", "--nodes", "2", "--gpus_per_node", "3", "--global_batch", "36", "--json")
    assert main(["plan", *RECIPE, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modelled"] is True
    assert {choice["clips"] * choice["accumulation"] for choice in found["choices"]} == {6}
    best = found["cheapest"]
    assert best["fits"] and best["memory"]["total"] <= found["room"]
    assert best["samples_per_second"] == pytest.approx(36 / best["seconds"]["total"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "H2000"), "--gpu H2000 is no GPU known here; did you mean H200?"),
        (("--gpu", "H200", "--nodes", "0"), "--nodes is 0; expected at least 1"),
        (("--gpu", "H200", "--micro_batch", "-1"), "--micro_batch is -1; expected at least 1"),
        (("--gpu", "H200", "--scaling", "0"), "--scaling is 0; expected at least 1"),
        (("--gpu", "H200", "--network_gbit", "0"), "--network_gbit is 0"),
        (("--gpu", "V100-32", "--precision", "bf16"), "--precision is bf16; V100-32 has fp16, fp32"),
        (("--gpu", "H200", "--global_batch", "1000", "--gpus_per_node", "3"), "the nearest is 999"),
        (("--gpu", "V100-16", "--micro_batch", "100000"), "does not fit on V100-16: ZeRO"),
        (("--gpu", "H200", "--model.max_tokens", "1000"), "model.max_tokens is 1000"),
    ],
)
def test_what_cannot_be_planned_is_one_line(options, message, capsys):
    assert main(["plan", *RECIPE, *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert ("does not fit" in err) == (re.search(r"; --micro_batch \d+ fits$", err) is not None)
    assert len(err.strip().splitlines()) == 1


def automatic(device_bytes, clips=8):
    config = {"train_micro_batch_size_per_gpu": clips, "zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}}
    given = (tiny_config(activation_checkpointing="auto"), ObjectivesConfig(), TrainingConfig(), config)
    return recomputed_on(device_bytes, *given, world=1, used_token_ids=USED)


def test_as_little_is_computed_again_as_memory_asks_for():
    parts, said = automatic(int(GPUS[-1].memory_gib * 2**30))
    assert parts == () and "all activations are kept" in said
    parts, said = automatic(None)
    assert parts == ("towers", "graph", "fusion") and "there is no GPU" in said
    parts, said = automatic(2**30)
    assert parts and "lower train_micro_batch_size_per_gpu" in said


@pytest.mark.slow
def test_the_first_choice_that_fits_is_taken():
    clips = 2048
    run = imagined()
    choices = run.recomputable()
    needed = [run.step(clips, world=1, recomputed=choice).after for choice in choices]
    assert needed[2] < 0.8 * needed[1]
    between = (needed[2] + needed[1]) / 2 + 20 * run.parameters
    device = next(size for size in range(2**30, 2**34, 2**22) if room(size) >= between)
    parts, said = automatic(device, clips)
    assert parts == choices[2]
    assert "activations of towers are computed again" in said and "lower" not in said
