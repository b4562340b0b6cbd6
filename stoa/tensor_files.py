"""Files of weights, read by their content without running any code in them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stoa.torchscript import is_torchscript, read_torchscript

_ZIP = b"PK\x03\x04"
_AGAIN = "download it again"


def read_tensors(path: Path) -> Any:
    """What a file of ``torch.save`` or of safetensors holds, or the tensors of a TorchScript archive, on the CPU. The
    suffix of its name decides nothing.

    Raises:
        ValueError: it is none of these, is damaged, or holds what only running code could read. The message goes after
            the name of the file.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if problem := _no_weights(head):
        raise ValueError(problem)
    if head[8:9] == b"{":
        return _safetensors(path)
    if head.startswith(_ZIP) and _checked_archive_is_torchscript(path):
        return read_torchscript(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of zip, pickle and torch, each of which has its own
        raise ValueError(_why_not(error)) from None


def holds_torchscript(path: Path) -> bool:
    """Whether a file that could be read is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return is_torchscript(archive)


def _no_weights(head: bytes) -> str | None:
    """What a file with this beginning is in the place of weights, if it is known."""
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    if not head:
        return f"is empty; {_AGAIN}"
    if text.startswith("version https://git-lfs"):
        return "is a pointer of Git LFS in the place of the file; 'git lfs pull' in its folder fetches that"
    if re.match(r"<(!doctype|html|head|\?xml)", text, re.IGNORECASE):
        return "is a web page, not weights; download the file that the page shows"
    if not text or (text[:64].replace("\n", " ").isprintable() and len(text) > 0.9 * len(head)):
        return f"is text, not weights ({' '.join(text[:60].split())!r}); {_AGAIN}"
    return None


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"is damaged or cut short, as safetensors says ({_line(error)}); {_AGAIN}") from None


def _checked_archive_is_torchscript(path: Path) -> bool:
    """torch does not look at the sums of the archives it reads."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"is damaged: {damaged} in it has changed since it was written; {_AGAIN}")
            if not any(name.count("/") == 1 and name.endswith("/data.pkl") for name in archive.namelist()):
                raise ValueError(f"is a zip archive without weights ({', '.join(archive.namelist()[:3])}); unpack it")
            return is_torchscript(archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"is damaged or cut short ({_line(error)}); {_AGAIN}") from None


def _why_not(error: Exception) -> str:
    said = str(error)
    if found := re.search(r"(?:GLOBAL|[Uu]nsupported (?:class|type)) ([\w.]+)", said):
        return (
            f"holds more than tensors ({found.group(1)}), which only running code from it could read; save the "
            "state_dict alone"
        )
    # What torch says around it advises to run the code.
    inner = re.search(r"WeightsUnpickler error:\s*([^\n]+)", said)
    if inner is None and said.startswith(("Weights only", "Cannot use")):
        return "is no file of torch.save or safetensors, or is damaged"
    return f"is no file of torch.save or safetensors, or is damaged ({inner.group(1) if inner else _line(error)})"


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
