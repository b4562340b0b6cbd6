"""A part of a video is sound or it is not, whoever asks and whichever frames are wanted."""

import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from factories import gray_frames, gray_number, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stoa.data.clips import FileClips
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.clip import PartReader, look_of, open_part
from stoa.data.decoding.cpu import decode_clip, decode_guarded
from stoa.data.decoding.findings import attempt
from stoa.data.decoding.probe import probe
from stoa.manifest import Caption, ClipRow
from stoa.names import file_name
from stoa.prepare.examine import examine_video
from stoa.prepare.transcode import to_frames, to_video


def verdicts(path: str, start: float | None = None, end: float | None = None) -> set[str | None]:
    """By the check, of both stores, and for one and for many frames."""
    part = path, start, end

    def kind(function, *arguments) -> str | None:
        try:
            attempt(function, *arguments)
        except DecodeError as error:
            return error.kind
        return None

    return {
        examine_video(path, path, (start, end)).error,
        kind(to_frames, *part, 4, 32, 90),
        kind(to_video, *part, 32, 4, 20),
        *(kind(decode_clip, path, count, start, end) for count in (1, 5)),
        kind(decode_guarded, None, path, 2, start, end, "decord"),
    }


def repacked(source: Path, target: Path, change) -> str:
    """The packets of a video after ``change(packets, step)``."""
    with av.open(str(source)) as read:
        stream = read.streams.video[0]
        packets = [packet for packet in read.demux(stream) if packet.dts is not None]
        packets = change(packets, packets[1].dts - packets[0].dts) or packets
        with av.open(str(target), "w") as written:
            copy = written.add_stream_from_template(stream)
            for packet in packets:
                packet.stream = copy
                written.mux(packet)
    return str(target)


@pytest.fixture
def plain(tmp_path) -> Path:
    """Frame i is gray level i; no frame refers to a later one."""
    return write_video(tmp_path / "plain.mkv", gray_frames(20), options={"crf": "12", "g": "5", "bf": "0"})


@pytest.mark.parametrize("at", [1, 7, 19])
def test_one_repeated_time_stamp_is_usable_and_noted(tmp_path, plain, at):
    def repeat(packets, step):
        packets[at].pts = packets[at].dts = packets[at - 1].pts

    path = repacked(plain, tmp_path / "v.mkv", repeat)
    assert verdicts(path) == {None}
    decoded = decode_clip(path, 40)
    assert decoded.notes == ("1 of 20 frames have the time stamp of another, and are never on display",)
    assert {gray_number(frame) for frame in decoded.frames_THWC} == set(range(20)) - {at - 1}
    stored = to_video(path, None, None, 32, 4, 12)
    assert len(stored.times_seconds) == 19 and stored.notes == decoded.notes
    assert (decode_clip(path, 40).frames_THWC == decoded.frames_THWC).all()  # sought, where they were judged before


def test_time_that_stands_still_runs_backwards_or_jumps(tmp_path, plain):
    def still(packets, step):
        for packet in packets[4:12]:
            packet.pts = packet.dts = packets[4].pts

    def back(packets, step):
        for packet in packets[10:]:
            packet.pts, packet.dts = packet.pts - 3 * step, packet.dts - 3 * step

    def jump(packets, step):
        for packet in packets[10:]:
            packet.pts, packet.dts = packet.pts + 50_000 * step, packet.dts + 50_000 * step

    assert {*map(str, verdicts(repacked(plain, tmp_path / "still.mkv", still)))} == {"time"}
    assert verdicts(repacked(plain, tmp_path / "jump.mkv", jump)) == {"time"}
    ts = write_video(tmp_path / "plain.ts", gray_frames(20), options={"bf": "0"})
    content = ts.read_bytes()
    for count in (2, 3):
        (tmp_path / "again.ts").write_bytes(content * count)
        assert verdicts(str(tmp_path / "again.ts")) == {"time"}


