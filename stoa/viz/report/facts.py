"""Tables of what a run is: in short, its configuration, and what it ran with and on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stoa.training.console import duration
from stoa.viz.report.figures import curve_of, mark, recent
from stoa.viz.report.markup import Html, folded, join, number, said, table, tag
from stoa.viz.report.panels import FAILURES
from stoa.viz.report.sources import Run
from stoa.viz.thinning import RECENT

_MOST_ROWS = 1000
_NONE = "-"


def summary(runs: Sequence[Run]) -> Html:
    """The figures that one asks for first."""
    columns = [dict(_summary(run)) for run in runs]
    return _side_by_side(runs, columns)


def configuration(runs: Sequence[Run]) -> Html:
    """Of two runs what differs, and then all."""
    columns = [_configured(run) for run in runs]
    absent = [_no_checkpoint(run) for run in runs if run.facts is None]
    if not any(columns):
        return join(absent)
    everything = folded(f"all {len(_keys(columns)):,} values", _side_by_side(runs, columns))
    if len(runs) == 1 or absent:
        return join([*absent, everything])
    differing = [key for key in _keys(columns) if columns[0].get(key) != columns[1].get(key)]
    if not differing:
        return join([said("Both runs have the same configuration."), everything])
    kept = [{key: column[key] for key in differing if key in column} for column in columns]
    return join([tag("h3", "What differs"), _side_by_side(runs, kept), everything])


def environment(runs: Sequence[Run]) -> Html:
    """Commit, versions and hardware."""
    columns: list[dict[str, Any]] = []
    parts: list[Html] = []
    for run in runs:
        if run.facts is None:
            parts.append(_no_checkpoint(run))
            columns.append({})
            continue
        facts = run.facts
        column: dict[str, Any] = {"checkpoint": run.checkpoint, "commit": facts["commit"]}
        if "sampler" in facts:
            column["processes"] = facts["sampler"]["world"]
        if isinstance(facts.get("hardware"), dict):
            column |= dict(_flat(facts["hardware"]))
        else:
            parts.append(said(f"The checkpoint of {run.name} does not tell the hardware; one of a newer version does."))
        columns.append(column | dict(_flat(facts["versions"])))
    return join([*parts, _side_by_side(runs, columns) if any(columns) else ""])


def plain(value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Rows of an object's values, by their dotted keys."""
    return list(_flat(value))[:_MOST_ROWS]


def _summary(run: Run) -> Iterator[tuple[str, Any]]:
    """Name and value, as far as the files tell."""
    config = {} if run.facts is None else dict(_flat(run.facts["config"]))
    if run.curves is not None and run.curves.records:
        of = config.get("training.max_steps")
        known = type(of) is int and "task" not in (run.facts or {})  # a fine-tuning counts epochs
        yield "steps", f"{run.curves.last_step:,} of {of:,}" if known else f"{run.curves.last_step:,}"
        yield "last record", run.last_record
    seconds = curve_of(run, "step_seconds")
    if seconds is not None:
        yield "time in steps", duration(seconds.total)
    for metric, name, scale, unit in (
        ("loss", "loss", 1, ""),
        ("samples_per_second", "clips a second", 1, ""),
        ("data_wait_share", "data wait", 100, "%"),
        ("mfu(%)", "MFU", 1, "%"),
    ):
        curve = curve_of(run, metric)
        if curve is not None:
            fewer = f" (of {len(curve.recent)})" if len(curve.recent) < RECENT else ""
            yield f"{name}, last {RECENT} steps", f"{number(scale * recent(curve))}{unit}{fewer}"
    for panel in FAILURES:
        curve = curve_of(run, panel.metric)
        if curve is not None:
            yield panel.title, number(curve.total)
    if run.facts is not None:
        if "task" in run.facts:
            yield "fine-tuned for", run.facts["task"]
        if isinstance(run.facts.get("pretrained"), dict):
            yield "from", run.facts["pretrained"].get("checkpoint", _NONE)
        yield "backbone", config.get("model.backbone.name", _NONE)
        if "sampler" in run.facts:
            sampler = run.facts["sampler"]
            accumulated = run.facts["deepspeed_config"].get("gradient_accumulation_steps", 1)
            yield "clips a step", f"{sampler['global_batch'] * accumulated:,}"
            yield "clips of the data", f"{sampler['num_samples']:,}"
            yield "processes", f"{sampler['world']:,}"
        yield "commit", run.facts["commit"]
        hardware = run.facts.get("hardware")
        if isinstance(hardware, dict) and "device" in hardware:
            yield "device", hardware["device"]
    if run.best is not None:
        yield (
            f"best {run.best.get('validation metric', 'validation')}",
            (f"{number(run.best['validation'])} at step {run.best['step']:,}" if "validation" in run.best else _NONE),
        )


def _side_by_side(runs: Sequence[Run], columns: Sequence[Mapping[str, Any]]) -> Html:
    keys = _keys(columns)
    head = ["", *(join([mark(at), run.name]) for at, run in enumerate(runs))] if len(runs) > 1 else ["", ""]
    rows = [(key, *(column.get(key, _NONE) for column in columns)) for key in keys[:_MOST_ROWS]]
    made = table(head, rows, words=len(head))
    return made if len(keys) <= _MOST_ROWS else join([made, said(f"{len(keys) - _MOST_ROWS:,} more values")])


def _keys(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for column in columns for key in column))


def _configured(run: Run) -> dict[str, Any]:
    if run.facts is None:
        return {}
    return dict(_flat(run.facts["config"])) | dict(_flat({"deepspeed": run.facts["deepspeed_config"]}))


def _flat(value: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Values by their dotted keys."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and depth < 16:
            yield from _flat(inner, f"{before}{key}.", depth + 1)
        else:
            yield before + key, "null" if inner is None else str(inner).lower() if isinstance(inner, bool) else inner


def _no_checkpoint(run: Run) -> Html:
    return said(f"{run.name} has no checkpoint whose run.json can be read.")
