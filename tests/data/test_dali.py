"""DALI gives the frames that the CPU decoders give, and a clip it cannot decode is replaced as theirs is."""

import dataclasses
import json
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from factories import gray_frames, gray_number, write_video

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.config import DataConfig
from stoa.data.dataset import ClipDataset, stable_hash
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.dali import DaliDecoder
from stoa.data.decoding.encoded import choose
from stoa.data.ledger import Ledger
from stoa.data.loader import build_loader, open_clips
from stoa.data.media import FramePack, choose_of_pack
from stoa.data.sampler import GlobalBatchSampler, SampleKey
from stoa.data.shards import ShardClips
from stoa.data.transforms import resize_and_crop
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig, StoreConfig
from stoa.prepare.pipeline import prepare


@pytest.fixture(scope="module", autouse=True)
def _dali() -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")


SHAPE = ClipShape(num_frames=3, side=32, max_tokens=12, max_boxes=2)
CLIPS = 8
VP9 = {"codec": "libvpx-vp9", "options": {"crf": "20", "cpu-used": "8"}}
# Mean and largest difference in levels of 255 from what the CPU decoders and torchvision give, on the CPU.
PACK_TOLERANCE, VIDEO_TOLERANCE = (0.5, 10), (2.5, 30)
CPU = torch.device("cpu")


def colourful_frames(count: int, seed: int, *, height: int = 70, width: int = 101) -> list[np.ndarray]:
    """Waves of three colours that travel, a fifth of a period a frame."""
    y, x = np.mgrid[:height, :width] / 30.0
    phases = np.arange(3)[:, None, None] * 2.1 + seed
    waves = [np.sin(x * (1 + seed / 9) + y + phases + 1.25 * t) for t in range(count)]
    return [np.rint(128 + 90 * wave).astype(np.uint8).transpose(1, 2, 0).copy() for wave in waves]


@pytest.fixture(scope="module")
def webm(tmp_path_factory) -> Path:
    """Clips of 10 frames in a second, VP9, every second one with boxes."""
    folder = tmp_path_factory.mktemp("webm")
    rows = []
    for i in range(CLIPS):
        write_video(folder / f"{i}.webm", colourful_frames(10, i), **VP9)
        row = ClipRow(f"clip{i}", f"{i}.webm", (Caption(f"number {i}"), Caption(f"clip {i}")), split="train")
        if i % 2:
            boxes = np.array([[20, 5, 60, 40], [30 + i, 20, 70, 60]], dtype=np.float32)
            found = {"frame_times_seconds": np.array([0.1, 0.6]), "frame_index": np.array([0, 1]), "boxes": boxes}
            found |= {"labels": np.array([i, i + 1]), "scores": np.array([0.5, 0.75], dtype=np.float32)}
            Detections(**found, size_wh=np.array([101, 70])).save(folder / f"{i}.npz")
            row = dataclasses.replace(row, detections=f"{i}.npz")
        rows.append(row)
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def make_store(source: Path, out: Path) -> Path:
    config = PrepareConfig(
        out=str(out), videos=str(source), spacy=None, store=StoreConfig(frames=6, clips_per_shard=CLIPS, side=48)
    )
    annotations = open_annotations("manifest", source / "manifest.jsonl")
    prepare(config, annotations, source, engine="local", workers=1, say=lambda line: None)
    return out / "frames"


@pytest.fixture(scope="module")
def store(webm, tmp_path_factory) -> Path:
    return make_store(webm, tmp_path_factory.mktemp("prepared") / "out")


@pytest.fixture
def own_store(webm, tmp_path) -> Path:
    """One to damage."""
    return make_store(webm, tmp_path / "out")


