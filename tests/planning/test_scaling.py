"""How the same choice does on ever more GPUs."""

import json

import pytest
from factories import USED, tiny_config

from stoa.cli import main
from stoa.costs.devices import gpu_named
from stoa.objectives.total import ObjectivesConfig
from stoa.planning.imagined import ImaginedRun
from stoa.planning.links import Cluster
from stoa.planning.plan import Choice, Planner
from stoa.planning.reading import CLIP_FRAMES, DECODER_FRAMES, decoding, processes
from stoa.planning.scaling import Scaling
from stoa.training.config import TrainingConfig

V100 = gpu_named("V100-32", "--gpu")
CHOICE = Choice(1, (), 4)


@pytest.fixture(scope="module")
def run():
    return ImaginedRun(tiny_config(), ObjectivesConfig(), TrainingConfig(), precision="fp16", used_token_ids=USED)


def test_the_first_row_is_one_gpu_and_others_lose(run):
    scaling = Scaling(Planner(run, Cluster(V100, 2, 4, 100), "fp16"), CHOICE, 64)
    assert [(c.nodes, c.gpus_per_node) for c, _ in scaling.rows] == [
        (1, 1),
        (1, 2),
        (1, 4),
        (2, 4),
        (4, 4),
        (8, 4),
        (16, 4),
    ]
    alone = Planner(run, Cluster(V100, 1, 1, 100), "fp16").estimate(CHOICE, exact=True)
    assert scaling.rows[0][1] == alone
    assert alone.seconds.gathering == alone.seconds.communication == alone.seconds.waiting == 0
    for cluster, row in scaling.rows:
        assert row == Planner(run, cluster, "fp16").estimate(CHOICE, exact=True)
    network = [row for cluster, row in scaling.rows if cluster.nodes > 1]
    for part in ("gathering", "communication", "waiting"):
        times = [getattr(row.seconds, part) for row in network]
        assert times == sorted(times) and times[0] > 0
    shares = [scaling.efficiency(row, cluster.world) for cluster, row in scaling.rows]
    assert shares[0] == 1 and shares[3:] == sorted(shares[3:], reverse=True)


def test_no_more_gpus_than_asked_for(run):
    planner = Planner(run, Cluster(V100, 1, 8, 100), "fp16")
    assert [c.world for c, _ in Scaling(planner, CHOICE, 3).rows] == [1, 2]
    assert [c.world for c, _ in Scaling(planner, CHOICE, 31).rows] == [1, 2, 4, 8, 16]
    six = Planner(run, Cluster(V100, 1, 6, 100), "fp16")
    assert [c.world for c, _ in Scaling(six, CHOICE, 12).rows] == [1, 2, 4, 6, 12]


def test_a_machine_decodes_with_cores_or_engines():
    assert processes(560, 1) == 1 and processes(560, 1, "original files") == 16
    said = decoding(400, 12, V100, 8)
    assert f"NVDEC decodes {8 * DECODER_FRAMES / CLIP_FRAMES:.0f} original clips/s" in said
    assert "9 from frame packs" in said and "138 from original files" in said


def test_the_command_tells_it(capsys):
    recipe = ("--recipe", "recipes/small/base.yaml", "--model.backbone.name", "stoa-tiny", "--model.fusion.layers", "1")
    options = ("plan", *recipe, "--gpu", "V100-32", "--gpus_per_node", "2", "--micro_batch", "8", "--scaling", "4")
    assert main(options) == 0
    table = capsys.readouterr().out.split("modelled, not measured: 8 clips a GPU")[1].splitlines()
    assert [line.split()[:3] for line in table[2:5]] == [["1", "1", "8"], ["2", "1", "16"], ["4", "2", "32"]]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["gpus"] for row in found["scaling"]] == [1, 2, 4]
    assert found["scaling"][1]["seconds"] == pytest.approx(found["cheapest"]["seconds"])
