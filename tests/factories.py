"""Small models, batches and videos for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from stoa.batch import VideoTextBatch
from stoa.models.config import ActionConfig, BackboneConfig, FusionConfig, ModelConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel

START, END = 49406, 49407
WORDS = range(320, 360)
BOXES, LABELS = 3, 5
USED = [*WORDS, START, END]


def tiny_config(**changes) -> ModelConfig:
    values = {
        "backbone": BackboneConfig(name="stoa-tiny"),
        "objects": ObjectConfig(num_trajectories=4, max_boxes=BOXES),
        "actions": ActionConfig(num_tokens=3),
        "fusion": FusionConfig(layers=2),
        "num_frames": 2,
        "max_tokens": 12,
        "lm_vocab": "used",
    }
    return ModelConfig(**{**values, **changes})


def fuse(model: VideoLanguageModel, video_BGd: torch.Tensor, text_BLd: torch.Tensor, mask_BSS: torch.Tensor):
    """All outputs of the fusion encoder: at the video side (B, G, w) and at the text (B, L, w)."""
    text_BLd = model.grounded(text_BLd, model.meanings(video_BGd, mask_BSS[:, 0, : video_BGd.shape[1]]))
    fused_BSw = model.fusion(video_BGd, text_BLd, mask_BSS)
    return fused_BSw.split([video_BGd.shape[1], text_BLd.shape[1]], dim=1)


def grounded(on: bool = True) -> dict[str, object]:
    """Changes of a config, by which words are given what they mean."""
    return {
        "objects": ObjectConfig(num_trajectories=4, max_boxes=BOXES, grounding=on),
        "actions": ActionConfig(num_tokens=3, grounding=on),
    }


def tiny_model(seed: int = 0, **changes) -> VideoLanguageModel:
    torch.manual_seed(seed)
    config = tiny_config(**changes)
    return VideoLanguageModel(config, used_token_ids=USED if config.lm_vocab == "used" else None)


def random_batch(
    size: int,
    *,
    seed: int = 0,
    frames: int = 2,
    side: int = 32,
    max_tokens: int = 12,
    max_boxes: int = BOXES,
    lengths: list[int] | None = None,
) -> VideoTextBatch:
    """Random clips, a fifth of the box slots empty; ``lengths`` counts the tokens of each caption, start and end
    included. Of the words each is a noun, a verb or neither."""
    generator = torch.Generator().manual_seed(seed)
    if lengths is None:
        lengths = torch.randint(3, max_tokens + 1, (size,), generator=generator).tolist()
    length_B = torch.tensor(lengths)
    text_mask = torch.arange(max_tokens) < length_B[:, None]
    tokens = torch.randint(WORDS.start, WORDS.stop, (size, max_tokens), generator=generator)
    tokens[:, 0] = START
    tokens.scatter_(1, (length_B - 1)[:, None], END)
    tokens *= text_mask
    words = text_mask & (torch.arange(max_tokens) > 0) & (torch.arange(max_tokens) < length_B[:, None] - 1)
    kind = torch.randint(0, 3, words.shape, generator=generator)
    nouns, verbs = words & (kind == 1), words & (kind == 2)
    noun_labels = torch.randint(0, LABELS, words.shape, generator=generator).where(nouns, torch.tensor(-1))

    shape = (size, frames, max_boxes)
    corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=-2).values
    filled = torch.rand(shape, generator=generator) < 0.8
    boxes = torch.cat([corners[..., 0, :] * 0.9, corners[..., 1, :] * 0.9 + 0.1], dim=-1) * filled[..., None]
    empty = torch.tensor(-1)
    return VideoTextBatch(
        frames_BTCHW=torch.randint(0, 256, (size, frames, 3, side, side), generator=generator, dtype=torch.uint8),
        tokens_BL=tokens,
        text_mask_BL=text_mask,
        noun_mask_BL=nouns,
        verb_mask_BL=verbs,
        word_end_BL=nouns | verbs,
        noun_labels_BL=noun_labels,
        boxes_BTK4=boxes,
        labels_BTK=torch.randint(0, LABELS, shape, generator=generator).where(filled, empty),
        scores_BTK=torch.rand(shape, generator=generator) * filled,
        true_labels_BTK=torch.randint(0, LABELS, shape, generator=generator).where(filled, empty),
        clip_keys_B=torch.arange(size),
        caption_keys_B=torch.arange(size) + 1000,
        position_B=torch.arange(size),
        prefix_B=torch.zeros(size, dtype=torch.int64),
        target_B=torch.full((size,), -1),
    )


def run_facts(step: int, **more: object) -> dict[str, object]:
    """What ``run.json`` of a checkpoint has to hold."""
    facts = {
        "config": {"model": {}, "training": {"optim": {}}},
        "architecture": {},
        "versions": {},
        "commit": "unknown",
    }
    return {"step": step, "deepspeed_config": {"train_micro_batch_size_per_gpu": 8}, **facts, **more}


def has_gradient(parameter: torch.Tensor) -> bool:
    """Whether anything but zero has reached it."""
    return parameter.grad is not None and bool(parameter.grad.any())


def write_video(
    path: Path,
    frames: list[np.ndarray],
    *,
    times_seconds: list[float] | None = None,
    fps: int = 10,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames, one every 1/fps seconds or at the given times."""
    height, width = frames[0].shape[:2]
    base = Fraction(1, 1000) if times_seconds else Fraction(1, fps)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(1000 * times_seconds[index]) if times_seconds else index
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def gray_frames(count: int, *, height: int = 32, width: int = 64) -> list[np.ndarray]:
    """Frame i has gray level 20 + 10 i everywhere, so a decoded frame tells its number."""
    return [np.full((height, width, 3), 20 + 10 * i, dtype=np.uint8) for i in range(count)]


def gray_number(frame: np.ndarray) -> int:
    """The number of a decoded frame of :func:`gray_frames`."""
    return round((float(frame.mean()) - 20) / 10)