def batches(manifest: Path, decoder: str, count: int = 5, *, first: int = 0, ledger=None, device=CPU, **changes):
    config = DataConfig(decoder=decoder, **{"num_workers": 0, **changes})
    ledger = Ledger(ledger)
    clips = open_clips(str(manifest), config.split, ledger)
    sampler = GlobalBatchSampler(len(clips), 3, rank=0, world=1, seed=3)
    sampler.advance(first)
    position = sampler.state_dict()
    found = list(islice(build_loader(config, clips, SHAPE, sampler, ledger=ledger, device=device), count))
    assert sampler.state_dict() == position
    return found


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.cpu().float() - b.cpu().float()).abs()


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: tuple[float, int]) -> None:
    """No frame differs by more than the tolerance's mean, no pixel by more than its largest difference."""
    assert a.shape == b.shape
    per_pixel = difference(a, b)
    assert per_pixel.mean(dim=(-3, -2, -1)).max() <= tolerance[0]
    assert per_pixel.max() <= tolerance[1]


def assert_same(a, b, tolerance: tuple[float, int]) -> None:
    """Batches alike in everything, and in frames up to the tolerance."""
    assert len(a) == len(b)
    for ours, theirs in zip(a, b, strict=True):
        assert (ours.replaced, ours.dropped_boxes) == (theirs.replaced, theirs.dropped_boxes)
        assert_close(ours.batch.frames_BTCHW, theirs.batch.frames_BTCHW, tolerance)
        for field in dataclasses.fields(ours.batch):
            if field.name != "frames_BTCHW":
                assert torch.equal(getattr(ours.batch, field.name), getattr(theirs.batch, field.name)), field.name


def decode(video, *, device=CPU, shape: ClipShape = SHAPE) -> torch.Tensor:
    decoder = DaliDecoder(num_frames=shape.num_frames, side=shape.side, max_clips=1, device=device)
    return decoder.decode_one(choose(video, shape.num_frames, None, None))


def decode_cpu(video, shape: ClipShape = SHAPE) -> torch.Tensor:
    return resize_and_crop(decode_clip(video, shape.num_frames, decoder="pyav").frames_THWC, shape.side)


def test_packs_are_the_same_but_for_rounding(store):
    ours, theirs = batches(store, "dali"), batches(store, "auto")
    assert_same(ours, theirs, PACK_TOLERANCE)
    assert any(loaded.batch.scores_BTK.any() for loaded in ours)
    frames = torch.cat([loaded.batch.frames_BTCHW for loaded in ours])
    assert difference(frames[:, 0], frames[:, 1]).mean() > 20  # so frames taken for others would not pass


def test_vp9_is_the_same_but_for_colours_and_rounding(webm):
    assert_same(batches(webm / "manifest.jsonl", "dali"), batches(webm / "manifest.jsonl", "auto"), VIDEO_TOLERANCE)


@pytest.mark.parametrize("kind", ["packs", "videos"])
def test_workers_do_not_change_the_batches(store, webm, kind):
    manifest = store if kind == "packs" else webm / "manifest.jsonl"
    assert_same(batches(manifest, "dali", num_workers=2), batches(manifest, "dali"), (0, 0))


def test_a_run_is_taken_up_where_it_stopped(store):
    assert_same(batches(store, "dali", 2, first=3), batches(store, "dali", 5)[3:], (0, 0))


def test_the_cache_holds_what_is_stored(webm, tmp_path):
    for file in webm.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = ClipDataset(
        open_clips(str(tmp_path / "manifest.jsonl"), "train", Ledger(None)),
        SHAPE,
        seed=0,
        cache_bytes=(tmp_path / "0.webm").stat().st_size,
        encoded=True,
    )
    first = data[SampleKey(0, 0, 0)].frames_TCHW
    (tmp_path / "0.webm").unlink()
    (tmp_path / "1.webm").unlink()
    assert data[SampleKey(0, 1, 0)].frames_TCHW is first
    with pytest.raises(ValueError, match="clip 'clip1'"):
        data.load(1)


def damage(store: Path, clip: str, change) -> None:
    """Change the bytes of a clip's first JPEG, in place."""
    clips = ShardClips(str(store), "train")
    number = next(i for i in range(len(clips)) if clips.row(i).id == clip)
    pack = clips.place(number).read().media
    jpeg = pack.jpegs[pack.choose(SHAPE.num_frames)[0]]
    (shard,) = store.glob("*.tar")
    content = shard.read_bytes()
    changed = change(jpeg)
    assert len(changed) == len(jpeg) and content.count(jpeg) == 1
    shard.write_bytes(content.replace(jpeg, changed))


