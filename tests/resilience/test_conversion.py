"""stoa ckpt: what a run has, whether it is sound, and a run for other processes."""

import json
import shutil

import pytest
import torch
from factories import run_facts
from launch import finish
from test_reshaped import content, ended_at_step_5, losses

from stoa.cli import main
from stoa.data.sampler import GlobalBatchSampler
from stoa.training import saving, states
from stoa.training.conversion import convert
from stoa.training.resumable import Shape

MICRO = {"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 1}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of one process with two checkpoints, whose weights nobody has trained."""
    folder = tmp_path_factory.mktemp("made") / "run" / "checkpoints"
    sampler = GlobalBatchSampler(48, 8, rank=0, world=1, seed=0, fingerprint="clips")
    for step in (5, 10):
        sampler.advance(5)
        temporary = folder / f"step-{step:08d}.1-a.tmp"
        (temporary / "states").mkdir(parents=True)
        moments = {f"{name}:{step}:0:weight": torch.full((4,), float(step)) for name in ("exp_avg", "exp_avg_sq")}
        run = run_facts(step, deepspeed_config=MICRO, sampler=sampler.state_dict())
        taken = states.Taken(0, 1, {"files": 1}, moments)
        saving.write(saving.Content(taken, {"weight": torch.zeros(4)}, run), temporary, keep=2)
    return folder.parent


@pytest.fixture(scope="module")
def trained(data_set, tmp_path_factory):
    """A run of one process, and another folder of it that ended at step 5."""
    from launch import start_training

    folder = tmp_path_factory.mktemp("trained")
    program = start_training(data_set, folder, folder / "run")
    finish(program)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.dist
def test_a_converted_run_goes_on_without_the_switch(trained, start, tmp_path):
    half = ended_at_step_5(trained, tmp_path / "half")
    before = content(half)
    config = tmp_path / "zero3.json"
    config.write_text(
        json.dumps({"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0, "zero_optimization": {"stage": 3}})
    )
    arguments = ["ckpt", "convert", str(half), "--out", str(tmp_path / "new"), "--processes", "1"]
    assert main([*arguments, "--deepspeed_config", str(config)]) == 0
    assert content(half) == before
    out, _ = finish(start(tmp_path / "new", stage=3))
    assert "step-00000005 at step 5\n" in out
    expected, found = losses(trained), losses(tmp_path / "new")
    assert found.keys() == expected.keys()
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-6)
    assert content(half) == before  # of which the new run had links


def test_what_a_conversion_says_and_refuses(made, tmp_path, capsys):
    said = convert(made, tmp_path / "two", processes=2, deepspeed_config=None)
    assert "from 1 process(es) x 8 clips, ZeRO 1, fp32 to 2 process(es) x 8 clips" in said[0]
    assert "batches of 16 clips in place of 8, behind the" in said[0]
    run = json.loads((tmp_path / "two" / "checkpoints" / "step-00000010" / "run.json").read_text())
    assert Shape.of(run) == (2, 8, 1, 1, "fp32")
    for arguments, message in (
        ((made, tmp_path / "x", 1), "is what is asked for: it needs no conversion"),
        ((made, tmp_path / "two", 4), "holds checkpoints; choose another folder"),
        ((made, tmp_path / "x", 4000), "fewer than one global batch of 32000"),
        ((tmp_path, tmp_path / "x", 2), "no checkpoint under"),
    ):
        source, out, processes = arguments
        with pytest.raises(ValueError, match=message):
            convert(source, out, processes=processes, deepspeed_config=None)
    assert main(["ckpt", "convert", str(made), "--out", str(tmp_path / "x"), "--processes", "0"]) == 2
    assert "--processes is 0; expected at least 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.dist
def test_weights_alone_are_not_gone_on_from(trained, start, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for path in (folder / "checkpoints").iterdir():
        shutil.rmtree(path / "states")
        listed = json.loads((path / "manifest.json").read_text())["sha256"]
        kept = {name: value for name, value in listed.items() if not name.startswith("states/")}
        (path / "manifest.json").write_text(json.dumps({"sha256": kept}))
    _, err = finish(start(folder, "--training.max_steps", "12"), code=2)
    assert "holds weights and no states to go on from (states/); --init" in err
    with pytest.raises(ValueError, match="no states to go on from"):
        convert(folder, tmp_path / "x", processes=2, deepspeed_config=None)


def test_checkpoints_are_listed_verified_and_pruned(made, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    steps = folder / "checkpoints"
    assert main(["ckpt", "ls", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(steps / f"step-{n:08d}") for n in (5, 10)]
    assert all(line.endswith("1 process(es) x 8 clips, ZeRO 1, fp32") for line in lines)

    assert main(["ckpt", "verify", str(folder)]) == 0
    capsys.readouterr()
    states = steps / "step-00000010" / "states" / "rank-00000.safetensors"
    states.write_bytes(states.read_bytes()[:-1] + b"\x00\x01")
    assert main(["ckpt", "verify", str(folder)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("sound") and "damaged: states/rank-00000.safetensors has changed" in told[1]

    assert main(["ckpt", "prune", str(folder)]) == 0  # the newest sound one stays, whatever is behind it
    assert [path.name for path in steps.iterdir()] == ["step-00000005"]
    assert main(["ckpt", "ls", str(tmp_path / "absent")]) == 2
