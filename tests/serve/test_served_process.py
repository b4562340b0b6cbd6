"""The command itself: browsers that leave, and how it ends."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from stoa.cli import main
from stoa.serve.server import address_of, is_loopback, listen

_PATIENCE_SECONDS = 280  # on a machine that does other things as well


@pytest.fixture(scope="module")
def process(indexed):
    command = [sys.executable, "-m", "stoa.cli", "serve", "--index", str(indexed.folder), "--model", str(indexed.model)]
    started = subprocess.Popen(
        [*command, "--port", "0", "--work_seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    yield started
    started.kill()
    started.communicate()


@pytest.fixture(scope="module")
def port(process) -> int:
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and line.endswith(" searches 9 windows of 3 videos; Ctrl-C ends\n"), (
        line
    )
    return int(line.split()[0].rpartition(":")[2])


def asked(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


HALF = {
    "line": b"GET / HT",
    "head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "search": b"GET /?q=something HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "video": b"GET /videos/0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "part": b"GET /videos/2/part?start=0&end=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "upload": b"POST /pictures HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n\x89PNG\r\n\x1a\n"
    + bytes(500),
    "question": b"POST /videos/0/answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 40\r\n\r\n{",
    "chunks": b"POST /pictures HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "no-http": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_browser_that_leaves_harms_nothing(port, sent, how):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as browser:
        if how == "reset":
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        browser.sendall(sent)
        time.sleep(0.05)
    status, content = asked(port, "/")
    assert status == 200 and b"Describe a scene" in content


def test_after_all_of_that_it_works_and_ends_when_told(process, port):
    status, content = asked(port, "/?q=something")
    assert status == 200 and content.count(b"<article") == 6
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=_PATIENCE_SECONDS)
    assert (process.returncode, said) == (0, "ended\n")
    assert "Traceback" not in complained


def test_a_port_in_use_is_one_line(indexed, capsys):
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert main(["serve", "--index", str(indexed.folder), "--port", str(port)]) == 2
    said = f"stoa serve: error: --port {port} of 127.0.0.1 is in use; name another, or 0 for one that is free\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], r"--port is 70000; expected 0 \(any that is free\) to 65535"),
        (["--port", "-1"], "--port is -1"),
        (["--host", "192.0.2.1"], "--host is '192.0.2.1', which is no address of this machine"),
        (["--host", "no such host"], "--host is 'no such host'"),
        (["--host", "x" * 300], "--host is 'xxx"),
        (["--top_k", "0"], "--top_k is 0"),
        (["--work_seconds", "0"], "--work_seconds is 0.0; expected a number above 0"),
    ],
)
def test_mistakes_are_told_before_the_model_is_read(indexed, capsys, options, said):
    assert main(["serve", "--index", str(indexed.folder), "--model", "nowhere", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.replace("\\", "") in line


def test_addresses():
    with listen("127.0.0.1", 0) as here, listen("0.0.0.0", 0) as everywhere:
        assert is_loopback(here) and not is_loopback(everywhere)
        port = everywhere.getsockname()[1]
        assert address_of("0.0.0.0", everywhere) == f"http://127.0.0.1:{port}"
        assert address_of("::1", everywhere) == f"http://[::1]:{port}"
        assert address_of("box.lan", everywhere) == f"http://box.lan:{port}"
