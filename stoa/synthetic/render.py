"""Scenes to pixels, and pixels to H.264."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from stoa.synthetic.actions import Poses, clock
from stoa.synthetic.scene import COLOURS, Role, Scene
from stoa.synthetic.windows import Footage

_RING_WIDTH = 0.6
_QP = "18"


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered clip.

    Attributes:
        frames: (F, size, size, 3) uint8 RGB.
        boxes: (objects, F, 4) float64, x1, y1, x2, y2 in pixels: the square around the object's circumscribed circle,
            cut at the frame's edges. It does not turn with the object, so rotation shows in the pixels only.
        visibility: (objects, F) float64, the share of the object that is inside the frame and not hidden by others.
    """

    frames: np.ndarray
    boxes: np.ndarray
    visibility: np.ndarray


def render(
    scene: Scene, *, num_frames: int, size: int, footage: Footage | None = None, seconds: float = 0.0
) -> Rendering:
    """Draw every frame of a scene.

    Args:
        footage: what the scene's windows look onto, in a clip of so many ``seconds``.
    """
    times = clock(num_frames)
    all_poses = scene.poses(times)
    pictures = [footage.seen(window, times, seconds, size) for window in scene.windows] if footage else []
    num_objects = len(all_poses)
    frames = np.zeros((num_frames, size, size, 3), np.float32)
    free = np.ones((num_frames, size, size), np.float32)
    boxes = np.zeros((num_objects, num_frames, 4))
    visibility = np.zeros((num_objects, num_frames))
    for index in scene.front_to_back:
        pose = all_poses[index]
        centres = np.stack((pose.x, pose.y), axis=-1) * size
        radii = pose.radius[:, None] * size
        boxes[index] = np.concatenate((centres - radii, centres + radii), axis=-1).clip(0, size)
        corners_xy, alpha, colour = _draw(scene.story.roles[index], pose, size, pictures[1 + index : 2 + index])
        width = alpha.shape[-1]
        drawn = alpha.sum(axis=(1, 2))
        for frame, (x, y) in enumerate(corners_xy):
            rows, columns = slice(max(y, 0), min(y + width, size)), slice(max(x, 0), min(x + width, size))
            window = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
            seen = alpha[frame][window] * free[frame, rows, columns]
            frames[frame, rows, columns] += seen[..., None] * colour[frame][window]
            free[frame, rows, columns] -= seen
            visibility[index, frame] = seen.sum() / drawn[frame]
    frames += free[..., None] * (_dimmed(pictures[0]) if pictures else _background(scene, size)[..., None])
    return Rendering((frames + 0.5).astype(np.uint8), boxes, visibility)


