"""What is found, and how sure it is."""

import json
import shutil

import numpy as np
import pytest
from factories import write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from search.conftest import moving
from search.test_index import indexed

from stoa.search import query
from stoa.search.index import Index
from stoa.search.query import Place, Searcher, _descending
from stoa.search.threshold import UNRELATED, learned_threshold


@pytest.fixture(scope="module")
def searcher(sources, model, tmp_path_factory):
    videos = shutil.copytree(sources, tmp_path_factory.mktemp("searched") / "videos")
    return Searcher(indexed(videos, model)[0], model)


def test_all_is_scanned(searcher, model):
    text = "a light grows"
    cosines = searcher.vectors.vectors_Wd @ model.embed_text(text).numpy()
    found = searcher.by_text(text, top_k=50, rerank=0)
    assert found[0].cosine == pytest.approx(cosines.max())
    assert [hit.cosine for hit in found] == sorted((hit.cosine for hit in found), reverse=True)
    for number in {hit.file for hit in found}:
        own = [hit.place for hit in found if hit.file == number]
        assert all(
            a.end_seconds <= b.start_seconds or b.end_seconds <= a.start_seconds for a in own for b in own if a != b
        )
    assert {hit.file for hit in found} == set(searcher.files)


@settings(max_examples=50)
@given(st.integers(1, 2000), st.integers(0, 2**31 - 1))
def test_the_order_is_that_of_a_sort(count, seed):
    values = np.random.default_rng(seed).integers(0, 50, count).astype(np.float32)
    order = list(_descending(values))
    assert sorted(order) == list(range(count))
    assert (np.diff(values[order]) <= 0).all()


def test_a_video_finds_itself(searcher, sources):
    for name in ("0.mp4", "below/5.mp4"):
        found = searcher.by_image(sources / name, top_k=3)
        assert found[0].place.video == name
        assert found[0].cosine > 0.9


def test_a_picture_finds_the_window_that_shows_it(searcher, tmp_path):
    Image.fromarray(moving(60)[9]).save(tmp_path / "picture.png")
    found = searcher.by_image(tmp_path / "picture.png")
    assert found[0].place.video == "2.mp4"
    assert all(hit.match is None for hit in found)


def test_copies_are_folded(sources, model, tmp_path):
    videos = shutil.copytree(sources, tmp_path / "videos")
    shutil.copy(videos / "1.mp4", videos / "copy of 1.mp4")
    found = Searcher(indexed(videos, model)[0], model).by_image(videos / "1.mp4", top_k=20)
    first = {found[0].place.video, *(place.video for place in found[0].also)}
    assert first == {"1.mp4", "copy of 1.mp4"}
    assert sum(hit.place.start_seconds == 0 for hit in found if hit.place.video.endswith("1.mp4")) <= 1


def test_the_matching_head_orders_what_it_sees(searcher, model):
    text = "a light grows"
    found = searcher.by_text(text, top_k=6, rerank=6)
    clips = [searcher.clip(hit.file, hit.place.start_seconds, hit.place.end_seconds) for hit in found]
    np.testing.assert_allclose([hit.match for hit in found], model.match(clips, text).numpy(), atol=1e-4)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    some = searcher.by_text(text, top_k=4, rerank=2)
    assert [hit.match is None for hit in some] == [False, False, True, True]


def test_what_has_gone_or_is_damaged_since_is_last(sources, model, tmp_path):
    videos = shutil.copytree(sources, tmp_path / "videos")
    searcher = Searcher(indexed(videos, model)[0], model)
    gone = searcher.by_text("a", top_k=1, rerank=0)[0].place.video
    (videos / gone).unlink()
    found = searcher.by_text("a", top_k=6, rerank=6)
    assert {hit.place.video: hit.match is None for hit in found}[gone]
    kept = next(hit for hit in found if hit.place.video != gone).place.video
    (videos / kept).write_bytes(b"damaged")
    again = searcher.by_text("a", top_k=6, rerank=6)
    assert {hit.place.video for hit in again if hit.match is None} == {gone, kept}
    assert [hit.match is None for hit in again] == sorted(hit.match is None for hit in again)
    for path in videos.rglob("*.mp4"):
        path.write_bytes(b"damaged")
    assert all(hit.match is None for hit in searcher.by_text("a", top_k=6))
    shutil.rmtree(videos)
    assert all(hit.match is None for hit in searcher.by_text("a", top_k=6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"text": " "}, "the text is empty"), ({"text": "a", "top_k": 0, "rerank": 0}, "top_k is 0; expected at least 1")],
)
def test_bad_questions_are_told(searcher, arguments, message):
    with pytest.raises(ValueError, match=message):
        searcher.by_text(**arguments)


def test_a_file_that_is_not_there(searcher, tmp_path):
    with pytest.raises(ValueError, match="file 99 is not in the index"):
        searcher.clip(99)
    (tmp_path / "junk.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk.png"):
        searcher.by_image(tmp_path / "junk.png")


