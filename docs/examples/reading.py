"""Data without a training: rows of a manifest, the same clips packed into a store, and frames and boxes of one."""

import tempfile
from pathlib import Path

from stoa.data.boxes import ClipShape
from stoa.data.dataset import ClipDataset
from stoa.data.shards import ShardClips
from stoa.manifest import read_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig
from stoa.prepare.pipeline import prepare
from stoa.synthetic import SynthConfig, build_data_set

with tempfile.TemporaryDirectory() as folder:
    data, prepared = Path(folder) / "shapes", Path(folder) / "prepared"
    build_data_set(SynthConfig(num_train=6, num_val=2, num_test=2, num_galleries=0), data, say=lambda line: None)

    rows = read_manifest(data / "manifest.jsonl", split="train")
    print(len(rows), "rows, the first:", rows[0].id, rows[0].video)
    print(" ", rows[0].captions[0].text)
    print("  nouns:", [rows[0].captions[0].text[first:end] for first, end in rows[0].captions[0].nouns])

    # As `stoa prepare --annotations .../manifest.jsonl --videos ... --out ... --spacy null` does.
    config = PrepareConfig(videos=str(data), out=str(prepared), spacy=None)
    annotations = open_annotations("manifest", data / "manifest.jsonl")
    prepare(config, annotations, data, engine="local", workers=1, say=lambda line: None)

    store = ShardClips(str(prepared / "frames"), "train")
    print(len(store), "clips in the store,", store.kind)
    clip = store.place(0).read()
    print(f"{clip.row.id}: {len(clip.media.jpegs)} JPEGs, {len(clip.detections.boxes)} boxes")

    shape = ClipShape(num_frames=4, side=64, max_tokens=32, max_boxes=10)
    sample = ClipDataset(store, shape, seed=0).load(0)
    print("frames", tuple(sample.frames_TCHW.shape), "boxes", sample.boxes_TK4.shape, "tokens", sample.tokens_L.shape)
