"""Captions and answers, word by word: greedy and beam search with cached keys and values.

Shape legend: B clips, K beams, P tokens of the prefix, L text positions, V vocabulary of the language head.
"""

from __future__ import annotations

import torch

from stoa.data.text import decode_tokens, tokenizer
from stoa.models.config import PlmForm
from stoa.models.incremental import IncrementalText
from stoa.models.video_language import VideoFeatures, VideoLanguageModel
from stoa.tasks.config import GenerationConfig


@torch.inference_mode()
def generate(
    model: VideoLanguageModel,
    video: VideoFeatures,
    prefix_BP: torch.Tensor,
    lengths_B: torch.Tensor,
    config: GenerationConfig,
    form: PlmForm,
) -> list[list[int]]:
    """Continue prefixes.

    Args:
        model: in evaluation mode.
        video: of B clips.
        prefix_BP: int64, token ids, padded behind; a caption's is the start token alone.
        lengths_B: int64, tokens of each prefix; the last of ``max_tokens`` positions is kept for the end token.
        config: the search.
        form: see :class:`IncrementalText`.

    Returns:
        token ids of each clip's best text, without prefix and end token; at least one if there is room for it.
    """
    state = IncrementalText(model, video, prefix_BP, lengths_B, form)
    room_B = model.config.max_tokens - lengths_B
    if config.max_new_tokens is not None:
        room_B = room_B.clamp(max=config.max_new_tokens)
    search = _beam_search if config.beams > 1 else _greedy_search
    last_B = prefix_BP.gather(1, lengths_B[:, None] - 1)[:, 0]
    classes = search(state, last_B, lengths_B - 1, room_B, config)
    used = model.lm_head.used_ids
    return [ids if used is None else used[ids].tolist() for ids in classes]


def generate_captions(
    model: VideoLanguageModel, video: VideoFeatures, config: GenerationConfig, form: PlmForm
) -> list[str]:
    """A caption for each clip of ``video``."""
    B, device = len(video.pooled_Bd), video.pooled_Bd.device
    start_B1 = torch.full((B, 1), tokenizer().sot_token_id, device=device)
    tokens = generate(model, video, start_B1, torch.ones(B, dtype=torch.int64, device=device), config, form)
    return [decode_tokens(ids) for ids in tokens]


def _special_classes(model: VideoLanguageModel) -> tuple[int, int]:
    """(start, end) as the language head counts."""
    ids = torch.tensor([tokenizer().sot_token_id, tokenizer().eot_token_id])
    if model.lm_head.used_ids is not None:
        ids = ids.to(model.lm_head.used_ids.device)
    start, end = model.lm_head.targets(ids).tolist()
    return start, end


def _next_log_probs(
    state: IncrementalText, tokens_R: torch.Tensor, positions_R: torch.Tensor, never: list[int]
) -> torch.Tensor:
    """(R, V) of all classes but those that are never said here."""
    logits_RV = state.next_token_logits(tokens_R, positions_R)
    logits_RV[:, never] = -torch.inf
    return logits_RV.log_softmax(dim=-1)


def _ids(state: IncrementalText, classes: torch.Tensor) -> torch.Tensor:
    used = state.model.lm_head.used_ids
    return classes if used is None else used[classes]


def _greedy_search(
    state: IncrementalText,
    token_B: torch.Tensor,
    position_B: torch.Tensor,
    room_B: torch.Tensor,
    config: GenerationConfig,
) -> list[list[int]]:
    start, end = _special_classes(state.model)
    said: list[torch.Tensor] = []
    open_B = room_B > 1
    while open_B.any():
        best_B = _next_log_probs(state, token_B, position_B, [start] if said else [start, end]).argmax(dim=1)
        open_B = open_B & (best_B != end)
        said.append(best_B.where(open_B, torch.full_like(best_B, end)))
        open_B = open_B & (room_B > len(said) + 1)
        token_B, position_B = _ids(state, best_B), position_B + open_B.long()
    return [_until(end, row) for row in _rows(said, len(room_B))]


