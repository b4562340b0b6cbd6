"""An index follows its folder, whatever ends a call before it is done."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, write_video
from search.conftest import moving

from stoa.files import StorageError
from stoa.search import building
from stoa.search.building import update
from stoa.search.config import WindowConfig
from stoa.search.index import Index, Sources
from stoa.search.opening import FOLDER, open_index
from stoa.search.windows import Window

ONE_SECOND = WindowConfig(seconds=1.0, step_seconds=0.5)


def indexed(videos: Path, model, config=ONE_SECOND, **options):
    index = Index.made(videos / FOLDER, model.key, model.width, Sources(videos, None, config))
    return index, update(index, model, **options)


def names(index: Index) -> list[str]:
    return sorted(index.files())


def content(index: Index) -> dict[tuple[str, float], np.ndarray]:
    by_number = {file.number: file.video for file in index.files().values()}
    found = index.vectors()
    parts = zip(found.files_W.tolist(), found.parts_W2[:, 0].tolist(), found.vectors_Wd, strict=True)
    return {(by_number[file], start): vector for file, start, vector in parts}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_allclose(one[key], other[key], atol=1e-6)


def test_windows_are_what_the_model_sees_of_them(videos, model):
    from stoa.api import Clip

    index, summary = indexed(videos, model)
    assert (summary.indexed, summary.windows, summary.total_windows, summary.problems) == (6, 18, 18, {})
    found = content(index)
    assert len(found) == 18
    for (video, start), vector in found.items():
        clip = Clip(video=videos / video, start_seconds=start, end_seconds=start + 1)
        np.testing.assert_allclose(vector, model.embed_video(clip).numpy(), atol=1e-5)


def test_it_follows_the_folder(videos, model):
    index, _ = indexed(videos, model)
    before = {name: file.number for name, file in index.files().items()}
    (videos / "0.mp4").unlink()
    write_video(videos / "1.mp4", moving(77, frames=12), fps=8)
    write_video(videos / "new.mp4", moving(99), fps=8)
    index, summary = indexed(videos, model)
    assert (summary.indexed, summary.kept, summary.gone) == (2, 4, 1)
    after = {name: file.number for name, file in index.files().items()}
    assert after.keys() == {"1.mp4", "2.mp4", "3.mp4", "4.mp4", "below/5.mp4", "new.mp4"}
    assert all(after[name] == before[name] for name in ("2.mp4", "3.mp4", "4.mp4", "below/5.mp4"))
    assert not {after["1.mp4"], after["new.mp4"]} & set(before.values())
    renewed = content(index)
    shutil.rmtree(videos / FOLDER)
    assert_same(renewed, content(indexed(videos, model)[0]))


def test_nothing_is_done_twice(videos, model, monkeypatch):
    indexed(videos, model)
    monkeypatch.setattr(building, "VideoReader", None)
    _, summary = indexed(videos, model)
    assert (summary.indexed, summary.kept, summary.windows, summary.total_windows) == (0, 6, 0, 18)


def test_bad_videos_are_listed_and_tried_when_they_change(videos, model):
    (videos / "junk.mp4").write_bytes(b"no video" * 100)
    (videos / "empty.avi").write_bytes(b"")
    whole = (videos / "0.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    index, summary = indexed(videos, model)
    assert summary.indexed == 9 and summary.total_windows == 18
    assert summary.problems.keys() == {"junk.mp4", "empty.avi", "cut.mp4"}
    assert "empty (0 bytes)" in summary.problems["empty.avi"]
    _, again = indexed(videos, model)
    assert again.problems == summary.problems and again.kept == 9
    _, retried = indexed(videos, model, retry=True)
    assert retried.problems == summary.problems and retried.indexed == 3
    (videos / "junk.mp4").write_bytes(whole)
    _, mended = indexed(videos, model)
    assert mended.problems.keys() == {"empty.avi", "cut.mp4"} and mended.total_windows == 21


def test_what_is_damaged_in_a_part_is_found_in_the_others(tmp_path, model):
    path = write_video(tmp_path / "long.mp4", moving(3, frames=80), fps=8, options={"g": "8", "crf": "12"})
    damaged = bytearray(path.read_bytes())
    start = damaged.index(b"mdat") + len(damaged) * 3 // 10
    damaged[start : start + len(damaged) // 10] = bytes(len(damaged) // 10)
    path.write_bytes(damaged)
    _, summary = indexed(tmp_path, model)
    assert 8 <= summary.windows < 19
    assert "windows cannot be read" in summary.problems["long.mp4"]


def test_short_and_still_videos_are_found(tmp_path, model):
    write_video(tmp_path / "short.mp4", moving(1, frames=1), fps=10)
    write_video(tmp_path / "still.mp4", moving(2, frames=1) * 30, fps=10)
    index, summary = indexed(tmp_path, model)
    assert (summary.windows, summary.still) == (2, 4)
    assert content(index).keys() == {("short.mp4", 0.0), ("still.mp4", 0.0)}
    shutil.rmtree(tmp_path / FOLDER)
    _, all_of_them = indexed(tmp_path, model, WindowConfig(seconds=1.0, step_seconds=0.5, skip_still=False))
    assert (all_of_them.windows, all_of_them.still) == (6, 0)


def test_each_model_has_its_own(videos, model, other_model):
    index, _ = indexed(videos, model)
    with pytest.raises(ValueError, match=f"holds an index of another model \\({model.key}, this one is"):
        open_index(videos, other_model)
    other, _ = indexed(videos, other_model)
    assert model.key != other_model.key
    assert names(open_index(videos, model)) == names(other) == names(index)
    assert names(open_index(videos / FOLDER, model)) == names(index)


def test_other_windows_are_refused(videos, model):
    indexed(videos, model)
    with pytest.raises(ValueError, match="windows of 1 s every 0.5 s without still ones, not of .* every 1 s"):
        indexed(videos, model, WindowConfig(seconds=1.0, step_seconds=1.0))


def test_a_folder_may_be_moved(videos, model, tmp_path):
    indexed(videos, model)
    shutil.move(videos, tmp_path / "elsewhere")
    index, summary = indexed(tmp_path / "elsewhere", model)
    assert summary.kept == 6
    assert index.sources.videos == tmp_path / "elsewhere"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"version": 1}', "windows", "videos", "threshold"])
def test_damaged_facts_are_named(videos, model, damage):
    indexed(videos, model)
    path = videos / FOLDER / f"{model.key}.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {damage: [1]}) if damage in facts else damage)
    with pytest.raises(ValueError, match="damaged.*index the videos anew"):
        open_index(videos, model)


def test_a_damaged_table_is_named(videos, model):
    indexed(videos, model)
    for path in (videos / FOLDER / f"windows-{model.key}.lance").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read .*; delete it and index anew"):
        open_index(videos, model).vectors()


def test_a_folder_without_videos(tmp_path, model):
    with pytest.raises(ValueError, match="holds no video; name a folder with some"):
        indexed(tmp_path, model)
    with pytest.raises(ValueError, match="holds no index; make one with stoa index FOLDER"):
        open_index(tmp_path / "none", model)


def test_names_of_any_kind(tmp_path, model, videos):
    odd = ["it's.mp4", 'say "x".mp4', "a\nb.mp4", "é ü.MP4", "-- drop; .mp4", "%s{}.mp4", "\\.mp4"]
    for name in odd:
        shutil.copy(videos / "0.mp4", tmp_path / name)
    index, _ = indexed(tmp_path, model)
    below = [f"videos/{name}" for name in names(indexed(videos, model)[0])]
    assert names(index) == sorted([*odd, *below])
    for name in odd:
        (tmp_path / name).unlink()
    index, summary = indexed(tmp_path, model)
    assert summary.gone == len(odd)
    assert not set(odd) & set(names(index))
    assert not {video for video, _ in content(index)} & set(odd)


KILLED = """
import os, sys, signal
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import torch
torch.set_num_threads(1)
from search.conftest import _model
from search.test_index import indexed
from stoa.search import building
from stoa.search.index import Index
building.AT_ONCE, count = 4, [0]
def fatal(function):
    def called(*arguments):
        count[0] += 1
        if count[0] == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return called
