"""Small videos in many containers, and damaged, spliced and oddly stamped ones made of them. The same seed, the same
files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES, WIDTH, HEIGHT = 24, 64, 48
# Name, suffix, codec, options, size.
_BASES = [
    ("mp4", "mp4", "libx264", {"g": "8"}, (WIDTH, HEIGHT)),
    ("fast", "mp4", "libx264", {"g": "250", "bf": "3"}, (WIDTH, HEIGHT)),
    ("large", "mp4", "libx264", {"g": "8"}, (2 * WIDTH, 2 * HEIGHT)),
    ("mkv", "mkv", "libx264", {"g": "8"}, (WIDTH, HEIGHT)),
    ("webm", "webm", "libvpx-vp9", {"g": "8", "cpu-used": "8", "deadline": "realtime"}, (WIDTH, HEIGHT)),
    ("vp8", "webm", "libvpx", {"g": "8", "cpu-used": "8", "deadline": "realtime"}, (WIDTH, HEIGHT)),
    ("ts", "ts", "libx264", {"g": "8"}, (WIDTH, HEIGHT)),
    ("large_ts", "ts", "libx264", {"g": "8"}, (2 * WIDTH, 2 * HEIGHT)),
    ("avi", "avi", "mpeg4", {"g": "8"}, (WIDTH, HEIGHT)),
    ("mov", "mov", "mpeg4", {"g": "8", "bf": "2"}, (WIDTH, HEIGHT)),
    ("mpg", "mpg", "mpeg2video", {"g": "8"}, (WIDTH, HEIGHT)),
    ("flv", "flv", "libx264", {"g": "8"}, (WIDTH, HEIGHT)),
    ("mjpeg", "mkv", "mjpeg", {}, (WIDTH, HEIGHT)),
    ("gif", "gif", "gif", {}, (WIDTH, HEIGHT)),
]
# In these a second file can follow the first.
_JOINABLE = {"ts": "large_ts", "large_ts": "ts", "mpg": "mpg", "mp4": "large", "mkv": "mkv", "flv": "flv"}


def base_videos(folder: Path) -> dict[str, Path]:
    """Sound videos of noise that moves, by name."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (2 * HEIGHT, 4 * WIDTH, 3), dtype=np.uint8)
    made = {}
    for name, suffix, codec, options, (width, height) in _BASES:
        made[name] = folder / f"{name}.{suffix}"
        muxing = {"movflags": "faststart"} if name == "fast" else {}
        with av.open(str(made[name]), "w", options=muxing) as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height = width, height
            stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            for number in range(FRAMES):
                picture = np.ascontiguousarray(scene[:height, 2 * number : 2 * number + width])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return made


def mutated(bases: dict[str, Path], number: int, seed: int = 0) -> tuple[str, str, bytes]:
    """The suffix, what was done, and the content of one file; any number may be asked for."""
    rng = np.random.default_rng([seed, number])
    name = str(rng.choice(list(bases)))
    how = str(rng.choice(list(MUTATIONS)))
    content = MUTATIONS[how](bases, name, rng)
    return bases[name].suffix, f"{name} {how}", content


def _bits(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    return _flipped(bases[name].read_bytes(), rng, 0, 1 << 62)


def _head(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    return _flipped(bases[name].read_bytes(), rng, 0, 800)


def _tail(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    content = bases[name].read_bytes()
    return _flipped(content, rng, max(0, len(content) - 1500), 1 << 62)


def _flipped(content: bytes, rng: np.random.Generator, first: int, stop: int) -> bytes:
    changed = bytearray(content)
    for _ in range(int(2 ** rng.uniform(0, 5))):
        changed[int(rng.integers(first, min(stop, len(changed))))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _truncated(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    content = bases[name].read_bytes()
    return content[: int(len(content) * rng.uniform(0, 1.02))]


def _spliced(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    """A piece is taken out, zeroed, doubled, or replaced by noise or by another file's."""
    content = bases[name].read_bytes()
    at, size = int(rng.integers(len(content))), int(rng.integers(1, 4000))
    piece = content[at : at + size]
    other = bases[str(rng.choice(list(bases)))].read_bytes()[at : at + size]
    put = [b"", bytes(len(piece)), piece + piece, rng.bytes(len(piece)), other][rng.integers(5)]
    return content[:at] + put + content[at + size :]


def _joined(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    other = _JOINABLE.get(name, name)
    return bases[name].read_bytes() + bases[str(rng.choice([name, other]))].read_bytes()


def _repacked(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    """Packets are lost, doubled or swapped, or their times changed."""
    with av.open(str(bases[name])) as source:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        how, at = int(rng.integers(6)), int(rng.integers(1, len(packets)))
        step = packets[1].dts - packets[0].dts
        if how == 0:
            del packets[at : at + int(rng.integers(1, 4))]
        elif how == 1:
            for packet in packets[at:]:
                packet.pts, packet.dts = packet.pts - step, packet.dts - step
        elif how == 2:
            for packet in packets[at:]:
                packet.pts, packet.dts = packet.pts - at * step, packet.dts - at * step
        elif how == 3:
            jump = int(step * 10 ** rng.uniform(1, 6))
            for packet in packets[at:]:
                packet.pts, packet.dts = packet.pts + jump, packet.dts + jump
        elif how == 4:
            packets[at].pts = packets[at - 1].pts
        else:
            packets[at], packets[at - 1] = packets[at - 1], packets[at]
        file = io.BytesIO()
        # A muxer that minds the order of its packets gives what it has written by then.
        formats = {".mp4": "mp4", ".mov": "mov", ".ts": "mpegts", ".avi": "avi", ".mpg": "mpeg", ".flv": "flv"}
        target = av.open(file, "w", format=formats.get(bases[name].suffix, "matroska"))
        with contextlib.suppress(av.FFmpegError, ValueError):
            copy = target.add_stream_from_template(stream)
            for packet in packets:
                packet.stream = copy
                target.mux(packet)
        with contextlib.suppress(av.FFmpegError):
            target.close()
    return file.getvalue()


def _intact(bases: dict[str, Path], name: str, rng: np.random.Generator) -> bytes:
    return bases[name].read_bytes()


MUTATIONS: dict[str, Callable[[dict[str, Path], str, np.random.Generator], bytes]] = {
    "bits": _bits,
    "head": _head,
    "tail": _tail,
    "truncated": _truncated,
    "spliced": _spliced,
    "joined": _joined,
    "repacked": _repacked,
    "intact": _intact,
}
