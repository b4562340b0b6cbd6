"""Colours, fonts and marks of pictures of clips."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stoa.tasks.explanation import Explanation

Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]

INK, QUIET, FAINT, PAPER = (26, 26, 30), (96, 98, 106), (222, 224, 229), (255, 255, 255)

# Okabe and Ito's, told apart by people with any colour vision; without black, and those that differ most first.
PALETTE: tuple[Rgb, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
# Matplotlib's inferno at equal distances: as dark as it is little, also in grey.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)
_MOST_CHARACTERS = 400


def colours_of(explanation: Explanation) -> list[Rgb]:
    """Of each trajectory; those with a word of the caption have one of their own as long as there are."""
    order = sorted(range(len(explanation.tracks)), key=lambda n: not has_word(explanation, n))
    colours = {track: PALETTE[place % len(PALETTE)] for place, track in enumerate(order)}
    return [colours[track] for track in range(len(explanation.tracks))]


def has_word(explanation: Explanation, track: int) -> bool:
    """Whether a trajectory is matched to a word of the caption."""
    matched = explanation.tracks[track].matched
    return matched is not None and matched.word is not None


def ink_on(colour: Rgb) -> Rgb:
    """Black or white, which reads better on it (WCAG 2's contrast)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INK if (luminance + 0.05) / 0.06 > 1.05 / (luminance + 0.05) else PAPER


def heat(share: np.ndarray) -> np.ndarray:
    """Colours (..., 4) uint8 of shares in [0, 1]; what is little is let through."""
    share = np.clip(share, 0, 1)
    places = np.linspace(0, 1, len(_HEAT))
    rgb = np.stack([np.interp(share, places, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return np.concatenate([rgb, 255 * np.minimum(1, 0.15 + share)[..., None] * 0.85], axis=-1).round().astype(np.uint8)


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with matplotlib and has more letters than Pillow's own."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def one_line(text: str, most: int = _MOST_CHARACTERS) -> str:
    """What of a text from elsewhere can be drawn."""
    text = text.encode("utf-8", "replace").decode()
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def fitted(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """As much of a text as ``width`` pixels hold."""
    text = one_line(text)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Its lines."""
    lines = [""]
    for word in one_line(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [fitted(line, face, width) for line in lines]


def chip_size(text: str, size: int) -> tuple[int, int]:
    """Pixels that :func:`chip` takes."""
    return round(font(size, bold=True).getlength(text)) + size, round(1.5 * size)


def chip(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, colour: Rgb) -> None:
    """A text on a ground of its own, readable on anything; ``xy`` is its upper left corner."""
    width, height = chip_size(text, size)
    x, y = xy
    box = (x, y, x + width - 1, y + height - 1)
    draw.rounded_rectangle(box, radius=height // 4, fill=colour, outline=ink_on(colour), width=1)
    middle = (x + width / 2, y + height / 2)
    draw.text(middle, text, font=font(size, bold=True), fill=ink_on(colour), anchor="mm")


def place_chip(box: Box, size: tuple[float, float], taken: Sequence[Box], side: float) -> tuple[float, float]:
    """Where beside a box of a frame a chip covers the least of others.

    Args:
        box: x1, y1, x2, y2 in pixels.
        size: of the chip.
        taken: by other chips.
        side: of the frame.

    Returns:
        its upper left corner, inside the frame.
    """
    w, h = size
    x1, y1, x2, y2 = box
    wanted = [(x1, y1 - h), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2), (x2, y1), (x1 - w, y1), (x1, y1), (x2, y2 - h)]
    inside = [(min(max(0.0, x), side - w), min(max(0.0, y), side - h)) for x, y in wanted]

    def covered(xy: tuple[float, float]) -> float:
        own = (xy[0], xy[1], xy[0] + w, xy[1] + h)
        return sum(_overlap(own, other) for other in taken) + 0.3 * _overlap(own, box)

    return min(inside, key=covered)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def smooth(image: Image.Image, side: int) -> Image.Image:
    """A frame at another size."""
    return image.resize((side, side), Image.Resampling.BICUBIC)
