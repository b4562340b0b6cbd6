"""The graph module against a dense form of its definition, written out over all pairs of patches."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from factories import has_gradient, random_batch, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stoa.models.clip import Clip, image_side
from stoa.models.config import PRESETS, BackboneConfig, GraphConfig
from stoa.models.graph import GraphEncoder, sincos_positions
from stoa.models.graph_attention import band_edges, density, edge_weights, graph_attention

MODES = ("multiply", "log_bias", "mask_only")


def qkv(B=2, H=3, T=4, P=6, D=8, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, H, T, P, D, generator=generator, dtype=dtype, requires_grad=True) for _ in range(3)]


def nodes(B=2, T=4, P=6, h=10, *, dtype=torch.float64, seed=1):
    return torch.randn(B, T, P, h, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.4


def dense(q, k, v, patches, reach, threshold, mode):
    """As the paper says it: weights and mask of all pairs, then attention over all of them."""
    T, P, D = q.shape[2:]
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    unit = patches.flatten(1, 2)
    unit = unit / unit.norm(dim=-1, keepdim=True)
    similarity = unit @ unit.transpose(1, 2)
    frame = torch.arange(T).repeat_interleave(P)
    kept = (similarity >= threshold) & ((frame[:, None] - frame).abs() <= (T if reach is None else reach))
    kept = (kept | torch.eye(T * P, dtype=torch.bool))[:, None]
    logits, similarity = q @ k.transpose(2, 3) / math.sqrt(D), similarity[:, None]
    if mode == "multiply":
        logits = logits * similarity
    elif mode == "log_bias":
        logits = logits + similarity.clamp(min=1e-300).log()
    out = logits.masked_fill(~kept, -math.inf).softmax(dim=-1) @ v
    return out.unflatten(2, (T, P))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reach", [0, 1, None])
def test_weights_of_edges_are_those_that_values_are_summed_with(mode, reach):
    (q, k, v), patches = qkv(), nodes()
    edges = band_edges(patches, reach=reach, threshold=0.3)
    weights = edge_weights(q, k, edges, mode)
    out = torch.stack([w @ v[:, :, e.seen].flatten(2, 3) for w, e in zip(weights, edges, strict=True)], dim=2)
    torch.testing.assert_close(out, dense(q, k, v, patches, reach, 0.3, mode))
    for weight, edge in zip(weights, edges, strict=True):
        assert (weight[(~edge.kept_BPK)[:, None].expand_as(weight)] == 0).all()
        torch.testing.assert_close(weight.sum(dim=-1), torch.ones_like(weight[..., 0]))


@settings(max_examples=40)
@given(
    T=st.integers(1, 5),
    P=st.integers(1, 7),
    reach=st.sampled_from([0, 1, 2, None]),
    threshold=st.sampled_from([-1.0, 0.0, 0.3, 0.9, 1.5]),
    mode=st.sampled_from(MODES),
)
def test_the_band_equals_all_pairs(T, P, reach, threshold, mode):
    q, k, v = qkv(T=T, P=P)
    patches = nodes(T=T, P=P)
    edges = band_edges(patches, reach=reach, threshold=threshold)
    ours = graph_attention(q, k, v, edges, mode)
    theirs = dense(q, k, v, patches, reach, threshold, mode)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=ours.dtype)
    gradients = (torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    q, k, v = qkv(B=1, H=2, T=3, P=2, D=3)
    edges = band_edges(nodes(B=1, T=3, P=2), reach=1, threshold=0.2)
    torch.autograd.gradcheck(lambda *x: graph_attention(*x, edges, mode), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", MODES)
def test_precision(dtype, mode):
    """Cosines are taken in fp32, so that rounding decides no edge; the outputs are as exact as the dtype."""
    q, k, v = qkv(dtype=dtype)
    patches = nodes(dtype=dtype)
    edges = band_edges(patches, reach=1, threshold=0.3)
    assert all(e.similarity_BPK.dtype == torch.float32 for e in edges)
    ours = graph_attention(q, k, v, edges, mode)
    theirs = dense(*(x.double() for x in (q, k, v, patches)), 1, 0.3, mode)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=50 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("T", [1, 2, 3, 8])
def test_the_band_and_its_density(T):
    P = 5
    edges = band_edges(torch.ones(2, T, P, 4), reach=1, threshold=0.5)
    assert [(e.seen.start, e.seen.stop) for e in edges] == [(max(0, t - 1), min(T, t + 2)) for t in range(T)]
    assert density(edges).tolist() == [1.0, 1.0]
    assert sum(e.kept_BPK[0].numel() for e in edges) == (3 * T - 2) * P**2


def test_what_is_kept_for_the_backward_pass_grows_linearly():
    """Every frame behind the first two adds as much as every other one; of all pairs it would be ever more."""

    def kept_bytes(T: int, reach: int | None) -> int:
        kept: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        q, k, v = qkv(B=1, T=T, P=9)
        edges = band_edges(nodes(B=1, T=T, P=9), reach=reach, threshold=0.2)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = graph_attention(q, k, v, edges, "multiply")
            held = sum(kept.values())
        assert out.requires_grad
        return held

    band = [kept_bytes(T, 1) for T in (4, 8, 16, 32)]
    growth = [(b - a) / frames for a, b, frames in zip(band, band[1:], (4, 8, 16), strict=False)]
    assert max(growth) < 1.02 * min(growth)
    assert kept_bytes(32, None) > 3 * kept_bytes(16, None)


def test_edges_go_both_ways_and_to_oneself():
    T, P = 3, 4
    edges = band_edges(nodes(T=T, P=P), reach=1, threshold=0.3)
    whole = torch.zeros(2, T * P, T * P, dtype=torch.bool)
    for frame, e in enumerate(edges):
        whole[:, frame * P : frame * P + P, e.seen.start * P : e.seen.stop * P] = e.kept_BPK
    assert torch.equal(whole, whole.transpose(1, 2))
    assert whole.diagonal(dim1=1, dim2=2).all()
    assert 0.05 < density(edges).mean() < 0.95


def test_a_threshold_above_one_leaves_a_patch_itself():
    q, k, v = qkv()
    edges = band_edges(nodes(), reach=1, threshold=1.01)
    torch.testing.assert_close(graph_attention(q, k, v, edges, "multiply"), v, rtol=0, atol=0)
    assert torch.allclose(density(edges), torch.tensor(4 * 6 / (10 * 36)))


def test_a_patch_of_zeros_is_no_error():
    q, k, v = qkv()
    patches = nodes()
    patches[0, 0, 0] = 0
    for mode in MODES:
        assert graph_attention(q, k, v, band_edges(patches, reach=1, threshold=0.2), mode).isfinite().all()


def test_no_gradient_reaches_the_graph():
    q, k, v = qkv()
    patches = nodes().requires_grad_()
    graph_attention(q, k, v, band_edges(patches, reach=1, threshold=0.2), "multiply").sum().backward()
    assert patches.grad is None and q.grad is not None


def test_positions():
    table = sincos_positions((2, 3), 16)
    assert table.shape == (7, 16)
    assert torch.equal(table[0], torch.zeros(16))
    row, column, i = 1, 2, 3
    place, frequency = table[1 + row * 3 + column], 10000 ** (-i / 4)
    expected = [math.sin(row * frequency), math.cos(row * frequency)]
    expected += [math.sin(column * frequency), math.cos(column * frequency)]
    assert place[i::4].tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="positions is sincos and the vision tower 6 wide; expected a multiple of 4"):
        sincos_positions((2, 2), 6)


def encoder(frames=3, **changes) -> tuple[GraphEncoder, Clip]:
    torch.manual_seed(0)
    clip = Clip(BackboneConfig(name="stoa-tiny"))
    return GraphEncoder(GraphConfig(**{"layers": 1, **changes}), clip.visual, num_frames=frames), clip


def test_rows_and_columns_of_a_grid():
    module, _ = encoder()
    module.grid_hw = (2, 3)
    grid = torch.tensor([[1.0, 2, 3], [6, 5, 4]])
    tokens = torch.cat([torch.tensor([9.0]), grid.flatten()]).view(1, 1, 7, 1)
    assert module._pool(tokens).flatten().tolist() == [9, 6, 5, 4, 3, 6]  # [CLS], columns, rows


def randomised(module: GraphEncoder) -> GraphEncoder:
    """Nothing zero at first, else what passes through it is not seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return module


