"""Bytes as rows of numbers and characters.

Rules of this module: pure functions; no more of the bytes is looked at than is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

WIDTH = 16


class HexRow(NamedTuple):
    """Sixteen bytes: where they begin, in hexadecimal, and as characters of ASCII."""

    offset: int
    numbers: str
    text: str

    def __str__(self) -> str:
        return f"{self.offset:08x}  {self.numbers:<{WIDTH * 3 - 1}}  {self.text}"


def hex_rows(data: bytes, start: int = 0, rows: int = 64) -> Iterator[HexRow]:
    """At most so many rows, from a place on."""
    for at in range(start, min(len(data), start + rows * WIDTH), WIDTH):
        row = data[at : at + WIDTH]
        yield HexRow(at, row.hex(" "), "".join(chr(one) if 32 <= one < 127 else "·" for one in row))
