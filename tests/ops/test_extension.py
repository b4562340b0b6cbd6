"""What is said of an extension that does not fit the package."""

from types import SimpleNamespace

import pytest

from stoa.ops import _extension


def test_one_that_was_built_before_an_operator_says_so(monkeypatch):
    built = {"operators": ["stoa::old"], "cuda_toolkit": None}
    monkeypatch.setattr(_extension, "load_extension", lambda: SimpleNamespace(build_info=lambda: built))
    assert "cpu" in _extension.compiled_devices("stoa::old")
    with pytest.warns(RuntimeWarning, match="stoa._C was built before there was stoa::new; to build it again: "):
        assert _extension.compiled_devices("stoa::new") == frozenset()
