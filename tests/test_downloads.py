"""What the network gives is whole or not there, and a network that is not there is told in seconds."""

import hashlib
import socket
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from stoa import downloads
from stoa.downloads import answer_within, from_hub, from_url

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
INSTEAD = "name a file"


class Files(BaseHTTPRequestHandler):
    """Gives ``served`` for every path that ends with ``known``, as much of it as ``sent``."""

    known, sent = "", len(CONTENT)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        found = self.path.split("?")[0].endswith(self.known)
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{DIGEST}"')
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(CONTENT) if found else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(CONTENT[: self.sent])


@pytest.fixture
def serve() -> Iterator:
    servers = []

    def start(known: str, sent: int = len(CONTENT)) -> str:
        handler = type("Handler", (Files,), {"known": known, "sent": sent})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(downloads, "_ANSWER_SECONDS", 2.0)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    yield tmp_path
    close_session()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def use_hub(address: str, monkeypatch) -> None:
    """As HF_ENDPOINT does, which is read at the import of huggingface_hub."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template[template.index("/{repo_id}") :])


def test_the_hub_is_asked_once(serve, monkeypatch):
    """The best name that is there counts; a second call needs no network."""
    use_hub(serve("second.bin"), monkeypatch)
    path = from_hub("owner/name", ["first.safetensors", "second.bin"], instead=INSTEAD)
    assert path.name == "second.bin" and path.read_bytes() == CONTENT
    use_hub("http://127.0.0.1:9", monkeypatch)
    assert from_hub("owner/name", ["first.safetensors", "second.bin"], instead=INSTEAD) == path


def test_files_that_the_hub_does_not_have(serve, monkeypatch):
    use_hub(serve("other"), monkeypatch)
    with pytest.raises(ValueError, match="owner/name/resolve/main/b do not exist; name a file$"):
        from_hub("owner/name", ["a", "b"], instead=INSTEAD)


def test_a_url_is_asked_once(serve):
    url = f"{serve('.pth')}/models/net-{DIGEST}.pth"
    path = from_url(url, instead=INSTEAD)
    assert path.read_bytes() == CONTENT
    assert from_url(url.replace("127.0.0.1", "absent.invalid"), instead=INSTEAD) == path


@pytest.mark.parametrize("sent", [0, 100, len(CONTENT) - 1])
def test_a_download_that_is_cut_short_leaves_nothing(serve, sent, caches):
    url = f"{serve('.pth', sent)}/net-{DIGEST}.pth"
    with pytest.raises(ValueError, match=f"net-{DIGEST}.pth is not in .* and cannot be fetched .*; name a file$"):
        from_url(url, instead=INSTEAD)
    assert not files(caches)


def from_(kind: str, address: str, monkeypatch) -> Path:
    if kind == "url":
        return from_url(f"{address}/net-{DIGEST}.pth", instead=INSTEAD)
    use_hub(address, monkeypatch)
    return from_hub("owner/name", ["a", "b"], instead=INSTEAD)


@pytest.mark.parametrize("kind", ["hub", "url"])
@pytest.mark.parametrize("network", ["refused", "silent", "proxy refused", "proxy silent", "no such host"])
def test_no_network_is_told_in_seconds(kind, network, silent, monkeypatch, caches):
    started = time.monotonic()
    address = {"refused": "http://127.0.0.1:9", "silent": silent}.get(network, "http://host.invalid")
    if network.startswith("proxy"):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9" if "refused" in network else silent)
    with pytest.raises(ValueError) as caught:
        from_(kind, address, monkeypatch)
    assert time.monotonic() - started < 10
    said = str(caught.value)
    assert said.startswith(address) and said.endswith("; name a file") and "\n" not in said
    assert f" is not in {caches}/" in said and not files(caches)


def test_offline_by_wish(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="offline mode is enabled"):
        from_hub("owner/name", ["a"], instead=INSTEAD)


@pytest.mark.parametrize(("kind", "variable"), [("hub", "HF_HOME"), ("url", "TORCH_HOME")])
def test_a_cache_that_cannot_be_written(kind, variable, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(
        ValueError, match=rf"cache folder \S+/file/\S+ cannot be written \(.*\); set {variable} to a folder"
    ):
        from_(kind, "http://127.0.0.1:9", monkeypatch)


def test_what_answers_in_time_is_passed_on():
    assert answer_within(5, lambda: 3) == 3
    with pytest.raises(KeyError, match="own"):
        answer_within(5, partial({}.__getitem__, "own"))
    with pytest.raises(TimeoutError, match="no answer within 0.1 s"):
        answer_within(0.1, lambda: time.sleep(1))
