"""The order is a pure function of (seed, epoch, rank, world)."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.data.sampler import GlobalBatchSampler


def take(sampler: GlobalBatchSampler, batches: int) -> list[list[tuple[int, int, int]]]:
    return [[tuple(key) for key in batch] for batch in islice(sampler, batches)]


@given(world=st.sampled_from([1, 2, 3, 6]), n=st.integers(12, 80), seed=st.integers(0, 2**40))
def test_ranks_together_see_what_one_process_sees(world, n, seed):
    whole = take(GlobalBatchSampler(n, 12, rank=0, world=1, seed=seed), 7)
    parts = [take(GlobalBatchSampler(n, 12 // world, rank=r, world=world, seed=seed), 7) for r in range(world)]
    joined = [sum((part[i] for part in parts), []) for i in range(7)]
    assert joined == whole


@given(n=st.integers(4, 50), seed=st.integers(0, 1000))
def test_an_epoch_shows_every_clip_at_most_once(n, seed):
    sampler = GlobalBatchSampler(n, 4, rank=0, world=1, seed=seed)
    epoch = take(sampler, sampler.batches_per_epoch)
    seen = [index for batch in epoch for index, _, _ in batch]
    assert len(set(seen)) == len(seen) == n // 4 * 4
    assert {e for batch in epoch for _, e, _ in batch} == {0}
    assert [p for _, _, p in epoch[0]] == [0, 1, 2, 3]


@given(n=st.integers(12, 60), seed=st.integers(0, 1000), together=st.sampled_from([2, 4]))
def test_groups_stay_whole(n, seed, together):
    sampler = GlobalBatchSampler(n, 12, rank=0, world=1, seed=seed, together=together)
    for batch in take(sampler, 5):
        clips = [index for index, _, _ in batch]
        for start in range(0, 12, together):
            assert clips[start] % together == 0
            assert clips[start : start + together] == list(range(clips[start], clips[start] + together))
    epoch = take(sampler, sampler.batches_per_epoch)
    seen = [index for batch in epoch for index, _, _ in batch]
    assert len(set(seen)) == len(seen)


def test_a_batch_of_broken_groups_is_refused():
    with pytest.raises(ValueError, match=r"data.together is 4, of which train_micro_batch_size_per_gpu 6"):
        GlobalBatchSampler(60, 6, rank=0, world=1, seed=0, together=4)


def test_epochs_and_seeds_differ():
    a = take(GlobalBatchSampler(64, 32, rank=0, world=1, seed=1), 4)
    b = take(GlobalBatchSampler(64, 32, rank=0, world=1, seed=2), 2)
    assert [k[0] for k in a[0] + a[1]] != [k[0] for k in a[2] + a[3]]
    assert [k[0] for k in a[0]] != [k[0] for k in b[0]]


@pytest.mark.parametrize("done", [0, 3, 5, 12])
def test_a_restored_sampler_goes_on_where_it_was(done):
    whole = take(GlobalBatchSampler(20, 4, rank=0, world=1, seed=0), 20)
    first = GlobalBatchSampler(20, 4, rank=0, world=1, seed=0)
    first.advance(done)
    second = GlobalBatchSampler(20, 4, rank=0, world=1, seed=0)
    second.load_state_dict(first.state_dict())
    assert take(second, 20 - done) == whole[done:]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (GlobalBatchSampler(20, 2, rank=0, world=2, seed=0), "world 2, this run has 1"),
        (GlobalBatchSampler(20, 4, rank=0, world=1, seed=7), "seed 7, this run has 0"),
        (GlobalBatchSampler(21, 4, rank=0, world=1, seed=0), "num_samples 21, this run has 20"),
        (GlobalBatchSampler(20, 5, rank=0, world=1, seed=0), "global_batch 5, this run has 4"),
    ],
)
def test_another_order_is_refused_with_both_values(other, message):
    with pytest.raises(ValueError, match=message):
        GlobalBatchSampler(20, 4, rank=0, world=1, seed=0).load_state_dict(other.state_dict())


def test_too_few_clips_is_an_error():
    with pytest.raises(ValueError, match="3 usable training clips, fewer than one global batch of 8"):
        GlobalBatchSampler(3, 4, rank=0, world=2, seed=0)


@given(
    n=st.integers(24, 90),
    together=st.sampled_from([1, 2]),
    done=st.integers(0, 30),
    before=st.sampled_from([2, 4, 6, 12]),
    micro=st.sampled_from([2, 4, 6]),
    world=st.sampled_from([1, 2, 4]),
)
def test_other_processes_go_on_behind_the_clips_that_were_taken(n, together, done, before, micro, world):
    """No clip of the epoch comes twice, and those that are left out would not fill a batch."""
    saved = GlobalBatchSampler(n, before, rank=0, world=1, seed=5, together=together)
    had = [key[:2] for batch in take(saved, done) for key in batch]
    saved.advance(done)
    ranks = [GlobalBatchSampler(n, micro, rank=rank, world=world, seed=5, together=together) for rank in range(world)]
    for sampler in ranks:
        sampler.load_state_dict(saved.state_dict(), reshaped=True)
    come = [key[:2] for sampler in ranks for batch in take(sampler, 50) for key in batch]
    clips = [clip for clip, epoch in had + come if epoch == saved.epoch]
    assert len(set(clips)) == len(clips) > n - max(before, micro * world) - together


@given(before=st.sampled_from([1, 2, 4]), behind=st.sampled_from([1, 2, 4]), done=st.integers(0, 20))
def test_another_number_of_processes_has_the_same_batches(before, behind, done):
    whole = take(GlobalBatchSampler(30, 8, rank=0, world=1, seed=2), done + 5)
    saved = GlobalBatchSampler(30, 8 // before, rank=before - 1, world=before, seed=2)
    saved.advance(done)
    parts = []
    for rank in range(behind):
        sampler = GlobalBatchSampler(30, 8 // behind, rank=rank, world=behind, seed=2)
        sampler.load_state_dict(saved.state_dict(), reshaped=True)
        parts.append(take(sampler, 5))
    assert [sum(batch, []) for batch in zip(*parts, strict=True)] == whole[done:]
