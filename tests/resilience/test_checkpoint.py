"""Which checkpoint counts."""

import copy
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from factories import run_facts
from safetensors import SafetensorError
from torch import nn

from stoa import files
from stoa.config import Config
from stoa.files import StorageError
from stoa.training import checkpoint, saving
from stoa.training.checkpoint import (
    Gone,
    chosen,
    damage,
    find,
    found_and_read,
    newest,
    read_run,
    read_weights,
    set_aside_after,
)
from stoa.training.resumable import require_same_run
from stoa.training.saving import bytes_needed, require_room, save_weights


def make(folder: Path, step: int, content: bytes = b"weights") -> Path:
    path = folder / f"step-{step:08d}"
    (path / "inner").mkdir(parents=True)
    files = {"inner/states": content, "model.safetensors": b"weights", "run.json": b"{}"}
    for name, held in files.items():
        (path / name).write_bytes(held)
    sums = {name: hashlib.sha256(held).hexdigest() for name, held in files.items()}
    (path / "manifest.json").write_text(json.dumps({"sha256": sums}))
    return path


def test_the_newest_complete_one_counts(tmp_path):
    make(tmp_path, 5)
    expected = make(tmp_path, 10)
    make(tmp_path, 15).rename(tmp_path / "step-00000015.tmp")  # killed before the rename
    assert newest(tmp_path) == expected
    assert newest(tmp_path / "absent") is None


def damage_by(path: Path, how: str) -> None:
    states = path / "inner" / "states"
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
    if how == "manifest":
        with pytest.raises(ValueError, match=r"step-00000010 is damaged: manifest.json"):
            find(bad)
    else:  # its weights are sound
        assert find(bad) == bad
    set_aside_after(good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000005", "step-00000010.damaged"]
    assert newest(tmp_path) == good


SUM = hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ("", "Expecting value"),
        ("null", "it has no sha256 of each file"),
        ("[1]", "it has no sha256 of each file"),
        ('"sha256"', "it has no sha256 of each file"),
        ("{}", "it has no sha256 of each file"),
        ('{"sha256": {}}', "inner/states is not listed"),
        ('{"sha256": []}', "it has no sha256 of each file"),
        ('{"sha256": {"inner/states": 1}}', "it has no sha256 of each file"),
        (json.dumps({"sha256": {"inner/states": SUM}}), "model.safetensors is not listed"),
        ("[" * 100_000, "manifest.json: "),
        ("\xff\xfe", "manifest.json: "),
    ],
)
def test_a_list_of_files_that_is_none_is_told(tmp_path, manifest, told):
    path = make(tmp_path, 5)
    (path / "manifest.json").write_bytes(manifest.encode("latin-1"))
    assert told in damage(path)


@pytest.mark.parametrize("name", ["model.safetensors", "run.json"])
def test_weights_and_facts_alone_are_enough_to_use(tmp_path, name):
    path = make(tmp_path, 5)
    shutil.rmtree(path / "inner")
    assert find(path) == find(tmp_path) == path
    assert damage(path) == "inner/states is missing"
    (path / name).write_bytes(b"other")
    with pytest.raises(ValueError, match=f"step-00000005 is damaged: {name} has changed"):
        find(path)


def add_file(path):
    (path / "inner" / "more.pt").write_bytes(b"")


def add_link(path):
    (path / "latest").symlink_to("/dev/zero")


def add_pipe(path):
    os.mkfifo(path / "pipe")


@pytest.mark.parametrize("add", [add_file, add_link, add_pipe])
def test_what_is_not_listed_does_not_belong_to_a_checkpoint(tmp_path, add):
    path = make(tmp_path, 5)
    add(path)
    assert "is not listed in manifest.json" in damage(path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "inner"])
def test_what_is_listed_lies_in_the_folder(tmp_path, name):
    path = make(tmp_path, 5)
    (tmp_path / "outside").write_bytes(b"weights")
    sums = json.loads((path / "manifest.json").read_text())["sha256"]
    (path / "manifest.json").write_text(json.dumps({"sha256": {**sums, name: SUM}}))
    assert damage(path) == f"{name} is missing"


