"""One JSON a video, as STOA-VLP's release has them."""

import json
from pathlib import Path

import numpy as np
import pytest

from stoa.data.placement import boxes_to_model
from stoa.prepare.detections import FilterConfig, open_detections, read_class_names

NAMES = ["cat", "dog", "tree"]
CLIP = {"size_wh": (320, 240), "duration_seconds": 10.0}


def thing(name: str, rect: list[float], conf: object = 0.5) -> dict:
    return {"class": name, "rect": rect, "conf": conf, "attributes": ["big"], "attr_scores": [0.4]}


def frames(*objects: list[dict], **fields: list) -> list[dict]:
    return [
        {"objects": found, **{name: values[i] for name, values in fields.items()}} for i, found in enumerate(objects)
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "labels.json").write_text(json.dumps({"label_to_idx": {"dog": 2, "cat": 1, "tree": 3}}))
    (tmp_path / "boxes").mkdir()
    return tmp_path / "boxes"


def source(folder: Path, video: str, content: object, **options):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / f"{video}.json").write_text(text)
    return open_detections(folder, labels=folder.parent / "labels.json", **options)


def test_frames_are_spread_over_the_clip(folder):
    found = source(folder, "v", frames([thing("dog", [1, 2, 30, 40])], [], [thing("cat", [5, 5, 9, 9], 0.9)], []))
    assert found.class_names == NAMES
    clip = found.find("v", **CLIP)
    assert clip.frame_times_seconds.tolist() == [1.25, 3.75, 6.25, 8.75]
    assert clip.frame_index.tolist() == [0, 2] and clip.labels.tolist() == [1, 0]
    assert clip.boxes.tolist() == [[1, 2, 30, 40], [5, 5, 9, 9]]
    assert clip.scores.tolist() == pytest.approx([0.5, 0.9]) and clip.size_wh.tolist() == [320, 240]
    part = found.find("v", **CLIP, start_seconds=4.0, end_seconds=6.0)
    assert part.frame_times_seconds.tolist() == [4.25, 4.75, 5.25, 5.75]
    assert found.find("absent", **CLIP) is None


def test_times_of_the_file_and_the_nearest_frame_of_a_part(folder):
    times = [0.0, 2.0, 4.0, 6.0, 8.0]
    everything = frames(*[[thing("dog", [i, 0, 50, 50])] for i in range(5)], seconds=times)
    clip = source(folder, "v", everything).find("v", **CLIP, start_seconds=3.5, end_seconds=5.5)
    assert clip.frame_times_seconds.tolist() == [2.0, 4.0, 6.0]
    assert clip.boxes[:, 0].tolist() == [1, 2, 3]


def test_frames_of_another_size(folder):
    """A box drawn on the centre crop comes back to where the model sees it."""
    squashed = source(folder, "v", frames([thing("dog", [56, 56, 112, 224])]), frame_size=(224, 224))
    assert squashed.find("v", **CLIP).boxes.tolist() == [[80, 60, 160, 240]]
    cropped = source(
        folder, "v", frames([thing("dog", [56, 28, 112, 168])]), frame_size=(224, 224), frame_fit="crop"
    ).find("v", **CLIP)
    seen, usable = boxes_to_model(cropped.boxes, 240, 320, 224)
    assert usable.all()
    np.testing.assert_allclose(seen, [[56 / 224, 28 / 224, 112 / 224, 168 / 224]], atol=2e-3)


