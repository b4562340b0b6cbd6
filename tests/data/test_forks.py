"""What processes of a loader hold of the one that has forked them."""

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from stoa.data.loading import started
from stoa.forks import weights_left_out

MIB = 1 << 20


def own_mib() -> float:
    """Memory of this process that it shares with no other."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))) / 1024


class Held(IterableDataset):
    """What a process holds, each time that it is asked."""

    def __iter__(self):
        while True:
            yield own_mib()


@pytest.fixture
def trained():
    """128 MiB of weights and twice as many of moments."""
    model = nn.Linear(4096, 8192, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model(torch.ones(1, 4096)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_step_leaves_nothing_old_with_readers(trained):
    model, optimizer = trained
    loader = DataLoader(Held(), batch_size=None, num_workers=1, prefetch_factor=1)
    batches = started(loader)
    before = [next(batches) for _ in range(3)][-1]
    optimizer.step()
    after = [next(batches) for _ in range(4)][-1]
    del batches
    assert after - before < 128  # of 384; what else the two have written to is among it


@pytest.mark.parametrize("size", [3072, 100])
def test_a_fork_finds_zeros_and_this_process_what_it_had(size):
    """Small weights, which share their pages with other things, stay."""
    model = nn.Linear(size, size, bias=False)
    before = model.weight.detach().clone()
    with weights_left_out():
        child = os.fork()
        if child == 0:
            flat = model.weight.detach().flatten()
            page = 4096 // 4
            wiped = not flat[page:-page].any()
            os._exit(10 + wiped)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10 + (size == 3072)
    assert torch.equal(model.weight, before)
    child = os.fork()
    if child == 0:  # and a later one has all again
        os._exit(10 + torch.equal(model.weight.detach(), before))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


def test_tensors_of_others_stay():
    """Of a data set, say, and what processes share."""
    plain, shared = torch.ones(MIB), nn.Parameter(torch.ones(MIB))
    shared.share_memory_()
    holder = nn.Module()
    holder.register_parameter("shared", shared)
    with weights_left_out():
        child = os.fork()
        if child == 0:
            os._exit(10 + bool(plain.all() and shared.detach().all()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
