"""No value is ignored: one that does nothing is refused, or said where a recipe holds it for another case."""

import pytest
from commands import REQUIRED, parsed, parser_of

from stoa.arguments import needs
from stoa.arguments.needs import Need, idle
from stoa.cli import _evaluation

# Command, options that turn a part off, values of which each does nothing then.
TURNED_OFF = [
    (
        "train",
        "model.objects.num_trajectories=0 objectives.ota=0",
        "model.objects.max_boxes=7 model.objects.layers=1",
    ),
    ("train", "model.objects.num_trajectories=0", "model.objects.tap_from_top=1 model.objects.detach_tap=true"),
    (
        "train",
        "model.objects.num_trajectories=0",
        "model.objects.motion=true model.objects.relations=true model.objects.word_head=true",
    ),
    ("train", "model.actions.num_tokens=0", "model.actions.layers=1 model.actions.tap_from_top=3"),
    (
        "train",
        "model.objects.num_trajectories=0",
        "model.objects.residual=true model.objects.look=true model.objects.changes=true",
    ),
    ("train", "model.actions.num_tokens=0", "model.actions.detach_tap=true model.actions.motion=true"),
    ("train", "objectives.ota=0", "model.objects.word_head=true"),
    ("train", "objectives.asp=0", "model.actions.word_head=true"),
    (
        "train",
        "objectives.vtm=0 objectives.mlm=0 objectives.plm=0",
        "model.objects.grounding=true model.actions.grounding=true",
    ),
    (
        "train",
        "model.graph.layers=0",
        "model.graph.reach=0 model.graph.threshold=0.1 model.graph.edge_mode=mask_only",
    ),
    ("train", "model.graph.layers=0", "model.graph.pool=mean model.graph.contrast=1 model.graph.global_repeats=2"),
    ("train", "model.graph.layers=0", "model.graph.residual=false model.graph.positions=random"),
    (
        "train",
        "model.graph.layers=0",
        "model.graph.tap_from_top=2 model.graph.detach_tap=true model.graph.reach=null",
    ),
    ("train", "model.actions.num_tokens=0 model.objects.num_trajectories=0", "training.optim.objects_lr=1e-4"),
    ("train", "", "model.num_answers=9"),
    ("*", "", "training.spike_rollbacks=5"),
    ("*", "objectives.csal.share=0", "objectives.csal.from_step=9 objectives.csal.scale=5 objectives.csal.mass=0.2"),
    ("*", "objectives.csal.share=0", "objectives.csal.cut=0.5 objectives.csal.smoothing=0.2"),
    ("*", "objectives.csal.share=1", "objectives.vtc_smoothing=0.1"),
    ("*", "objectives.vtc=0", "objectives.vtc_smoothing=0.1"),
    ("*", "objectives.vtm=0", "objectives.vtm_hard_share=0.5 objectives.vtm_ramp_steps=9"),
    ("*", "objectives.vtm_hard_share=0", "objectives.vtm_ramp_steps=9"),
    ("*", "objectives.mlm=0", "objectives.mlm_kept_share=0.5"),
    ("*", "objectives.plm=0", "objectives.plm_form=two_stream objectives.plm_prefix=start"),
    ("*", "objectives.ota=0 objectives.asp=0", "objectives.align_loss=nce objectives.null_token=start"),
    ("*", "objectives.asp=0", "objectives.pad_null=true"),
    (
        "finetune",
        "task=retrieval",
        "validation.generation.beams=2 validation.generation.max_new_tokens=3 max_answers=9",
    ),
    ("finetune", "task=multiple_choice", "validation.top_k=3 validation.generation.length_penalty=2"),
    ("finetune", "task=captioning", "validation.top_k=3 validation.generation.length_penalty=2"),
    ("finetune", "task=answering questions=q objectives.plm=0 objectives.answer=1", "validation.generation.beams=2"),
    (
        "finetune",
        "task=answering questions=q objectives.plm=0 objectives.answer=1",
        "data.together=2 validation.top_k=3",
    ),
    ("finetune", "task=answering questions=q", "max_answers=9"),
    ("finetune", "validation.held_out=5", "validation.split=other"),
    ("evaluate", "predictions=p", "run=r top_k=3 hard=h dual_softmax=true baseline=false decoder=pyav batch_size=3"),
    ("evaluate", "predictions=p", "num_frames=3 max_tokens=9 view=blind num_workers=2 generation.beams=2"),
    ("evaluate", "", "question_types=[what]"),
    ("evaluate", "generation.beams=1", "generation.length_penalty=2"),
    ("prepare", "stores=[video]", "store.frames=3 store.jpeg_quality=50"),
    ("prepare", "stores=[frames]", "store.gop=3 store.crf=30"),
    ("prepare", "stores=[]", "store.side=64 store.clips_per_shard=3 timeout_seconds=3 detections.path=d engine=ray"),
    ("ablate", "list=true", "only=x workers=2"),
    ("ablate", "tables=true", "only=x workers=2 list=true"),
    ("explain", "clip=c", "split=val"),
    ("explain", "manifest=null", "clip=c split=val"),
    ("explain", "manifest=m", "detections=d spacy=s"),
]
MEMBERS = [
    (name, off.split(), values.split())
    for names, off, values in TURNED_OFF
    for name in (("train", "finetune") if names == "*" else (names,))
]


