"""Every kernel once in every dtype, forward and backward, for compute-sanitizer to watch.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m gpu.exercise

Maps that fit in shared memory and maps that do not; heads of all widths; problems of one warp and of several; sizes
that no vector divides. Inputs are made on the CPU: the watched time is that of our kernels.
"""

from __future__ import annotations

import argparse

import torch

from stoa.ops import batched_assignment, quick_gelu, roi_align_max, trajectory_attention

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: (frames, boxes, grid, bins, channels)
ROI = ((2, 10, (14, 14), (14, 14), 768), (1, 3, (37, 37), (7, 7), 66), (1, 2, (5, 3), (2, 3), 33))
#: (clips, heads, tokens, queries, head width)
ATTENTION = ((1, 12, 140, 140, 64), (1, 2, 140, 20, 64), (2, 1, 33, 7, 128), (1, 1, 5, 5, 9))
COSTS = ((64, 20, 10), (2, 65, 130), (1, 300, 257))
ACTIVATION = ((24, 197, 64), (1021,), (7,))


def roi(device: str, dtype: torch.dtype) -> None:
    for frames, count, grid, bins, channels in ROI:
        whole = torch.randn(frames, 1 + grid[0] * grid[1], channels).to(dtype).to(device).requires_grad_()
        boxes = torch.rand(frames, count, 2, 2).sort(dim=-2).values.flatten(-2).to(dtype=torch.float32, device=device)
        valid = (torch.arange(count) % 5 != 1).expand(frames, -1).contiguous().to(device)
        values, _ = roi_align_max(whole[:, 1:], boxes, valid, grid_hw=grid, output_size=bins)
        torch.autograd.grad(values, whole, torch.randn(values.shape).to(dtype).to(device))


def attention(device: str, dtype: torch.dtype) -> None:
    for clips, heads, tokens, queries, width in ATTENTION:
        q = torch.randn(clips, heads, queries, width).to(dtype).to(device).requires_grad_()
        k, v = (torch.randn(clips, heads, tokens, width).to(dtype).to(device).requires_grad_() for _ in range(2))
        labels = torch.randint(-1, 20, (clips, tokens)).to(device)
        out = trajectory_attention(q, k, v, labels, labels[:, :queries].contiguous())
        torch.autograd.grad(out, (q, k, v), torch.randn(out.shape).to(dtype).to(device))


def assignment(device: str, dtype: torch.dtype) -> None:
    for shape in COSTS:
        counts = (torch.arange(shape[0]) % (1 + min(shape[1:]))).to(device)
        batched_assignment(torch.randn(shape).to(dtype).to(device))
        batched_assignment(torch.randn(shape).to(dtype).to(device), counts, counts)


def activation(device: str, dtype: torch.dtype) -> None:
    for shape in ACTIVATION:
        x = torch.randn(shape).to(dtype).to(device).requires_grad_()
        torch.autograd.grad(quick_gelu(x), x, torch.randn(shape).to(dtype).to(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.manual_seed(0)
    for dtype in DTYPES:
        for kernels in (roi, attention, assignment, activation):
            kernels(args.device, dtype)
            if args.device == "cuda":
                torch.cuda.synchronize()
            print(f"{kernels.__name__} {dtype}", flush=True)
    print("every kernel has run")


if __name__ == "__main__":
    main()