def test_what_cannot_be_used_is_dropped_and_told(folder):
    bad = [
        thing("unicorn", [0, 0, 9, 9]),
        thing("unicorn", [0, 0, 8, 9]),
        thing("dog", [float("nan"), 0, 9, 9]),
        thing("dog", [0, 0, 9]),
        thing("dog", [0, 0, 9, 9], 1.5),
        {"class": "dog", "rect": [0, 0, 9, 9]},
        thing("dog", [400, 0, 500, 9]),
        thing("dog", [9, 9, 9, 20]),
        "dog",
    ]
    good = [thing("dog", [-5, 0, 9, 9]), thing("cat", [0, 0, 400, 9], 1)]
    told = []
    clip = source(folder, "v", frames([*bad, *good], []), on_drop=lambda *what: told.append(what)).find("v", **CLIP)
    assert clip.boxes.tolist() == [[0, 0, 320, 9], [0, 0, 9, 9]]
    assert len(clip.frame_times_seconds) == 2
    assert {video for video, _ in told} == {"v"}
    assert [reason.partition(", such as")[0] for _, reason in told] == [
        "2 boxes dropped: its class is not one of the labels",
        "2 boxes dropped: no 'rect' of four numbers",
        "1 box dropped: a coordinate is no finite number",
        "2 boxes dropped: the score is missing or not within 0 and 1",
        "1 box dropped: it ends before it begins",
        "1 box dropped: nothing of it lies in the frame",
    ]
    assert told[0][1].endswith("such as 'unicorn'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"objects": [{"class": "dog", "rect": [1, 2,', "not valid JSON"),
        ("", "not valid JSON"),
        ([], "expected a list of frames with at least one"),
        ([{"boxes": []}], "a frame is no object with a list 'objects'"),
        (frames([], []) + [{"objects": [], "seconds": 3}], "frame 0 has no 'seconds' but others do"),
        (frames([], seconds=["late"]), "'seconds' is no number"),
    ],
)
def test_a_video_that_cannot_be_read_is_told(folder, content, message):
    told = []
    found = source(folder, "v", content, on_drop=lambda *what: told.append(what))
    assert found.find("v", **CLIP) is None
    [(video, reason)] = told
    assert video == "v" and message in reason and "v.json" in reason


def test_frames_out_of_range_and_twice(folder):
    told = []
    content = frames([], [], [], [], seconds=[-1.0, 3.0, 3.0, 11.0])
    clip = source(folder, "v", content, on_drop=lambda *what: told.append(what[1])).find("v", **CLIP)
    assert clip.frame_times_seconds.tolist() == [3.0]
    assert told == [
        "2 frames dropped: outside the video of 10 s, such as the one at -1 s",
        "1 frame dropped: the same time stands twice, such as 3 s",
    ]
    assert source(folder, "w", frames([], seconds=[99])).find("w", **CLIP) is None


def test_the_filter_is_applied(folder):
    found = [thing("dog", [0, 0, 10 + i, 10], i / 100) for i in range(30)]
    clip = source(folder, "v", frames(found), filter=FilterConfig(max_boxes=2)).find("v", **CLIP)
    assert clip.scores.tolist() == pytest.approx([0.29, 0.28])
    assert len(source(folder, "v", frames(found)).find("v", **CLIP).labels) == 10


def test_wrong_options_and_folders_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="boxes: no .json file in this folder"):
        open_detections(folder, labels=tmp_path / "labels.json")
    (folder / "v.json").write_text("[]")
    for options, message in [
        ({"labels": None}, "format vinvl_json needs labels"),
        ({"frame_size": (0, 5)}, r"frame_size is \(0, 5\)"),
        ({"frame_fit": "zoom"}, "frame_fit is 'zoom'; pass 'stretch' or 'crop'"),
        ({"format": "coco"}, "format is 'coco'; pass one of auto, vinvl_json"),
        ({"format": "coco_json"}, "format coco_json is read from a file"),
        ({"pattern": "("}, "pattern '\\(' is no regular expression"),
        ({"pattern": "(?P<video>.+)"}, "lacks a group"),
        ({"fps": 0.0}, "fps is 0.0; pass a number above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_detections(folder, **{"labels": tmp_path / "labels.json", **options})
    with pytest.raises(ValueError, match="absent do not exist"):
        open_detections(tmp_path / "absent")


def test_class_names(tmp_path):
    for name, text in {
        "a.json": '["cat", "dog"]',
        "b.json": '{"dog": 7, "cat": 2}',
        "c.txt": "cat,kitten\n\ndog\n",
        "d.tsv": "cat\t3\ndog\t4\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert read_class_names(tmp_path / name) == ["cat", "dog"]
    for name, text, message in [
        ("e.json", '{"dog": 7, "cat": 7}', "share a number"),
        ("e.json", "[3]", "neither a JSON list of names nor a map"),
        ("e.json", '["cat', "not valid JSON"),
        ("e.txt", "\n", "no class name"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_class_names(tmp_path / name)
    with pytest.raises(ValueError, match="absent.json: .*No such file"):
        read_class_names(tmp_path / "absent.json")


def test_the_released_label_map(real_data):
    names = read_class_names(real_data / "vocab" / "stoa_label_map.json")
    numbers = json.loads((real_data / "vocab" / "stoa_label_map.json").read_text())["label_to_idx"]
    assert len(names) == 1594 and names[:2] == ["ad", "adult"]
    assert all(numbers[name] == label + 1 for label, name in enumerate(names))
