"""torchrun for one node, whose end is that of the process that failed first: its status, and its line once more.

What torchrun would wait for by itself, the other nodes at the address of the first, is waited for before, with a limit
(``STOA_START_MINUTES``) and words of its own. The arguments are torchrun's.
"""

from __future__ import annotations

import logging
import signal
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch.distributed import run  # noqa: E402
from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: E402
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure  # noqa: E402

from stoa.endings import Status  # noqa: E402
from stoa.training.processes import Place, meet, port_taken, start_limit  # noqa: E402

NAME = "cluster/node.sh"
_OF_OTHERS = (Status.LOST, Status.INTERRUPTED, -signal.SIGTERM)


def main() -> int:
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says is said here
    arguments = run.parse_args(None)
    try:
        nodes = int(arguments.nnodes)
        meeting = nodes > 1 and meet(_node(arguments, nodes))
        arguments.rdzv_conf = f"timeout={max(1, start_limit().total_seconds()):.0f}"
    except ValueError as error:
        return _say(f"error: {error}", Status.BAD_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted", Status.INTERRUPTED)
    try:
        run.run(arguments)
    except ChildFailedError as error:
        return _as_first_failure(error.failures)
    except SignalException as error:
        return _say(f"ended by {error.sigval.name}, as are its processes", 128 + error.sigval)
    except RuntimeError as error:  # of its store
        said = str(error).strip().splitlines()[0]
        return _say(f"error: {port_taken(arguments.master_port) if 'EADDRINUSE' in said else said}", Status.BAD_INPUT)
    del meeting  # which keeps the server of node 0 until here
    return Status.GOOD


def _node(arguments: Namespace, nodes: int) -> Place:
    return Place(arguments.node_rank, 0, nodes, arguments.master_addr, arguments.master_port, kind="node")


def _as_first_failure(failures: dict[int, ProcessFailure]) -> int:
    """Those that were ended, or that have lost another, are not the cause."""
    causes = {rank: one for rank, one in failures.items() if one.exitcode not in _OF_OTHERS} or failures
    rank = min(causes, key=lambda rank: causes[rank].timestamp)
    status, told = causes[rank].exitcode, causes[rank].message
    if status < 0:
        return _say(f"rank {rank} was ended by {causes[rank].signal_name()}, and with it all others", 128 - status)
    meaning = {known.value: f" ({known.said})" for known in Status}.get(status, "")
    said = told["message"] if isinstance(told, dict) else "see above"
    return _say(f"rank {rank} ended with status {status}{meaning}, and with it all others: {said}", status)


def _say(line: str, status: int) -> int:
    print(f"{NAME}: {line}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
