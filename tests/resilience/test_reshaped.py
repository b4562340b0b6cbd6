"""A run goes on with another number of processes and another stage of ZeRO, when it is told to."""

import hashlib
import shutil

import pytest
from launch import finish

from stoa.training.metrics import read_metrics

SWITCH = "--resume-reshaped"


def losses(folder):
    return {record["step"]: record["loss"] for record in read_metrics(folder / "metrics.jsonl")}


def ended_at_step_5(straight, folder):
    shutil.copytree(straight, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000010")
    return folder


def content(folder):
    return {p: hashlib.sha256(p.read_bytes()).digest() for p in (folder / "checkpoints").rglob("*") if p.is_file()}


@pytest.mark.slow  # test_states.py has the states of it
@pytest.mark.dist
@pytest.mark.parametrize(
    ("before", "behind", "refusal", "said"),
    [
        (
            {"processes": 2},
            {"processes": 1},
            "data order has world 2, this run has 1",
            "reshaped from 2 process(es) x 4 clips, ZeRO 1, fp32 to 1 process(es) x 8 clips, ZeRO 1, fp32: the same "
            "clips in the same batches",
        ),
        pytest.param(
            {"processes": 1},
            {"processes": 2},
            "data order has world 1, this run has 2",
            "to 2 process(es) x 4 clips, ZeRO 1, fp32: the same clips in the same batches",
        ),
        pytest.param(
            {"stage": 1},
            {"stage": 3},
            "DeepSpeed.ZeRO stage is 1 there and 3 here",
            "reshaped from 1 process(es) x 8 clips, ZeRO 1, fp32 to 1 process(es) x 8 clips, ZeRO 3, fp32: the same",
        ),
        pytest.param(
            {"stage": 3, "processes": 2},
            {"stage": 2, "offload": True},
            "DeepSpeed.ZeRO stage is 3 there and 2 here",
            "from 2 process(es) x 4 clips, ZeRO 3, fp32 to 1 process(es) x 8 clips, ZeRO 2, fp32: the same clips",
        ),
    ],
    ids=["2 to 1", "1 to 2", "ZeRO 1 to 3", "ZeRO 3 of 2 to 2 of 1"],
)
def test_a_run_goes_on_in_another_shape(start, tmp_path, before, behind, refusal, said):
    straight = tmp_path / "straight"
    finish(start(straight, **before))
    folder = ended_at_step_5(straight, tmp_path / "reshaped")
    kept = content(folder)

    refused = start(folder, **behind)
    refused.wait()
    out, err = refused.output
    assert refused.code != 0
    assert refusal in out + err
    assert SWITCH in out + err
    assert content(folder) == kept

    out, _ = finish(start(folder, SWITCH, **behind))
    assert f"step-00000005 at step 5, {said}" in out or said in out
    expected, found = losses(straight), losses(folder)
    assert found.keys() == expected.keys()
    assert [found[n] for n in range(6, 11)] == pytest.approx([expected[n] for n in range(6, 11)], rel=1e-6)


@pytest.mark.slow
def test_the_switch_changes_nothing_where_nothing_differs(start, tmp_path):
    straight = tmp_path / "straight"
    finish(start(straight))
    folder = ended_at_step_5(straight, tmp_path / "again")
    out, _ = finish(start(folder, SWITCH))
    assert "at step 5\n" in out
    assert losses(folder) == losses(straight)


@pytest.mark.slow
def test_another_batch_goes_on_behind_the_clips_that_were_taken(start, tmp_path):
    straight = tmp_path / "straight"
    finish(start(straight, processes=2))
    folder = ended_at_step_5(straight, tmp_path / "smaller")
    out, _ = finish(start(folder, SWITCH, batch=4))
    assert "batches of 4 clips in place of 8, behind the" in out
    assert "that were taken, in the same order" in out
    assert sorted(losses(folder)) == list(range(1, 11))
