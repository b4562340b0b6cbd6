"""How a process ends: with which status, and with which last words."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from enum import IntEnum

from stoa.fields import printable

_LONGEST = 3000


class Status(IntEnum):
    """Of the ``stoa`` command and of every process of a run; ``docs/reliability.md`` says what to do about each."""

    GOOD = 0
    FAILED = 1
    """An error that nobody has foreseen, with its traceback; or what a check has found."""
    BAD_INPUT = 2
    """A mistake of the user's: options, recipes, data, folders, processes that do not find each other."""
    DIVERGED = 3
    HUNG = 4
    DISK_FULL = 5
    LOST = 6
    """Another process of the run has gone, whose own words say why."""
    INTERRUPTED = 130

    @property
    def said(self) -> str:
        return self.name.lower().replace("_", " ")


_program = "stoa"


def call(program: str) -> None:
    """Say what the user has called."""
    global _program
    _program = program


def called_as() -> str:
    """What the user has called, for messages."""
    return _program


class LostProcess(Exception):
    """Another process of the run has gone."""


def _in_one_line(message: str) -> str:
    """What is long is cut."""
    line = printable(" ".join(message.splitlines()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST * 2 // 3]} ... {line[-_LONGEST // 3 :]}"


def complain(program: str, message: str, *, once: bool = False) -> None:
    """One line on stderr, with the rank where there are several. torchrun's summary shows it too.

    Args:
        program: that the user has called.
        message: why it ends.
        once: all ranks say the same, so that the first says it for all.
    """
    rank = os.environ.get("RANK", "?")
    several = not once and os.environ.get("WORLD_SIZE", "1") != "1"
    line = f"{program}: {f'rank {rank}: ' if several else ''}{_in_one_line(message)}"
    if not once or not rank.isdecimal() or int(rank) == 0:
        sys.stderr.write(line + "\n")  # at once, or those of several ranks mix
        sys.stderr.flush()
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        told = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError), open(path, "w") as file:  # the line has been said
            json.dump({"message": told}, file)
