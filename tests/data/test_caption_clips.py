"""Every caption of a clip as a sample of its own."""

from collections import Counter

import pytest
from factories import gray_frames, write_video

from stoa.data.boxes import ClipShape
from stoa.data.clips import CaptionClips, FileClips
from stoa.data.config import DataConfig
from stoa.data.dataset import ClipDataset
from stoa.data.sampler import SampleKey
from stoa.data.text import decode_tokens
from stoa.manifest import Caption, ClipRow

SHAPE = ClipShape(num_frames=2, side=32, max_tokens=12, max_boxes=2)
CAPTIONS = {"a": ("a dog", "a cat", "a cow"), "b": (), "c": ("a hen",)}


@pytest.fixture
def clips(tmp_path) -> FileClips:
    rows = []
    for name, captions in CAPTIONS.items():
        write_video(tmp_path / f"{name}.mp4", gray_frames(4))
        rows.append(ClipRow(name, f"{name}.mp4", tuple(map(Caption, captions))))
    return FileClips(rows, tmp_path)


def seen(clips, epoch: int) -> list[tuple[str, str]]:
    dataset = ClipDataset(clips, SHAPE, seed=0)
    samples = [dataset[SampleKey(index, epoch, index)] for index in range(len(clips))]
    texts = [decode_tokens(s.tokens_L[: int(s.text_mask_L.sum())].tolist()) for s in samples]
    return list(zip(clips.ids(), texts, strict=True))


def test_each_caption_is_seen_once_an_epoch(clips):
    every = CaptionClips(clips)
    expected = Counter((name, caption) for name, captions in CAPTIONS.items() for caption in captions)
    for epoch in (0, 1):
        assert Counter(seen(every, epoch)) == expected
    assert clips.caption_counts() == [3, 0, 1]
    assert every.caption_counts() == [1, 1, 1, 1]


def test_captions_of_one_clip_share_its_frames_and_its_key(clips):
    dataset = ClipDataset(CaptionClips(clips), SHAPE, seed=0, cache_bytes=2**20)
    first, second, _, other = (dataset.load(index) for index in range(4))
    assert first.frames_TCHW is second.frames_TCHW
    assert first.clip_key == second.clip_key != other.clip_key
    assert first.caption_key != second.caption_key


def test_a_position_among_clips_is_none_among_captions(clips):
    assert CaptionClips(clips).fingerprint != clips.fingerprint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"captions": "every"}, "data.captions is 'every'; expected 'one' or 'all'"),
        ({"captions": "all", "together": 2}, "data.captions is 'all' and data.together 2"),
    ],
)
def test_mistakes_name_the_field(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)
