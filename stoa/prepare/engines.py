"""Where shards are made: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Literal

from stoa.parents import die_with_parent
from stoa.prepare.shard import ShardCounts, ShardTask, write_shard

Engine = Literal["local", "ray"]


def run(tasks: Sequence[ShardTask], engine: Engine, workers: int) -> Iterator[ShardCounts]:
    """Make the shards, in any order, and yield the counts of each.

    Raises:
        OSError: a disk is full or does not answer; shards that are done stay.
        ValueError: Ray is not installed.
    """
    if not tasks:
        return
    if engine == "ray":
        yield from _run_ray(tasks, workers)
    elif workers == 1 or len(tasks) == 1:
        yield from map(write_shard, tasks)
    else:
        yield from _run_local(tasks, workers)


def _run_local(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardCounts]:
    context = multiprocessing.get_context("spawn")
    # Workers that outlive a killed call would write to the files of the next one.
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=die_with_parent) as pool:
        futures = [pool.submit(write_shard, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run_ray(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardCounts]:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise ValueError(
            "--engine ray needs Ray, which is not installed: pip install '.[ray]' in the checkout"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    try:
        pickled = [{"task": pickle.dumps(task)} for task in tasks]
        shards = ray.data.from_items(pickled, override_num_blocks=len(tasks)).map(_ray_shard, concurrency=workers)
        for row in shards.iter_rows():
            yield ShardCounts(row["clips"], row["failed"])
    finally:
        if ours:
            ray.shutdown()


def _ray_shard(row: dict[str, Any]) -> dict[str, Any]:
    return write_shard(pickle.loads(row["task"]))._asdict()
