"""A small Moving Shapes set, shared by the tests of tasks."""

from pathlib import Path

import pytest

from stoa.synthetic import SynthConfig, build_data_set


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Twelve test clips of 32 pixels."""
    folder = tmp_path_factory.mktemp("shapes") / "set"
    config = SynthConfig(num_train=1, num_val=1, num_test=12, num_galleries=1, size=32, seconds=1.0)
    build_data_set(config, folder, say=lambda line: None)
    return folder
