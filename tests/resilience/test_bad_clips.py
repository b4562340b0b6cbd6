"""Whatever a clip holds or is, it is a finding about that clip: nothing hangs, ends a run or takes all memory."""

import io
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from crafted import boxes, jpeg_of, mov, no_files, npz, png, run_on, take, tar_piece, with_header
from factories import gray_frames, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stores import small_stores
from torch.utils.data import DataLoader, Dataset

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.config import DataConfig
from stoa.data.dataset import ClipDataset
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.clip import PartReader, open_part
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.findings import attempt
from stoa.data.decoding.guard import Guard
from stoa.data.ledger import Ledger, Replacements
from stoa.data.loader import open_clips
from stoa.data.loading import one_line_errors, started
from stoa.data.media import decode_pack
from stoa.data.members import parse_clip, tar_members
from stoa.data.sampler import SampleKey
from stoa.data.shards import INDEX_FILE, STORE_FILE, ShardClips
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, read_manifest, write_manifest
from stoa.prepare.adapters.videos import _walk
from stoa.prepare.check import CheckConfig, check

SHAPE = ClipShape(num_frames=2, side=32, max_tokens=12, max_boxes=2)
FACTS = {
    "row": {"id": "a", "video": "a.mp4", "captions": ["gray"]},
    "duration_seconds": 1.0,
    "times_seconds": [0.0, 0.5],
    "size_wh": [64, 32],
    "num_slots": 2,
}


