"""Crafted checkpoints, weights, stores, videos, archives and recipes, each given to the commands that read it: none
runs code, calls another machine, or reads or writes outside of its folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crafted import boxes, tar_piece
from data_sets import made_once
from factories import gray_frames, write_video
from launch import ROOT, finish, start_training
from member_mutations import pieces_of, write_store
from stores import small_stores
from test_one_local_file import Listener, names_others

from stoa.cli import main
from stoa.data.members import tar_members
from stoa.manifest import Caption, ClipRow
from stoa.tensor_files import read_tensors

STEP = Path("checkpoints/step-00000002")


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Place:
    """The folder of a case, with what it may ruin beside it."""

    def __init__(self, folder: Path, sound: Path, port: int) -> None:
        self.sound, self.port = sound, port
        self.inside, self.outside = folder / "inside", folder / "outside"
        self.marker = self.outside / "code-has-run"
        self.inside.mkdir(parents=True)
        self.outside.mkdir()
        self.secret = write_video(self.outside / "secret.ts", gray_frames(8))
        self.payload = pickle.dumps(Payload(self.marker))

    def run(self) -> Path:
        """A sound run of two steps, to change."""
        shutil.copytree(self.sound / "run" / STEP, self.inside / "run" / STEP)
        return self.inside / "run" / STEP

    def store(self, kind: str = "frames") -> Path:
        return Path(shutil.copytree(self.sound / "clips" / "out" / kind, self.inside / kind))

    def seal(self, step: Path, **sums: str) -> list[list[str]]:
        """With right sums, but for those given; and the commands that read a checkpoint."""
        files = {path.relative_to(step).as_posix(): path for path in step.rglob("*") if path.is_file()}
        files.pop("manifest.json")
        right = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        (step / "manifest.json").write_text(json.dumps({"sha256": {**right, **sums}}))
        run = str(step.parent.parent)
        manifest = str(self.sound / "data" / "manifest.jsonl")
        return [
            ["ckpt", "ls", run],
            ["ckpt", "verify", run],
            ["ckpt", "convert", run, str(self.inside / "converted"), "--processes", "2"],
            ["evaluate", "--run", run, "--manifest", manifest, "--num_workers", "0", "--baseline", "false"],
            ["export", "--run", run, "--out", str(self.inside / "exported")],
            ["ckpt", "prune", run, "--keep", "1"],
        ]

    def check(self, data: Path) -> list[list[str]]:
        return [["data", "check", str(data), "--ledger", str(self.inside / "check.jsonl")]]

    def video(self, name: str, content: bytes) -> list[list[str]]:
        (self.inside / name).write_bytes(content)
        manifest = self.manifest(name)
        out = self.inside / "out"
        prepared = ["--annotations", str(manifest), "--videos", str(self.inside), "--spacy", "null", "--out", str(out)]
        return [*self.check(manifest), ["prepare", *prepared]]

    def manifest(self, video: str, **more: object) -> Path:
        path = self.inside / "manifest.jsonl"
        path.write_text(json.dumps({"id": "a", "video": video, "caption": "x", **more}) + "\n")
        return path


def pickled_states(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "states" / "rank-00001.pt").write_bytes(place.payload)
    return place.seal(step)


def pickled_weights(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "model.safetensors").write_bytes(place.payload)
    return place.seal(step)


def saved_weights(place: Place) -> list[list[str]]:
    step = place.run()
    torch.save({"weight": Payload(place.marker)}, step / "model.safetensors")
    return place.seal(step)


def pickled_engine(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "states" / "engine.json").write_bytes(place.payload)
    return place.seal(step)


def sums_of_nothing(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "extra.pt").write_bytes(place.payload)
    commands = place.seal(step)
    (step / "manifest.json").write_text('{"sha256": {}}')
    return commands


def sums_of_others(place: Place) -> list[list[str]]:
    return place.seal(place.run(), **{"../../../../outside/secret.ts": hashlib.sha256(b"").hexdigest()})


def sums_of_the_system(place: Place) -> list[list[str]]:
    return place.seal(place.run(), **{str(place.secret): hashlib.sha256(place.secret.read_bytes()).hexdigest()})


def linked_weights(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "model.safetensors").rename(place.outside / "weights")
    (step / "model.safetensors").symlink_to(place.outside / "weights")
    return place.seal(step)


def linked_states(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "states").rename(place.outside / "states")
    (step / "states").symlink_to(place.outside / "states")
    return place.seal(step)


def linked_list(place: Place) -> list[list[str]]:
    step = place.run()
    commands = place.seal(step)
    (step / "manifest.json").rename(place.outside / "list")
    (step / "manifest.json").symlink_to(place.outside / "list")
    return commands


def linked_step(place: Place) -> list[list[str]]:
    """An older checkpoint that is a folder of somebody else, and would be deleted."""
    commands = place.seal(place.run())
    (place.outside / "precious").mkdir()
    (place.outside / "precious" / "file").write_text("x")
    (place.inside / "run" / "checkpoints" / "step-00000001").symlink_to(place.outside / "precious")
    return commands


def run_of_links(name: str) -> Callable[[Place], list[list[str]]]:
    """A run in which a name that a training writes to leads elsewhere."""

    def made(place: Place) -> list[list[str]]:
        commands = place.seal(place.run())
        run, elsewhere = place.inside / "run", place.outside / "elsewhere"
        if name == "checkpoints":
            (run / name).rename(elsewhere)
        else:
            elsewhere.write_text("precious")
        (run / name).symlink_to(elsewhere)
        pictures = [["curves", "--run", str(run), "--out", str(run / "c.png")], ["report", str(run)]]
        return [*commands, ["ckpt", "prune", str(run)], *pictures]

    return made


def facts_that_are(make: Callable[[Path, Place], None], name: str = "run.json") -> Callable[[Place], list[list[str]]]:
    """A file of a checkpoint that is none, or without end."""

    def made(place: Place) -> list[list[str]]:
        step = place.run()
        commands = place.seal(step)
        (step / name).unlink()
        make(step / name, place)
        return commands

    return made


def sparse(gib: int) -> Callable[[Path, Place], None]:
    def make(path: Path, place: Place) -> None:
        with open(path, "wb") as file:
            file.truncate(gib << 30)

    return make


def sizes(**model: object) -> Callable[[Place], list[list[str]]]:
    """Right sums, and a model that nothing has room for."""

    def made(place: Place) -> list[list[str]]:
        step = place.run()
        facts = json.loads((step / "run.json").read_text())
        for dotted, value in model.items():
            *groups, key = dotted.split("__")
            inner = facts if groups[:1] == ["facts"] else facts["config"]["model"]
            for group in [group for group in groups if group != "facts"]:
                inner = inner[group]
            inner[key] = value
        (step / "run.json").write_text(json.dumps(facts))
        return place.seal(step)

    return made


def ledger_of_somebody(place: Place) -> list[list[str]]:
    """A file that is no ledger must stay."""
    write_video(place.inside / "v.mp4", gray_frames(8))
    (place.outside / "precious.json").write_text('{"precious": 1}')
    return [["data", "check", str(place.manifest("v.mp4")), "--ledger", str(place.outside / "precious.json")]]


def endless_header(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    return place.seal(step)


def deep_facts(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "run.json").write_text('{"config": ' * 50_000 + "1" + "}" * 50_000)
    return place.seal(step)


def facts_of_another_shape(place: Place) -> list[list[str]]:
    step = place.run()
    facts = json.loads((step / "run.json").read_text())
    facts["config"]["model"]["backbone"] = {"name": f"../../outside/{place.marker}", "weights": str(place.secret)}
    (step / "run.json").write_text(json.dumps(facts))
    return place.seal(step)


def bomb(place: Place) -> list[list[str]]:
    step = place.run()
    (step / "run.json").write_text('{"config": {"model": {"num_frames": ' + "9" * 100_000 + "}}}")
    return place.seal(step)


def pickled_index(place: Place) -> list[list[str]]:
    store = place.store()
    np.save(store / "index.npy", np.array([Payload(place.marker)], dtype=object), allow_pickle=True)
    return place.check(store)


def pickled_captions(place: Place) -> list[list[str]]:
    store = place.store()
    np.save(store / "captions.npy", np.array([Payload(place.marker)], dtype=object), allow_pickle=True)
    return place.check(store)


def shard_outside(place: Place) -> list[list[str]]:
    store = place.store()
    facts = json.loads((store / "store.json").read_text())
    facts["shards"][0]["name"] = "../../outside/secret.ts"
    (store / "store.json").write_text(json.dumps(facts))
    return place.check(store)


def linked_shard(place: Place) -> list[list[str]]:
    store = place.store()
    (store / "000000.tar").rename(place.outside / "000000.tar")
    (store / "000000.tar").symlink_to(place.outside / "000000.tar")
    return place.check(store)


def with_piece(place: Place, kind: str, **files: bytes) -> list[list[str]]:
    """A store of one clip with other files in it."""
    sound = place.sound / "clips" / "out" / kind
    members = {name: bytes(content) for name, content in tar_members(pieces_of(sound)[0]).items()}
    store = place.inside / "store"
    named = {name.replace("_", "."): content for name, content in files.items()}
    write_store(store, sound, [(tar_piece({**members, **named}), {})])
    return place.check(store)


def pickled_boxes(place: Place) -> list[list[str]]:
    file = io.BytesIO()
    np.savez(file, boxes=np.array([Payload(place.marker)], dtype=object))
    return with_piece(place, "frames", boxes_npz=file.getvalue())


def session_in_a_shard(place: Place) -> list[list[str]]:
    return with_piece(place, "video", mp4=names_others(place.secret, place.port)["sdp"].encode())


def playlist_in_a_shard(place: Place) -> list[list[str]]:
    return with_piece(place, "video", mp4=names_others(place.secret, place.port)["playlist"].encode())


def a_text_that_names_others(kind: str) -> Callable[[Place], list[list[str]]]:
    return lambda place: place.video("v.mp4", names_others(place.secret, place.port)[kind].encode())


def data_reference(place: Place) -> list[list[str]]:
    """A QuickTime file whose samples lie in another one."""
    content = write_video(place.inside / "sound.mp4", gray_frames(8)).read_bytes()
    alias = struct.pack(">IIII", 16 + 0, 0, 0, 0)
    found = re.search(rb"....url \x00\x00\x00\x01", content, re.DOTALL)
    assert found is not None
    named = b"url " + struct.pack(">I", 0)
    return place.video("v.mp4", content[: found.start() + 4] + named + content[found.end() :] + alias)


def address_in_a_manifest(place: Place) -> list[list[str]]:
    return place.check(place.manifest(f"http://127.0.0.1:{place.port}/v.mp4"))


def protocol_in_a_manifest(place: Place) -> list[list[str]]:
    return place.check(place.manifest(f"subfile:,,start,0,end,0,,:{place.secret}"))


def name_that_leads_out(place: Place) -> list[list[str]]:
    """Of a clip, by which files are called."""
    write_video(place.inside / "v.mp4", gray_frames(8))
    path = place.inside / "manifest.jsonl"
    path.write_text(json.dumps({"id": "../../outside/x", "video": "v.mp4", "caption": "x", "split": "../../outside"}))
    out = str(place.inside / "out")
    prepared = ["--annotations", str(path), "--videos", str(place.inside), "--spacy", "null", "--out", out]
    return [["prepare", *prepared, "--stores", "[frames,video]"]]


def pickled_detections(place: Place) -> list[list[str]]:
    write_video(place.inside / "v.mp4", gray_frames(8))
    fields = {**boxes(2), "boxes": np.array([Payload(place.marker)], dtype=object)}
    np.savez(place.inside / "boxes.npz", **fields)
    return place.check(place.manifest("v.mp4", detections="boxes.npz"))


def archive_that_unpacks_outside(place: Place) -> list[list[str]]:
    write_video(place.inside / "v.mp4", gray_frames(8))
    with zipfile.ZipFile(place.inside / "boxes.npz", "w") as archive:
        for name in ("../../outside/evil.npy", "/tmp/evil.npy", "boxes.npy"):
            archive.writestr(name, place.payload)
    return place.check(place.manifest("v.mp4", detections="boxes.npz"))


def pickled_dump(place: Place) -> list[list[str]]:
    (place.inside / "rank_0").write_bytes(place.payload)
    return [["doctor", "--hang", str(place.inside)]]


def recipe(text: str) -> Callable[[Place], list[list[str]]]:
    def made(place: Place) -> list[list[str]]:
        path = place.inside / "r.yaml"
        path.write_text(text.replace("MARKER", str(place.marker)))
        return [["train", "--deepspeed_config", "ds_configs/demo.json", "--recipe", str(path)], ["ablate", str(path)]]

    return made


def weights_file(name: str, write: Callable[[Place, Path], None]) -> Callable[[Place], list[list[str]]]:
    """Weights of a backbone."""

    def made(place: Place) -> list[list[str]]:
        write(place, place.inside / name)
        with pytest.raises(ValueError):
            read_tensors(place.inside / name)
        return []

    return made


def _torchscript(place: Place, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"x/{name}", place.payload)


CASES: dict[str, Callable[[Place], list[list[str]]]] = {
    "checkpoint: pickled states": pickled_states,
    "checkpoint: a pickle for weights": pickled_weights,
    "checkpoint: torch.save for weights": saved_weights,
    "checkpoint: a pickle for counts": pickled_engine,
    "checkpoint: no sums": sums_of_nothing,
    "checkpoint: sums of files above it": sums_of_others,
    "checkpoint: sums of files elsewhere": sums_of_the_system,
    "checkpoint: weights are a link": linked_weights,
    "checkpoint: states are a link": linked_states,
    "checkpoint: the list is a link": linked_list,
    "checkpoint: a step is a link": linked_step,
    "checkpoint: a header without end": endless_header,
    "checkpoint: facts without end": deep_facts,
    "checkpoint: facts that name files": facts_of_another_shape,
    "checkpoint: a number without end": bomb,
    "checkpoint: run.json is a pipe": facts_that_are(lambda path, place: os.mkfifo(path)),
    "checkpoint: run.json is a device": facts_that_are(lambda path, place: path.symlink_to("/dev/zero")),
    "checkpoint: run.json of 1 GiB": facts_that_are(sparse(1)),  # every command takes its sum
    "checkpoint: the list is a pipe": facts_that_are(lambda path, place: os.mkfifo(path), "manifest.json"),
    "checkpoint: the list of 5 GiB": facts_that_are(sparse(5), "manifest.json"),
    "checkpoint: frames without end": sizes(num_frames=10**9),
    "checkpoint: trajectories without end": sizes(objects__num_trajectories=10**9),
    "checkpoint: layers without end": sizes(graph__layers=10**6),
    "checkpoint: answers without end": sizes(num_answers=10**10),
    "checkpoint: ids without end": sizes(facts__used_token_ids=[1 << 62]),
    "run: its lock is a link": run_of_links(".stoa.lock"),
    "run: its log is a link": run_of_links("metrics.jsonl"),
    "run: its checkpoints are a link": run_of_links("checkpoints"),
    "check: a ledger of somebody else": ledger_of_somebody,
    "weights: a pickle": weights_file("w.pt", lambda place, path: path.write_bytes(place.payload)),
    "weights: torch.save": weights_file("w.pt", lambda place, path: torch.save([Payload(place.marker)], path)),
    "weights: TorchScript": weights_file("w.pt", _torchscript),
    "store: a pickled index": pickled_index,
    "store: pickled captions": pickled_captions,
    "store: a shard elsewhere": shard_outside,
    "store: a shard is a link": linked_shard,
    "store: pickled boxes": pickled_boxes,
    "store: a session description": session_in_a_shard,
    "store: a playlist": playlist_in_a_shard,
    "video: a playlist": a_text_that_names_others("playlist"),
    "video: ffconcat": a_text_that_names_others("concat"),
    "video: a session description": a_text_that_names_others("sdp"),
    "video: DASH": a_text_that_names_others("dash"),
    "video: samples elsewhere": data_reference,
    "manifest: an address": address_in_a_manifest,
    "manifest: a protocol": protocol_in_a_manifest,
    "manifest: a name that leads out": name_that_leads_out,
    "archive: pickled boxes": pickled_detections,
    "archive: names that lead out": archive_that_unpacks_outside,
    "dump: a pickle": pickled_dump,
    "recipe: a call": recipe("training: !!python/object/apply:os.system ['touch MARKER']\n"),
    "recipe: a new object": recipe("out: x\ncells: !!python/object/new:os.system ['touch MARKER']\n"),
    "recipe: a module": recipe("!!python/module:antigravity ''\n"),
}


RARELY = {  # each takes seconds, and another case is much the same
    "checkpoint: a pickle for counts",
    "checkpoint: sums of files elsewhere",
    "checkpoint: states are a link",
    "checkpoint: run.json of 1 GiB",
    "checkpoint: frames without end",
    "checkpoint: answers without end",
    "run: its log is a link",
    "run: its checkpoints are a link",
}


@pytest.fixture(scope="session")
def sound(data_set, tmp_path_factory) -> Path:
    """A run, the data set that it is of, and stores."""

    def make(folder: Path) -> None:
        finish(start_training(data_set, folder, folder / "run", "--training.max_steps", "2"))
        (folder / "data").symlink_to(data_set)
        (folder / "clips").mkdir()
        for number in range(2):
            write_video(folder / "clips" / f"{number}.mp4", gray_frames(8)[number:])
        rows = [ClipRow(f"clip{number}", f"{number}.mp4", (Caption("gray"),)) for number in range(2)]
        small_stores(folder / "clips", rows, frames=2)

    return made_once(tmp_path_factory, "sound", make)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.dist
@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in RARELY)) for c in CASES])
def test_nothing_of_it_is_done(sound, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(ROOT)
    listener = Listener()
    place = Place(tmp_path, sound, listener.port)
    commands = CASES[case](place)
    before = files_of(place.outside)
    for command in commands:
        status = main(command)
        out, err = capsys.readouterr()
        assert status in (0, 1, 2) and "Traceback" not in out + err, (command, out, err)
    assert files_of(place.outside) == before
    assert listener.calls == 0
    listener.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_system_is_not_asked_for_it(tmp_path):
    """By the calls that the tests above make of it."""
    log, base = tmp_path / "calls", tmp_path / "base"
    calls = "open,openat,execve,connect,bind,unlink,unlinkat,rename,renameat,renameat2"
    strace = ["strace", "-f", "-y", "-s", "400", "-o", str(log), "-e", f"trace={calls}"]
    tests = ["-m", "pytest", "-q", __file__, "-k", "test_nothing_of_it_is_done", "--basetemp", str(base)]
    done = subprocess.run([*strace, sys.executable, *tests], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    asked = log.read_text().splitlines()
    assert any("inside/manifest.jsonl" in line for line in asked)
    internet = [line for line in asked if re.search(r"(connect|bind)\(.*AF_INET6?,", line)]
    ours = [line for line in internet if re.search(r"127\.0\.0\.1|::1|htons\(0\)", line)]
    assert internet == ours
    assert not [line for line in asked if "code-has-run" in line]
