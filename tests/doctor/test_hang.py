"""``stoa doctor --hang``: dumps of real processes on gloo, and generated ones as NCCL writes them."""

import json
import os
import pickle
import sys
from pathlib import Path, PurePath

import pytest
from launch import Program, finish, free_port

from stoa.cli import main
from stoa.doctor import flight_recorder

WORKER = str(Path(__file__).parent / "flight_worker.py")


@pytest.fixture
def told(tmp_path, capsys):
    """Status, and verdicts by group, of the dumps in a folder."""

    def tell(folder=tmp_path):
        status = main(["doctor", "--hang", str(folder), "--json"])
        out = json.loads(capsys.readouterr().out)
        assert status == (0 if out["good"] else 1)
        return status, {one["group"]: one for one in out["groups"]}

    return tell


@pytest.fixture
def refused(capsys):
    def refuse(folder):
        assert main(["doctor", "--hang", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("stoa doctor: error: ")
        return line

    return refuse


def two_processes(how, folder):
    port = str(free_port())
    settings = {"TORCH_FR_BUFFER_SIZE": "100", "TORCH_FR_DUMP_TEMP_FILE": str(folder / "rank_")}
    programs = [Program([WORKER, how, str(rank), port, str(folder)], folder, **settings) for rank in (0, 1)]
    for program in programs:
        finish(program)


@pytest.mark.dist
def test_a_rank_that_missed_a_collective(tmp_path, told, capsys):
    two_processes("missed", tmp_path)
    status, groups = told()
    assert status == 1
    assert groups["group 0 (default_pg)"]["kind"] == "agree"
    few = groups["group 1 (few)"]
    assert (few["kind"], few["sequence"], list(few["entered"]), list(few["missing"])) == ("missed", 2, ["0"], ["1"])
    assert few["entered"]["0"]["operation"] == "all_reduce" and few["entered"]["0"]["sizes"] == [[5, 2]]
    main(["doctor", "--hang", str(tmp_path)])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(
        "BAD  group 1 (few)         collective 2, all_reduce of [5, 2] Float at doctor/flight_worker"
    )
    assert " in reduce, called at doctor/flight_worker.py:" in line
    assert (
        ": entered by rank 0, not by rank 1 (last in collective 4 of group 0 (default_pg), barrier at doctor/" in line
    )


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("how", ["mismatch", "sizes", "agree", "json"])
def test_ranks_that_entered_others(tmp_path, told, how):
    two_processes(how, tmp_path)
    status, groups = told()
    default = groups["group 0 (default_pg)"]
    if how in ("agree", "json"):
        assert status == 0 and {one["kind"] for one in groups.values()} == {"agree"}
    else:
        assert (status, default["kind"], default["sequence"]) == (1, "mismatch", 5)
        assert "all_reduce of [8] Float" in default["said"] and "on rank 1" in default["said"]
        assert ("broadcast of [7]" if how == "mismatch" else "all_reduce of [4]") in default["said"]


class Recorder:
    """A rank's dump as NCCL writes it."""

    def __init__(self, groups, first=0):
        self.entries, self.first, self.sequences = [], first, {}
        self.config = {name: {"name": name, "desc": f"d{name}", "ranks": str(ranks)} for name, ranks in groups.items()}

    def enter(self, operation, group="0", sizes=((4,),), state="completed", **fields):
        number = self.sequences[group] = self.sequences.get(group, 0) + 1
        entry = {
            "record_id": self.first + len(self.entries),
            "process_group": (group, f"d{group}"),
            "collective_seq_id": number,
            "is_p2p": False,
            "profiling_name": f"nccl:{operation}",
            "input_sizes": [list(size) for size in sizes],
            "input_dtypes": ["Half" for _ in sizes],
            "output_sizes": [],
            "output_dtypes": [],
            "state": state,
            "retired": state == "completed",
            "frames": [],
        }
        self.entries.append(entry | fields)
        return self

    @property
    def dump(self):
        return {"version": "2.10", "entries": self.entries, "pg_config": self.config, "pg_status": {}}


def write(folder, recorders):
    folder.mkdir(exist_ok=True)
    for rank, recorder in recorders.items():
        (folder / f"rank_{rank}").write_bytes(pickle.dumps(recorder.dump, protocol=2))


def on(number, **settings):
    return {rank: Recorder({"0": list(range(number))}, **settings) for rank in range(number)}


@pytest.mark.parametrize("late", [[0], [3], [1, 2, 5], [0, 1, 2, 3, 4, 6, 7]])
def test_ranks_that_missed_one_are_told_from_those_that_queued_more(tmp_path, told, late):
    ranks = on(8)
    for rank, recorder in ranks.items():
        recorder.enter("all_reduce")
        if rank not in late:
            recorder.enter("_all_gather_base", state="started")
            for _ in range(rank):
                recorder.enter("all_reduce", state="scheduled")
    write(tmp_path, ranks)
    status, groups = told()
    verdict = groups["group 0 (d0)"]
    assert (status, verdict["kind"], verdict["sequence"]) == (1, "missed", 2)
    assert sorted(map(int, verdict["missing"])) == late
    assert all(last["sequence"] == 1 for last in verdict["missing"].values())


def test_a_rank_that_entered_none_is_missed_in_a_group_that_others_tell_of(tmp_path, told):
    ranks = {rank: Recorder({"0": [0, 1, 2], "7": [0, 2]} if rank != 2 else {"0": [0, 1, 2]}) for rank in range(3)}
    for recorder in ranks.values():
        recorder.enter("all_reduce")
    ranks[0].enter("broadcast", "7", state="started")
    write(tmp_path, ranks)
    _, groups = told()
    assert groups["group 0 (d0)"]["kind"] == "agree"
    assert list(groups["group 7 (d7)"]["missing"]) == ["2"], "rank 1 is no member"
    ranks[2].entries.clear()
    write(tmp_path, ranks)
    assert "rank 2 (which entered none)" in told()[1]["group 0 (d0)"]["said"]


def test_one_that_all_entered_and_a_gpu_did_not_begin(tmp_path, told):
    ranks = on(4)
    for rank, recorder in ranks.items():
        recorder.enter("all_reduce").enter("all_reduce", state="scheduled" if rank == 2 else "started")
    write(tmp_path, ranks)
    status, groups = told()
    assert (status, groups["group 0 (d0)"]["kind"]) == (1, "unfinished")
    assert "entered by all 4 ranks, not finished on ranks 0-3; not begun on rank 2" in groups["group 0 (d0)"]["said"]


def test_what_a_recorder_has_overwritten_is_not_missed(tmp_path, told):
    """Rank 1 is one ahead in another group: its record of the seldom one is gone."""
    ranks = on(2, first=1)
    ranks[1].config["1"] = ranks[0].config["1"] = {"name": "1", "desc": "d1", "ranks": "[0, 1]"}
    ranks[0].enter("all_reduce", "1").enter("broadcast").enter("broadcast")
    ranks[1].first = 2
    ranks[1].enter("broadcast").enter("broadcast")
    write(tmp_path, ranks)
    assert told()[0] == 0
    ranks[0].entries[0]["state"] = "started"
    write(tmp_path, ranks)
    assert list(told()[1]["group 1 (d1)"]["missing"]) == ["1"], "it waits for rank 1"


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ({"sizes": ((4, 2),)}, {"sizes": ((8,),)}, "agree"),
        ({"sizes": ((4,), (3,))}, {"sizes": ((4,), (5,))}, "mismatch"),
        ({"input_dtypes": ["Float"]}, {"input_dtypes": ["Half"]}, "mismatch"),
        ({"operation": "all_to_all", "sizes": ((4,),)}, {"operation": "all_to_all", "sizes": ((6,),)}, "agree"),
        ({"operation": "scatter", "sizes": ((4,), (4,))}, {"operation": "scatter", "sizes": ()}, "agree"),
        ({"operation": "send 0->1", "is_p2p": True}, {"operation": "recv 1<-0", "is_p2p": True}, "agree"),
    ],
)
def test_what_has_to_be_alike(tmp_path, told, one, other, kind):
    ranks = on(2)
    for recorder, fields in zip(ranks.values(), (one, other), strict=True):
        recorder.enter("broadcast").enter(**{"operation": "all_reduce"} | fields)
    write(tmp_path, ranks)
    assert told()[1]["group 0 (d0)"]["kind"] == kind


