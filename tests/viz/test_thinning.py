"""Curves of any length in bounded memory, and which records count."""

import json
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.training.metrics import metric_records, read_metrics
from stoa.viz.thinning import Curve, read_curves

VALUES = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 0.0])


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@given(
    st.lists(st.tuples(st.integers(0, 5000), VALUES), min_size=1, max_size=200),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_bins_hold_every_value_once(added, bins):
    curve = Curve(bins)
    for step, value in added:
        curve.add(step, value)
    points = curve.points()
    assert 1 <= len(points) <= bins
    finite = [value for _, value in added if abs(value) < 1e30]
    assert (curve.count, curve.not_finite) == (len(finite), len(added) - len(finite))
    assert curve.total == pytest.approx(sum(finite))
    assert curve.last is not None and curve.last[0] == added[-1][0]
    shown = [point for point in points if math.isfinite(point.mean)]
    assert bool(shown) == bool(finite)
    if finite:
        assert min(point.low for point in shown) == min(finite)
        assert max(point.high for point in shown) == max(finite)
        assert all(p.low - 1e-3 <= p.mean <= p.high + 1e-3 for p in shown)
    assert all(min(s for s, _ in added) <= point.step <= max(s for s, _ in added) for point in points)


def test_a_short_curve_is_as_it_was_logged():
    curve = Curve(10)
    for step in range(5, 15):
        curve.add(step, step**2)
    assert curve.points() == [(step, step**2, step**2, step**2) for step in range(5, 15)]
    curve.add(15, 225)  # one more than there is room for
    assert curve.points()[0] == (5.5, (25 + 36) / 2, 25, 36)
    assert curve.points()[-1] == (15, 225, 225, 225)


@pytest.mark.parametrize(("smooth", "means"), [(1, [1, 2, 6]), (2, [1.5, 4]), (3, [3]), (9, [3])])
def test_a_running_mean_takes_the_place_of_values(smooth, means):
    curve = Curve(10, smooth)
    for step, value in enumerate((1, 2, 6), start=1):
        curve.add(step, value)
    assert [point.mean for point in curve.points()] == means
    assert curve.points()[-1].step == 3


RECORDS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 4)).map(lambda one: {"step": one[0], "generation": one[1]}),
    max_size=40,
)


@given(RECORDS)
@settings(max_examples=100, deadline=None)
def test_steps_that_were_done_again_count_once(tmp_path_factory, records):
    """As they are left out one by one, of a list that is held whole."""
    kept, generation = [], 0
    for number, record in enumerate(records):
        record["loss"] = float(number)
        if record["generation"] > generation:
            generation = record["generation"]
            kept = [one for one in kept if one["step"] < record["step"]]
        kept.append(record)
    path = written(tmp_path_factory.mktemp("run") / "metrics.jsonl", records)
    assert read_metrics(path) == kept


def test_a_long_log_takes_little_memory(tmp_path):
    path = tmp_path / "metrics.jsonl"
    unread = "0." + "1" * 1000
    with open(path, "w") as file:
        for step in range(1, 5001):
            file.write(f'{{"step": {step}, "loss": {1 / step}, "unread": {unread}}}\n')
    tracemalloc.start()
    curves = read_curves(path, {"loss"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 5_000_000
    assert peak < 500_000
    assert (curves.records, curves.last_step, curves.known) == (5000, 5000, {"loss", "unread"})
    assert curves.by_name["loss"].count == 5000
    assert 150 <= len(curves.by_name["loss"].points()) <= 300


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_line_without_end_is_not_held_in_memory(tmp_path, capsys, at):
    lines = [b'{"step": 1, "loss": 1.0}\n', b'{"step": 2, "loss": 2.0}\n']
    lines.insert(at, b"[" * (16 << 20) + b"\n")
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines))
    tracemalloc.start()
    assert [record["step"] for record in metric_records(path)] == [1, 2]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    assert f"1 line(s) are no records and are left out (line {at + 1})" in capsys.readouterr().err
