"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of what a browser sends, and of the work that follows.

    Attributes:
        upload_bytes: of a picture or a clip to search by.
        upload_seconds: in which it has to be here.
        form_bytes: of any other request with a body.
        text_characters: of a sentence or a question.
        work_seconds: after which a request is given up, waiting included.
        waiting: requests that may wait for the model or be at it; the next one is told to come later.
        connections: of browsers at a time.
        parts, parts_bytes: windows that are kept in a form that browsers play.
    """

    upload_bytes: int = 20 << 20
    upload_seconds: float = 30.0
    form_bytes: int = 16 << 10
    text_characters: int = 300
    work_seconds: float = 60.0
    waiting: int = 8
    connections: int = 64
    parts: int = 64
    parts_bytes: int = 256 << 20
