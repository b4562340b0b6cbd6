"""One frame of an explained clip, with what is to be shown on it.

Shape legend: S side of a frame, P patches of a frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from stoa.tasks.explanation import ActionToken, Explanation, Graph
from stoa.viz.marks import PAPER, Box, Rgb, chip, chip_size, colours_of, has_word, heat, one_line, place_chip, smooth

Layer = Literal["frame", "tracks", "attention", "edges"]

Place = tuple[float, float]

_FINE = 2  # lines are drawn so many times as large, and made smooth by being reduced
_LINE: Rgb = (255, 176, 0)


class Edge(NamedTuple):
    """An edge between neighbouring frames, from the patch that sees to the one that is seen.

    Attributes:
        start, end: x and y of the middles of the two patches, in [0, 1] of their frames.
        from_frame, to_frame: of the two.
        weight: attention along it.
    """

    start: Place
    end: Place
    from_frame: int
    to_frame: int
    weight: float


def draw_frame(
    explanation: Explanation, t: int, side: int, layer: Layer = "tracks", *, action: int = 0, names: bool = True
) -> Image.Image:
    """A frame with one layer on it.

    Args:
        explanation: of the clip.
        t: which frame.
        side: of the picture, pixels.
        layer: ``frame`` is nothing; ``tracks`` the boxes here and the ways their middles came; ``attention`` what an
            action token takes of each patch; ``edges`` the strongest edges of the graph to the frames beside it.
        action: which token, for ``attention``.
        names: label boxes with number and word; else the number alone.

    Raises:
        ValueError: the clip has no such frame or action token, or no graph.
    """
    _require(explanation, t, layer, action)
    frame = smooth(Image.fromarray(explanation.frames_TSS3[t]), side)
    if layer == "frame":
        return frame
    if layer == "tracks":
        return _with_tracks(explanation, t, frame, names)
    if layer == "attention":
        return _with_attention(explanation, t, frame, action)
    assert explanation.graph is not None
    ground, fine = dimmed(frame), Image.new("RGBA", (side * _FINE, side * _FINE))
    every = strongest_edges(explanation.graph)
    most = max((edge.weight for edge in every), default=1.0)
    own = [edge for edge in every if edge.from_frame == t]
    draw_edges(ImageDraw.Draw(fine), [(e, _at(e.start, side), _at(e.end, side)) for e in own], most)
    return pasted(ground, fine)


def _require(explanation: Explanation, t: int, layer: Layer, action: int) -> None:
    if not 0 <= t < len(explanation.frames_TSS3):
        raise ValueError(f"t is {t}; the clip has frames 0 to {len(explanation.frames_TSS3) - 1}")
    if layer not in ("frame", "tracks", "attention", "edges"):
        raise ValueError(f"layer is {layer!r}; expected frame, tracks, attention or edges")
    if layer == "attention" and not 0 <= action < len(explanation.actions):
        raise ValueError(f"action is {action}; the model has {len(explanation.actions)} action tokens")
    if layer == "edges" and explanation.graph is None:
        raise ValueError("layer is 'edges'; the model has no graph")


def dimmed(frame: Image.Image) -> Image.Image:
    """The ground for colours that mean something: grey and darker."""
    grey = np.asarray(frame.convert("L"), dtype=np.float32)
    return Image.fromarray((20 + 0.45 * grey).astype(np.uint8)).convert("RGB")


def pasted(ground: Image.Image, fine: Image.Image) -> Image.Image:
    """``fine`` is RGBA, twice as large."""
    out = ground.convert("RGBA")
    out.alpha_composite(fine.reduce(_FINE))
    return out.convert("RGB")


def middles(boxes: list[np.ndarray]) -> list[Place]:
    """The middle of a trajectory's boxes, of the frames that have some."""
    found = [of_frame.reshape(-1, 2, 2).mean(axis=(0, 1)) for of_frame in boxes if len(of_frame)]
    return [(float(x), float(y)) for x, y in found]


