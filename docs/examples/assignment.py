"""Matching as in DETR: every target to the prediction that fits it best, a whole batch at once."""

import torch
from torch.nn import functional as F

from stoa.ops import batched_assignment

torch.manual_seed(0)
predicted = torch.rand(3, 6, 2, requires_grad=True)  # six points for each of three pictures
targets = torch.rand(3, 4, 2)
num_targets = torch.tensor([4, 2, 0])  # the pictures show 4, 2 and none; what is behind them is padding

cost = torch.cdist(targets, predicted.detach())
column, infeasible = batched_assignment(cost, num_rows=num_targets)
print("prediction of each target, -1 for padding:")
print(column)
print("no match possible:", infeasible.tolist())

matched = column >= 0
chosen = predicted.gather(1, column.clamp(min=0)[..., None].expand(-1, -1, 2))
loss = F.l1_loss(chosen[matched], targets[matched])
loss.backward()
print(f"loss {loss.item():.3f}; {int((predicted.grad != 0).any(dim=-1).sum())} of 18 predictions have a gradient")

cost[1, 0] = torch.inf  # the first target of the second picture fits nothing
print("with a row that fits nothing:", batched_assignment(cost, num_rows=num_targets)[1].tolist())
