"""An explained clip as one HTML page that needs nothing else: pictures are in it, and nothing is fetched.

Every layer lies on the frames as SVG and is shown or not by the controls alone; the script only finds the edges of a
chosen patch.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json

import numpy as np
from PIL import Image

from stoa.tasks.explanation import Explanation, Graph, MatchedWord
from stoa.viz.frames import boxes_looked_at, middles, strongest_edges, track_label
from stoa.viz.marks import Box, Rgb, colours_of, font, has_word, heat, ink_on, one_line, place_chip
from stoa.viz.page_style import SCRIPT, as_hex, style
from stoa.viz.sheet import footnotes, marks_of_words

_PICKED = 8
"""Edges of a patch that the page knows."""


def page(explanation: Explanation, generator: str) -> str:
    """The page; ``generator`` is told in its head."""
    colours = colours_of(explanation)
    css = style(colours, len(explanation.actions))
    script = "" if explanation.graph is None else SCRIPT
    title = html.escape(one_line(f"{explanation.clip}: {explanation.caption}", 120))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(script)}"
    frames = "".join(f"<li>{_frame(explanation, t, colours)}</li>" for t in range(len(explanation.frames_TSS3)))
    notes = "".join(f"<li>{html.escape(one_line(note))}</li>" for note in footnotes(explanation))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="generator" content="{html.escape(generator)}"><title>{title}</title><style>{css}</style></head>'
        f"<body><header><h1>{html.escape(one_line(explanation.clip))}</h1>{_caption(explanation)}{_facts(explanation)}"
        f'</header><main>{_controls(explanation)}<ul class="frames">{frames}</ul>{_graph(explanation.graph)}'
        f'{_tracks(explanation)}{_actions(explanation)}</main><footer><ul class="notes">{notes}</ul></footer>'
        f"{'' if not script else f'<script>{script}</script>'}</body></html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _caption(explanation: Explanation) -> str:
    marks, out = marks_of_words(explanation), []
    for index, word in enumerate(explanation.words):
        chips = "".join(
            f'<span class="chip {"action" if label.startswith("A") else f"c{int(label) - 1}"}">{label}</span>'
            for label, _ in marks.get(index, [])
        )
        bar = said = ""
        if word.likelihood is not None:
            bar = (
                '<svg viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="3" '
                f'fill="#8886"/><rect width="{100 * word.likelihood:.1f}" height="3" fill="#888"/></svg>'
            )
            said = f"<small>{word.likelihood:.0%}</small>"
        out.append(f"<li><b>{html.escape(one_line(word.text))}</b>{bar}{chips}{said}</li>")
    return f'<ul class="caption" aria-label="caption">{"".join(out)}</ul>'


def _facts(explanation: Explanation) -> str:
    facts = {} if explanation.match is None else {"match": f"{explanation.match:.0%}"}
    facts["cosine"] = f"{explanation.cosine:z.2f}"
    if explanation.graph is not None:
        facts["edges of the graph"] = f"{explanation.graph.density:.0%} of the possible"
    return f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items())}</dl>'


def _controls(explanation: Explanation) -> str:
    boxes = '<label><input type="checkbox" id="tracks" checked>trajectories</label>'
    if explanation.graph is not None:
        boxes += '<label><input type="checkbox" id="edges">edges</label>'
    controls = f"<fieldset><legend>Show</legend>{boxes}</fieldset>"
    if explanation.actions:
        looks = '<label><input type="radio" name="look" id="look-none" checked>none</label>'
        for m, action in enumerate(explanation.actions):
            looks += (
                f'<label><input type="radio" name="look" class="looks" id="look-{m}">'
                f'<span class="chip action">A{m + 1}</span>{html.escape(_short(action.matched))}</label>'
            )
        controls += f"<fieldset><legend>Attention of</legend>{looks}</fieldset>"
        bar = _image(heat(np.linspace(0, 1, 64)[None]))
        controls += (
            f'<div class="heat-note"><img class="scale" src="{bar}" alt="dark to bright">'
            "<small>nothing to the most that it takes of any patch or box</small></div>"
        )
    return f"<form>{controls}</form>"


def _frame(explanation: Explanation, t: int, colours: list[Rgb]) -> str:
    layers = [
        f'<image class="picture" width="100" height="100" href="{_image(explanation.frames_TSS3[t])}" '
        'preserveAspectRatio="none"/>'
    ]
    layers += [_attention(explanation, t, m) for m in range(len(explanation.actions))]
    focus = ""
    if explanation.graph is not None:
        layers.append(_edges(explanation.graph, t))
        focus = ' tabindex="0"'
    layers.append(_boxes(explanation, t, colours))
    what = "; arrow keys choose a patch, whose edges are then shown" if focus else ""
    return (
        f'<figure><svg class="frame" viewBox="0 0 100 100" role="img" aria-label="frame {t + 1}{what}"{focus}>'
        f"{''.join(layers)}</svg><figcaption>frame {t + 1}</figcaption></figure>"
    )


def _attention(explanation: Explanation, t: int, m: int) -> str:
    action = explanation.actions[m]
    most = max(action.most, 1e-12)
    image = _image(heat(action.attention_TYX[t] / most))
    shapes = [f'<image class="heat" width="100" height="100" href="{image}" preserveAspectRatio="none"/>']
    for share, box in boxes_looked_at(action, t):
        red, green, blue, _ = heat(np.array(share / most)).tolist()
        shapes.append(_rect(box, "#000", 2.6) + _rect(box, as_hex((red, green, blue)), 1.6))
    return f'<g class="attention attention-{m}">{"".join(shapes)}</g>'


def _edges(graph: Graph, t: int) -> str:
    every = strongest_edges(graph)
    most = max((edge.weight for edge in every), default=1.0)
    lines = []
    for edge in every:
        if edge.from_frame == t:
            (x1, y1), (x2, y2) = ((100 * x, 100 * y) for x, y in (edge.start, edge.end))
            opacity = 0.25 + 0.75 * edge.weight / max(most, 1e-12)
            lines.append(
                f'<g opacity="{opacity:.2f}"><line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                f'stroke="#ffb000" stroke-width=".7"/><circle cx="{x2:.1f}" cy="{y2:.1f}" r="1.3" fill="#ffb000"/></g>'
            )
    return f'<g class="edges">{"".join(lines)}</g><g class="picked"></g>'


def _boxes(explanation: Explanation, t: int, colours: list[Rgb]) -> str:
    shapes, labels, taken = [], [], list[Box]()
    for n in sorted(range(len(colours)), key=lambda n: has_word(explanation, n)):
        track, colour, width = explanation.tracks[n], as_hex(colours[n]), 1.1 if has_word(explanation, n) else 0.5
        way = " ".join(f"{100 * x:.1f},{100 * y:.1f}" for x, y in middles(track.boxes[: t + 1]))
        if way:
            ends = f'fill="none" stroke-linejoin="round" stroke-linecap="round" points="{way}"'
            shapes.append(f'<polyline {ends} stroke="#000" stroke-width="{width + 0.7}" stroke-opacity=".6"/>')
            shapes.append(f'<polyline {ends} stroke="{colour}" stroke-width="{width}"/>')
        for box in track.boxes[t].tolist():
            shapes.append(_rect(box, "#000", width + 0.8) + _rect(box, colour, width))
    for n in sorted(range(len(colours)), key=lambda n: not has_word(explanation, n)):
        for box in explanation.tracks[n].boxes[t].tolist():
            labels.append(_label(track_label(explanation, n), box, colours[n], taken))
    return f'<g class="tracks">{"".join(shapes)}{"".join(labels)}</g>'


def _label(text: str, box: list[float], colour: Rgb, taken: list[Box]) -> str:
    letters = font(50, bold=True).getlength(text) / 10
    width, height = min(100.0, letters + 3), 7.0
    x1, y1, x2, y2 = (100 * value for value in box)
    x, y = place_chip((x1, y1, x2, y2), (width, height), taken, 100)
    taken.append((x, y, x + width, y + height))
    ink = as_hex(ink_on(colour))
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="1.4" fill="{as_hex(colour)}" '
        f'stroke="{ink}" stroke-width=".3"/><text x="{x + 1.5:.1f}" y="{y + 5.2:.1f}" fill="{ink}" '
        f'textLength="{width - 3:.1f}" lengthAdjust="spacingAndGlyphs">{html.escape(text)}</text>'
    )


def _rect(box: list[float], colour: str, width: float) -> str:
    x1, y1, x2, y2 = (100 * value for value in box)
    size = f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    return f'<rect x="{x1:.1f}" y="{y1:.1f}" {size} fill="none" stroke="{colour}" stroke-width="{width:.1f}"/>'


def _graph(graph: Graph | None) -> str:
    if graph is None:
        return ""
    known = {
        "grid": list(graph.grid_hw),
        "targets": graph.targets_TPE[..., :_PICKED].tolist(),
        "weights": np.round(graph.weights_TPE[..., :_PICKED].astype(float), 4).tolist(),
    }
    text = json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")
    return (
        "<p>Choose a patch to see where it looks: a click on a frame, or the arrow keys on one; Escape ends it.</p>"
        f'<p id="said" role="status"></p><script type="application/json" id="graph">{text}</script>'
    )


def _tracks(explanation: Explanation) -> str:
    rows = [
        f'<tr><td><span class="chip c{n}">{n + 1}</span></td><td>{html.escape(one_line(track.name, 60))}</td>'
        f"{_cells(track.matched)}</tr>"
        for n, track in enumerate(explanation.tracks)
    ]
    return _table("Trajectories", ("", "class", "word", "how strongly", "cosine"), rows)


def _actions(explanation: Explanation) -> str:
    rows = []
    for m, action in enumerate(explanation.actions):
        on_boxes = sum(float(shares.sum()) for shares in action.box_shares) / len(action.box_shares)
        rows.append(
            f'<tr><td><span class="chip action">A{m + 1}</span></td>{_cells(action.matched)}'
            f"<td>{action.most:.0%}</td><td>{on_boxes:.0%}</td></tr>"
        )
    columns = ("", "word", "how strongly", "cosine", "most of a frame", "on boxes")
    return _table("Action tokens", columns, rows)


def _cells(matched: MatchedWord | None) -> str:
    if matched is None:
        return "<td>unmatched</td><td></td><td></td>"
    return f"<td>{html.escape(_word(matched))}</td><td>{matched.strength}</td><td>{matched.cosine:z.2f}</td>"


def _table(title: str, columns: tuple[str, ...], rows: list[str]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<h2>{title}</h2><div class="wide">{body}</div>'


def _word(matched: MatchedWord) -> str:
    return "no word" if matched.word is None else one_line(matched.word, 60)


def _short(matched: MatchedWord | None) -> str:
    return "unmatched" if matched is None else f"{_word(matched)} {matched.strength}"


def _image(pixels: np.ndarray) -> str:
    """A data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
