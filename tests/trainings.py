"""Fixtures: a small data set, and train.py started on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data_sets import built_once
from launch import Program, start_training

from stoa.synthetic import SynthConfig


@pytest.fixture(scope="session")
def data_set(tmp_path_factory) -> Path:
    """Moving Shapes with 48 clips to train on and hard sets of two galleries."""
    config = SynthConfig(num_train=48, num_val=8, num_test=8, num_galleries=2, size=32, seconds=1.0)
    return built_once(tmp_path_factory, "of_training", config)


@pytest.fixture
def start(data_set, tmp_path) -> Iterator[Callable[..., Program]]:
    """Start train.py; see :func:`start_training`."""
    started = []

    def start(*arguments, **settings) -> Program:
        started.append(start_training(data_set, tmp_path, *arguments, **settings))
        return started[-1]

    yield start
    for program in started:
        program.kill()