def jpeg(width: int = 64, height: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(file, "JPEG")
    return file.getvalue()


PACK = {"json": json.dumps(FACTS).encode(), "0.jpg": jpeg(), "1.jpg": jpeg()}


@pytest.fixture(autouse=True)
def no_test_hangs():
    def fail(number, frame):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read_pack(piece: bytes) -> None:
    """All that is done with a clip of a shard."""
    clip = parse_clip(piece, "here")
    decode_pack(clip.media, 2)


def finding(piece: bytes) -> str | None:
    """The kind, None where there is none."""
    try:
        attempt(read_pack, piece)
    except DecodeError as error:
        assert "\n" not in str(error)
        return error.kind
    return None


def with_facts(**changed: object) -> bytes:
    return tar_piece({**PACK, "json": json.dumps({**FACTS, **changed}).encode()})


def test_a_sound_piece_has_no_finding():
    assert finding(tar_piece(PACK)) is None
    assert finding(tar_piece({**PACK, "boxes.npz": npz(boxes())})) is None


@pytest.mark.parametrize(
    "size", [b"-0000001000", b"-1", b"77777777777", b"+0000000010", b"0x10", b"1_0", b"", b"\x80" + b"\xff" * 11, b"9"]
)
def test_sizes_in_a_header_of_a_shard(size):
    assert finding(with_header(tar_piece(PACK), size=size)) in ("corrupt", "truncated")


@pytest.mark.parametrize("fields", [{"name": b"\xff\xfe"}, {"typeflag": b"2"}, {"chksum": b"7777777\0"}])
def test_other_fields_of_a_header(fields):
    assert finding(with_header(tar_piece(PACK), **fields)) in ("corrupt", "truncated")


def test_two_clips_in_one_piece_are_none():
    with pytest.raises(DecodeError, match="two files 'json'"):
        tar_members(tar_piece(PACK) + tar_piece(PACK))


@pytest.mark.parametrize("content", [b"{}", b"null", b"[]", b"1", b'"x"', b"", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_what_a_clip_s_json_may_hold(content):
    assert finding(tar_piece({**PACK, "json": content})) is not None


@given(
    st.sampled_from(sorted(FACTS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ),
)
def test_what_its_fields_may_hold(name, value):
    finding(with_facts(**{name: value}))


@pytest.mark.parametrize(
    "changed",
    [
        {"times_seconds": [0.5, 0.0]}, {"times_seconds": [0.0, float("nan")]}, {"times_seconds": [0.0]},
        {"times_seconds": [[0.0, 0.5]]}, {"times_seconds": None}, {"duration_seconds": -1}, {"num_slots": 0},
        {"duration_seconds": float("inf")}, {"num_slots": 10**12}, {"num_slots": 1.5}, {"num_slots": "2"},
        {"row": None}, {"row": {"id": "a"}},
        {"row": {"id": "a", "video": "v", "captions": [{"text": "x", "nouns": [[0, 10**30]]}]}},
    ],
)  # fmt: skip
def test_fields_that_make_no_sense(changed):
    assert finding(with_facts(**changed)) is not None


@settings(max_examples=60)
@given(st.data())
def test_mutated_pieces_end(data):
    """Any bytes changed, cut or doubled: a finding or none, and at once."""
    piece = bytearray(tar_piece({**PACK, "boxes.npz": npz(boxes())}))
    for _ in range(data.draw(st.integers(1, 8))):
        piece[data.draw(st.integers(0, len(piece) - 1))] = data.draw(st.integers(0, 255))
    first, stop = sorted(data.draw(st.tuples(st.integers(0, len(piece)), st.integers(0, len(piece)))))
    whole = data.draw(st.sampled_from([bytes(piece), bytes(piece[first:stop]), bytes(piece) + bytes(piece[first:])]))
    begun = time.monotonic()
    finding(whole)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("size", [(30_000, 30_000), (30_000, 32), (65_500, 65_500), (9_000, 9_000), (0, 32)])
def test_the_size_that_a_jpeg_declares(size):
    assert finding(tar_piece({**PACK, "0.jpg": jpeg_of(size, jpeg())})) in ("size", "corrupt")


@pytest.mark.parametrize(
    ("field", "declared"),
    [
        ("boxes", ((1 << 27, 4), "<f4")), ("boxes", ((1 << 60, 4), "<f4")), ("labels", ((-2,), "<i8")),
        ("labels", ((2,), "|O")), ("labels", ((2,), "<U8")), ("scores", ((2,), "<c8")), ("boxes", ((2, 4), "|V4")),
        ("size_wh", ((0,), "<i8")), ("frame_index", ((2, 1), "<i8")), ("frame_index", ((), "<i8")),
    ],
)  # fmt: skip
def test_arrays_that_detections_declare(field, declared):
    with pytest.raises(ValueError, match=r"^detections of a shard: "):
        Detections.load(io.BytesIO(npz(boxes(), **{field: declared})))


def test_detections_that_unpack_to_more_than_boxes_take_are_not_unpacked(monkeypatch):
    monkeypatch.setattr("stoa.detections._MOST_BYTES", 1 << 20)
    packed = npz(boxes() | {"boxes": np.zeros((1 << 18, 4), dtype=np.float32)})
    assert len(packed) < 1 << 14
    with pytest.raises(ValueError, match=r"it declares 4.0 MiB of boxes; at most 1.0 MiB are read"):
        Detections.load(io.BytesIO(packed))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("labels", [0.5, 1]), ("frame_index", [float("nan"), 0]), ("labels", np.array([2**64 - 1, 0], dtype=np.uint64)),
        ("frame_times_seconds", [0.0, float("inf")]), ("frame_times_seconds", [[0.0, 1.0]]),
    ],
)  # fmt: skip
def test_numbers_that_are_none(field, values):
    with pytest.raises(ValueError, match=field):
        Detections.load(io.BytesIO(npz(boxes() | {field: np.asarray(values)})))


def test_numbers_of_other_types_are_read():
    fields = boxes() | {"labels": np.array([0.0, 3.0], dtype=np.float32), "scores": np.array([1, 0], dtype=np.int8)}
    found = Detections.load(io.BytesIO(npz(fields)))
    assert found.labels.tolist() == [0, 3]
    assert found.labels.dtype == np.int64


def test_a_path_that_is_no_file(tmp_path):
    for name, path in no_files(tmp_path).items():
        with pytest.raises(DecodeError) as caught:
            decode_clip(str(path), 2)
        assert caught.value.kind == "missing", name
        with pytest.raises(ValueError, match=r"^detections /"):
            Detections.load(path)


PIXEL = png(64, 48)


@pytest.mark.parametrize("count", [10**4, 10**7, 4 * 10**9])
def test_more_frames_than_bytes(tmp_path, count):
    path = tmp_path / "v.mov"
    path.write_bytes(mov([PIXEL] * 4, (64, 48), codec=b"png ", count=count))
    begun = time.monotonic()
    with pytest.raises(DecodeError) as caught:
        open_part(str(path), None, None)
    assert caught.value.kind in ("limit", "unreadable")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("declared", [(16_000, 16_000), (64, 48), (65_000, 65_000), (40_000, 8)])
def test_pictures_that_are_too_large_are_not_decoded(tmp_path, declared):
    """Of which the header tells, or lies; 16,000 pixels square are 31 kB of PNG."""
    path = tmp_path / "v.mov"
    path.write_bytes(mov([png(16_000, 16_000)] * 3, declared, codec=b"png "))
    with pytest.raises(DecodeError) as caught:
        PartReader(str(path), open_part(str(path), None, None)).judge()
    assert caught.value.kind in ("size", "corrupt")


def test_a_sound_file_of_the_same_kind_is_read(tmp_path):
    path = tmp_path / "v.mov"
    path.write_bytes(mov([PIXEL] * 4, (64, 48), codec=b"png "))
    assert decode_clip(str(path), 2).frames_THWC.shape == (2, 48, 64, 3)


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    guard = Guard(30, memory_bytes=300 << 20)
    yield guard
    guard.close()


def test_memory_is_limited_and_the_process_goes_on(guard):
    assert guard.call(take, 100 << 20) == 100 << 20
    process = guard._process
    with pytest.raises(DecodeError, match="more memory than a clip may have") as caught:
        guard.call(take, 1 << 30)
    assert caught.value.kind == "limit"
    assert guard.call(take, 100 << 20) == 100 << 20
    assert guard._process is process


def test_signs_of_life_do_not_go_on_for_ever(guard):
    guard.call(run_on, 0)
    guard.timeout_seconds, guard.longest_call = 2, 1.5
    with pytest.raises(DecodeError, match="was not done after 3 s") as caught:
        guard.call(run_on, 30)
    assert caught.value.kind == "hang"


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Four clips in both stores, two to a shard."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_video(folder / f"{number}.mp4", gray_frames(8)[number:])
    rows = [ClipRow(f"clip{number}", f"{number}.mp4", (Caption("gray"),)) for number in range(4)]
    return small_stores(folder, rows, frames=2)


@pytest.fixture
def store(stores, tmp_path) -> Path:
    return Path(shutil.copytree(stores / "frames", tmp_path / "store"))


def change_index(store: Path, number: int, **fields: int) -> None:
    index = np.load(store / INDEX_FILE)
    for name, value in fields.items():
        index[name][number] = value
    np.save(store / INDEX_FILE, index)


def verdicts(store: Path) -> dict[str, str]:
    """Of a check, on what is bad."""
    ledger = store.parent / "check.jsonl"
    check(str(store), CheckConfig(ledger=str(ledger), timeout_seconds=20), lambda line: None)
    lines = map(json.loads, ledger.read_text().splitlines())
    return {line["clip"] or line["path"]: line["error"] for line in lines if line["error"] is not None}


def replaced(clips: ShardClips | FileClips, number: int, folder: Path, **options) -> str:
    """The kind of what the ledger has on the clip, which was replaced."""
    ledger = Ledger(folder / "ledger.jsonl")
    data = ClipDataset(clips, SHAPE, seed=0, ledger=ledger, **{"timeout_seconds": 0, **options})
    assert data[SampleKey(number, 0, 0)].replaced == 1
    return json.loads(ledger.path.read_text().splitlines()[0])["kind"]


@pytest.mark.parametrize(
    "fields",
    [
        {"shard": 9}, {"shard": -1}, {"offset": -512}, {"offset": 1 << 50}, {"size": -1}, {"size": 0},
        {"size": 1 << 50}, {"offset": 512}, {"size": 512}, {"offset": (1 << 63) - 1, "size": (1 << 63) - 1},
    ],
)  # fmt: skip
def test_an_index_that_is_wrong_about_a_clip(store, tmp_path, fields):
    change_index(store, 2, **fields)
    assert replaced(ShardClips(str(store), None), 2, tmp_path) in ("corrupt", "truncated")


def test_a_check_of_an_index_that_is_wrong(store):
    change_index(store, 1, shard=9)
    change_index(store, 2, offset=1 << 50)
    change_index(store, 3, size=512)
    assert verdicts(store) == {"number 1": "corrupt", "number 2": "corrupt", "number 3": "truncated"}


def test_an_index_that_is_none(store):
    change_index(store, 1, split=7)
    with pytest.raises(ValueError, match=r"index.npy has clip 1 in split 7 of 1; copy the file again"):
        ShardClips(str(store), "train")
    for array in (np.zeros(4), np.zeros((2, 2)), np.array(["x"] * 4), np.load(store / INDEX_FILE).reshape(2, 2)):
        np.save(store / INDEX_FILE, array)
        with pytest.raises(ValueError, match=r"index.npy is .*; expected fields"):
            ShardClips(str(store), None)
    np.save(store / INDEX_FILE, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"index.npy: "):
        ShardClips(str(store), None)


@pytest.mark.parametrize("field", ["kind", "clips", "splits", "shards", "token_ids", "left_out", "version"])
@pytest.mark.parametrize("value", [None, "x", -1.5, [None], {"a": 1}])
def test_a_store_s_own_facts(store, field, value):
    facts = json.loads((store / STORE_FILE).read_text())
    (store / STORE_FILE).write_text(json.dumps(facts | {field: value}))
    if not (field == "kind" and value == "x" or field == "token_ids" and value == {"a": 1}):
        with pytest.raises(ValueError, match=r"store") as caught:
            ShardClips(str(store), "train")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", "1", "{", "[" * 100_000])
def test_a_store_s_facts_that_are_none(store, content):
    (store / STORE_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"store.json"):
        ShardClips(str(store), None)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../000000.tar",
        "..",
        ".",
        "",
        "a/../b",
        "x/y.tar",
        "http://x/y",
        "a::b",
        "%2e%2e",
        "a\\b",
        "a\0b",
        7,
    ],
)
def test_names_of_shards_stay_in_the_folder(store, name):
    facts = json.loads((store / STORE_FILE).read_text())
    facts["shards"][0]["name"] = name
    (store / STORE_FILE).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"store.json( has a shard|: 'name' is)"):
        ShardClips(str(store), None)


def test_links_out_of_a_store_are_not_followed(store, tmp_path):
    outside = tmp_path / "outside.tar"
    (store / "000000.tar").rename(outside)
    (store / "000000.tar").symlink_to(outside)
    assert replaced(ShardClips(str(store), None), 0, tmp_path) == "missing"
    assert verdicts(store) == {"000000.tar": "missing"}
    (tmp_path / "link").symlink_to(store)  # of the folder as a whole
    assert ShardClips(str(tmp_path / "link"), None).place(2).read().row.id == "clip2"
    shutil.copy(store / STORE_FILE, tmp_path / STORE_FILE)
    (store / STORE_FILE).unlink()
    (store / STORE_FILE).symlink_to(tmp_path / STORE_FILE)
    with pytest.raises(ValueError, match=r"it is a link out of its folder"):
        ShardClips(str(store), None)


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "circle"])
def test_a_shard_that_is_no_file(store, tmp_path, kind):
    (tmp_path / "odd").mkdir()
    made = no_files(tmp_path / "odd")[kind]
    (store / "000000.tar").unlink()
    made.rename(store / "000000.tar")
    assert replaced(ShardClips(str(store), None), 0, tmp_path) == "missing"
    if kind == "pipe":
        assert verdicts(store) == {"000000.tar": "missing"}


