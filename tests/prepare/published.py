"""Small annotation files in the layouts the data sets are published in."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

WEBVID = ("videoid", "contentUrl", "duration", "page_dir", "name")


def write_csv(path: Path, header: Iterable[str], *rows: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def zipped(path: Path, archive: str, *, inside: str = "") -> None:
    """Put a file into an archive beside it, and away."""
    with zipfile.ZipFile(path.parent / archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, inside + path.name)
    path.unlink()


def webvid(folder: Path, name: str, captions: dict[str, str]) -> Path:
    rows = [(id, f"https://v/{id}.mp4", "PT00H00M21S", "000001_000050", caption) for id, caption in captions.items()]
    return write_csv(folder / name, WEBVID, *rows)


def msrvtt_json(folder: Path, name: str, captions: dict[str, tuple[str, list[str]]]) -> Path:
    """The 2016 JSON: for each video its split and captions. Sentences come a round at a time, as in the original."""
    videos = [
        {"category": 9, "url": "https://v", "video_id": id, "start time": 137.72, "end time": 149.44, "split": split}
        for id, (split, _) in captions.items()
    ]
    rounds = max(len(texts) for _, texts in captions.values())
    sentences = [
        {"caption": texts[turn], "video_id": id, "sen_id": 7}
        for turn in range(rounds)
        for id, (_, texts) in captions.items()
        if turn < len(texts)
    ]
    return write_json(folder / name, {"info": {}, "videos": videos, "sentences": sentences})


def lsmdc(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    times = ("00.02.29.298", "00.02.30.004", "00.02.28.651", "00.02.30.651")
    path = folder / name
    path.write_text("".join("\t".join((clip, *times, sentence)) + "\n" for clip, sentence in rows), encoding="utf-8")
    return path


def didemo(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    entries = [
        {"num_segments": 6, "times": [[0, 0], [1, 1]], "annotation_id": i, "video": video, "description": text}
        for i, (video, text) in enumerate(rows)
    ]
    return write_json(folder / name, entries)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder
