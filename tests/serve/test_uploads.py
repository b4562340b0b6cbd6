"""Pictures and clips that are searched by, and what pretends to be one."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stoa.serve.limits import Limits


def png(side: int = 48) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    """A picture of ``side`` squared that is small as a file."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1 << 24), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_picture_and_a_clip_are_searched_by(served):
    clip = (served.videos / "a.mp4").read_bytes()
    for content in (png(), clip):
        answer = served.client.post("/pictures", content=content)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
        assert re.search(r"Looks (the same|alike|somewhat alike|different)", answer.text) and "<html" not in answer.text
        assert not served.uploads()
    found = served.searcher.by_image(served.videos / "a.mp4", top_k=6)
    assert [int(number) for number in re.findall(r'data-number="(\d+)"', answer.text)] == [hit.file for hit in found]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 415, "neither a picture"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "neither a picture"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "neither a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://evil.com'/></svg>", 415, "neither a picture"),
        (b"PK\x03\x04" + bytes(100), 415, "neither a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 415, "cannot be read"),
        (b"\xff\xd8\xff" + bytes(1000), 415, "cannot be read"),
        (b"\0\0\0\x18ftypmp42" + bytes(1000), 415, "cannot be read"),
        (b"\xff\xd8\xff#EXTM3U\nfile:///etc/passwd\n", 415, "cannot be read"),
        (png()[:-400], 415, "cannot be read"),
        (bomb(60_000), 415, "cannot be read"),
        (bomb(16_000), 415, "cannot be read"),
    ],
    ids=["empty", "m3u", "concat", "svg", "zip", "png", "jpeg", "mp4", "polyglot", "cut", "bomb", "smaller-bomb"],
)
def test_junk_is_told_in_a_sentence(served, content, status, said):
    answer = served.client.post("/pictures", content=content)
    assert answer.status_code == status and said in answer.json()["error"]
    assert str(served.temporary) not in answer.text and "\n" not in answer.json()["error"]
    assert not served.uploads()
    assert served.client.post("/pictures", content=png()).status_code == 200


@pytest.mark.parametrize("limits", [Limits(upload_bytes=100_000)])
def test_what_is_too_large_is_refused_while_it_comes(served):
    sent = []

    def pieces():
        for _ in range(1000):
            sent.append(1)
            yield png(8)[:8] + bytes(49_992)

    for content in (bytes(100_001), pieces()):
        answer = served.client.post("/pictures", content=content)
        assert (answer.status_code, answer.json()) == (
            413,
            {"error": "This is larger than 97.7 KiB, more than is taken."},
        )
        assert not served.uploads()


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "٣", "9" * 30])
def test_a_false_length_is_refused(served, length):
    answer = served.client.post("/pictures", content=png(), headers={"Content-Length": length.encode()})
    assert answer.status_code == 413
