"""Operators of stoa: compiled in stoa._C, with a readable PyTorch reference each.

They are registered as `torch.ops.stoa.<name>` whether the extension is there or not, so that fake tensors,
torch.compile and torch.export see one and the same operator. The functions here check their arguments first.
"""

from stoa.ops._extension import build_info
from stoa.ops.batched_assignment import batched_assignment
from stoa.ops.roi_align_max import roi_align_max
from stoa.ops.trajectory_attention import trajectory_attention

__all__ = ["batched_assignment", "build_info", "roi_align_max", "trajectory_attention"]
