"""docs/scaling.md shows what benchmarks/results hold, and the model is as near to published runs as it says."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("scaling_model", ROOT / "benchmarks" / "scaling_model.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_tables_are_those_of_the_results(made):
    document = (ROOT / "docs" / "scaling.md").read_text()
    for name, table in made.tables(*made.read_results()).items():
        assert table in document, f"the table of {name} is another; take it from benchmarks/scaling_model.py --tables"


def test_the_results_are_those_of_the_model(made):
    assert _rounded(made.read_results()[1]["published"]) == _rounded(made.published())


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def test_the_model_is_near_what_others_have_published(made):
    found = made.published()
    for name, run in found["efficiency"].items():
        for row in run["rows"]:
            assert row["published"] - 0.005 < row["modelled"] < row["published"] + 0.1, (name, row)
    ratios = [one["modelled"] / one["published"] for one in found["minutes of BERT-Large"]]
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] > 0.75 and ratios[0] == pytest.approx(1, abs=0.02)
    for run in made.PUBLISHED.values():
        least = min(run.rates)
        assert run.seconds(run.passes(), least) == pytest.approx(run.samples / run.rates[least])
