"""TSV files, one frame a row: bottom-up attention's layouts and VinVL's predictions."""

import base64
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from stoa.prepare.detections import FilterConfig, open_detections, tsv_index
from stoa.prepare.detections.keys import DEFAULT_PATTERN, KeyPattern
from stoa.prepare.detections.tsv_index import TsvIndex

CLIP = {"size_wh": (320, 240), "duration_seconds": 10.0}
BOXES = np.array([[10, 20, 110, 220], [0, 0, 639, 479]], dtype=np.float32)
ATTRIBUTES = ("ids", "conf", "attr_ids", "attr_conf", "count", "boxes", "features")


def b64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def bottom_up_row(key: str, columns: tuple[str, ...], *, height_first: bool = True, **changes: str) -> str:
    """A row on a 640x480 frame with a dog (0.5) and a cat (0.75) of the classes cat, dog, tree."""
    probabilities = np.array([[0.2, 0.1, 0.5, 0.2], [0.25, 0.75, 0, 0]], dtype=np.float32)
    fields = {
        "ids": b64(np.array([1, 0])),
        "conf": b64(np.array([0.5, 0.75], dtype=np.float32)),
        "attr_ids": b64(np.array([7, 7])),
        "attr_conf": b64(np.array([0.5, 0.5], dtype=np.float32)),
        "count": "2",
        "boxes": b64(BOXES),
        "features": "never decoded: %%%",
        "cls_prob": b64(probabilities),
        "classes": b64(np.array([2, 1])),
        **changes,
    }
    sizes = ("480", "640") if height_first else ("640", "480")
    return "\t".join([key, *sizes, *(fields[name] for name in columns)])


@pytest.fixture
def labels(tmp_path) -> Path:
    (tmp_path / "names.txt").write_text("cat,kitten\ndog\ntree\n")
    return tmp_path / "names.txt"


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(row + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("columns", "height_first"),
    [
        (ATTRIBUTES, True),
        (ATTRIBUTES[:-1], True),
        (("ids", "conf", "count", "boxes", "features"), True),
        (("count", "boxes", "features", "cls_prob"), False),
        (("count", "boxes", "features", "cls_prob", "classes"), True),
    ],
    ids=["10 columns", "9, no features", "8, no attributes", "7, probabilities", "8, probabilities"],
)
def test_bottom_up_layouts(tmp_path, labels, columns, height_first):
    rows = [bottom_up_row(f"v_1_{frame}", columns, height_first=height_first) for frame in (4, 0, 2)]
    other = bottom_up_row("v_0", columns, height_first=height_first)
    found = open_detections(write(tmp_path / "b.tsv", *rows, other), labels=labels, fps=2)
    clip = found.find("v_1", **CLIP)
    assert found.class_names == ["cat", "dog", "tree"]
    assert clip.frame_times_seconds.tolist() == [0, 1, 2]
    assert clip.frame_index.tolist() == [0, 0, 1, 1, 2, 2] and clip.labels.tolist() == [0, 1] * 3
    assert clip.scores.tolist() == [0.75, 0.5] * 3
    np.testing.assert_allclose(clip.boxes[:2], BOXES[::-1] / 2)
    assert found.find("v", **CLIP).frame_times_seconds.tolist() == [0.0]
    assert found.find("v_2", **CLIP) is None


def test_a_broken_row_drops_its_frame(tmp_path, labels):
    good = bottom_up_row("v_0", ATTRIBUTES)
    odd = {
        "count": ["3", "two"],
        "boxes": [b64(BOXES)[:-5], b64(BOXES[:1])],
        "ids": ["%%%%"],
        "conf": [b64(np.array([0.5], dtype=np.float32))],
    }
    broken = [(name, value) for name, values in odd.items() for value in values]
    rows = [bottom_up_row(f"v_{i}", ATTRIBUTES, **{name: value}) for i, (name, value) in enumerate(broken, start=1)]
    cut = bottom_up_row("v_7", ATTRIBUTES)[:60]
    for row, message in zip(
        [*rows, cut],
        [
            "boxes holds 32 bytes for 12 numbers",
            "num_boxes is b'two'; expected a whole number",
            "boxes is not valid base64, perhaps cut",
            "boxes holds 16 bytes for 8 numbers",
            "objects_id is not valid base64",
            "objects_conf holds 4 bytes for 2 numbers",
            "columns; expected at least 9, the row is cut",
        ],
        strict=True,
    ):
        told = []
        path = write(tmp_path / "b.tsv", good, row)
        found = open_detections(path, labels=labels, fps=1, on_drop=lambda *what: told.append(what))  # noqa: B023
        assert found.find("v", **CLIP).frame_times_seconds.tolist() == [0.0]
        [(video, reason)] = told
        assert video == "v" and message in reason and "1 frame dropped: its row cannot be read" in reason
        assert row.split("\t")[0] in reason