def test_the_threshold_is_what_unrelated_texts_reach(searcher, model):
    best = (searcher.vectors.vectors_Wd @ model.embed_text(UNRELATED).numpy().T).max(axis=0)
    threshold = searcher.index.threshold
    assert (best > threshold).mean() == pytest.approx(0.05, abs=0.01)
    assert len(UNRELATED) == len(set(UNRELATED)) >= 150
    hits = searcher.by_text(UNRELATED[int(best.argmin())], rerank=0)
    assert not any(hit.confident for hit in hits)
    surest = searcher.by_text(UNRELATED[int(best.argmax())], rerank=0)
    assert surest[0].confident


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_more_windows_raise_the_threshold(seed):
    generator = np.random.default_rng(seed)
    texts, windows = (generator.standard_normal((n, 16)) for n in (100, 400))
    few, many = (learned_threshold(texts, lambda t, w=w: float((w @ t).max())) for w in (windows[:20], windows))
    assert few <= many


def test_the_cosine_alone_decides_what_is_confident(searcher, monkeypatch):
    middle = float(np.median([hit.cosine for hit in searcher.by_text("a light grows", top_k=6, rerank=0)]))
    monkeypatch.setattr(searcher.index, "threshold", middle)
    for rerank in (0, 6):
        found = searcher.by_text("a light grows", top_k=6, rerank=rerank)
        assert [hit.confident for hit in found] == [hit.cosine > middle for hit in found]
        assert 0 < sum(hit.confident for hit in found) < 6


def test_places_that_touch_do_not_overlap():
    assert not query._overlap(Place("a", 0, 1), Place("a", 1, 2))
    assert query._overlap(Place("a", 0, 1.5), Place("a", 1, 2))


def test_an_index_without_windows(tmp_path, model):
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    index, summary = indexed(tmp_path, model)
    assert summary.total_windows == 0 and index.threshold is None
    with pytest.raises(ValueError, match="holds no windows"):
        Searcher(index, model)


def test_siblings_are_no_copies(tmp_path, model):
    """The same picture with another thing in it."""
    frames = moving(5)
    write_video(tmp_path / "a.mp4", frames, fps=8)
    other = [frame.copy() for frame in frames]
    for frame in other:
        frame[2:8, 2:8] = 255
    write_video(tmp_path / "b.mp4", other, fps=8)
    found = Searcher(indexed(tmp_path, model)[0], model).by_text("a", rerank=0)
    assert {hit.place.video for hit in found} == {"a.mp4", "b.mp4"}


def test_an_index_is_read_again_once_it_has_changed(videos, model, monkeypatch):
    """What another process writes is found after its call has ended, and what is gone stays what it was."""
    searcher = Searcher(indexed(videos, model)[0], model)
    shutil.copy(videos / "0.mp4", videos / "again.mp4")
    (videos / "1.mp4").unlink()
    finish = Index.finish
    monkeypatch.setattr(Index, "finish", lambda self, threshold: None)  # ended before it is done
    indexed(videos, model)
    searcher.renew()
    assert {file.video for file in searcher.files.values()} >= {"0.mp4", "1.mp4"}
    assert "again.mp4" not in {file.video for file in searcher.files.values()}
    monkeypatch.setattr(Index, "finish", finish)
    indexed(videos, model)
    searcher.renew()
    names = {file.video for file in searcher.files.values()}
    assert "again.mp4" in names and "1.mp4" not in names
    assert set(searcher.vectors.files_W.tolist()) == set(searcher.files)
    assert searcher.index.finished_since() is None
    shutil.rmtree(searcher.index.folder)
    searcher.renew()
    assert {file.video for file in searcher.files.values()} == names
    assert searcher.by_text("a light grows", rerank=0)


def lose_a_file(folder):
    next((folder / next(folder.glob("windows-*")) / "data").iterdir()).unlink()


def begin_anew(folder):
    """As another process does that has not got far."""
    (facts,) = folder.glob("*.json")
    told = json.loads(facts.read_text()) | {"threshold": None}
    shutil.rmtree(folder)
    folder.mkdir()
    facts.write_text(json.dumps(told))


def be_of_other_videos(folder):
    (facts,) = folder.glob("*.json")
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"videos": "../elsewhere"}))


@pytest.mark.parametrize("change", [lose_a_file, begin_anew, be_of_other_videos], ids=lambda f: f.__name__)
def test_what_cannot_take_its_place_leaves_an_index_as_it_was(change, videos, model):
    searcher = Searcher(indexed(videos, model)[0], model)
    before, folder = searcher.held, searcher.index.folder
    indexed(videos, model)
    change(folder)
    left = sorted(folder.rglob("*"))
    searcher.renew()
    assert searcher.held is before and sorted(folder.rglob("*")) == left
    assert searcher.by_text("a light grows")


def test_no_number_is_given_twice(videos, model):
    """Not that of the last file, nor those of an index that was deleted; a clip is asked for by its own file."""
    searcher = Searcher(indexed(videos, model)[0], model)
    given = dict(searcher.files)
    last = given[max(given)]
    (videos / last.video).unlink()
    shutil.copy(videos / "0.mp4", videos / "new.mp4")
    indexed(videos, model)
    searcher.renew()
    assert max(given) not in searcher.files and len(searcher.files.keys() - given.keys()) == 1
    assert searcher.clip_of(last).video == videos / last.video
    given |= searcher.files
    shutil.rmtree(searcher.index.folder)
    index, _ = indexed(videos, model)
    assert not given.keys() & {file.number for file in index.files().values()}
