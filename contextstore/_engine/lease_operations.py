"""What a write asks of an engine about leases, and the fence that stands before a write under one.

Rules of this module: as ``operations`` has them, which takes these in. A token is given once, from one counter of the
store. Whether a lease has ended is asked by the engine's clock, and only of who wants to take it over.
"""

from __future__ import annotations

from typing import NamedTuple


class AcquireLease(NamedTuple):
    """Take a lease that nobody has, or whose time is over. Result: Acquired, or Held."""

    name: str
    holder: str
    ttl: int  # microseconds
    abandoned: int | None = None
    """A token that is to be taken over from in any case: the caller has seen it unrenewed for all of its ttl."""


class Acquired(NamedTuple):
    """What became of an ``AcquireLease``."""

    token: int
    expires_at: int  # microseconds since 1970, UTC


class Held(NamedTuple):
    """What became of an ``AcquireLease``, if another has it."""

    holder: str
    token: int
    expires_at: int
    ttl: int  # microseconds
    left: int  # microseconds until it ends, if it is not renewed


class RenewLease(NamedTuple):
    """Have a lease last for its ttl from now on. Refused: LeaseLostError. Result: when it expires, for people."""

    name: str
    token: int
    ttl: int  # microseconds


class ReleaseLease(NamedTuple):
    """Give a lease back: no row of it is left. Result: whether it was still the token's."""

    name: str
    token: int


class ExpectLease(NamedTuple):
    """Have the unit committed only while nobody else has taken the lease, nor was it given back.

    Refused: LeaseLostError. Result: None.
    """

    name: str
    token: int


class LoadLastToken(NamedTuple):
    """Take over how far the tokens of another store have come. Result: None."""

    token: int
