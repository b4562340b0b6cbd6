"""Outputs of a vision tower that is not trained, kept on disk: computed once, and read from then on by every run of the
same tower with the same taps.

A clip is known by the content of its frames, so that no other decoder, view or sampling can be mistaken for it. Each
process appends to files of its own and reads those of all.

Shape legend: B clips, U that differ, M of these that are not known yet, T frames, C channels, H height, W width,
S tokens of a frame, h vision width, d joint width, R bytes of a clip.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from stoa.files import descriptor_of, descriptor_to_append, free_bytes, in_units
from stoa.models.clip import VisionTower

Outputs = tuple[torch.Tensor, dict[int, torch.Tensor]]
"""[CLS] (B, T, d) and tapped tokens (B * T, S, h), as :meth:`stoa.models.clip.Clip.encode_frames` gives them."""

Encode = Callable[[torch.Tensor, frozenset[int]], Outputs]

LEAST_FREE = 4 << 30
"""Bytes of the disk that are left to others, checkpoints first of all."""

_FORMAT = 1
"""Of the files; another one is another folder."""
_DIGEST = 16
_RECORD = _DIGEST + 4
"""Of a clip in a file of keys: what its frames are, and the sum of its row."""


class FrozenOutputs:
    """In the place of a frozen tower: outputs that are known are read, and others computed and kept. A file that is
    damaged, or a disk that refuses, costs time alone.

    Args:
        folder: for any number of towers; each has a folder of its own in it.
        tower: of which nothing is trained.
        architecture: of the backbone. Weights do not tell the activation.
        say: shows a line.
    """

    def __init__(self, folder: Path, tower: VisionTower, *, architecture: str, say: Callable[[str], None]) -> None:
        self._folder, self._tower, self._architecture, self._say = folder, tower, architecture, say
        self._store: _Store | None = None
        self._layout: list[tuple[torch.Size, torch.dtype]] = []

    @torch.no_grad()
    def __call__(self, frames_BTCHW: torch.Tensor, taps: frozenset[int], encode: Encode) -> Outputs:
        """As ``encode(frames_BTCHW, taps)``, without a gradient."""
        B, order = len(frames_BTCHW), sorted(taps)
        if self._store is None:  # the weights are those that training goes on from, in the precision that it has
            self._layout = [(part.shape[1:], part.dtype) for part in _parts(*encode(frames_BTCHW[:1], taps), order, 1)]
            facts = (_FORMAT, self._architecture, self._tower.joint_last_blocks, frames_BTCHW.shape[1:], order)
            folder = self._folder / _key(self._tower, f"{facts} {self._layout}")
            self._store = _Store(folder, row_bytes=sum(self._sizes()), say=self._say)
        digests = _digests(frames_BTCHW)
        places = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}  # of clips that differ
        rows_UR = torch.empty(len(places), sum(self._sizes()), dtype=torch.uint8)
        missing = [digest for digest, row in places.items() if not self._store.read(digest, rows_UR[row])]
        if missing and self._store.look():
            missing = [digest for digest in missing if not self._store.read(digest, rows_UR[places[digest]])]
        if missing:
            asked = [digests.index(digest) for digest in missing]
            computed = _parts(*encode(frames_BTCHW[asked], taps), order, len(missing))
            rows_MR = torch.cat([part.cpu().contiguous().flatten(1).view(torch.uint8) for part in computed], dim=1)
            assert rows_MR.shape[1] == rows_UR.shape[1], "the tower computes in another precision than at first"
            self._store.keep(missing, rows_MR)
            rows_UR[[places[digest] for digest in missing]] = rows_MR
        rows_BR = rows_UR[[places[digest] for digest in digests]]
        frames_BTd, *tokens = (
            bytes_B.contiguous().view(dtype).view(B, *shape).to(frames_BTCHW.device)
            for bytes_B, (shape, dtype) in zip(rows_BR.split(self._sizes(), dim=1), self._layout, strict=True)
        )
        return frames_BTd, {tap: part.flatten(0, 1) for tap, part in zip(order, tokens, strict=True)}

    def _sizes(self) -> list[int]:
        """Bytes of a clip in each part."""
        return [shape.numel() * dtype.itemsize for shape, dtype in self._layout]


def _parts(frames_BTd: torch.Tensor, tapped: dict[int, torch.Tensor], order: list[int], B: int) -> list[torch.Tensor]:
    """With a row for each of B clips: [CLS], then (B, T, S, h) of each tap."""
    return [frames_BTd, *(tapped[tap].unflatten(0, (B, -1)) for tap in order)]


def _key(tower: VisionTower, facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(weight.detach().cpu().contiguous()))
    return digest.hexdigest()[:16]


def _digests(frames_BTCHW: torch.Tensor) -> list[bytes]:
    clips = frames_BTCHW.cpu().contiguous().numpy()
    return [hashlib.blake2b(clip, digest_size=_DIGEST).digest() for clip in clips]


def _bytes(values: torch.Tensor) -> memoryview:
    return values.flatten().view(torch.uint8).numpy().data


class _Place(NamedTuple):
    """Where a clip's row is, and its sum."""

    descriptor: int
    offset: int
    crc: int


