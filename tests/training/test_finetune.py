"""From a pre-trained run to a model chosen on validation, and what evaluating it says. Each as a user calls it."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from data_sets import made_once
from jsonargparse import ArgumentParser
from launch import ROOT, Program, finish, start_training

import stoa
from stoa.cli import finetune as cli
from stoa.cli import main
from stoa.data.clips import FileClips
from stoa.data.dataset import stable_hash
from stoa.data.ledger import Ledger
from stoa.data.loader import open_clips
from stoa.manifest import read_manifest, write_manifest
from stoa.models.config import ModelConfig
from stoa.run import Process
from stoa.tasks import finetune as module
from stoa.training import checkpoint
from stoa.training.console import Console
from stoa.training.metrics import METRICS_FILE, read_metrics
from stoa.training.watchdog import Watchdog


@pytest.fixture(scope="session")
def pretrained(data_set, tmp_path_factory):
    """A run of two steps."""

    def make(folder):
        finish(start_training(data_set, folder, folder / "run", "--training.max_steps", "2"))

    return made_once(tmp_path_factory, "pretrained", make) / "run"


def test_pre_training_starts_from_all_of_a_run(pretrained, data_set, tmp_path):
    still = ("--training.optim.clip_lr", "1e-12", "--training.optim.new_lr", "1e-12", "--training.max_steps", "1")
    out, _ = finish(start_training(data_set, tmp_path, tmp_path / "run", "--init", str(pretrained), *still))
    assert f"all that {checkpoint.find(pretrained)} holds starts from there, step 2" in out
    started, source = (checkpoint.read_weights(checkpoint.find(run))[0] for run in (tmp_path / "run", pretrained))
    assert started.keys() == source.keys()
    torch.testing.assert_close(started, source)


def test_a_backbone_that_was_frozen_stays_frozen(data_set, tmp_path):
    frozen = ("--training.optim.frozen_vision_blocks", "2", "--training.max_steps", "2", "--objectives.csal.share", "1")
    late = ("--objectives.csal.from_step", "2")
    out, _ = finish(start_training(data_set, tmp_path, tmp_path / "run", *frozen, *late))
    assert "2 of 2 vision blocks stay as they are" in out
    assert "objectives.csal.from_step is 2 and the run ends at step 2: VTC keeps the own pairs" in out
    out, _ = finetune(tmp_path, data_set, tmp_path / "run", "retrieval", more=("--epochs", "0.5"))
    assert "2 of 2 vision blocks stay as they are" in out
    assert "warmup_steps is 20 and the run ends at step 3: the learning rates rise to 15% of their" in out
    before, after = (checkpoint.read_weights(checkpoint.find(tmp_path / run))[0] for run in ("run", "retrieval"))
    same = {name for name, value in before.items() if name in after and torch.equal(value, after[name])}
    assert same >= {name for name in before if name.startswith("clip.visual.")}
    assert not same & {name for name in before if name.startswith("clip.transformer.resblocks.") and "weight" in name}


def test_pre_training_from_a_run_of_another_backbone(pretrained, data_set, tmp_path):
    wider = ("--model.backbone.name", "stoa-small")
    _, said = finish(start_training(data_set, tmp_path, tmp_path / "run", "--init", str(pretrained), *wider), code=2)
    assert f"{checkpoint.find(pretrained)} is of the backbone stoa-tiny and model.backbone.name is stoa-small" in said


def arguments_of(tmp_path, data_set, run, task) -> list[str]:
    ds_config = tmp_path / "ds.json"
    ds_config.write_text('{"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 1}}')
    recipe = "answering" if task.startswith("answering") else task
    return [
        *("finetune", "--recipe", str(ROOT / f"recipes/finetune/small/{task}.yaml"), "--task", recipe),
        *("--run", str(run), "--deepspeed_config", str(ds_config)),
        *("--data.manifest", str(data_set / "manifest.jsonl"), "--data.num_workers", "0"),
        *("--training.output_dir", str(tmp_path / task), "--training.tensorboard", "false", "--epochs", "2"),
        *(("--questions", str(data_set / "qa")) if recipe == "answering" else ()),
        *(("--num_frames", "2", "--max_tokens", "28") if task == "retrieval" else ()),
    ]


def finetune(tmp_path, *what, more: tuple[str, ...] = (), code: int = 0) -> tuple[str, str]:
    """Output and errors of the command, which must end with ``code``."""
    return finish(Program(["-m", "stoa.cli", *arguments_of(tmp_path, *what), *more], tmp_path), code=code)


def is_already_done(again, output):
    assert "is already trained to step 12; nothing to do (raise epochs or choose another" in again()[0]


def is_validated_where_it_was_ended(again, output):
    """Ended between its last checkpoint and what validation says of that."""
    log = output / METRICS_FILE
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    out, _ = again()
    assert re.search(r"resuming from .*step-00000012 at step 12\n.*\nvalidation at step 12: ", out)
    assert [r["step"] for r in read_metrics(log) if "validation" in r] == [6, 12]
    assert "is already trained to step" in again()[0]


def is_refused_from_another_run(again, output):
    _, err = again("--run", str(output), code=2)
    assert re.search(r"is of another fine-tuning: fine-tuning.run \(sha256 of its weights\) is '\w+' there", err)


def is_begun_again_without_its_checkpoints(again, output):
    """The weights that the earlier training chose are not taken for the new one's."""
    shutil.rmtree(output / "checkpoints")
    (before,) = (output / "best").iterdir()
    assert "; first\n" in again("--epochs", "1")[0]
    assert {path.name for path in (output / "best").iterdir()} == {f"{before.name}.earlier", "step-00000012"}