def test_a_listed_pipe_is_not_read(tmp_path):
    path = make(tmp_path, 5)
    (path / "inner" / "states").unlink()
    os.mkfifo(path / "inner" / "states")
    assert damage(path) == "inner/states is no file"


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


def test_keys_of_what_is_left_out_decide_nothing():
    config = Config().to_dict()
    facts = {"config": config, "architecture": {}, "deepspeed_config": {}}
    config["model"]["objects"]["num_trajectories"] = 0
    saved = copy.deepcopy(facts)
    saved["config"]["model"]["objects"]["max_boxes"] = 5
    require_same_run(saved, facts, Path("x"))
    saved["config"]["model"]["objects"]["num_trajectories"] = 6
    with pytest.raises(ValueError, match=r"of another model: model.objects\.\w+ is "):
        require_same_run(saved, facts, Path("x"))


def test_the_weights_that_validation_chose_go_before_the_newest(tmp_path):
    make(tmp_path / "checkpoints", 20)
    assert find(tmp_path) == tmp_path / "checkpoints" / "step-00000020"
    model = nn.Linear(2, 2)
    save_weights(model.state_dict(), tmp_path / "best", 5, {"validation": 1.0})
    best = save_weights(model.state_dict(), tmp_path / "best", 10, {"validation": 2.0})
    assert find(tmp_path) == best and damage(best) is None
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000010"]


def test_the_best_weights_stay_whatever_their_step(tmp_path):
    """A run that goes on from step 10 may find better weights at step 15 than it had found at step 20."""
    weights = nn.Linear(2, 2).state_dict()
    save_weights(weights, tmp_path, 20, {"step": 20, "validation": 0.3})
    best = save_weights(weights, tmp_path, 15, {"step": 15, "validation": 0.6})
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == [best]
    shutil.copytree(best, tmp_path / "step-00000020")  # killed before it was deleted
    run = json.loads((tmp_path / "step-00000020" / "run.json").read_text()) | {"step": 20, "validation": 0.3}
    resum(tmp_path / "step-00000020", run)
    assert chosen(tmp_path) == find(tmp_path) == best
    for score in (None, "high", float("nan"), [1]):
        resum(best, {"validation": score})
        assert chosen(tmp_path).name == "step-00000020"


