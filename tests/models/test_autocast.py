"""What is said to be at least fp32 is so under autocast, which lowers the products of matrices."""

import pytest
import torch
from torch.nn import functional as F

from stoa.models.actions import gather_actions
from stoa.models.graph_attention import band_edges
from stoa.models.objects import Boxes
from stoa.objectives.alignment import alignment_loss
from stoa.objectives.config import CsalConfig
from stoa.objectives.contrast import AllRows, Repeats
from stoa.objectives.matching import Columns, Match, match_probabilities
from stoa.objectives.vtc import csal_loss, similarities

COLUMNS = Columns(torch.arange(3).expand(2, 3), torch.tensor([3, 2]))


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def scores():
    return similarities(rows(4, 8), rows(4, 9)[:, :8], torch.tensor([4.0]), torch.arange(4), torch.arange(4))


def action_tokens():
    boxes = Boxes(rows(1, 2, 3, 8), torch.ones(1, 2, 3).bool(), rows(1, 2, 3, 8))
    return gather_actions(30 * rows(2, 8), 30 * rows(1, 2, 5, 8), boxes)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: scores().video_to_text_BA,
        lambda: scores().text_to_video_BA,
        lambda: csal_loss(scores(), CsalConfig(share=1.0))[0],
        action_tokens,
        lambda: band_edges(rows(1, 3, 4, 8), reach=1, threshold=0.1)[1].similarity_BPK,
        lambda: match_probabilities(rows(2, 4, 8), rows(2, 3, 8), COLUMNS),
        lambda: alignment_loss(
            *(rows(2, 2, 8), rows(2, 3, 8), Match(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 2).bool()), COLUMNS),
            "nce_both",
            Repeats(torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.eye(2).bool()),
            AllRows(rows(2, 2, 8), torch.ones(2, 2).bool()),
        )[0],
    ],
    ids=["video to text", "text to video", "csal", "actions", "graph", "matching", "nce"],
)
def test_it_is_the_same_as_without(compute):
    expected = compute()
    with torch.autocast("cpu", torch.bfloat16):
        assert (F.linear(rows(2, 8), rows(2, 8))).dtype == torch.bfloat16
        found = compute()
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
