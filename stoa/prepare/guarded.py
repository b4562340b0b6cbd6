"""Work on many files at once, each in a process that may crash or hang."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from stoa.data.decoding.guard import Guard

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_guards(
    tasks: Iterable[Task], work: Callable[[Guard, Task], Result], *, workers: int, timeout_seconds: float
) -> Iterator[Result]:
    """``work(guard, task)`` of every task, in the order they end. Tasks are drawn as they are wanted.

    Args:
        tasks: of any number.
        work: called in a thread, of which each has its guard.
        workers: threads.
        timeout_seconds: of a guard's call.

    Raises:
        Exception: what ``work`` raises; nothing is begun after it, nor after the caller is interrupted.
    """
    todo: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[Callable[[], Result]] = queue.SimpleQueue()
    ended = threading.Event()

    def serve() -> None:
        guard = Guard(timeout_seconds)
        while (task := todo.get()) is not None and not ended.is_set():
            done.put(_outcome(work, guard, task))
        guard.close()

    # A process that ends does not wait for daemons, and its helpers end with it.
    threads = [threading.Thread(target=serve, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    coming, in_flight = iter(tasks), 0
    try:
        while True:
            while in_flight < 2 * workers and (task := next(coming, None)) is not None:
                todo.put(task)
                in_flight += 1
            if not in_flight:
                break
            outcome = done.get()
            in_flight -= 1
            yield outcome()
    finally:
        ended.set()
        for _ in threads:
            todo.put(None)
    for thread in threads:
        thread.join()


def _outcome(work: Callable[[Guard, Task], Result], guard: Guard, task: Task) -> Callable[[], Result]:
    """Gives what the work gave, or raises what it raised."""
    try:
        result = work(guard, task)
    except BaseException as error:
        failure = error

        def fail() -> Result:
            raise failure

        return fail
    return lambda: result
