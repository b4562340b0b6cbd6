"""Which requests reach the page at all, and what every response carries."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stoa.serve.refusing import Refused

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_HEADERS = {
    # Nothing is asked of another host. A picture that the page has made itself is a blob.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_METHODS = ("GET", "HEAD", "POST")


class Guarded:
    """An application that is asked by its own page alone.

    A name that is not ours in the Host header is that of a page elsewhere whose name was made to lead here; an origin
    that is not ours is a page elsewhere, or on another port, that sends forms or shows our videos.

    Args:
        app: to guard.
        host: that it listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {*_LOOPBACK, host.lower()}
        # Then any address of this machine is ours. An address, unlike a name, cannot be made to lead elsewhere.
        self._any_address = host in _EVERYWHERE
        if self._any_address:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":  # no sockets that stay open are served
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self._require_ours(scope)
        except Refused as refused:
            response = PlainTextResponse(refused.sentence, refused.status)
            await response(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _require_ours(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise Refused(403, "This page is not served under that name; open the address that stoa serve printed.")
        if scope["method"] not in _METHODS:
            raise Refused(405, "This page takes GET and POST alone.")
        asked_by = headers.get("sec-fetch-site", "none")
        origins = headers.getlist("origin")
        foreign = asked_by not in ("same-origin", "none") or any(origin != f"http://{hosts[0]}" for origin in origins)
        if foreign and not (scope["method"] == "GET" and _is_link(scope["path"], headers)):
            raise Refused(403, "Another site has asked for this; open the address that stoa serve printed.")

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = "" if found is None else (found[1] or found[2]).lower()
        return name in self._names or (self._any_address and _is_address(name))


def _is_link(path: str, headers: Headers) -> bool:
    """To the page, in a page elsewhere, that somebody has followed."""
    wanted: Iterable[tuple[str, str]] = (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"))
    return path == "/" and "origin" not in headers and all(headers.get(name) == value for name, value in wanted)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
