"""What a row of JSON or CSV may hold for a name, a text or a time. ``null`` is an absent value everywhere."""

from __future__ import annotations

import math
import re
from typing import Any

from stoa.text_files import nfc

# What programs write for a value that they lack.
_PLACEHOLDERS = {"nan", "none", "null", "<na>"}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def name_of(value: Any, key: str, where: str) -> str:
    """An id, or a name like it: a text, or a whole number. 12, 12.0 and "12.0", as pandas writes ids, are "12".

    Raises:
        ValueError: it is something else, or empty; the message begins with ``where``.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        hint = ", as pandas writes a missing value" if is_nan(value) else ""
        raise ValueError(f"{where}: field {key!r} is {show(value)}{hint}; expected a text or a whole number")
    text = nfc(str(value)).strip()
    if not _is_encodable(text):
        raise ValueError(f"{where}: field {key!r} is {show(value)}, which holds half a character; write it whole")
    if not text:
        raise ValueError(f"{where}: field {key!r} is empty; expected a text or a whole number")
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def seconds_of(value: Any, key: str, where: str) -> float | None:
    """A time: seconds, as a number or a text, or a clock time, ``HH:MM:SS.sss`` or ``MM:SS``; None where it is absent.

    Raises:
        ValueError: it is no finite number that is 0 or more; the message begins with ``where``.
    """
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        text = value.strip()
        clock = _CLOCK.fullmatch(text)
        if clock is not None:
            hours, minutes, rest = int(clock[1] or 0), int(clock[2]), float(clock[3].replace(",", "."))
            if rest < 60 and (minutes < 60 or clock[1] is None):
                seconds = 3600 * hours + 60 * minutes + rest
        elif _NUMBER.fullmatch(text):
            seconds = float(text)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63:
        seconds = float(value)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(
            f"{where}: field {key!r} is {show(value)}; expected a number of seconds >= 0, such as 62.5, or a clock "
            "time, 00:01:02.5" + (", or null where there is none" if is_nan(value) else "")
        )
    return seconds


def refuse_placeholder(value: Any, key: str, where: str) -> None:
    """
    Raises:
        ValueError: the value is what a program wrote for one that it lacked, such as "nan".
    """
    if is_nan(value) or (isinstance(value, str) and value.strip().lower() in _PLACEHOLDERS):
        raise ValueError(
            f"{where}: field {key!r} is {show(value)}, as programs write a missing value; leave it empty, in JSON null"
        )


def _is_encodable(text: str) -> bool:
    """JSON can hold half a pair of surrogates, and nothing else can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A line for a terminal: names and paths may hold anything, and what does not print is written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def show(value: Any) -> str:
    """A value in a message: a number as JSON writes it, other things as Python does, cut."""
    if is_nan(value):
        return "NaN"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