def test_a_missing_shard_is_replaced(store, tmp_path):
    (store / "000001.tar").unlink()
    assert replaced(ShardClips(str(store), None), 3, tmp_path) == "missing"


def put(store: Path, number: int, files: dict[str, bytes]) -> None:
    """These files in the place of the clip's."""
    name = f"{np.load(store / INDEX_FILE)['shard'][number]:06d}.tar"
    piece, offset = tar_piece(files), (store / name).stat().st_size
    with open(store / name, "ab") as shard:
        shard.write(piece)
    change_index(store, number, offset=offset, size=len(piece))
    facts = json.loads((store / STORE_FILE).read_text())
    for of_shard in facts["shards"]:
        of_shard["bytes"] += len(piece) * (of_shard["name"] == name)
    (store / STORE_FILE).write_text(json.dumps(facts))


SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
OTHER = json.dumps({**FACTS, "row": {**FACTS["row"], "id": "b"}}).encode()
BAD_MEMBERS = {
    "{}": PACK | {"json": b"{}"},
    "null": PACK | {"json": b"null"},
    "jpeg": PACK | {"0.jpg": jpeg_of((30_000, 30_000), jpeg())},
    "npz": PACK | {"boxes.npz": npz(boxes(), boxes=((1 << 27, 4), "<f4"))},
    "sizes": PACK | {"1.jpg": jpeg(32, 64)},
    "frames": {"json": OTHER, "mp4": mov([PIXEL] * 4, (64, 48), codec=b"png ", count=10**6)},
    "sdp": {"json": PACK["json"], "mp4": SDP},
}


