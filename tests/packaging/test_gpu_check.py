"""make gpu-check, as far as it goes without a GPU: limits, results, what is brought along, and what the steps run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

import psutil
import pytest
import torch

from stoa.tasks.ablation.plan import read_plan

ROOT = Path(__file__).parent.parent.parent
FACTS = {"gpu": "NVIDIA H200", "torch": "2.11.0", "cuda": "13.0"}


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}")


def python(code: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *(str(argument) for argument in arguments))


SLEEPER = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('started', flush=True)"
"""Leaves a grandchild that holds the output."""


def sleeping() -> set[int]:
    """Processes ``sleep 60`` that run; the test that asks starts them."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "60"]}


def soon(condition) -> bool:
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(
    ("more", "outcome"), [("; import time; time.sleep(60)", "failed"), ("", "passed")], ids=["late", "done"]
)
def test_a_step_ends_with_all_that_it_started(tmp_path, more, outcome):
    from gpu.steps import Step, run

    before, started = sleeping(), time.monotonic()
    step = Step("sleeper", python(SLEEPER + more), limit=1 if more else 30)
    result = run(1, step, tmp_path, facts=FACTS)
    assert time.monotonic() - started < 10
    assert result["outcome"] == outcome
    assert result["output"] == "started\n"
    assert ("killed after 1 s" in result["note"]) == bool(more)
    assert soon(lambda: sleeping() <= before)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_step_does_not_outlive_the_check(tmp_path, how):
    """SIGTERM as gpu_check.py takes it; after SIGKILL what the step itself has started is its own to end."""
    code = (
        "import signal, sys; from pathlib import Path; from gpu.steps import Step, run; import gpu_check; "
        "signal.signal(signal.SIGTERM, gpu_check.stop); "
        "run(1, Step('sleeper', ('sleep', '60'), 60), Path(sys.argv[1]), facts={})"
    )
    before = sleeping()
    process = subprocess.Popen(python(code, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert soon(lambda: sleeping() > before)
    process.send_signal(how)
    process.wait()
    assert soon(lambda: sleeping() <= before)
    assert (tmp_path / "1-sleeper.log").is_file()


def test_a_result_is_there_as_soon_as_its_step_has_ended(tmp_path):
    from gpu.steps import Step, run

    report = tmp_path / "report.json"
    write = f"from pathlib import Path; Path({str(report)!r}).write_text('[1]'); print('a'); print('last')"
    run(
        2, Step("Writes, then fails", python(write + "; raise SystemExit(3)"), 30, report=report), tmp_path, facts=FACTS
    )
    run(2, Step("needs", python(""), 30, modules=("no_such_module",)), tmp_path, facts=FACTS)
    failed = json.loads((tmp_path / "2-writes-then-fails.json").read_text())
    assert {name: failed[name] for name in ("part", "outcome", "note", "report", "gpu")} == {
        "part": 2,
        "outcome": "failed",
        "note": "last",
        "report": [1],
        "gpu": "NVIDIA H200",
    }
    lacking = json.loads((tmp_path / "2-needs.json").read_text())
    assert (lacking["outcome"], lacking["note"]) == ("not run", "no_such_module is missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2-needs.json",
        "2-writes-then-fails.json",
        "report.json",
    ]


def test_parts_keep_to_nine_minutes_and_to_few_files(tmp_path):
    from gpu.parts import FILES_OF_A_PART, SECONDS_OF_A_PART, Place, parts
    from gpu.steps import file_of
    from gpu_check import NUMBERS

    found = parts(Place(tmp_path, tmp_path, tmp_path))
    assert tuple(found) == NUMBERS
    for number, steps in found.items():
        assert sum(step.limit for step in steps) < SECONDS_OF_A_PART
        traces = sum(str(tmp_path / f"{number}-trace") in word for step in steps for word in step.command)
        assert len({file_of(tmp_path, number, step) for step in steps}) == len(steps)
        assert len(steps) + traces + 1 <= FILES_OF_A_PART  # and the output of the one that runs


def test_without_the_build_nothing_else_is_run(tmp_path, monkeypatch):
    import gpu_check
    from gpu.steps import Step

    steps = [Step("build", python("raise SystemExit(1)"), 30), Step("values", python(""), 30)]
    monkeypatch.setattr(gpu_check, "parts", lambda place: {1: steps})
    results = gpu_check.run_part(1, gpu_check.Place(tmp_path, tmp_path, tmp_path), FACTS)
    assert [(r["outcome"], r["note"]) for r in results] == [("failed", ""), ("not run", "the build failed")]


def test_a_summary_is_of_what_is_there(tmp_path, monkeypatch, capsys):
    import gpu_check
    from gpu.steps import Step, run

    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--summary", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"holds no results; run the parts first: make gpu-check GPU_OUT="):
        gpu_check.main()
    run(3, Step("step", python("print('fast')"), 30), tmp_path, facts=FACTS)
    run(1, Step("build", python("raise SystemExit('no nvcc')"), 30), tmp_path, facts=FACTS)
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 1
    run(1, Step("build", python("print('built')"), 30), tmp_path, facts=FACTS)  # its part again
    capsys.readouterr()
    gpu_check.main()
    table = capsys.readouterr().out
    assert table.index("1 build") < table.index("3 step") and "fast" in table and "no nvcc" not in table
    (written,) = (tmp_path / "results").glob("nvidia-h200-*.json")
    report = json.loads(written.read_text())
    assert [(step["name"], step["outcome"]) for step in report["steps"]] == [("build", "passed"), ("step", "passed")]
    run(1, Step("build", python(""), 30), tmp_path, facts={**FACTS, "gpu": "NVIDIA V100"})
    with pytest.raises(SystemExit, match="results of NVIDIA H200 and of NVIDIA V100; give each GPU a folder"):
        gpu_check.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_study_on_one_says_so_in_one_line():
    run = subprocess.run(
        [sys.executable, "benchmarks/gpu_study.py"],
        **{"cwd": ROOT, "env": {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, "capture_output": True, "text": True},
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.strip().splitlines()[-1] == "make study-gpu needs a GPU that torch sees; without one make study"


def test_the_study_on_a_gpu_runs_cells_of_its_plan():
    import gpu_study

    for plan in gpu_study.PLANS:
        left = {cell.name for cell in read_plan(ROOT / plan).cells if not fnmatchcase(cell.name, gpu_study.LEFT_OUT)}
        assert "pretrain-stoa-4" in left and not any("captioning" in name for name in left)


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    command = [sys.executable, "benchmarks/gpu_check.py", "--out", str(tmp_path / "out"), "--part", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "make gpu-check needs a GPU that torch sees; torch.cuda.is_available() is False here"
    ]
    assert not (tmp_path / "out").exists()


def wheel(folder: Path, name: str, requires: str = "", tags: str = "py3-none-any") -> None:
    with zipfile.ZipFile(folder / f"{name}-2.0-{tags}.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "version = 2")
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n" + (
            f"Requires-Dist: {requires}\n" if requires else ""
        )
        file.writestr(f"{name}-2.0.dist-info/METADATA", text)


def test_wheels_are_unpacked_for_what_the_machine_lacks(tmp_path):
    from gpu.carried import unpack_missing

    wheel(tmp_path, "not_there", "pluggy>=1000")
    wheel(tmp_path, "pluggy")  # too old a one is installed
    wheel(tmp_path, "pytest")
    assert unpack_missing(tmp_path, tmp_path / "site") == ["not-there", "pluggy"]
    assert sorted(p.name for p in (tmp_path / "site").iterdir() if "dist-info" not in p.name) == ["not_there", "pluggy"]
    assert unpack_missing(tmp_path / "nowhere", tmp_path / "site") == []
    wheel(tmp_path, "compiled", tags="cp27-cp27m-manylinux1_x86_64")
    with pytest.raises(ValueError, match="compiled-2.0.* is not for Python 3.*GPU_SITE_PYTHON="):
        unpack_missing(tmp_path, tmp_path / "site")


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_the_kernels_of_the_sanitizer_run():
    ended = script("gpu.exercise", "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "every kernel has run"


@pytest.mark.slow
def test_values_at_the_sizes_of_models():
    ended = script("gpu.production", "--device", "cpu", "--clips", 1)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "all values are right"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_value_that_is_wrong_is_found(monkeypatch, dtype):
    import ops
    import values

    cpu = torch.device("cpu")
    attention = ops.AttentionCase(1, cpu, dtype)
    right = attention.ours

    def wrong():
        out = right().clone()
        out[0, 3, 7, 5] += 0.2
        return out

    monkeypatch.setattr(attention, "ours", wrong)
    with pytest.raises(values.WrongValues, match="attention, .*: off by .* at most, allowed"):
        values.check_operator("attention", attention, dtype, "ours", "sdpa")

    roi = ops.RoiCase(1, cpu, dtype)
    roi.tokens, roi.boxes, roi.valid, roi.weight = (x[:1] for x in (roi.tokens, roi.boxes, roi.valid, roi.weight))
    roi.tokens = roi.tokens[..., :8].detach().requires_grad_()
    roi.weight = roi.weight[..., :8]
    values.check_roi("roi", roi, dtype, ops.GRID)
    pool = values.roi_align_max
    shift = torch.zeros(1, ops.BOXES, 8, dtype=torch.int16)
    shift[0, 2, 3] = 1
    monkeypatch.setattr(values, "roi_align_max", lambda *a, **k: (pool(*a, **k)[0], pool(*a, **k)[1] ^ shift))
    with pytest.raises(values.WrongValues, match="a winning bin is"):
        values.check_roi("roi", roi, dtype, ops.GRID)

    cost = torch.randn(2, 4, 3).to(dtype)
    values.check_assignment("assignment", cost)
    monkeypatch.setattr(values, "batched_assignment", lambda cost: (torch.zeros(2, 4, dtype=torch.int64), None))
    with pytest.raises(values.WrongValues, match="SciPy has"):
        values.check_assignment("assignment", cost)

    x = torch.randn(9).to(dtype)
    monkeypatch.setattr(values, "quick_gelu", lambda x: torch.nn.functional.gelu(x))
    with pytest.raises(values.WrongValues, match="quick_gelu"):
        values.check_quick_gelu("quick_gelu", x)


def test_layers_may_err_as_their_alternative_does(monkeypatch):
    import ops
    import values

    monkeypatch.setattr(ops, "FRAMES", 2)
    monkeypatch.setattr(ops, "TRAJECTORIES", 4)
    case = ops.EncoderCase(1, torch.device("cpu"), torch.float32)
    values.check_layers("encoder", case, torch.float32, "packed", "dense")
    packed = case.packed
    case.packed = lambda: packed().roll(1, 1)
    with pytest.raises(values.WrongValues, match="encoder, float32"):
        values.check_layers("encoder", case, torch.float32, "packed", "dense")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Frames of a few clips, as make gpu-site makes them."""
    for arguments in (
        ("synth", "--out", "made", "--num_train", 8, "--num_val", 0, "--num_test", 4, "--num_galleries", 0),
        ("prepare", "--annotations", "made/manifest.jsonl", "--videos", "made", "--out", "data", "--spacy", "null"),
    ):
        command = [sys.executable, "-m", "stoa.cli", *(str(word) for word in arguments)]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "data" / "frames"


@pytest.mark.slow
def test_a_training_is_killed_resumed_and_evaluated(store, tmp_path):
    from gpu.parts import Place, parts

    place = Place(tmp_path / "out", tmp_path / "work", store, steps=8)
    place.work.mkdir()
    steps = {step.name: step for step in parts(place)[4]}
    for name in ("training in bf16, killed and resumed", "evaluation"):
        step = steps[name]
        small = ("--recipe", "recipes/demo.yaml", "--clips", "4") if "training" in name else ()
        ended = subprocess.run([*step.command, *small], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert step.report is not None
        report = json.loads(step.report.read_text())
        if "training" in name:
            assert 4 < report["killed after step"] < 8
            assert report["steps"] == 8


def test_a_run_that_lacks_a_step_or_is_not_finite_is_wrong():
    from gpu.training import what_is_wrong

    rows = [{"step": step, "loss": 200.0 - step} for step in range(1, 101)]
    assert what_is_wrong(rows, 100) == ""
    assert "metrics.jsonl has steps" in what_is_wrong(rows[:-1], 100)
    assert "metrics.jsonl has steps" in what_is_wrong([*rows[:50], *rows[49:]], 100)
    assert what_is_wrong([*rows[:-1], {"step": 100, "loss": float("nan")}], 100) == "a loss is not finite"
    assert "the loss does not fall" in what_is_wrong([{**row, "loss": 1.0} for row in rows], 100)


@pytest.mark.slow
def test_times_and_a_trace_of_a_step(tmp_path):
    common = ("gpu.step_times", "--device", "cpu", "--recipe", "recipes/demo.yaml", "--clips", 2, "--rounds", 1)
    out, trace = tmp_path / "out.json", tmp_path / "trace.json.gz"
    ended = script(*common, "--out", out)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["activation checkpointing"] for row in rows] == [True, False]
    assert all(row["clips a second"] > 0 for row in rows)
    ended = script(*common, "--checkpointing", "on", "--profile", trace, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert trace.stat().st_size > 1000
    assert json.loads(out.read_text())["rows"][0]["microseconds"]
    ended = script(*common, "--checkpointing", "on", "--compile", "--limit", 1, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(out.read_text())["rows"][0]["failed"].startswith("TimeoutError")


@pytest.mark.slow
def test_packages_that_are_there_import():
    ended = script("gpu.imports")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "deepspeed" in ended.stdout


def test_property_tests_are_skipped_where_hypothesis_is_missing(tmp_path):
    """A GPU machine may have pytest alone; the other tests of the same files run."""
    shutil.copy(ROOT / "tests" / "without_hypothesis.py", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import without_hypothesis, sys; sys.modules['hypothesis'] = without_hypothesis\n"
        "from hypothesis import example, given, settings\n"
        "from hypothesis import strategies as st\n"
        "import pytest\n"
        "@pytest.mark.parametrize('way', [1])\n"
        "@settings(max_examples=3)\n"
        "@given(size=st.one_of(st.none(), st.integers(1, 2) | st.just(3)), seed=st.data())\n"
        "@example(1)\n"
        "def test_property(way, size, seed): raise AssertionError\n"
        "def test_other(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-c", os.devnull, "-p", "no:hypothesispytest", "test_it.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 passed, 1 skipped" in ended.stdout, ended.stdout
    assert "hypothesis is not installed" in ended.stdout
