"""Operators of stoa: compiled in stoa._C, with a readable PyTorch reference each.

The functions here check their arguments first. Compiled, each is `torch.ops.stoa.<name>`, one node to fake tensors,
torch.compile and torch.export. Without the extension `batched_assignment`, whose loops no graph can hold, is one still;
the others are what their references consist of.
"""

from stoa.ops._extension import build_info
from stoa.ops.batched_assignment import batched_assignment
from stoa.ops.quick_gelu import quick_gelu
from stoa.ops.roi_align_max import roi_align_max
from stoa.ops.trajectory_attention import trajectory_attention

__all__ = ["batched_assignment", "build_info", "quick_gelu", "roi_align_max", "trajectory_attention"]
