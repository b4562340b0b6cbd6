"""One of two ranks that come apart, each of which leaves a dump: flight_worker.py HOW RANK PORT FOLDER."""

import json
import os
import sys

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace_file, _dump_fr_trace_json

how, rank, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


def reduce(values, **settings):
    return dist.all_reduce(values, async_op=True, **settings)


dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
few = dist.new_group([0, 1], group_desc="few")
for _ in range(3):
    reduce(torch.zeros(4)).wait()
dist.broadcast(torch.zeros(2, 3), 0, group=few)
dist.barrier()
while not all(one["retired"] for one in json.loads(_dump_fr_trace_json())["entries"]):  # by another thread
    pass
if how == "missed" and rank == 0:
    reduce(torch.zeros(5, 2), group=few)
elif how == "mismatch":
    reduce(torch.zeros(8)) if rank else dist.broadcast(torch.zeros(7), 0, async_op=True)
elif how == "sizes":
    reduce(torch.zeros(4 + 4 * rank))
if how == "json":
    with open(os.path.join(folder, f"rank_{rank}.json"), "wb") as file:
        file.write(_dump_fr_trace_json())
else:
    _dump_fr_trace_file(rank, includeStackTraces=True)
with open(os.path.join(folder, f"left-by-{rank}."), "w"):  # both stay until both are through
    while len([name for name in os.listdir(folder) if name.startswith("left-by")]) < 2:
        pass
os._exit(0)  # what was begun never ends
