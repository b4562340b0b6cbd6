"""An explained clip as a film: the frames that the model sees, one after the other, with all layers side by side."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw

from stoa.tasks.explanation import Explanation
from stoa.viz.frames import Layer, draw_frame
from stoa.viz.marks import INK, PAPER, QUIET, font, one_line, wrapped

# A film of two frames a second is damaged to some players; each frame is there several times instead.
_FRAMES_A_SECOND, _REPEATED = 10, 7
_LARGE, _GAP, _TITLE = 512, 12, 24


def film_bytes(explanation: Explanation, *, comment: str = "") -> bytes:
    """MP4, H.264 where the FFmpeg that PyAV has can write it, else MPEG-4; each frame is shown for 0.7 seconds."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream(codec, rate=Fraction(_FRAMES_A_SECOND))
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if codec == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            stream.bit_rate = 4_000_000
        stream.width, stream.height = _picture(explanation, 0).size
        for t in range(len(explanation.frames_TSS3)):
            picture = np.asarray(_picture(explanation, t))
            for _ in range(_REPEATED):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _picture(explanation: Explanation, t: int) -> Image.Image:
    """Trajectories large, the rest small at their right, two in a row; the caption below. Its sides are even."""
    panels: list[tuple[str, Layer, int]] = [
        (f"A{m + 1}: {_said(explanation, m)}", "attention", m) for m in range(len(explanation.actions))
    ]
    if explanation.graph is not None:
        panels.append(("graph", "edges", 0))
    columns = min(2, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    side = _LARGE if not rows else min(_LARGE // 2, (_LARGE - (rows - 1) * (_GAP + _TITLE)) // rows)
    width = _LARGE + 2 * _GAP + (columns * (side + _GAP) if panels else 0)
    lines = wrapped(explanation.caption, font(20), width - 2 * _GAP)[:4]
    height = _TITLE + _LARGE + 2 * _GAP + 28 * len(lines)
    out = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    draw = ImageDraw.Draw(out)
    title = f"frame {t + 1} of {len(explanation.frames_TSS3)}"
    draw.text((_GAP, 5), title, font=font(13), fill=QUIET)
    out.paste(draw_frame(explanation, t, _LARGE), (_GAP, _TITLE))
    for number, (said, layer, action) in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = _LARGE + 2 * _GAP + column * (side + _GAP), row * (side + _GAP + _TITLE)
        draw.text((x, y + 5), said, font=font(13), fill=INK)
        out.paste(draw_frame(explanation, t, side, layer, action=action), (x, y + _TITLE))
    for number, line in enumerate(lines):
        draw.text((_GAP, _TITLE + _LARGE + _GAP + 28 * number), line, font=font(20), fill=INK)
    return out


def _said(explanation: Explanation, action: int) -> str:
    matched = explanation.actions[action].matched
    if matched is None or matched.word is None:
        return "no word"
    return f"{one_line(matched.word, 18)} {matched.strength}"
