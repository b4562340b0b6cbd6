"""Imagined runs that tests share: each knows the steps that it has taken."""

from stoa.planning.imagined import ImaginedRun

_RUNS: dict[str, ImaginedRun] = {}


def imagined_once(*recipe: object, **options: object) -> ImaginedRun:
    """The run of a recipe, made where it is not known yet, by the arguments of :class:`ImaginedRun`."""
    key = repr((recipe, options))
    if key not in _RUNS:
        _RUNS[key] = ImaginedRun(*recipe, **options)
    return _RUNS[key]
