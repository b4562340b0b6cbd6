"""Files from the network: kept whole in a cache, or refused within seconds."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

T = TypeVar("T")

_ANSWER_SECONDS = 20.0
"""To look a host up and hear from it. Time-outs of libraries are for each of its addresses, and none is for names."""
_STALL_SECONDS = 60.0


def from_hub(repository: str, names: Sequence[str], *, instead: str) -> Path:
    """The first of some files that a repository of Hugging Face has, from its cache where it is there.

    Args:
        repository: ``owner/name``.
        names: of the files, the best first.
        instead: what to do without a network, for messages.

    Raises:
        ValueError: it cannot be had; the message names the URL, the cache and ``instead``.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    cache = Path(constants.HF_HUB_CACHE)
    for name in names:
        if isinstance(found := hub.try_to_load_from_cache(repository, name, cache_dir=cache), str):
            return Path(found)
    _require_writable(cache, "HF_HOME", instead)
    urls = [hub.hf_hub_url(repository, name) for name in names]
    for name, url in zip(names, urls, strict=True):
        try:
            # One try: the download itself would repeat this one for minutes before it said anything.
            answer_within(_ANSWER_SECONDS, partial(hub.get_hf_file_metadata, url, timeout=_ANSWER_SECONDS / 2))
            return Path(hub.hf_hub_download(repository, name, cache_dir=cache))
        except EntryNotFoundError:
            continue
        except Exception as error:  # of the hub, its HTTP client and the system
            raise _not_fetched(url, cache, error, instead) from None
    raise ValueError(f"{' and '.join(urls)} do not exist; {instead}")


def from_url(url: str, *, instead: str) -> Path:
    """A file whose name ends with the beginning of its SHA-256, from torch's cache where it is there.

    Raises:
        ValueError: it cannot be had; the message names the URL, the cache and ``instead``.
    """
    import torch.hub

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    path = cache / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    _require_writable(cache, "TORCH_HOME", instead)
    head = Request(url, method="HEAD", headers={"User-Agent": "torch.hub"})
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        answer_within(_ANSWER_SECONDS, lambda: urlopen(head, timeout=_ANSWER_SECONDS / 2).close())
        with _stalls_end():
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest.group(1) if digest else None)
    except Exception as error:  # of urllib, the system, and a wrong sum
        raise _not_fetched(url, cache, error, instead) from None
    return path


def answer_within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises.

    Raises:
        TimeoutError: it does neither in time. It then goes on in a thread that nothing waits for.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # raised again by the caller
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


@contextmanager
def _stalls_end() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _require_writable(cache: Path, variable: str, instead: str) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise ValueError(
            f"the cache folder {cache} cannot be written ({error.strerror or error}); set {variable} to a folder that "
            f"can be, or {instead}"
        ) from None


def _not_fetched(url: str, cache: Path, error: Exception, instead: str) -> ValueError:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    return ValueError(f"{url} is not in {cache} and cannot be fetched ({reason}); {instead}")