def junk(jpeg: bytes) -> bytes:
    return b"no picture".ljust(len(jpeg), b"?")


def bad_table(jpeg: bytes) -> bytes:
    """A Huffman table that none can be: found by decoding alone."""
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :]


def test_a_clip_that_does_not_decode_is_replaced_by_the_same_one_as_on_the_cpu(own_store, tmp_path):
    damage(own_store, "clip2", bad_table)
    damage(own_store, "clip5", bad_table)
    damage(own_store, "clip6", junk)
    cpu, dali = tmp_path / "cpu.jsonl", tmp_path / "dali.jsonl"
    ours = batches(own_store, "dali", 9, ledger=dali)
    assert_same(ours, batches(own_store, "auto", 9, ledger=cpu), PACK_TOLERANCE)
    assert sum(loaded.replaced for loaded in ours) >= 4
    bad = {stable_hash(clip) for clip in ("clip2", "clip5", "clip6")}
    assert not bad & {int(key) for loaded in ours for key in loaded.batch.clip_keys_B}
    kept = ("event", "clip", "path", "epoch", "replacement")
    written, expected = ([[e[k] for k in kept] for e in events(path)] for path in (dali, cpu))
    assert len(expected) >= 4
    assert all(event in written for event in expected)  # one batch more is decoded ahead
    reasons = {e["clip"]: e["reason"] for e in events(dali)}
    assert reasons["clip2"].startswith("DALI: ") and reasons["clip5"].startswith("DALI: ")
    assert reasons["clip6"].startswith("JPEG: ")
    assert all("\n" not in reason for reason in reasons.values())


def test_a_store_of_damaged_clips_is_one_clear_error(own_store):
    for i in range(CLIPS):
        damage(own_store, f"clip{i}", bad_table)
    with pytest.raises(ValueError, match=r"clip 'clip\d' and 16 replacements could not be read.*tar.*: DALI: "):
        batches(own_store, "dali", 1)


def test_a_pack_is_checked_before_it_is_passed_on(store):
    pack = ShardClips(str(store), "train").place(0).read().media
    times = np.array([0.0])
    with pytest.raises(DecodeError, match=r"JPEG: ends within its data, \d+ bytes"):
        choose_of_pack(FramePack([pack.jpegs[0][:-40]], times, 1.0, 6), 3)
    other = junk(pack.jpegs[0])
    with pytest.raises(DecodeError, match="JPEG: cannot identify image file"):
        choose_of_pack(FramePack([other], times, 1.0, 6), 3)


