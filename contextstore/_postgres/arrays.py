"""Arrays as PostgreSQL writes them, for the parameters of statements that take many rows.

Rules of this module: pure functions. A statement that takes such a parameter casts it from text. asyncpg asks of each
element of a list, by two abstract classes, whether it is a list itself: a microsecond for each row of two ids. Lists
are good enough where the rows are few, and for values, which have no short text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def integers(numbers: Iterable[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def texts(ids: Sequence[str]) -> str:
    """Of ids, none of which has a NUL."""
    joined = "\0".join(ids).replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return f'{{"{joined}"}}' if ids else "{}"
