"""An explained clip as one picture: time runs to the right, and below each other stand what the model sees.

Rows: trajectories with their boxes and ways, each action token's attention, and the graph's edges from frame to frame.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from stoa.tasks.explanation import Explanation, MatchedWord
from stoa.viz.frames import dimmed, draw_edges, draw_frame, pasted, strongest_edges
from stoa.viz.marks import (
    FAINT,
    INK,
    PAPER,
    QUIET,
    Rgb,
    chip,
    chip_size,
    colours_of,
    fitted,
    font,
    heat,
    one_line,
    smooth,
    wrapped,
)

_MARGIN, _GAP, _LEGEND, _LINE = 28, 10, 232, 21
_ACTION: Rgb = (52, 56, 66)


def draw_sheet(explanation: Explanation) -> Image.Image:
    """The picture, RGB."""
    T = len(explanation.frames_TSS3)
    cell = max(112, min(216, 1240 // T - _GAP))
    width = 2 * _MARGIN + _LEGEND + max(4 * (216 + _GAP), T * (cell + _GAP))
    parts = [_header(explanation, width), _strip(_tracks(explanation, cell), _track_legend(explanation), width)]
    for m in range(len(explanation.actions)):
        cells = [draw_frame(explanation, t, cell, "attention", action=m) for t in range(T)]
        parts.append(_strip(_row(cells), _action_legend(explanation, m), width))
    if explanation.graph is not None:
        parts.append(_strip(_edge_row(explanation, cell), _graph_legend(explanation), width))
    parts.append(_footer(explanation, width))
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), PAPER)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def _header(explanation: Explanation, width: int) -> Image.Image:
    image = Image.new("RGB", (width, 600), PAPER)
    draw = ImageDraw.Draw(image)
    said = [] if explanation.match is None else [f"match {explanation.match:.0%}"]
    facts = "   ".join([*said, f"cosine {explanation.cosine:z.2f}"])
    draw.text((width - _MARGIN, 24), facts, font=font(15, bold=True), fill=INK, anchor="ra")
    clip = fitted(explanation.clip, font(15), width - 3 * _MARGIN - font(15, bold=True).getlength(facts))
    draw.text((_MARGIN, 24), clip, font=font(15), fill=QUIET)
    return image.crop((0, 0, width, _words(explanation, draw, width, 54)))


def _words(explanation: Explanation, draw: ImageDraw.ImageDraw, width: int, top: int) -> int:
    """The caption; under a word what is matched to it, and how likely it is. Returns where it ends."""
    face, small = font(24), font(11)
    line, x, y = 72, float(_MARGIN), top
    marks = marks_of_words(explanation)
    for index, word in enumerate(explanation.words):
        text = fitted(word.text, face, width - 2 * _MARGIN)
        chips = marks.get(index, [])
        wide = max(face.getlength(text), sum(chip_size(label, 11)[0] + 3 for label, _ in chips) - 3)
        if x + wide > width - _MARGIN and x > _MARGIN:
            x, y = float(_MARGIN), y + line
            if y + line > 520:
                draw.text((x, y), "…", font=face, fill=INK)
                break
        draw.text((x, y), text, font=face, fill=INK)
        if word.likelihood is not None:
            length = face.getlength(text)
            draw.rectangle((x, y + 31, x + length, y + 33), fill=FAINT)
            draw.rectangle((x, y + 31, x + length * word.likelihood, y + 33), fill=QUIET)
        at = x
        for label, colour in chips:
            chip(draw, (at, y + 38), label, 11, colour)
            at += chip_size(label, 11)[0] + 3
        if word.likelihood is not None:
            draw.text((at + (3 if chips else 0), y + 39), f"{word.likelihood:.0%}", font=small, fill=QUIET)
            wide = max(wide, at - x + 3 + small.getlength("100%"))
        x += wide + 12
    return y + line


def marks_of_words(explanation: Explanation) -> dict[int, list[tuple[str, Rgb]]]:
    """By word, labels of the trajectories and action tokens matched to it."""
    marks: dict[int, list[tuple[str, Rgb]]] = {}
    colours = colours_of(explanation)
    for n, track in enumerate(explanation.tracks):
        if track.matched is not None and track.matched.word is not None:
            marks.setdefault(track.matched.index, []).append((str(n + 1), colours[n]))
    for m, action in enumerate(explanation.actions):
        if action.matched is not None and action.matched.word is not None:
            marks.setdefault(action.matched.index, []).append((f"A{m + 1}", _ACTION))
    return marks


def _row(cells: list[Image.Image]) -> Image.Image:
    side = cells[0].width
    row = Image.new("RGB", (len(cells) * (side + _GAP) - _GAP, side), PAPER)
    for t, cell in enumerate(cells):
        row.paste(cell, (t * (side + _GAP), 0))
    return row


def _tracks(explanation: Explanation, cell: int) -> Image.Image:
    T = len(explanation.frames_TSS3)
    row = _row([draw_frame(explanation, t, cell, "tracks", names=False) for t in range(T)])
    out = Image.new("RGB", (row.width, row.height + 20), PAPER)
    out.paste(row, (0, 20))
    draw = ImageDraw.Draw(out)
    for t in range(T):
        draw.text((t * (cell + _GAP), 0), f"frame {t + 1}", font=font(11), fill=QUIET)
    return out


def _edge_row(explanation: Explanation, cell: int) -> Image.Image:
    """Edges run from a patch of a frame to one of the next."""
    graph = explanation.graph
    assert graph is not None
    row = _row([dimmed(smooth(Image.fromarray(frame), cell)) for frame in explanation.frames_TSS3])
    edges = strongest_edges(graph)
    fine = Image.new("RGBA", (2 * row.width, 2 * row.height))

    def at(frame: int, place: tuple[float, float]) -> tuple[float, float]:
        return 2 * (frame * (cell + _GAP) + place[0] * cell), 2 * place[1] * cell

    lines = [(edge, at(edge.from_frame, edge.start), at(edge.to_frame, edge.end)) for edge in edges]
    draw_edges(ImageDraw.Draw(fine), lines, max((edge.weight for edge in edges), default=1.0))
    return pasted(row, fine)


def _strip(row: Image.Image, legend: Image.Image, width: int) -> Image.Image:
    out = Image.new("RGB", (width, max(row.height, legend.height) + 2 * _GAP), PAPER)
    out.paste(legend, (_MARGIN, _GAP))
    out.paste(row, (_MARGIN + _LEGEND, _GAP))
    return out


class _Legend:
    """Lines at the left of a row."""

    def __init__(self, title: str, lines: int) -> None:
        self.image = Image.new("RGB", (_LEGEND - 16, 30 + _LINE * (lines + 1)), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.draw.text((0, 0), title, font=font(15, bold=True), fill=INK)
        self.y = 30

    def line(self, text: str, ink: Rgb = INK, x: int = 0, *, bold: bool = False) -> None:
        face = font(13, bold=bold)
        self.draw.text((x, self.y), fitted(text, face, self.image.width - x), font=face, fill=ink)
        self.y += _LINE

    def wrapped(self, text: str) -> None:
        for line in wrapped(text, font(12), self.image.width):
            self.draw.text((0, self.y), line, font=font(12), fill=QUIET)
            self.y += 17


def _said(matched: MatchedWord | None) -> tuple[str, Rgb]:
    if matched is None:
        return "unmatched", QUIET
    word = "no word" if matched.word is None else one_line(matched.word, 40)
    return f"{word} {matched.strength}", QUIET if matched.word is None else INK


def _track_legend(explanation: Explanation) -> Image.Image:
    legend = _Legend("Trajectories", len(explanation.tracks) + 2)
    colours = colours_of(explanation)
    for n, track in enumerate(explanation.tracks):
        chip(legend.draw, (0, legend.y - 1), str(n + 1), 11, colours[n])
        said, ink = _said(track.matched)
        legend.line(f"{fitted(track.name, font(13), 88)} → {said}", ink, 32)
    if not explanation.tracks:
        legend.line("none", QUIET)
    return legend.image


def _action_legend(explanation: Explanation, m: int) -> Image.Image:
    action = explanation.actions[m]
    legend = _Legend("", 6)
    chip(legend.draw, (0, 0), f"A{m + 1}", 12, _ACTION)
    legend.draw.text((38, 0), "Action token", font=font(15, bold=True), fill=INK)
    said, ink = _said(action.matched)
    legend.line(said, ink, bold=action.matched is not None and action.matched.word is not None)
    bar = Image.fromarray(heat(_ramp(120)), "RGBA")
    ground = Image.new("RGBA", bar.size, (40, 40, 40, 255))
    ground.alpha_composite(bar)
    legend.image.paste(ground.convert("RGB"), (0, legend.y + 4))
    legend.y += 18
    legend.line(f"0 to {action.most:.0%} of a frame", QUIET)
    if explanation.tracks:
        on_boxes = sum(float(share) for shares in action.box_shares for share in shares) / len(action.box_shares)
        legend.line(f"{on_boxes:.0%} of it on boxes", QUIET)
    return legend.image


def _ramp(width: int) -> np.ndarray:
    return np.tile(np.linspace(0, 1, width), (9, 1))


def _graph_legend(explanation: Explanation) -> Image.Image:
    graph = explanation.graph
    assert graph is not None
    legend = _Legend("Graph of patches", 7)
    legend.line(f"{graph.density:.0%} of edges are there", INK)
    reach = "all frames" if graph.reach is None else f"frames up to {graph.reach} away"
    legend.wrapped(
        f"An edge joins patches of {reach} with a cosine of {graph.threshold:g} or more. Shown are the 12 from each "
        "frame to each beside it along which the most attention flows; the dot is the patch that is seen."
    )
    return legend.image


def _footer(explanation: Explanation, width: int) -> Image.Image:
    lines = [line for note in footnotes(explanation) for line in wrapped(note, font(12), width - 2 * _MARGIN)]
    image = Image.new("RGB", (width, 17 * len(lines) + 2 * _GAP + 12), PAPER)
    draw = ImageDraw.Draw(image)
    draw.line((_MARGIN, 4, width - _MARGIN, 4), fill=FAINT)
    for i, line in enumerate(lines):
        draw.text((_MARGIN, 14 + 17 * i), line, font=font(12), fill=QUIET)
    return image


def footnotes(explanation: Explanation) -> list[str]:
    """What a reader has to know of the picture, a line each."""
    notes = [f"Nouns and verbs of the caption: {explanation.tagged_by}."]
    if any(word.likelihood is not None for word in explanation.words):
        notes.append(
            "Bars and percentages under words: how likely each is after those before it, given the video. A word "
            "without them is none that the model can say."
        )
    return [*notes, *(f"{note[:1].upper()}{note[1:]}." for note in explanation.notes)]
