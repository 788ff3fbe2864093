"""For how long a global is there: what a caller may pass as ``ttl``.

Rules of this module: pure functions, of builtin types alone. What cannot be meant is refused as in ``arguments``.
"""

from __future__ import annotations

import datetime
import enum
import math

_LONGEST = datetime.timedelta(days=3653)  # ten years, with the most leap days that these can have
_MICROSECOND = datetime.timedelta(microseconds=1)


class Keep(enum.Enum):
    """What ``update_global`` takes for its ``ttl`` to leave a key's expiry as it is; the default there.

    Its one member is ``KEEP``. It stays the same object when it is copied, or pickled.
    """

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return "KEEP"

    __str__ = __repr__


KEEP = Keep.KEEP
"""As the ``ttl`` of ``update_global``: the key expires when it would have without the update."""


def microseconds_of(ttl: object) -> int | None:
    """How long a key is to be there; None: for good."""
    if ttl is None:
        return None
    if isinstance(ttl, bool | Keep) or not isinstance(ttl, int | float | datetime.timedelta):
        given = repr(ttl) if isinstance(ttl, Keep) else type(ttl).__name__
        raise TypeError(f"ttl must be a number of seconds, a datetime.timedelta or None, not {given}")
    seconds = ttl.total_seconds() if isinstance(ttl, datetime.timedelta) else ttl
    if not 0 < seconds <= _LONGEST.total_seconds():  # nor is it NaN
        raise ValueError(f"ttl must be more than 0 and at most ten years ({_LONGEST.days} days), not {ttl!r}")
    return ttl // _MICROSECOND if isinstance(ttl, datetime.timedelta) else math.ceil(seconds * 1_000_000)