def _with_tracks(explanation: Explanation, t: int, frame: Image.Image, names: bool) -> Image.Image:
    side = frame.width
    fine = Image.new("RGBA", (side * _FINE, side * _FINE))
    draw = ImageDraw.Draw(fine)
    unit = _FINE * max(1.0, side / 224)
    colours = colours_of(explanation)
    # Those without a word lie below.
    order = sorted(range(len(colours)), key=lambda n: has_word(explanation, n))
    for n in order:
        track, colour, width = explanation.tracks[n], colours[n], unit * (2.2 if has_word(explanation, n) else 1.1)
        way = [(x * side * _FINE, y * side * _FINE) for x, y in middles(track.boxes[: t + 1])]
        for ink, wide in (((0, 0, 0, 170), width + 1.6 * unit), ((*colour, 255), width)):
            if len(way) > 1:
                draw.line(way, fill=ink, width=round(0.7 * wide), joint="curve")
            for x, y in way:
                draw.ellipse((x - wide, y - wide, x + wide, y + wide), fill=ink)
            for box in track.boxes[t]:
                x1, y1, x2, y2 = (float(v) * side * _FINE for v in box)
                grow = (wide - width) / 2
                draw.rectangle((x1 - grow, y1 - grow, x2 + grow, y2 + grow), outline=ink, width=round(wide))
    out = pasted(frame, fine)
    draw, taken = ImageDraw.Draw(out), list[Box]()
    size = max(10, round(side / 22))
    for n in reversed(order):
        for box in explanation.tracks[n].boxes[t]:
            text = track_label(explanation, n) if names else str(n + 1)
            x1, y1, x2, y2 = (float(v) * side for v in box)
            xy = place_chip((x1, y1, x2, y2), chip_size(text, size), taken, side)
            chip(draw, xy, text, size, colours[n])
            taken.append((*xy, xy[0] + chip_size(text, size)[0], xy[1] + chip_size(text, size)[1]))
    return out


def track_label(explanation: Explanation, n: int) -> str:
    """``1 ring 82%``; the number alone where it has no word."""
    matched = explanation.tracks[n].matched
    if matched is None or matched.word is None:
        return str(n + 1)
    return f"{n + 1} {one_line(matched.word, 16)} {matched.strength}"


def _with_attention(explanation: Explanation, t: int, frame: Image.Image, action: int) -> Image.Image:
    token, side = explanation.actions[action], frame.width
    most = max(token.most, 1e-12)
    colours = Image.fromarray(heat(token.attention_TYX[t] / most))
    out = dimmed(frame).convert("RGBA")
    out.alpha_composite(colours.resize(frame.size, Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(out)
    width = max(2, round(side / 72))
    for share, box in boxes_looked_at(token, t):
        red, green, blue, _ = heat(np.array(share / most)).tolist()
        x1, y1, x2, y2 = (value * (side - 1) for value in box)
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=width + 2)
        draw.rectangle((x1, y1, x2, y2), outline=(red, green, blue), width=width)
    return out.convert("RGB")


def boxes_looked_at(token: ActionToken, t: int) -> list[tuple[float, list[float]]]:
    """Boxes of a frame of which a token takes what can be seen, the least first: (share of the frame, box)."""
    pairs = zip(token.box_shares[t].tolist(), token.boxes[t].tolist(), strict=True)
    return sorted((share, box) for share, box in pairs if share > token.most / 25)


def strongest_edges(graph: Graph, most: int = 12) -> list[Edge]:
    """Of every frame to each beside it the edges along which the most attention flows: one of a patch, two to a patch
    and ``most`` in all, so that a patch which all look at does not hide the others."""
    pairs: dict[tuple[int, int], list[Edge]] = {}
    for edge in _between_frames(graph):
        pairs.setdefault((edge.from_frame, edge.to_frame), []).append(edge)
    chosen = []
    for edges in pairs.values():
        starts, ends, some = Counter[Place](), Counter[Place](), list[Edge]()
        for edge in sorted(edges, key=lambda edge: -edge.weight):
            if starts[edge.start] < 1 and ends[edge.end] < 2 and len(some) < most:
                some.append(edge)
                starts[edge.start] += 1
                ends[edge.end] += 1
        chosen += some
    return chosen


def _between_frames(graph: Graph) -> Iterator[Edge]:
    rows, columns = graph.grid_hw
    P = rows * columns

    def middle(patch: int) -> Place:
        return (patch % columns + 0.5) / columns, (patch // columns + 0.5) / rows

    for t, patch, place in np.argwhere(graph.targets_TPE >= 0).tolist():
        to_frame, to_patch = divmod(int(graph.targets_TPE[t, patch, place]), P)
        if abs(to_frame - t) == 1:
            yield Edge(middle(patch), middle(to_patch), t, to_frame, float(graph.weights_TPE[t, patch, place]))


def draw_edges(draw: ImageDraw.ImageDraw, edges: list[tuple[Edge, Place, Place]], most: float) -> None:
    """Lines between pixels of a picture that is to be reduced, the stronger the brighter; a dot marks what is seen."""
    for edge, start, end in sorted(edges, key=lambda item: item[0].weight):
        share = edge.weight / max(most, 1e-12)
        colour = (*_LINE, round(70 + 185 * share))
        width = _FINE * (0.8 + 1.2 * share)
        draw.line((start, end), fill=colour, width=max(1, round(width)))
        radius = width + _FINE
        draw.ellipse((end[0] - radius, end[1] - radius, end[0] + radius, end[1] + radius), fill=colour)
        draw.ellipse((end[0] - width / 2, end[1] - width / 2, end[0] + width / 2, end[1] + width / 2), fill=PAPER)


def _at(place: Place, side: int) -> Place:
    return place[0] * side * _FINE, place[1] * side * _FINE
