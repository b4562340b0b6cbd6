"""Damaged pieces of shards, and stores made of them. The same seed, the same pieces."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from crafted import jpeg_of, tar_piece, with_header
from mutations import mutated

from stoa.data.members import tar_members
from stoa.data.shards import IDS_FILE, INDEX_DTYPE, INDEX_FILE, STORE_FILE, ShardClips

_ODD = (None, True, -1, 0, 0.5, 1e308, 10**30, "x", "", [], [None], {}, [0.0, 0.0], [[1]], "\0", {"id": None})
_SIZES = (b"-0000001000", b"77777777777", b"+10", b"", b"\x80" + b"\xff" * 11, b"00000000000")
_HEADERS = ((30_000, 30_000), (16_384, 4_096), (1, 1), (0, 0), (65_535, 8))


def pieces_of(store: Path) -> list[bytes]:
    """Of every clip of a sound store, in order."""
    clips = ShardClips(str(store), None)
    return [clips.place(number).content() for number in range(len(clips))]


def mutated_piece(
    pieces: Sequence[bytes], videos: dict[str, Path], number: int, seed: int = 0
) -> tuple[str, bytes, dict[str, int]]:
    """What was done, the piece, and what the index says of it in place of the truth; any number may be asked for."""
    rng = np.random.default_rng([seed, number, 1])
    piece = pieces[int(rng.integers(len(pieces)))]
    how = str(rng.choice([*_MUTATIONS, "video", "index"]))
    if how == "index":
        field = str(rng.choice(["shard", "offset", "size"]))
        return how, piece, {field: int(rng.choice([-1, 0, 7, 512, 1 << 30, 1 << 31, (1 << 63) - 1]) % (1 << 31))}
    files = {name: bytes(content) for name, content in tar_members(piece).items()}
    if how == "video":
        return how, tar_piece({"json": files["json"], "mp4": mutated(videos, number, seed)[2]}), {}
    return how, _MUTATIONS[how](piece, files, rng), {}


def write_store(store: Path, sound: Path, pieces: Sequence[tuple[bytes, dict[str, int]]]) -> None:
    """A store of these pieces in one shard, with the other facts of the sound one."""
    shutil.copytree(sound, store, ignore=lambda folder, names: [name for name in names if name.endswith(".tar")])
    index = np.zeros(len(pieces), dtype=INDEX_DTYPE)
    offset = 0
    with open(store / "000000.tar", "wb") as shard:
        for number, (piece, wrong) in enumerate(pieces):
            index["offset"][number], index["size"][number] = offset, max(len(piece), 1)
            for name, value in wrong.items():
                index[name][number] = value
            shard.write(piece)
            offset += len(piece)
    np.save(store / INDEX_FILE, index)
    (store / "captions.npy").unlink()
    (store / IDS_FILE).write_text("".join(f'"clip{number}"\n' for number in range(len(pieces))))
    facts = json.loads((store / STORE_FILE).read_text())
    digest = hashlib.sha256((store / "000000.tar").read_bytes()).hexdigest()
    facts["shards"] = [{"name": "000000.tar", "clips": len(pieces), "bytes": offset, "sha256": digest}]
    facts |= {"clips": len(pieces), "left_out": 0, "counts": {}}
    (store / STORE_FILE).write_text(json.dumps(facts))


def _bits(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    changed = bytearray(piece)
    for _ in range(int(2 ** rng.uniform(0, 6))):
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    return piece[: int(len(piece) * rng.uniform(0, 1))]


def _spliced(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    at, size = int(rng.integers(len(piece))), int(rng.integers(1, 2000))
    put = [b"", bytes(size), piece[at : at + size] * 2, rng.bytes(size)][rng.integers(4)]
    return piece[:at] + put + piece[at + size :]


def _header(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    at = int(rng.choice([at for at in range(0, len(piece), 512) if piece[at + 257 : at + 262] == b"ustar"]))
    return piece[:at] + with_header(piece[at:], size=_SIZES[rng.integers(len(_SIZES))])


def _facts(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    facts = json.loads(files["json"])
    inner = facts if rng.integers(2) else facts["row"]
    inner[str(rng.choice(list(inner)))] = _ODD[rng.integers(len(_ODD))]
    content = json.dumps(facts) if rng.integers(4) else str(rng.choice(["{}", "null", "[]", "", "[" * 9999]))
    return tar_piece({**files, "json": content.encode()})


def _boxes(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    """Bits of the archive, of an array in it, or one field's shape and dtype."""
    packed = files.get("boxes.npz")
    if packed is None:
        return _bits(piece, files, rng)
    if rng.integers(2):
        return tar_piece({**files, "boxes.npz": _bits(packed, files, rng)})
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(list(members)))
    odd = [np.zeros((1 << 20, 4)), np.array(["x"]), np.array(3), np.full((2, 4), np.nan), np.zeros((0, 4)), np.ones(2)]
    file = io.BytesIO()
    np.save(file, odd[rng.integers(len(odd))])
    members[name] = file.getvalue() if rng.integers(2) else _bits(members[name], files, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return tar_piece({**files, "boxes.npz": out.getvalue()})


def _pictures(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    """A frame is lost, doubled, of another size, or damaged."""
    frames = [name for name in files if name.endswith(".jpg")]
    if not frames:
        return _cut(piece, files, rng)
    name = str(rng.choice(frames))
    how = int(rng.integers(4))
    if how == 0:
        del files[name]
    elif how == 1:
        files["99.jpg"] = files[name]
    elif how == 2:
        files[name] = jpeg_of(_HEADERS[rng.integers(len(_HEADERS))], files[name])
    else:
        files[name] = _bits(files[name], files, rng)
    return tar_piece(files)


def _intact(piece: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    return piece


_MUTATIONS: dict[str, Callable[[bytes, dict[str, bytes], np.random.Generator], bytes]] = {
    "bits": _bits,
    "cut": _cut,
    "spliced": _spliced,
    "header": _header,
    "facts": _facts,
    "boxes": _boxes,
    "pictures": _pictures,
    "intact": _intact,
}
