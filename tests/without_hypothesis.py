"""Where hypothesis is not installed: property tests are skipped and say so, the other tests of their files run."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

given = example = lambda *_, **__: pytest.mark.skip(reason="hypothesis is not installed")
HealthCheck = SimpleNamespace(too_slow=None)


class settings:  # noqa: N801 (hypothesis names it so)
    """A decorator that changes nothing."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, test: Any) -> Any:
        return test

    @staticmethod
    def register_profile(*_: Any, **__: Any) -> None:
        pass

    load_profile = register_profile


class _Strategy:
    """Any strategy, and whatever is made of it; no example is drawn."""

    def __call__(self, *_: Any, **__: Any) -> "_Strategy":
        return self

    def __getattr__(self, name: str) -> "_Strategy":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __or__(self, _: Any) -> "_Strategy":
        return self


strategies: Any = _Strategy()
sys.modules["hypothesis.strategies"] = strategies