def test_classes_and_scores_out_of_range(tmp_path, labels):
    told = []
    changes = {"ids": b64(np.array([1600, 1])), "conf": b64(np.array([0.5, np.nan], dtype=np.float32))}
    path = write(tmp_path / "b.tsv", bottom_up_row("v_0", ATTRIBUTES, **changes))
    clip = open_detections(path, labels=labels, fps=1, on_drop=lambda *what: told.append(what[1])).find("v", **CLIP)
    assert clip.frame_times_seconds.tolist() == [0.0] and not len(clip.labels)
    assert told == [
        "1 box dropped: its class is not one of the labels, such as class 1600",
        "1 box dropped: the score is missing or not within 0 and 1, such as nan",
    ]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (bottom_up_row("v_0", ("count", "boxes", "features")), {}, "boxes and features but no classes"),
        (bottom_up_row("v_0", ("ids", "conf", "boxes", "features")), {}, "no known bottom-up layout"),
        ("v_0\tx", {}, r"known first row \(2 columns\); pass format"),
        ("", {}, "known first row|the file is empty"),
        (bottom_up_row("v_0", ATTRIBUTES), {"fps": None}, "key 'v_0' .*pass fps, the frames numbered in a second"),
        (bottom_up_row("v", ATTRIBUTES), {}, "no row has a key that pattern .* matches .the first is 'v'"),
        (bottom_up_row("v_0", ATTRIBUTES), {"labels": None}, "format bottom_up_tsv needs labels"),
    ],
)
def test_a_file_that_is_unusable_is_named(tmp_path, labels, row, options, message):
    path = write(tmp_path / "b.tsv", row)
    with pytest.raises(ValueError, match=message):
        open_detections(path, **{"labels": labels, "fps": 1, **options})


def test_keys_by_seconds(tmp_path, labels):
    told = []
    rows = [bottom_up_row(key, ATTRIBUTES) for key in ("a/v@1.5", "a/v@0.25", "odd")]
    pattern = r"(?P<video>[^@]+)@(?P<seconds>[\d.]+)"
    path = write(tmp_path / "b.tsv", *rows)
    found = open_detections(path, labels=labels, pattern=pattern, on_drop=lambda *what: told.append(what))
    assert found.find("a/v", **CLIP).frame_times_seconds.tolist() == [0.25, 1.5]
    assert [key for key, _ in told] == ["odd"] and "does not match this key" in told[0][1]


def objects(*named: tuple[str, float]) -> list[dict]:
    return [{"class": name, "rect": [10, 20, 110, 220], "conf": conf, "feature": "AAAA"} for name, conf in named]


def test_vinvl_predictions(tmp_path):
    """Sizes inside the row, in a file beside it, and none; classes from the label map beside it."""
    write(tmp_path / "train.labelmap.tsv", "cat", "dog")
    rows = {"v_0": objects(("dog", 0.5)), "v_1": {"objects": objects(("cat", 0.25)), "image_h": 480, "image_w": 640}}
    path = write(tmp_path / "train.label.tsv", *(f"{key}\t{json.dumps(value)}" for key, value in rows.items()))
    clip = open_detections(path, fps=1).find("v", **CLIP)
    assert clip.labels.tolist() == [1, 0] and clip.scores.tolist() == [0.5, 0.25]
    assert clip.boxes.tolist() == [[10, 20, 110, 220], [5, 10, 55, 110]]

    write(tmp_path / "train.hw.tsv", 'v_0\t[{"height": 960, "width": 1280}]', "u_0\t5 5")
    told = []
    found = open_detections(path, fps=1, on_drop=lambda *what: told.append(what))
    assert found.find("v", **CLIP).boxes.tolist() == [[2.5, 5, 27.5, 55], [5, 10, 55, 110]] and not told
    write(tmp_path / "train.hw.tsv", "v_0\t960 1280")
    assert open_detections(path, fps=1).find("v", **CLIP).boxes[0].tolist() == [2.5, 5, 27.5, 55]
    write(tmp_path / "train.hw.tsv", "u_0\t5 5")
    assert open_detections(path, fps=1, on_drop=lambda *what: told.append(what)).find("v", **CLIP) is not None
    [(video, reason)] = told
    assert video == "v" and "train.hw.tsv has no row with its size" in reason


