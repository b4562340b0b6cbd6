"""Outputs of a frozen vision tower that are kept: the ones that it gives, whatever is known already and whatever
befalls the files."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from factories import random_batch, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import finish

from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.training import frozen_outputs
from stoa.training.frozen_outputs import FrozenOutputs
from stoa.training.metrics import read_metrics

TAPS = frozenset({0, 1})
CLIPS = 9


class Kept:
    """A tower with its outputs kept, and how many clips it has computed."""

    def __init__(self, folder: Path, model: VideoLanguageModel | None = None, activation: str = "gelu") -> None:
        self.clip = (model or tiny_model()).clip
        self.said: list[str] = []
        self.computed, self.asked = 0, False
        self._outputs = FrozenOutputs(folder, self.clip.visual, architecture=activation, say=self.said.append)

    def __call__(self, frames_BTCHW, taps=TAPS):
        return self._outputs(frames_BTCHW, taps, self._encode)

    def _encode(self, frames_BTCHW, taps):
        if self.asked:
            self.computed += len(frames_BTCHW)
        self.asked = True  # of the first clip, what there is
        return self.clip.encode_frames(frames_BTCHW, taps)


def frames(numbers) -> torch.Tensor:
    return random_batch(CLIPS).frames_BTCHW[list(numbers)]


def require_right(kept: Kept, numbers, taps=TAPS) -> None:
    with torch.no_grad():
        expected = kept.clip.encode_frames(frames(numbers), taps)
    torch.testing.assert_close(kept(frames(numbers), taps), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, CLIPS - 1), min_size=1, max_size=5), min_size=1, max_size=4))
def test_any_batches_have_the_outputs_of_the_tower_and_each_clip_is_computed_once(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("kept")
    model = tiny_model()
    first = Kept(folder, model)
    known: set[int] = set()
    for batch in batches:
        before = first.computed
        require_right(first, batch)
        assert first.computed - before == len(set(batch) - known)
        known |= set(batch)
    second = Kept(folder, model)
    for batch in batches:
        require_right(second, batch)
    assert second.computed == 0
    assert f"has the outputs of {len(known)} clips" in second.said[0]


def test_a_batch_that_was_computed_whole_is_kept_to_the_bit(tmp_path):
    kept = Kept(tmp_path)
    with torch.no_grad():
        expected = kept.clip.encode_frames(frames(range(4)), TAPS)
    for _ in range(2):
        frames_BTd, tapped = kept(frames(range(4)))
        assert torch.equal(frames_BTd, expected[0])
        assert all(torch.equal(tapped[tap], expected[1][tap]) for tap in TAPS)
    assert kept.computed == 4


def test_other_weights_taps_and_precisions_are_other_outputs(tmp_path):
    require_right(Kept(tmp_path), range(3))
    for kept, taps in (
        (Kept(tmp_path, tiny_model(seed=1)), TAPS),
        (Kept(tmp_path), frozenset({1})),
        (Kept(tmp_path, tiny_model().double()), TAPS),
        (Kept(tmp_path, tiny_model(joint_last_blocks=1)), TAPS),
        (Kept(tmp_path, activation="quick_gelu"), TAPS),
    ):
        require_right(kept, range(3), taps)
        assert kept.computed == 3
    kept = Kept(tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_right(kept, range(3))
        require_right(kept, range(3))
    assert kept.computed == 3
    assert len(list(tmp_path.iterdir())) == 7


def test_no_gradient_comes_out(tmp_path):
    frames_BTd, tapped = Kept(tmp_path)(frames(range(2)))
    assert not frames_BTd.requires_grad and not tapped[0].requires_grad


@pytest.mark.parametrize("suffix", ["rows", "keys"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_and_cut_files_give_the_outputs_of_the_tower(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.mktemp("kept")
    model = tiny_model()
    Kept(folder, model)(frames(range(4)))
    (file,) = folder.glob(f"*/*.{suffix}")
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    file.write_bytes(content)
    again = Kept(folder, model)
    require_right(again, range(4))
    assert 1 <= again.computed <= 4
    third = Kept(folder, model)
    require_right(third, range(4))
    assert third.computed == 0  # mended by what the second has appended


def test_rows_without_records_are_not_read(tmp_path):
    """As of a process that was killed between the two."""
    kept = Kept(tmp_path)
    kept(frames(range(2)))
    (keys,) = tmp_path.glob("*/*.keys")
    whole = keys.read_bytes()
    kept(frames(range(2, 4)))
    keys.write_bytes(whole)
    again = Kept(tmp_path)
    require_right(again, range(4))
    assert again.computed == 2


def _fill(folder, first):
    torch.set_num_threads(1)
    kept = Kept(folder)
    for number in range(6):
        kept(frames([(first + number) % CLIPS]))


def test_two_processes_fill_one_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fill, args=(tmp_path, first)) for first in (0, 4)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list(tmp_path.glob("*/*.rows"))) == 2
    kept = Kept(tmp_path)
    require_right(kept, range(CLIPS))
    assert kept.computed == 0


def test_what_another_process_adds_is_not_computed_again(tmp_path):
    one, other = Kept(tmp_path), Kept(tmp_path)
    one(frames(range(3)))
    other(frames(range(2, 5)))
    one(frames(range(3, 6)))
    require_right(other, range(6))
    assert (one.computed, other.computed) == (4, 2)


@pytest.mark.parametrize("refuses", ["free", "write"])
def test_a_disk_that_refuses_is_said_once_and_training_goes_on(tmp_path, monkeypatch, refuses):
    kept = Kept(tmp_path)
    require_right(kept, range(2))
    with monkeypatch.context() as patch:
        if refuses == "free":
            patch.setattr(frozen_outputs, "LEAST_FREE", 1 << 62)
        else:
            written = []

            def write(descriptor, data):
                written.append(data)
                if len(written) > 1:
                    raise OSError(28, "No space left on device")
                return os.pwrite(descriptor, data[:5], os.fstat(descriptor).st_size)

            patch.setattr(frozen_outputs.os, "write", write)
        with pytest.warns(UserWarning, match="no further outputs of the vision tower are kept") as warned:
            for _ in range(2):
                require_right(kept, range(2, 5))
        why = "of the disk would be left" if refuses == "free" else "No space left on device"
        assert len(warned) == 1 and why in str(warned[0].message)
    require_right(kept, range(5))
    again = Kept(tmp_path)
    require_right(again, range(5))
    assert again.computed == 3


def test_a_file_that_cannot_be_read_is_said_and_computed_again(tmp_path):
    Kept(tmp_path)(frames([0]))
    (keys,) = tmp_path.glob("*/*.keys")
    keys.unlink()
    os.mkfifo(keys)
    again = Kept(tmp_path)
    with pytest.warns(UserWarning, match=r"0000.keys cannot be read \(it is not a file\): its outputs are computed"):
        require_right(again, range(2))
    assert again.computed == 2
    with pytest.warns(UserWarning, match=r"0000.keys cannot be read"):
        third = Kept(tmp_path)
        require_right(third, range(2))
    assert third.computed == 0  # what was computed again is kept beside it


def test_a_link_is_not_followed(tmp_path):
    kept = Kept(tmp_path)
    kept(frames([0]))
    (keys,) = tmp_path.glob("*/*.keys")
    outside = tmp_path / "outside"
    (keys.parent / "0001.rows").symlink_to(outside)
    with pytest.warns(UserWarning, match="it is a link"):
        require_right(Kept(tmp_path, tiny_model()), range(2))
    assert not outside.exists()


def test_in_chunks_it_is_the_same(tmp_path):
    """Gradient caching passes the encoders twice, once without gradients."""
    plain, kept = tiny_model(), tiny_model()
    outputs = FrozenOutputs(tmp_path, kept.clip.visual, architecture="", say=lambda line: None)
    gradients = []
    for model in (plain, kept):
        model.clip.visual.freeze(2)
        if model is kept:
            model.clip.outputs_of_frames = outputs
        objective = TrainingObjective(model, ObjectivesConfig(), seed=0, chunk_clips=2)
        loss, _ = objective(random_batch(5), 0)
        loss.backward()
        gradients.append({name: p.grad for name, p in objective.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.slow
@pytest.mark.dist
def test_runs_of_one_tower_share_its_outputs(start, tmp_path):
    """The same losses as without, from the first run, which computes them, and from the second, which reads them."""
    frozen = ("--training.optim.frozen_vision_blocks", "2", "--training.max_steps", "3", "--training.log_every", "1")
    kept = ("--training.frozen_outputs", str(tmp_path / "kept"))
    finish(start(tmp_path / "plain", *frozen, processes=2, batch=4))
    finish(start(tmp_path / "first", *frozen, *kept, processes=2, batch=4))
    out, _ = finish(start(tmp_path / "second", *frozen, *kept, processes=2, batch=4))
    assert "has the outputs of" in out
    plain, first, second = (
        [record["loss"] for record in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in record]
        for name in ("plain", "first", "second")
    )
    assert plain == first == second


@pytest.mark.dist
def test_a_run_reads_what_another_one_has_computed(start, tmp_path):
    options = ("--training.optim.frozen_vision_blocks", "2", "--training.frozen_outputs", str(tmp_path / "kept"))
    outs = [finish(start(tmp_path / name, *options, "--training.max_steps", "2"))[0] for name in ("one", "other")]
    assert ["has the outputs of" in out for out in outs] == [False, True]


@pytest.mark.dist
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "the vision tower is trained; set training.optim.frozen_vision_blocks to 2, all of its blocks"),
        (
            ("--training.optim.frozen_vision_blocks", "2", "--training.compile", "forward"),
            "training.compile is 'forward', whose graph reads no files",
        ),
        (
            ("--training.optim.frozen_vision_blocks", "2", "--training.frozen_outputs", "/dev/null"),
            "training.frozen_outputs",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused(start, tmp_path, options, message):
    _, err = finish(start(tmp_path / "run", "--training.frozen_outputs", str(tmp_path / "kept"), *options), code=2)
    assert message in err
    assert not (tmp_path / "kept").exists()


@pytest.mark.dist
def test_stage_3_is_refused(start, tmp_path):
    frozen = ("--training.optim.frozen_vision_blocks", "2", "--training.frozen_outputs", str(tmp_path / "kept"))
    _, err = finish(start(tmp_path / "run", *frozen, stage=3), code=2)
    assert "has ZeRO stage 3, by which ranks compute the tower together" in err
