"""How the same choice does on ever more GPUs."""

import json

import pytest
from factories import USED, tiny_config

from stoa.cli import main
from stoa.costs.devices import gpu_named
from stoa.objectives.config import ObjectivesConfig
from stoa.planning.imagined import ImaginedRun
from stoa.planning.links import Cluster
from stoa.planning.plan import Choice, Planner
from stoa.planning.reading import CLIP_FRAMES, DECODER_FRAMES, decoding, processes
from stoa.planning.scaling import Scaling, _clusters
from stoa.training.config import TrainingConfig

V100 = gpu_named("V100-32", "--gpu")
CHOICE = Choice(1, (), 4)


FEW = ObjectivesConfig(mlm=0, plm=0)


@pytest.fixture(scope="module")
def run():
    return ImaginedRun(tiny_config(), FEW, TrainingConfig(), precision="fp16", used_token_ids=USED)


@pytest.fixture(scope="module")
def scaling(run):
    return Scaling(Planner(run, Cluster(V100, 2, 4, 100), "fp16"), CHOICE, 16)


def test_the_first_row_is_one_gpu_and_others_lose(run, scaling):
    assert [cluster.world for cluster, _ in scaling.rows] == [1, 2, 4, 8, 16]
    alone = Planner(run, Cluster(V100, 1, 1, 100), "fp16").estimate(CHOICE, exact=True)
    assert scaling.rows[0][1] == alone
    assert alone.seconds.gathering == alone.seconds.communication == alone.seconds.waiting == 0
    assert alone.seconds.total == alone.seconds.passes + alone.seconds.update
    _, machine, cluster = (row.seconds for _, row in scaling.rows[-3:])
    for part in ("gathering", "communication", "waiting"):
        assert 0 < getattr(machine, part) < getattr(cluster, part)
    shares = [scaling.efficiency(row, cluster.world) for cluster, row in scaling.rows]
    assert shares[0] == 1 and shares[2:] == sorted(shares[2:], reverse=True)


@pytest.mark.parametrize(
    ("each", "most", "expected"),
    [
        (8, 3, [(1, 1), (1, 2)]),
        (8, 31, [(1, 1), (1, 2), (1, 4), (1, 8), (2, 8)]),
        (6, 12, [(1, 1), (1, 2), (1, 4), (1, 6), (2, 6)]),
        (1, 4, [(1, 1), (2, 1), (4, 1)]),
    ],
)
def test_no_more_gpus_than_asked_for(each, most, expected):
    assert [(c.nodes, c.gpus_per_node) for c in _clusters(Cluster(V100, 16, each, 100), most)] == expected


def test_a_machine_decodes_with_cores_or_engines():
    assert processes(560, 1) == 1 and processes(560, 1, "original files") == 16
    said = decoding(400, 12, V100, 8)
    assert f"NVDEC decodes {8 * DECODER_FRAMES / CLIP_FRAMES:.0f} original clips/s" in said
    assert "9 from frame packs" in said and "138 from original files" in said


def test_it_is_told_as_a_table(scaling):
    said, heads, *rows, decoded = scaling.lines()
    assert "modelled, not measured: 4 clips a GPU" in said and "decoding for a machine's 4 GPUs" in decoded
    assert heads.split()[:3] == ["GPUs", "machines", "clips"]
    assert [row.split()[:3] for row in rows[2:]] == [["4", "1", "16"], ["8", "2", "32"], ["16", "4", "64"]]
    assert rows[0].split()[-2] == "100%"


def test_the_command_tells_it(capsys):
    recipe = ["--recipe", "recipes/small/base.yaml", "--model.backbone.name", "stoa-tiny", "--model.fusion.layers", "1"]
    recipe += [word for name in ("vtm", "mlm", "plm") for word in (f"--objectives.{name}", "0")]  # few operations
    options = ("--gpu", "V100-32", "--gpus_per_node", "2", "--micro_batch", "8", "--scaling", "4", "--json")
    assert main(["plan", *recipe, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["gpus"] for row in found["scaling"]] == [1, 2, 4]
    assert found["scaling"][1]["seconds"] == pytest.approx(found["cheapest"]["seconds"])