def test_vinvl_rows_that_cannot_be_read(tmp_path, labels):
    told = []
    rows = ["v_0\t[]", 'v_1\t[{"class": "dog", "rect": [1', "v_2\t3", "v_3", 'v_4\t{"objects": [], "image_w": 5}']
    found = open_detections(
        write(tmp_path / "p.tsv", *rows), labels=labels, fps=1, on_drop=lambda *what: told.append(what[1])
    )
    assert found.find("v", **CLIP).frame_times_seconds.tolist() == [0.0]
    assert len(told) == 1 and told[0].startswith(
        "4 frames dropped: its row cannot be read, such as 'v_1': column 2: not"
    )


def test_the_index_of_many_rows(tmp_path):
    """Every row of a video is found, whatever the order, and none of another's; the index goes to other processes."""
    rng = np.random.default_rng(0)
    keys = [f"video{v}_{f}" for v in range(500) for f in range(4)]
    rng.shuffle(keys)
    write(tmp_path / "p.tsv", *(f"{key}\tfield of {key}" for key in keys))
    index = TsvIndex(tmp_path / "p.tsv", KeyPattern(DEFAULT_PATTERN, 2), lambda key, why: None)
    assert len(index) == 2000
    index = pickle.loads(pickle.dumps(index))
    for v in range(500):
        rows = list(index.rows(f"video{v}"))
        assert [row.key for row in rows] == [key for key in keys if key.startswith(f"video{v}_")]
        assert all(row.fields == [f"field of {row.key}".encode()] for row in rows)
        assert sorted(row.seconds for row in rows) == [0, 0.5, 1, 1.5]
    assert list(index.rows("video500")) == []


def test_videos_whose_hashes_collide_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv_index, "_hash", lambda video: 7)
    write(tmp_path / "p.tsv", "a_0\t1", "b_0\t2", "a_1\t3")
    index = TsvIndex(tmp_path / "p.tsv", KeyPattern(DEFAULT_PATTERN, 1), lambda key, why: None)
    assert [row.key for row in index.rows("a")] == ["a_0", "a_1"] and list(index.rows("c")) == []


def test_a_published_bottom_up_file(real_data):
    vocab = real_data / "vocab"
    found = open_detections(
        vocab / "bua_train2014_obj36.first2.tsv",
        labels=vocab / "bua_objects_vocab_1600.txt",
        pattern=r"(?P<video>\w+_(?P<seconds>\d+))$",
        filter=FilterConfig(max_boxes=36),
    )
    for image, size_wh, some in [(132417, (500, 333), {"sky", "tree"}), (573195, (640, 428), {"cat", "dog"})]:
        clip = found.find(f"COCO_train2014_{image:012d}", size_wh=size_wh, duration_seconds=1e6)
        assert len(clip.labels) == 36 and some <= {found.class_names[label] for label in clip.labels}
        assert (np.diff(clip.scores) <= 0).all() and clip.scores[-1] > 0 and clip.scores[0] < 1
        assert (clip.boxes[:, 2:] <= size_wh).all()


def test_a_published_vinvl_file_whose_boxes_have_no_scores(real_data):
    told = []
    found = open_detections(
        real_data / "vocab" / "mini_tsv" / "train.label.tsv",
        pattern=r"(?P<video>\d+)(?P<frame>\d)$",
        fps=1,
        on_drop=lambda *what: told.append(what[1]),
    )
    clip = found.find("00000052241", **CLIP)
    assert found.class_names == ["Dog", "Cat"]
    assert clip.frame_times_seconds.tolist() == [8.0] and not len(clip.labels)
    assert told == ["2 boxes dropped: the score is missing or not within 0 and 1, such as nan"]
