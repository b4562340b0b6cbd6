from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoa.manifest import read_manifest
from stoa.synthetic import SynthConfig, build_data_set
from stoa.synthetic import build as build_module

SMALL = SynthConfig(num_train=40, num_val=3, num_test=4, num_galleries=2, size=32, seconds=1, fps=6)


def _quiet(line: str) -> None:
    """Takes what the build says and drops it."""


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "set"
    build_data_set(SMALL, out, say=_quiet)
    return out


def test_every_row_has_its_files_and_truth(data_set: Path, read_jsonl: Callable[[Path], list[dict[str, Any]]]) -> None:
    rows = read_manifest(data_set / "manifest.jsonl")
    labels = json.loads((data_set / "labels.json").read_text())
    truth = {row["id"]: row for s in ("train", "val", "test") for row in read_jsonl(data_set / "truth" / f"{s}.jsonl")}
    assert [row.id for row in rows] == list(truth) and len(rows) == 220
    for row in rows:
        assert (data_set / row.video).is_file()
        assert row.detections is not None and (data_set / row.detections).is_file()
        text, clip = row.captions[0].text, truth[row.id]
        for (start, end), index in zip(row.captions[0].nouns, clip["noun_objects"], strict=True):
            thing = clip["objects"][index]
            assert thing["captioned"] and text[start:end] == thing["shape"] == labels[thing["label"]]
        assert len(row.captions[0].verbs) == len(clip["verb_objects"])
        assert np.array(clip["objects"][0]["boxes"]).shape == (16, 4)
    for split in ("train", "val", "test"):
        for question in read_jsonl(data_set / "qa" / f"{split}.jsonl"):
            assert question["clip"].startswith(split) and set(question) == {"clip", "type", "question", "answer"}


def test_objects_cross_and_hide_each_other(data_set: Path, read_jsonl: Callable[[Path], list[dict[str, Any]]]) -> None:
    rows = read_jsonl(data_set / "truth" / "train.jsonl")
    hidden = [any(min(thing["visibility"]) < 0.75 for thing in row["objects"]) for row in rows]
    assert 0.2 < np.mean(hidden) < 0.6


def test_the_seed_fixes_every_byte_whatever_the_workers(small: Path, tmp_path: Path) -> None:
    build_data_set(SMALL, tmp_path / "two", workers=2, say=_quiet)
    expected, found = _files(small), _files(tmp_path / "two")
    assert set(found) == set(expected)
    assert [name for name in expected if expected[name] != found[name]] == []


def test_another_seed_gives_other_clips_and_more_clips_keep_the_first(small: Path, tmp_path: Path) -> None:
    few = replace(SMALL, num_train=5, num_val=0, num_test=0, num_galleries=0)
    build_data_set(few, tmp_path / "few", say=_quiet)
    build_data_set(replace(few, seed=1), tmp_path / "other", say=_quiet)
    rows, other = (read_manifest(tmp_path / name / "manifest.jsonl") for name in ("few", "other"))
    assert rows == read_manifest(small / "manifest.jsonl")[:5]
    assert all(one.captions != two.captions for one, two in zip(rows, other, strict=True))
    for row in rows:
        assert (tmp_path / "few" / row.video).read_bytes() == (small / row.video).read_bytes()
        assert (tmp_path / "few" / row.video).read_bytes() != (tmp_path / "other" / row.video).read_bytes()


def test_a_finished_folder_is_left_alone(small: Path) -> None:
    said: list[str] = []
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    build_data_set(SMALL, small, say=said.append)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    assert len(said) == 1 and "nothing to do" in said[0]


