"""The report holds what the files hold, alone and without a network, whatever is written in them."""

import json
import math
import re
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
from factories import run_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.cli import main
from stoa.data.ledger import Ledger
from stoa.profiling.profile import Profile
from stoa.viz.report.chart import Line, axis, chart
from stoa.viz.report.markup import table, tag, text
from stoa.viz.thinning import Point

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[31m\u202e\ud800"
SHOWN = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\\x1b[31m\\u202e\\ud800"
PROFILE = Profile(
    device="cpu",
    precision="fp32",
    ranks=1,
    clips=8,
    steps=2,
    step_seconds=0.25,
    overhead=0.01,
    parts={"video": 0.2, "unexplained": 0.05},
    metrics={"tflops": 1.5},
    counts={"operations": 9},
    memory_gib={},
    flops={},
)


class Reader(HTMLParser):
    """Elements, their attributes and the text between them; what is opened has to be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append(name)
        self.attributes += attributes
        if name != "meta":
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def cells(self) -> str:
        return "|".join(self.texts)


def make(folder, *, records=None, config=None, word="a", **facts):
    """A run with all that a report tells of."""
    step = folder / "checkpoints" / "step-00000004"
    step.mkdir(parents=True)
    if records is None:
        records = [
            {
                "step": n,
                "loss": 8 / n,
                "vtc": 4 / n,
                "learning_rate": 1e-4 * n,
                "step_seconds": 30.0,
                "samples_per_second": 10.0 * n,
                "data_wait_share": 0.25,
                "ota_match_accuracy": 0.5,
                "ota_match_chance": 0.125,
                "graph_density": 0.0625,
                "replaced_clips": 1.0,
            }
            for n in range(1, 5)
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sampler = {"epoch": 0, "taken": 8, "seed": 0, "num_samples": 1234, "together": 1, "world": 2, "global_batch": 16}
    values = {"model": {"num_frames": 7, "backbone": {"name": word}}, "training": {"optim": {}, "max_steps": 9}}
    values |= {"extra": {word: word}} | (config or {})
    known = {"config": values, "commit": word, "versions": {"torch": word}, "hardware": {"device": word, "cores": 3}}
    more = {"sampler": sampler | {"fingerprint": "f"}, **known, **facts}
    (step / "run.json").write_text(json.dumps(run_facts(4, **more)))
    ledger = Ledger(folder / "ledger.jsonl")
    for epoch in range(3):
        ledger.record("replaced", word, f"why {word}", kind=word, path=f"{word}.mp4", epoch=epoch, replacement="good")
    ledger.record("note", "fine", "a frame is damaged")
    (folder / "hangs").mkdir()
    said = f"2026-01-02 03:04:05 +0000 {word} process 7: step 3 has not ended within 60 s, at {word}"
    (folder / "hangs" / "rank-1.txt").write_text(f"\n{said}\nThread 0x1:\n  File {word}\n", errors="replace")
    numbers = {"r1": 12.345678, "num_queries": 200}
    report = {
        "partial": True,
        "coverage": {"split": word, "published set": None, "clips": {"seen": 3, "of": 5}},
        "retrieval": {"trained": {word: {"text-to-video": numbers}}},
        "chance": {"text-to-video": {"r1": 0.5}},
        "unreadable": {word: f"no video {word}"},
        "protocol": {"device": word},
    }
    (folder / "retrieval-test.json").write_text(json.dumps(report))
    (folder / "profile").mkdir()
    (folder / "profile" / "profile.json").write_text(json.dumps(asdict(PROFILE) | {"device": word}))
    return folder


def report_of(folder, *options) -> Reader:
    out = folder.parent / "page.html"
    assert main(["report", str(folder), *options, "--out", str(out)]) == 0
    return Reader(out.read_text())


def test_a_report_tells_what_the_files_hold(tmp_path, capsys):
    run = make(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"written to {run / 'report.html'}\n"
    page = Reader((run / "report.html").read_text())
    for told in (
        "steps|4 of 9",
        "time in steps|2m00s",
        "clips a second, last 100 steps|25 (of 4)",
        "data wait, last 100 steps|25% (of 4)",
        "clips replaced|4",
        "clips a step|16",
        "clips of the data|1,234",
        "model.num_frames|7",
        "deepspeed.train_micro_batch_size_per_gpu|8",
        "cores|3",
        "trained, a, text-to-video|12.3|200",
        "chance, text-to-video|0.5|",
        "a|replaced|why a|a.mp4|good|3",
        "note|1",
    ):
        assert told in page.cells, told
    for told in (
        "vtc contrast of videos and texts",
        "1 at step 4, 2.083 over the last 4",  # 4/n
        "0.0004 at step 4",
        "50% at step 4, 50% over the last 4; chance 12.5%",
        "6.25% at step 4",
        "PARTIAL, a: clips 3 of 5",
        "1 videos could not be read and are left out",
        "step 3 has not ended within 60 s, at a",
        "Thread 0x1:",
        "All of the 4 losses on record are finite.",
        "ms a step 250.0",
    ):
        assert told in page.text, told
    assert page.elements.count("figure") == page.elements.count("figcaption") == 8


def test_a_report_needs_no_network_and_runs_nothing(tmp_path):
    out = tmp_path / "page.html"
    assert main(["report", str(make(tmp_path / "run")), "--out", str(out)]) == 0
    content = out.read_text()
    page = Reader(content)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.elements)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src"))
    assert not re.search(r"https?:|url\(|@import|javascript:", content)
    assert "prefers-color-scheme:dark" in content and 'name="viewport"' in content


def test_strings_of_a_run_are_text(tmp_path):
    page = report_of(make(tmp_path / "<b>run" / "<img src=x>", word=EVIL, excluded=[{"steps": [EVIL], "why": EVIL}]))
    known = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "nav", "a", "section", "p", "div"}
    known |= {"table", "thead", "tbody", "tr", "th", "td", "span", "b", "figure", "figcaption", "svg", "g", "path"}
    assert set(page.elements) <= known | {"text", "polyline", "polygon", "circle", "details", "summary", "pre"}
    assert {name for name, _ in page.attributes if name.startswith("on") or name == "src"} == set()
    shown = "".join(page.texts)
    assert shown.count(SHOWN) >= 12
    assert "<img src=x>" in shown


def test_what_is_absent_is_said(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "tflops": 2.0}\n')
    page = report_of(run)
    for told in (
        "No record of a step has a loss.",
        "No record of a step has a learning rate.",
        "No record of a step has a match rate",
        "No record of a step has a graph density",
        f"No report of stoa evaluate beside the checkpoints of {run}.",
        "No loss is on record.",
        "No ledger of clips.",
        "No stacks of processes that hung.",
        f"{run} has no checkpoint whose run.json can be read.",
        f"No profile in {run}",
    ):
        assert told in page.text, told
    assert "2 at step 1" in page.text
    (run / "metrics.jsonl").write_text("")
    assert "has no records in metrics.jsonl" in report_of(run).text


def test_losses_that_are_not_finite_and_steps_done_again_are_told(tmp_path):
    records = [{"step": step, "loss": 1.0, "vtc": math.nan if step == 3 else 2.0} for step in range(1, 6)]
    records += [{"step": step, "loss": 5.0, "generation": 1} for step in (4, 5, 6)]
    records.append({"step": 7, "loss": math.nan, "generation": 1})
    excluded = [{"steps": [4, 5], "why": "loss of step 5 is 9"}]
    page = report_of(make(tmp_path / "run", records=records, excluded=excluded))
    assert "1 losses are not finite, the first that of step 7." in page.text
    assert "not finite at step 7, 3 over the last 6; 1 not finite, the first at step 7" in page.text
    assert "4 to 5|loss of step 5 is 9" in page.cells


def test_two_runs_stand_side_by_side(tmp_path):
    one = make(tmp_path / "one", word="w")
    records = [{"step": step, "loss": 3.0, "mlm": 1.0} for step in (1, 2)]
    other = make(tmp_path / "two", word="w", records=records, config={"seed": 5})
    page = report_of(one, "--against", str(other))
    differing = page.cells.partition("What differs")[2].partition("all ")[0]
    assert "seed|-|5" in differing and "num_frames" not in differing
    assert f"not in the log of {other}" in page.text and f"not in the log of {one}" in page.text
    assert page.cells.count("trained, w, text-to-video|12.3|200") == 2
    assert "loss, last 100 steps|4.167 (of 4)|3 (of 2)" in page.cells
    assert "Both runs have the same configuration" in report_of(one, "--against", str(one)).text


def test_nothing_outside_the_folder_is_read(tmp_path):
    run, outside = make(tmp_path / "run"), make(tmp_path / "outside", word="secret")
    for name in ("metrics.jsonl", "ledger.jsonl", "retrieval-test.json", "hangs/rank-1.txt", "profile/profile.json"):
        (run / name).unlink()
        (run / name).symlink_to(outside / name)
    step = "checkpoints/step-00000004"
    (run / step).rename(run / "aside")
    (run / step).symlink_to(outside / step)
    page = report_of(run)
    assert "secret" not in page.text
    for name in ("metrics.jsonl", "ledger.jsonl", "hangs/rank-1.txt", f"{step}/run.json"):
        assert f"{name} leads out of the folder of the run and is not read" in page.text


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"[1]", b"{", b"[" * 100_000, b'{"coverage": 1, "protocol": {}}'])
@pytest.mark.parametrize("name", ["retrieval-test.json", "checkpoints/step-00000004/run.json", "profile/profile.json"])
def test_a_damaged_file_is_a_line(tmp_path, name, damage):
    run = make(tmp_path / "run")
    (run / name).write_bytes(damage)
    page = report_of(run)
    told = [text for text in page.texts if name.rpartition("/")[2] in text]
    if name.startswith("retrieval") and damage == b"[1]":
        assert not told  # another file than a report
    else:
        assert any("\n" not in line for line in told)
    assert "4 at step 2" in page.text or "at step 4" in page.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/absent"], "run .*absent is no folder; pass the output_dir of a run"),
        (["{}/empty"], "run .*empty holds neither metrics.jsonl nor checkpoints nor reports; pass the output_dir"),
        (["{}/run", "--against", "{}/empty"], "--against .*empty holds neither"),
        (["{}/run", "--out", "{}/run/metrics.jsonl"], "--out is .*metrics.jsonl; expected a name that ends in .html"),
        (
            ["{}/run", "--out", "{}/run/metrics.jsonl/a.html"],
            "--out is .*, which is a file; pass a folder",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, message):
    make(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert main(["report", *(word.format(tmp_path) for word in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error)


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_text_is_read_back_as_it_prints(value):
    read = Reader(str(table([value], [[value]])) + str(tag("p", value, title=value)))
    assert set(read.elements) == {"div", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert "".join(read.texts) == "".join(HTMLText(text(value)).texts) * 3


class HTMLText(Reader):
    """Of a text alone."""


NUMBERS = st.floats(-1e29, 1e29)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 62), NUMBERS | st.just(math.nan)), min_size=1, max_size=30), st.booleans()
)
@settings(max_examples=80, deadline=None)
def test_any_curve_can_be_drawn(points, from_zero):
    made = [Point(step, value, value, value) for step, value in sorted(points, key=lambda point: point[0])]
    if not any(math.isfinite(point.mean) for point in made):
        return
    drawn = str(chart("a & b", [Line(made, "first")], from_zero=from_zero))
    assert "nan" not in drawn and "inf" not in drawn
    Reader(drawn)
    for pairs in re.findall(r'points="([^"]*)"', drawn):
        for pair in pairs.split():
            x, y = map(float, pair.split(","))
            assert -1 <= x <= 340 and -200 <= y <= 400


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_an_axis_shows_its_range_with_round_ticks(a, b):
    made = axis(min(a, b), max(a, b), 4)
    assert made.low <= min(a, b) <= max(a, b) <= made.high and made.low < made.high
    assert 1 <= len(made.ticks) <= 6
    assert all(made.low <= tick <= made.high for tick in made.ticks)


def test_a_gap_in_a_curve_is_a_gap():
    points = [Point(step, 1.0 * step if step != 3 else math.nan, step, step) for step in range(1, 7)]
    lines = re.findall(r'polyline points="([^"]*)"', str(chart("t", [Line(points, "first")])))
    assert [len(line.split()) for line in lines] == [2, 3]
    assert "circle" in str(chart("t", [Line(points[:1], "first")]))