@pytest.mark.parametrize(("name", "off", "values"), MEMBERS)
def test_what_does_nothing_is_known(name, off, values):
    parser, command = parser_of(name)
    words = [*REQUIRED[name], *(f"--{word}" for word in (*off, *values))]
    given = vars(parser.parse_args(words).as_flat())
    found = list(idle(given, vars(parser.get_defaults().as_flat()), command.needs))
    assert {item.key for item in found} >= {value.split("=")[0] for value in values}
    assert all("does nothing: " in item.refusal("--x") and "leave it out" in item.refusal("--x") for item in found)


OF_OTHER_TASKS = {
    "retrieval": [
        "questions=q",
        "questions=q question_types=[what]",
        "generation.beams=2",
        "generation.max_new_tokens=9",
    ],
    "captioning": ["questions=q", "hard=h", "top_k=3", "dual_softmax=true", "baseline=false"],
    "answering": ["hard=h", "top_k=3", "dual_softmax=true", "baseline=false"],
    "multiple_choice": ["hard=h", "top_k=3", "generation.beams=2 generation.length_penalty=2"],
}


@pytest.mark.parametrize(("task", "values"), [(task, v) for task, values in OF_OTHER_TASKS.items() for v in values])
def test_what_a_task_of_evaluation_has_no_use_for_is_refused(task, values):
    args = parsed("evaluate", *(f"--{value}" for value in values.split()))
    with pytest.raises(ValueError, match=rf"and does nothing: task is {task}; leave it out"):
        _evaluation._require_used(args, task)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("retrieval", "hard=h top_k=3 dual_softmax=true baseline=false"),
        ("captioning", "generation.beams=2 generation.length_penalty=2"),
        ("answering", "questions=q question_types=[what] generation.max_new_tokens=9"),
        ("multiple_choice", "questions=q question_types=[what]"),
    ],
)
def test_what_a_task_of_evaluation_uses_is_taken(task, values):
    assert _evaluation._require_used(parsed("evaluate", *(f"--{value}" for value in values.split())), task) is None


def test_an_option_that_does_nothing_is_refused():
    with pytest.raises(ValueError) as caught:
        parsed("train", "--data.cache_gib", "1", "--model.graph.layers=0", "--model.graph.reach", "null")
    assert str(caught.value) == (
        "--model.graph.reach is null and does nothing: model.graph.layers is 0; leave it out, or 1 puts the graph in"
    )


def test_every_need_has_a_member():
    """Of each, a value that does nothing is among the tests."""
    tried = {(name, value.split("=")[0]) for name, _, values in MEMBERS for value in values}
    tables = {
        "train": needs.PRETRAINING,
        "finetune": needs.FINETUNING,
        "evaluate": needs.EVALUATION,
        "prepare": needs.PREPARATION,
        "ablate": needs.ABLATION,
        "explain": needs.EXPLANATION,
    }
    for name, table in tables.items():
        assert parser_of(name)[1].needs == table
        options = {action.dest for action in parser_of(name)[0]._actions}
        for need in table:
            assert all(key in options for key in need.on.split()), need
            for pattern in need.keys.split():
                assert any(need.covers(key) for key in options if key.startswith(pattern.removesuffix("*"))), pattern
            assert any(need.covers(key) for command, key in tried if command == name), need


def test_a_value_is_said_where_an_option_turns_a_recipe_s_part_off(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: {actions: {tap_from_top: 3, layers: 1}}\nobjectives: {asp: 1.0, pad_null: true}\n")
    parsed("train", "--recipe", str(recipe))
    assert capsys.readouterr().out == ""
    parsed("train", "--recipe", str(recipe), "--model.actions.num_tokens", "0", "--objectives.asp", "0")
    assert capsys.readouterr().out.splitlines() == [
        "of the recipe model.actions.layers, model.actions.tap_from_top do nothing: model.actions.num_tokens is 0",
        "of the recipe objectives.pad_null does nothing: objectives.asp is 0",
    ]


def test_a_value_that_does_nothing_in_its_recipe_is_refused(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model:\n  graph: {contrast: 1.0}\n")
    with pytest.raises(ValueError) as caught:
        parsed("train", "--recipe", str(recipe))
    assert str(caught.value) == (
        f"--recipe {recipe}: model.graph.contrast is 1 and does nothing: model.graph.layers is 0; leave it out, or 1 "
        "puts the graph in"
    )
    parsed("train", "--recipe", str(recipe), "--model.graph.layers", "1")


def test_a_group_given_at_once_is_looked_into():
    with pytest.raises(ValueError, match="--objectives.csal.mass is 0.7 and does nothing: objectives.csal.share is 0"):
        parsed("train", "--objectives", "{csal: {mass: 0.7}}")


def test_what_is_not_known_yet_is_met():
    need = Need("a", "b", lambda b: b > 1)
    assert not list(idle({"a": 1}, {"a": 0, "b": 0}, (need,)))
    assert [item.key for item in idle({"a": 1, "b": 1}, {"a": 0, "b": 0}, (need,))] == ["a"]
    assert not list(idle({"a": 0, "b": 1}, {"a": 0, "b": 0}, (need,)))