@pytest.mark.parametrize(
    ("task", "called_again"),
    [
        ("retrieval", is_already_done),
        pytest.param("captioning", is_validated_where_it_was_ended, marks=pytest.mark.slow),
        ("answering", is_refused_from_another_run),
        pytest.param("answering_said", is_begun_again_without_its_checkpoints, marks=pytest.mark.slow),
    ],
)
def test_a_task(task, called_again, pretrained, data_set, tmp_path, capsys):
    kept = ("--keep_captions", "true") if task == "answering_said" else ()
    out, _ = finetune(tmp_path, data_set, pretrained, task, more=kept)
    assert ("48 clips with their captions stand among them" in out) == bool(kept)
    output, name = tmp_path / task, "answering" if task.startswith("answering") else task
    assert f"{name}: starts from {checkpoint.find(pretrained)}, step 2" in out

    validated = [record for record in read_metrics(output / "metrics.jsonl") if "validation" in record]
    scores, steps = [r["validation"] for r in validated], [r["step"] for r in validated]
    assert len(scores) == 2 and steps[1] == 2 * steps[0]  # one an epoch
    kind = "questions" if name == "answering" else "clips"
    said = {"retrieval": (r"R@1 text-to-video \(itc\+vtm\)", "of 100", 1), "captioning": ("CIDEr", r"\(x 100\)", 100)}
    metric, scale, factor = said.get(name, ("accuracy", "of 100", 1))
    first, second = (f"{factor * score:.1f}" for score in scores)
    of = rf"{scale} on \d+ {kind} of val"
    assert re.search(rf"^validation at step {steps[0]}: {metric} {first} {of}; first$", out, re.M), out
    before = f"best before {first} at step {steps[0]}"
    assert re.search(rf"^validation at step {steps[1]}: {metric} {second} {of}; {before}$", out, re.M), out
    best = checkpoint.find(output)
    facts = checkpoint.read_run(best)
    assert best.parent == output / "best"
    assert facts["validation"] == max(scores) and facts["task"] == name
    assert facts["pretrained"]["step"] == 2
    before = {"asp", "mlm", "ota", "plm", "vtc", "vtm"}
    assert set(facts["losses"]) == before | ({"answer"} if task == "answering" else set())
    assert (facts["answers"] is None) == (task != "answering")
    if name == "answering":
        assert facts["config"]["objectives"]["plm_prefix"] == ("start" if kept else "random")
    assert stoa.load(output).knows_questions == (name == "answering")

    questions = ["--questions", str(data_set / "qa")] if name == "answering" else []
    command = ["--run", str(output), "--manifest", str(data_set / "manifest.jsonl"), *questions]
    greedy = [] if name == "retrieval" else ["--generation.beams", "1"]
    assert main(["evaluate", *command, "--split", "val", *greedy, "--decoder", "pyav"]) == 0
    report = json.loads((output / f"{name}-val.json").read_text())
    headline = {
        "retrieval": lambda: report["retrieval"]["trained"]["itc+vtm"]["text-to-video"]["r1"],
        "captioning": lambda: report["captioning"]["cider"],
        "answering": lambda: report["answering"]["said" if facts["answers"] is None else "chosen"]["accuracy"],
    }[name]()
    assert headline == pytest.approx(max(scores), abs=1e-6)
    assert report["protocol"]["weights sha256"] == checkpoint.read_weights(best)[1]
    assert "protocol" in capsys.readouterr().out

    def again(*more: str, code: int = 0) -> tuple[str, str]:
        return finetune(tmp_path, data_set, pretrained, task, more=(*kept, *more), code=code)

    called_again(again, output)