def test_folders_without_the_dumps_of_all(tmp_path, refused):
    assert "no such folder" in refused(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    assert "no dumps, as rank_0" in refused(tmp_path)
    write(tmp_path, {rank: one.enter("all_reduce") for rank, one in on(6).items() if rank not in (0, 3, 4)})
    assert "no dump of ranks 0, 3-4; copy those of all machines here" in refused(tmp_path)
    write(tmp_path / "empty", on(2))
    assert "hold no collectives" in refused(tmp_path / "empty")
    write(tmp_path / "twice", on(2))
    (tmp_path / "twice" / "old_1").write_bytes(b"")
    assert "old_1 and rank_1 are both of rank 1" in refused(tmp_path / "twice")


def test_damaged_dumps(tmp_path, refused):
    ranks = {rank: one.enter("all_reduce") for rank, one in on(2).items()}
    whole = pickle.dumps(ranks[1].dump, protocol=2)
    other = [pickle.dumps(value) for value in (None, 3, [], {}, {"entries": [{}]}, ranks[1].dump | {"entries": [[]]})]
    no_json = [b"{", b'{"entries": 1}', json.dumps(ranks[1].dump).encode()[:-5]]
    shortened = [whole[:end] for end in range(0, len(whole), max(1, len(whole) // 40))]
    for content in (*shortened, *other, *no_json, b"\0" * 64, os.urandom(200), b"r\xff\xff\xff\x7f."):
        write(tmp_path, ranks)
        (tmp_path / "rank_1").write_bytes(content)
        assert str(tmp_path / "rank_1") in refused(tmp_path)


def test_a_dump_runs_nothing(tmp_path, refused):
    class Planted:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    write(tmp_path, {rank: one.enter("all_reduce") for rank, one in on(2).items()})
    (tmp_path / "rank_0").write_bytes(pickle.dumps(Planted()))
    assert "mkdir; a dump is of plain values only" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_lines_of_libraries_are_passed_over():
    packages = f"{sys.prefix}/lib/python3.11/site-packages"
    files = (f"{packages}/torch/x.py", "/usr/lib/python3.11/threading.py", "<frozen runpy>", f"{packages}/stoa/a/b.py")
    frames = [
        {"filename": name, "line": line, "name": "f"} for line, name in enumerate((*files, "/home/stoa/train.py"))
    ]
    assert flight_recorder._where(frames) == ("stoa/a/b.py:3 in f", "stoa/train.py:4 in f")


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("/a/stoa/stoa/training/trainer.py", "stoa/training/trainer.py"),
        ("/lib/python3.11/site-packages/stoa/run.py", "stoa/run.py"),
        ("/a/stoa/tests/doctor/flight_worker.py", "doctor/flight_worker.py"),
        ("/a/stoa/train.py", "stoa/train.py"),
        ("/a/other/train.py", "other/train.py"),
    ],
)
def test_files_are_told_from_the_package_on(file, shown):
    """Whatever a checkout is called."""
    assert flight_recorder._short(PurePath(file)) == shown
