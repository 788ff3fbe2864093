"""Which id an append gets: the next number of its prefix whose id is not taken.

Rules of this module: pure, the same for every engine. An engine looks up which ids are taken, from the one that is
asked for on; how many it looks up at once is its own affair.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from .._values.keys import MAX_KEY_BYTES
from ..errors import InvalidKeyError

DIGITS = 12
"""Of a number at least, so that ids sort by it. A number of more digits has them all, and sorts before some others."""
LAST_NUMBER = 2**63 - 1
PAGE_ROWS = 200
"""How many taken ids are looked up at a time."""


def appended_id(prefix: str, number: int) -> str:
    """Raises InvalidKeyError if the prefix has no such id."""
    node_id = f"{prefix}{number:0{DIGITS}}"
    if number > LAST_NUMBER or len(node_id.encode()) > MAX_KEY_BYTES:
        raise InvalidKeyError("prefix", f"{prefix!r} has no id for number {number}: every shorter one was given")
    return node_id


def end_of_ids(prefix: str) -> str:
    """What sorts above all ids that the prefix can give, and below whatever has no digit behind it."""
    return prefix + ":"


class NextIds:
    """The ids that a prefix gives next, in their order. Ask ``unseen`` before each.

    Args:
        last: the number given last.
        taken_here: ids that are about to be taken by what is written before these.
    """

    def __init__(self, prefix: str, last: int, taken_here: Container[str] = ()) -> None:
        self.prefix = prefix
        self.last = last
        self._taken: set[str] = set()
        self._taken_here = taken_here
        self._seen_to = ("", 0)
        """The last id up to which it is known which ids of so many characters are taken."""

    def unseen(self) -> str | None:
        """The id from which on the engine has to look which are taken; None: it is known of the next one."""
        while self._is_seen(candidate := appended_id(self.prefix, self.last + 1)):
            if candidate not in self._taken and candidate not in self._taken_here:
                return None
            self.last += 1
        return candidate

    def _is_seen(self, node_id: str) -> bool:
        last, length = self._seen_to  # ids of more digits sort elsewhere, and are looked up by themselves
        return len(node_id) == length and node_id <= last

    def see(self, first: str, taken: Sequence[str]) -> None:
        """Of the ids from the first on, below ``end_of_ids``, these are taken: all, or the first ``PAGE_ROWS``."""
        self._taken = set(taken)
        self._seen_to = (taken[-1] if len(taken) >= PAGE_ROWS else end_of_ids(self.prefix), len(first))

    def give(self) -> str:
        """The next id."""
        self.last += 1
        return appended_id(self.prefix, self.last)
