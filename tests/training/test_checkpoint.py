"""Which checkpoint counts."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
from torch import nn

from stoa.config import Config
from stoa.training.checkpoint import chosen, damage, find, newest, save_weights, set_aside_after
from stoa.training.resumable import require_same_run


def make(folder: Path, step: int, content: bytes = b"weights") -> Path:
    path = folder / f"step-{step:08d}"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "states.pt").write_bytes(content)
    sums = {"inner/states.pt": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({"step": step, "sha256": sums}))
    return path


def test_the_newest_complete_one_counts(tmp_path):
    make(tmp_path, 5)
    expected = make(tmp_path, 10)
    make(tmp_path, 15).rename(tmp_path / "step-00000015.tmp")  # killed before the rename
    assert newest(tmp_path) == expected
    assert newest(tmp_path / "absent") is None


def damage_by(path: Path, how: str) -> None:
    states = path / "inner" / "states.pt"
    if how == "cut":
        states.write_bytes(b"weig")
    elif how == "bit":
        states.write_bytes(b"weightt")
    elif how == "lost":
        states.unlink()
    else:
        (path / "manifest.json").write_text('{"step": 1')


@pytest.mark.parametrize("how", ["cut", "bit", "lost", "manifest"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path, capsys, how):
    good, bad = make(tmp_path, 5), make(tmp_path, 10)
    damage_by(bad, how)
    assert damage(good) is None
    assert newest(tmp_path) == good
    assert "step-00000010 is damaged" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"step-00000010 is damaged: (inner/states.pt|manifest.json)"):
        find(bad)
    set_aside_after(good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000005", "step-00000010.damaged"]
    assert newest(tmp_path) == good


def test_going_on_from_scratch_is_never_silent(tmp_path):
    damage_by(make(tmp_path, 5), "bit")
    with pytest.raises(ValueError, match="no checkpoint is sound .*step-00000005 is damaged.*remove"):
        newest(tmp_path)


def test_a_user_may_name_a_run_or_a_checkpoint(tmp_path):
    path = make(tmp_path / "checkpoints", 5)
    assert find(tmp_path) == find(tmp_path / "checkpoints") == find(path) == path
    with pytest.raises(ValueError, match="no checkpoint under .*elsewhere"):
        find(tmp_path / "elsewhere")


def test_a_key_that_a_checkpoint_does_not_know_has_its_default():
    config = Config().to_dict()
    facts = {"config": config, "architecture": {}, "deepspeed_config": {}}
    saved = copy.deepcopy(facts)
    del saved["config"]["model"]["num_answers"], saved["config"]["model"]["objects"]["detach_tap"]
    require_same_run(saved, facts, Path("x"))
    config["model"]["num_answers"] = 3
    with pytest.raises(ValueError, match="of another model: model.num_answers is 0 there and 3 here"):
        require_same_run(saved, facts, Path("x"))


def test_the_weights_that_validation_chose_go_before_the_newest(tmp_path):
    make(tmp_path / "checkpoints", 20)
    assert find(tmp_path) == tmp_path / "checkpoints" / "step-00000020"
    model = nn.Linear(2, 2)
    save_weights(model, tmp_path / "best", 5, {"validation": 1.0})
    best = save_weights(model, tmp_path / "best", 10, {"validation": 2.0})
    assert find(tmp_path) == best and damage(best) is None
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000010"]


def test_a_damaged_choice_of_validation_is_not_silently_passed_over(tmp_path, capsys):
    make(tmp_path / "checkpoints", 20)
    best = save_weights(nn.Linear(2, 2), tmp_path / "best", 10, {"validation": 2.0})
    assert chosen(tmp_path / "best") == best
    (best / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no checkpoint is sound \(.*run.json has changed.*name another folder"):
        find(tmp_path)
    assert chosen(tmp_path / "best") is None and chosen(tmp_path / "absent") is None
    assert "run.json has changed since it was written; validation chooses anew" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000010.damaged"]
    assert find(tmp_path) == tmp_path / "checkpoints" / "step-00000020"
