"""Clips per second from the original files and from the stores of `stoa prepare`, as ratios.

    python benchmarks/data.py --out benchmarks/results/data.json

Makes videos of 300 frames, 596x336, H.264 with the encoder's own long GOP: texture that pans, objects that move, grain.
Twelve frames of each are read for a 224 px model, by the whole loader (two processes: boxes, text, batches of 8) and by
a bare loop (two processes: read, decode, resize). The sources take turns, so that what else the machine does meets all
of them alike; a ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch

from stoa.data.boxes import ClipShape
from stoa.data.clips import Clips, FileClips
from stoa.data.config import DataConfig
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.probe import probe
from stoa.data.ledger import Ledger
from stoa.data.loader import build_loader
from stoa.data.media import FramePack, decode_pack
from stoa.data.sampler import GlobalBatchSampler
from stoa.data.shards import ShardClips
from stoa.data.transforms import resize_and_crop
from stoa.manifest import Caption, ClipRow, read_manifest, write_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig
from stoa.prepare.pipeline import prepare

SHAPE = ClipShape(num_frames=12, side=224, max_tokens=32, max_boxes=10)
FRAMES, WIDTH, HEIGHT = 300, 596, 336
BATCH, WORKERS = 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16, help="a multiple of 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--video", type=Path, help="a file whose first 300 frames to use instead")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.video is None:
            make_videos(folder, args.clips)
        else:
            copy_video(args.video, folder, args.clips)
        config = PrepareConfig(out=str(folder / "out"), videos=name, spacy=None, stores=("frames", "video"))
        annotations = open_annotations("manifest", folder / "manifest.jsonl")
        prepare(config, annotations, folder, engine="local", workers=1, say=lambda line: None)
        sources: dict[str, Clips] = {"original files": FileClips(read_manifest(folder / "manifest.jsonl"), folder)}
        sources |= {f"{kind} store": ShardClips(str(folder / "out" / kind), None) for kind in ("video", "frames")}
        sizes = {kind: sum(p.stat().st_size for p in (folder / "out" / kind).glob("*.tar")) for kind in config.stores}
        sizes["original files"] = sum(path.stat().st_size for path in folder.glob("[0-9]*.*"))
        results = measure(sources, args.clips, args.rounds)
    for key, size in sizes.items():
        results[f"kB a clip, {key}"] = round(size / args.clips / 1000)
    for key, value in results.items():
        print(f"{key:60} {value}")
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def make_videos(folder: Path, count: int) -> None:
    """Write the videos and their manifest."""
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (24, 40, 3)).astype(np.float32)
        scene = np.asarray(torch.nn.functional.interpolate(
            torch.from_numpy(coarse).permute(2, 0, 1)[None], size=(HEIGHT + 128, WIDTH + 128), mode="bicubic"
        )[0].permute(1, 2, 0))  # fmt: skip
        scene = np.clip(scene + rng.normal(0, 12, scene.shape), 0, 255)
        grain = rng.normal(0, 4, (4, HEIGHT, WIDTH, 1))
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for t in range(FRAMES):
                dy, dx = int(64 + 60 * np.sin(t / 40)), int(64 + 60 * np.cos(t / 50))
                picture = scene[dy : dy + HEIGHT, dx : dx + WIDTH] + grain[t % 4]
                x = (t * 3 + number * 37) % (WIDTH - 80)
                picture[100:180, x : x + 80] = (255, 40, 40)
                frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    rows = [ClipRow(f"clip{n}", f"{n}.mp4", (Caption("a red square moves over a field"),)) for n in range(count)]
    write_manifest(folder / "manifest.jsonl", rows)


def copy_video(path: Path, folder: Path, count: int) -> None:
    """Link the file and write a manifest of its first 300 frames."""
    index = probe(str(path))
    end = float(index.times_seconds[FRAMES]) if len(index.times_seconds) > FRAMES else None
    rows = []
    for number in range(count):
        (folder / f"{number}{path.suffix}").symlink_to(path.resolve())
        caption = Caption("somebody does something")
        rows.append(ClipRow(f"clip{number}", f"{number}{path.suffix}", (caption,), end_seconds=end))
    write_manifest(folder / "manifest.jsonl", rows)


def measure(sources: dict[str, Clips], count: int, rounds: int) -> dict[str, object]:
    """Clips per second of each source, and their ratios."""
    whole: dict[str, list[float]] = {name: [] for name in sources}
    bare: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(rounds):
        for name, clips in sources.items():
            epochs = 8 if name == "frames store" else 2
            whole[name].append(whole_loader(clips, count * epochs))
            bare[name].append(bare_loop(clips, count * epochs))
    results: dict[str, object] = {}
    for name in sources:
        results[f"clips/s, whole loader, {name}"] = round(statistics.median(whole[name]), 1)
        results[f"clips/s, bare loop, {name}"] = round(statistics.median(bare[name]), 1)
        results[f"time of the whole loader over the bare loop, {name}"] = spread(bare[name], whole[name])
    for name in list(sources)[1:]:
        results[f"rate over that of the original files, {name}"] = spread(whole[name], whole["original files"])
    return results


def spread(above: list[float], below: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    values = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {key: round(value, 3) for key, value in values.items()}


def whole_loader(clips: Clips, count: int) -> float:
    """Clips per second once both processes are at work."""
    sampler = GlobalBatchSampler(len(clips), BATCH, rank=0, world=1, seed=0)
    loader = build_loader(
        DataConfig(num_workers=WORKERS), clips, SHAPE, sampler, ledger=Ledger(None), device=torch.device("cpu")
    )
    for _ in range(2 * WORKERS):
        next(loader)
    begun = time.perf_counter()
    for _ in range(count // BATCH):
        next(loader)
    rate = count / (time.perf_counter() - begun)
    del loader  # ends its processes
    return rate


def bare_loop(clips: Clips, count: int) -> float:
    """Clips per second of two processes that do nothing but read, decode and resize."""
    context = multiprocessing.get_context("fork")
    barrier, seconds = context.Barrier(WORKERS), context.Queue()
    arguments = (clips, count // WORKERS, barrier, seconds.put)
    processes = [context.Process(target=decode_only, args=(number, *arguments)) for number in range(WORKERS)]
    for process in processes:
        process.start()
    slowest = max(seconds.get() for _ in processes)
    for process in processes:
        process.join()
    return count / slowest


def decode_only(first: int, clips: Clips, count: int, barrier: object, report: Callable[[float], None]) -> None:
    torch.set_num_threads(1)
    numbers = [(first + i * WORKERS) % len(clips) for i in range(count + 2)]
    for number in numbers[:2]:
        decode(clips, number)
    barrier.wait()  # type: ignore[attr-defined]
    begun = time.perf_counter()
    for number in numbers[2:]:
        decode(clips, number)
    report(time.perf_counter() - begun)


def decode(clips: Clips, number: int) -> torch.Tensor:
    media = clips.place(number).read().media
    if isinstance(media, FramePack):
        decoded = decode_pack(media, SHAPE.num_frames)
    else:
        decoded = decode_clip(media.video, SHAPE.num_frames, media.start_seconds, media.end_seconds)
    return resize_and_crop(decoded.frames_THWC, SHAPE.side)


if __name__ == "__main__":
    main()
