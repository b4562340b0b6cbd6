"""Plans of many runs: what is run, what is not run again, and the tables."""

import functools
import importlib
import json
import os
import re
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from stoa.arguments import Command, parse
from stoa.cli import COMMANDS, main
from stoa.tasks.ablation.plan import read_plan
from stoa.tasks.ablation.run import gpu_shares, run_plan, visible_gpus
from stoa.tasks.ablation.tables import _row_of, format_tables, tabulate

ROOT = Path(__file__).parent.parent.parent
PLAN = """
out: FOLDER/out
matrix: {recipe: [base, full], seed: [0, 1]}
cells:
  towers:
    - sh -c 'echo towers >> FOLDER/log'
  "train-{recipe}-{seed}":
    - sh -c 'echo {recipe} {seed} >> FOLDER/log'
    - sh -c 'cp FOLDER/{seed}.json {out}/train-{recipe}-{seed}.score.report.json' --as score
  "ask-{recipe}":
    - sh -c 'test ! -e FOLDER/broken'
tables:
  scores:
    rows: "train-{recipe}"
    values: {first: score.a.b.0, both: [score.a.b.0, 10 * score.a.b.1]}
"""


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("FOLDER", str(tmp_path)))
    for seed in (0, 1):
        (tmp_path / f"{seed}.json").write_text(json.dumps({"a": {"b": [seed, 7]}}))
    return path


def log(tmp_path):
    return (tmp_path / "log").read_text().split("\n")[:-1]


def test_cells_are_run_in_order_and_once(plan_file, tmp_path):
    said = []
    plan = read_plan(plan_file)
    assert [cell.name for cell in plan.cells] == [
        *("towers", "train-base-0", "train-base-1", "train-full-0", "train-full-1", "ask-base", "ask-full"),
    ]
    (tmp_path / "broken").touch()
    with pytest.raises(ValueError, match="cell ask-base: sh -c .* ended with status 1"):
        run_plan(plan, say=said.append)
    assert log(tmp_path) == ["towers", "base 0", "base 1", "full 0", "full 1"]
    assert [cell.name for cell in plan.unfinished()] == ["ask-base", "ask-full"]
    (tmp_path / "broken").unlink()
    run_plan(plan, say=said.append)
    assert not plan.unfinished() and len(log(tmp_path)) == 5
    result = json.loads((tmp_path / "out" / "train-full-1.json").read_text())
    assert result["values"] == {"recipe": "full", "seed": 1} and result["score"] == {"a": {"b": [1, 7]}}
    assert result["commands"][0].endswith(f"echo full 1 >> {tmp_path}/log'")


def test_passes_go_through_all_cells_of_one_value_first(plan_file):
    plan_file.write_text(plan_file.read_text() + "passes: seed\n")
    assert [cell.name for cell in read_plan(plan_file).cells] == [
        *("towers", "train-base-0", "train-full-0", "ask-base", "ask-full", "train-base-1", "train-full-1"),
    ]


def test_only_some_cells(plan_file, tmp_path, capsys):
    assert main(["ablate", str(plan_file), "--only", "train-*-1"]) == 0
    assert log(tmp_path) == ["base 1", "full 1"]
    assert "2 of 7 cells to run" in capsys.readouterr().out
    assert main(["ablate", str(plan_file), "--only", "tain-*"]) == 2
    assert "no cell of the plan is named like 'tain-*'" in capsys.readouterr().err


def test_a_result_of_other_commands_is_refused(plan_file, tmp_path, capsys):
    """It would go into one table with what is run now."""
    assert main(["ablate", str(plan_file), "--only", "train-*-1"]) == 0
    text = plan_file.read_text()
    plan_file.write_text(text.replace("echo {recipe} {seed}", "echo {seed} {recipe}"))
    assert main(["ablate", str(plan_file)]) == 2
    error = capsys.readouterr().err
    assert "train-base-1.json was made by other commands than the plan has now for train-base-1; delete it and" in error
    (tmp_path / "out" / "train-base-1.json").write_text("{}")
    plan_file.write_text(text)
    assert main(["ablate", str(plan_file)]) == 2
    assert "train-base-1.json" in capsys.readouterr().err


def test_cells_at_once_wait_for_what_they_name(tmp_path):
    """Both halves of a pair are under way together; what names their folder, and what stands alone, waits."""
    meet = "for i in $(seq 200); do test -e {out}/begun-$0 && break; sleep 0.05; done; test -e {out}/begun-$0"
    (tmp_path / "plan.yaml").write_text(
        f"""
out: {tmp_path}/out
matrix: {{half: [a, b]}}
cells:
  first:
    - sh -c 'test ! -e {tmp_path}/out/begun-a'
  "pair-{{half}}":
    - sh -c 'touch {{out}}/begun-{{half}}'
    - sh -c '{meet}' a
    - sh -c '{meet}' b
    - sh -c 'echo $OMP_NUM_THREADS > {{out}}/pair-{{half}}-threads'
  "use-{{half}}":
    - sh -c 'test -e {{out}}/pair-{{half}}.json' {{out}}/pair-{{half}}/x
  last:
    - sh -c 'test -e {tmp_path}/out/use-a.json && test -e {tmp_path}/out/use-b.json'
"""
    )
    plan = read_plan(tmp_path / "plan.yaml")
    run_plan(plan, workers=2, say=lambda line: None)
    assert not plan.unfinished()
    assert (tmp_path / "out" / "pair-a-threads").read_text().strip() == str(max(1, os.cpu_count() // 2))


@pytest.mark.parametrize(
    ("count", "workers", "each", "expected"),
    [
        (0, 2, 1, [[], []]),
        (4, 2, None, [["0", "1"], ["2", "3"]]),
        (4, 2, 1, [["0"], ["1"]]),
        (1, 2, None, [["0"], ["0"]]),
        (3, 2, 2, [["0", "1"], ["2", "0"]]),
        (8, 1, None, [[str(i) for i in range(8)]]),
    ],
)
def test_gpus_are_shared_among_workers(count, workers, each, expected):
    assert gpu_shares([str(i) for i in range(count)], workers, each) == expected


def test_more_gpus_than_there_are():
    with pytest.raises(ValueError, match=r"the plan's gpus is 4 and there are 2 here \(3, 5\); lower it"):
        gpu_shares(["3", "5"], 1, 4)


def test_gpus_are_those_that_are_visible(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]


@pytest.mark.parametrize(
    ("gpus", "launched"),
    [
        ("gpus: 1", r"\S*python\S* -m stoa.cli train"),
        ("", r"deepspeed --master_port \d+ --module stoa.cli train"),
    ],
)
def test_cells_run_on_their_own_gpus(tmp_path, monkeypatch, gpus, launched):
    monkeypatch.setattr("stoa.tasks.ablation.run.visible_gpus", lambda: ["3", "5", "6", "7"])
    (tmp_path / "plan.yaml").write_text(
        f"""
out: {tmp_path}/out
matrix: {{half: [a, b]}}
{gpus}
cells:
  alone:
    - sh -c 'echo $CUDA_VISIBLE_DEVICES > {{out}}/alone.gpus'
  "{{half}}":
    - sh -c 'echo $CUDA_VISIBLE_DEVICES > {{out}}/{{half}}.gpus'
  last:
    - train.py --no_such_option
"""
    )
    plan = read_plan(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match=rf"cell last: {launched} --no_such_option ended with status"):
        run_plan(plan, workers=2, say=lambda line: None)
    used = {name: (tmp_path / "out" / f"{name}.gpus").read_text().strip() for name in ("alone", "a", "b")}
    assert used["alone"] == ("3" if gpus else "3,5,6,7")
    assert sorted([used["a"], used["b"]]) == (["3", "5"] if gpus else ["3,5", "6,7"])


def test_what_a_cell_reads_must_be_finished(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        f"""
out: {tmp_path}/out
matrix: {{seed: [1, 10]}}
cells:
  "train-{{seed}}":
    - sh -c 'mkdir -p {{out}}/train-{{seed}}'
  "ask-{{seed}}":
    - sh -c 'test -d {{out}}/train-{{seed}}'
"""
    )
    plan = read_plan(tmp_path / "plan.yaml")
    (tmp_path / "out" / "train-10").mkdir(parents=True)  # as of an interrupted training
    with pytest.raises(ValueError, match=r"cell ask-10 reads .*/out/train-10, and cell train-10 is not finished; run"):
        run_plan(plan, only="ask-10", say=lambda line: None)
    run_plan(plan, only="train-10", say=lambda line: None)
    run_plan(plan, only="ask-10", say=lambda line: None)
    assert [cell.name for cell in plan.unfinished()] == ["train-1", "ask-1"]
    run_plan(plan, only="*-1", say=lambda line: None)
    assert not plan.unfinished()


def test_a_failure_lets_the_cells_beside_it_finish(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        f"""
out: {tmp_path}/out
matrix: {{cell: [bad, good, late]}}
cells:
  "{{cell}}":
    - sh -c 'case {{cell}} in bad) exit 3;; good) sleep 1;; esac'
"""
    )
    plan = read_plan(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match="cell bad: sh -c .* ended with status 3"):
        run_plan(plan, workers=2, say=lambda line: None)
    assert [cell.name for cell in plan.unfinished()] == ["bad", "late"]


def test_tables_hold_means_and_spreads_of_what_is_finished(plan_file, tmp_path):
    plan = read_plan(plan_file)
    assert format_tables(tabulate(plan)) == ""
    run_plan(plan, say=lambda line: None)
    (tmp_path / "out" / "train-full-1.json").unlink()
    (rows,) = tabulate(plan).values()
    assert [(row.name, row.columns) for row in rows] == [
        ("train-base", {"first": [0, 1], "both": [35, 35.5]}),
        ("train-full", {"first": [0], "both": [35]}),
    ]
    text = format_tables(tabulate(plan))
    assert "| train-base | 0.5 (0.0 to 1.0) | 35.2 (35.0 to 35.5) | 2 |" in text
    assert "| train-full | 0.0 | 35.0 | 1 |" in text


def test_tables_of_results_that_lie_elsewhere(plan_file, tmp_path, capsys):
    run_plan(read_plan(plan_file), say=lambda line: None)
    (tmp_path / "out").rename(tmp_path / "kept")
    assert main(["ablate", str(plan_file), "--tables", "true"]) == 0
    assert "train-base" not in capsys.readouterr().out
    assert main(["ablate", str(plan_file), "--tables", "true", "--results", str(tmp_path / "kept")]) == 0
    assert "| train-base | 0.5 (0.0 to 1.0) |" in capsys.readouterr().out
    assert main(["ablate", str(plan_file), "--results", str(tmp_path / "kept")]) == 2
    assert "is for --tables" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out: x\ncells: {a: ['stoa x {seed}']}", r"\{seed\} is not in its matrix"),
        ("out: x\nmatrix: {seed: [0, 1]}\ncells: {a: ['stoa x {seed}']}", "two cells are named 'a'"),
        (
            "out: x\ncells: {a: [stoa evaluate b, stoa evaluate c]}",
            "two reports of cell 'a' are named 'evaluate'; add --as",
        ),
        (
            "out: x\npasses: x\nmatrix: {seed: [0]}\ncells: {}",
            r"passes is 'x', which is not in its matrix \(seed\)",
        ),
        ("cells: {}", "'out' or 'cells' is missing"),
        ("out: x\ncels: {}\ncells: {}", "key 'cels' has no meaning here"),
        ("out: [", "not valid YAML"),
        ("out: x\ncells: {a: stoa x}", "cell 'a' is 'stoa x'; expected a list of commands"),
        ("out: x\ncells: {a: [stoa x, 1]}", r"cell 'a' is \['stoa x', 1\]; expected a list of commands"),
        ("out: x\ncells: {}\ntables: {t: {values: {}}}", "table 't' needs 'rows', a name, and 'values'"),
        (
            "out: x\ncells: {}\ntables: {t: {rows: a, values: {c: x * a.b}}}",
            "column 'c' is 'x \\* a.b'; expected a path",
        ),
        ("out: x\ncells: {}\ntables: {t: {rows: a, values: {c: [a.b, 5]}}}", r"column 'c' is \['a.b', 5\]; expected"),
        ("out: x\ncells: {}\nout: y", "plan.yaml: out stands twice, in lines 1 and 3; keep one"),
        ("out: x\ncells: {}\ntables: {t: {rows: a, values: [b]}}", "table 't' needs 'rows', a name, and 'values'"),
    ],
)
def test_mistakes_in_a_plan_are_told(tmp_path, text, message):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match=r"nothing.yaml does not exist; did you mean \S+/plan.yaml\?"):
        read_plan(tmp_path / "nothing.yaml")
    with pytest.raises(ValueError, match=r"is a recipe for fine-tuning; give it to stoa finetune as --recipe"):
        read_plan(ROOT / "recipes" / "finetune" / "msvd_qa.yaml")


