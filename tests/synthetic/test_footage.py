from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.data.decoding.base import DecodeError
from stoa.manifest import read_manifest
from stoa.synthetic import SynthConfig, build, build_data_set, footage
from stoa.synthetic.actions import clock
from stoa.synthetic.render import encode
from stoa.synthetic.windows import Footage, Window, sample_window

Decode = Callable[[Path], tuple[np.ndarray, list[float]]]

CONFIG = SynthConfig(
    num_train=8, num_val=0, num_test=2, num_galleries=2, size=32, seconds=1.0, fps=8, siblings=2, paraphrases=1
)


def _film(path: Path, frames: int, height: int = 48, width: int = 80) -> None:
    """Frames of noise, each of its own mean."""
    rng = np.random.default_rng(frames)
    low = rng.integers(0, 120, (frames, height // 4, width // 4, 3)) + np.arange(frames)[:, None, None, None]
    encode(np.kron(low, np.ones((1, 4, 4, 1))).clip(0, 255).astype(np.uint8), path, fps=8)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "more").mkdir()
    _film(folder / "long.mp4", 120)
    _film(folder / "tall.mp4", 20, height=96, width=32)
    _film(folder / "more" / "one_frame.mp4", 1)
    return folder


@pytest.fixture(scope="module")
def over_films(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The data set, and what was said."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("over_films") / "set"
    (films / "cut.mp4").write_bytes((films / "long.mp4").read_bytes()[:300])
    build_data_set(replace(CONFIG, footage=str(films)), out, say=said.append)
    return out, said


def _frames(out: Path, decode: Decode, video: str) -> np.ndarray:
    return decode(out / video)[0].astype(int)


def test_a_file_that_cannot_be_decoded_is_left_out_and_named(over_films: tuple[Path, list[str]], films: Path) -> None:
    out, said = over_films
    assert any(line.startswith("footage: cut.mp4 is left out: ") for line in said), said
    names = json.loads((out / "synth.json").read_text())["footage"]
    assert set(names) == {"long.mp4", "tall.mp4", "cut.mp4", "more/one_frame.mp4"}
    assert not (out / "parts").exists()


def test_siblings_and_galleries_share_what_is_behind_them(over_films: tuple[Path, list[str]], decode: Decode) -> None:
    out, _ = over_films
    rows = read_manifest(out / "manifest.jsonl")
    train = [_frames(out, decode, row.video) for row in rows if row.split == "train"]
    for one, other in zip(train[::2], train[1::2], strict=True):
        assert _alike(one[:, :4, :4], other[:, :4, :4]) and not np.array_equal(one, other)
    behind = [clip[0, :4, :4].mean() for clip in train[::2]]
    assert np.ptp(behind) > 5  # of other families it is another


def test_a_clip_of_real_video_played_backwards_is_the_other_row(
    over_films: tuple[Path, list[str]], decode: Decode, read_jsonl: Callable[[Path], list[dict[str, Any]]]
) -> None:
    out, _ = over_films
    truth = read_jsonl(out / "truth" / "hard.jsonl")
    pairs = [row for row in truth if row["reverse_of"]]
    assert len(pairs) >= 8
    for row in pairs:
        one, other = (
            decode(out / f"videos/hard/{row['kind']}/{clip}.mp4")[0] for clip in (row["id"], row["reverse_of"])
        )
        np.testing.assert_array_equal(one, other[::-1])


def test_what_is_behind_does_not_tell_who_acts(over_films: tuple[Path, list[str]], decode: Decode) -> None:
    out, _ = over_films
    for kind in ("action_swap", "role_swap", "time_reversal"):
        rows = read_manifest(out / "hard" / f"{kind}.jsonl")
        clips = [_frames(out / "hard", decode, row.video) for row in rows]
        for first in range(0, len(clips), 4):
            for one, other in itertools.combinations(clips[first : first + 4], 2):
                # Objects may pass through a corner, so the most alike of four is looked at.
                corners = [np.s_[:, :4, :4], np.s_[:, :4, -4:], np.s_[:, -4:, :4], np.s_[:, -4:, -4:]]
                assert any(_alike(one[corner], other[corner]) for corner in corners)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """But for what the codec makes of them."""
    return bool(np.abs(one - other).mean() < 3)


def test_the_same_films_give_the_same_set_and_others_are_refused(
    over_films: tuple[Path, list[str]], films: Path, tmp_path: Path
) -> None:
    out, _ = over_films
    again = tmp_path / "again"
    build_data_set(replace(CONFIG, footage=str(films)), again, workers=2, say=lambda line: None)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in files)
    _film(films / "later.mp4", 9)
    try:
        with pytest.raises(ValueError, match=r"holds a data set made with other footage \(new: later.mp4\)"):
            build_data_set(replace(CONFIG, footage=str(films)), again, say=lambda line: None)
    finally:
        (films / "later.mp4").unlink()
    with pytest.raises(ValueError, match="made with footage some, but footage None is asked for"):
        build_data_set(CONFIG, again, say=lambda line: None)


@pytest.mark.parametrize("what", ["missing", "empty", "damaged"])
def test_a_folder_without_a_video_is_told(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    if what != "missing":
        folder.mkdir()
    if what == "damaged":
        (folder / "cut.mp4").write_bytes(b"none")
    message = {"missing": "which is no folder", "empty": "holds no video", "damaged": "of whose 1 videos none"}[what]
    with pytest.raises(ValueError, match=message):
        build_data_set(replace(CONFIG, footage=str(folder)), tmp_path / "set", say=lambda line: None)


@pytest.mark.parametrize("changed", [{"size": 600}, {"size": 512, "fps": 16}])
def test_reels_have_a_limit(changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"12 seconds of footage would take .* lower size or fps"):
        replace(CONFIG, footage="films", **changed)
    replace(CONFIG, footage="films", size=512)


@pytest.mark.parametrize("inside", ["films/set", "."])
def test_a_set_is_not_made_of_itself(tmp_path: Path, inside: str) -> None:
    (tmp_path / "films").mkdir()
    _film(tmp_path / "films" / "a.mp4", 4)
    with pytest.raises(ValueError, match="pass folders of which none is in the other"):
        build_data_set(replace(CONFIG, footage=str(tmp_path / "films")), tmp_path / inside, say=lambda line: None)


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_what_is_tested_on_is_not_trained_on(count: int) -> None:
    reels = Footage([np.zeros((1, 12, 16, 3), np.uint8)] * count, fps=8)
    train, rest = reels.numbers(of_training=True), reels.numbers(of_training=False)
    assert {*train, *rest} == set(range(count)) and train and rest
    assert not {*train} & {*rest} or count < 5


def test_a_killed_build_goes_on_where_it_was(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = replace(CONFIG, footage=str(films), num_train=40), tmp_path / "set"
    made = build._make_batch

    def killed(*args: Any) -> None:
        if made_before:
            raise KeyboardInterrupt
        made_before.append(args)
        made(*args)

    made_before: list[Any] = []
    monkeypatch.setattr(build, "_make_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        build_data_set(config, out, say=lambda line: None)
    reels = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("reel_*.npy")}
    assert reels
    monkeypatch.setattr(build, "_make_batch", made)
    monkeypatch.setattr(footage, "read_reel", None)  # they are there
    build_data_set(config, out, say=lambda line: None)
    assert (out / "synth.json").is_file() and not (out / "parts").exists()


def test_files_that_cannot_be_opened_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    _film(folder / "a.mp4", 12)
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    said: list[str] = []
    build_data_set(replace(CONFIG, footage=str(folder)), tmp_path / "set", say=said.append)
    for name in ("gone.mp4", "pipe.mp4"):
        assert any(line.startswith(f"footage: {name} is left out: ") for line in said), said


def test_a_file_that_hangs_is_named(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not left out: on another machine it might be read, and the set would be another one."""

    def hang(*_: Any) -> None:
        raise DecodeError("hang", "no sign of life for 60 s")

    monkeypatch.setattr("stoa.synthetic.footage.Guard.call", hang)
    with pytest.raises(ValueError, match=r"mp4 cannot be read: no sign of life for 60 s; take it out of"):
        build_data_set(replace(CONFIG, footage=str(films)), tmp_path / "set", say=lambda line: None)


@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    frames=st.integers(4, 17),
    seconds=st.floats(0.3, 9.0),
)
def test_a_window_shows_the_same_forwards_and_backwards(
    seed: int, lengths: list[int], frames: int, seconds: float
) -> None:
    ends = np.cumsum(lengths)
    numbers = [np.arange(end - length, end)[:, None, None, None] for length, end in zip(lengths, ends, strict=True)]
    of_all = Footage([np.broadcast_to(reel, (len(reel), 12, 16, 3)) for reel in numbers], fps=8)
    window = sample_window(np.random.default_rng(seed), range(len(lengths)))
    seen = of_all.seen(window, clock(frames), seconds, 8)
    assert seen.shape == (frames, 8, 8, 3)
    np.testing.assert_array_equal(seen, seen[::-1])
    of_reel = set(numbers[window.reel].flatten().tolist())
    assert set(seen[:, 0, 0, 0].tolist()) <= of_reel
    steps = np.abs(np.diff(seen[frames // 2 :, 0, 0, 0].astype(int)))
    assert (steps <= np.ceil(seconds * 8 * window.speed / (frames - 1)) + 1).all()


def test_a_window_is_cropped_mirrored_sped_up_and_turned_round() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, 12, 16, 3), dtype=np.uint8)
    of_one = Footage([frames], fps=8)
    plain = Window(reel=0, moment=0.5, right=0.5, down=1.0, mirrored=False, backward=False, speed=1.0)
    times = clock(9)
    first = of_one.seen(plain, times, 1.0, 8)
    middle = 12  # of 26 from which the 4 frames that follow are there
    np.testing.assert_array_equal(first[4:], frames[middle : middle + 5, 4:12, 4:12])
    np.testing.assert_array_equal(of_one.seen(replace(plain, mirrored=True), times, 1.0, 8), first[:, :, ::-1])
    backward = of_one.seen(replace(plain, backward=True), times, 1.0, 8)
    np.testing.assert_array_equal(backward[4:], frames[17:12:-1, 4:12, 4:12])
    fast = of_one.seen(replace(plain, speed=2.0), times, 1.0, 8)
    np.testing.assert_array_equal(fast[4:], frames[10:19:2, 4:12, 4:12])
