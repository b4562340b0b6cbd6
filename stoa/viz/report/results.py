"""Tables of what a run led to: evaluations, failures, and where the time of a step goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stoa.profiling.table import lines
from stoa.viz.report.evaluations import Evaluation
from stoa.viz.report.facts import plain
from stoa.viz.report.failures import Hang, Tally
from stoa.viz.report.figures import curve_of, drawn, mark
from stoa.viz.report.markup import Html, folded, join, lines_of, number, said, table, tag
from stoa.viz.report.panels import VALIDATION
from stoa.viz.report.sources import Run

_MOST_CLIPS, _MOST_UNREADABLE = 100, 50


def evaluations(runs: Sequence[Run]) -> Html:
    """Validation as the run went on, then reports: those of one name of both runs in one table."""
    parts = [drawn([VALIDATION], runs)]
    for file in sorted({one.file for run in runs for one in run.evaluations}):
        of_runs = [(at, one) for at, run in enumerate(runs) for one in run.evaluations if one.file == file]
        parts += [tag("h3", file), *_of_file(of_runs, marked=len(runs) > 1)]
    absent = [run.name for run in runs if not run.evaluations]
    if absent:
        parts.append(said(f"No report of stoa evaluate beside the checkpoints of {', '.join(absent)}."))
    return join(parts)


def _of_file(found: Sequence[tuple[int, Evaluation]], *, marked: bool) -> Iterator[Html]:
    for at, one in found:
        yield tag("p", mark(at) if marked else "", one.of, class_="note")
    for title in dict.fromkeys(title for _, one in found for title in one.tables):
        rows = [(row.name, at, row.numbers) for at, one in found for row in one.tables.get(title, ())]
        order = {name: place for place, name in enumerate(dict.fromkeys(name for name, _, _ in rows))}
        rows.sort(key=lambda row: (order[row[0]], row[1]))
        columns = list(dict.fromkeys(column for _, _, numbers in rows for column in numbers))
        shown = {column: _alike([numbers.get(column) for _, _, numbers in rows]) for column in columns}
        names = [join([mark(at), name]) if marked else name for name, at, _ in rows]
        yield table([title, *columns], zip(names, *shown.values(), strict=True))
    for at, one in found:
        before = mark(at) if marked else Html("")
        if one.unreadable:
            told = list(one.unreadable.items())[:_MOST_UNREADABLE]
            yield folded(
                join([before, f"{len(one.unreadable):,} videos could not be read and are left out"]),
                table(["clip", "why"], told, words=2),
            )
        yield folded(join([before, "protocol"]), table(["", ""], plain(one.protocol), words=2))


def _alike(values: Sequence[float | None]) -> list[str]:
    """A column of numbers with as many digits each: percent and ranks with one behind the point, shares with four."""
    there = [value for value in values if value is not None]
    if all(float(value).is_integer() for value in there):
        return ["" if value is None else number(value) for value in values]
    digits = 1 if max(map(abs, there)) > 1 else 4
    return ["" if value is None else f"{value:,.{digits}f}" for value in values]


def failures(runs: Sequence[Run]) -> Html:
    """Of each run: losses that are not finite, steps taken back, clips lost and processes that hung."""
    parts = []
    for at, run in enumerate(runs):
        if len(runs) > 1:
            parts.append(tag("h3", mark(at), run.name))
        parts += [*_of_steps(run), *_of_clips(run.ledger), *_of_hangs(run.hangs), *map(said, run.problems)]
    return join(parts)


def _of_steps(run: Run) -> Iterator[Html]:
    loss = None if run.curves is None else run.curves.by_name.get("loss")
    if loss is None:
        yield said("No loss is on record.")
    elif loss.not_finite:
        yield said(f"{loss.not_finite:,} losses are not finite, the first that of step {loss.first_not_finite:,}.")
    else:
        yield said(f"All of the {loss.count:,} losses on record are finite.")
    for metric, what in (
        ("left_out", "step(s) were left out as not finite"),
        ("replaced_clips", "clip(s) were replaced"),
    ):
        left = curve_of(run, metric)
        if left is not None and left.total:
            yield said(f"{number(left.total)} {what} in the steps on record.")
    skipped = None if run.curves is None else run.curves.by_name.get("skipped_steps")
    if skipped is not None and skipped.last is not None and skipped.last[1]:
        yield said(f"{number(skipped.last[1])} step(s) were skipped for gradients that the loss scale made infinite.")
    excluded = [] if run.facts is None else run.facts.get("excluded", [])
    if excluded:
        yield tag("h3", "Steps taken back")
        yield table(["steps", "why"], [(_steps(one.get("steps")), one.get("why", "")) for one in excluded], words=2)


def _steps(value: object) -> str:
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)


def _of_clips(ledger: Tally | None) -> Iterator[Html]:
    if ledger is None or not ledger.kinds:
        yield said("No ledger of clips." if ledger is None else "The ledger of clips is empty.")
        return
    kinds = ((event, kind, f"{count:,}") for (event, kind), count in ledger.kinds.most_common())
    yield table(["ledger", "kind", "records"], kinds, words=2)
    if not ledger.clips:
        yield said("No clip was lost.")
        return
    worst = [(ledger.clips[clip], times) for clip, times in ledger.times.most_common(_MOST_CLIPS)]
    rows = [(one.clip, one.event, one.reason, one.path, one.replacement, f"{times:,}") for one, times in worst]
    yield table(["clip", "what", "why", "file", "first replaced by", "times"], rows, words=5)
    more = len(ledger.clips) - len(worst)
    if more or ledger.more:
        beyond = f", and {ledger.more:,} records of others" if ledger.more else ""
        yield said(f"{more:,} more clips{beyond}; ledger.jsonl names them all.")


def _of_hangs(hangs: Sequence[Hang]) -> Iterator[Html]:
    if not hangs:
        yield said("No stacks of processes that hung.")
        return
    yield tag("h3", "Processes that hung")
    for hang in hangs:
        yield from map(said, hang.said)
        yield folded(f"hangs/{hang.file}", lines_of(hang.stacks))
        if hang.cut:
            yield said(f"The rest of hangs/{hang.file} is left out.")


def profiles(runs: Sequence[Run]) -> Html:
    """Beside each other, as ``stoa profile compare`` has them."""
    found = [run.profile for run in runs if run.profile is not None]
    absent = [run.name for run in runs if run.profile is None]
    parts = [said(f"No profile in {', '.join(absent)}; stoa profile makes one.")] if absent else []
    return join([*parts, lines_of("\n".join(lines(found)))] if found else parts)
