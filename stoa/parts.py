"""Names for the parts of a training step, for whoever measures them; without that they cost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

_NOTHING = nullcontext()


class Watch(Protocol):
    """Is told when a part begins, and when the one that began last ends."""

    def enter(self, part: str) -> None: ...

    def leave(self) -> None: ...


_watch: Watch | None = None


def part(name: str) -> AbstractContextManager[None]:
    """What is done inside belongs to this part of the step, but for the parts inside it."""
    return _NOTHING if _watch is None else _watched(_watch, name)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let ``watch`` be told of all parts that begin inside."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


@contextmanager
def _watched(watch: Watch, name: str) -> Iterator[None]:
    watch.enter(name)
    try:
        yield
    finally:
        watch.leave()
