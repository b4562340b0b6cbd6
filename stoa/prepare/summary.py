"""The page that shows what was prepared: counts, what failed and why, words, boxes, and clips to look at."""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stoa.data.clips import EncodedClip
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.guard import Guard, alive
from stoa.data.media import FramePack, decode_pack
from stoa.data.sampling import nearest_frames
from stoa.data.shards import ShardClips
from stoa.files import write_whole
from stoa.prepare.config import PrepareConfig, StoreKind
from stoa.prepare.tallies import BOX_EDGES, DURATION_EDGES, Tallies

_FRAMES = 12  # decoded of a clip when timing: what the paper's model sees
_SHOWN_CLIPS, _SHOWN_FRAMES, _TIMED_CLIPS = 6, 4, 24
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:right}"
    "td:first-child,th:first-child,.text td,.text th,td:has(.bar){text-align:left}"
    ".bar{background:#4878d0;height:.8em;display:inline-block}"
    ".clip{display:flex;gap:4px;margin:.4rem 0}.clip svg{width:24%;height:auto}"
    ".columns{display:flex;gap:3rem;flex-wrap:wrap}"
)


@dataclass(frozen=True)
class Speed:
    """Clips a second, each with 12 frames decoded in one process, from the store and from the original files."""

    store: float
    original: float


def write_summary(out: Path, config: PrepareConfig, found: Sequence[str], tallies: Mapping[StoreKind, Tallies]) -> None:
    """Write ``out/summary.html``, of itself alone: no other file, no network."""
    guard = Guard(config.timeout_seconds)
    counts = next(iter(tallies.values()))
    parts = [f"<h1>{html.escape(out.resolve().name)}</h1>", _list(found)]
    rows = []
    for kind, tally in tallies.items():
        size = sum(path.stat().st_size for path in (out / kind).glob("*.tar"))
        speed = guard.call(_speed, str(out / kind), Path(config.videos))
        rows.append(
            (kind, tally.clips, f"{tally.seconds / 3600:.1f} h", f"{size / 1e9:.2f} GB",
             f"{size / max(1, tally.clips) / 1e3:.0f} kB", f"{speed.store:.1f}", f"{speed.original:.1f}",
             f"{speed.store / speed.original:.1f}x")
        )  # fmt: skip
    head = ("store", "clips", "video", "size", "a clip", "clips/s", "original files", "ratio")
    parts += [
        "<h2>Stores</h2>",
        _table(head, rows),
        f"<p>clips/s: {_FRAMES} frames of each decoded by one process.</p>",
    ]
    parts += ["<h2>Failures</h2>", _failures(out / "ledger.jsonl")]
    parts += ["<h2>Clips</h2>", "<div class=columns>", _histogram("seconds", DURATION_EDGES, counts.durations)]
    if counts.boxes:
        parts.append(_histogram("boxes a frame", BOX_EDGES, counts.boxes_per_frame))
    parts += ["</div>", "<h2>Words</h2>", f"<p>{counts.captions:,} captions"]
    parts.append(f", {counts.without_nouns:,} without a noun, {counts.without_verbs:,} without a verb</p>")
    parts.append("<div class=columns>")
    labels = json.loads((out / "labels.json").read_text("utf-8")) if (out / "labels.json").is_file() else []
    classes = {_class_name(int(number), labels): count for number, count in counts.labels.items()}
    for title, words in (("noun", counts.nouns), ("verb", counts.verbs), ("label of a box", classes)):
        if words:
            parts.append(_table((title, "count"), Counter(words).most_common(20)))
    parts.append("</div><h2>Samples</h2>")
    store = str(out / next(iter(tallies)))
    for index in np.linspace(0, counts.clips - 1, min(_SHOWN_CLIPS, counts.clips)).astype(int):
        parts.append(guard.call(_sample, store, int(index), labels))
    guard.close()
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(out.name)}</title><style>{_STYLE}</style>"
    write_whole(out / "summary.html", page + "".join(parts) + "\n")


