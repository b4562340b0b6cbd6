"""A training with all the processes that it has started, and whether any of them is left."""

import time
from collections.abc import Sequence

import psutil
from launch import Program

END_SECONDS = 10


class Family:
    """Of programs that have got to a step: they, and what they have started until then.

    Args:
        programs: the first of which says its steps.
        step: some way before the fault, or the last one where they then hang.
    """

    def __init__(self, *programs: Program, step: int) -> None:
        said = next((line for line in programs[0].lines() if line.startswith(f"step {step}/")), None)
        assert said is not None, programs[0].output
        self._begun = time.monotonic()
        self.members = [x for program in programs for x in (psutil.Process(program.pid), *program.children())]

    @property
    def seconds(self) -> float:
        """Since that step."""
        return time.monotonic() - self._begun

    def of(self, word: str) -> list[psutil.Process]:
        """Those with a word in their commands."""
        return [member for member in self.members if word in " ".join(member.cmdline())]

    def is_gone(self, seconds: float = END_SECONDS, but: Sequence[Program] = ()) -> bool:
        """Whether all end in so many seconds, some programs apart."""
        others = [member for member in self.members if member.pid not in {program.pid for program in but}]
        deadline = time.monotonic() + seconds
        while (there := [x for x in others if lives(x)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for member in there:
            print("still there:", member)
        return not there


def lives(member: psutil.Process) -> bool:
    try:
        return member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
