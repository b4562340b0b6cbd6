"""How a command that fails says so and leaves."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def complain(command: str, message: str) -> None:
    """One line on stderr, with the rank where there are several."""
    rank = f"rank {os.environ.get('RANK', '?')}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    print(f"{command}: {rank}{message}", file=sys.stderr, flush=True)


def complain_once(command: str, message: str) -> None:
    """One line on stderr for a mistake that all ranks make alike."""
    rank = os.environ.get("RANK", "")
    if not rank.isdecimal() or int(rank) == 0:
        print(f"{command}: {message}", file=sys.stderr, flush=True)


def run_and_leave(main: Callable[[], int]) -> None:
    """End the process with the status that ``main`` returns, or with 1 and the traceback of what it raises.

    After a failure no clean-up waits for other ranks in a collective, or for loader processes.
    """
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
