"""The same upright pictures from every decoder, whatever turn, mirror, container and stream order a file has."""

import itertools
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stoa.data.boxes import ClipShape
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.dali import DaliDecoder
from stoa.data.decoding.encoded import choose
from stoa.data.transforms import resize_and_crop
from stoa.prepare.transcode import to_frames, to_video

WIDTH, HEIGHT = 96, 64
# a, b, c, d of a display matrix: a point x to the right and y down is shown at (a x + c y, b x + d y).
TURNS = {
    "upright": (1, 0, 0, 1),
    "right": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}
COLOURS = {(-1, -1): (220, 40, 40), (1, -1): (40, 200, 40), (-1, 1): (40, 40, 220), (1, 1): (230, 230, 60)}
LAYOUTS = ["video", "sound first", "two videos", "cover"]


def picture() -> np.ndarray:
    """A colour in each quarter."""
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (x, y), colour in COLOURS.items():
        out[slice(0, HEIGHT // 2) if y < 0 else slice(HEIGHT // 2, None), :][
            :, slice(0, WIDTH // 2) if x < 0 else slice(WIDTH // 2, None)
        ] = colour
    return out


def displayed(turn: tuple[int, int, int, int]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """The colour that each quarter of the displayed picture has, by the matrix's definition."""
    a, b, c, d = turn
    return {(a * x + c * y, b * x + d * y): colour for (x, y), colour in COLOURS.items()}


def write(path: Path, turn: tuple[int, int, int, int], layout: str = "video", codec: str = "libx264") -> Path:
    a, b, c, d = (round(value * 65536) for value in turn)
    with av.open(str(path), "w") as container:
        sound = (
            container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
            if layout == "sound first"
            else None
        )
        stream = container.add_stream(codec, rate=10, options={"crf": "12", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if turn != TURNS["upright"]:
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        other = None
        if layout == "two videos":
            other = container.add_stream(codec, rate=10)
            other.width, other.height, other.pix_fmt = 2 * WIDTH, 2 * HEIGHT, "yuv420p"
        cover = None
        if layout == "cover":
            cover = container.add_stream("mjpeg", rate=10)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            still = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24")
            container.mux(cover.encode(still.reformat(format="yuvj420p")))
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
            if other is not None:
                gray = np.full((2 * HEIGHT, 2 * WIDTH, 3), 200, np.uint8)
                container.mux(other.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        for one in filter(None, (stream, other, cover)):
            container.mux(one.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 960), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 48000
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def require_quarters(frame_HWC: np.ndarray, quarters: dict, tolerance: int = 30) -> None:
    height, width = frame_HWC.shape[:2]
    for (x, y), colour in quarters.items():
        seen = frame_HWC[height // 2 + y * height // 4, width // 2 + x * width // 4].astype(int)
        assert np.abs(seen - colour).max() < tolerance, (x, y, seen, colour)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("name", TURNS)
def test_turns_and_mirrors(tmp_path, name, suffix):
    turn = TURNS[name]
    path = str(write(tmp_path / f"v.{suffix}", turn))
    decoded = {decoder: decode_clip(path, 2, decoder=decoder).frames_THWC for decoder in ("auto", "pyav", "decord")}
    for frames_THWC in decoded.values():
        assert frames_THWC.shape[1:3] == ((WIDTH, HEIGHT) if turn[0] == 0 else (HEIGHT, WIDTH))
        require_quarters(frames_THWC[1], displayed(turn))
    assert np.abs(decoded["decord"].astype(int) - decoded["pyav"]).max() <= 4


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("mkv", "libx264"),
        ("ts", "libx264"),
        ("avi", "libx264"),
        ("webm", "libvpx-vp9"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stream_orders(tmp_path, layout, suffix, codec):
    if layout == "cover" and suffix not in ("mp4",):
        pytest.skip("has covers of another kind, or none")
    if layout == "sound first" and suffix == "avi":
        pytest.skip("FFmpeg writes the sound of AVI in blocks of its own")
    path = str(write(tmp_path / f"v.{suffix}", TURNS["upright"], layout, codec))
    parts = (path, None, None)
    frames = [decode_clip(path, 2, decoder=decoder) for decoder in ("auto", "pyav", "decord")]
    assert ("2 video streams, of which the first is used" in frames[0].notes) == (layout == "two videos")
    for decoded in frames:
        assert decoded.frames_THWC.shape[1:3] == (HEIGHT, WIDTH)
        require_quarters(decoded.frames_THWC[1], displayed(TURNS["upright"]))
    stored = [to_frames(*parts, 4, 64, 95), to_video(*parts, 64, 4, 12)]
    assert {one.source_size_wh for one in stored} == {(WIDTH, HEIGHT)}
    require_quarters(decode_clip(stored[1].files["mp4"], 1).frames_THWC[0], displayed(TURNS["upright"]))


@pytest.mark.parametrize(("name", "layout"), [*itertools.product(TURNS, ["video"]), ("left", "two videos")])
def test_dali(tmp_path, name, layout):
    """Squares cut out of turned and mirrored frames are the right ones, from the stream that all others read."""
    pytest.importorskip("nvidia.dali")
    path = str(write(tmp_path / "v.mp4", TURNS[name], layout, "libvpx-vp9"))
    shape = ClipShape(num_frames=2, side=40, max_tokens=12, max_boxes=2)
    decoder = DaliDecoder(num_frames=2, side=shape.side, max_clips=1, device=torch.device("cpu"))
    ours = decoder.decode_one(choose(path, 2, None, None))
    theirs = resize_and_crop(decode_clip(path, 2).frames_THWC, shape.side)
    require_quarters(theirs[0].permute(1, 2, 0).numpy(), displayed(TURNS[name]), 40)
    assert (ours.float() - theirs.float()).abs().mean() < 3


@pytest.mark.parametrize("suffix", ["jpg", "noext"])
def test_a_picture_s_own_orientation(tmp_path, suffix):
    """EXIF says that its columns are its rows."""
    from PIL import Image

    tags = Image.Exif()
    tags[0x0112] = 5
    Image.fromarray(picture()).save(tmp_path / f"still.{suffix}", "JPEG", exif=tags, quality=95)
    (frame_HWC,) = decode_clip(str(tmp_path / f"still.{suffix}"), 1).frames_THWC
    require_quarters(frame_HWC, displayed(TURNS["transposed"]))


def test_a_matrix_between_quarter_turns_is_the_nearest_one_and_is_noted(tmp_path):
    angle = np.deg2rad(100)
    turn = (np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle))
    decoded = decode_clip(str(write(tmp_path / "v.mp4", tuple(map(float, turn)))), 1)
    require_quarters(decoded.frames_THWC[0], displayed(TURNS["right"]))
    assert decoded.notes == ("its display matrix is no quarter turn or mirror; the nearest one is applied",)


def test_the_shared_cases(real_data):
    cases = real_data.parent / "cases" / "orientation"
    if not cases.is_dir():
        pytest.skip("no shared cases")
    base = decode_clip(str(cases / "base.mp4"), 2).frames_THWC
    for name, decoder in itertools.product(("rot90.mp4", "rot90.mkv"), ("auto", "decord")):
        turned = partial(decode_clip, decoder=decoder)(str(cases / name), 2).frames_THWC
        assert np.abs(turned.astype(int) - np.rot90(base, -1, axes=(1, 2))).mean() < 3
