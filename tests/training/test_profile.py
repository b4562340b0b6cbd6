"""Profiles: the time of parts, and steps of a real run, of which nothing is kept."""

import gzip
import json

import pytest
import torch
from launch import finish

from stoa.cli import main
from stoa.parts import part, watching
from stoa.profiling import stopwatch
from stoa.profiling.page import page
from stoa.profiling.profile import Profile, read, write
from stoa.profiling.stopwatch import STEP, Stopwatch
from stoa.profiling.table import lines

PROFILE = Profile(
    device="NVIDIA H200",
    precision="bf16",
    ranks=8,
    clips=512,
    steps=20,
    step_seconds=0.2,
    overhead=0.004,
    parts={"backward": 0.12, "video": 0.07, "unexplained": 0.01},
    metrics={"throughput/samples_per_second": 2560.0, "mfu(%)": 45.0},
    counts={"operations": 2000, "launches": 2500, "waits": 0},
    memory_gib={"activations": 90.5, "weights": 0.4},
    flops={"video": 1e12, "text": 1e10},
)


def test_a_part_has_its_own_time_alone(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    with watching(watch):
        with part("outer"), part("inner"):  # from 1 and 3, to 10 and 6
            pass
        with part("inner"):  # from 15 to 21
            pass
    assert watch.seconds() == {STEP: 1 + 5 + 7, "outer": 2 + 4, "inner": 3 + 6}


def test_a_part_that_fails_has_ended():
    watch = Stopwatch(torch.device("cpu"))
    with watching(watch), pytest.raises(ZeroDivisionError), part("outer"):
        raise ZeroDivisionError
    with part("nobody watches"):
        pass
    assert set(watch.seconds()) == {STEP, "outer"}


def test_a_run_is_measured_and_stays_as_it_is(start, tmp_path):
    run = tmp_path / "run"
    finish(start(run, "--training.max_steps", "2"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    out, _ = finish(start(run, "--profile", "4"))
    after = {path for path in run.rglob("*") if path.is_file()}
    assert all(path.read_bytes() == data for path, data in before.items())
    assert {path.name for path in after - set(before)} == {"profile.json", "profile.html", "trace.json.gz"}

    found = read(run / "profile")
    assert (found.device, found.clips, found.ranks, found.steps, found.precision) == ("cpu", 8, 1, 4, "fp32")
    own = {"video", "objects", "actions", "text", "fusion", "vtc", "vtm", "mlm", "plm", "ota", "asp", "draws"}
    assert own | {"data wait", "host to device", "backward", "optimiser", "unexplained"} == set(found.parts)
    assert all(seconds >= 0 for seconds in found.parts.values())
    assert found.parts["unexplained"] < 0.05 * sum(found.parts.values())
    assert found.metrics["throughput/samples_per_second"] == pytest.approx(8 / found.step_seconds)
    assert "mfu(%)" not in found.metrics
    assert found.metrics["tflops"] == pytest.approx(sum(found.flops.values()) / found.step_seconds / 1e12)
    assert 1000 < found.counts["operations"] < 3000
    assert set(found.memory_gib) == {"weights", "optimiser", "activations"}
    for line in lines([found]):
        assert line in out

    events = json.loads(gzip.decompress((run / "profile" / "trace.json.gz").read_bytes()))["traceEvents"]
    assert own < {event["name"] for event in events if event.get("cat") == "user_annotation"}
    assert "<svg" in (run / "profile" / "profile.html").read_text()


def test_no_steps(start, tmp_path):
    _, err = finish(start(tmp_path / "run", "--profile", "0"), code=2)
    assert err == "train.py: error: --profile is 0; expected at least 1, for steady figures 10 or more\n"
    assert not (tmp_path / "run").exists()


def test_two_side_by_side(tmp_path, capsys):
    other = Profile(**{**vars(PROFILE), "step_seconds": 0.1, "parts": {"backward": 0.06, "graph": 0.04}})
    for name, profile in (("a", PROFILE), ("b", other)):
        (tmp_path / name).mkdir()
        write(profile, tmp_path / name / "profile.json")
    html = tmp_path / "two.html"
    assert (
        main(["profile", "compare", str(tmp_path / "a"), str(tmp_path / "b" / "profile.json"), "--out", str(html)]) == 0
    )
    shown = capsys.readouterr().out.splitlines()
    table = {line[:30].strip(): line[30:].split() for line in shown}
    assert table["ms a step"] == ["200.0", "100.0", "0.50x"]
    assert table["backward"] == ["120.0", "60%", "60.0", "60%", "0.50x"]
    assert table["video"] == ["70.0", "35%", "0.0", "0%"]
    assert table["graph"] == ["0.0", "0%", "40.0", "40%"]
    assert table["launches a step"] == ["2,500", "2,500", "1.00x"]
    assert html.read_text() == page([PROFILE, other], f"{tmp_path / 'a'} and {tmp_path / 'b' / 'profile.json'}")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"device": "cpu"}'])
def test_what_is_no_profile(tmp_path, text, capsys):
    path = tmp_path / "profile.json"
    path.write_text(text)
    assert main(["profile", "compare", str(path), str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"{path} is no profile (" in err and "'stoa profile' writes one" in err
    assert err.count("\n") == 1


def test_a_page_shows_names_as_they_are():
    shown = page([Profile(**{**vars(PROFILE), "parts": {"<b>": 1.0}})], "a & b")
    assert "&lt;b&gt;" in shown and "a &amp; b" in shown and "<b>" not in shown