def resum(path, run):
    """With other facts, and the sum that these have."""
    (path / "run.json").write_text(json.dumps(run))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["run.json"] = hashlib.sha256((path / "run.json").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_damaged_choice_of_validation_is_not_silently_passed_over(tmp_path, capsys):
    make(tmp_path / "checkpoints", 20)
    best = save_weights(nn.Linear(2, 2).state_dict(), tmp_path / "best", 10, {"validation": 2.0})
    assert chosen(tmp_path / "best") == best
    (best / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no checkpoint is sound \(.*run.json has changed.*name another folder"):
        find(tmp_path)
    assert chosen(tmp_path / "best") is None and chosen(tmp_path / "absent") is None
    assert "run.json has changed since it was written; validation chooses anew" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000010.damaged"]
    assert find(tmp_path) == tmp_path / "checkpoints" / "step-00000020"


def leave(monkeypatch, free: int) -> None:
    monkeypatch.setattr(saving, "free_bytes", lambda path: free)
    monkeypatch.setattr(files, "free_bytes", lambda path: free)


def test_a_checkpoint_without_room_is_told_before_the_training(tmp_path, monkeypatch):
    """4,000 bytes of weights, and AdamW's two moments of those that are trained."""
    model = nn.Linear(1000, 1, bias=False).half()
    assert bytes_needed(model, tmp_path) == 12_000
    model = nn.Linear(2000, 1, bias=False).requires_grad_(False)
    assert bytes_needed(model, tmp_path) == 8_000
    leave(monkeypatch, 7_999)
    with pytest.raises(
        StorageError, match=r"left on device \(7.8 KiB needed, .* free\); make room; there is no earlier"
    ):
        require_room(model, tmp_path, keep=2)
    leave(monkeypatch, 16_000)
    said = require_room(model, tmp_path, keep=2)
    assert said is not None and "has room for 2 more checkpoint(s) of 7.8 KiB (15.6 KiB free)" in said
    assert "training.keep_checkpoints 2 means 3 more at a time" in said
    leave(monkeypatch, 24_000)
    assert require_room(model, tmp_path, keep=2) is None
    for step in (5, 10):  # which make room for one as they go
        make(tmp_path, step, bytes(7_900))
    leave(monkeypatch, 9_000)
    assert require_room(model, tmp_path, keep=2) is None
    leave(monkeypatch, 8_000)
    with pytest.raises(StorageError, match=r"the last good checkpoint is \S+step-00000010$"):
        require_room(model, tmp_path, keep=2)


def test_a_save_without_room_writes_nothing_and_names_the_last_good(tmp_path, monkeypatch):
    good = save_weights(nn.Linear(2, 2).state_dict(), tmp_path, 5, {})
    (tmp_path / "step-00000007.123-abcd.tmp").mkdir()  # of a run that was killed
    leave(monkeypatch, 10)
    with pytest.raises(StorageError) as caught:
        save_weights(nn.Linear(2, 2).state_dict(), tmp_path, 10, {})
    assert str(caught.value) == (
        f"{tmp_path / 'step-00000010'} cannot be written: No space left on device (24 bytes needed, 10 bytes free); "
        f"make room; the last good checkpoint is {good}"
    )
    assert list(tmp_path.iterdir()) == [good] and damage(good) is None


def test_a_disk_that_is_full_after_all_leaves_the_last_good_one(tmp_path, monkeypatch):
    good = save_weights(nn.Linear(2, 2).state_dict(), tmp_path, 5, {})

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(StorageError, match=r"cannot be written: No space left on device \("):
        save_weights(nn.Linear(2, 2).state_dict(), tmp_path, 10, {})
    assert list(tmp_path.iterdir()) == [good] and damage(good) is None


def test_files_of_a_checkpoint_have_ordinary_modes(tmp_path):
    before = os.umask(0o026)
    try:
        saved = save_weights(nn.Linear(2, 2).state_dict(), tmp_path, 5, {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o640}


def test_a_reader_takes_the_newest_when_a_training_deletes_what_it_reads(tmp_path, monkeypatch):
    model, run = nn.Linear(2, 2), tmp_path / "checkpoints"
    first = save_weights(model.state_dict(), run, 1, run_facts(1))
    whole = checkpoint.damage

    def training_goes_on(path: Path, **how: bool) -> str | None:
        if path == first:
            save_weights(model.state_dict(), run, 2, run_facts(2))  # and the first is gone before it is read
        return whole(path, **how)

    monkeypatch.setattr(checkpoint, "damage", training_goes_on)
    assert find(tmp_path).name == "step-00000002"

    def read_late(path: Path) -> int:
        step = int(path.name.removeprefix("step-"))
        if step < 4:  # deleted between being found and being read
            save_weights(model.state_dict(), run, step + 1, run_facts(step + 1))
        return int(read_run(path)["step"])

    assert found_and_read(tmp_path, read_late) == 4
    with pytest.raises(Gone, match="has been deleted meanwhile, by a training that keeps the newest ones"):
        found_and_read(
            run / "step-00000004", lambda path: (save_weights(model.state_dict(), run, 5, {}), read_run(path))
        )
    with pytest.raises(Gone, match="step-00000004 has been deleted meanwhile"):
        read_weights(run / "step-00000004")


@pytest.mark.parametrize("name", ["model.safetensors", "inner", "manifest.json"])
def test_links_out_of_a_checkpoint_are_damage(tmp_path, name):
    path = make(tmp_path, 5)
    (tmp_path / "link").symlink_to(path)  # the folder itself may be one
    assert damage(tmp_path / "link") is None
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    assert re.search("is (missing|a link)|not listed", str(damage(path)))
