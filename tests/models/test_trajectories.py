"""Object features and trajectories: packed equals dense, empty boxes take part in nothing."""

import dataclasses

import pytest
import torch
from factories import fuse, has_gradient, random_batch, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.models.config import ObjectConfig
from stoa.models.layers import masked
from stoa.models.objects import Boxes, TrajectoryEncoder, top_labels, usable_boxes
from stoa.ops import roi_align_max


def dense_trajectories(encoder: TrajectoryEncoder, boxes: Boxes, labels_BTK, labels_BN):
    """The method as the paper puts it: a copy of the box sequence for every trajectory, the others masked."""
    B, N = labels_BN.shape
    features = boxes.features_BTKh.flatten(1, 2)
    S, h = features.shape[1:]
    copies = torch.cat([encoder.cls.expand(B, N, 1, h), features[:, None].expand(B, N, S, h)], dim=2)
    own = labels_BTK.where(boxes.valid_BTK, -1).flatten(1)[:, None] == labels_BN[..., None]
    keys = torch.cat([own.new_ones(B, N, 1), own & (labels_BN >= 0)[..., None]], dim=2)
    x = copies.flatten(0, 1)
    attend = masked(keys.flatten(0, 1)[:, None, None])
    for block in encoder.encoder.blocks:
        x = block(x, attend)
    out = (encoder.encoder.ln_post(x[:, 0]) @ encoder.encoder.proj).view(B, N, -1)
    return out * (labels_BN >= 0)[..., None]


