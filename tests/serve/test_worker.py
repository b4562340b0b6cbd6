"""One job after the other, and what becomes of those that nobody waits for."""

import asyncio
import threading
import time

import pytest

from stoa.serve.refusing import Refused
from stoa.serve.worker import Worker


@pytest.fixture
def worker():
    worker = Worker("test", 2)
    yield worker
    worker.close()


async def stays() -> bool:
    return False


def test_results_and_errors_come_back(worker):
    def fail():
        raise ValueError("no")

    async def ask():
        assert await worker.do(lambda: 7, seconds=10, gone=stays) == 7
        with pytest.raises(ValueError, match="no"):
            await worker.do(fail, seconds=10, gone=stays)
        jobs = [worker.do(lambda: threading.current_thread().name, seconds=10, gone=stays) for _ in range(2)]
        assert await asyncio.gather(*jobs) == ["test", "test"]

    asyncio.run(ask())


def test_it_is_full_until_a_job_ends(worker):
    hold = threading.Event()

    async def ask():
        first = asyncio.create_task(worker.do(hold.wait, seconds=10, gone=stays))
        second = asyncio.create_task(worker.do(lambda: 2, seconds=10, gone=stays))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await worker.do(lambda: 3, seconds=10, gone=stays)
        assert refused.value.status == 503 and refused.value.headers["Retry-After"] == "5"
        hold.set()
        assert await asyncio.gather(first, second) == [True, 2]
        assert await worker.do(lambda: 3, seconds=10, gone=stays) == 3

    asyncio.run(ask())


@pytest.mark.parametrize("leaves", [False, True])
def test_what_nobody_waits_for_is_never_begun(worker, leaves):
    hold, begun = threading.Event(), threading.Event()

    async def gone() -> bool:
        return leaves

    async def ask():
        first = asyncio.create_task(worker.do(hold.wait, seconds=10, gone=stays))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="Nobody" if leaves else "longer than 0.05 s") as refused:
            await worker.do(begun.set, seconds=0.05, gone=gone)
        assert refused.value.status == (499 if leaves else 503)
        hold.set()
        await first
        assert await worker.do(lambda: 1, seconds=10, gone=stays) == 1

    asyncio.run(ask())
    assert not begun.is_set()


def test_a_job_that_is_given_up_counts_until_it_ends(worker):
    hold = threading.Event()

    async def ask():
        for _ in range(2):
            with pytest.raises(Refused, match="longer"):
                await worker.do(hold.wait, seconds=0.05, gone=stays)
        # The second one was never begun; the first still is at it, so one more may wait.
        waiting = asyncio.create_task(worker.do(lambda: 1, seconds=10, gone=stays))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="busy"):
            await worker.do(lambda: 2, seconds=10, gone=stays)
        hold.set()
        assert await waiting == 1

    asyncio.run(ask())


def test_it_does_not_wait_for_ever_at_the_end(monkeypatch):
    monkeypatch.setattr("stoa.serve.worker._END_SECONDS", 0.1)
    worker, hold = Worker("test", 1), threading.Event()

    async def ask():
        with pytest.raises(Refused, match="longer"):
            await worker.do(hold.wait, seconds=0.05, gone=stays)

    asyncio.run(ask())
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 5
    hold.set()
