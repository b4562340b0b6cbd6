"""Which checkpoint counts."""

import hashlib
import json
from pathlib import Path

import pytest

from stoa.training.checkpoint import damage, find, newest


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
    (make(tmp_path, 20) / "manifest.json").unlink()
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
    if how != "manifest":
        with pytest.raises(ValueError, match=r"step-00000010 is damaged: inner/states.pt"):
            find(bad)


def test_a_user_may_name_a_run_or_a_checkpoint(tmp_path):
    path = make(tmp_path / "checkpoints", 5)
    assert find(tmp_path) == find(tmp_path / "checkpoints") == find(path) == path
    with pytest.raises(ValueError, match="no complete checkpoint under .*elsewhere"):
        find(tmp_path / "elsewhere")
