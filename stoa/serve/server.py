"""The application on a socket, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from stoa.serve.limits import Limits

_END_SECONDS = 3


class _Server(uvicorn.Server):
    """Whose signals are handled here: uvicorn ends the process by the one it got, with no word of ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: the port is taken, or the host is none of this machine.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"--port is {port}; expected 0 (any that is free) to 65535")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise ValueError(f"--port {port} of {host} is in use; name another, or 0 for one that is free") from None
        if number == errno.EACCES:
            raise ValueError(f"--port {port} is not for every user; name one from 1024 on") from None
        raise ValueError(f"--host is {host!r}, which is no address of this machine; leave it out") from None
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """To open in a browser on this machine."""
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether this machine alone can reach it."""
    address = str(listener.getsockname()[0])
    return address == "::1" or address.startswith("127.")


def run_until_told(app: ASGIApp, listener: socket.socket, limits: Limits) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress have some seconds to end."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    asyncio.run(_serve(_Server(config), listener))


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.force_exit = server.should_exit  # asked twice: at once
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    await server.serve(sockets=[listener])
