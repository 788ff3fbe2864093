"""The note by which an exception tells in which step it was raised.

Rules of this module: an exception is never replaced, nor kept from being raised, by what is noted on it.
"""

from __future__ import annotations

import contextlib
import threading

from .._process.fork import at_fork
from .._values.keys import Id, node_key

# Calls that have joined a computation get the very exception of it, each in a thread of its own. Reentrant: what an
# exception's class does as it takes a note may fail in a step.
_noting = threading.RLock()


def _renew_lock_in_child() -> None:
    global _noting
    _noting = threading.RLock()


at_fork(in_child=_renew_lock_in_child)


def note_step(error: Exception, node_id: Id, flow_run_id: str) -> None:
    """Have the exception say in which step it was raised: once, however many calls it ends."""
    # A class may be frozen, or have __notes__ of its own making: its exceptions are raised as they are.
    with contextlib.suppress(Exception), _noting:
        note = f"in step {node_key(node_id)!r} of flow run {flow_run_id!r}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
