"""Pre-training without the command line or DeepSpeed: a model, its objectives and a loop of your own."""

import tempfile
from pathlib import Path

import torch

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset, collate
from stoa.data.sampler import SampleKey
from stoa.manifest import read_manifest
from stoa.models.config import BackboneConfig, FusionConfig, ModelConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.synthetic import SynthConfig, build_data_set

CLIPS, STEPS = 16, 12

with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "shapes"
    build_data_set(SynthConfig(num_train=CLIPS, num_val=0, num_test=0, num_galleries=0), data, say=lambda line: None)
    clips = FileClips(read_manifest(data / "manifest.jsonl"), data)
    config = ModelConfig(
        backbone=BackboneConfig(name="stoa-tiny"), fusion=FusionConfig(layers=2), num_frames=4, lm_vocab="used"
    )
    shape = ClipShape(num_frames=4, side=32, max_tokens=config.max_tokens, max_boxes=config.num_boxes)
    dataset = ClipDataset(clips, shape, seed=0)
    batch = collate([dataset[SampleKey(clip, 0, clip)] for clip in range(CLIPS)]).batch

torch.manual_seed(0)
model = VideoLanguageModel(config, used_token_ids=clips.used_token_ids())
objective = TrainingObjective(model, ObjectivesConfig(), seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(STEPS):
    total, scalars = objective(batch, step)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    if step in (0, STEPS - 1):
        losses = " ".join(f"{name} {scalars[name]:.2f}" for name in ("vtc", "vtm", "mlm", "plm", "ota", "asp"))
        print(f"step {step + 1:2}: loss {total.item():.2f} ({losses})")
