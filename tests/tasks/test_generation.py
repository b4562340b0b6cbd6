"""Generation against passes over the whole text, and against search written out."""

import itertools

import pytest
import torch
from factories import END, START, USED, WORDS, fuse, grounded, random_batch, tiny_model

from stoa.models.incremental import IncrementalText
from stoa.objectives.masks import prefix_mask
from stoa.objectives.plm import blanks_pass
from stoa.tasks.config import GenerationConfig
from stoa.tasks.generation import generate, generate_captions

L = 8


@pytest.fixture(params=["one_pass", "two_stream"])
def form(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["attention alone", "grounding"])
def model(request):
    return sharp(tiny_model(max_tokens=L, **grounded(request.param)).double().eval())


def sharp(model):
    """Random weights say the same at every step; this makes them say different things."""
    with torch.no_grad():
        model.lm_head.bias.normal_(std=0.5)
        model.lm_head.dense.weight.mul_(8)
        model.clip.token_embedding.weight.mul_(20)
        model.fusion.text_positions.mul_(20)
    return model


def logits_by_whole_passes(model, video, tokens_BL, mask_BL, lengths_B, form):
    """(B, L, V): what follows each position, from one pass over the whole text."""
    text = model.encode_text(tokens_BL, mask_BL)
    if form == "one_pass":
        _, rows_BLw = fuse(model, video.tokens_BGd, text.tokens_BLd, prefix_mask(mask_BL, lengths_B, video.valid_BG))
    else:
        wanted_BL = torch.arange(1, mask_BL.shape[1] + 1).remainder(mask_BL.shape[1]).expand_as(mask_BL)
        rows_BLw = model.fused(
            blanks_pass(model, video.tokens_BGd, video.valid_BG, text.tokens_BLd, mask_BL, wanted_BL)
        )
    return model.language_logits(rows_BLw, model.language_table())