class _Store:
    """Rows of one size by the digest of what they are of.

    A row is written before its record, and the records of a batch in one call: what is killed between them has rows
    without records, which nobody reads.
    """

    def __init__(self, folder: Path, *, row_bytes: int, say: Callable[[str], None]) -> None:
        self._folder, self._row_bytes = folder, row_bytes
        self._places: dict[bytes, _Place] = {}
        self._others: dict[Path, tuple[int, int, int]] = {}
        """Files of keys: those and the rows, as descriptors, and how many records are known."""
        self._own: tuple[int, int] | None = None
        self._own_keys: Path | None = None
        self._told: set[str] = set()
        self._writes = True
        self.look()
        if self._places:
            say(f"{folder} has the outputs of {len(self._places):,} clips ({in_units(len(self._places) * row_bytes)})")

    def look(self) -> bool:
        """Whether other processes have added something."""
        before = len(self._places)
        for keys in sorted(self._folder.glob("*.keys")):
            if keys != self._own_keys:
                try:
                    self._read_on(keys)
                except FileNotFoundError:  # begun a moment ago
                    continue
                except OSError as error:
                    self._tell(f"{keys} cannot be read ({error.strerror or error}): its outputs are computed again")
        return len(self._places) > before

    def _read_on(self, keys: Path) -> None:
        if keys not in self._others:
            self._others[keys] = (descriptor_of(keys), descriptor_of(keys.with_suffix(".rows")), 0)
        records, rows, known = self._others[keys]
        count = min(os.fstat(records).st_size // _RECORD, os.fstat(rows).st_size // self._row_bytes)
        content = os.pread(records, (count - known) * _RECORD, known * _RECORD)
        for number in range(len(content) // _RECORD):
            record = content[number * _RECORD : (number + 1) * _RECORD]
            crc = int.from_bytes(record[_DIGEST:], "little")
            self._places[record[:_DIGEST]] = _Place(rows, (known + number) * self._row_bytes, crc)
        self._others[keys] = records, rows, max(known, count)

    def read(self, digest: bytes, row_R: torch.Tensor) -> bool:
        """Fill a row, if it is known and whole."""
        place = self._places.get(digest)
        if place is None:
            return False
        buffer = _bytes(row_R)
        try:
            if os.preadv(place.descriptor, [buffer], place.offset) == len(buffer) and zlib.crc32(buffer) == place.crc:
                return True
        except OSError as error:
            self._tell(f"{self._folder} cannot be read ({error.strerror}): outputs are computed again")
        del self._places[digest]
        return False

    def keep(self, digests: Sequence[bytes], rows_MR: torch.Tensor) -> None:
        """Append rows; where the disk is full, or refuses, training goes on without."""
        if not self._writes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if free_bytes(self._folder) < LEAST_FREE + rows_MR.nbytes:
                raise OSError(f"less than {in_units(LEAST_FREE)} of the disk would be left")
            self._append(digests, rows_MR)
        except OSError as error:
            self._writes = False
            self._tell(f"{self._folder}: no further outputs of the vision tower are kept, {error.strerror or error}")

    def _tell(self, line: str) -> None:
        """Each line once, on whichever rank."""
        if line not in self._told:
            self._told.add(line)
            warnings.warn(line, stacklevel=2)

    def _append(self, digests: Sequence[bytes], rows_MR: torch.Tensor) -> None:
        keys, rows = self._own = self._own or self._begin()
        start, records = os.fstat(rows).st_size, b""
        for number, digest in enumerate(digests):
            row = _bytes(rows_MR[number])
            crc = zlib.crc32(row)
            _write(rows, row)
            records += digest + crc.to_bytes(4, "little")
            self._places[digest] = _Place(rows, start + number * self._row_bytes, crc)
        _write(keys, records)

    def _begin(self) -> tuple[int, int]:
        """Files that no other process has."""
        for number in itertools.count():
            keys = self._folder / f"{number:04}.keys"
            try:
                os.close(os.open(keys, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except FileExistsError:
                continue
            self._own_keys = keys
            return descriptor_to_append(keys), descriptor_to_append(keys.with_suffix(".rows"))
        raise AssertionError


def _write(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
