"""The tests that guard the method fail on the mistakes they are there for.

Each fault is planted into a copy of the package, and the test that should see it is run there.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Fault:
    """``old`` in the file becomes ``new``; ``test`` must fail."""

    file: str
    old: str
    new: str
    test: str


LANGUAGE, ALIGNMENT = "tests/objectives/test_language.py", "tests/objectives/test_alignment.py"
OBJECTS, ACTIONS = "tests/models/test_trajectories.py", "tests/models/test_action_tokens.py"
GRAPH = "tests/models/test_graph.py"
GROUNDING = "tests/models/test_grounding.py"
DISTRIBUTED = "tests/objectives/test_distributed.py"

FAULTS = {
    "MLM: the hidden word is read": Fault(
        "models/video_language.py",
        "torch.cat([words_BLw, hidden_BLw])",
        "torch.cat([words_BLw, words_BLw])",
        f"{LANGUAGE}::test_the_id_under_a_mask_changes_no_logit",
    ),
    "MLM: a kept word is hidden": Fault(
        "objectives/mlm.py",
        " & (keep_BL >= kept_share)",
        "",
        f"{LANGUAGE}::test_kept_words_are_supervised_and_stay_in_place",
    ),
    "PLM: a row sees the next token": Fault(
        "objectives/masks.py",
        "causal_LL = position_L <= position_L[:, None]",
        "causal_LL = position_L <= position_L[:, None] + 1",
        f"{LANGUAGE}::test_later_tokens_are_never_seen",
    ),
    "PLM: the video side sees all text": Fault(
        "objectives/masks.py",
        "mask_BSS[:, :, G:] = in_prefix_BL[:, None, :]",
        "mask_BSS[:, :, G:] = in_prefix_BL[:, None, :]\n    mask_BSS[:, :G, G:] = True",
        f"{LANGUAGE}::test_later_tokens_are_never_seen",
    ),
    "PLM: a blank sees the word it predicts": Fault(
        "objectives/masks.py",
        "ones_LL.tril(-1)",
        "ones_LL.tril()",
        f"{LANGUAGE}::test_two_streams_equal_a_pass_for_every_position",
    ),
    "OTA: no null column": Fault(
        "objectives/matching.py",
        "return Columns(position_BC, word_BL.sum(dim=1) + 1)",
        "return Columns(position_BC, word_BL.sum(dim=1))",
        f"{ALIGNMENT}::test_the_null_stands_last_and_takes_one_row_alone",
    ),
    "OTA: words without their last piece": Fault(
        "objectives/alignment.py",
        "word_columns(batch.noun_mask_BL & batch.word_end_BL,",
        "word_columns(batch.noun_mask_BL,",
        f"{ALIGNMENT}::test_a_word_of_two_pieces_is_drawn_to_once",
    ),
    "OTA: the text side is trained": Fault(
        "objectives/alignment.py",
        "at_columns(text.tokens_BLd.detach(), columns)\n    match = match_rows(rows_BRd, video.",
        "at_columns(text.tokens_BLd, columns)\n    match = match_rows(rows_BRd, video.",
        f"{ALIGNMENT}::test_the_text_side_gets_no_gradient",
    ),
    "OTA: a softmax over trajectories": Fault(
        "objectives/matching.py",
        "return (cosine_BRC / MATCH_TEMPERATURE).softmax(dim=-1)",
        "return (cosine_BRC / MATCH_TEMPERATURE).softmax(dim=1)",
        f"{ALIGNMENT}::test_ota_equals_a_loop_with_scipy",
    ),
    "OTA: the map to words is left out": Fault(
        "objectives/alignment.py",
        'model.word_head(model.group(video, "objects"))',
        'model.group(video, "objects")',
        f"{ALIGNMENT}::test_ota_equals_a_loop_with_scipy",
    ),
    "ASP: the map to words is left out": Fault(
        "objectives/alignment.py",
        'model.verb_head(model.group(video, "actions"))',
        'model.group(video, "actions")',
        f"{ALIGNMENT}::test_asp_equals_a_loop_with_scipy",
    ),
    "OTA: nce over the clip alone": Fault(
        "objectives/contrast.py",
        "of_null_BRAC.where(has_null_BR[..., None, None], of_word_BRAC)",
        "of_null_BRAC",
        f"{ALIGNMENT}::test_a_match_that_is_always_the_other_noun_is_no_optimum",
    ),
    "OTA: nce against the same noun": Fault(
        "objectives/contrast.py",
        "(key_AC != key_BR[..., None, None]) & ",
        "",
        f"{ALIGNMENT}::test_nouns_that_are_all_the_same_are_no_negatives",
    ),
    "OTA: a word against clips that name it": Fault(
        "objectives/contrast.py",
        "(says_BCA | repeats.same_BA[:, None])",
        "repeats.same_BA[:, None]",
        f"{ALIGNMENT}::test_a_clip_that_names_the_word_is_no_negative",
    ),
    "OTA: a word reads trajectories that are missing": Fault(
        "objectives/contrast.py",
        "masked_fill(~valid_AR, _NEVER)",
        "masked_fill(~valid_AR, 0)",
        f"{ALIGNMENT}::test_a_clip_without_rows_neither_counts_nor_tells_apart",
    ),
    "ASP: the text side is trained": Fault(
        "objectives/alignment.py",
        "at_columns(text.tokens_BLd.detach(), columns)\n    all_rows_BR",
        "at_columns(text.tokens_BLd, columns)\n    all_rows_BR",
        f"{ALIGNMENT}::test_the_text_side_gets_no_gradient",
    ),
    "ASP: every unmatched token is left alone": Fault(
        "objectives/alignment.py",
        "    if pad_null:\n",
        "    if False:\n",
        f"{ALIGNMENT}::test_asp_equals_a_loop_with_scipy",
    ),
    "RoIAlign: half a patch off": Fault(
        "ops/roi_align_max.py",
        "low * size - 0.5",
        "low * size",
        "tests/ops/test_roi_align_max.py::test_equals_torchvision",
    ),
    "empty clips: a mean over nothing": Fault(
        "objectives/gather.py",
        "count.clamp(min=1)",
        "count",
        f"{ALIGNMENT}::test_clips_that_lack_everything_give_zero_in_the_graph",
    ),
    "ties: equal sums go to the later label": Fault(
        "models/objects.py",
        "by_label_BS = labels_BS.argsort(dim=1, stable=True)",
        "by_label_BS = labels_BS.argsort(dim=1, stable=True, descending=True)",
        f"{OBJECTS}::test_the_labels_of_highest_summed_score_come_first",
    ),
    "trajectories: labels by appearance": Fault(
        "models/objects.py",
        "keys_BS.argsort(dim=1, descending=True, stable=True)",
        "keys_BS.isinf().int().argsort(dim=1, stable=True)",
        f"{OBJECTS}::test_the_labels_of_highest_summed_score_come_first",
    ),
    "motion: confidence does not count": Fault(
        "models/motion.py",
        "scores_BTK.clamp(min=LEAST_WEIGHT)",
        "scores_BTK.clamp(min=1)",
        "tests/models/test_motion.py::test_a_slope_is_that_of_the_weighted_least_squares_line",
    ),
    "motion: T frames are T - 1 parts": Fault(
        "models/motion.py",
        ".add(0.5).div(T)",
        ".add(0.5).div(T - 1)",
        "tests/models/test_motion.py::test_the_same_motion_in_other_frames_is_the_same",
    ),
    "trajectories: a box sees other labels": Fault(
        "ops/trajectory_attention.py",
        "q_labels[:, :, None] == labels[:, None, :]",
        "q_labels[:, :, None] >= labels[:, None, :]",
        f"{OBJECTS}::test_packed_equals_dense_with_the_papers_numbers",
    ),
    "trajectories: only one layer runs": Fault(
        "models/cls_encoder.py",
        "for block in lower:",
        "for block in lower[:0]:",
        f"{OBJECTS}::test_packed_equals_dense_with_the_papers_numbers",
    ),
    "objects: the wrong block is pooled": Fault(
        "models/video_language.py",
        "name: depth - reader.tap_from_top for",
        "name: depth - reader.tap_from_top // 2 for",
        f"{OBJECTS}::test_objects_read_the_block_that_is_asked_for",
    ),
    "fusion: missing trajectories are keys": Fault(
        "objectives/masks.py",
        "keys_BS = torch.cat([video_valid_BG, text_mask_BL], dim=1)",
        "keys_BS = torch.cat([torch.ones_like(video_valid_BG), text_mask_BL], dim=1)",
        f"{OBJECTS}::test_missing_trajectories_are_never_keys",
    ),
    "actions: scores in fp16": Fault(
        "models/actions.py",
        "queries_Mh, tokens_BTSh = at_least_fp32(queries_Mh), at_least_fp32(tokens_BTSh)",
        "",
        f"{ACTIONS}::test_scores_beyond_fp16_are_computed_in_fp32",
    ),
    "actions: frames without order": Fault(
        "models/actions.py",
        "(self.ln_gathered(gathered_BTMh) + self.frame_embedding)",
        "self.ln_gathered(gathered_BTMh)",
        f"{ACTIONS}::test_the_frames_have_an_order",
    ),
    "graph: a gradient flows through it": Fault(
        "models/graph_attention.py",
        "@torch.no_grad()\ndef band_edges(",
        "def band_edges(",
        f"{GRAPH}::test_no_gradient_reaches_the_graph",
    ),
    "csal: from the first step": Fault(
        "objectives/total.py",
        "begun = optimiser_step >= csal.from_step",
        "begun = optimiser_step >= 0",
        "tests/objectives/test_csal.py::test_the_second_stage_begins_at_its_optimiser_step",
    ),
    "graph: the [CLS] tokens pass their block once": Fault(
        "models/graph.py",
        "for _ in range(self.config.global_repeats):",
        "for _ in range(1):",
        f"{GRAPH}::test_the_cls_tokens_pass_their_block_again",
    ),
    "graph: a patch may lack its own edge": Fault(
        "models/graph_attention.py",
        "(similarity_BPK >= threshold) | own_PK",
        "similarity_BPK >= threshold",
        f"{GRAPH}::test_a_threshold_above_one_leaves_a_patch_itself",
    ),
    "graph: frames see no later ones": Fault(
        "models/graph_attention.py",
        "min(T, frame + reach + 1)",
        "frame + 1",
        f"{GRAPH}::test_the_band_equals_all_pairs",
    ),
    "graph: every graph reaches one frame": Fault(
        "models/graph.py",
        "reach=self.config.reach",
        "reach=1",
        f"{GRAPH}::test_the_whole_module_equals_its_dense_form",
    ),
    "graph: no time": Fault(
        "models/graph.py",
        "embedding_TSh = self.frame_embedding + ",
        "embedding_TSh = 0 * self.frame_embedding + ",
        f"{GRAPH}::test_a_graph_token_sees_the_order_of_frames",
    ),
    "CSAL: one modality is enough": Fault(
        "objectives/csal.py",
        "video_AA.clamp(min=0) * text_AA.clamp(min=0)",
        "torch.maximum(video_AA, text_AA).clamp(min=0)",
        "tests/objectives/test_csal.py::test_the_same_clip_and_caption_share",
    ),
    "duplicates: the same caption is a negative": Fault(
        "objectives/vtc.py",
        " | (caption_keys_B[:, None] == caption_keys_A)",
        "",
        "tests/objectives/test_vtc.py::test_repeated_clips_and_captions_are_no_negatives",
    ),
    "duplicates: the same clip is drawn as a negative": Fault(
        "objectives/vtm.py",
        ".masked_fill(same_BA, -torch.inf)",
        "",
        "tests/objectives/test_vtm.py",
    ),
    "likelihood: read one word late": Fault(
        "objectives/pairs.py",
        "rows_NQw[:, 2:], token_ids_NL[:, 1:], text_mask_NL[:, 1:]",
        "rows_NQw[:, 2:], token_ids_NL[:, :-1], text_mask_NL[:, 1:]",
        "tests/objectives/test_pairs.py::test_the_likelihood_is_that_of_a_growing_text",
    ),
    "likelihood: words see what is behind them": Fault(
        "models/causal_texts.py",
        "start_C1.new_ones(self.text_tokens, self.text_tokens).tril()",
        "start_C1.new_ones(self.text_tokens, self.text_tokens)",
        "tests/objectives/test_pairs.py::test_the_likelihood_is_that_of_a_growing_text",
    ),
    "likelihood: a text reads the clip of another": Fault(
        "models/causal_texts.py",
        "of_clip_CHRD.index_select(0, self.clip_N)",
        "of_clip_CHRD.index_select(0, self.clip_N.flip(0))",
        "tests/models/test_fusion.py",
    ),
    "temperature: no ceiling": Fault(
        "objectives/vtc.py",
        "(scale + (scale.clamp(max=MAX_LOGIT_SCALE) - scale).detach()).exp()",
        "scale.exp()",
        "tests/training/test_loss_scaler.py::test_the_temperature_keeps_its_ceiling_under_zero",
    ),
    "temperature: clamped without a gradient": Fault(
        "objectives/vtc.py",
        "(scale + (scale.clamp(max=MAX_LOGIT_SCALE) - scale).detach()).exp()",
        "scale.clamp(max=MAX_LOGIT_SCALE).exp()",
        "tests/training/test_loss_scaler.py::test_the_temperature_keeps_its_ceiling_under_zero",
    ),
    "gather: the gradient of this rank alone": Fault(
        "objectives/gather.py",
        "dist.reduce_scatter_tensor(out, grad.contiguous())",
        "out.copy_(grad[rank() * len(out) : (rank() + 1) * len(out)])",
        DISTRIBUTED,
    ),
    "means: of each rank's own items": Fault(
        "objectives/gather.py",
        "_all_reduce(count)\n    return total * world_size()",
        "pass\n    return total",
        DISTRIBUTED,
    ),
    "grounding: what a clip lacks is given": Fault(
        "models/grounding.py",
        "~meanings.valid_NK[:, None] | is_start_NL",
        "is_start_NL",
        f"{GROUNDING}::test_a_text_reads_nothing_of_trajectories_that_its_clip_lacks",
    ),
    "grounding: the start token means something": Fault(
        "models/grounding.py",
        " | is_start_NL[..., None]",
        "",
        f"{GROUNDING}::test_words_are_compared_with_what_is_on",
    ),
    "grounding: MLM reads plain words": Fault(
        "objectives/mlm.py",
        "model.grounded(hidden_text_BLd, model.meanings(video.tokens_BGd, video.valid_BG))",
        "hidden_text_BLd",
        f"{GROUNDING}::test_every_loss_of_the_fusion_encoder_reads_it",
    ),
    "resume: the order starts again": Fault(
        "training/trainer.py",
        'self.sampler.load_state_dict(run["sampler"], reshaped=reshaped)',
        "",
        "tests/resilience/test_resume.py::test_kill_and_resume",
    ),
    "resume: the optimiser starts again": Fault(
        "training/states.py",
        "saved.fill(piece, folder)",
        "",
        "tests/resilience/test_resume.py::test_kill_and_resume",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory, repo_root) -> Path:
    """The checkout with all that the tests need."""
    folder = tmp_path_factory.mktemp("planted") / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("stoa", "tests", "recipes", "ds_configs", "cluster"):
        shutil.copytree(repo_root / name, folder / name, ignore=ignore)
    for name in ("train.py", "pyproject.toml", "setup.py"):
        shutil.copy(repo_root / name, folder / name)
    return folder


def run(copy: Path, test: str) -> subprocess.CompletedProcess:
    """Run a test in the copy, whose package comes before the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_can_be_planted(repo_root, name):
    found = (repo_root / "stoa" / FAULTS[name].file).read_text(encoding="utf-8").count(FAULTS[name].old)
    assert found == 1, f"{FAULTS[name].file} holds it {found} times: {FAULTS[name].old}"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(copy, name):
    fault = FAULTS[name]
    path = copy / "stoa" / fault.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    try:
        done = run(copy, fault.test)
    finally:
        path.write_text(sound, encoding="utf-8")
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert " failed" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1], done.stdout[-2000:]


@pytest.mark.slow
def test_without_a_fault_they_pass(copy):
    done = [run(copy, test) for test in sorted({fault.test for fault in FAULTS.values()})]
    assert [d.returncode for d in done] == [0] * len(done), "\n".join(d.stdout[-1000:] for d in done)
