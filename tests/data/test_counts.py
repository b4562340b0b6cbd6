"""What is said of a data set before the work begins: right counts, with shares, and no silence on what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.data import counts
from stoa.data.ledger import Ledger, Replacements
from stoa.data.loader import open_clips, opening_lines
from stoa.data.placement import boxes_to_model, unusable_boxes
from stoa.data.text import encode_caption, token_ids, tokenizer
from stoa.detections import Detections
from stoa.manifest import Caption, Prompt


def manifest(folder: Path, rows: list[dict], missing: int = 0) -> str:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows[missing:]:
        (folder / row["video"]).touch()
    return str(path)


def said(path: str, split: str | None, use="training", max_tokens=8, max_boxes=5) -> list[str]:
    clips = open_clips(path, split, Ledger(None))
    return opening_lines(clips, path, split, use, max_tokens=max_tokens, max_boxes=max_boxes)


def row(number: int, **fields: object) -> dict:
    return {"id": f"c{number}", "video": f"v{number}.mp4", "caption": f"clip {number}", **fields}


def test_rows_by_split_and_rows_without_a_caption(tmp_path):
    rows = [
        row(n, split=("train", "val", None)[n % 3], **({"caption": None} if n in (3, 6, 7) else {})) for n in range(12)
    ]
    path = manifest(tmp_path, rows)
    assert said(path, "train") == [
        f"{path}: 12 rows: 8 train, 4 val; training on train",
        "2 of 8 rows (25.0%) have no caption and are left out, the first is 'c3'",
    ]
    assert said(path, "val", "evaluating") == [
        f"{path}: 12 rows: 8 train, 4 val; evaluating on val",
        "1 of 4 rows (25.0%) have no caption and are left out, the first is 'c7'",
    ]
    assert said(path, None)[0].endswith("; training on all")


def test_captions_that_are_cut_and_those_that_become_equal(tmp_path):
    words = "one two three four five six"  # with start and end as many as are read
    captions = [words, f"{words} seven", f"{words} eight nine", "short", "other words that go on and on and on"]
    path = manifest(tmp_path, [row(n, caption=caption) for n, caption in enumerate(captions)])
    _, cut, alike = said(path, "train")
    assert cut.startswith("3 of 5 captions (60.0%) are longer than the 8 tokens that the model reads, and are cut; ")
    assert "the longest has 11 (" in cut
    assert alike == (
        "3 clips have captions that differ from those of others only where they are cut, such as 'c0' and 'c1'"
    )
    assert said(path, "train", max_tokens=11) == said(path, "train", max_tokens=32)[:1]


@given(texts=st.lists(st.text(st.characters(max_codepoint=0x3FF), max_size=30), max_size=6), answer=st.text(max_size=5))
def test_lengths_are_those_of_the_encoding(texts, answer):
    for caption in [*map(Caption, texts), *(Prompt(text, answer=answer) for text in texts)]:
        whole = encode_caption(caption, 400)
        assert list(token_ids(caption)) == whole.tokens_L[whole.text_mask_L][1:-1].tolist()
    for text in texts:
        assert token_ids(Caption(text)) == tuple(tokenizer().encode(text)) or "<" in text  # a special token is quoted


@pytest.mark.parametrize("missing", [1, 4, 6, 10])
def test_missing_files_are_told_and_most_are_refused(tmp_path, missing, monkeypatch):
    path = manifest(tmp_path, [row(n) for n in range(10)], missing)
    told = f"{missing} of 10 video files ({missing / 10:.1%})"
    if missing <= 5:
        assert said(path, "train")[1].startswith(f"{told} do not exist, the first: v0.mp4")
    else:
        with pytest.raises(
            ValueError, match=rf"v0.mp4; the paths in a manifest are relative to its folder, here {tmp_path}"
        ):
            said(path, "train")
    if missing < 10:
        assert said(path, "train", "evaluating")[1].startswith(told)
    assert said(path, "train", "checking")[1].startswith(told)
    monkeypatch.setattr(counts, "LOOKED_AT", 5)  # v0, v2, v4, v6, v8
    assert "of 5 video files" in said(path, "train", "checking")[1]
    assert "(5 of 10 rows looked at)" in said(path, "train", "checking")[1]


def detections(boxes: list[list[float]], scores: float = 0.9) -> Detections:
    n = len(boxes)
    return Detections(
        frame_times_seconds=np.zeros(1),
        frame_index=np.zeros(n, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32),
        labels=np.zeros(n, dtype=np.int64),
        scores=np.full(n, scores, dtype=np.float32),
        size_wh=np.array([200, 100]),
    )


def test_boxes_by_what_becomes_of_them(tmp_path):
    good = [[60, 10, 120, 90]] * 20
    detections([*good, [0, 0, 20, 90], [300, 10, 400, 90]]).save(tmp_path / "a.npz")
    path = manifest(tmp_path, [row(0, detections="a.npz")])
    assert said(path, "train")[1:] == [
        "2 of 22 boxes (9.1%) are of no use to a model: 1 outside the frame, 1 cropped away with the frame's edge"
    ]
    assert said(path, "train", max_boxes=0)[1:] == []
    detections([[60, 50, 20, 30]] * 9, scores=0.5).save(tmp_path / "a.npz")  # x, y, width, height
    with pytest.raises(
        ValueError, match=r"'detections': boxes do not fit as x1, .*and do as x, y, width.* convert them"
    ):
        said(path, "train")


@given(
    boxes=st.lists(st.lists(st.floats(-50, 250) | st.just(np.nan), min_size=4, max_size=4), min_size=1, max_size=20),
    size=st.tuples(st.integers(20, 300), st.integers(20, 300)),
)
def test_every_unusable_box_has_one_reason(boxes, size):
    _, usable = boxes_to_model(np.array(boxes), *size, 224)
    assert unusable_boxes(np.array(boxes), *size).total() == (~usable).sum()


def test_a_store_of_before_says_that_it_does_not_know():
    sizes = {"train": 5, "test": 2}
    reading = {"name": "s", "split": "train", "use": "training", "max_tokens": 8, "with_boxes": True}
    assert list(counts.store_lines({}, sizes, **reading)) == [
        "s: 7 clips: 5 train, 2 test; training on train",
        "s was made without counts of what it leaves out: unknown",
    ]
    lengths = counts.LengthCounts()
    for length in (4, 8, 9, 900):
        lengths.add(length)
    known = {
        "left_out": {"train": {"without a caption": 2, "without their video": 3}, "test": {"without a caption": 1}},
        "token_lengths": {"train": lengths.counts, "test": lengths.counts},
        "boxes": 50,
        "unusable_boxes": {"outside the frame": 5},
    }
    assert list(counts.store_lines(known, sizes, **reading))[1:] == [
        "5 of 10 rows (50.0%) were left out when it was made: 3 without their video, 2 without a caption",
        "2 of 4 captions (50.0%) are longer than the 8 tokens that the model reads, and are cut; the longest has 256 "
        "or more (model.max_tokens, --max_tokens)",
        "5 of 50 boxes (10.0%) are of no use to a model: 5 outside the frame",
    ]


def test_replaced_clips_are_named_with_their_reasons(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.record("replaced", "before", "gone", kind="missing", path="x.mp4")
    run = Replacements(path)
    assert list(run.new_lines()) == []
    for number in range(8):
        kind = "missing" if number % 2 else "corrupt"
        ledger.record("replaced", f"c{number}", "why", kind=kind, path=f"{number}.mp4")
        ledger.record("fallback", f"c{number}", "why")
    ledger.record("replaced", "c0", "why", kind="corrupt", path="0.mp4")
    with open(path, "ab") as file:
        file.write(b'{"event": "replaced", "cl')  # another process is at it
    lines = list(run.new_lines())
    assert lines[0] == "clip 'c0' is replaced, corrupt: 0.mp4: why"
    assert lines[5:] == [f"more clips are replaced; {path} names them all"]
    assert list(run.summary()) == [f"8 clips could not be read and were replaced: 4 corrupt, 4 missing; see {path}"]
    assert list(Replacements(path).summary()) == []
