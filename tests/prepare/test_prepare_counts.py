"""`stoa prepare` with boxes in other conventions, and what it and a training say of what was left out."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, write_video

from stoa.data.ledger import Ledger
from stoa.data.loader import open_clips, opening_lines
from stoa.data.shards import ShardClips
from stoa.prepare.adapters import open_annotations
from stoa.prepare.check import CheckConfig, check
from stoa.prepare.config import DetectionsConfig, PrepareConfig
from stoa.prepare.pipeline import prepare

WIDTH, HEIGHT = 96, 64
CORNERS = np.array([[10, 10, 50, 40], [50, 20, 80, 50], [40, 30, 95, 63], [2, 30, 30, 60]], dtype=float)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "é.mp4", gray_frames(5, height=HEIGHT, width=WIDTH), fps=5)
    rows = [
        {"id": unicodedata.normalize("NFD", "é"), "video": unicodedata.normalize("NFD", "é.mp4"), "caption": "a dog"},
        {"id": "silent", "video": "é.mp4", "caption": None},
        {"id": "gone", "video": "gone.mp4", "caption": "a very " + "long " * 40 + "caption"},
        {"id": "test", "video": "é.mp4", "caption": "a cat " + "and a cat " * 20, "split": "test"},
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.txt").write_bytes(b"\xef\xbb\xbfperson\r\ndog\r\n")
    return folder


def coco(path: Path, boxes: np.ndarray, *, first: int = 0, score: float = 0.9, names=("person", "dog")) -> str:
    images = [{"id": i, "file_name": f"é_{i + first:04d}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(5)]
    annotations = [
        {"image_id": i, "category_id": k % 2, "bbox": box.tolist(), "score": score}
        for i in range(5)
        for k, box in enumerate(boxes)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def vinvl(folder: Path, boxes: np.ndarray) -> str:
    folder.mkdir()
    objects = [{"class": ("person", "dog")[k % 2], "rect": box.tolist(), "conf": 0.9} for k, box in enumerate(boxes)]
    (folder / f"{unicodedata.normalize('NFD', 'é')}.json").write_text(json.dumps([{"objects": objects}] * 5))
    return str(folder)


def made(videos: Path, out: Path, **detections: object) -> list[str]:
    said: list[str] = []
    boxes = DetectionsConfig(labels=str(videos / "labels.txt"), fps=5, **detections)
    config = PrepareConfig(out=str(out), videos=str(videos), spacy=None, timeout_seconds=60.0, detections=boxes)
    prepare(
        config, open_annotations("manifest", videos / "m.jsonl"), videos, engine="local", workers=1, say=said.append
    )
    return said


SIZES = np.concatenate([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]], axis=1)
SHARES = [WIDTH, HEIGHT, WIDTH, HEIGHT]
CASES = {
    "shares": (lambda path: coco(path, SIZES / SHARES), {"units": "normalised"}),
    "corners": (lambda path: coco(path, CORNERS), {"box_format": "xyxy"}),
    "percent": (lambda path: coco(path, SIZES, score=90.0), {"max_score": 100}),
    "from one": (lambda path: coco(path, SIZES, first=1), {"first_frame": 1}),
    "vinvl shares": (lambda path: vinvl(path, CORNERS / SHARES), {"units": "normalised"}),
    "vinvl sizes": (lambda path: vinvl(path, SIZES), {"box_format": "xywh"}),
    "vinvl swapped": (lambda path: vinvl(path, CORNERS[:, [1, 0, 3, 2]]), {"box_format": "yxyx"}),
}


@pytest.mark.parametrize("case", CASES)
def test_another_convention_is_refused_with_the_option_that_then_does(videos, tmp_path, case):
    write, options = CASES[case]
    path = write(tmp_path / ("boxes" if "vinvl" in case else "boxes.json"))
    ((option, value),) = options.items()
    with pytest.raises(ValueError, match=rf"detections {path}.*pass --detections.{option} {value}") as error:
        made(videos, tmp_path / "out", path=path)
    assert "\n" not in str(error.value)
    said = made(videos, tmp_path / "out", path=path, **options)  # to the same folder
    assert "frames: 2 of 2 clips have detections" in said
    found = ShardClips(str(tmp_path / "out" / "frames"), "train").place(0).read().detections
    np.testing.assert_allclose(found.boxes[:4], CORNERS, atol=1e-3)
    assert found.labels[:4].tolist() == [0, 1, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9] * len(found.scores))


def test_labels_of_another_detector_are_refused(videos, tmp_path):
    path = coco(tmp_path / "c.json", SIZES, names=("Person", "Dog"))
    with pytest.raises(ValueError, match=r"none of the classes of 20 boxes is among the 2 labels \('person', 'dog'"):
        made(videos, tmp_path / "out", path=path)


def test_what_was_left_out_is_said_by_prepare_training_and_check(videos, tmp_path):
    boxes = np.concatenate([SIZES, [[200, 200, 10, 10], [20, 20, 0.3, 9]]])
    path = coco(tmp_path / "c.json", np.concatenate([np.repeat(SIZES, 4, axis=0), boxes]), names=("person", "dog"))
    said = made(videos, tmp_path / "out", path=path)
    assert (
        "1 of 2 captions (50.0%) are longer than the 32 tokens that the model reads, and are cut; the longest has 64 "
        "(model.max_tokens, --max_tokens)" in said
    )
    assert (
        "frames: 100 of 220 boxes (45.5%) are kept; left out: 100 not among those that --detections.filter keeps of a "
        "frame, 10 nothing of it lies in the frame, 10 it is less than a pixel wide or high" in said
    )
    store = str(tmp_path / "out" / "frames")
    of_store = [
        f"{store}: 2 clips: 1 train, 1 test; training on train",
        "2 of 3 rows (66.7%) were left out when it was made: 1 without a caption, 1 without their video",
    ]
    clips = open_clips(store, "train", Ledger(None))
    assert opening_lines(clips, store, "train", "training", max_tokens=32, max_boxes=0) == of_store
    given = {"max_tokens": 32, "max_boxes": 0, "decoder": "pyav"}
    idle = f"{store} holds JPEG frames: decoder, which concerns video, changes nothing"
    assert opening_lines(clips, store, "train", "training", **given) == [*of_store, idle]
    lines: list[str] = []
    assert check(store, CheckConfig(ledger=str(tmp_path / "l.jsonl"), split="train"), lines.append)
    assert lines[:2] == [of_store[0].replace("training", "checking"), of_store[1]]


def test_a_folder_and_a_store_of_before_are_read(videos, tmp_path):
    out = tmp_path / "out"
    path = coco(tmp_path / "c.json", SIZES)
    made(videos, out, path=path)
    plan = json.loads((out / "plan.json").read_text())
    for option in ("box_format", "units", "max_score", "first_frame"):
        del plan["detections"][option]
    (out / "plan.json").write_text(json.dumps(plan))
    for shard in (out / "frames").glob("0*.json"):
        facts = json.loads(shard.read_text())
        del facts["boxes"], facts["tallies"]["unusable_boxes"]
        shard.write_text(json.dumps(facts))
    assert "frames: 1 of 1 shards are there already" in made(videos, out, path=path)
    store = out / "frames" / "store.json"
    store.write_text(json.dumps({k: v for k, v in json.loads(store.read_text()).items() if k != "counts"}))
    clips = open_clips(str(store.parent), "train", Ledger(None))
    lines = opening_lines(clips, str(store.parent), "train", "training", max_tokens=32, max_boxes=5)
    assert lines[1].endswith("was made without counts of what it leaves out: unknown")