Index.add_windows, Index.add_files = fatal(Index.add_windows), fatal(Index.add_files)
indexed(Path(sys.argv[3]), _model(0))
"""


@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_a_kill_loses_no_window_that_was_committed(videos, model, at, monkeypatch):
    tests = Path(__file__).parents[1]
    call = [sys.executable, "-c", KILLED, str(tests), str(tests.parent), str(videos), str(at)]
    assert subprocess.run(call, check=False).returncode == -signal.SIGKILL
    index = open_index(videos, model)
    begun = sum(len(begun.windows) for begun in index.begun().values())
    assert begun
    read = []
    encode = building._encode
    monkeypatch.setattr(building, "_encode", lambda i, m, tasks: (read.extend(tasks), encode(i, m, tasks))[1])
    index, _ = indexed(videos, model)
    assert len(read) == 18 - begun
    resumed = content(index)
    shutil.rmtree(videos / FOLDER)
    assert_same(resumed, content(indexed(videos, model)[0]))


def test_windows_of_a_file_that_has_changed_since_a_kill_are_gone(videos, model):
    index = Index.made(videos / FOLDER, model.key, model.width, Sources(videos, None, ONE_SECOND))
    other = building._File(0, "0.mp4", 12, 34)
    index.add_windows([(other.state(), Window(0.0, 1.0))], np.ones((1, model.width), dtype=np.float32))
    index, _ = indexed(videos, model)
    vectors = index.vectors()
    assert len(vectors.files_W) == 18
    assert 0 not in vectors.files_W
    assert all((size, changed) != (12, 34) for _, size, changed in index.begun())


def test_a_full_disk_is_one_line_and_what_was_there_stays(videos, model, monkeypatch):
    index, _ = indexed(videos, model)
    before = content(index)
    for seed in range(60, 70):
        write_video(videos / f"{seed}.mp4", moving(seed), fps=8)
    add = Index.add_windows

    def add_on_a_full_disk(*arguments):  # decoding needs room of its own
        limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            add(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)

    with monkeypatch.context() as patched:
        patched.setattr(Index, "add_windows", add_on_a_full_disk)
        with pytest.raises(StorageError, match="cannot be written.*index again to go on"):
            indexed(videos, model)
    assert_same(content(open_index(videos, model)), before)
    assert indexed(videos, model)[1].total_windows == 48


def test_frames_of_one_colour_are_no_reason_to_fail(tmp_path, model):
    write_video(tmp_path / "gray.mp4", gray_frames(20), fps=10)
    assert indexed(tmp_path, model)[1].problems == {}
    assert os.listdir(tmp_path / FOLDER)
