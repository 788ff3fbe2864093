"""The package's logger, and the facts that a record carries beside its sentence.

Rules of this module: quiet unless the program asks: a handler that does nothing keeps ``logging`` from printing to
stderr. A fact is an id, a count, seconds or the name of an error, never a value and never a password. They are in one
attribute of the record, ``contextstore``, which no attribute of ``logging``'s own has the name of.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

logger = logging.getLogger("contextstore")
logger.addHandler(logging.NullHandler())

SLOW_COMMIT = 1.0
"""Seconds from which on a commit is logged as slow."""


def log(
    level: int,
    event: str,
    location: str,
    message: str,
    *arguments: object,
    error: BaseException | None = None,
    **facts: Any,
) -> None:
    """Log that something has happened to the store at a location, which the message names first.

    Args:
        error: one whose traceback is to be shown.
    """
    if not logger.isEnabledFor(level):
        return
    extra = {"contextstore": {"event": event, "location": location, **facts}}
    with contextlib.suppress(Exception):  # of a handler's: what has happened has happened, and the call goes on
        logger.log(level, f"%s: {message}", location, *arguments, exc_info=error, extra=extra, stacklevel=2)
