"""Names of files for what users name: ids and splits may hold any character, and be longer than a file name may."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

_LONGEST = 200  # of the 255 bytes that file systems take; the rest is for prefixes, suffixes and temporary names


def file_name(name: str) -> str:
    """One component of a path that stands for ``name`` alone, 200 characters of ASCII at most.

    Letters, digits, spaces and ``_.-~`` stay, other bytes are written as ``%2F``; of a long name the beginning and a
    hash stand for the rest.
    """
    content = name.encode("utf-8", "surrogatepass")
    quoted = quote(content, safe=" ")
    if len(quoted) <= _LONGEST:
        return quoted
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    head = quoted[: _LONGEST - len(digest) - 1]
    cut = head.rfind("%", -2)  # within what stands for one byte
    return f"{head[:cut] if cut >= 0 else head}-{digest}"