@torch.no_grad()
def test_token_by_token_equals_the_whole_text(model, form):
    batch = random_batch(3, max_tokens=L, lengths=[8, 6, 7])
    video, prefix_B = model.encode_video(batch), torch.tensor([1, 3, 2])
    whole = logits_by_whole_passes(model, video, batch.tokens_BL, batch.text_mask_BL, prefix_B, form)
    state = IncrementalText(model, video, batch.tokens_BL[:, :3], prefix_B, form)
    rows = torch.arange(3)
    for step in range(4):
        position_B = prefix_B - 1 + step
        ours = state.next_token_logits(batch.tokens_BL[rows, position_B], position_B)
        inside = position_B < batch.text_mask_BL.sum(dim=1) - 1
        assert inside.any()
        torch.testing.assert_close(ours[inside], whole[rows, position_B][inside], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_beams_may_be_reordered_at_any_time(model, form):
    batch = random_batch(2, max_tokens=L, lengths=[8, 8])
    video, ones = model.encode_video(batch), torch.ones(2, dtype=torch.int64)
    state = IncrementalText(model, video, batch.tokens_BL[:, :1], ones, form)
    state.repeat(2)
    tokens = torch.tensor(
        [[START, 320, 321, 322], [START, 330, 331, 332], [START, 340, 341, 342], [START, 350, 351, 352]]
    )
    history = tokens.clone()
    for position in range(4):
        logits = state.next_token_logits(history[:, position], torch.full((4,), position))
        swap = torch.tensor([1, 0, 3, 3])
        state.reorder(swap)
        history, logits = history[swap], logits[swap]
    mask = torch.arange(L) < 5
    padded = torch.cat([history, torch.zeros(4, L - 4, dtype=torch.int64)], dim=1)
    twice = type(video)(*(x.repeat_interleave(2, dim=0) for x in video))
    whole = logits_by_whole_passes(model, twice, padded, mask.expand(4, L), torch.ones(4, dtype=torch.int64), form)
    torch.testing.assert_close(logits, whole[:, 3], rtol=1e-10, atol=1e-10)


class Slow:
    """Search with a pass over the whole text for every word, one clip at a time, in plain Python."""

    def __init__(self, model, video, clip, prefix, form):
        self.model, self.form, self.prefix = model, form, prefix
        self.video = type(video)(*(x[clip : clip + 1] for x in video))

    def log_probs(self, said):
        tokens = torch.tensor([[*self.prefix, *said]])
        n = tokens.shape[1]
        tokens = torch.cat([tokens, torch.zeros(1, L - n, dtype=torch.int64)], dim=1)
        mask = (torch.arange(L) < n + (self.form == "two_stream"))[None]
        logits = logits_by_whole_passes(
            self.model, self.video, tokens, mask, torch.tensor([len(self.prefix)]), self.form
        )[0, n - 1]
        logits[USED.index(START)] = -torch.inf
        if not said:
            logits[USED.index(END)] = -torch.inf
        return dict(zip(USED, logits.log_softmax(dim=0).tolist(), strict=True))

    def greedy(self, room):
        said = []
        while len(said) < room - 1:
            scores = self.log_probs(said)
            best = max(scores, key=scores.get)
            if best == END:
                break
            said.append(best)
        return said

    def beam(self, beams, penalty, room):
        alive, finished = [(0.0, [])], []
        for _ in range(room - 1):
            grown = [
                (score + more, [*said, word]) for score, said in alive for word, more in self.log_probs(said).items()
            ]
            grown = sorted(grown, reverse=True)[: 2 * beams]
            finished += [(s / len(said) ** penalty, said[:-1]) for s, said in grown[:beams] if said[-1] == END]
            alive = [(s, said) for s, said in grown if said[-1] != END][:beams]
        finished += [(s / max(1, len(said)) ** penalty, said) for s, said in alive]
        return max(finished)[1]


@torch.no_grad()
@pytest.mark.parametrize("prefix_lengths", [[1, 1, 1], [1, 4, 3]])
def test_greedy_search(model, form, prefix_lengths):
    batch = random_batch(3, max_tokens=L, lengths=[8, 8, 8])
    video, lengths = model.encode_video(batch), torch.tensor(prefix_lengths)
    ours = generate(model, video, batch.tokens_BL[:, :4], lengths, GenerationConfig(beams=1), form)
    expected = [
        Slow(model, video, b, batch.tokens_BL[b, :n].tolist(), form).greedy(L - n) for b, n in enumerate(prefix_lengths)
    ]
    assert ours == expected
    assert any(ours)


@torch.no_grad()
@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search(model, form, beams, penalty):
    prefix_lengths = [1, 4, 3]
    batch = random_batch(3, max_tokens=L, lengths=[8, 8, 8])
    video, lengths = model.encode_video(batch), torch.tensor(prefix_lengths)
    config = GenerationConfig(beams=beams, length_penalty=penalty)
    ours = generate(model, video, batch.tokens_BL[:, :4], lengths, config, form)
    for b, n in enumerate(prefix_lengths):
        slow = Slow(model, video, b, batch.tokens_BL[b, :n].tolist(), form)
        assert ours[b] == slow.beam(beams, penalty, L - n)


@torch.no_grad()
def test_enough_beams_find_the_best_of_all_texts():
    used = [320, 321, START, END]
    model = tiny_model(max_tokens=6)
    torch.manual_seed(0)
    model = sharp(type(model)(model.config, used_token_ids=used).double().eval())
    video = model.encode_video(random_batch(1, max_tokens=6))
    ours = generate(
        model,
        video,
        torch.tensor([[START]]),
        torch.tensor([1]),
        GenerationConfig(beams=16, length_penalty=0.8),
        "one_pass",
    )

    def score(said):
        tokens = torch.tensor([[START, *said, END]])
        text = model.encode_text(tokens, torch.ones_like(tokens).bool())
        mask = prefix_mask(torch.ones_like(tokens).bool(), torch.tensor([1]), video.valid_BG)
        _, rows = fuse(model, video.tokens_BGd, text.tokens_BLd, mask)
        logits = model.language_logits(rows, model.language_table())[0]
        logits[:, used.index(START)] = -torch.inf
        logits[0, used.index(END)] = -torch.inf
        log_probs = logits.log_softmax(dim=-1)
        # A text of four words has no room for an end and is not charged for one.
        words = [*said, END] if len(said) < 4 else [*said]
        return sum(float(log_probs[i, used.index(w)]) for i, w in enumerate(words)) / len(words) ** 0.8

    texts = [list(t) for n in range(1, 5) for t in itertools.product(used[:2], repeat=n)]
    assert ours[0] == max(texts, key=score)


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch(model, form):
    batch = random_batch(4, max_tokens=L)
    video = model.encode_video(batch)
    config = GenerationConfig(beams=3)
    together = generate_captions(model, video, config, form)
    apart = [generate_captions(model, type(video)(*(x[b : b + 1] for x in video)), config, form)[0] for b in range(4)]
    assert together == apart


@torch.no_grad()
def test_lengths_are_limited(model, form):
    with torch.no_grad():
        model.lm_head.bias[USED.index(END)] = -1e4  # never ends by itself
    video = model.encode_video(random_batch(2, max_tokens=L))
    start, ones = torch.full((2, 1), START), torch.ones(2, dtype=torch.int64)
    for beams in (1, 3):
        whole = generate(model, video, start, ones, GenerationConfig(beams=beams), form)
        assert [len(said) for said in whole] == [L - 2, L - 2]
        short = generate(model, video, start, ones, GenerationConfig(beams=beams, max_new_tokens=3), form)
        assert [len(said) for said in short] == [2, 2]
        assert all(set(said) <= set(WORDS) for said in whole + short)


@torch.no_grad()
def test_a_text_has_a_word_where_there_is_room_for_one(model, form):
    """To a question unlike those it has learned a model may find the end likeliest: that is no answer."""
    model.lm_head.bias[USED.index(END)] = 1e4
    video = model.encode_video(random_batch(2, max_tokens=L))
    prefix = torch.tensor([[START] + [WORDS[0]] * (L - 2)] * 2)
    for beams in (1, 3):
        for length in (1, L - 2, L - 1):
            said = generate(model, video, prefix, torch.tensor([length] * 2), GenerationConfig(beams=beams), form)
            assert [len(words) for words in said] == [min(1, L - 1 - length)] * 2


def test_full_vocabulary_and_text():
    model = tiny_model(lm_vocab="full").eval()
    captions = generate_captions(model, model.encode_video(random_batch(2)), GenerationConfig(beams=2), "one_pass")
    assert len(captions) == 2 and all(isinstance(caption, str) for caption in captions)


@pytest.mark.parametrize("values", [{"beams": 0}, {"length_penalty": -1.0}, {"max_new_tokens": 1}])
def test_bad_settings_are_named(values):
    with pytest.raises(ValueError, match=f"generation.{next(iter(values))} is"):
        GenerationConfig(**values)
