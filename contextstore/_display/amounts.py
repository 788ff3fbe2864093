"""Numbers of things, sizes, ages and durations in words.

Rules of this module: pure functions; who knows what time it is says so.
"""

from __future__ import annotations

import datetime
import itertools

_UNITS = ((365 * 86400, "y"), (30 * 86400, "mo"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_FINE_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def counted(number: int, what: str) -> str:
    """A number of things, by the name of one: ``1 run``, ``1,200 runs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size_words(count: int) -> str:
    """A number of bytes in three or four digits: ``312 B``, ``4.7 KiB``, ``1.0 MiB``."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        size /= 1024
        if size < 999.95 or unit == "PiB":
            break
    return f"{size:.1f} {unit}"


def duration_words(seconds: float) -> str:
    """A time in its two largest figures: ``12 ms``, ``3.4 s``, ``5 min``, ``2 d``."""
    if seconds < 0:
        return "-" + duration_words(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def span_words(seconds: float) -> str:
    """A time to about four figures, to tell times apart that are close: ``340 ms``, ``12.34 s``, ``3 min 04 s``."""
    if seconds < 0:
        return "-" + span_words(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    for (length, unit), (part, part_unit) in itertools.pairwise(_FINE_UNITS):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part:02} {part_unit}"
    raise AssertionError("a minute is in the table")


def age_words(then: datetime.datetime | None, now: datetime.datetime) -> str:
    """How long ago: ``3 min ago``; ``in 2 s`` where another machine's clock is ahead, ``?`` where it is not known."""
    if then is None:
        return "?"
    seconds = (now - then).total_seconds()
    if -1 < seconds < 1:
        return "now"
    return f"in {_whole(-seconds)}" if seconds < 0 else f"{_whole(seconds)} ago"


def _whole(seconds: float) -> str:
    return duration_words(float(int(seconds)) if seconds >= 9.95 else round(seconds)).replace(".0 s", " s")


def iso(then: datetime.datetime | None) -> str:
    """In full, in UTC, to the millisecond; ``?`` where it is not known."""
    return "?" if then is None else then.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
