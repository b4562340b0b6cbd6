"""Commands in the documents are understood by the programs that they call, and what is quoted is what is printed."""

import ast
import re
from functools import cache

import pytest
from shown import ROOT, Shown, check, check_stoa, shown

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "cluster" / "README.md", *ROOT.glob("docs/*.md")]
COMMANDS = sorted({command for document in DOCUMENTS for command in shown(document.read_text())}, key=str)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command)


def test_where_commands_are_found():
    text = """Say `stoa plan --gpu V100-32`, `make demo` or `stoa`.
```
stoa evaluate --run a \\
  --manifest b    # two lines
  indented, printed
```
```
$ OMP_NUM_THREADS=1 .venv/bin/stoa ckpt ls a
stoa evaluate --is printed
```
```python
stoa = 1
```
"""
    assert [(str(command), command.complete) for command in shown(text)] == [
        ("stoa evaluate --run a --manifest b", True),
        ("stoa ckpt ls a", True),
        ("stoa plan --gpu V100-32", False),
        ("make demo", False),
        ("stoa", False),
    ]
    assert len([command for command in COMMANDS if command.complete]) > 30


@pytest.mark.parametrize(
    "words",
    [
        ("stoa", "evaluate", "--runs", "a"),
        ("stoa", "train", "--recipe", "recipes/nothing.yaml", "--deepspeed_config", "ds_configs/demo.json"),
        ("stoa", "evaluates"),
        ("deepspeed", "train.py", "--deepspeed_config", "ds_configs/demo.json", "--model.num_frame", "8"),
        ("deepspeed", "--num_gpu_s", "2", "train.py"),
        ("make", "everything"),
        ("make", "gpu-check", "PARTS=2"),
        ("python", "benchmarks/scaling_model.py", "--tabelle"),
        ("python", "-m", "spacy", "download"),
        ("python", "-c", "print("),
        ("pip", "install", ".[nothing]"),
        ("cluster/node.sh", "--recipes", "a"),
    ],
    ids=" ".join,
)
def test_a_command_that_has_rotted_is_found(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(BaseException):  # noqa: B017 - of each parser its own, SystemExit among them
        check(Shown(words, complete=True))


def test_what_is_named_in_part():
    check_stoa(["ckpt"], complete=False)
    check_stoa(["evaluate", "--run"], complete=False)
    with pytest.raises(AssertionError, match="has no"):
        check_stoa(["evaluate", "--runs"], complete=False)


SOURCES = [ROOT / "Makefile", ROOT / "setup.py", *ROOT.glob("stoa/**/*.py"), *ROOT.glob("cluster/*.sh")]


@cache
def _messages() -> tuple[str, ...]:
    """The texts of the sources, with a NUL where a value stands."""
    found = list[str]()
    for path in SOURCES:
        text = path.read_text()
        if path.suffix != ".py":
            found += re.sub(r"\$\{[^}]*\}|\$\(+[^)]*\)+|\$\w+", "\0", text).splitlines()
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


def _pieces(line: str) -> list[str]:
    """What a message has in one place: between values, and between messages that are put together."""
    return [piece.strip() for piece in re.split(r"\.\.\.|; |: ", line) if piece.strip()]


def _unsaid(line: str) -> list[str]:
    """The pieces of a quoted line that no message has."""
    return [piece for piece in _pieces(line) if not any(piece in said for said in _messages())]


def _quoted() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    return [
        line for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]


@pytest.mark.parametrize("line", _quoted())
def test_the_lines_of_troubleshooting_are_printed(line):
    assert sum(map(len, _pieces(line))) >= 12, "so little of a line fits anything"
    assert _unsaid(line) == []


def test_a_line_that_nothing_prints_is_found():
    assert _unsaid("... is being written by ...; wait for it, or choose another ...") == []
    assert _unsaid("... is being written on ...; wait for it") == ["is being written on"]
