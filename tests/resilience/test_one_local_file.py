"""Decoding opens the one local file that it is asked for: no address, and no file that this one names."""

import socket
import threading
from pathlib import Path

import av
import pytest
from factories import gray_frames, write_video
from PIL import Image

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.encoded import choose
from stoa.data.decoding.opening import open_container
from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.prepare.check import CheckConfig, check
from stoa.prepare.examine import examine_video


class Listener:
    """A port of this machine that counts who calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.calls += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def secret(tmp_path) -> Path:
    """A sound video that no clip is to show."""
    (tmp_path / "secret").mkdir()
    return write_video(tmp_path / "secret" / "v.ts", gray_frames(10))


def names_others(secret: Path, port: int) -> dict[str, str]:
    """Texts that FFmpeg may follow, by kind; FILE and PORT stand for what they name."""
    texts = {
        "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:FILE\n#EXTINF:1,\nhttp://127.0.0.1:PORT/a.ts\n"
        "#EXT-X-ENDLIST\n",
        "playlists": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:PORT/a.m3u8\n",
        "concat": "ffconcat version 1.0\nfile FILE\n",
        "concat of a port": "ffconcat version 1.0\nfile tcp://127.0.0.1:PORT\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video PORT RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        '<Representation id="1" bandwidth="1" mimeType="video/mp4"><BaseURL>http://127.0.0.1:PORT/a</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "redirection": "[Reference]\nRef1=http://127.0.0.1:PORT/a\n",
        "rtsp": "RTSPtextRTSP://127.0.0.1:PORT/a",
        "imf": '<AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"></AssetMap>',
        "metadata": ";FFMETADATA1\ntitle=x\n",
        "subtitles": "1\n00:00:00,000 --> 00:00:01,000\nx\n",
        "drawing": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "text": "\x1b[31m" + "text that is drawn\n" * 50,
    }
    return {kind: text.replace("FILE", str(secret)).replace("PORT", str(port)) for kind, text in texts.items()}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".m3u8", ".sdp", ".txt", ".ffconcat", ""])
def test_a_file_that_names_others_is_no_video(tmp_path, secret, listener, suffix):
    for kind, text in names_others(secret, listener.port).items():
        path = tmp_path / f"v{suffix}"
        path.write_text(text)
        for video in (str(path), text.encode()):
            with pytest.raises(DecodeError) as caught:
                decode_clip(video, 2)
            assert caught.value.kind in ("unreadable", "no video"), kind
            assert examine_video("v", video).error == caught.value.kind
            with pytest.raises(DecodeError):
                choose(video, 2, None, None)
    assert listener.calls == 0


@pytest.mark.parametrize(
    "name",
    ["http://127.0.0.1:{port}/a.mp4", "tcp://127.0.0.1:{port}", "subfile:,,start,0,end,0,,:{secret}", "file:{secret}",
     "concat:{secret}", "crypto:{secret}", "data:video/mp4;base64,AAAA", "pipe:0", "async:{secret}", "cache:{secret}",
     "lavfi:testsrc", "/dev/video0", "fd:"],
)  # fmt: skip
def test_an_address_is_a_path_that_does_not_exist(tmp_path, secret, listener, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for decoder in ("pyav", "decord"):
        with pytest.raises(DecodeError) as caught:
            decode_clip(name.format(port=listener.port, secret=secret), 2, decoder=decoder)
        assert caught.value.kind == "missing"
    assert listener.calls == 0


def test_folders_that_are_called_as_protocols_are(tmp_path, secret, listener, monkeypatch):
    """A manifest with paths through ``http:`` and ``subfile:`` is read as paths."""
    monkeypatch.chdir(tmp_path)
    names = [f"http:/127.0.0.1:{listener.port}/v.ts", "subfile:,,start,0,end,100,,:x/v.ts", "concat:a|b/v.ts"]
    for name in names:
        Path(name).parent.mkdir(parents=True)
        Path(name).write_bytes(secret.read_bytes())
    rows = [ClipRow(f"clip{number}", name, (Caption("gray"),)) for number, name in enumerate(names)]
    write_manifest(Path("manifest.jsonl"), rows)
    assert check("manifest.jsonl", CheckConfig(ledger="check.jsonl"), lambda line: None)
    for decoder in ("pyav", "decord"):
        assert len(decode_clip(names[0], 2, decoder=decoder).frames_THWC) == 2
    assert listener.calls == 0


def test_numbered_pictures_are_one_picture(tmp_path):
    for number in range(3):
        Image.new("RGB", (64, 48), (80 * number,) * 3).save(tmp_path / f"p{number}.jpg")
    for name in ("p%d.jpg", "p*.jpg", "p[0-9].jpg", "p?.jpg"):
        with pytest.raises(DecodeError, match="file does not exist"):
            decode_clip(str(tmp_path / name), 2)
        (tmp_path / name).write_bytes((tmp_path / "p1.jpg").read_bytes())
        assert abs(int(decode_clip(str(tmp_path / name), 2).frames_THWC.mean()) - 80) < 3


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [
        ("mp4", "libx264", "yuv420p"), ("mov", "mpeg4", "yuv420p"), ("mkv", "libx264", "yuv420p"),
        ("webm", "libvpx", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("ts", "libx264", "yuv420p"),
        ("mpg", "mpeg2video", "yuv420p"), ("vob", "mpeg2video", "yuv420p"), ("flv", "libx264", "yuv420p"),
        ("ogv", "libtheora", "yuv420p"), ("gif", "gif", "rgb8"), ("wmv", "wmv2", "yuv420p"),
        ("asf", "msmpeg4", "yuv420p"), ("3gp", "mpeg4", "yuv420p"), ("m4v", "mpeg4", "yuv420p"),
        ("nut", "mpeg4", "yuv420p"), ("ivf", "libvpx", "yuv420p"), ("h264", "libx264", "yuv420p"),
        ("y4m", "rawvideo", "yuv420p"), ("mjpeg", "mjpeg", "yuvj420p"), ("apng", "apng", "rgb24"),
        ("rm", "rv10", "yuv420p"), ("mxf", "mpeg2video", "yuv420p"), ("m2ts", "libx264", "yuv420p"),
    ],
)  # fmt: skip
def test_what_people_have_is_read(tmp_path, suffix, codec, pix_fmt):
    """Whatever its name is; as FFmpeg opens it by its path."""
    path = tmp_path / f"v.{suffix}"
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 176, 144, pix_fmt
            for picture in gray_frames(12, height=144, width=176):
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt))
                )
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this build of FFmpeg does not write it: {error}")
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    for video in (str(path), str(other), path.read_bytes()):
        with open_container(video) as container, av.open(f"file:{path}") as by_path:
            assert container.format.name == by_path.format.name
            assert sum(1 for _ in container.decode(video=0)) == sum(1 for _ in by_path.decode(video=0)) > 0
