"""Errors that several callers share, and bugs.

Rules of this module: an error that is handed to a caller is the caller's own, since raising it changes its traceback.
"""

from __future__ import annotations

import contextlib
import copy
import logging

from ..errors import ContextStoreError, StorageError

logger = logging.getLogger("contextstore")


def report_bug(message: str, *arguments: object, error: BaseException) -> None:
    """Log what should not have happened. A logging handler that raises must not keep others from being told."""
    with contextlib.suppress(Exception):
        logger.error(message, *arguments, exc_info=error)


def error_for_caller(error: Exception, location: str) -> ContextStoreError:
    """What one of several callers is told of an error: a copy of its own, which collects no other's traceback."""
    if isinstance(error, ContextStoreError):
        own = copy.copy(error)
        own.__cause__ = error.__cause__
        if notes := getattr(error, "__notes__", None):
            own.__notes__ = list(notes)  # or a note to one of the copies would be a note to all
        return own
    report_bug("%s failed in an unforeseen way", location, error=error)
    unforeseen = StorageError(f"{location} failed in an unforeseen way ({error!r})")
    unforeseen.__cause__ = error
    return unforeseen