def dense_module(module: GraphEncoder, tokens_BTSh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole module written out, the graph attention over all pairs of patches."""
    config, T, h = module.config, tokens_BTSh.shape[1], tokens_BTSh.shape[3]
    embedding = module.frame_embedding + module.positions_Sh
    if config.residual:
        size = (tokens_BTSh.square().sum(dim=-1, keepdim=True) / h).sqrt()
        x = tokens_BTSh + 0.3 * size * embedding
    else:
        x = tokens_BTSh + embedding
    for block in module.blocks:
        x = x @ block.proj_fc.weight.T + block.proj_fc.bias
        cls, patches = x[:, :, 0], x[:, :, 1:]
        for _ in range(config.global_repeats):
            cls = block.cross_frame(cls)
        asked = F.layer_norm(patches, (h,), block.ln_graph.weight, block.ln_graph.bias) if config.residual else patches
        attention = block.graph
        qkv = asked @ attention.in_proj_weight.T + attention.in_proj_bias
        q, k, v = (
            part.unflatten(-1, (attention.heads, -1)).permute(0, 3, 1, 2, 4) for part in qkv.split(h, dim=-1)
        )  # (B, H, T, P, D)
        seen = dense(q, k, v, patches, config.reach, config.threshold, config.edge_mode)
        seen = seen.permute(0, 2, 3, 1, 4).flatten(3) @ attention.out_proj.weight.T + attention.out_proj.bias
        patches = patches + seen if config.residual else seen
        x = torch.cat([cls[:, :, None], patches], dim=2)
        x = torch.stack([block.spatial(x[:, t]) for t in range(T)], dim=1)
    rows, columns = module.grid_hw
    grid = x[:, :, 1:].unflatten(2, module.grid_hw)
    pooled = [x[:, :, 0], *(grid[:, :, :, c].amax(dim=2) for c in range(columns))]
    out = torch.stack([*pooled, *(grid[:, :, r].amax(dim=2) for r in range(rows))], dim=2)
    mean = sum(out[:, t] for t in range(T)) / T
    out = torch.stack([out[:, t] + config.contrast * (out[:, t] - mean) for t in range(T)], dim=1)
    out = F.layer_norm(out, (h,), module.ln_out.weight, module.ln_out.bias)
    if not config.residual:
        mixing, norm = module.between
        out = F.layer_norm(out @ mixing.weight.T, (h,), norm.weight, norm.bias)
    mean = sum(out[:, t, 0] for t in range(T)) / T
    return (out @ module.proj.weight.T).flatten(1, 2), module.gate * (mean @ module.pooled_proj.weight.T)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reach": 0},
        {"reach": 2, "threshold": 0.3},
        {"reach": None, "threshold": -1.0, "edge_mode": "mask_only"},
        {"edge_mode": "log_bias"},
        {"threshold": 1.5},
        {"layers": 2, "tap_from_top": 2},
        {"contrast": 3.0},
        {"residual": False, "positions": "random", "global_repeats": 2},
        {"residual": False, "positions": "random", "edge_mode": "log_bias", "reach": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("frames", [1, 4])
def test_the_whole_module_equals_its_dense_form(changes, frames):
    module, _ = encoder(frames=frames, **{"threshold": 0.1, **changes})
    module = randomised(module.double())
    tokens = torch.randn(2, frames, 17, 48, dtype=torch.float64) + 0.3
    with torch.no_grad():
        ours, (theirs, pooled) = module(tokens), dense_module(module, tokens)
    torch.testing.assert_close(ours.tokens_BRd, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.pooled_Bd, pooled, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "change", [{"reach": 0}, {"threshold": 0.9}, {"edge_mode": "mask_only"}, {"contrast": 3.0}], ids=str
)
def test_what_is_asked_of_the_graph_changes_what_comes_out(change):
    """So that none of them can be left unread, by the module and by its dense form alike."""
    tokens = torch.randn(2, 4, 17, 48) + 0.3
    out = []
    for values in ({"threshold": 0.1}, {"threshold": 0.1, **change}):
        module, _ = encoder(frames=4, **values)
        torch.manual_seed(1)
        out.append(randomised(module)(tokens).tokens_BRd)
    assert (out[0] - out[1]).abs().max() > 0.01


@pytest.mark.parametrize(("residual", "rms"), [(True, 2**-0.5), (False, 0.02)])
def test_random_positions_weigh_as_much_as_fixed_ones(residual, rms):
    """In the form of ours; the release's are as small as it has them."""
    module, _ = encoder(residual=residual, positions="random")
    assert module.positions_Sh.square().mean().sqrt() == pytest.approx(rms, rel=0.05)
    assert encoder()[0].positions_Sh[1:].square().mean().sqrt() == pytest.approx(2**-0.5)


@pytest.mark.parametrize(("pool", "tokens"), [("rowcol", 9), ("mean", 2), ("none", 17)])
@pytest.mark.parametrize("residual", [True, False])
def test_shapes_and_gradients_of_the_module(pool, tokens, residual):
    module, clip = encoder(pool=pool, residual=residual, positions="sincos" if residual else "random")
    assert module.config.tokens_of_frame(clip.visual.grid_hw) == tokens
    x = torch.randn(2, 3, 17, 48, requires_grad=True)
    out = module(x)
    assert out.tokens_BRd.shape == (2, 3 * tokens, 32)
    assert torch.equal(out.pooled_Bd, torch.zeros(2, 32))
    (out.tokens_BRd.square().sum() + out.pooled_Bd.sum()).backward()
    assert x.grad.abs().sum() > 0 and module.gate.grad.abs() > 0


def test_a_fresh_module_leaves_what_clip_says():
    """Without embeddings its [CLS] tokens are those that the last block of the tower makes of the same input."""
    module, clip = encoder()
    with torch.no_grad():
        module.frame_embedding.zero_()
        module.positions_Sh.zero_()
        frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
        cls_BTd, tapped = clip.encode_frames(frames, frozenset({1}))
        ours = module(tapped[1].unflatten(0, (2, 3))).tokens_BRd.unflatten(1, (3, -1))[:, :, 0]
    torch.testing.assert_close(ours, cls_BTd, rtol=1e-4, atol=1e-5)


def test_it_starts_from_a_tower_that_is_loaded_later():
    module, _ = encoder()
    torch.manual_seed(7)
    loaded = Clip(BackboneConfig(name="stoa-tiny")).visual
    module.start_from(loaded)
    fresh = GraphEncoder(module.config, loaded, num_frames=3).state_dict()
    for name, value in module.state_dict().items():
        if name != "frame_embedding" and ".graph.in_proj" not in name:  # which are random
            assert torch.equal(value, fresh[name]), name


def test_the_released_form_passes_nothing_by():
    """Without a residual nothing of a patch is left where it attends to others alone."""
    module, _ = encoder(residual=False, positions="random", global_repeats=2)
    block = module.blocks[0]
    with torch.no_grad():
        block.graph.out_proj.weight.zero_()
        block.graph.out_proj.bias.zero_()
        block.spatial = torch.nn.Identity()
        x, _ = block(torch.randn(1, 3, 17, 48))
    assert torch.equal(x[:, :, 1:], torch.zeros(1, 3, 16, 48)) and x[:, :, 0].abs().sum() > 0


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_the_cls_tokens_pass_their_block_again(repeats):
    module, _ = encoder(residual=False, positions="random", global_repeats=repeats)
    block = module.blocks[0]
    tokens = torch.randn(1, 3, 17, 48)
    with torch.no_grad():
        expected = block.proj_fc(tokens[:, :, 0])
        for _ in range(repeats):
            expected = block.cross_frame(expected)
        block.spatial = torch.nn.Identity()
        torch.testing.assert_close(block(tokens)[0][:, :, 0], expected)


def test_layers_follow_each_other_and_draw_edges_anew():
    """Each starts from the vision block that would come next, the last one again where there are no more."""
    module, clip = encoder(layers=3, tap_from_top=2)
    sources = [clip.visual.blocks[index] for index in (0, 1, 1)]
    for block, source in zip(module.blocks, sources, strict=True):
        assert all(torch.equal(block.spatial.state_dict()[k], v) for k, v in source.state_dict().items())
    tokens = torch.randn(2, 3, 17, 48)
    with torch.no_grad():
        x_BTSh, densities = module._embed(tokens), []
        for block in module.blocks:
            x_BTSh, edges = block(x_BTSh)
            densities.append(density(edges))
        out = module(tokens)
    assert torch.equal(out.density_B, densities[-1]) and not torch.equal(densities[0], densities[-1])
    torch.testing.assert_close(out.tokens_BRd, module.proj(module.ln_out(module._pool(x_BTSh))).flatten(1, 2))


def graph_model(**changes):
    return tiny_model(graph=GraphConfig(**{"layers": 1, **changes}), num_frames=3)


@pytest.mark.parametrize(("from_top", "unused"), [(0, 2), (1, 1), (2, 0)])
def test_the_graph_reads_the_block_that_is_asked_for(from_top, unused):
    """No gradient of its tokens comes to the blocks above the tap, nor, detached, to any."""
    batch = random_batch(2, frames=3)
    for detach in (False, True):
        model = graph_model(tap_from_top=from_top, detach_tap=detach)
        model.group(model.encode_video(batch), "graph").square().sum().backward()
        reached = [has_gradient(block.mlp.c_fc.weight) for block in model.clip.visual.blocks]
        depth = 0 if detach else 2 - from_top
        assert reached == [True] * depth + [False] * (2 - depth)


def test_a_fresh_graph_changes_no_retrieval():
    plain, model, batch = tiny_model(num_frames=3), graph_model(), random_batch(4, frames=3)
    model.clip.load_state_dict(plain.clip.state_dict())
    torch.testing.assert_close(model.encode_video(batch).pooled_Bd, plain.encode_video(batch).pooled_Bd)
    assert model.config.group_sizes["graph"] == 3 * 9 == model.group(model.encode_video(batch), "graph").shape[1]


def test_a_graph_token_sees_the_order_of_frames():
    model = graph_model()
    batch = random_batch(8, frames=3)
    turned = replace(batch, frames_BTCHW=batch.frames_BTCHW.flip(1))
    with torch.no_grad():
        a, b = (model.group(model.encode_video(x), "graph").unflatten(1, (3, 9)) for x in (batch, turned))
    b = b.flip(1)  # the same picture in the same place
    assert (a - b).norm() / (a - a.roll(1, 0)).norm() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": -1}, "model.graph.layers is -1; expected at least 0"),
        ({"contrast": -1.0}, "model.graph.contrast is -1.0; expected at least 0"),
        ({"reach": -2}, "model.graph.reach is -2; expected 0 or more, or null for all frames"),
        ({"global_repeats": 0}, "model.graph.global_repeats is 0; expected at least 1"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        GraphConfig(**changes)


def test_a_grid_that_is_not_square(monkeypatch):
    """The model works on it; data do not come in that shape, which is told before any is read."""
    wide = copy.deepcopy(PRESETS["stoa-tiny"])
    wide["vision_cfg"]["image_size"] = (32, 48)
    monkeypatch.setitem(PRESETS, "stoa-wide", wide)
    backbone = BackboneConfig(name="stoa-wide")
    model = tiny_model(backbone=backbone, graph=GraphConfig(layers=1))
    assert model.config.group_sizes["graph"] == 2 * (1 + 4 + 6)
    frames_BTCHW = torch.randint(0, 256, (2, 2, 3, 32, 48), dtype=torch.uint8)
    video = model.encode_video(replace(random_batch(2), frames_BTCHW=frames_BTCHW))
    assert model.group(video, "graph").shape == (2, 22, 32)
    with pytest.raises(ValueError, match="'stoa-wide' sees frames of 32 x 48 pixels and data are prepared as squares"):
        image_side(backbone)


def test_a_tap_that_is_not_there():
    with pytest.raises(ValueError, match="model.graph.tap_from_top is 3; stoa-tiny has 2 vision blocks"):
        graph_model(tap_from_top=3)
    assert tiny_config().group_sizes.keys() == {"frames", "pooled", "objects", "actions"}
