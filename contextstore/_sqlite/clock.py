"""The clock by which globals of a store in SQLite expire: that of the machine that has the file.

Rules of this module: every read and every write of the store asks it, so that all agree whether a global is there.
"""

from __future__ import annotations

import time


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000
