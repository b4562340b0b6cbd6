"""A small Moving Shapes set, shared by the tests of tasks."""

from pathlib import Path

import pytest
from data_sets import built_once

from stoa.synthetic import SynthConfig


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Twelve test clips of 32 pixels."""
    config = SynthConfig(num_train=1, num_val=1, num_test=12, num_galleries=1, size=32, seconds=1.0)
    return built_once(tmp_path_factory, "of_tasks", config)
