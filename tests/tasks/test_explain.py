"""What an explanation says is what the model does: each number is computed here in another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from explained import ABILITIES, explained, first_row, untrained_model
from torch.nn import functional as F

from stoa.api import Model
from stoa.data.text import encode_caption, tokenizer
from stoa.manifest import Caption
from stoa.models.config import ActionConfig, GraphConfig, ObjectConfig
from stoa.objectives.plm import next_word_pass
from stoa.tasks.explain import clip_of_row, explain
from stoa.tasks.inputs import read_inputs
from stoa.tasks.tagging import TaggedCaption
from stoa.tasks.taps import EDGES, calls, seen_of_clip


@pytest.fixture(scope="module")
def trained(shapes):
    return untrained_model(shapes)


@pytest.fixture(scope="module")
def found(trained, shapes):
    return explained(trained, shapes)


@pytest.fixture(scope="module")
def batch(trained, shapes):
    config = trained.model.config
    (read,) = read_inputs([clip_of_row(first_row(shapes), shapes)], config, trained.side, batch_size=1, num_workers=0)
    return read.batch


def test_tracks_and_words(found, shapes):
    assert found.frames_TSS3.shape == (4, 32, 32, 3)
    assert 1 <= len(found.tracks) <= 6
    assert all(len(track.boxes) == 4 and sum(map(len, track.boxes)) > 0 for track in found.tracks)
    caption = first_row(shapes).captions[0]
    assert found.caption == caption.text
    assert "".join(word.text for word in found.words) == caption.text.replace(" ", "")
    nouns, verbs = ([caption.text[s:e] for s, e in spans] for spans in (caption.nouns, caption.verbs))
    for matches, words in (
        ([track.matched for track in found.tracks], nouns),
        ([action.matched for action in found.actions], verbs),
    ):
        said = [m for m in matches if m is not None]
        assert len(said) == min(len(matches), len(words) + 1)
        assert all(m.word in words and found.words[m.index].text == m.word for m in said if m.word is not None)
        assert all(0 < m.probability <= 1 and -1 <= m.cosine <= 1 for m in said)
        assert len({m.index for m in said}) == len(said)


def test_words_are_those_of_the_map_to_words(shapes):
    """A map that makes all trajectories alike gives every word one probability; over all words they sum to 1."""
    trained = untrained_model(shapes)

    def sum_of_matches() -> float:
        matched = [track.matched for track in explained(trained, shapes).tracks]
        assert None in matched  # no word is without a trajectory
        return sum(match.probability for match in matched if match is not None)

    before = sum_of_matches()
    width = trained.model.clip.joint_width
    trained.model.word_head = torch.nn.Linear(width, width)
    torch.nn.init.zeros_(trained.model.word_head.weight)
    assert sum_of_matches() == pytest.approx(1, abs=1e-5) != pytest.approx(before, abs=1e-3)


def test_attention_is_what_the_action_tokens_gather(trained, batch, found):
    """Values recomputed with the weights that are shown are what the module has gathered."""
    model = trained.model
    with torch.inference_mode(), calls(model.actions) as own, calls(model.actions.ln_gathered) as gathered:
        seen = seen_of_clip(model, batch)
    tokens_BTSh, boxes = own[0].inputs
    patches_MTP = torch.from_numpy(seen.patches_MTYX).flatten(2)
    values = torch.einsum("mtp,tph->tmh", patches_MTP, tokens_BTSh[0, :, 1:])
    values += torch.einsum("mtk,tkh->tmh", torch.from_numpy(seen.boxes_MTK), boxes.features_BTKh[0])
    torch.testing.assert_close(values, gathered[0].inputs[0][0])
    assert patches_MTP.std(dim=2).min() > 0
    for m, action in enumerate(found.actions):
        np.testing.assert_allclose(action.attention_TYX, seen.patches_MTYX[m], rtol=1e-5)
        of_frames = zip(action.attention_TYX, action.box_shares, strict=True)
        sums = [patches.sum() + of_boxes.sum() for patches, of_boxes in of_frames]
        assert sums == pytest.approx([1] * 4, abs=1e-5)
        assert [len(boxes) for boxes in action.boxes] == [len(shares) for shares in action.box_shares]
        assert action.most == pytest.approx(max(seen.patches_MTYX[m].max(), seen.boxes_MTK[m].max()), rel=1e-5)


def test_without_boxes_all_attention_is_on_patches(shapes):
    found = explained(untrained_model(shapes, objects=ObjectConfig(num_trajectories=0)), shapes)
    assert found.tracks == [] and len(found.actions) == 3
    for action in found.actions:
        np.testing.assert_allclose(action.attention_TYX.sum(axis=(1, 2)), 1, rtol=1e-5)
        assert all(len(shares) == 0 for shares in action.box_shares)


@pytest.mark.parametrize("mode", ["multiply", "log_bias", "mask_only"])
def test_edges_are_those_of_the_last_layer(shapes, batch, mode):
    """The weights of the strongest edges, by attention over all pairs of patches as the module's own output has it."""
    trained = untrained_model(shapes, graph=GraphConfig(layers=2, edge_mode=mode, threshold=0.3, reach=1))
    torch.nn.init.normal_(trained.model.graph.blocks[-1].graph.out_proj.weight)
    block = trained.model.graph.blocks[-1]
    with torch.inference_mode(), calls(block) as whole, calls(block.graph) as attended:
        graph = seen_of_clip(trained.model, batch).graph
        x_1Sh, out = attended[0].inputs[0], attended[0].output
        q, k, v = F.linear(x_1Sh, block.graph.in_proj_weight, block.graph.in_proj_bias)[0].chunk(3, dim=-1)
        q, k, v = (x.unflatten(-1, (block.graph.heads, -1)).transpose(0, 1) for x in (q, k, v))
        nodes = F.normalize(block.proj_fc(whole[0].inputs[0])[0, :, 1:].flatten(0, 1), dim=-1)
        cosine = nodes @ nodes.T
        T, P = 4, cosine.shape[0] // 4
        frame = torch.arange(T).repeat_interleave(P)
        kept = ((cosine >= 0.3) | torch.eye(T * P, dtype=torch.bool)) & ((frame - frame[:, None]).abs() <= 1)
        logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        logits = logits * cosine if mode == "multiply" else logits
        logits = logits + cosine.clamp(min=1e-30).log() if mode == "log_bias" else logits
        weights = logits.masked_fill(~kept, -torch.inf).softmax(dim=-1)
        torch.testing.assert_close(block.graph.out_proj((weights @ v).transpose(0, 1).flatten(1)), out[0])
    mean = weights.mean(dim=0).fill_diagonal_(-1).masked_fill(~kept, -1)
    np.testing.assert_allclose(
        graph.weights_TPE.reshape(T * P, -1), mean.topk(EDGES).values.clamp(min=0).numpy(), atol=1e-6
    )
    targets = torch.from_numpy(graph.targets_TPE).flatten(0, 1).long()
    assert ((targets >= 0) == (mean.topk(EDGES).values >= 0)).all() and (targets >= 0).any()
    there = targets >= 0
    chosen = torch.from_numpy(graph.cosines_TPE).flatten(0, 1)
    torch.testing.assert_close(chosen[there], cosine.gather(1, targets.clamp(min=0))[there])
    assert graph.density == pytest.approx(float(kept.sum() / ((frame - frame[:, None]).abs() <= 1).sum()))


