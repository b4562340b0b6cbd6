"""A training step issues few operations: a GPU that waits for them to be issued is not used."""

import json
from pathlib import Path

import pytest
from launch import Program, finish

WORKER = Path(__file__).parent / "operations_worker.py"


@pytest.mark.dist
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_operations_of_a_step(tmp_path, precision):
    """A little above what was measured; half precision converts what is computed in fp32."""
    finish(Program([str(WORKER), str(tmp_path / "out.json"), precision], tmp_path))
    counts = json.loads((tmp_path / "out.json").read_text())
    assert counts["forward"] <= {"fp32": 1090, "bf16": 1250}[precision]
    assert counts["backward"] <= {"fp32": 2000, "bf16": 2150}[precision]
    assert counts["step"] <= 130 < counts["parameters"]
