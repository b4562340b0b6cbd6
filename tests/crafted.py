"""Files that ask for more than they are worth, or for what is none of theirs."""

from __future__ import annotations

import io
import struct
import tarfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stoa.data.decoding.guard import alive


def tar_piece(files: Mapping[str, bytes], key: str = "00000000") -> bytes:
    """The files of a clip as they lie in a shard, without the archive's end."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{key}.{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        end = archive.offset
    return file.getvalue()[:end]


def with_header(piece: bytes, **fields: bytes) -> bytes:
    """The piece with fields of its first header changed and, unless ``chksum`` is one, a sum that fits."""
    places = {"name": (0, 100), "size": (124, 136), "chksum": (148, 156), "typeflag": (156, 157)}
    header = bytearray(piece[:512])
    for name, value in fields.items():
        first, stop = places[name]
        header[first:stop] = value.ljust(stop - first, b"\0")
    if "chksum" not in fields:
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + piece[512:]


def npz(arrays: Mapping[str, np.ndarray], **declared: tuple[tuple[int, ...], str]) -> bytes:
    """Detections, of which some fields declare another shape and dtype than they hold."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            if name in declared:
                shape, dtype = declared[name]
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(array.tobytes())
            else:
                np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    return file.getvalue()


def boxes(count: int = 2) -> dict[str, np.ndarray]:
    """Fields of sound detections."""
    return {
        "frame_times_seconds": np.array([0.0, 0.5]),
        "frame_index": np.zeros(count, dtype=np.int64),
        "boxes": np.tile(np.array([[4.0, 4.0, 20.0, 20.0]], dtype=np.float32), (count, 1)),
        "labels": np.zeros(count, dtype=np.int64),
        "scores": np.full(count, 0.5, dtype=np.float32),
        "size_wh": np.array([64, 32]),
    }


def png(width: int, height: int) -> bytes:
    """A black one, packed as well as can be."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def mov(samples: list[bytes], size_wh: tuple[int, int], *, codec: bytes, count: int | None = None) -> bytes:
    """A QuickTime file of pictures, ``count`` of which its header declares: all of the first sample's size, from
    wherever the last chunk begins."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return struct.pack(">I", 8 + len(content)) + kind + content

    full = bytes(4)
    count = len(samples) if count is None else count
    matrix = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    entry = (
        bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", *size_wh)
        + struct.pack(">IIIH", 72 << 16, 72 << 16, 0, 1) + bytes(32) + struct.pack(">Hh", 24, -1)
    )  # fmt: skip
    ftyp = box(b"ftyp", b"qt  ", struct.pack(">I", 0), b"qt  ")
    media = box(b"mdat", *samples)
    equal = len({len(sample) for sample in samples}) == 1
    sizes = struct.pack(">II", len(samples[0]) if equal else 0, count)
    if not equal:
        sizes += b"".join(struct.pack(">I", len(sample)) for sample in samples)
    table = box(
        b"stbl",
        box(b"stsd", full, struct.pack(">I", 1), box(codec, entry)),
        box(b"stts", full, struct.pack(">III", 1, count, 40)),
        box(b"stsc", full, struct.pack(">IIII", 1, 1, count, 1)),
        box(b"stsz", full, sizes),
        box(b"stco", full, struct.pack(">II", 1, len(ftyp) + 8)),
    )
    duration = 40 * count
    mdhd = box(b"mdhd", full, struct.pack(">IIII", 0, 0, 1000, min(duration, 2**32 - 1)), bytes(4))
    hdlr = box(b"hdlr", full, b"mhlr", b"vide", bytes(13))
    dinf = box(b"dinf", box(b"dref", full, struct.pack(">I", 1), box(b"url ", struct.pack(">I", 1))))
    minf = box(b"minf", box(b"vmhd", struct.pack(">I", 1), bytes(8)), dinf, table)
    tkhd = box(
        b"tkhd", struct.pack(">I", 7), struct.pack(">IIIII", 0, 0, 1, 0, min(duration, 2**32 - 1)), bytes(16), matrix,
        struct.pack(">II", size_wh[0] << 16, size_wh[1] << 16),
    )  # fmt: skip
    mvhd = box(
        b"mvhd", full, struct.pack(">IIII", 0, 0, 1000, min(duration, 2**32 - 1)), struct.pack(">IH", 1 << 16, 256),
        bytes(10), matrix, bytes(24), struct.pack(">I", 2),
    )  # fmt: skip
    return ftyp + media + box(b"moov", mvhd, box(b"trak", tkhd, box(b"mdia", mdhd, hdlr, minf)))


def jpeg_of(size_wh: tuple[int, int], sound: bytes) -> bytes:
    """A sound JPEG whose header gives another size."""
    at = sound.index(b"\xff\xc0")
    return sound[: at + 5] + struct.pack(">HH", size_wh[1], size_wh[0]) + sound[at + 9 :]


def no_files(folder: Path) -> dict[str, Path]:
    """What a path may name that is no file: a pipe, a socket, a folder, a device, a link in a circle."""
    import os
    import socket

    made = {name: folder / name for name in ("pipe", "folder", "circle")}
    os.mkfifo(made["pipe"])
    made["folder"].mkdir()
    made["circle"].symlink_to(made["circle"])
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # a socket's path may be 100 bytes long
    try:
        listening.bind("socket")
    finally:
        os.chdir(here)
        listening.close()
    return {**made, "socket": folder / "socket", "device": Path("/dev/zero"), "terminal": Path("/dev/tty")}


def take(size: int) -> int:
    """So many bytes of memory."""
    return len(np.ones(size, dtype=np.uint8))


def run_on(seconds: float) -> str:
    """So long, with signs of life."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        alive()
    return "done"
