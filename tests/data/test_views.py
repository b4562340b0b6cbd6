"""What the controls get to see."""

import numpy as np
import pytest
import torch
from factories import gray_frames, write_video

from stoa.data.boxes import ClipBoxes, ClipShape
from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset
from stoa.data.views import viewed
from stoa.manifest import Caption, ClipRow


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 4, 4).clone()


@pytest.fixture
def boxes() -> ClipBoxes:
    of_frame = np.arange(6)
    return ClipBoxes(
        boxes_TK4=np.broadcast_to(of_frame[:, None, None], (6, 2, 4)).astype(np.float32),
        labels_TK=np.broadcast_to(of_frame[:, None], (6, 2)).astype(np.int64),
        scores_TK=np.ones((6, 2), np.float32),
        true_labels_TK=np.broadcast_to(of_frame[:, None], (6, 2)).astype(np.int64),
        dropped=3,
    )


def test_whole(frames, boxes):
    assert viewed("whole", frames, boxes, 0) == (frames, boxes)


def test_the_blind_see_nothing(frames, boxes):
    seen, found = viewed("blind", frames, boxes, 0)
    assert not seen.any() and seen.shape == frames.shape
    assert (found.labels_TK == -1).all() and (found.true_labels_TK == -1).all() and not found.scores_TK.any()


def test_one_frame_stands_for_all(frames, boxes):
    seen, found = viewed("one_frame", frames, boxes, 0)
    assert seen[:, 0, 0, 0].tolist() == [3] * 6
    assert found.labels_TK[:, 0].tolist() == [3] * 6


def test_a_shuffle_keeps_boxes_with_their_frames(frames, boxes):
    orders = {tuple(viewed("shuffled", frames, boxes, draw)[0][:, 0, 0, 0].tolist()) for draw in range(20)}
    assert len(orders) > 15 and all(sorted(order) == list(range(6)) for order in orders)
    seen, found = viewed("shuffled", frames, boxes, 7)
    assert found.labels_TK[:, 0].tolist() == seen[:, 0, 0, 0].tolist() == found.boxes_TK4[:, 0, 0].tolist()
    assert torch.equal(viewed("shuffled", frames, boxes, 7)[0], seen)


def test_a_data_set_has_one_view(tmp_path):
    write_video(tmp_path / "a.mp4", gray_frames(8))
    clips = FileClips([ClipRow("a", "a.mp4", (Caption("x"),))], tmp_path)
    shape = ClipShape(num_frames=4, side=32, max_tokens=8, max_boxes=2)
    whole, one = (ClipDataset(clips, shape, seed=0, view=v, cache_bytes=2**20) for v in ("whole", "one_frame"))
    for _ in range(2):  # the second from the cache
        assert torch.equal(one.load(0).frames_TCHW[0], whole.load(0).frames_TCHW[2])
    with pytest.raises(ValueError, match="data.view is 'blind' and data.decoder 'dali'"):
        ClipDataset(clips, shape, seed=0, view="blind", encoded=True)
