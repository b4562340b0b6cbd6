"""Videos that are not what they were when they were indexed."""

import os
import shutil

import pytest
from served_videos import noise_video

from stoa.search.building import update
from stoa.search.opening import open_index
from stoa.serve.library import Library
from stoa.serve.limits import Limits
from stoa.serve.parts import Parts


def remove(path, _):
    path.unlink()


def link_out(path, tmp_path):
    path.rename(tmp_path / "outside.mp4")
    path.symlink_to(tmp_path / "outside.mp4")


def link_the_folder_out(path, tmp_path):
    shutil.move(path.parent, tmp_path / "outside")
    path.parent.symlink_to(tmp_path / "outside")


def put_another(path, _):
    noise_video(path, 77, "mpeg4")


def put_a_pipe(path, _):
    path.unlink()
    os.mkfifo(path)


def put_a_folder(path, _):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change", [remove, link_out, link_the_folder_out, put_another, put_a_pipe, put_a_folder], ids=lambda f: f.__name__
)
def test_they_are_not_shown(served, tmp_path, change):
    number = served.numbers["sub/old.avi"]
    change(served.videos / "sub" / "old.avi", tmp_path)
    asked = {"start": 0.0, "end": 1.0}
    for answer in (
        served.client.get(f"/videos/{number}"),
        served.client.get(f"/videos/{number}/part?start=0.0&end=1.0"),
        served.client.post(f"/videos/{number}/caption", json=asked),
    ):
        assert answer.status_code == 410
        assert answer.json()["error"].startswith("sub/old.avi ") and "Run stoa index again." in answer.json()["error"]
        assert str(tmp_path) not in answer.text
    assert served.client.get("/?q=something").status_code == 200  # the others are found as before


def test_links_within_the_folder_are_followed(served):
    path = served.videos / "sub" / "old.avi"
    path.rename(served.videos / "moved.bin")
    path.symlink_to("../moved.bin")
    answer = served.client.get(f"/videos/{served.numbers['sub/old.avi']}")
    assert answer.status_code == 200 and answer.content == (served.videos / "moved.bin").read_bytes()


def test_damage_is_a_sentence_without_paths(served, tmp_path):
    path, number = served.videos / "a.mp4", served.numbers["a.mp4"]
    times = path.stat()
    path.write_bytes(b"\0" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for answer in (
        served.client.post(f"/videos/{number}/caption", json={"start": 0, "end": 1}),
        served.client.get(f"/videos/{number}/part?start=0&end=1"),
    ):
        assert answer.status_code == 422 and "a.mp4" in answer.json()["error"]
        assert str(tmp_path) not in answer.text and "Traceback" not in answer.text
    assert served.client.get("/?q=something").status_code == 200


def test_what_is_indexed_meanwhile_is_found(served):
    noise_video(served.videos / "new.mp4", 5)
    assert "9 windows of 3 videos" in served.client.get("/").text
    index = open_index(served.videos, served.searcher.model)
    update(index, served.searcher.model)
    served.client.get("/?q=something")
    assert "12 windows of 4 videos" in served.client.get("/").text
    answer = served.client.get(f"/videos/{index.files()['new.mp4'].number}")
    assert answer.content == (served.videos / "new.mp4").read_bytes()


def test_a_card_of_what_is_gone_shows_nothing_else(served):
    """The page still has it when another file comes into the index."""
    old = max(served.numbers, key=served.numbers.get)
    (served.videos / old).unlink()
    noise_video(served.videos / "new.mp4", 5)
    update(open_index(served.videos, served.searcher.model), served.searcher.model)
    served.client.get("/?q=something")
    answer = served.client.post(f"/videos/{served.numbers[old]}/caption", json={"start": 0.0, "end": 1.0})
    assert answer.status_code == 404 and answer.json() == {"error": "No video has this number."}


def test_few_parts_are_kept(served, tmp_path):
    library, folder = Library(served.searcher), tmp_path / "parts"
    folder.mkdir()
    parts, number = Parts(library, folder, Limits(parts=2)), str(served.numbers["sub/old.avi"])
    windows = [library.part(number, start, start + 1.0) for start in (0.0, 1.0, 2.0)]
    first = parts.opened(windows[0])
    contents = []
    for window in windows:
        with parts.opened(window) as file:
            contents.append(file.read())
    assert len(list(folder.iterdir())) == 2 and len(set(contents)) == 3
    with first:  # it is gone from the folder, and can be read to its end
        assert first.read() == contents[0]
    none = Parts(library, folder, Limits(parts_bytes=0))
    with none.opened(windows[0]) as file:
        assert file.read(8)[4:] == b"ftyp"