def _beam_search(
    state: IncrementalText,
    token_B: torch.Tensor,
    position_B: torch.Tensor,
    room_B: torch.Tensor,
    config: GenerationConfig,
) -> list[list[int]]:
    """The best finished hypothesis of each clip; one that runs out of room ends there.

    A clip is done when no open hypothesis can beat its K finished ones, whatever it goes on to say.
    """
    B, K = len(token_B), config.beams
    device, (start, end) = token_B.device, _special_classes(state.model)
    most = int(room_B.max())
    state.repeat(K)
    token_R, position_R = token_B.repeat_interleave(K), position_B.repeat_interleave(K)
    clips_B1 = torch.arange(B, device=device)[:, None]

    def length(n: torch.Tensor | int) -> torch.Tensor:
        return torch.as_tensor(n, device=device).double().clamp(min=1) ** config.length_penalty

    said_BKL = torch.full((B, K, most), end, device=device)
    score_BK = torch.full((B, K), -torch.inf, dtype=torch.float64, device=device)
    score_BK[:, 0] = 0
    best_said_BKL, best_score_BK = said_BKL.clone(), torch.full_like(score_BK, -torch.inf)

    def finish(said: torch.Tensor, score: torch.Tensor) -> None:
        """Keep the best K of those that are finished and these, (B, n, L) and (B, n)."""
        nonlocal best_said_BKL, best_score_BK
        best_score_BK, chosen = torch.cat([best_score_BK, score], dim=1).topk(K, dim=1)
        best_said_BKL = torch.cat([best_said_BKL, said], dim=1)[clips_B1, chosen]

    for step in range(most):
        full_B = room_B <= step + 1  # one more token, and it would have to be the end
        finish(said_BKL, (score_BK / length(step)).masked_fill(~full_B[:, None], -torch.inf))
        score_BK = score_BK.masked_fill(full_B[:, None], -torch.inf)
        can_reach_B = score_BK.amax(dim=1) / length(room_B)
        if (can_reach_B <= best_score_BK[:, -1]).all():
            break
        log_probs_RV = _next_log_probs(state, token_R, position_R, [start] if step else [start, end])
        V = log_probs_RV.shape[1]
        total_BKV = score_BK[..., None] + log_probs_RV.view(B, K, V)
        score_B2K, index_B2K = total_BKV.flatten(1).topk(min(2 * K, K * V), dim=1)
        beam_B2K, class_B2K = index_B2K // V, index_B2K % V
        said_B2KL = said_BKL[clips_B1, beam_B2K]
        said_B2KL[:, :, step] = class_B2K
        ends_B2K = class_B2K == end
        # An end counts among the best K alone: further down it would cut a text that others are better than.
        leading = torch.arange(score_B2K.shape[1], device=device) < K
        finish(said_B2KL, (score_B2K / length(step + 1)).masked_fill(~(ends_B2K & leading), -torch.inf))
        score_BK, chosen = score_B2K.masked_fill(ends_B2K, -torch.inf).topk(K, dim=1)
        said_BKL = said_B2KL[clips_B1, chosen]
        beam_BK = beam_B2K[clips_B1, chosen]
        state.reorder((clips_B1 * K + beam_BK).flatten())
        token_R = _ids(state, said_BKL[:, :, step]).flatten()
        position_R = (position_R + 1).clamp(max=state.model.config.max_tokens - 2)  # of clips that are done, any
    return [_until(end, row) for row in best_said_BKL[:, 0].tolist()]


def _rows(steps: list[torch.Tensor], num_rows: int) -> list[list[int]]:
    return torch.stack(steps, dim=1).tolist() if steps else [[] for _ in range(num_rows)]


def _until(end: int, classes: list[int]) -> list[int]:
    return classes[: classes.index(end)] if end in classes else classes