@pytest.mark.parametrize("sizes", [((32, 64), (64, 128)), ((64, 32), (32, 64)), ((32, 64), (32, 66))])
def test_a_picture_that_changes_its_size(tmp_path, sizes):
    first, second = (gray_frames(10, height=height, width=width) for height, width in sizes)
    contents = []
    for number, frames in enumerate((first, second)):
        path = tmp_path / f"{number}.ts"
        with av.open(str(path), "w", options={"muxdelay": "0"}) as container:
            stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = 10 * number + index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        contents.append(path.read_bytes())
    (tmp_path / "v.ts").write_bytes(b"".join(contents))
    assert verdicts(str(tmp_path / "v.ts")) == {"size"}
    assert verdicts(str(tmp_path / "v.ts"), 0.0, 0.7) == {None}


def test_damage_outside_of_a_part_does_not_touch_it(tmp_path):
    """Groups of 10 frames; the middle of three is damaged, and the end of the file is missing."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (32, 64, 3), dtype=np.uint8) for _ in range(30)]
    options = {"crf": "20", "g": "10", "keyint_min": "10", "sc_threshold": "0", "bf": "0"}
    path = write_video(tmp_path / "v.mkv", noise, options=options)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pos is not None and packet.size]
        at, cut = packets[14].pos + packets[14].size // 2, packets[28].pos
    content = bytearray(path.read_bytes())
    content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    assert verdicts(str(path)) == {"corrupt"}
    assert verdicts(str(path), 1.2, 1.8) == {"corrupt"}
    assert verdicts(str(path), 0.2, 0.9) == verdicts(str(path), 2.2, 2.9) == {None}
    path.write_bytes(content[:cut])
    assert verdicts(str(path), 0.2, 0.9) == verdicts(str(path), 2.2, 2.6) == {None}
    assert len(verdicts(str(path)) - {None}) == 1 and None not in verdicts(str(path))


def test_a_few_damaged_frames_are_noted(tmp_path):
    """One of a hundred; one of twenty-five is too many."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (32, 64, 3), dtype=np.uint8) for _ in range(100)]
    path = write_video(tmp_path / "v.mkv", noise, options={"crf": "20", "g": "25", "sc_threshold": "0", "bf": "0"})
    with av.open(str(path)) as container:
        hurt = [packet for packet in container.demux(video=0) if packet.size][60]
    sound = path.read_bytes()
    for at in range(hurt.pos + hurt.size // 2, hurt.pos + hurt.size):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x55]) + sound[at + 1 :])
        if examine_video(str(path), str(path), (None, None)).notes:
            break
    assert verdicts(str(path)) == {None}
    note = ("1 of 100 frames decode damaged",)
    judged = decode_clip(str(path), 100)
    assert judged.notes == to_video(str(path), None, None, 32, 4, 20).notes == note
    os.utime(path)  # judged once more, not sought
    for _ in range(2):  # the second time it is not sought, since that does not find the damaged one
        assert (decode_clip(str(path), 100).frames_THWC == judged.frames_THWC).all()
    assert verdicts(str(path), 5.0, 7.4) == {"corrupt"}


def test_more_frames_than_announced(tmp_path, plain, monkeypatch):
    """A container that announces some of its frames alone."""
    index = probe(str(plain))
    keep = np.arange(20) != 7
    fewer = index._replace(
        times_seconds=index.times_seconds[keep], pts=index.pts[keep], keyframes=index.keyframes[keep]
    )
    monkeypatch.setattr("stoa.data.decoding.clip.probe", lambda video: fewer)
    with pytest.raises(DecodeError, match="1 more frames decode than the 19") as caught:
        decode_clip(str(plain), 2)
    assert caught.value.kind == "surplus"


@pytest.mark.parametrize(
    ("width", "height", "kind"), [(1, 1, None), (4, 128, None), (4, 130, "size"), (4, 132, "size"), (4100, 128, "size")]
)
def test_sizes_of_pictures(tmp_path, width, height, kind):
    path = tmp_path / "v.mkv"
    write_video(path, [np.full((height, width, 3), 90, np.uint8)] * 2, codec="mpeg4", options={"b": "1M"})
    assert verdicts(str(path)) == {kind}


def test_packets_of_vp8_that_are_not_shown_are_no_frames(tmp_path):
    source = write_video(tmp_path / "plain.webm", gray_frames(10), codec="libvpx", options={"g": "20"})

    def hide(packets, step):
        hidden = av.Packet(bytes([bytes(packets[5])[0] & ~0x10]) + bytes(packets[5])[1:])
        hidden.pts = hidden.dts = packets[5].pts + 1
        hidden.time_base = packets[5].time_base
        return [*packets[:6], hidden, *packets[6:]]

    path = repacked(source, tmp_path / "v.webm", hide)
    assert verdicts(path) == {None} and len(probe(path).times_seconds) == 10


def test_a_sound_part_is_remembered_until_its_file_changes(tmp_path, plain):
    path = str(plain)
    part = open_part(path, 0.0, 1.0)
    assert look_of(path, part) is None
    first = decode_clip(path, 3, 0.0, 1.0)
    assert look_of(path, part) is not None and look_of(path, open_part(path, None, None)) is None
    assert (decode_clip(path, 3, 0.0, 1.0).frames_THWC == first.frames_THWC).all()
    os.utime(path, ns=(1, 1))
    assert look_of(path, part) is None


@settings(max_examples=30)
@given(st.lists(st.integers(0, 19), min_size=1, max_size=5), st.integers(0, 18), st.integers(1, 20))
def test_what_is_wanted_does_not_change_what_is_given(tmp_path_factory, wanted, first, count):
    path = tmp_path_factory.getbasetemp() / "frames.mp4"
    if not path.exists():
        write_video(path, gray_frames(20), options={"crf": "12", "g": "6", "bf": "2"})
    reader = PartReader(str(path), open_part(str(path), first / 10, (first + count) / 10))
    numbers = np.unique(np.clip(wanted, reader.part.first, reader.part.stop - 1))
    assert [gray_number(frame) for frame in reader.pictures(numbers)] == numbers.tolist()


def raising(error):
    raise error


@pytest.mark.parametrize(
    "error", [IndexError("x"), OverflowError(), MemoryError(), KeyError("k"), av.error.InvalidDataError(1, "bad")]
)
def test_whatever_is_raised_below_is_a_finding(error):
    with pytest.raises(DecodeError) as caught:
        attempt(raising, error)
    assert "\n" not in str(caught.value) and caught.value.kind in ("corrupt", "unreadable", "limit")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EMFILE])
