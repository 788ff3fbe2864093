"""What people type to say which runs they mean, on a command line or into a page: attributes, times, spans of time.

Rules of this module: pure functions. What cannot be meant is an ``Unclear``, whose sentence goes on behind the name of
the option or field that it was typed into.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from typing import Any


class Unclear(ValueError):  # noqa: N818 - it is an answer more than an error
    """What was typed cannot be meant: the sentence says what would be."""


# -- attributes -------------------------------------------------------------------------------------------------------


def attributes_of(words: Iterable[str] | None) -> dict[str, Any]:
    """Attributes as they are typed: ``flow=nightly``, ``tries=3``, ``day="1"``."""
    found: dict[str, Any] = {}
    for word in words or ():
        name, is_one, text = word.partition("=")
        if not is_one:
            raise Unclear(f"{word!r} is no attribute: it is NAME=VALUE")
        if name in found:
            raise Unclear(f"{name!r} is there twice")
        found[name] = strict_json(text) if is_json(text) else text
    return found


def attribute_word(name: str, value: str | float | bool) -> str | None:
    """An attribute as it is typed; None where that cannot be done, since ``=`` ends a name."""
    if "=" in name:
        return None
    is_plain = isinstance(value, str) and not is_json(value)
    return f"{name}={value if is_plain else json.dumps(value, ensure_ascii=False)}"


def is_json(text: str) -> bool:
    """Whether a text is taken for JSON, and not for itself."""
    try:
        strict_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def strict_json(text: str) -> Any:
    """The value of a JSON text; what a lenient reader would take for something else is a ``ValueError``."""
    return _DECODER.decode(text)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice, and one of the two would be lost")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_without_repeats)


# -- times ------------------------------------------------------------------------------------------------------------

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])", re.ASCII)


def span_of(text: str, name: str = "span of time") -> datetime.timedelta:
    """The span of time that ``30d``, ``1.5h`` or ``1d12h`` means."""
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    if not parts or "".join(map("".join, parts)) != compact:
        understood = "a number with w, d, h, m or s, such as 30d, 12h, 90m, 1w or 1d12h"
        raise Unclear(f"{text!r} is no {name}: {understood}")
    try:
        spans = [datetime.timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts]
        return sum(spans, datetime.timedelta())
    except OverflowError as error:
        raise Unclear(f"{text!r} is longer than there is time") from error


def time_of(text: str, now: datetime.datetime) -> datetime.datetime:
    """A time as it is typed: ISO 8601, in UTC where it says nothing else, or how long ago."""
    try:
        then = datetime.datetime.fromisoformat(text)
    except ValueError:
        try:
            return now - span_of(text)
        except (Unclear, OverflowError):
            understood = "ISO 8601, such as 2026-03-01 or 2026-03-01T12:30+01:00, or how long ago, such as 7d or 12h"
            raise Unclear(f"{text!r} is no time: {understood}") from None
    return then if then.tzinfo is not None else then.replace(tzinfo=datetime.UTC)
