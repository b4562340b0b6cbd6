"""Tensors of a TorchScript archive, read without running what it brings along.

``torch.jit.load`` compiles the archive's code, and ``torch.load(weights_only=True)`` refuses archives. Their pickle
names modules, containers and tensors; a reader that knows no other name needs no trust.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_MAX_PICKLE_BYTES = 1 << 26  # that of ViT-bigG is under 1 MB


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """As torch decides it: other archives of torch hold no constants."""
    return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor by its dotted name: parameters, buffers, and what else modules hold.

    Raises:
        ValueError: the archive names anything but modules, containers and tensors, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            reader = _Reader(archive)
            return dict(reader.tensors(reader.load()))
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]  # a pickle may break in any way
        raise ValueError(f"its pickle cannot be read: {reason}") from None


def source(path: Path) -> str:
    """The code of an archive, as text."""
    with zipfile.ZipFile(path) as archive:
        files = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        return "\n".join(_read(archive, name).decode("utf-8", "replace") for name in files)


class _Reader(pickle.Unpickler):
    """Methods stand for the functions that a pickle may call: nothing can be set on a bound method, so no archive
    leaves anything behind; for the same reason the stand-in for modules is a class of this reader alone."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        (self._folder,) = {name.split("/")[0] for name in archive.namelist()}
        super().__init__(BytesIO(_read(archive, f"{self._folder}/data.pkl")))
        self._archive = archive
        self._module: type = type("Module", (), {})
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return self._module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name in _LISTS:
            return self._as_it_is
        raise pickle.UnpicklingError(f"its pickle names {module}.{name}, which is no module, container or tensor")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, dtype, key, _, num_elements = pid
        if kind != "storage" or dtype not in _DTYPES.values():
            raise pickle.UnpicklingError(f"its pickle names {kind!r}, which is no storage of a tensor")
        if key not in self._storages:
            name = f"{self._folder}/data/{key}"
            info = self._archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != num_elements * dtype.itemsize:
                raise pickle.UnpicklingError(f"{name} has another size than the tensor it belongs to")
            data = bytearray(self._archive.read(info))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]

    def _tensor(self, storage: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        tensor = storage.as_strided(size, stride, offset)
        if tensor.numel() > storage.numel():
            raise pickle.UnpicklingError("a tensor of it is larger than its data")
        return tensor

    def _as_it_is(self, values: Any, *_: Any) -> Any:
        return values

    def tensors(self, top: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Of a module and those in it, each of which is visited once."""
        rest, seen = [("", top)], {id(top)}
        while rest:
            prefix, module = rest.pop()
            for name, value in vars(module).items():
                if isinstance(value, torch.Tensor):
                    yield f"{prefix}{name}", value
                elif isinstance(value, self._module) and id(value) not in seen:
                    seen.add(id(value))
                    rest.append((f"{prefix}{name}.", value))


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_PICKLE_BYTES:
        raise pickle.UnpicklingError(f"{name} has {archive.getinfo(name).file_size:,} bytes, more than any model needs")
    return archive.read(name)
