"""The counter-based generator."""

import pytest
import torch

from stoa.objectives.random import Stream, philox, uniform

# Known answers of Random123 for philox4x32 with ten rounds: counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(w) for w in words) == expected


def drawn(seed, step, stream, rows, columns):
    return uniform(seed, step, torch.arange(*rows), {stream: columns})[stream]


def test_numbers_are_uniform_and_differ_by_every_key():
    x = drawn(7, 3, Stream.MLM, (200,), 100)
    assert x.shape == (200, 100)
    assert ((x > 0) & (x < 1)).all()
    assert abs(x.mean() - 0.5) < 0.01
    assert abs(x.var() - 1 / 12) < 0.002
    histogram = torch.histc(x, 20, 0, 1)
    assert ((histogram - 1000) ** 2 / 1000).sum() < 44  # chi-square, 19 degrees of freedom, p = 0.001
    others = [
        drawn(8, 3, Stream.MLM, (200,), 100),
        drawn(7 + 2**40, 3, Stream.MLM, (200,), 100),
        drawn(7, 4, Stream.MLM, (200,), 100),
        drawn(7, 3, Stream.PLM, (200,), 100),
        drawn(7, 3, Stream.MLM, (200, 400), 100),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([x.flatten(), other.flatten()]))[0, 1]) < 0.03


def test_a_number_depends_on_its_position_alone():
    whole = drawn(1, 2, Stream.VTM_TEXT, (8,), 8)
    assert torch.equal(whole[4:], drawn(1, 2, Stream.VTM_TEXT, (4, 8), 8))


def test_what_is_drawn_together_is_what_is_drawn_alone():
    sizes = {Stream.PLM: 1, Stream.VTM_TEXT: 9, Stream.MLM: 4}
    together = uniform(5, 2**33 + 6, torch.arange(3), sizes)
    assert list(together) == list(sizes)
    for stream, size in sizes.items():
        assert torch.equal(together[stream], drawn(5, 2**33 + 6, stream, (3,), size))


def test_a_step_may_be_a_tensor():
    for step in (0, 7, 2**35 + 1):
        of_tensor = uniform(1, torch.tensor(step), torch.arange(4), {Stream.MLM: 3})
        assert torch.equal(of_tensor[Stream.MLM], drawn(1, step, Stream.MLM, (4,), 3))
    assert uniform(1, 2, torch.arange(4), {}) == {}
