"""Object tokens in a model of your own: boxes pooled from a ViT's patches, then attention along each object."""

import torch
from torch import nn

from stoa.ops import roi_align_max, trajectory_attention


class ObjectTokens(nn.Module):
    """Patches (B, T, P, C) and boxes (B, T, K, 4) with labels (B, T, K), -1 for none -> tokens (B, T * K, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, patches, boxes, labels, grid_hw):
        B, T, K = labels.shape
        pooled, _ = roi_align_max(
            patches.flatten(0, 1), boxes.flatten(0, 1), labels.flatten(0, 1) >= 0, grid_hw=grid_hw
        )
        x = pooled.view(B, T * K, -1)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = trajectory_attention(q, k, v, labels.flatten(1))  # boxes of one label see each other in all frames
        return x + self.out(seen.transpose(1, 2).flatten(2))


torch.manual_seed(0)
B, T, K, grid_hw, width = 2, 4, 3, (7, 7), 64
patches = torch.randn(B, T, 49, width, requires_grad=True)
boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.4, 0.2, 0.9, 0.6], [0.0, 0.0, 0.0, 0.0]]).expand(B, T, K, 4)
labels = torch.tensor([3, 8, -1]).expand(B, T, K)  # two objects; the third slot is empty

model = ObjectTokens(width, heads=4)
tokens = model(patches, boxes, labels, grid_hw)
tokens.square().mean().backward()
reached = patches.grad.abs().sum(dim=-1).view(B, T, *grid_hw)[0, 0] > 0
print("tokens", tuple(tokens.shape))
print("patches that the gradient reaches, first frame:")
print("\n".join(" ".join("x" if one else "." for one in row) for row in reached.tolist()))