def _speed(store: str, videos: Path) -> Speed:
    clips = ShardClips(store, None)
    chosen = [int(i) for i in np.linspace(0, len(clips) - 1, min(_TIMED_CLIPS, len(clips)))]
    begun = time.perf_counter()
    for index in chosen:
        alive()
        _frames(clips.place(index).read(), _FRAMES)
    middle = time.perf_counter()
    for index in chosen:
        alive()
        row = clips.row(index)
        try:
            decode_clip(str(videos / row.video), _FRAMES, row.start_seconds, row.end_seconds)
        except DecodeError:  # gone since it was prepared
            return Speed(len(chosen) / (middle - begun), float("nan"))
    return Speed(len(chosen) / (middle - begun), len(chosen) / (time.perf_counter() - middle))


def _frames(clip: EncodedClip, count: int) -> tuple[np.ndarray, np.ndarray]:
    media = clip.media
    decoded = decode_pack(media, count) if isinstance(media, FramePack) else decode_clip(media.video, count)
    return decoded.frames_THWC, decoded.times_seconds


def _sample(store: str, index: int, labels: Sequence[str]) -> str:
    clip = ShardClips(store, None).place(index).read()
    frames, times = _frames(clip, _SHOWN_FRAMES)
    pictures = []
    for frame, at in zip(frames, times, strict=True):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame)).save(file, "JPEG", quality=80)
        source = base64.b64encode(file.getvalue()).decode()
        height, width = frame.shape[:2]
        boxes = _boxes(clip, float(at), labels) if clip.detections is not None else ""
        size = clip.detections.size_wh if clip.detections is not None else (width, height)
        pictures.append(
            f'<svg viewBox="0 0 {size[0]} {size[1]}"><image width="{size[0]}" height="{size[1]}" '
            f'preserveAspectRatio="none" href="data:image/jpeg;base64,{source}"/>{boxes}</svg>'
        )
    words = html.escape(clip.row.captions[0].text[:300]) if clip.row.captions else ""
    return f"<p><b>{html.escape(clip.row.id)}</b> {words}</p><div class=clip>{''.join(pictures)}</div>"


def _boxes(clip: EncodedClip, at: float, labels: Sequence[str]) -> str:
    found = clip.detections
    assert found is not None
    if not len(found.frame_times_seconds):
        return ""
    (frame,) = nearest_frames(found.frame_times_seconds, np.array([at]))
    out = []
    scale = max(found.size_wh) / 100
    for i in np.flatnonzero(found.frame_index == frame):
        x1, y1, x2, y2 = found.boxes[i]
        name = _class_name(int(found.labels[i]), labels)
        colour = f"hsl({int(found.labels[i]) * 67 % 360} 80% 50%)"
        out.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{scale:.1f}"/><text x="{x1:.1f}" y="{y1 + 4 * scale:.1f}" '
            f'font-size="{4 * scale:.1f}" fill="{colour}">{html.escape(name)} {found.scores[i]:.2f}</text>'
        )
    return "".join(out)


def _class_name(number: int, labels: Sequence[str]) -> str:
    return labels[number] if number < len(labels) else str(number)


def _failures(ledger: Path) -> str:
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    with open(ledger, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            key = record.get("store", ""), record["event"], record.get("kind", "")
            counts[key] += 1
            examples.setdefault(key, f"{record['clip']}: {record['reason']}")
    if not counts:
        return "<p>None.</p>"
    rows = [(*key, count, examples[key]) for key, count in counts.most_common()]
    table = _table(("store", "what", "why", "count", "first"), rows)
    return f"<div class=text>{table}</div><p>All of them: ledger.jsonl.</p>"


def _histogram(title: str, edges: Sequence[int], counts: Sequence[int]) -> str:
    most = max(max(counts), 1)
    rows = []
    for low, high, count in zip(edges, [*edges[1:], None], counts, strict=True):
        name = f"{low} or more" if high is None else str(low) if high == low + 1 else f"{low} to {high}"
        rows.append(f"<tr><td>{name}<td>{count:,}<td><span class=bar style='width:{count / most * 12:.2f}em'></span>")
    return f"<table><tr><th>{title}<th>count<th>{''.join(rows)}</table>"


def _table(head: Iterable[object], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else html.escape(str(value))

    lines = ["<tr>" + "".join(f"<td>{cell(value)}" for value in row) for row in rows]
    return f"<table><tr>{''.join(f'<th>{cell(name)}' for name in head)}{''.join(lines)}</table>"


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}" for line in lines) + "</ul>"