def test_packed_equals_dense_with_the_papers_numbers():
    """20 trajectories of 12 x 10 boxes: 140 tokens in one sequence, or 20 copies of 121."""
    torch.manual_seed(0)
    B, T, K, N = 3, 12, 10, 20
    model = tiny_model(num_frames=T, objects=ObjectConfig(num_trajectories=N, max_boxes=K))
    encoder = model.trajectories
    batch = random_batch(B, frames=T, max_boxes=K, seed=3)
    batch.labels_BTK[0] = torch.where(batch.labels_BTK[0] >= 0, torch.randint(0, 40, (T, K)), -1)  # more than N
    batch.labels_BTK[2] = -1  # none at all
    features = torch.randn(B, T, K, 48, requires_grad=True)
    valid = usable_boxes(batch.boxes_BTK4, batch.labels_BTK)
    boxes = Boxes(features.where(valid[..., None], torch.zeros(())), valid, features.detach())

    packed = encoder(boxes, batch.labels_BTK, batch.scores_BTK)
    assert (packed.labels_BN >= 0).sum(dim=1).tolist() == [20, 5, 0]
    dense = dense_trajectories(encoder, boxes, batch.labels_BTK, packed.labels_BN)
    torch.testing.assert_close(packed.tokens_BNd, dense, atol=1e-5, rtol=1e-5)

    weight = torch.randn_like(dense)
    leaves = {"features": features, **dict(encoder.named_parameters())}
    grads = [
        torch.autograd.grad((x * weight).sum(), leaves.values(), retain_graph=True) for x in (packed.tokens_BNd, dense)
    ]
    for name, a, b in zip(leaves, *grads, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm(), name
    assert grads[0][0].abs().sum() > 0


@settings(max_examples=80)
@given(
    boxes=st.lists(st.tuples(st.integers(-1, 6), st.sampled_from([0.125, 0.25, 0.5, 1.0])), min_size=1, max_size=12),
    wanted=st.integers(1, 14),
)
def test_the_labels_of_highest_summed_score_come_first(boxes, wanted):
    sums: dict[int, float] = {}
    for label, score in boxes:
        if label >= 0:
            sums[label] = sums.get(label, 0.0) + score
    expected = sorted(sums, key=lambda label: (-sums[label], label))[:wanted]
    labels, scores = (torch.tensor([values]) for values in zip(*boxes, strict=True))
    found = top_labels(labels, scores, wanted)[0].tolist()
    assert found == expected + [-1] * (wanted - len(expected))


def test_a_score_that_is_no_number_spoils_its_own_label_alone():
    labels, scores = torch.tensor([[-1, 1, 2, 2, 3]]), torch.tensor([[float("nan"), 0.1, 0.9, 0.9, 0.5]])
    assert top_labels(labels, scores, 3).tolist() == [[2, 3, 1]]


def test_without_any_box_slot_there_is_no_trajectory():
    assert top_labels(torch.zeros(2, 0).long(), torch.zeros(2, 0), 3).tolist() == [[-1] * 3] * 2


def test_an_empty_box_takes_part_in_nothing():
    """Whatever stands in an empty slot, or in a box without extent, changes no output."""
    model, batch = tiny_model(), random_batch(4)
    before = model.encode_video(batch)
    empty = ~usable_boxes(batch.boxes_BTK4, batch.labels_BTK)
    assert empty.any()
    changed = dataclasses.replace(
        batch,
        boxes_BTK4=torch.where(empty[..., None], torch.tensor([0.7, 0.2, 0.7, 0.9]), batch.boxes_BTK4),
        labels_BTK=torch.where(empty, 77, batch.labels_BTK),
        scores_BTK=torch.where(empty, 9.0, batch.scores_BTK),
    )
    after = model.encode_video(changed)
    assert torch.equal(before.tokens_BGd, after.tokens_BGd)
    assert torch.equal(before.trajectory_labels_BN, after.trajectory_labels_BN)
    features = model.objects(torch.randn(8, 16, 48), batch).features_BTKh
    assert torch.equal(features[empty], torch.zeros_like(features[empty]))
    assert (features[~empty] != 0).any(dim=-1).all()


def test_a_box_that_is_there_changes_the_output():
    """The test above would pass on a model that reads no boxes."""
    model, batch = tiny_model(), random_batch(1)
    before = model.encode_video(batch)
    changed = dataclasses.replace(batch, boxes_BTK4=batch.boxes_BTK4 * 0.5)
    after = model.encode_video(changed)
    objects = model.fusion.slot("objects")
    seen = before.valid_BG[0, objects]
    assert seen.any()
    assert not torch.isclose(before.tokens_BGd[0, objects], after.tokens_BGd[0, objects]).all(dim=-1)[seen].any()


def test_missing_trajectories_are_never_keys():
    """What stands in the place of a trajectory that a clip lacks reaches no other token of the fusion encoder."""
    from stoa.objectives.masks import bidirectional_mask

    model, batch = tiny_model(), random_batch(2)
    batch = dataclasses.replace(batch, labels_BTK=torch.full_like(batch.labels_BTK, -1))
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    objects = model.fusion.slot("objects")
    assert not video.valid_BG[:, objects].any()
    assert video.valid_BG.sum(dim=1).tolist() == [2 + 1 + 3] * 2
    noise = video.tokens_BGd.clone()
    noise[:, objects] += 100
    mask = bidirectional_mask(batch.text_mask_BL, video.valid_BG)
    (video_a, text_a), (video_b, text_b) = (fuse(model, x, text.tokens_BLd, mask) for x in (video.tokens_BGd, noise))
    assert torch.equal(text_a, text_b)
    assert torch.equal(video_a[:, :3], video_b[:, :3])
    assert torch.equal(video_a[:, objects.stop :], video_b[:, objects.stop :])


def test_objects_read_the_block_that_is_asked_for():
    """With the default the output of block depth - 2 is pooled; nothing above it reaches the objects."""
    batch = random_batch(2)
    for from_top, unused in ((0, 3), (1, 2), (2, 1)):
        model = tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, tap_from_top=from_top))
        model.group(model.encode_video(batch), "objects").square().sum().backward()
        blocks = model.clip.visual.blocks
        for number, block in enumerate(blocks, start=1):
            assert has_gradient(block.mlp.c_fc.weight) == (number < unused), (from_top, number)
        assert has_gradient(model.clip.visual.conv1.weight)


