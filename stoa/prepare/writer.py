"""A shard: a tar file in WebDataset layout and, beside it, what it holds. Both are whole or not there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stoa.files import fsync, sha256, temporary_of, write_whole, writing


class ShardWriter:
    """Writes one shard; it appears when the block ends without an error.

    Args:
        path: of the ``.tar`` file. What it holds is written to the ``.json`` beside it, last, so its presence says
            that the shard is done.

    Raises:
        StorageError: the disk refuses; nothing of the shard stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_of(path)
        self._offsets: list[int] = []

    def __enter__(self) -> ShardWriter:
        with writing(self.path):
            self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        return self

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Append the files of a clip, in order; they are named ``key.name``."""
        self._offsets.append(self._tar.offset)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{key}.{name}")
            entry.size = len(content)
            with writing(self.path):
                self._tar.addfile(entry, io.BytesIO(content))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._tar.offset
        try:
            with writing(self.path):
                self._tar.close()
                if error is None:
                    fsync(self._temporary)
                    self._offsets.append(end)
                    self._size, self._sha256 = self._temporary.stat().st_size, sha256(self._temporary)
                    os.replace(self._temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def finish(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write what the shard holds: ``facts``, and of the file its size, sum and the clips' byte offsets."""
        whole = {
            **facts,
            "name": self.path.name,
            "clips": len(self._offsets) - 1,
            "bytes": self._size,
            "sha256": self._sha256,
            "offsets": self._offsets,
        }
        write_whole(self.path.with_suffix(".json"), json.dumps(whole) + "\n")
        fsync(self.path.parent)
        return whole
