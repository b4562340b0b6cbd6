"""Which ids have come by, for millions of them."""

from __future__ import annotations

from array import array
from hashlib import blake2b


class SeenIds:
    """A set of ids in 12 to 24 bytes each: their 64-bit hashes in an open-addressed table.

    Among 10 million different ids, two are taken for one with a chance of 3e-6.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 << 10))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, id: str) -> bool:
        """Add an id; whether it was not there."""
        digest = blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        new = _insert(self._table, int.from_bytes(digest, "little") or 1)  # 0 marks a free slot
        self._count += new
        if 3 * self._count > 2 * len(self._table):
            larger = array("Q", bytes(16 * len(self._table)))
            for value in self._table:
                if value:
                    _insert(larger, value)
            self._table = larger
        return new


def _insert(table: array[int], value: int) -> bool:
    mask = len(table) - 1
    slot = value & mask
    while other := table[slot]:
        if other == value:
            return False
        slot = (slot + 1) & mask
    table[slot] = value
    return True