@pytest.mark.parametrize("form", ["one_pass", "two_stream"])
def test_likelihood_of_words_is_that_of_shorter_texts(trained, shapes, batch, form):
    """Each by a text that ends before the word."""
    found = explained(trained, shapes, ABILITIES._replace(plm_form=form))
    model, config = trained.model, trained.model.config
    ids = encode_caption(Caption(found.caption), config.max_tokens)
    tokens_BL = torch.from_numpy(ids.tokens_L)[None]
    likelihoods = [1.0]
    with torch.inference_mode():
        video = model.encode_video(batch)
        for place in range(1, int(ids.text_mask_L.sum()) - 1):
            shorter = tokens_BL.clone()
            shorter[:, place:] = 0
            mask_BL = torch.arange(config.max_tokens)[None] < place + (form == "two_stream")
            text = model.encode_text(shorter, mask_BL)
            start = torch.ones(1, dtype=torch.long)
            asked = next_word_pass(model, video.tokens_BGd, video.valid_BG, text.tokens_BLd, mask_BL, start, form)
            logits_V = model.language_logits(model.fused(asked)[0, place - 1], model.language_table())
            likelihoods[-1] *= float(logits_V.softmax(dim=0)[model.lm_head.targets(tokens_BL[0, place])])
            if tokenizer().decoder[int(tokens_BL[0, place])].endswith("</w>"):
                likelihoods.append(1.0)
    assert "counterclockwise" in found.caption  # which is of two pieces
    assert [word.likelihood for word in found.words] == pytest.approx(likelihoods[:-1], rel=1e-3)


