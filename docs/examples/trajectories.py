"""Trajectories of a file of detections: which objects a clip shows, and how each moves."""

import json
import tempfile
from pathlib import Path

import torch

from stoa.data.boxes import ClipShape, boxes_on_frames
from stoa.data.sampling import sample_times
from stoa.detections import Detections
from stoa.manifest import read_manifest
from stoa.models.motion import fit_lines, levers_of
from stoa.models.objects import top_labels, usable_boxes
from stoa.synthetic import SynthConfig, build_data_set

SECONDS, FRAMES = 2.0, 8

with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "shapes"
    what = {"num_train": 4, "num_val": 0, "num_test": 0, "num_galleries": 0, "seconds": SECONDS}
    build_data_set(SynthConfig(families=["horizontal", "vertical", "size"], **what), data, say=lambda line: None)
    names = json.loads((data / "labels.json").read_text())
    shape = ClipShape(num_frames=FRAMES, side=64, max_tokens=32, max_boxes=10)
    for row in read_manifest(data / "manifest.jsonl"):
        found = Detections.load(data / row.detections)
        on_frames = boxes_on_frames(found, sample_times(0, SECONDS, FRAMES), shape)
        boxes, labels, scores = (torch.from_numpy(x)[None] for x in on_frames[:3])
        labels = labels.where(usable_boxes(boxes, labels), -1)
        best = top_labels(labels.flatten(1), scores.flatten(1), 3)  # the three that are seen most surely
        lines = fit_lines(boxes, labels, levers_of(scores, labels, best))
        print(f"{row.id}: {row.captions[0].text}")
        told = (best[0].tolist(), lines.slopes_BN4[0].tolist(), lines.moves_BN[0].tolist())
        for label, (x1, y1, x2, y2), moving in zip(*told, strict=True):
            if label >= 0 and moving:
                right, down, wider = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1
                print(
                    f"  {names[label]:8} right {right:+.2f}  down {down:+.2f}  wider {wider:+.2f} of the frame a clip"
                )
