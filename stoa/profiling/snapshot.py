"""What a GPU's memory held when it did not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def memory_snapshot(device: torch.device, path: Path) -> Iterator[None]:
    """Where a GPU's memory does not suffice, write the allocations of the time, and by which lines of code.

    Raises:
        ValueError: it does not suffice; the message names the file.
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.memory._record_memory_history()
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.memory._dump_snapshot(str(path))
        raise ValueError(
            f"the memory of the GPU does not suffice ({str(error).splitlines()[0]}); lower "
            f"train_micro_batch_size_per_gpu, or set model.activation_checkpointing; {path} shows what it held "
            "(open it at pytorch.org/memory_viz)"
        ) from None
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