def test_match_and_cosine_are_those_of_the_model(trained, found, shapes):
    model, clip = Model(trained, ABILITIES), clip_of_row(first_row(shapes), shapes)
    assert found.match == pytest.approx(float(model.match([clip], found.caption)[0]), abs=1e-5)
    cosine = float(model.embed_video(clip) @ model.embed_text(found.caption))
    assert found.cosine == pytest.approx(cosine, abs=1e-5)


def test_a_caption_from_outside_is_explained_alike(trained, found, shapes):
    """Of a text of Moving Shapes its words tell what the manifest does."""
    model, clip = Model(trained, ABILITIES), clip_of_row(first_row(shapes), shapes)
    of_text = model.explain(clip, found.caption, class_names=[])
    assert of_text.tagged_by == "from the vocabulary of Moving Shapes"
    assert [track.matched for track in of_text.tracks] == [track.matched for track in found.tracks]
    assert [action.matched for action in of_text.actions] == [action.matched for action in found.actions]
    assert all(track.name.startswith("class ") for track in of_text.tracks)
    assert of_text.clip == clip.video.name
    of_caption = model.explain(clip, first_row(shapes).captions[0])
    assert [track.matched for track in of_caption.tracks] == [track.matched for track in found.tracks]
    of_frames = model.explain(found.frames_TSS3, "a dog runs")
    assert of_frames.clip == "frames" and of_frames.tracks == []
    assert "the model sees no trajectories: no detections were given" in of_frames.notes
    assert {a.matched.word for a in of_frames.actions if a.matched} <= {"a", "dog", "runs", None}
    assert of_frames.words[1].likelihood is None  # no dog is in Moving Shapes


def test_what_was_not_trained_is_said(trained, shapes):
    found = explained(trained, shapes, ABILITIES._replace(losses=["vtc"]))
    assert found.match is None
    assert all(word.likelihood is None for word in found.words)
    row = first_row(shapes)
    nouns = {row.captions[0].text[s:e] for s, e in row.captions[0].nouns}
    for track in found.tracks:
        assert track.matched.probability is None and track.matched.word in nouns
        assert track.matched.strength == f"cos {track.matched.cosine:z.2f}"
    assert [note.split(":")[0] for note in found.notes] == ["trained without OTA", "trained without ASP"]


def test_a_model_without_parts_has_none(shapes):
    bare = {"objects": ObjectConfig(num_trajectories=0), "actions": ActionConfig(num_tokens=0)}
    found = explained(untrained_model(shapes, **bare, graph=GraphConfig(layers=0)), shapes)
    assert found.tracks == found.actions == found.notes == []
    assert found.graph is None
    assert len(found.words) > 3


def test_a_caption_that_is_too_long_is_said(shapes):
    trained = untrained_model(shapes, max_tokens=6)
    found = explained(trained, shapes)
    assert len(found.words) == 4
    assert found.notes == ["the model reads 6 text tokens: the first 4 words of the caption"]


def test_a_caption_without_nouns_leaves_the_null(trained, shapes):
    row = first_row(shapes)
    tagged = TaggedCaption(replace(row.captions[0], nouns=(), verbs=(), noun_labels=()), "as given")
    for losses in (None, ["vtc"]):
        found = explain(trained, ABILITIES._replace(losses=losses), clip_of_row(row, shapes), tagged)
        said = [item.matched for item in (*found.tracks, *found.actions) if item.matched is not None]
        assert [match.word for match in said] == ([None, None] if losses is None else [])