def encode(frames: np.ndarray, path: str | os.PathLike[str], *, fps: int) -> None:
    """Write frames (F, size, size, 3) uint8 as an H.264 file; frame i is shown from i / fps seconds on.

    One thread and no B-frames: the same frames give the same bytes everywhere, and times start at 0. Every frame is a
    key frame of one quality: with predicted frames the coding noise would grow towards the end of each clip and tell
    a clip from the same frames in the reverse order.
    """
    options = {"preset": "veryfast", "qp": _QP, "bf": "0", "g": "1"}
    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        reformatter = VideoReformatter()
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = reformatter.reformat(frame, format="yuv420p", threads=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _background(scene: Scene, size: int) -> np.ndarray:
    across = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    grey = scene.background
    level = grey.level + grey.change_x * across + grey.change_y * across[:, None]
    return np.clip(level, 0, 255).astype(np.float32)


def _dimmed(frames_FHW3: np.ndarray) -> np.ndarray:
    """About as dark as a plain background, so that objects stand out by their light."""
    return np.float32(0.45) * frames_FHW3


def _texture(frames_FHW3: np.ndarray) -> np.ndarray:
    """The light of the frames (F, H, W), stretched to 0.4 to 1 over the whole window: how light it is in all tells
    nothing, and no colour turns black."""
    light = frames_FHW3.astype(np.float32).mean(axis=-1)
    low, high = np.percentile(light, (5, 95))
    return np.float32(0.4) + np.float32(0.6) * np.clip((light - low) / max(high - low, 1.0), 0, 1)


def _draw(role: Role, pose: Poses, size: int, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One object in a window of W pixels that moves with it.

    Args:
        pictures: what it shows, (F, size, size, 3), or nothing.

    Returns:
        Top-left corners of the window (F, 2) in whole pixels x, y; coverage (F, W, W) in [0, 1]; RGB (F, W, W, 3).
    """
    x, y, radius, angle, light, phase = (
        getattr(pose, name).astype(np.float32) for name in ("x", "y", "radius", "angle", "light", "phase")
    )
    x, y, radius = x * size, y * size, radius * size
    width = math.ceil(2 * float(radius.max())) + 3
    corners_xy = np.floor(np.stack((x, y), axis=-1) - width / 2).astype(int)
    pixels = np.arange(width, dtype=np.float32) + np.float32(0.5)
    right = ((corners_xy[:, :1] + pixels - x[:, None]) / radius[:, None])[:, None, :]
    down = ((corners_xy[:, 1:] + pixels - y[:, None]) / radius[:, None])[:, :, None]
    radius, light, phase, cos, sin = (v[:, None, None] for v in (radius, light, phase, np.cos(angle), np.sin(angle)))
    # The object's own axes, in units of its radius: turned with it, so that a growing angle is clockwise.
    u, v = cos * right + sin * down, cos * down - sin * right
    from_centre = np.sqrt(u * u + v * v)
    alpha = np.clip(0.5 - DISTANCES[role.shape](u, v, from_centre) * radius, 0, 1)
    # Every object wears both marks all the time, whatever it does: rings to show ripples, a dark wedge to show turns.
    rings = 0.5 - 0.5 * np.cos(2 * math.pi * (from_centre / _RING_WIDTH - phase))
    wedge = np.clip((0.5 * u - np.abs(v)) * radius + 0.5, 0, 1)
    shade = light * (1 - 0.3 * rings) * (1 - 0.45 * wedge)
    for picture in pictures:
        # In the middle of the picture, at its own scale where the object is at rest, and turned with the object.
        down_up, across = (np.clip((size / 2 + axis * size / 5).astype(int), 0, size - 1) for axis in (v, u))
        shade = shade * _texture(picture)[np.arange(len(picture))[:, None, None], down_up, across]
    first, second = (np.array(COLOURS[name], np.float32) for name in (role.colour, role.second_colour or role.colour))
    rgb = np.where(pose.second[:, None], second, first)
    return corners_xy, alpha, shade[..., None] * rgb[:, None, None, :]


Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _polygon(*normals_and_offsets: tuple[float, float]) -> Distance:
    """Convex: inside where ``x cos a + y sin a <= offset`` for every (a in degrees, offset)."""
    planes = [(math.cos(math.radians(a)), math.sin(math.radians(a)), offset) for a, offset in normals_and_offsets]

    def distance(u: np.ndarray, v: np.ndarray, from_centre: np.ndarray) -> np.ndarray:
        return np.maximum.reduce([np.float32(c) * u + np.float32(s) * v - np.float32(o) for c, s, o in planes])

    return distance


def _star(u: np.ndarray, v: np.ndarray, from_centre: np.ndarray) -> np.ndarray:
    sector = 2 * math.pi / 5
    bearing = np.abs(np.mod(np.arctan2(v, u) + np.float32(sector / 2), sector) - np.float32(sector / 2))
    x, y = from_centre * np.cos(bearing), from_centre * np.sin(bearing)
    inner_x, inner_y = 0.45 * math.cos(sector / 2), 0.45 * math.sin(sector / 2)
    length = math.hypot(1 - inner_x, inner_y)
    return (x - 1) * np.float32(inner_y / length) + y * np.float32((1 - inner_x) / length)


def _heart(u: np.ndarray, v: np.ndarray, from_centre: np.ndarray) -> np.ndarray:
    side, x = 0.57, u + np.float32(0.16)
    half = np.float32(side / math.sqrt(2))
    square = (np.abs(x) + np.abs(v)) * np.float32(math.sqrt(0.5)) - np.float32(side)
    lobe = np.sqrt((x - half) ** 2 + (np.abs(v) - half) ** 2) - np.float32(side)
    return np.minimum(square, lobe)


def _cross(u: np.ndarray, v: np.ndarray, from_centre: np.ndarray) -> np.ndarray:
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - np.float32(0.95), short - np.float32(0.3))


def _arrow(u: np.ndarray, v: np.ndarray, from_centre: np.ndarray) -> np.ndarray:
    height = np.abs(v)
    shaft = np.maximum(np.abs(u + np.float32(0.4)) - np.float32(0.58), height - np.float32(0.22))
    head = np.maximum(np.float32(0.05) - u, (u - 1) * np.float32(0.6) + height * np.float32(0.8))
    return np.minimum(shaft, head)


def _moon(u: np.ndarray, v: np.ndarray, from_centre: np.ndarray) -> np.ndarray:
    bite = np.sqrt((u + np.float32(0.55)) ** 2 + v * v)
    return np.maximum(from_centre - 1, np.float32(0.85) - bite)


_SLANT = math.degrees(math.atan2(1, 0.55))
_DIAMOND_OFFSET = math.cos(math.radians(_SLANT))

DISTANCES: dict[str, Distance] = {
    "circle": lambda u, v, from_centre: from_centre - 1,
    "square": _polygon(*((a, math.sqrt(0.5)) for a in (0, 90, 180, 270))),
    "triangle": _polygon((60, 0.5), (180, 0.5), (300, 0.5)),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": lambda u, v, from_centre: np.abs(from_centre - np.float32(0.74)) - np.float32(0.26),
    "diamond": _polygon(*((side + turn, _DIAMOND_OFFSET) for side in (0, 180) for turn in (-_SLANT, _SLANT))),
    "arrow": _arrow,
    "moon": _moon,
}
"""Signed distance of each shape from a point (u, v) in units of its radius, given its distance from the centre."""
