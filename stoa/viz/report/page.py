"""The page: its sections in their order."""

from __future__ import annotations

from collections.abc import Sequence

from stoa.viz.report.facts import configuration, environment, summary
from stoa.viz.report.figures import charts, mark
from stoa.viz.report.markup import Html, join, said, tag, text
from stoa.viz.report.panels import SECTIONS
from stoa.viz.report.results import evaluations, failures, profiles
from stoa.viz.report.sources import Run
from stoa.viz.report.style import STYLE


def page(runs: Sequence[Run]) -> str:
    """HTML that needs no other file and no network.

    Args:
        runs: one, or two to lay side by side.
    """
    assert 1 <= len(runs) <= 2
    sections = [("Summary", join([*map(_no_log, runs), summary(runs)]))]
    sections += [(section.title, charts(section, runs)) for section in SECTIONS]
    sections += [
        ("Evaluations", evaluations(runs)),
        ("Failures", failures(runs)),
        ("Configuration", configuration(runs)),
        ("Commit, versions, hardware", environment(runs)),
        ("Profile", profiles(runs)),
    ]
    names = " and ".join(run.name for run in runs)
    heading = join(["Report of ", runs[0].name]) if len(runs) == 1 else _heading(runs)
    ids = [title.lower().replace(",", "").replace(" ", "-") for title, _ in sections]
    links, body = [], []
    for id, (title, content) in zip(ids, sections, strict=True):
        links.append(tag("a", title, href=f"#{id}"))
        body.append(tag("section", tag("h2", title), content, id=id))
    head = join(
        [
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", f"Report of {names}"),
            Html(f"<style>{STYLE}</style>"),
        ]
    )
    main = tag("body", tag("h1", heading), tag("nav", *links), *body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>{main}</html>\n'


def _heading(runs: Sequence[Run]) -> Html:
    return join(["Report of ", mark(0), runs[0].name, " and ", mark(1), runs[1].name])


def _no_log(run: Run) -> Html:
    empty = run.curves is None or not run.curves.records
    return said(f"{run.name} has no records in metrics.jsonl, so there are no curves of it.") if empty else text("")