def test_a_detached_tap_lets_no_gradient_through():
    model = tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, detach_tap=True))
    model.group(model.encode_video(random_batch(2)), "objects").square().sum().backward()
    assert not has_gradient(model.clip.visual.conv1.weight)
    assert has_gradient(model.objects.mlp[0].weight)


def test_encoders_start_as_the_top_of_the_tower():
    model = tiny_model()
    for encoder in (model.trajectories.encoder, model.actions.encoder):
        for own, source in zip(encoder.blocks, model.clip.visual.blocks[-2:], strict=True):
            for name, weight in own.state_dict().items():
                assert torch.equal(weight, source.state_dict()[name]), name
        assert torch.equal(encoder.proj, model.clip.visual.proj)
        assert encoder.proj is not model.clip.visual.proj
    with torch.no_grad():
        model.clip.visual.proj.add_(1)
        model.clip.visual.blocks[-1].ln_1.weight.add_(1)
    model.start_from_towers()
    assert torch.equal(model.actions.encoder.proj, model.clip.visual.proj)
    assert torch.equal(model.trajectories.encoder.blocks[-1].ln_1.weight, model.clip.visual.blocks[-1].ln_1.weight)


@torch.no_grad()
def test_with_residual_a_fresh_token_is_what_the_tower_makes_of_its_boxes():
    """But for the embeddings: the tower's own top, on the mean [CLS] of the frames and the patches under the boxes."""
    objects = ObjectConfig(num_trajectories=4, max_boxes=3, residual=True)
    model, batch = tiny_model(objects=objects), random_batch(4)
    for embedding in (
        *(model.trajectories.cls, model.objects.frame_embedding, model.objects.slot_embedding),
        *(model.objects.ln_box.weight, model.objects.ln_box.bias),
    ):
        embedding.zero_()
    found = model.encode_video(batch)
    tower, frames = model.clip.visual, batch.frames_BTCHW.shape[1]
    _, tapped = model.clip.encode_frames(batch.frames_BTCHW, frozenset({len(tower.blocks) - 2}))
    tokens_BTSh = next(iter(tapped.values())).unflatten(0, (len(batch), frames))
    there_BTK = usable_boxes(batch.boxes_BTK4, batch.labels_BTK)
    pooled_FKh, _ = roi_align_max(
        *(tokens_BTSh.flatten(0, 1)[:, 1:], batch.boxes_BTK4.flatten(0, 1), there_BTK.flatten(0, 1)),
        grid_hw=tower.grid_hw,
    )
    pooled_BTKh = pooled_FKh.unflatten(0, (len(batch), frames))
    for clip, labels_N in enumerate(found.trajectory_labels_BN):
        for number, label in enumerate(labels_N.tolist()):
            token_d = model.group(found, "objects")[clip, number]
            if label < 0:
                assert not token_d.any()
                continue
            own_TK = there_BTK[clip] & (batch.labels_BTK[clip] == label)
            x_1Sh = torch.cat([tokens_BTSh[clip, :, 0].mean(dim=0)[None], pooled_BTKh[clip][own_TK]])[None]
            for block in tower.blocks[-2:]:
                x_1Sh = block(x_1Sh)
            torch.testing.assert_close(token_d, tower.ln_post(x_1Sh[0, 0]) @ tower.proj, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trajectories": -1}, "model.objects.num_trajectories is -1; expected at least 0"),
        ({"max_boxes": 0}, "model.objects.max_boxes is 0 and num_trajectories 20: trajectories are made of boxes"),
        ({"layers": 0}, "model.objects.layers is 0; expected at least 1"),
    ],
)
def test_a_wrong_value_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ObjectConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tap_from_top": 3}, "model.objects.tap_from_top is 3; stoa-tiny has 2 vision blocks, expected 0 to 2"),
        ({"layers": 3}, "model.objects.layers is 3, more than the 2 blocks of the vision tower"),
    ],
)
def test_what_does_not_fit_the_tower_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, **changes))


def test_without_trajectories_no_box_is_read():
    assert tiny_config(objects=ObjectConfig(num_trajectories=0)).num_boxes == 0
    assert tiny_config().num_boxes == 3
