"""decord and PyAV give the same frames, and say where one takes the place of the other."""

from functools import partial

import numpy as np
import pytest
import torch
from factories import gray_frames, gray_number, write_video

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.clip import PartReader, open_part
from stoa.data.decoding.cpu import decode_clip, seek_frames
from stoa.data.decoding.probe import probe

decode_decord = partial(decode_clip, decoder="decord")
decode_pyav = partial(decode_clip, decoder="pyav")
BACKENDS = [decode_decord, decode_pyav]
each_backend = pytest.mark.parametrize("decode", BACKENDS, ids=["decord", "pyav"])


@each_backend
def test_frames_by_time(tmp_path, decode):
    path = str(write_video(tmp_path / "v.mp4", gray_frames(20)))
    decoded = decode(path, 5, None, None)
    assert decoded.frames_THWC.shape == (5, 32, 64, 3)
    assert [gray_number(f) for f in decoded.frames_THWC] == [2, 6, 10, 14, 18]
    np.testing.assert_allclose(decoded.times_seconds, [0.2, 0.6, 1.0, 1.4, 1.8], atol=1e-3)


@each_backend
def test_a_part_of_the_file(tmp_path, decode):
    path = str(write_video(tmp_path / "v.mp4", gray_frames(20)))
    assert [gray_number(f) for f in decode(path, 2, 1.0, 1.4).frames_THWC] == [11, 13]
    assert [gray_number(f) for f in decode(path, 2, 1.8, 99.0).frames_THWC] == [18, 19]


@each_backend
def test_frames_repeat_where_there_are_too_few(tmp_path, decode):
    path = str(write_video(tmp_path / "v.mp4", gray_frames(1)))
    assert [gray_number(f) for f in decode(path, 3, None, None).frames_THWC] == [0, 0, 0]


@each_backend
def test_variable_frame_rate(tmp_path, decode):
    times = [0.0, 0.1, 0.2, 0.3, 1.0, 1.9]
    path = str(write_video(tmp_path / "v.mkv", gray_frames(6), times_seconds=times))
    assert [gray_number(f) for f in decode(path, 4, 0.0, 2.0).frames_THWC] == [2, 3, 4, 4]


@each_backend
def test_what_is_no_video(tmp_path, decode):
    (tmp_path / "v.mp4").write_bytes(b"this is no video" * 100)
    with pytest.raises(DecodeError) as caught:
        decode(str(tmp_path / "v.mp4"), 2, None, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("faststart", [False, True], ids=["index at the end", "index first"])
@pytest.mark.parametrize("decode", [*BACKENDS, decode_clip], ids=["decord", "pyav", "auto"])
def test_a_truncated_file(tmp_path, decode, faststart):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
    options = {"crf": "20", "g": "8"}
    path = tmp_path / "v.mp4"
    write_video(path, noise, options=options)
    if faststart:
        import av

        moved = tmp_path / "fast.mp4"
        with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        path = moved
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError):
        decode(str(path), 6, None, None)


def test_a_truncated_webm(tmp_path):
    """Matroska states its duration for the file alone, and FFmpeg reads a cut one to its end without an error."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "v.webm", noise, codec="libsvtav1", options={"preset": "12", "crf": "30"})
    assert decode_pyav(str(path), 4).frames_THWC.shape == (4, 64, 64, 3)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError, match="truncated"):
        decode_pyav(str(path), 4)


@each_backend
def test_a_part_after_the_end(tmp_path, decode):
    path = str(write_video(tmp_path / "v.mp4", gray_frames(5)))
    with pytest.raises(DecodeError, match="start_seconds 7 is not before the end"):
        decode(path, 2, 7.0, None)


@pytest.mark.parametrize("decode", [*BACKENDS, decode_clip], ids=["decord", "pyav", "auto"])
def test_a_missing_and_an_empty_file_are_named(tmp_path, decode):
    with pytest.raises(DecodeError, match="file does not exist"):
        decode(str(tmp_path / "absent.mp4"), 2)
    (tmp_path / "v.mp4").touch()
    with pytest.raises(DecodeError, match="0 bytes"):
        decode(str(tmp_path / "v.mp4"), 2)


def test_pyav_takes_the_place_of_decord_and_says_so(tmp_path):
    """decord's FFmpeg knows no AV1."""
    path = str(write_video(tmp_path / "v.mkv", gray_frames(10), codec="libsvtav1", options={"preset": "12"}))
    reasons = []
    decoded = decode_clip(path, 2, decoder="decord", on_fallback=reasons.append)
    assert [gray_number(f) for f in decoded.frames_THWC] == [2, 7]
    assert len(reasons) == 1
    assert reasons[0].startswith("decord: ")


