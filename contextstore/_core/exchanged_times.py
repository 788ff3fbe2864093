"""Times in records that come from elsewhere.

Rules of this module: one function, on what anybody may have made.
"""

from __future__ import annotations

import datetime

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def microseconds(name: str, when: datetime.datetime) -> int:
    """As times are stored: since 1970. Raises ValueError by the name of the field."""
    if getattr(when, "tzinfo", None) is None:
        raise ValueError(f"{name} must be a datetime that is aware of its zone, not {when!r}")
    since = (when - _EPOCH) // datetime.timedelta(microseconds=1)
    if since < 0:
        raise ValueError(f"{name} must not be before 1970, and is {when.isoformat()}")
    return since
