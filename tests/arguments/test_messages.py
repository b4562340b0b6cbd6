"""What is said about a wrong command line: one line with the option, the value and what it may be."""

import pytest
from commands import REQUIRED, parsed, parser_of

from stoa.arguments.messages import alternatives, nearest
from stoa.cli import COMMANDS, main


def leaves(name: str):
    """(option, what it may be) of all that have a type."""
    parser, _ = parser_of(name)
    for action in parser._actions:
        typehint = getattr(action, "_typehint", None) or action.type
        grouped = any(other.dest.startswith(f"{action.dest}.") for other in parser._actions)
        if action.option_strings and typehint is not None and not grouped and action.dest != "recipe":
            yield action.dest, alternatives(typehint)


TOO_LARGE = "expected a number of less than 19 digits"
# Of each type one option.
TYPED = {tuple(words): (name, option) for name in REQUIRED for option, words in leaves(name) if "text" not in words}


@pytest.mark.parametrize(("name", "option", "words"), [(*where, words) for words, where in TYPED.items()])
def test_a_value_of_another_type_is_told_what_may_stand_there(name, option, words):
    with pytest.raises(ValueError) as caught:
        parsed(name, f"--{option}=no such thing")
    said = str(caught.value)
    assert said.startswith(f"--{option}: 'no such thing' is n"), said
    assert all(word.removeprefix("a ") in said for word in words)
    assert not any(
        python in said for python in ("<class", "typing", "Literal", "Union", "PositiveInt", "NoneType", "\n")
    )


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize(("name", "option"), TYPED.values())
def test_a_number_that_nothing_holds_is_refused(name, option, digits):
    with pytest.raises(ValueError) as caught:
        parsed(name, f"--{option}={digits * '9'}")
    said = str(caught.value)
    assert type(caught.value) is ValueError and said.startswith(f"--{option}") and "\n" not in said, said


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ["--data.captions", "two"], "--data.captions: 'two' is none of one, all"),
        ("train", ["--data.captions", "al"], "--data.captions: 'al' is none of one, all; did you mean 'all'?"),
        ("train", ["--training.max_steps", "six"], "--training.max_steps: 'six' is no whole number"),
        ("train", ["--training.max_steps=1e3"], "--training.max_steps: '1e3' is no whole number; write 1000"),
        ("train", ["--training.max_steps=6.0"], "--training.max_steps: '6.0' is no whole number; write 6"),
        ("train", ["--training.optim.clip_lr", "nan"], "--training.optim.clip_lr: 'nan' is no number"),
        ("train", ["--training.optim.clip_lr", ".nan"], "--training.optim.clip_lr is nan; expected a finite number"),
        ("train", ["--objectives.vtc=-.inf"], "--objectives.vtc is -inf; expected a finite number"),
        ("train", ["--objectives.vtc", "1" + 400 * "0"], f"--objectives.vtc is '1{75 * '0'}...; {TOO_LARGE}"),
        ("train", ["--training.max_steps", "1" + 19 * "0"], f"--training.max_steps is 1{19 * '0'}; {TOO_LARGE}"),
        ("train", ["--training.tensorboard", "1"], "--training.tensorboard: '1' is neither true nor false"),
        ("train", ["--objectives.csal.scale", "x"], "--objectives.csal.scale: 'x' is none of a number, auto, null"),
        ("train", ["--model.graph.reach", "x"], "--model.graph.reach: 'x' is neither a whole number nor null"),
        ("ablate", ["--workers", "0"], "--workers: '0' is no whole number, more than 0"),
        ("prepare", ["--stores", "[film]"], "--stores: '[film]' is no list such as [frames, video]"),
        (
            "train",
            ["--training.max_steps"],
            "--training.max_steps has no value behind it; --help says what it takes",
        ),
        ("train", ["--recipe", "--init", "x"], "--recipe has no value behind it, but --init"),
        ("train", ["--deepspeed=3"], "--deepspeed takes no value and was given '3'"),
        (
            "train",
            ["recipes/stoa.yaml"],
            "recipes/stoa.yaml stands behind no option; did you mean --recipe recipes/",
        ),
        ("train", ["ds.json"], "ds.json stands behind no option; did you mean --deepspeed_config ds.json?"),
        ("export", ["folder"], "folder stands behind no option; leave it out"),
        ("train", ["--training", "3"], "--training is '3'; it is a group of keys, such as --training."),
        ("train", ["--training", "{max_step: 3}"], "--training: unknown key 'training.max_step'; did you mean"),
    ],
)
def test_the_line(command, arguments, message):
    with pytest.raises(ValueError) as caught:
        parsed(command, *arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E-4", 1e-4), ("5e2", 500.0), ("3", 3.0), (".5", 0.5), ("1_000", 1000.0)]
)
def test_numbers_are_read_however_they_are_written(text, value):
    assert parsed("train", f"--training.optim.clip_lr={text}").training.optim.clip_lr == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (word, word.lower() in ("yes", "on", "true"))
        for word in ["yes", "no", "on", "off", "true", "false", "True", "OFF"]
    ],
)
def test_switches_are_read_however_they_are_written(text, value, tmp_path):
    assert parsed("train", "--training.tensorboard", text).training.tensorboard is value
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"training: {{tensorboard: {text}}}")
    assert parsed("train", "--recipe", str(recipe)).training.tensorboard is value


def typos():
    """One letter less, two exchanged, dashes for lines, the last name alone, one dash, a long one."""
    for name in REQUIRED:
        options = [action.dest for action in parser_of(name)[0]._actions if action.option_strings]
        for option in (
            "training.max_steps",
            "validation.top_k",
            "data.manifest",
            "manifest",
            "out",
            "num_train",
            "run",
        ):
            if option not in options:
                continue
            yield name, option, f"--{option[:-1]}"
            yield name, option, f"--{option[:-1]}=3"
            yield name, option, f"\u2013{option}"
            yield name, option, f"-{option}=3"
            if "." in option:
                yield name, option, f"--{option.split('.')[1]}"
                yield name, option, f"--{option[1] + option[0] + option[2:]}"
            if "_" in option:
                yield name, option, f"--{option.replace('_', '-')}=3"


@pytest.mark.parametrize(("name", "meant", "typed"), [*dict.fromkeys(typos())])
def test_an_option_that_is_not_there_names_the_nearest(name, meant, typed):
    with pytest.raises(ValueError) as caught:
        parsed(name, typed, "3")
    assert str(caught.value) == f"unknown option {typed.split('=')[0]}; did you mean --{meant}?"


def test_what_is_nothing_like_an_option_is_not_guessed():
    assert nearest("zzzzzz", ["training.max_steps", "init"]) is None
    with pytest.raises(ValueError, match="unknown option --zzzzzz; --help lists the options"):
        parsed("train", "--zzzzzz")


@pytest.mark.parametrize("name", [name for name in REQUIRED if REQUIRED[name]])
def test_what_is_missing_is_named(name):
    with pytest.raises(ValueError, match="(is|are) missing; --help says what (it|they)"):
        parsed(name, required=False)


def test_options_are_not_shortened():
    with pytest.raises(ValueError, match="unknown option --spli; did you mean --split"):
        parsed("evaluate", "--spli", "val")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("finetun", "finetune"), ("evalute", "evaluate"), ("data chek", "data check"), ("synt", "synth")],
)
def test_a_command_that_is_not_there_names_the_nearest(typed, meant, capsys):
    assert main(typed.split()) == 2
    assert capsys.readouterr().err == f"stoa: error: unknown command {typed.split()[0]!r}; did you mean {meant!r}?\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: stoa {command}" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stoa ")