@pytest.mark.parametrize(
    "name", ["rot_0.mov", "rot_90.mov", "rot_180.mov", "portrait_4k60_rot.mp4", "rot90_1frame.mp4"]
)
def test_rotation_is_honoured_alike(real_data, name):
    path = str(real_data / "videos" / "odd" / name)
    a, b = (decode(path, 1, None, None).frames_THWC.astype(int) for decode in BACKENDS)
    assert a.shape == b.shape
    assert np.abs(a - b).mean() < 4


@pytest.mark.slow
def test_backends_agree_on_real_clips(real_data):
    """Same moments and nearly the same pixels; the two carry different FFmpeg versions."""
    clips = sorted((real_data / "videos" / "action").iterdir())
    compared = 0
    for clip in clips:
        a, b = (partial(decode, str(clip), 4)(None, None) for decode in BACKENDS)
        np.testing.assert_allclose(a.times_seconds, b.times_seconds, atol=0.05, err_msg=clip.name)
        assert np.abs(a.frames_THWC.astype(int) - b.frames_THWC).mean() < 4, clip.name
        compared += 1
    assert compared == 26


def test_sound_longer_than_the_picture_is_no_truncation(real_data):
    """FLV states one duration for the file, here that of its sound."""
    assert decode_pyav(str(real_data / "videos" / "odd" / "flv.flv"), 3).frames_THWC.shape == (3, 720, 1080, 3)


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("avi", "mpeg4", {"bf": "2", "b": "4M"}),
        ("avi", "libx264", {}),
        ("mpg", "mpeg2video", {"bf": "2", "b": "4M"}),
        ("wmv", "wmv2", {}),
    ],
)
def test_old_containers(tmp_path, suffix, codec, options):
    """AVI stamps no order of display on H.264; from these decord shows other frames than were asked for."""
    path = str(write_video(tmp_path / f"v.{suffix}", gray_frames(20), codec=codec, options=options, fps=25))
    assert [gray_number(f) for f in decode_clip(path, 5).frames_THWC] == [2, 6, 10, 14, 18]
    reasons = []
    assert (decode_decord(path, 5, on_fallback=reasons.append).frames_THWC == decode_clip(path, 5).frames_THWC).all()
    assert "not trusted" in reasons[0]


def whole(path: str) -> tuple[PartReader, np.ndarray]:
    part = open_part(path, None, None)
    reader = PartReader(path, part)
    return reader, np.stack(list(reader.pictures(np.arange(part.stop))))


def test_seeking_gives_the_frames_that_decoding_everything_gives(real_data):
    rng = np.random.default_rng(0)
    names = ["action/yoga.mp4", "action/bear_vp9.webm", "odd/h265_10frames.mp4", "odd/editlist_preroll.mp4"]
    for name in names:
        path = str(real_data / "videos" / name)
        reader, everything = whole(path)
        for _ in range(3):
            chosen = np.unique(rng.integers(0, reader.expected, 6))
            assert (np.stack(seek_frames(path, probe(path), chosen)) == everything[chosen]).all(), name


def test_content_decodes_as_the_file_does(tmp_path):
    path = write_video(tmp_path / "v.mp4", gray_frames(20))
    for decode in BACKENDS:
        assert (decode(path.read_bytes(), 5).frames_THWC == decode(str(path), 5).frames_THWC).all()


@pytest.mark.parametrize(
    ("name", "reference", "number"),
    [
        ("av1.mkv", "av1_video.mkv.stream0.frame000010.pt", 10),
        ("h265_10frames.mp4", "h265_video.mp4.stream0.frame000005.pt", 5),
    ],
)
def test_reference_frames(real_data, name, reference, number):
    path = str(real_data / "videos" / "odd" / name)
    expected_HWC = torch.load(real_data / "videos" / "frame_refs" / reference, weights_only=True).numpy()
    (frame_HWC,) = seek_frames(path, probe(path), np.array([number]))
    assert (frame_HWC == expected_HWC).all()


def test_every_odd_file_decodes_or_says_why(real_data):
    unreadable = {}
    for clip in sorted((real_data / "videos" / "odd").iterdir()):
        try:
            decoded = decode_clip(str(clip), 3)
            assert decoded.frames_THWC.shape[0] == 3
        except DecodeError as error:
            unreadable[clip.name] = str(error)
    assert set(unreadable) == {"chunk_out_of_range.mp4", "invalid_nalu.mp4", "zero_bytes.webm"}
    assert all("\n" not in why for why in unreadable.values())
