"""A recipe's file: its form, its keys, its kind, and its name."""

from pathlib import Path

import pytest
from commands import parsed

ROOT = Path(__file__).parent.parent.parent
FINETUNE = ["--deepspeed_config", "x", "--run", "r"]


def refused(command: str, recipe, *arguments: str) -> str:
    with pytest.raises(ValueError) as caught:
        parsed(command, "--recipe", str(recipe), *arguments, required=command == "train")
    said = str(caught.value)
    assert said.startswith(f"--recipe {recipe}") and "\n" not in said, said
    return said.removeprefix(f"--recipe {recipe}").removeprefix(":").strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds nothing; expected keys with values"),
        ("# a comment alone\n", "holds nothing; expected keys"),
        ("- training\n- data\n", "holds a list; expected keys with values"),
        ("stoa", "holds 'stoa'; expected keys with values"),
        (
            "training:\n",
            "training holds nothing; it is a group of keys: chunk_clips, compile",
        ),
        ("training: 3\n", "training is 3; it is a group of keys"),
        ("model: {graph: [1]}\n", "model.graph is [1]; it is a group of keys"),
        ("training:\n\tmax_steps: 3\n", "not valid YAML: line 2 is indented with a tab; use spaces"),
        ("training: {max_steps: 3\n", "not valid YAML: line 2, column 1"),
        ("training: {seed: 1}\ntraining: {max_steps: 2}\n", "training stands twice, in lines 1 and 2; keep one"),
        ("training:\n  seed: 1\n  seed: 2\n", "seed stands twice, in lines 2 and 3; keep one"),
        ("model:\n  num_frame: 3\n", "unknown key 'model.num_frame'; did you mean 'model.num_frames'"),
        ("modle:\n  num_frames: 3\n", "unknown key 'modle'; did you mean 'model'"),
        ("num_frames: 3\n", "unknown key 'num_frames'; did you mean 'model.num_frames'"),
        ("zzz: 3\n", "unknown key 'zzz'; the keys are data, deepspeed"),
        ("recipe: other.yaml\n", "unknown key 'recipe'"),
        ("training: {max_steps: six}\n", "training.max_steps: 'six' is no whole number"),
        ("training: {max_steps: null}\n", "training.max_steps: 'null' is no whole number"),
        ("data: {captions: [one]}\n", "data.captions: '[one]' is none of one, all"),
        ("training: {optim: {clip_lr: .nan}}\n", "training.optim.clip_lr is nan; expected a finite number"),
    ],
)
def test_what_is_no_recipe_is_one_line(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    assert refused("train", tmp_path / "r.yaml").startswith(message)


def test_a_byte_order_mark_and_numbers_without_a_point_are_read(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("training: {optim: {clip_lr: 1e-4, new_lr: 2E-3}, max_steps: 7}\n", encoding="utf-8-sig")
    training = parsed("train", "--recipe", str(recipe)).training
    assert (training.optim.clip_lr, training.optim.new_lr, training.max_steps) == (1e-4, 2e-3, 7)
    recipe.write_text("training: {max_steps: 7}", encoding="utf-16")
    assert refused("train", recipe).startswith("the file is UTF-16, not UTF-8; re-save")


OTHERS = {
    "recipes/finetune/msvd_qa.yaml": "is a recipe for fine-tuning; give it to stoa finetune as --recipe",
    "recipes/stoa.yaml": "is a recipe for pre-training; give it to train.py as --recipe",
    "recipes/small/stgt.yaml": "is a recipe for pre-training; give it to train.py as --recipe",
    "recipes/ablation/table4.yaml": "is a plan; give it to stoa ablate",
    "ds_configs/demo.json": "is a configuration of DeepSpeed; give it as --deepspeed_config",
    '{"weights_sha256": "", "abilities": {}, "model": {}}': "is the configuration of an exported model; give its",
    '{"config": {}, "deepspeed_config": {}, "step": 3}': "is the record of a checkpoint; give its folder as --run",
    '[{"video": "a.mp4", "caption": "a"}]': "is a row of a manifest; give the file as --data.manifest",
}


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize("given", OTHERS)
def test_a_file_of_another_kind_is_told_where_it_goes(tmp_path, given, command):
    if ("fine-tuning" if command == "finetune" else "pre-training") in OTHERS[given]:
        return
    path = ROOT / given
    if given[0] in "{[":
        path = tmp_path / "given.json"
        path.write_text(given)
    assert refused(command, path).startswith(OTHERS[given])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("recipes/stao.yaml", "recipes/stoa.yaml"),
        ("recipes/stoa", "recipes/stoa.yaml"),
        ("recipes/stoa.yml", "recipes/stoa.yaml"),
        ("recipe/stoa.yaml", "recipes/stoa.yaml"),
        ("stoa.yaml", "recipes/stoa.yaml"),
        ("stgt", "recipes/stgt.yaml"),
        ("small/stgt", "recipes/small/stgt.yaml"),
        ("recipes/smal/stgt.yaml", "recipes/small/stgt.yaml"),
        ("msrvtt_captioning", "recipes/finetune/msrvtt_captioning.yaml"),
        ("finetune/msvd_qa.yaml", "recipes/finetune/msvd_qa.yaml"),
    ],
)
def test_a_name_that_is_not_there_names_the_nearest(monkeypatch, typed, meant):
    monkeypatch.chdir(ROOT)
    assert refused("train", typed) == f"does not exist; did you mean {meant}?"


def test_a_folder_or_a_name_like_no_other_is_told(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert refused("train", "recipes").startswith("is a folder; did you mean recipes/")
    assert refused("train", tmp_path / "zzzzzzz.yaml") == "does not exist; recipes/ holds the ready ones"


@pytest.mark.parametrize(
    ("recipe", "typed", "length", "said"),
    [
        ("", "--training.max_steps=6", (None, 6), ""),
        ("training: {max_steps: 6}", "", (None, 6), ""),
        ("", "--epochs=2", (2, 25_000), ""),
        ("", "", (5, 25_000), ""),
        ("epochs: 3", "", (3, 25_000), ""),
        (
            "epochs: 3",
            "--training.max_steps=6",
            (None, 6),
            "--training.max_steps 6 takes the place of the recipe's epochs, 3",
        ),
        (
            "training: {max_steps: 6}",
            "--epochs=3",
            (3, 25_000),
            "--epochs 3 takes the place of the recipe's training.max",
        ),
        ("epochs: null\ntraining: {max_steps: 6}", "", (None, 6), ""),
        ("training: {max_steps: 7}", "--epochs=null --training.max_steps=6", (None, 6), ""),
    ],
)
def test_a_fine_tuning_is_as_long_as_was_said(tmp_path, capsys, recipe, typed, length, said):
    (tmp_path / "r.yaml").write_text(f"task: retrieval\ndata: {{manifest: m}}\n{recipe}\n")
    values = parsed("finetune", "--recipe", str(tmp_path / "r.yaml"), *FINETUNE, *typed.split(), required=False)
    assert (values.epochs, values.training.max_steps) == length
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("recipe", "typed"), [("", "--epochs=2 --training.max_steps=6"), ("epochs: 2\ntraining: {max_steps: 6}", "")]
)
def test_two_lengths_in_one_place_are_refused(tmp_path, recipe, typed):
    (tmp_path / "r.yaml").write_text(f"task: retrieval\ndata: {{manifest: m}}\n{recipe}\n")
    with pytest.raises(
        ValueError, match="training.max_steps is 6 and .*epochs 2, and a run has one length; leave one out"
    ):
        parsed("finetune", "--recipe", str(tmp_path / "r.yaml"), *FINETUNE, *typed.split(), required=False)
