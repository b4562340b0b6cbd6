"""Values and gradients of the operators at the sizes of ViT-B/16 with 12 frames, in fp16 and bf16, against float32.

    PYTHONPATH=.:benchmarks python -m gpu.production

With empty box slots, patches behind a [CLS], tokens of no label, and queries of their own, as the model has them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from ops import GRID, TRAJECTORIES, AssignmentCase, AttentionCase, RoiCase, Step, forward_and_backward
from torch import Tensor
from torch.nn import functional as F
from values import check_assignment, check_operator, check_quick_gelu, check_roi

from stoa.ops import trajectory_attention

MLP_WIDTH, TOKENS_OF_A_FRAME, FRAMES = 3072, 197, 12


class QueriesCase(AttentionCase):
    """The last layer: the [CLS] of each trajectory asks; a fifth of the boxes has no label."""

    def __init__(self, clips: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(clips, device, dtype)
        self.inputs[0] = self.inputs[0][:, :, :TRAJECTORIES].detach().requires_grad_()
        self.weight = self.weight[:, :, :TRAJECTORIES]
        self.labels[:, TRAJECTORIES::5] = -1
        self.mask = (self.labels[:, :TRAJECTORIES, None] == self.labels[:, None])[:, None]

    def ours(self) -> Tensor:
        q, k, v = self.inputs
        return trajectory_attention(q, k, v, self.labels, self.labels[:, :TRAJECTORIES])

    def sdpa(self) -> Tensor:
        return F.scaled_dot_product_attention(*self.inputs, attn_mask=self.mask)

    def step(self, name: str) -> Step:
        return forward_and_backward(getattr(self, name), self.inputs, self.weight)


def check_roi_with_empty_slots(clips: int, device: torch.device, dtype: torch.dtype) -> None:
    case = RoiCase(clips, device, dtype)
    case.valid[:, ::5] = False
    check_roi(f"roi_align_max {case.sizes}", case, dtype, GRID)


def check_attention(clips: int, device: torch.device, dtype: torch.dtype) -> None:
    for case in (AttentionCase(clips, device, dtype), QueriesCase(clips, device, dtype)):
        check_operator(
            f"trajectory_attention {case.sizes} {case.inputs[0].shape[2]} queries", case, dtype, "ours", "sdpa"
        )


def check_costs(clips: int, device: torch.device, dtype: torch.dtype) -> None:
    case = AssignmentCase(clips, device)
    check_assignment(f"batched_assignment {case.sizes}", case.cost.to(dtype))


def check_activation(clips: int, device: torch.device, dtype: torch.dtype) -> None:
    shape = (clips * FRAMES, TOKENS_OF_A_FRAME, MLP_WIDTH)
    check_quick_gelu(f"quick_gelu {shape}", 3 * torch.randn(shape, device=device, dtype=dtype))


CHECKS: tuple[Callable[[int, torch.device, torch.dtype], None], ...] = (
    check_roi_with_empty_slots,
    check_attention,
    check_costs,
    check_activation,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 64])
    args = parser.parse_args()
    wrong = []
    for clips in args.clips:
        for dtype in (torch.float16, torch.bfloat16):
            for check in CHECKS:
                try:
                    check(clips, torch.device(args.device), dtype)
                except Exception as error:  # whatever it is, the other checks have their turn
                    wrong.append(" ".join(str(error).split())[:500])
                    print(f"WRONG {wrong[-1]}", flush=True)
    if wrong:
        sys.exit(f"{len(wrong)} wrong, first {wrong[0]}")
    print("all values are right")


if __name__ == "__main__":
    main()
