"""Pages of outputs: which outputs of a run a call asks for, and those that an engine has found for it.

Rules of this module: ids and bytes, no SQL, no Python value. What is damaged is left out of a page and ends it, so that
whoever goes from page to page is told of it where it would have come.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from .._values.codec import BYTES, JSON, attempt_suffix
from ..errors import CorruptStoreError
from .records import END_OF_TIME, after_prefix
from .rules import read_output


class Part(NamedTuple):
    """Which of a run's outputs are asked for, and in which order: by node id, or the other way round."""

    prefix: str = ""
    after: str = ""
    """Beyond this id, in the order asked for; empty: from the first one on."""
    reverse: bool = False

    def bounds(self, least: str) -> tuple[str, str | None]:
        """The ids from the one up to, but without, the other; None: to the last there is.

        ``least`` is the lowest character that the engine can store. An id with this behind it is the next one after the
        id, whatever others there are: so an engine searches its index between two bounds, in either order.
        """
        low, high = self.prefix, after_prefix(self.prefix)
        if self.after and self.reverse:
            high = self.after if high is None else min(high, self.after)
        elif self.after:
            low = max(low, self.after + least)
        return low, high


OutputRow: TypeAlias = tuple[str, int, bytes, int, int, int, int, str | None, str | None]
"""An output as its row has it: node_id, codec, value, checksum, written_at, size, serial of the run, tag, attempt.

No record: to make one takes as long as to read the row.
"""


class OutputPage(NamedTuple):
    """Outputs that follow each other, each of which is what was written."""

    rows: list[OutputRow]
    damaged: CorruptStoreError | None
    """What is wrong with the one that follows them. It names it, so that one can go on behind it."""
    is_last: bool
    """Whether none follows: else the next page may have some."""


class PageTaker:
    """What makes a page of rows: at most so many, and about so many bytes, but one at least."""

    def __init__(self, location: str, flow_run_id: str, limit: int, max_bytes: int) -> None:
        self._location = location
        self._flow_run_id = flow_run_id
        self._limit = limit
        self._left = max_bytes
        self.rows: list[OutputRow] = []
        self.damaged: CorruptStoreError | None = None

    def take(self, rows: Iterable[Any]) -> None:
        """Take rows until the page is full, or one is damaged. ``rows`` are so many at most.

        For each this asks what ``read_output`` does, in half of the time: a listing costs little else.
        """
        add, left = self.rows.append, self._left
        owner = self._flow_run_id.encode() + b"\0"
        for row in rows:
            node_id, codec, data, checksum, written_at, size, _, tag, attempt = row
            if not (
                tag is None
                and codec in _SUFFIX
                and type(data) is bytes
                and len(data) == size
                and type(node_id) is str
                and (attempt is None or type(attempt) is str)
                and crc32(b"%b%b%b%b%b" % (owner, node_id.encode(), _SUFFIX[codec], data, _ending(attempt))) == checksum
                and type(written_at) is int
                and 0 <= written_at < END_OF_TIME
            ):
                error = read_output(self._location, self._flow_run_id, row).error
                if error is not None:
                    assert isinstance(error, CorruptStoreError)
                    self.damaged = error
                    break
            add(row)
            left -= size
            if left <= 0:
                break
        self._left = left

    def page(self) -> OutputPage:
        is_last = self.damaged is None and len(self.rows) < self._limit and self._left > 0
        return OutputPage(self.rows, self.damaged, is_last)


def _ending(attempt: str | None) -> bytes:
    return b"" if attempt is None else attempt_suffix(attempt)


_SUFFIX = {codec: f"\0{codec}\0".encode() for codec in (JSON, BYTES)}
"""What follows the node id in what ``checksum`` sums up."""
