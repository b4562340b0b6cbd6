"""A part that is cut shows and sounds as it did."""

import errno
from fractions import Fraction

import av
import numpy as np
import pytest
from factories import gray_frames, gray_number, write_video

from stoa.data.decoding import findings
from stoa.files import DiskFull
from stoa.search import cutting
from stoa.search.cutting import cut


def numbers(path) -> list[int]:
    with av.open(str(path)) as container:
        return [gray_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def times(path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 1, range(10)), (1.05, 1.5, range(11, 15)), (1.5, 99, range(15, 20)), (0.3, 0.31, [3]), (0.0, 0.1, [0])],
)
def test_the_frames_are_those_of_the_part(tmp_path, start, end, expected):
    video = write_video(tmp_path / "v.mp4", gray_frames(20), fps=10)
    cut(video, start, end, tmp_path / "part.mp4")
    assert numbers(tmp_path / "part.mp4") == list(expected)


def test_uneven_times_and_sizes_stay(tmp_path):
    at = [0, 0.04, 0.5, 0.55, 1.2, 1.3]
    video = write_video(tmp_path / "v.mkv", gray_frames(6, height=34, width=50), times_seconds=at)
    cut(video, 0.5, 1.3, tmp_path / "part.mp4")
    assert times(tmp_path / "part.mp4") == pytest.approx([0, 0.05, 0.7], abs=0.002)
    with av.open(str(tmp_path / "part.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.codec_context.name) == (50, 34, "h264")


def with_sound(path, seconds: float = 3.0):
    """Silence, but for a tone in the second second."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 32, "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        for number, pixels in enumerate(gray_frames(10) * int(seconds)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(picture.encode(frame))
        at = np.arange(int(16_000 * seconds)) / 16_000
        tone = np.where((at >= 1) & (at < 2), np.sin(2 * np.pi * 440 * at), 0).astype(np.float32)
        for first in range(0, len(tone), 1024):
            piece = av.AudioFrame.from_ndarray(tone[None, first : first + 1024], format="fltp", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 16_000, first, Fraction(1, 16_000)
            container.mux(sound.encode(piece))
        for stream in (picture, sound):
            container.mux(stream.encode())
    return path


def loudness(path, start: float, end: float) -> float:
    heard = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            if start <= frame.time < end:
                heard.append(np.abs(frame.to_ndarray()).mean())
    return float(np.mean(heard))


def test_the_sound_comes_along(tmp_path):
    video = with_sound(tmp_path / "v.mp4")
    cut(video, 0.5, 2.5, tmp_path / "part.mp4")
    loud, *quiet = (loudness(tmp_path / "part.mp4", *part) for part in ((0.7, 1.3), (0.0, 0.3), (1.7, 1.9)))
    assert loud > 0.3
    assert max(quiet) < 0.05
    assert len(numbers(tmp_path / "part.mp4")) == 20


def test_the_sound_of_a_late_part_is_not_looked_for_from_the_start(tmp_path, monkeypatch):
    """What a decoder gives no sign of life for is taken for hung."""
    video, heard = with_sound(tmp_path / "v.mp4", seconds=20.0), []
    monkeypatch.setattr(cutting, "alive", lambda: heard.append(1))
    cutting._cut(str(video), 18.0, 19.0, str(tmp_path / "part.mp4"))
    with av.open(str(tmp_path / "part.mp4")) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert seconds == pytest.approx(1, abs=0.1)
    assert 10 + 16 <= len(heard) < 10 + 16 * 5  # frames of the picture, and pieces of sound of 1,024


def test_a_full_disk_is_no_fault_of_the_video(tmp_path, monkeypatch):
    video = write_video(tmp_path / "v.mp4", gray_frames(20), fps=10)

    def full(*arguments):
        raise av.FFmpegError(errno.ENOSPC, "No space left on device", "part.mp4")

    monkeypatch.setattr(cutting.Guard, "call", lambda guard, *arguments: findings.attempt(full))
    with pytest.raises(DiskFull, match="part.mp4 cannot be written"):
        cut(video, 0, 1, tmp_path / "part.mp4")


@pytest.mark.parametrize(("start", "message"), [(50.0, "no frame lies in 50 to 51 s")])
def test_what_cannot_be_cut_is_named(tmp_path, start, message):
    video = write_video(tmp_path / "v.mp4", gray_frames(20), fps=10)
    with pytest.raises(ValueError, match=f"v.mp4 cannot be cut: {message}"):
        cut(video, start, start + 1, tmp_path / "part.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.mp4"]
    with pytest.raises(ValueError, match="is the video itself"):
        cut(video, 0, 1, video)
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk.mp4 cannot be cut"):
        cut(tmp_path / "junk.mp4", 0, 1, tmp_path / "part.mp4")
