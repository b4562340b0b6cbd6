"""trajectory_attention against attention computed group by group, and against SDPA with the mask."""

import pytest
import torch
from implementations import implementations, operators
from torch import Tensor
from torch.nn import functional as F

from stoa.ops import trajectory_attention
from stoa.ops.trajectory_attention import _COMPILED, reference

compiled = pytest.mark.skipif("cpu" not in _COMPILED, reason="the extension is not built")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])


def attend_by_reference(q, k, v, labels, q_labels=None):
    return reference(q, k, v, labels, labels if q_labels is None else q_labels)


everywhere = implementations("attend", trajectory_attention, attend_by_reference)


def oracle(q, k, v, labels, q_labels):
    """Every query row on its own, over the tokens of its label."""
    rows = []
    for b in range(q.shape[0]):
        for i, label in enumerate(q_labels[b].tolist()):
            own = (labels[b] == label).nonzero().squeeze(1)
            if label >= 0 and len(own):
                weight = (q[b, :, i : i + 1] @ k[b][:, own].transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1)
                rows.append((weight @ v[b][:, own])[:, 0])
            else:
                rows.append(torch.zeros_like(q[b, :, i]))
    return torch.stack(rows).view(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)


def assert_equals_oracle(attend, shape, queries, num_labels, seed):
    generator = torch.Generator().manual_seed(seed)
    B, H, S, D = shape
    k, v = (torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    q = torch.randn(B, H, queries or S, D, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(-1, num_labels, (B, S), generator=generator)
    q_labels = None if queries is None else torch.randint(-1, num_labels + 1, (B, queries), generator=generator)
    out = attend(q, k, v, labels, q_labels)
    expected = oracle(q, k, v, labels, labels if q_labels is None else q_labels)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum() + 0 * (q.sum() + k.sum() + v.sum()), (q, k, v))
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


@everywhere
@pytest.mark.parametrize(
    ("shape", "queries", "num_labels"),
    [((2, 3, 140, 64), None, 20), ((2, 3, 140, 64), 20, 20), ((1, 2, 70, 88), None, 1), ((1, 1, 40, 128), 33, 5)],
)
def test_sizes_of_models(attend, shape, queries, num_labels):
    assert_equals_oracle(attend, shape, queries, num_labels, seed=0)


@everywhere
def test_equals_sdpa_with_the_mask(attend):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 14, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    labels = torch.randint(0, 4, (2, 14), generator=generator)
    mask = labels[:, None, :, None] == labels[:, None, None, :]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, labels), expected)


@everywhere
def test_gradient(attend):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 1, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    labels = torch.tensor([[0, 1, 0, -1, 1], [-1, -1, -1, -1, -1]])
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, labels), (q, k, v))
    attend(q, k, v, labels)[1].sum().backward()
    assert torch.equal(k.grad[1], torch.zeros_like(k.grad[1]))