@pytest.mark.slow
def test_a_graph_answers_questions(data_set, tmp_path):
    """STGT, frozen and of other frames than it was trained with."""
    graph = ("--model.graph.layers", "1", "--training.optim.frozen_vision_blocks", "2", "--training.max_steps", "2")
    finish(start_training(data_set, tmp_path, tmp_path / "run", *graph))
    more = ("--epochs", "0.5", "--num_frames", "5")
    finetune(tmp_path, data_set, tmp_path / "run", "answering", more=more)
    command = ["--run", str(tmp_path / "answering"), "--manifest", str(data_set / "manifest.jsonl"), "--split", "val"]
    out = tmp_path / "r.json"
    assert main(["evaluate", *command, "--questions", str(data_set / "qa"), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["protocol"]["frames"].startswith("5 by time") and report["answering"].keys() == {"chosen"}


def test_a_choice_needs_no_run_of_its_own(pretrained, data_set, tmp_path, capsys):
    rows = [json.loads(line) for line in (data_set / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "test"][:3]
    options = [row["captions"][0]["text"] for row in rows]
    lines = [
        {"clip": r["id"], "type": "mc", "question": "", "answer": o, "options": options}
        for r, o in zip(rows, options, strict=True)
    ]
    (tmp_path / "mc.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ["--task", "multiple_choice", "--run", str(pretrained), "--questions", str(tmp_path / "mc.jsonl")]
    out = tmp_path / "report.json"
    assert main(["evaluate", *command, "--manifest", str(data_set / "manifest.jsonl"), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["multiple_choice"].keys() == {"vtm", "itc"}
    assert "picked from 3 options" in capsys.readouterr().out


def test_the_launcher_puts_the_rank_first(pretrained, data_set, tmp_path, capsys):
    arguments = arguments_of(tmp_path, data_set, pretrained, "retrieval")
    assert main(["--local_rank=0", *arguments, "--epochs", "0"]) == 2
    assert "--epochs is 0.0; expected more than 0" in capsys.readouterr().err


KEEPING = ("--objectives.plm", "1", "--objectives.vtc", "0", "--objectives.vtm", "0", "--objectives.answer", "0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data.split", "val"), "--validation.split is 'val', which is trained on"),
        (("--validation.split", "nope"), r"has no usable row with split 'nope' \(splits found: "),
        (("--questions", "x.jsonl"), "--questions is x.jsonl and --task retrieval"),
        (("--validation.held_out", "48"), "--validation.held_out is 48, and there are 48 clips to train on"),
        (
            ("--task", "answering", "--questions", "x.jsonl", "--data.captions", "all"),
            "--data.captions is 'all' and --task answering",
        ),
        (("--keep_captions", "true"), "--keep_captions is true, --task 'retrieval'"),
        *(
            (
                ("--task", "answering", "--questions", "x.jsonl", "--keep_captions", "true", *KEEPING, name, "1"),
                f"--keep_captions is true, --task 'answering', and .* {name[-3:]} 1.0",
            )
            for name in ("--objectives.vtc", "--objectives.vtm")
        ),
        (("--validation.held_out", "8", "--data.together", "2"), "--validation.held_out is 8 and --data.together 2"),
        (
            ("--objectives.plm", "1", "--objectives.plm_form", "two_stream"),
            "plm_form is 'two_stream', and --run was trained with 'one_pass'",
        ),
        (("--epochs", "0"), "--epochs is 0.0; expected more than 0"),
        (("--validation.top_k", "0"), "--validation.top_k is 0; expected at least 1"),
        (("--run", "nowhere"), "no checkpoint under nowhere"),
        (("--traning.seed", "1"), "did you mean --training.seed"),
    ],
)
def test_mistakes_are_one_line(arguments, message, pretrained, data_set, tmp_path, capsys):
    assert main([*arguments_of(tmp_path, data_set, pretrained, "retrieval"), *arguments]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err), err
    assert ("did you mean" in err) == ("did you mean" in message)


def test_validation_on_what_is_held_out(pretrained, data_set, tmp_path):
    held_out = ("--validation.held_out", "16", "--epochs", "1")
    rows = read_manifest(data_set / "manifest.jsonl")
    lost = min((row.id for row in rows if row.split == "train"), key=stable_hash)  # which is held out
    rows = [replace(row, captions=2 * row.captions, video="x" * (row.id == lost) or row.video) for row in rows]
    write_manifest(data_set / "twice.jsonl", rows)
    every = ("--data.manifest", str(data_set / "twice.jsonl"), "--data.captions", "all")
    out, _ = finetune(tmp_path, data_set, pretrained, "retrieval", more=(*held_out, *every))
    # 2 captions of (48 - 16) clips in batches of 8
    assert re.search(r"validation at step 8: .* on 15 of 16 clips held out of train; first", out)
    assert f"validation is without 1 unreadable clip(s), the first '{lost}': " in out


def test_clips_may_be_held_out_of_training(tmp_path, data_set):
    """Whole and disjoint, the same whatever the order of the manifest, with the questions about them."""
    recipe = ["--recipe", str(ROOT / "recipes/finetune/small/answering.yaml"), "--run", "x", "--deepspeed_config", "x"]
    given = ["--data.manifest", str(data_set / "manifest.jsonl"), "--questions", str(data_set / "qa")]
    parser = ArgumentParser(exit_on_error=False)
    cli.add_arguments(parser)
    config = cli.config_of(parser.instantiate(parser.parse_args([*recipe, *given, "--validation.held_out", "9"])))
    held = module._validation_clips(config)
    watchdog = Watchdog(tmp_path, 0, 60, 60)
    process = Process({}, torch.device("cpu"), Console(enabled=False), Ledger(None), False, watchdog)
    trained, _ = module._open(config, process, ModelConfig())
    every = open_clips(str(data_set / "manifest.jsonl"), "train", Ledger(None))
    assert len(held) == 9 and set(held.ids()) < set(every.ids())
    assert set(trained.ids()) and not set(trained.ids()) & set(held.ids())
    turned = FileClips(every.rows[::-1], every.root)
    assert {turned.ids()[i] for i in module._held_out(turned, 9)[0]} == set(held.ids())
    assert held.row(3).id == held.ids()[3] and held.place(3).read().row == held.row(3)
