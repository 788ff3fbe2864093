"""A clock of the machine that nobody sets, and which start of the machine it counts from.

Rules of this module: the standard library alone. All processes of a machine see the same clock, and it goes on while
the machine sleeps. Two times can be compared if they are of the same start. On Linux that is ``CLOCK_BOOTTIME``
(clock_gettime(2)) with the kernel's ``boot_id`` (random(4)). On macOS it is ``CLOCK_MONOTONIC_RAW``, which by its
clock_gettime(3) goes on during sleep; which start it is can be had by C calls alone there, and is not known.
"""

from __future__ import annotations

import functools
import sys
import time

if sys.platform == "darwin":
    _CLOCK = time.CLOCK_MONOTONIC_RAW
else:
    _CLOCK = time.CLOCK_BOOTTIME


def now() -> int:
    """Microseconds since some moment at, or before, the start of the machine."""
    return time.clock_gettime_ns(_CLOCK) // 1000


@functools.cache
def boot() -> str:
    """Which start of the machine this is; empty: that cannot be had."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # on macOS, and without /proc in some sandboxes
        return ""