def test_the_time_of_a_cell_is_that_of_all_its_calls(tmp_path):
    first, then = "sleep 0.4; mkdir FOLDER/x; exit 1", "sleep 0.2"
    cells = f"cells: {{a: [sh -c 'if test -d FOLDER/x; then {then}; else {first}; fi']}}"
    (tmp_path / "plan.yaml").write_text(f"out: {tmp_path}/out\n{cells}".replace("FOLDER", str(tmp_path)))
    plan = read_plan(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match="ended with status 1"):
        run_plan(plan, say=lambda line: None)
    run_plan(plan, say=lambda line: None)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["seconds"] >= 0.6
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.json"]


def test_a_table_of_what_is_not_there_is_told(plan_file, tmp_path):
    plan_file.write_text(plan_file.read_text().replace("score.a.b.0,", "score.a.c,"))
    run_plan(read_plan(plan_file), say=lambda line: None)
    with pytest.raises(ValueError, match=r"the result of train-base-0 has no 'score.a.c' \(at 'c'\)"):
        tabulate(read_plan(plan_file))


def test_the_command_lists(plan_file, capsys):
    assert main(["ablate", str(plan_file), "--list", "true"]) == 0
    assert "open      train-full-1" in capsys.readouterr().out


PLANS = [*sorted((ROOT / "recipes" / "ablation").glob("*.yaml")), *(ROOT / "recipes" / "study").glob("plan*.yaml")]


@functools.cache
def parser_of(name: str) -> tuple[ArgumentParser, Command]:
    module = importlib.import_module(COMMANDS[name])
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    module.add_arguments(parser)
    return parser, getattr(module, "COMMAND", Command())


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plans_hold_commands_that_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan(path)
    words = [word for cell in plan.cells for command in cell.commands for word in command.split()]
    files = {word for word in words if word.endswith((".yaml", ".json"))}
    assert files and all((ROOT / name).is_file() for name in files)
    kinds = {re.sub(r"\d+", "", command): command for cell in plan.cells for command in cell.commands}
    for command in kinds.values():  # those that differ in numbers are parsed alike
        name, *arguments = command.removeprefix("stoa ").split()
        parser, known = parser_of("train" if name == "train.py" else name)
        parse(parser, arguments, known)
    for table in plan.tables.values():
        assert sum(_row_of(table["rows"], cell) is not None for cell in plan.cells) >= 2
    outputs = [words[i + 1] for i, word in enumerate(words) if word == "--training.output_dir"]
    assert len(set(outputs)) == len(outputs)
    runs = {words[i + 1] for i, word in enumerate(words) if word == "--run"}
    assert runs <= set(outputs)
