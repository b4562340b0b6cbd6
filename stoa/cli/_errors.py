"""How a command that fails says so and leaves."""

from __future__ import annotations

import os
import sys


def complain(command: str, message: str) -> None:
    """One line on stderr, with the rank where there are several."""
    rank = f"rank {os.environ['RANK']}: " if _many() else ""
    print(f"{command}: {rank}{message}", file=sys.stderr, flush=True)


def complain_once(command: str, message: str) -> None:
    """One line on stderr for a mistake that all ranks make alike."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{command}: {message}", file=sys.stderr, flush=True)


def leave(code: int) -> None:
    """End the process. After an error no clean-up waits for other ranks in a collective, or for loader processes."""
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _many() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
