"""VideoTextBatch says what is wrong with it, and shows shapes."""

import dataclasses

import pytest
import torch
from factories import random_batch


def test_it_prints_shapes_not_tensors():
    text = repr(random_batch(3))
    assert "frames_BTCHW=(3, 2, 3, 32, 32)" in text
    assert "tensor(" not in text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("frames_BTCHW", torch.zeros(3, 2, 3, 32, 32), "frames_BTCHW is .* torch.float32; expected .* torch.uint8"),
        ("tokens_BL", torch.zeros(3, 12, dtype=torch.int32), "tokens_BL is .* torch.int32; expected .* torch.int64"),
        ("text_mask_BL", torch.ones(2, 12, dtype=torch.bool), r"text_mask_BL is \(2, 12\)"),
        ("position_B", torch.zeros(4, dtype=torch.int64), r"position_B is \(4,\)"),
        ("labels_BTK", torch.zeros(3, 2, dtype=torch.int64), "must have 5, 2 and 3 dimensions"),
    ],
)
def test_a_wrong_field_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(random_batch(3), **{field: value})


def test_moving_keeps_every_field():
    batch = random_batch(2)
    moved = batch.to("cpu", non_blocking=True)
    for f in dataclasses.fields(batch):
        assert torch.equal(getattr(batch, f.name), getattr(moved, f.name)), f.name
    assert len(moved) == 2
