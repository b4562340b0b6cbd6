"""What ranks send, against what a step of DeepSpeed sends, and how long that takes, against closed forms."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from factories import USED, tiny_config
from launch import Program, finish, free_port

from stoa.costs.devices import GPUS, gpu_named
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.gather import Collective
from stoa.planning.imagined import ImaginedRun
from stoa.planning.links import LINKS, UNEVEN, Cluster, communication, gathering, seconds, traffic, waiting
from stoa.training.config import TrainingConfig

WORKER = Path(__file__).parent / "links_worker.py"
H200 = gpu_named("H200", "--gpu")
MANY = [Cluster(gpu, nodes, each, 100) for gpu in GPUS[::2] for nodes in (1, 2, 16, 128) for each in (1, 4, 8)]
GIB = 2**30
LARGE = [f"stage3_{name}" for name in ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance")]
"""What keeps small weights after a use."""


@pytest.mark.slow
@pytest.mark.dist
def test_a_step_sends_what_two_ranks_send(tmp_path):
    clips, stages = 3, (0, 1, 2, 3)
    bucket = 10**6
    as_if_large = dict.fromkeys(LARGE, 0)
    configs = {
        str(stage): {
            "train_micro_batch_size_per_gpu": clips,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": bucket, **(as_if_large if stage == 3 else {})},
        }
        for stage in stages
    }
    port = str(free_port())
    programs = [
        Program(
            [str(WORKER), str(tmp_path / "sent.json"), str(clips), json.dumps(configs)],
            tmp_path,
            **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": port},
        )
        for rank in "01"
    ]
    for program in programs:
        finish(program)
    run = ImaginedRun(tiny_config(), ObjectivesConfig(), TrainingConfig(), precision="fp32", used_token_ids=USED)
    ours = run.step(clips, world=2, recomputed=()).sent
    assert ours
    for stage, told in json.loads((tmp_path / "sent.json").read_text()).items():
        sent = Counter[Collective]()
        for calls in told.values():
            sent.update({Collective(name, size): times for name, size, times in calls})
        assert all(sent[one] >= times for one, times in ours.items())
        behind, seen = traffic(int(stage), 4 * sum(run.trained), 4 * bucket)
        found, expected = by_name(sent - ours), by_name(behind + seen)
        for name in {*found, *expected}:
            assert found[name] == pytest.approx(expected[name], rel=0.02, abs=2e-3 * 4 * sum(run.trained)), (
                stage,
                name,
            )


def by_name(sent):
    total = Counter()
    for one, times in sent.items():
        total[one.name] += times * one.bytes
    return total


def test_large_rings_are_as_fast_as_their_slowest_link():
    size = 400 * GIB
    machine, cluster, spread = Cluster(H200, 1, 8, 100), Cluster(H200, 4, 8, 100), Cluster(H200, 32, 1, 100)
    gathered, reduced = Collective("all_gather", size), Collective("all_reduce", size)
    assert seconds(gathered, machine) == pytest.approx(7 / 8 * size / (LINKS * 450e9), rel=1e-3)
    over_network = 31 / 32 * size / (LINKS * 12.5e9)
    for ranks in (cluster, spread):
        assert seconds(gathered, ranks) == pytest.approx(over_network, rel=1e-3)
        assert seconds(reduced, ranks) == pytest.approx(2 * over_network, rel=1e-3)
        assert seconds(Collective("reduce_scatter", size), ranks) == seconds(gathered, ranks)


def test_small_messages_take_as_long_as_hops():
    """A ring's are as many as there are ranks, a tree's as their logarithm."""
    few, many = Cluster(H200, 16, 8, 100), Cluster(H200, 128, 8, 100)
    assert seconds(Collective("all_gather", 4), many) == pytest.approx(3.6e-6 + 896 * 0.47e-6 + 127 * 2.7e-6, rel=1e-4)
    assert seconds(Collective("all_reduce", 4), few) == pytest.approx(4.4e-6 + 2 * (7 * 0.52e-6 + 4 * 5e-6), rel=1e-3)
    assert seconds(Collective("all_reduce", 4), many) < 2 * seconds(Collective("all_reduce", 4), few)


@pytest.mark.parametrize("name", ["all_reduce", "all_gather", "reduce_scatter"])
def test_more_bytes_more_ranks_and_slower_networks_take_longer(name):
    for cluster in MANY:
        times = [seconds(Collective(name, 10**power), cluster) for power in range(11)]
        assert times == sorted(times)
        if cluster.world == 1:
            assert not any(times)
            continue
        for other in (
            cluster._replace(nodes=2 * cluster.nodes),
            cluster._replace(network_gbit=50),
            cluster._replace(gpus_per_node=2 * cluster.gpus_per_node),
        ):
            assert all(seconds(Collective(name, 10**power), other) >= times[power] for power in range(11))


def test_stages_send_two_three_and_three_times_the_weights():
    def volume(stage):  # a ring's, an all-reduce counts twice
        behind, seen = traffic(stage, 8 * GIB, GIB)
        return sum(n * one.bytes * (2 if one.name == "all_reduce" else 1) for one, n in (behind + seen).items()) / GIB

    assert [volume(stage) for stage in (0, 1, 2, 3)] == [16, 24, 24, 24]
    assert sum(traffic(1, 8 * GIB, GIB).behind.values()) == 8


def test_what_is_behind_the_passes_is_not_seen():
    cluster, size = Cluster(H200, 4, 8, 100), 400e6
    once, twice = (seconds(Collective(name, size), cluster) for name in ("all_gather", "all_reduce"))

    def seen(stage, passes, accumulation=1):
        return communication(stage, size, size, cluster, passes=passes, accumulation=accumulation)

    assert seen(0, 9) == seen(0, 0) == pytest.approx(twice)
    assert seen(1, 9) == seen(2, 9, 3) == pytest.approx(once)
    assert seen(1, 0) == seen(1, 0, 3) == pytest.approx(once + twice)
    assert seen(1, once) == pytest.approx(once + twice - 2 / 3 * once)
    assert seen(2, 0, 3) == pytest.approx(once + 3 * twice)
    assert seen(3, 9) == 0
    assert seen(3, once) == pytest.approx(2 * once)
    assert communication(1, size, size, Cluster(H200, 1, 1, 100), passes=0) == 0


def test_the_slowest_of_more_ranks_is_slower():
    worlds = [1, 2, 8, 64, 1024]
    waits = [waiting(1.0, Cluster(H200, 1, world, 100)) / UNEVEN for world in worlds]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[1] == pytest.approx(1 / math.sqrt(math.pi), rel=0.1)  # exact: that of two normal numbers
    assert waits[2] == pytest.approx(1.4236, rel=0.01)  # tables of order statistics


def test_what_the_objectives_send_is_added_up():
    cluster = Cluster(H200, 4, 8, 100)
    one, other = Collective("all_gather", 1e6), Collective("all_reduce", 4)
    assert gathering({one: 2, other: 3}, cluster) == 2 * seconds(one, cluster) + 3 * seconds(other, cluster)
    assert gathering({one: 2}, Cluster(H200, 1, 1, 100)) == 0
