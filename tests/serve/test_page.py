"""What the page finds and says, and what it says of requests that are too much."""

import io
import re

import pytest
from PIL import Image
from served_videos import HOSTILE

from stoa.serve.limits import Limits
from stoa.serve.words import clock


def window(start: float = 0.0, end: float = 1.0, **more: object) -> dict[str, object]:
    return {"start": start, "end": end, **more}


def test_a_search_needs_no_script(served):
    text = served.client.get("/?q=something").text
    found = served.searcher.by_text("something", top_k=6)
    assert [int(number) for number in re.findall(r'data-number="(\d+)"', text)] == [hit.file for hit in found]
    first = found[0]
    assert f'data-start="{first.place.start_seconds}" data-end="{first.place.end_seconds}"' in text
    assert 'value="something"' in text and "autofocus" not in text
    assert "autofocus" in served.client.get("/").text


def test_a_player_is_offered_what_it_plays(served):
    text = served.client.get("/?q=something").text
    sources = re.findall(r'<source src="([^"]+)">', text)
    number, old = served.numbers[HOSTILE], served.numbers["sub/old.avi"]
    assert any(re.fullmatch(rf"/videos/{number}#t=\d,\d", source) for source in sources)
    assert not any(source.startswith(f"/videos/{old}#") for source in sources)
    parts = [source.replace("&amp;", "&") for source in sources if source.startswith(f"/videos/{old}/part?")]
    for part in parts:
        answer = served.client.get(part)
        assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"
        assert answer.content[4:8] == b"ftyp" and served.client.get(part).content == answer.content


def test_it_says_what_the_model_says(served):
    number, model = served.numbers["a.mp4"], served.searcher.model
    clip = served.searcher.clip(number, 0.0, 1.0)
    caption = served.client.post(f"/videos/{number}/caption", json=window())
    assert (caption.status_code, caption.json()) == (200, {"text": model.caption(clip)})
    answer = served.client.post(f"/videos/{number}/answer", json=window(text="what moves?"))
    assert (answer.status_code, answer.json()) == (200, {"text": model.answer(clip, "what moves?")})


def test_it_explains_the_sentence_or_its_own_caption(served):
    number = served.numbers["a.mp4"]
    assert 'data-do="explain"' in served.client.get("/?q=something").text
    pictures = []
    for text in ("a red square moves left", ""):
        answer = served.client.post(f"/videos/{number}/explain", json=window(text=text))
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.format == "PNG" and min(picture.size) > 100
        pictures.append(answer.content)
    assert pictures[0] != pictures[1]


def test_with_nothing_sure_the_nearest_are_folded_away(served):
    served.searcher.index.threshold = 2.0
    text = served.client.get("/?q=something").text
    assert "No confident match." in text and "<summary>Show the nearest 6</summary>" in text
    assert text.index("<details") < text.index("<article")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"start": 0}', b'{"start": "x", "end": 1}', b'{"start": 0, "end": 1, "text": 7}']
    + [b'{"start": 0, "end": 1, "text": "\\ud800"}', b"\xff\xfe", b"[" * 10_000],
)
def test_garbled_questions_are_told(served, body):
    answer = served.client.post(f"/videos/{served.numbers['a.mp4']}/answer", content=body)
    assert (answer.status_code, answer.json()) == (422, {"error": "This is no question about a window."})


def test_empty_and_long_texts_are_told(served):
    number = served.numbers["a.mp4"]
    empty = served.client.post(f"/videos/{number}/answer", json=window(text="  "))
    assert (empty.status_code, empty.json()["error"]) == (422, "The question is empty. Ask one.")
    long = served.client.post(f"/videos/{number}/answer", json=window(text="x" * 301))
    assert long.json()["error"] == "This has 301 characters; 300 are read. Say it shorter."
    page = served.client.get("/", params={"q": "x" * 301})
    assert page.status_code == 422 and "This has 301 characters" in page.text and "x" * 301 not in page.text
    huge = served.client.post(f"/videos/{number}/answer", json=window(text="x" * 20_000))
    assert huge.status_code == 413 and huge.json()["error"] == "This is larger than 16.0 KiB, more than is taken."
    assert served.client.get("/?q=%20%0a").status_code == 200


@pytest.mark.parametrize("limits", [Limits(waiting=0)])
def test_a_busy_model_says_so(served):
    page = served.client.get("/?q=something")
    assert page.status_code == 503 and page.headers["retry-after"] == "5" and "The model is busy" in page.text
    caption = served.client.post(f"/videos/{served.numbers['a.mp4']}/caption", json=window())
    assert caption.status_code == 503 and caption.json()["error"].startswith("The model is busy")
    assert served.client.get(f"/videos/{served.numbers['a.mp4']}").status_code == 200


@pytest.mark.parametrize("limits", [Limits(work_seconds=0.0)])
def test_work_that_takes_too_long_is_given_up(served):
    assert "took longer than 0 s" in served.client.get("/?q=something").text


def test_what_nobody_has_foreseen_shows_no_traceback(served, monkeypatch):
    monkeypatch.setattr(type(served.searcher), "by_text", lambda *_, **__: 1 / 0)
    answer = served.client.get("/?q=something")
    assert answer.status_code == 500 and answer.json()["error"].startswith("Something went wrong")
    assert "ZeroDivision" not in answer.text and answer.headers["x-content-type-options"] == "nosniff"


def test_clock():
    assert [clock(seconds) for seconds in (0, 7.5, 59.96, 61, 3723)] == ["0:00", "0:07.5", "1:00", "1:01", "1:02:03"]