@pytest.mark.parametrize("kind", BAD_MEMBERS)
@pytest.mark.parametrize("encoded", [False, True], ids=["decoded", "on the device"])
def test_bad_members_are_replaced(store, tmp_path, kind, encoded):
    put(store, 3, BAD_MEMBERS[kind])
    replaced(ShardClips(str(store), None), 3, tmp_path, encoded=encoded)


@pytest.mark.parametrize("kinds", [("{}", "jpeg", "npz"), ("null", "sizes", "frames"), ("sdp",)], ids=str)
def test_bad_members_in_the_guard_and_in_a_check(store, tmp_path, kinds):
    for number, kind in enumerate(kinds, start=1):
        put(store, number, BAD_MEMBERS[kind])
    ledger = Ledger(tmp_path / "ledger.jsonl")
    data = ClipDataset(ShardClips(str(store), None), SHAPE, seed=0, ledger=ledger)
    for number in range(1, len(kinds) + 1):
        assert data[SampleKey(number, 0, 0)].replaced == 1
    bad = verdicts(store)
    assert len({clip for clip in bad if not clip.endswith(".tar")}) == len(kinds)


def test_a_clip_that_was_blamed_is_not_read_again(store, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    clips = ShardClips(str(store), None)
    ledger.record("blamed", "clip1", "hung", epoch=0, name=clips.name(1))
    (store / "000000.tar").unlink()
    data = ClipDataset(clips, SHAPE, seed=0, ledger=ledger)
    assert data[SampleKey(1, 1, 0)].replaced == 1
    assert json.loads(ledger.path.read_text().splitlines()[1])["kind"] == "blamed"


class Stuck(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        time.sleep(1000)


def test_a_loader_process_that_gives_no_batch_ends_the_run():
    batches = started(DataLoader(Stuck(), num_workers=1, timeout=1))
    with pytest.raises(ValueError, match=r"no loader process gave a batch within 1 s: .* raise data.loader_timeout"):
        next(one_line_errors(batches, "data.num_workers"))


@pytest.mark.parametrize(
    ("option", "value"), [("loader_timeout_seconds", -1), ("max_bad_share", 1.5), ("decode_memory_gib", 0)]
)
def test_values_that_make_no_sense(option, value):
    with pytest.raises(ValueError, match=f"data.{option} is {value}; expected"):
        DataConfig(**{option: value})


def test_the_worst_are_named(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    said = Replacements(ledger.path)
    for clip, times in (("a", 1), ("b", 3), ("c", 2), ("d", 1)):
        for _ in range(times):
            ledger.record("replaced", clip, f"why {clip}", kind="corrupt", path=f"/v/{clip}.mp4")
    worst = said.worst()
    assert worst.startswith(" (4 corrupt; the worst: clip 'b' (3 times) /v/b.mp4: why b; clip 'c' (2 times)")
    assert str(ledger.path) in worst


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "y/" * 3000 + "v.mp4", "v.mp4/inside.mp4"])
def test_a_path_that_cannot_be_is_a_missing_clip(tmp_path, name):
    write_video(tmp_path / "v.mp4", gray_frames(8))
    rows = [ClipRow("sound", "v.mp4", (Caption("x"),)), ClipRow("bad", name, (Caption("x"),))]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert not check(str(tmp_path / "manifest.jsonl"), CheckConfig(ledger=str(tmp_path / "c.jsonl")), lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert {line["path"]: line["error"] for line in lines} == {"v.mp4": None, name: "missing"}
    assert replaced(open_clips(str(tmp_path / "manifest.jsonl"), None, Ledger(None)), 1, tmp_path) == "missing"


def test_a_link_to_itself_among_videos(tmp_path):
    write_video(tmp_path / "v.mp4", gray_frames(8))
    (tmp_path / "l.mp4").symlink_to(tmp_path / "l.mp4")
    assert [(folder, names) for folder, names in _walk(tmp_path)] == [("", ["v.mp4"])]


@pytest.mark.parametrize("field", ["id", "video", "detections"])
def test_half_a_character_is_refused_by_row(tmp_path, field):
    row = {"id": "a", "video": "v.mp4", "caption": "x", field: "\ud800"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=rf"row 1: field '{field}' is .*half a character"):
        read_manifest(tmp_path / "manifest.jsonl")