def test_storage_is_no_finding(number):
    with pytest.raises(OSError) as caught:
        attempt(raising, OSError(number, os.strerror(number)))
    assert caught.value.errno == number


@pytest.mark.parametrize("name", ["a:b.mkv", "50%d.mkv", "a b'\"#?.mkv", "é大\udcff.mkv", "noext", "v.jpg"])
def test_names_of_files(tmp_path, plain, name):
    (tmp_path / name).write_bytes(plain.read_bytes())
    assert verdicts(str(tmp_path / name)) == {None}


def test_a_relative_name_with_a_colon(tmp_path, plain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:b.mkv").write_bytes(plain.read_bytes())
    assert verdicts("a:b.mkv") == {None}


@pytest.mark.parametrize("name", ["x\0.mp4", "大" * 100 + ".mp4", "\ud800.mp4", "plain.mkv/v.mp4", "."])
def test_names_that_no_file_can_have(tmp_path, plain, name):
    assert verdicts(str(tmp_path / name)) == {"missing"}


@given(st.text(), st.text())
def test_file_names_of_ids(one, other):
    for name in (one, one * 100):
        made = file_name(name)
        assert len(made.encode("ascii")) <= 200 and not set("/\0") & set(made)
    assert (file_name(one) == file_name(other)) == (one == other)
    assert (file_name(one * 40) == file_name(other * 40)) == (one * 40 == other * 40)


def test_a_manifest_s_clip_of_any_suffix(tmp_path):
    pictures = [Image.fromarray(frame) for frame in gray_frames(8)]
    pictures[0].save(tmp_path / "anim.gif", save_all=True, append_images=pictures[1:], duration=100)
    pictures[3].save(tmp_path / "still.jpg", quality=95)
    for name, numbers in (("anim.gif", [1, 3, 5, 7]), ("still.jpg", [3] * 4)):
        clip = FileClips([ClipRow("a", name, (Caption("gray"),))], tmp_path).place(0).read()
        assert [gray_number(frame) for frame in decode_clip(clip.media.video, 4).frames_THWC] == numbers
        assert verdicts(clip.media.video) == {None}