def test_a_killed_run_goes_on_where_it_was(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batch, made = build_module._make_batch, []

    def die_at_the_second(config: SynthConfig, out: Path, batch: build_module.Batch) -> None:
        made.append(batch.first)
        if len(made) == 2:
            raise KeyboardInterrupt
        make_batch(config, out, batch)

    monkeypatch.setattr(build_module, "_make_batch", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build_data_set(SMALL, tmp_path / "set", say=_quiet)
    assert not (tmp_path / "set" / "synth.json").exists()
    build_data_set(SMALL, tmp_path / "set", say=_quiet)
    assert made.count(0) == 6  # the first batch of each split and hard set, none of them twice
    assert _files(tmp_path / "set") == _files(small)


def test_an_unfinished_folder_of_another_configuration_is_made_anew(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    build_data_set(replace(SMALL, num_train=50, seed=9), out, say=_quiet)
    (out / "synth.json").rename(out / "synth.unfinished.json")
    build_data_set(SMALL, out, say=_quiet)
    assert _files(out) == _files(small)


@pytest.mark.parametrize(("key", "value"), [("num_train", 41), ("size", 34), ("seconds", 2.0), ("seed", 5)])
def test_a_finished_folder_of_another_configuration_is_an_error(small: Path, key: str, value: float) -> None:
    other = SynthConfig(**(asdict(SMALL) | {key: value}))
    with pytest.raises(ValueError, match=f"made with {key} {getattr(SMALL, key)}, but {key} {value}"):
        build_data_set(other, small, say=_quiet)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        build_data_set(SMALL, tmp_path, say=_quiet)
    with pytest.raises(ValueError, match="is a file; pass a folder"):
        build_data_set(SMALL, tmp_path / "thesis.txt", say=_quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": -1}, "num_train is -1; pass 0 or more"),
        ({"num_val": -2}, "num_val is -2"),
        ({"num_test": -2}, "num_test is -2"),
        ({"num_galleries": -1}, "num_galleries is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"size": 30}, "size is 30; .* pass 32 or more"),
        ({"size": 65}, "size is 65; .* pass 66"),
        ({"fps": 0}, "fps is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": 0.2}, "makes 2 frames; motion needs 4"),
        ({"num_test": 10**9}, r"num_test is 1000000000, but there are only \d+ distinct captions; lower num_test"),
        ({"num_train": 10**12}, "num_train is 1000000000000, but there are only"),
        ({"families": ["light", "sizes"]}, "families names 'sizes'; expected some of horizontal, vertical, size"),
        ({"families": ["light", "size", "colour"]}, "hard sets need three beside colour, and two"),
        ({"families": ["light", "bounce", "flash"]}, "hard sets need three beside colour, and two"),
        ({"families": ["light", "bounce", "size"], "num_test": 10**6}, "num_test is 1000000, but there are only"),
    ],
)
def test_configuration_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthConfig(**changes)


def test_workers_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        build_data_set(SMALL, tmp_path / "set", workers=0)
    assert not (tmp_path / "set").exists()


def test_the_generator_does_not_import_torch() -> None:
    code = "import sys, stoa.cli, stoa.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_empty_groups_are_legal(tmp_path: Path) -> None:
    build_data_set(replace(SMALL, num_train=0, num_val=0, num_test=1, num_galleries=0), tmp_path / "set", say=_quiet)
    assert [row.id for row in read_manifest(tmp_path / "set" / "manifest.jsonl")] == ["test_000000"]
    assert (tmp_path / "set" / "hard" / "role_swap.jsonl").read_text() == ""


def test_the_captions_of_a_version_are_these(small: Path) -> None:
    """Another digest is another data set: raise GENERATOR_VERSION."""
    manifests = [small / "manifest.jsonl", *sorted((small / "hard").glob("*.jsonl"))]
    captions = [caption.text for path in manifests for row in read_manifest(path) for caption in row.captions]
    digest = sha256("\n".join(captions).encode()).hexdigest()
    assert (build_module.GENERATOR_VERSION, len(captions), digest[:16]) == (2, 71, "ff2df1e151024ef1")


def test_of_some_families_no_other_action_is_seen(
    tmp_path: Path, read_jsonl: Callable[[Path], list[dict[str, Any]]]
) -> None:
    config = replace(SMALL, num_train=40, siblings=2, num_galleries=10, families=["light", "horizontal", "sway"])
    build_data_set(config, tmp_path / "set", say=_quiet)
    groups = {name: read_jsonl(tmp_path / "set" / "truth" / f"{name}.jsonl") for name in ("train", "test", "hard")}
    solo = {"brighten", "darken", "move_left", "move_right", "sway"}
    for name, clips in groups.items():
        done = {thing["action"] for clip in clips for thing in clip["objects"]}
        assert done <= solo | {"none", "chase", "chased", "orbit", "orbited"}
        assert name == "test" or solo <= done
    build_data_set(config, tmp_path / "set", say=_quiet)  # is this data set
    build_data_set(replace(config, families=["sway", "light", "horizontal", "sway"]), tmp_path / "set", say=_quiet)
    with pytest.raises(ValueError, match=r"made with families \['horizontal'"):
        build_data_set(replace(config, families=None), tmp_path / "set", say=_quiet)
