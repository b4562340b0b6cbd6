"""The index of a folder of videos, and the set of ids seen."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.prepare.adapters import VideoFolder
from stoa.prepare.adapters.seen import SeenIds
from stoa.prepare.adapters.videos import video_stem


def test_a_video_is_found_by_its_stem(tmp_path):
    names = (
        "1.mp4",
        "a/b/2.MKV",
        "a/3.avi.mp4",
        "c/00.02.29.298-00.02.30.004.avi",
        "d/é 大.webm",
        "x.mp4.npz",
        "4.txt",
    )
    videos = VideoFolder(published.touch(tmp_path, *names))
    assert len(videos) == 5
    assert [videos.find(name) for name in ("1", "2", "3", "3.avi", "é 大")] == [
        "1.mp4",
        "a/b/2.MKV",
        "a/3.avi.mp4",
        "a/3.avi.mp4",
        "d/é 大.webm",
    ]
    assert videos.find("00.02.29.298-00.02.30.004") == "c/00.02.29.298-00.02.30.004.avi"
    assert [videos.find(name) for name in ("x", "4", "absent", "", "1.x")] == [None] * 5


def test_folders_of_a_name_must_be_those_of_the_file_and_its_suffix_need_not(tmp_path):
    videos = VideoFolder(published.touch(tmp_path, "a/b/2.mkv"))
    assert [videos.find(name) for name in ("b/2", "a/b/2", "2.mp4", "./a/b/2.mkv")] == ["a/b/2.mkv"] * 4
    assert [videos.find(name) for name in ("a/2", "c/2", "xa/b/2", "/a/b/2")] == [None] * 4


def test_two_files_of_one_stem_are_named_unless_the_name_tells_them_apart(tmp_path):
    videos = VideoFolder(published.touch(tmp_path, "1.mp4", "a/1.mp4", "a/1.avi", "b/2.mp4", "c/2.mp4"))
    for name, first, second in (("1", "1.mp4", "a/1.avi"), ("a/1", "a/1.avi", "a/1.mp4"), ("2", "b/2.mp4", "c/2.mp4")):
        with pytest.raises(ValueError, match=f"videos {first} and {second} in .* both fit the name '{name}'; keep one"):
            videos.find(name)
    found = [videos.find(name) for name in ("1.mp4", "1.avi", "a/1.mp4", "b/2")]
    assert found == ["1.mp4", "a/1.avi", "a/1.mp4", "b/2.mp4"]


def test_links_are_followed_and_circles_are_not(tmp_path):
    published.touch(tmp_path / "store", "1.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/round").symlink_to(tmp_path / "videos")
    (tmp_path / "store/dangling.mp4").symlink_to(tmp_path / "absent")
    videos = VideoFolder(tmp_path / "videos")
    assert (len(videos), videos.find("1"), videos.find("dangling")) == (1, "linked/1.mp4", None)


def test_a_folder_that_is_not_there_or_empty(tmp_path):
    with pytest.raises(ValueError, match="video folder .*absent does not exist"):
        VideoFolder(tmp_path / "absent")
    assert VideoFolder(tmp_path).find("1") is None


def test_stems_that_share_a_key_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("stoa.prepare.adapters.videos._key", lambda stem: 7)
    videos = VideoFolder(published.touch(tmp_path, "1.mp4", "2.mp4"))
    assert [videos.find(name) for name in ("1", "2", "3")] == ["1.mp4", "2.mp4", None]


_parts = st.text("ab.1é", min_size=1, max_size=3).filter(lambda part: part.strip("."))


@settings(max_examples=40)
@given(st.data())
def test_any_folder_is_searched_like_a_list_of_its_files(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("videos")
    paths = data.draw(
        st.lists(st.tuples(st.sampled_from(["", "p/", "p/q/"]), _parts, st.sampled_from(["mp4", "AVI"])), max_size=8)
    )
    names = sorted({f"{parent}{stem}.{suffix}" for parent, stem, suffix in paths})
    videos = VideoFolder(published.touch(folder, *names))
    assert len(videos) == len(names)
    for stem in {stem for _, stem, _ in paths} | {"zz"}:
        fitting = [name for name in names if video_stem(Path(name).name) == video_stem(stem)]
        if len(fitting) > 1:
            with pytest.raises(ValueError, match="both fit"):
                videos.find(stem)
        else:
            assert videos.find(stem) == (fitting[0] if fitting else None)
    for name in names:
        assert videos.find(name) == name


def test_the_index_is_compact(tmp_path):
    published.touch(tmp_path, *(f"{i // 500:03}/{1_000_000_000 + i}.mp4" for i in range(4000)))
    tracemalloc.start()
    try:
        videos = VideoFolder(tmp_path)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert videos.find("1000003999") == "007/1000003999.mp4"
    assert size < 50 * len(videos)


# JSON can escape half a surrogate pair.
@given(st.lists(st.text(st.characters(), max_size=3) | st.just("\ud800")))
def test_seen_ids_are_a_set(ids):
    seen, expected = SeenIds(), set()
    for id in ids:
        assert seen.add(id) is (id not in expected)
        expected.add(id)
    assert len(seen) == len(expected)


def test_seen_ids_grow():
    seen = SeenIds()
    assert all(seen.add(str(i)) for i in range(3000))
    assert not any(seen.add(str(i)) for i in range(3000))
    assert len(seen) == 3000
