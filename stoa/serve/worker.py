"""One thread that does one thing after the other, for requests that may give up."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

from stoa.serve.refusing import Refused

T = TypeVar("T")
_LOOK_SECONDS = 0.25
_RETRY_SECONDS = 5
_END_SECONDS = 5.0
_Job = tuple[Future, Callable[[], object]]


class Worker:
    """A model answers one question at a time, so that two do not take twice the memory.

    Args:
        name: of its thread.
        waiting: jobs that are waiting or being done; what nobody waits for any more counts while it is being done.
    """

    def __init__(self, name: str, waiting: int) -> None:
        self._most, self._unfinished = waiting, 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # A daemon: what it is at does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def do(self, job: Callable[[], T], *, seconds: float, gone: Callable[[], Awaitable[bool]]) -> T:
        """Wait for what the thread makes of a job.

        Args:
            job: what to do. One that has not begun when the waiting ends is never begun.
            seconds: to wait.
            gone: whether whoever asked has left.

        Raises:
            Refused: there is too much to do already, or the time is over; or nobody is there to read this.
        """
        with self._lock:
            if self._unfinished >= self._most:
                raise Refused(503, "The model is busy. Try again in a moment.", {"Retry-After": str(_RETRY_SECONDS)})
            self._unfinished += 1
        future: Future[T] = Future()
        future.add_done_callback(self._finished)
        done = _event_of(future)
        self._jobs.put((future, job))
        ends = time.monotonic() + seconds
        try:
            while not future.done():
                left = ends - time.monotonic()
                if left <= 0:
                    raise Refused(503, f"This took longer than {seconds:g} s and was given up.")
                if await gone():
                    raise Refused(499, "Nobody waits for this any more.")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), min(left, _LOOK_SECONDS))
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """End the thread, or leave it to what it is at."""
        self._jobs.put(None)
        self._thread.join(_END_SECONDS)

    def _finished(self, _: Future) -> None:
        with self._lock:
            self._unfinished -= 1

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            future, job = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del entry, future, job  # or it is held until the next one comes


def _event_of(future: Future) -> asyncio.Event:
    """Set in this loop once a future is done."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: Future) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(tell)
    return done
