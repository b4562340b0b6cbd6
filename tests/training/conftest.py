"""A small data set, and train.py started on it."""

from trainings import data_set, start  # noqa: F401
