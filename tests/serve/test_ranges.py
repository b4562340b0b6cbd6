"""Parts of files as players ask for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.serve.ranges import part_of
from stoa.serve.refusing import Refused


@given(first=st.integers(0, 30), last=st.integers(0, 30), size=st.integers(0, 20))
def test_they_are_the_bytes_that_slicing_gives(first, last, size):
    content = bytes(range(size))
    for header, wanted in (
        (f"bytes={first}-{last}", content[first : last + 1]),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[-last:] if last else b""),
    ):
        if wanted:
            start, end = part_of(header, size)
            assert content[start:end] == wanted and end <= size
        else:
            with pytest.raises(Refused) as refused:
                part_of(header, size)
            assert refused.value.status == 416 and refused.value.headers == {"Content-Range": f"bytes */{size}"}


@pytest.mark.parametrize("header", [None, "", "items=0-1", "seconds=1-2"])
def test_what_is_no_range_of_bytes_is_all(header):
    assert part_of(header, 10) is None


@given(st.text("0123456789-, x", max_size=30).filter(lambda text: text.count("-") != 1 or "," in text or "x" in text))
def test_several_or_garbled_ones_are_refused(text):
    with pytest.raises(Refused):
        part_of(f"bytes={text}", 10)


def test_a_player_gets_what_it_asks_for(served):
    content, address = (served.videos / "a.mp4").read_bytes(), f"/videos/{served.numbers['a.mp4']}"
    whole = served.client.get(address)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "video/mp4" and whole.headers["content-disposition"] == "inline"
    assert whole.headers["accept-ranges"] == "bytes"
    part = served.client.get(address, headers={"Range": "bytes=5-99"})
    assert (part.status_code, part.content) == (206, content[5:100])
    assert part.headers["content-range"] == f"bytes 5-99/{len(content)}"
    same = served.client.get(address, headers={"Range": "bytes=5-", "If-Range": whole.headers["etag"]})
    assert (same.status_code, same.content) == (206, content[5:])
    other = served.client.get(address, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, content)
    head = served.client.head(address, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (206, b"", "10")


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=3-2", "bytes=-0", "bytes=0-1,3-4", "bytes=" + "9" * 5000])
def test_what_the_file_has_not_is_refused(served, asked):
    answer = served.client.get(f"/videos/{served.numbers['a.mp4']}", headers={"Range": asked})
    assert answer.status_code == 416 and answer.headers["content-range"].startswith("bytes */")
    assert answer.json() == {"error": "The file has no such part."}