@everywhere
@pytest.mark.parametrize(("B", "Q", "S"), [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_no_clip_no_query_no_token(attend, B, Q, S):
    q, k = torch.randn(B, 2, Q, 4, requires_grad=True), torch.randn(B, 2, S, 4, requires_grad=True)
    out = attend(q, k, k, torch.zeros(B, S).long(), torch.zeros(B, Q).long())
    assert torch.equal(out, torch.zeros(B, 2, Q, 4))
    out.sum().backward()
    assert torch.equal(q.grad, torch.zeros_like(q))
    assert torch.equal(k.grad, torch.zeros_like(k))


@operators("attend", trajectory_attention)
def test_heads_may_stand_inside(attend):
    """The strides of a projection split into heads; and of a slice."""
    x = torch.randn(2, 7, 3, 3, 8)
    q, k, v = x.permute(2, 0, 3, 1, 4)
    labels = torch.tensor([[0, 1, 0, 2, -1, 1, 0]] * 2)
    torch.testing.assert_close(attend(q, k, v, labels), attend_by_reference(q, k, v, labels))
    wide = torch.randn(2, 3, 7, 16)[..., ::2]
    torch.testing.assert_close(attend(wide, k, v, labels), attend_by_reference(wide, k, v, labels))


@operators("attend", trajectory_attention)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_rows_need_no_alignment(attend, dtype, width):
    """The rows of views, at addresses of every kind, give what those of tensors of their own do."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(3, 2, 3, 40, width, generator=generator).to(dtype)
    labels = torch.randint(-1, 6, (2, 40), generator=generator)
    expected = attend_by_reference(*rows.double(), labels).to(dtype)
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-12)
    for first in (0, 1, 16 // dtype.itemsize):
        wide = torch.full((3, 2, 3, 40, width + 16), torch.nan, dtype=dtype)
        wide[..., first : first + width] = rows
        q, k, v = wide[..., first : first + width]
        torch.testing.assert_close(attend(q, k, v, labels), expected, rtol=tolerance, atol=tolerance)


@everywhere
def test_large_scores_do_not_overflow(attend):
    """Scores up to 10^5 that float32 holds exactly: near ties, an error in a score would be one in the weights."""
    generator = torch.Generator().manual_seed(4)
    q, k = (16.0 * torch.randint(-8, 9, (1, 2, 70, 16), generator=generator) for _ in range(2))
    v = 100 * torch.randn(1, 2, 70, 16, generator=generator)
    labels = torch.zeros(1, 70).long()
    expected = attend_by_reference(q.double(), k.double(), v.double(), labels).float()
    torch.testing.assert_close(attend(q, k, v, labels), expected)


@operators("attend", trajectory_attention)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_twice_its_composition(attend, dtype):
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(2, 3, 60, 64, generator=generator).to(dtype) for _ in range(3)]
    weight = torch.randn(2, 3, 60, 64, generator=generator).to(dtype)
    labels = torch.randint(-1, 8, (2, 60), generator=generator)

    def run(attend, inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = attend(*inputs, labels)
        assert out.dtype == inputs[0].dtype
        grads = torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)
        return [x.double() for x in (out, *grads)]

    exact = run(attend_by_reference, [x.double() for x in inputs])
    native = run(attend_by_reference, inputs)
    for ours, theirs, truth in zip(run(attend, inputs), native, exact, strict=True):
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max()


@everywhere
def test_the_gradient_is_the_same_every_time(attend):
    q, k, v = (torch.randn(2, 4, 140, 64, requires_grad=True) for _ in range(3))
    labels = torch.randint(-1, 20, (2, 140))
    first, second = (torch.autograd.grad(attend(q, k, v, labels).sum(), (q, k, v)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def example(device: str = "cpu") -> list[Tensor]:
    q, k, v = (torch.randn(2, 3, n, 8, device=device) for n in (2, 7, 7))
    labels = torch.tensor([[0, 1, 0, 2, -1, 1, 0], [3, 3, 3, 3, 3, 3, 3]], device=device)
    return [q, k, v, labels, torch.tensor([[0, 2], [3, -1]], device=device)]


# Raised inside of opcheck, for the copy that it makes of an input.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@compiled
@devices
def test_opcheck(device):
    arguments = example(device)
    for x in arguments[:3]:
        x.requires_grad_()
    torch.library.opcheck(torch.ops.stoa.trajectory_attention.default, tuple(arguments))
    arguments = [x.detach() for x in arguments]
    out, logsumexp = torch.ops.stoa.trajectory_attention(*arguments)
    torch.library.opcheck(
        torch.ops.stoa.trajectory_attention_backward.default, (torch.randn_like(out), *arguments, out, logsumexp)
    )


@compiled
@devices
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_graph_break(device, backend):
    q, k, v, labels, q_labels = example(device)

    def attend(q):
        return trajectory_attention(q * 2, k, v, labels, q_labels) + 1

    eager, whole = q.clone().requires_grad_(), q.clone().requires_grad_()
    expected, actual = attend(eager), torch.compile(attend, backend=backend, fullgraph=True)(whole)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual.sum(), whole), torch.autograd.grad(expected.sum(), eager))


@compiled
@devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_autocast_casts_as_it_does_for_sdpa(device, dtype):
    *qkv, labels, q_labels = example(device)
    q, k, v = (x.to(dtype) for x in qkv)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = trajectory_attention(q, k, v, labels, q_labels)
        assert out.dtype == F.scaled_dot_product_attention(q, k, v).dtype
        assert (out.dtype == torch.bfloat16) == (dtype != torch.float64)


@compiled
def test_a_second_derivative_is_refused():
    q, k, v, labels, q_labels = example()
    out = trajectory_attention(q.requires_grad_(), k, v, labels, q_labels)
    (grad,) = torch.autograd.grad(out, q, torch.ones_like(out).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not supported"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 4, 3)}, r"k and v must be \(B, H, S, D\)"),
        ({"q": torch.zeros(2, 2, 4, 3)}, r"q must be \(2, 1, Q, 3\) like k"),
        ({"q": torch.zeros(2, 1, 4, 3).half()}, "q, k and v must share a dtype .* got torch.float16, torch.float32"),
        ({"labels": torch.zeros(2, 4)}, r"labels must be \(2, 4\) int64, got \(2, 4\) torch.float32"),
        ({"labels": torch.zeros(2, 4, device="meta").long()}, "labels is on meta, q on cpu"),
        ({"q_labels": torch.zeros(2, 3).long()}, r"q_labels must be \(2, 4\) int64"),
        ({x: torch.zeros(2, 1, 4, 129) for x in "qkv"}, "head width of 129, allowed are 1 to 128"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    q, k, v = (torch.zeros(2, 1, 4, 3) for _ in range(3))
    arguments = {"q": q, "k": k, "v": v, "labels": torch.zeros(2, 4).long()}
    with pytest.raises(ValueError, match=message):
        trajectory_attention(**{**arguments, **change})


@compiled
@devices
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(2, 3, 2, 9), "q must be"),
        (1, torch.zeros(2, 3, 7, 8).half(), "q, k and v must share dtype|k and v must be"),
        (2, torch.zeros(2, 3, 6, 8), "k and v must be"),
        (3, torch.zeros(2, 6).long(), "labels must be"),
        (4, torch.zeros(2, 2), "q_labels must be"),
    ],
)
def test_the_raw_operator_reads_nothing_out_of_bounds(device, position, value, message):
    arguments = example(device)
    arguments[position] = value.to(device)
    with pytest.raises(ValueError, match=message):
        torch.ops.stoa.trajectory_attention(*arguments)


@compiled
@devices
def test_the_raw_backward_reads_nothing_out_of_bounds(device):
    arguments = example(device)
    out, logsumexp = torch.ops.stoa.trajectory_attention(*arguments)
    backward = torch.ops.stoa.trajectory_attention_backward
    with pytest.raises(ValueError, match="grad and out must be like q"):
        backward(out[..., :4], *arguments, out, logsumexp)
    with pytest.raises(ValueError, match="logsumexp must be"):
        backward(out, *arguments, out, logsumexp[..., :1])
