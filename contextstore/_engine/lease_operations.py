"""What a write asks of an engine about leases, and the fence that stands before a write under one.

Rules of this module: as ``operations`` has them, which takes these in. A token is given once, from one counter of the
store. Whether a lease has ended is asked by the engine's clock, and only of who wants to take it over. No two
acquisitions have the same holder: by it one is known again whose answer was lost.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class AcquireLease(NamedTuple):
    """Take a lease that nobody has, or whose time is over. Alone in its unit. Result: Acquired, or Held."""

    name: str
    holder: str
    ttl: int  # microseconds
    abandoned: tuple[int, int] | None = None
    """A token, and when it expires, to be taken over from in any case: the caller has seen it so for all of its ttl."""


class Acquired(NamedTuple):
    """What became of an ``AcquireLease``."""

    token: int
    expires_at: int  # microseconds since 1970, UTC


class Held(NamedTuple):
    """A lease that another has, or had: it may be taken over once nothing is left."""

    holder: str
    token: int
    expires_at: int
    ttl: int  # microseconds
    left: int  # microseconds until it ends, if it is not renewed


class RenewLease(NamedTuple):
    """Have a lease last for its ttl from now on. Alone in its unit. Refused: LeaseLostError.

    Result: when it expires, for people.
    """

    name: str
    token: int
    ttl: int  # microseconds


class ReleaseLease(NamedTuple):
    """Give a lease back: no row of it is left. Alone in its unit. Result: whether it was still the holder's."""

    name: str
    holder: str


class ExpectLease(NamedTuple):
    """Have the unit committed only while nobody else has taken the lease, nor was it given back. First in its unit.

    Refused: LeaseLostError. Result: None.
    """

    name: str
    token: int


class LoadLastToken(NamedTuple):
    """Take over how far the tokens of another store have come. Result: None."""

    token: int


LeaseOperation: TypeAlias = AcquireLease | RenewLease | ReleaseLease
"""What is a commit of its own."""