def test_a_video_cut_anywhere_gives_sound_frames_or_none(webm, tmp_path):
    """Without its end a WebM file still opens, and DALI would fill up with black."""
    whole = write_video(tmp_path / "v.webm", colourful_frames(40, 3), **VP9).read_bytes()
    decoder = DaliDecoder(num_frames=12, side=SHAPE.side, max_clips=1, device=CPU)
    shape = dataclasses.replace(SHAPE, num_frames=12)
    refused = sound = 0
    for cut in [*range(len(whole) // 20, len(whole), len(whole) // 20), *(len(whole) - k for k in (1, 30, 200, 600))]:
        try:
            chosen = choose(whole[:cut], 12, None, None)
        except DecodeError:
            refused += 1
            continue
        assert_close(decoder.decode_one(chosen), decode_cpu(whole[:cut], shape), VIDEO_TOLERANCE)
        sound += 1
    assert refused >= 15 and sound >= 4
    chosen = choose(whole, 12, None, None)
    with pytest.raises(DecodeError, match="DALI: .*out-of-bounds"):
        decoder.decode_one(dataclasses.replace(chosen, files=(whole[: len(whole) // 2],)))
    assert_close(decoder.decode_one(chosen), decode_cpu(whole, shape), VIDEO_TOLERANCE)


def test_what_is_no_video_or_of_another_size_leaves_the_decoder_whole(webm):
    path = str(webm / "0.webm")
    chosen = choose(path, 3, None, None)
    decoder = DaliDecoder(num_frames=3, side=32, max_clips=1, device=CPU)
    with pytest.raises(DecodeError, match="DALI: "):
        decoder.decode_one(dataclasses.replace(chosen, files=(b"no video" * 100,)))
    with pytest.raises(DecodeError, match=r"DALI: decodes to \(3, 70, 101, 3\), expected \(3, 70, 99, 3\)"):
        decoder.decode_one(dataclasses.replace(chosen, size_hw=(70, 99)))
    assert_close(decoder.decode_one(chosen), decode_cpu(path), VIDEO_TOLERANCE)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_honoured(tmp_path, degrees):
    """The square cut out of a turned frame is the right one, to the pixel: margins are odd on one side."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10, options=VP9["options"])
        stream.width, stream.height, stream.pix_fmt = 104, 70, "yuv420p"
        stream.set_display_rotation(degrees)
        for pixels in colourful_frames(6, 1, width=104):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    chosen = choose(str(path), 3, None, None)
    assert chosen.orientation.transposed == (degrees % 180 == 90)
    assert_close(decode(str(path)), decode_cpu(str(path)), VIDEO_TOLERANCE)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w", options={"use_editlist": "1", "avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=10, options={"crf": "10", "lag-in-frames": "0", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 10)
        for number, pixels in enumerate(gray_frames(22)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = packet.pts - 5, packet.dts - 5
                container.mux(packet)
    assert [gray_number(frame.numpy()) for frame in decode(str(path))] == [7, 13, 19]


def test_h264_without_a_gpu_is_one_clear_error_and_no_replacement(tmp_path):
    rows = []
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", gray_frames(4))
        rows.append(ClipRow(f"clip{i}", f"{i}.mp4", (Caption("gray"),), split="train"))
    write_manifest(tmp_path / "m.jsonl", rows)
    with pytest.raises(ValueError, match="decodes no h264 without a GPU.*'stoa prepare', or use data.decoder auto"):
        batches(tmp_path / "m.jsonl", "dali", 1, ledger=tmp_path / "ledger.jsonl")
    assert events(tmp_path / "ledger.jsonl") == []


def test_a_missing_dali_is_told_before_anything_is_read(webm, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ValueError, match=r"data.decoder is 'dali', which is not installed: pip install '\.\[dali-cu"):
        build_loader(
            DataConfig(decoder="dali", num_workers=0),
            FileClips([ClipRow("a", "absent.mp4", (Caption("a"),))], webm),
            SHAPE,
            GlobalBatchSampler(1, 1, rank=0, world=1, seed=0),
            ledger=Ledger(None),
            device=CPU,
        )


@pytest.mark.parametrize("name", ["action/bear_vp9.webm", "action/big_buck_bunny_vp8.webm", "odd/vp9_square.webm"])
def test_real_clips(real_data, name):
    path = str(real_data / "videos" / name)
    shape = ClipShape(num_frames=4, side=224, max_tokens=12, max_boxes=2)
    assert_close(decode(path, shape=shape), decode_cpu(path, shape), VIDEO_TOLERANCE)


@pytest.mark.needs_cuda
def test_on_a_gpu(store, webm, tmp_path):
    """nvJPEG and NVDEC have arithmetic of their own; frames taken for others differ by more than 20 in the mean."""
    device = torch.device("cuda", torch.cuda.current_device())
    for manifest in (store, webm / "manifest.jsonl"):
        ours = batches(manifest, "dali", device=device)
        assert all(loaded.batch.frames_BTCHW.device == device for loaded in ours)
        assert_same(ours, batches(manifest, "auto"), (6.0, 255))
    path = str(write_video(tmp_path / "v.mp4", colourful_frames(30, 2, width=256, height=256), options={"crf": "12"}))
    assert_close(decode(path, device=device), decode_cpu(path), (6.0, 255))
