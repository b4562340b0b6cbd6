"""Trainings that are disturbed until they end, over and over: what they end with is what an undisturbed one ends with.

    python tests/soak.py --minutes 30        (make soak)
    python tests/soak.py --kills 100         (SIGKILL alone, so many times)

One process and two take turns. A disturbance kills all of a run or a part of it, asks it to end, fills its disk, starts
a second run in its folder, or stops a process that reads clips; some of the clips are damaged. After each of them the
newest checkpoint has to be sound and at most one interval behind, and no process may be left. Ends with status 1 where
one of that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from launch import Program, start_training
from resilience.families import lives
from safetensors.torch import load_file

from stoa.synthetic import SynthConfig, build_data_set
from stoa.training.checkpoint import damage, steps_in
from stoa.training.metrics import read_metrics

STEPS, SAVE_EVERY = 40, 5
END_SECONDS = 60
ARGUMENTS = (
    *("--training.max_steps", str(STEPS), "--training.save_every", str(SAVE_EVERY), "--data.num_workers", "1"),
    *("--training.hang_minutes", "0.5"),
)


def kill_all(run: Run) -> None:
    run.program.kill()


def kill_one(run: Run) -> None:
    """A rank, or what starts it."""
    run.choose("train.py").kill()


def kill_a_reader(run: Run) -> None:
    """A loader process, or what it decodes in: the run goes on, or ends."""
    readers = [
        member for member in run.members() if member.pid != run.program.pid and "train.py" not in name_of(member)
    ]
    run.rng.choice(readers or [psutil.Process(run.program.pid)]).kill()


def stop_a_reader(run: Run) -> None:
    readers = [member for member in run.members() if "train.py" not in name_of(member)]
    if readers:
        run.rng.choice(readers).suspend()


def ask(run: Run) -> None:
    number = run.rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
    run.choose("train.py").send_signal(number)


def fill_the_disk(run: Run) -> None:
    """No file grows beyond what a log takes."""
    for member in run.members():
        with contextlib.suppress(psutil.Error):
            member.rlimit(psutil.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def start_another(run: Run) -> None:
    other = run.start(1)
    other.wait(END_SECONDS + 60)
    assert other.code == 2 and "is being written by" in other.output[1], other.output
    assert run.program.code is None or run.program.code == 0, run.program.output


Disturbance = Callable[["Run"], None]
KILLS: tuple[Disturbance, ...] = (kill_all, kill_all, kill_one)
DISTURBANCES: tuple[Disturbance, ...] = (*KILLS, kill_a_reader, stop_a_reader, ask, fill_the_disk, start_another)


def name_of(member: psutil.Process) -> str:
    try:
        return " ".join(member.cmdline())
    except psutil.Error:
        return ""


class Run:
    """A training in a folder, started again until it ends."""

    def __init__(
        self, data: Path, folder: Path, processes: int, rng: random.Random, choices: Sequence[Disturbance] = ()
    ) -> None:
        self.data, self.folder, self.processes, self.rng, self.choices = data, folder, processes, rng, choices
        self.output = folder / "run"
        self.disturbed = Counter[str]()

    def start(self, processes: int) -> Program:
        manifest = self.data / "damaged.jsonl"
        return start_training(self.data, self.folder, self.output, *ARGUMENTS, manifest=manifest, processes=processes)

    def members(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [psutil.Process(self.program.pid), *self.program.children()]
        return []

    def choose(self, word: str) -> psutil.Process:
        found = [member for member in self.members() if word in name_of(member)]
        return self.rng.choice(found or [psutil.Process(self.program.pid)])

    def go(self, seconds: float) -> None:
        """Start it, disturb it within so many seconds, if it is to be disturbed, and look at what is left."""
        before = self.steps_saved()
        self.program = self.start(self.processes)
        members = self.members()
        if self.choices:
            deadline = time.monotonic() + self.rng.uniform(0, seconds)
            while time.monotonic() < deadline and self.program.code is None:
                time.sleep(0.05)
                members = list({*members, *self.members()})
            if self.program.code is None:
                disturb = self.rng.choice(self.choices)
                self.disturbed[disturb.__name__] += 1
                with contextlib.suppress(psutil.NoSuchProcess):
                    disturb(self)
        self.program.wait(60 * 10)
        self.look(members, before)

    def look(self, members: list[psutil.Process], before: int) -> None:
        deadline = time.monotonic() + END_SECONDS
        while (left := [member for member in members if lives(member)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"left behind: {[name_of(member) for member in left]}"
        out, err = self.program.output
        assert self.program.code == 0 or "Traceback" not in err, err
        there = steps_in(self.output / "checkpoints")
        problems = {path.name: damage(path) for path in there if damage(path) is not None}
        assert not problems, problems
        done = max((r["step"] for r in read_metrics(self.output / "metrics.jsonl")), default=0)
        saved = self.steps_saved()
        assert saved >= before and done - saved <= SAVE_EVERY, (
            f"saved {saved}, done {done}, before {before}\n{out}{err}"
        )

    def steps_saved(self) -> int:
        there = steps_in(self.output / "checkpoints")
        return int(there[-1].name.removeprefix("step-")) if there else 0

    def weights(self) -> dict[str, object]:
        return load_file(self.output / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")


def soak(folder: Path, minutes: float, kills: int | None, seed: int) -> int:
    data = folder / "data"
    config = SynthConfig(num_train=48, num_val=8, num_test=8, num_galleries=2, size=32, seconds=1.0)
    build_data_set(config, data, say=lambda line: None)
    _damage(data, random.Random(seed))
    undisturbed, seconds = {}, {}
    for processes in (1, 2):
        (folder / f"undisturbed-{processes}").mkdir()
        run = Run(data, folder / f"undisturbed-{processes}", processes, random.Random(0))
        begun = time.monotonic()
        run.go(0)
        assert run.program.code == 0, run.program.output
        undisturbed[processes], seconds[processes] = run.weights(), time.monotonic() - begun
    print(f"undisturbed: {seconds[1]:.0f} s with one process, {seconds[2]:.0f} s with two", flush=True)
    deadline, rounds, all_disturbed = time.monotonic() + 60 * minutes, 0, Counter[str]()
    choices = DISTURBANCES if kills is None else KILLS

    def over() -> bool:
        return time.monotonic() > deadline if kills is None else sum(all_disturbed.values()) >= kills

    while not over():
        processes = 1 + rounds % 2
        where = folder / "disturbed"
        where.mkdir()
        run = Run(data, where, processes, random.Random(f"{seed}-{rounds}"), choices)
        while run.steps_saved() < STEPS:
            run.go(seconds[processes])
            if over():
                run.choices = ()
        same = all(bool((value == undisturbed[processes][name]).all()) for name, value in run.weights().items())
        print(f"round {rounds}, {processes} process(es): {dict(run.disturbed)}, same bits: {same}", flush=True)
        all_disturbed += run.disturbed
        if not same:
            return 1
        shutil.rmtree(where)
        rounds += 1
    print(json.dumps({"rounds": rounds, "disturbances": sum(all_disturbed.values()), **all_disturbed}))
    return 0


def _damage(data: Path, rng: random.Random) -> None:
    """Every twelfth video is cut short, in a data set of its own."""
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    (data / "cut").mkdir()
    for number, row in enumerate(rows):
        if number % 12 == 5 and row["split"] == "train":
            video = data / row["video"]
            cut = data / "cut" / f"{number}{video.suffix}"
            content = video.read_bytes()
            cut.write_bytes(content[: rng.randrange(len(content) // 4, len(content) // 2)])
            row["video"] = str(cut.relative_to(data))
    (data / "damaged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, help="in place of a time and of other disturbances")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stoa-soak-") as folder:
        return soak(Path(folder), arguments.minutes, arguments.kills, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
