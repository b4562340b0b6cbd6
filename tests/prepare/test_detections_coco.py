"""COCO JSON, whole in memory."""

import json
from pathlib import Path

import pytest

from stoa.prepare.detections import open_detections

CLIP = {"size_wh": (320, 240), "duration_seconds": 10.0}
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}]


def image(key: int, **fields: object) -> dict:
    return {"id": key, "width": 640, "height": 480, **fields}


def box(image_id: object, category: object = 18, score: object = 0.5, bbox: object = (10, 20, 100, 200)) -> dict:
    return {"id": 1, "image_id": image_id, "category_id": category, "bbox": bbox, "score": score}


def write(path: Path, **lists: object) -> Path:
    path.write_text(json.dumps({"categories": CATEGORIES, **lists}))
    return path


def test_file_names(tmp_path):
    images = [image(7, file_name="v_1_2.jpg"), image(5, file_name="v_1_0.JPEG"), image(6, file_name="w_4")]
    boxes = [box(7), box(5, 3, 0.25), box(6, 18, 1)]
    for key in ("annotations", "detections"):
        found = open_detections(write(tmp_path / "c.json", images=images, **{key: boxes}), fps=2)
        assert found.class_names == ["cat", "dog"]
        clip = found.find("v_1", **CLIP)
        assert clip.frame_times_seconds.tolist() == [0, 1] and clip.labels.tolist() == [0, 1]
        assert clip.scores.tolist() == [0.25, 0.5]
        assert clip.boxes.tolist() == [[5, 10, 55, 110]] * 2
        assert found.find("w", **CLIP).frame_times_seconds.tolist() == [2]
        assert found.find("v", **CLIP) is None


@pytest.mark.parametrize("field", ["frame", "frame_index", "frame_id"])
def test_video_ids(tmp_path, field):
    images = [
        image(0, video_id=3, seconds=1.25),
        image(1, video_id=3, **{field: 6}),
        image(2, video_id="x", seconds=0),
    ]
    path = write(
        tmp_path / "c.json", images=images, videos=[{"id": 3, "name": "a/b"}], annotations=[box(1, score=0.75)]
    )
    found = open_detections(path, fps=4)
    clip = found.find("a/b", **CLIP)
    assert clip.frame_times_seconds.tolist() == [1.25, 1.5] and clip.frame_index.tolist() == [1]
    assert len(found.find("x", **CLIP).frame_times_seconds) == 1


def test_other_labels_and_what_is_dropped(tmp_path):
    (tmp_path / "names.txt").write_text("tree\ndog\n")
    told = []
    images = [image(0, file_name="v_0.png"), image(1, file_name="poster.png"), {"id": 2, "file_name": "v_1.png"}]
    boxes = [
        *(box(0), box(2), box(0, 3), box(0, 99), box(0, [4]), box(0, bbox=[1, 2, 3]), box(0, score=None)),
        *(box(0, score=-0.1), box(0, bbox=[1, 2, 0, 5]), box(99), box([1]), "box"),
    ]
    path = write(tmp_path / "c.json", images=images, annotations=boxes)
    found = open_detections(path, labels=tmp_path / "names.txt", fps=1, on_drop=lambda *what: told.append(what))
    assert [clip for clip, _ in told] == ["poster.png", "image 99", "image [1]", "image box"]
    assert "image_id 99 is not among the images" in told[1][1]
    del told[:]
    clip = found.find("v", **CLIP)
    assert clip.labels.tolist() == [1, 1]
    assert clip.boxes.tolist() == [[5, 10, 55, 110], [10, 20, 110, 220]]  # the second image has no size of its own
    assert [reason.partition(", such as")[0] for _, reason in told] == [
        "3 boxes dropped: its class is not one of the labels",
        "1 box dropped: no 'bbox' of four numbers",
        "2 boxes dropped: the score is missing or not within 0 and 1",
        "1 box dropped: it ends before it begins",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "not valid JSON"),
        ("[]", "a bare list of results names neither images nor classes"),
        ("3", "expected a JSON object, got int"),
        ('{"images": [], "annotations": []}', "list 'categories' is missing"),
        ('{"images": [], "categories": []}', "list 'annotations' is missing"),
        ('{"images": [{}], "categories": [], "annotations": []}', "images hold '{}'; each needs an 'id'"),
        ('{"images": [{"id": 1}, {"id": 1}], "categories": [], "annotations": []}', "hold id 1 twice"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [], "annotations": []}',
            "none of 1 images names",
        ),
        ('{"images": [{"id": 1, "file_name": "a_3.jpg"}], "categories": [], "annotations": []}', "pass fps"),
    ],
)
def test_a_file_that_is_unusable_is_named(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_detections(tmp_path / "c.json")
