"""Two of everything at once: the second is refused in one line, whatever the command, and touches nothing."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from factories import tiny_model

from stoa.cli import main
from stoa.locks import LOCK_FILE
from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.synthetic import SynthConfig, build_data_set
from stoa.tasks.evaluation import Abilities
from stoa.tasks.export import export_model
from stoa.tasks.trained import TrainedModel

SYNTH = SynthConfig(num_train=2, num_val=1, num_test=1, num_galleries=1, size=32, seconds=1.0)
SYNTH_OPTIONS = [f"--{name}={getattr(SYNTH, name)}" for name in ("num_train", "num_val", "num_test", "num_galleries")]
SYNTH_OPTIONS += ["--size=32", "--seconds=1.0"]


@pytest.fixture
def inputs(tmp_path) -> Path:
    """A manifest of no videos, predictions, an exported model and a plan."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_manifest(folder / "m.jsonl", [ClipRow("a", "a.mp4", (Caption("a"),), "test")])
    (folder / "said.jsonl").write_text('{"id": "a", "prediction": "a"}\n')
    (folder / "plan.yaml").write_text(f"out: {tmp_path / 'out'}\ncells:\n  one:\n    - stoa synth --out x\n")
    trained = TrainedModel(tiny_model().eval(), torch.device("cpu"), 32, {"checkpoint": "step 7"})
    export_model(trained, Abilities("two_stream", "start", None), None, folder / "exported")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


COMMANDS = {
    "prepare": ("folder", ["prepare", "--annotations={in}/m.jsonl", "--videos={in}", "--spacy=null", "--out={out}"]),
    "detect": ("folder", ["detect", "{in}/m.jsonl", "--weights=DEFAULT", "--out={out}"]),
    "synth": ("folder", ["synth", *SYNTH_OPTIONS, "--out={out}"]),
    "export": ("folder", ["export", "--run={in}/exported", "--out={out}"]),
    "evaluate": ("file", ["evaluate", "--run={in}/exported", "--manifest={in}/m.jsonl", "--out={out}"]),
    "score": ("file", ["evaluate", "--predictions={in}/said.jsonl", "--task=captioning", "--manifest={in}/m.jsonl",
                       "--out={out}"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_is_refused(hold, inputs, tmp_path, capsys, name):
    kind, command = COMMANDS[name]
    out = tmp_path / "out" / "there"
    holder = hold(out, kind)
    before = contents(out.parent)
    assert main([word.format_map({"in": inputs, "out": out}) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stoa {command[0]}: error: {out} is being written by process {holder.pid} on ")
    assert line.endswith(" (stoa finetune); wait for it, or choose another --out")
    assert contents(out.parent) == before


def test_an_evaluation_without_out_has_the_name_of_its_task(hold, inputs, capsys):
    hold(inputs / "exported" / "retrieval-test.json", "file")
    assert main(["evaluate", "--run", str(inputs / "exported"), "--manifest", str(inputs / "m.jsonl")]) == 2
    assert "retrieval-test.json is being written by process" in capsys.readouterr().err


def test_a_cell_of_an_ablation_is_run_once(hold, inputs, tmp_path, capsys):
    hold(tmp_path / "out" / "one.json", "file")
    assert main(["ablate", str(inputs / "plan.yaml")]) == 2
    assert "one.json is being written by process" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(inputs, tmp_path, capsys, name):
    """Of root's permissions the system does not tell the truth; below a file nobody can write."""
    _, command = COMMANDS[name]
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "a" / "b"
    assert main([word.format_map({"in": inputs, "out": out}) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    ending = f", and {tmp_path / 'file'} is a file; pass a folder"
    assert line.startswith(f"stoa {command[0]}: error: --out is ") and line.endswith(ending)


def test_who_needs_the_same_set_waits_for_it(hold, tmp_path):
    holder, said = hold(tmp_path / "set"), []

    def say(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            holder.kill()

    build_data_set(SYNTH, tmp_path / "set", say=say, wait=True)
    assert "waiting for it" in said[0] and "clips of" in said[1]
    assert not (tmp_path / "set" / LOCK_FILE).exists()
    build_data_set(SYNTH, tmp_path / "set", say=say, wait=True)
    assert "nothing to do" in said[2]


def run_folder(folder: Path) -> None:
    (folder / "checkpoints" / "step-00000005").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000005" / "run.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("below", "what"),
    [
        ("", "is a checkpoint, or holds some"),
        ("checkpoints", "is a checkpoint, or holds some"),
        ("checkpoints/step-00000005", "is a checkpoint, or holds some"),
        ("checkpoints/step-00000007", "is a checkpoint, or holds some"),
        ("begun", "is a run's output_dir"),
        ("store", "holds other files .store.json."),
        ("set", "holds other files .synth.json."),
    ],
)
def test_an_export_has_a_folder_of_its_own(inputs, tmp_path, capsys, below, what):
    run = tmp_path / "run"
    run_folder(run)
    for name in ("begun/metrics.jsonl", "store/store.json", "set/synth.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{}\n")
    before = contents(run)
    assert main(["export", "--run", str(inputs / "exported"), "--out", str(run / below)]) == 2
    assert re.search(rf"--out is \S+, which {what}; pass a new or empty folder", capsys.readouterr().err)
    assert contents(run) == before


def test_an_export_beside_checkpoints_is_never_taken_for_theirs(inputs, capsys):
    run_folder(inputs / "exported")
    assert main(["evaluate", "--run", str(inputs / "exported"), "--manifest", str(inputs / "m.jsonl")]) == 2
    assert "holds an export (config.json) and checkpoints as well; name one of its folders" in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_may_be_written_again(inputs, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        assert main(["export", "--run", str(inputs / "exported"), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "config.json",
        "video_encoder.pt2",
        "text_encoder.pt2",
    }
    assert len({path.stat().st_mode & 0o777 for path in (*out.iterdir(), inputs / "m.jsonl")}) == 1
    assert json.loads((out / "config.json").read_text())["version"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sign"), [("prepare", "rows.jsonl"), ("synth", "synth.unfinished.json")])
def test_the_first_ends_as_if_alone(inputs, tmp_path, name, sign):
    """Stopped in the middle while another tries, it goes on to the bytes of an undisturbed call."""
    if name == "prepare":
        build_data_set(SYNTH, inputs / "set", say=lambda line: None)
        shutil.copy(inputs / "set" / "manifest.jsonl", inputs / "m.jsonl")
        (inputs / "videos").symlink_to(inputs / "set" / "videos")
        (inputs / "detections").symlink_to(inputs / "set" / "detections")

    def command(out: str) -> list[str]:
        return [word.format_map({"in": inputs, "out": tmp_path / out}) for word in COMMANDS[name][1]]

    first = subprocess.Popen([sys.executable, "-m", "stoa.cli", *command("first")], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "first" / sign).is_file():
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        before = contents(tmp_path / "first")
        assert main(command("first")) == 2
        assert contents(tmp_path / "first") == before
        first.send_signal(signal.SIGCONT)
        assert first.wait(300) == 0
    finally:
        first.kill()
    assert main(command("alone")) == 0
    found, expected = contents(tmp_path / "first"), contents(tmp_path / "alone")
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name] and not name.endswith(".html")] == []
