"""Which metrics a report draws, in which chart of which section."""

from __future__ import annotations

from typing import NamedTuple

from stoa.objectives.config import LOSSES


class Panel(NamedTuple):
    """One chart.

    Attributes:
        metric: its name in ``metrics.jsonl``.
        title: of the chart.
        what: it is, in a few words.
        percent: a share, shown times 100.
        beside: another metric, drawn dotted: what chance gives.
    """

    metric: str
    title: str
    what: str = ""
    percent: bool = False
    beside: str | None = None


class Section(NamedTuple):
    """Charts with one heading; ``absent`` is said where there is none of them."""

    title: str
    panels: tuple[Panel, ...]
    absent: str


_OBJECTIVES = {
    "vtc": "contrast of videos and texts",
    "vtm": "matching of video and caption",
    "mlm": "masked words",
    "plm": "next words",
    "ota": "trajectories to nouns",
    "asp": "action tokens to verbs",
    "answer": "answers to questions",
}

LOSSES_SECTION = Section(
    "Losses",
    (
        Panel("loss", "loss", "all objectives, weighted"),
        *(Panel(name, name, _OBJECTIVES[name]) for name in LOSSES),
        Panel("csal_own", "csal_own", "share of CSAL's target on the own pair", percent=True),
    ),
    "No record of a step has a loss.",
)

SECTIONS = (
    LOSSES_SECTION,
    Section(
        "Learning rate and gradients",
        (
            Panel("learning_rate", "learning rate", "the largest of the groups"),
            Panel("grad_norm", "gradient norm", "before clipping"),
            Panel("clipped_share", "clipped steps", "% of those between two progress lines", percent=True),
            Panel("temperature", "temperature", "scale of VTC's similarities"),
        ),
        "No record of a step has a learning rate.",
    ),
    Section(
        "Throughput and data wait",
        (
            Panel("samples_per_second", "throughput", "clips a second"),
            Panel("data_wait_share", "data wait", "% of the time", percent=True),
            Panel("step_seconds", "step", "seconds"),
            Panel("tflops", "TFLOP/s", "of one process, closed form"),
            Panel("mfu(%)", "MFU", "% of the device's peak"),
        ),
        "No record of a step has its time.",
    ),
    Section(
        "Matching",
        (
            Panel("ota_match_rate", "OTA match rate", "% of trajectories", percent=True),
            Panel(
                "ota_match_accuracy", "OTA match accuracy", "% right; dotted: chance", True, beside="ota_match_chance"
            ),
            Panel("ota_explained", "OTA explained", "1 - error / variance of the nouns"),
            Panel("ota_null_share", "OTA null share", "% of matches", percent=True),
            Panel("asp_match_rate", "ASP match rate", "% of action tokens", percent=True),
            Panel("asp_explained", "ASP explained", "1 - error / variance of the verbs"),
            Panel("asp_null_share", "ASP null share", "% of matches", percent=True),
            Panel("vtm_accuracy", "VTM accuracy", "% of pairs", percent=True),
            Panel("answer_accuracy", "answer accuracy", "% of questions", percent=True),
        ),
        "No record of a step has a match rate; only OTA, ASP, VTM and answers give one.",
    ),
    Section(
        "Graph density",
        (Panel("graph_density", "graph density", "% of the possible edges", percent=True),),
        "No record of a step has a graph density; a model without a graph has none.",
    ),
)

VALIDATION = Panel("validation", "validation", "the higher the better")

FAILURES = (
    Panel("replaced_clips", "clips replaced"),
    Panel("dropped_boxes", "boxes dropped by the crop"),
    Panel("left_out", "steps left out as not finite"),
)
"""Of these the sum is told."""

_OTHERS = ("skipped_steps",)
METRICS = frozenset(
    {
        name
        for panel in (*(p for section in SECTIONS for p in section.panels), VALIDATION, *FAILURES)
        for name in (panel.metric, panel.beside)
        if name is not None
    }
    | set(_OTHERS)
)
"""All that is read."""
