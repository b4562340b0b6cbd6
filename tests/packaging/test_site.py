"""What the pages of the documentation show: examples, operators, and figures of the benchmarks."""

import importlib.util
import json
import re
import runpy
import sys

import pytest
import torch
from launch import ROOT

import stoa.ops

DOCS = ROOT / "docs"
SCRIPTS = sorted((DOCS / "examples").glob("*.py"))
PRINTED = {
    "assignment": [
        "[-1, -1, -1, -1]",
        "no match possible: [False, False, False]",
        "fits nothing: [False, True, False]",
    ],
    "graph": ["patches [[0, 4], [1, 5], [2, 6]]", "tokens (1, 36, 32) to add to the pooled video (1, 32)"],
    "operators": ["tokens (2, 12, 64)", ". . x x x x x"],
    "reading": ["6 clips in the store, frames", "train_000000: 16 JPEGs", "frames (4, 3, 64, 64) boxes (4, 10, 4)"],
    "trajectories": ["a white circle becomes smaller", "star     right", "of the frame a clip"],
    "training_step": ["step  1: loss", "step 12: loss"],
}


@pytest.mark.slow  # `make docs` runs them too
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    assert [part for part in PRINTED[script.stem] if part not in said] == []
    if script.stem == "training_step":
        first, last = map(float, re.findall(r"loss ([\d.]+) \(", said))
        assert last < 0.8 * first


def test_every_example_is_shown():
    shown = re.findall(r"^```\{example\} (\S+)$", (DOCS / "examples.md").read_text(), re.MULTILINE)
    assert sorted(shown) == [script.relative_to(DOCS).as_posix() for script in SCRIPTS]


def test_operators():
    """All are told of, and the code about them runs."""
    text = (DOCS / "operators.md").read_text()
    operators = set(stoa.ops.__all__) - {"build_info"}
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == operators
    assert all(f"stoa.ops.{name}" in (DOCS / "api.md").read_text() for name in operators)
    codes = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(codes) > len(operators)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for code in codes:
        exec(code, names)


@pytest.fixture
def tables(monkeypatch):
    spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_results(tables):
    documents = tables.documents()
    texts = {path.name: path.read_text() for path in documents}
    assert {path.name: tables.renewed(texts[path.name], path.name) for path in documents} == texts, (
        "benchmarks/results has other figures: python docs/tables.py"
    )
    marked = re.findall(r"<!-- table: ([\w-]+) -->", "".join(texts.values()))
    assert sorted(marked) == sorted(tables.TABLES)


def test_another_figure_is_another_table(tables, tmp_path, monkeypatch, capsys):
    measured = json.loads((ROOT / "benchmarks" / "results" / "downstream.json").read_text())
    measured["re-ranking"]["times as long in all"]["median"] = 3.0
    (tmp_path / "downstream.json").write_text(json.dumps(measured))
    document = tmp_path / "one.md"
    document.write_text("Before.\n\n<!-- table: downstream -->\n\nnothing\n\n<!-- end -->\n\nBehind.\n")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    assert tables.main() == 1 and "nothing" in document.read_text()
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    assert tables.main() == 0
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    assert tables.main() == 0
    text = document.read_text()
    assert "| 3.00 (1.07 to 1.15) |" in text and text.startswith("Before.") and text.endswith("Behind.\n")
    assert capsys.readouterr().out == "one.md has other tables\none.md has new tables\n"


def test_a_table_that_nothing_makes(tables):
    with pytest.raises(ValueError, match=r"one.md: table 'nothing' is unknown; it is one of operators, "):
        tables.renewed("<!-- table: nothing -->\n\n|\n\n<!-- end -->\n", "one.md")
