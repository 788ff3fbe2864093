"""The wait-for graph: a wait that could never end is refused as it begins.

Rules of this module: no I/O, no values, nothing of the store. What others may wait for is a ``Computation``: a
computation of ``get_or_put``, a turn in ``update_global``. Which of them the caller is a part of stands in a context
variable, and so goes along into the tasks that it starts. The graph is one for all loops and threads of the process.

This is incremental cycle detection by a topological order (Pearce & Kelly). There is no search when nothing is wrong:
each computation has a rank above all that it waits for. A wait that fits the ranks cannot close a circle, and each wait
for a computation that was begun after the waiting one fits. One that does not fit raises the waiting computation, and
then those that wait for it, as far as is needed; it meets the one that is waited for among them if, and only if, there
is a circle. (To walk all that is waited for, at each wait, took a minute for a graph of 28 times 28 nodes.)
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
from collections.abc import Iterator
from functools import partial
from weakref import ref

from .._process.fork import at_fork
from .waiters import Loop

_numbers = itertools.count()

_on_loops: dict[int, ref[Computation]] = {}
"""By their ids, those that run on event loops. Written in single steps."""


class Computation:
    """Something under way that others may wait for.

    Args:
        loop: where it runs. None: in a thread of its caller's.
    """

    def __init__(self, loop: Loop | None = None) -> None:
        self.loop = loop
        if loop is not None:
            _on_loops[id(self)] = ref(self, partial(_on_loops.pop, id(self)))
        self.waiters: dict[Computation, int] = {}
        """Computations that wait for this one now, with how many of their callers."""
        self.rank = -next(_numbers)
        self.is_done = False


_own: contextvars.ContextVar[Computation | None] = contextvars.ContextVar("contextstore computation", default=None)
"""The innermost computation that the caller is a part of. Tasks that it starts have it, too, and may outlive it."""

# Reentrant: a coroutine that is collected while this is held ends its waiting in the same thread.
_lock = threading.RLock()


def _renew_lock_in_child() -> None:
    global _lock
    _lock = threading.RLock()


at_fork(in_child=_renew_lock_in_child)


@contextlib.contextmanager
def running(computation: Computation) -> Iterator[None]:
    """All that is called in here is a part of the computation."""
    before, token = _own.get(), None
    try:
        token = _own.set(computation)
        yield
    finally:
        # One call, since a KeyboardInterrupt may come after each; without a token it came after set().
        if token is None:
            _own.set(before)
        else:
            try:
                _own.reset(token)
            except ValueError:  # a coroutine that is collected ends in the context that the collector came to
                pass


@contextlib.contextmanager
def waiting_for(computation: Computation, key: object) -> Iterator[None]:
    """Around waiting for it. Raises RuntimeError if it waits, however indirectly, for what the caller is part of."""
    own = _own.get()
    if own is None or own.is_done:
        yield
        return
    waiters = computation.waiters
    with _lock:  # nothing is called in here: see single_flight
        fits = own.rank > computation.rank
        if fits:
            waiters[own] = waiters[own] + 1 if own in waiters else 1
    if not fits:
        with _lock:  # here something is
            _rank_above(own, computation, key)
            waiters[own] = waiters[own] + 1 if own in waiters else 1
    try:
        yield
    finally:
        with _lock:
            if own in waiters:
                if waiters[own] > 1:
                    waiters[own] -= 1
                else:
                    del waiters[own]


@contextlib.contextmanager
def blocking(loop: Loop, computation: Computation, key: object) -> Iterator[None]:
    """Around a wait that blocks the thread of this loop, and so all that runs on it.

    Raises RuntimeError if that is waited for, however indirectly.
    """
    blocked = Computation()
    for one in [known() for known in list(_on_loops.values())]:
        if one is not None and one.loop is loop and not one.is_done:
            blocked.waiters[one] = 1  # each of them is older, and so ranks above
    try:
        with _lock:
            _rank_above(blocked, computation, key)
            computation.waiters[blocked] = 1
    except RuntimeError:
        raise RuntimeError(
            f"{key!r} is computed or updated on the event loop of this thread, or waits for what is: "
            "to wait for it here would block that very loop"
        ) from None
    try:
        yield
    finally:
        with _lock:
            computation.waiters.pop(blocked, None)


def _rank_above(waiter: Computation, computation: Computation, key: object) -> None:
    if waiter is not computation and waiter.rank > computation.rank:
        return
    before = {waiter: waiter.rank}
    waiter.rank = computation.rank + 1
    raised = [waiter]
    for one in raised:  # which grows as it is gone through
        if one is computation:
            for changed, rank in before.items():
                changed.rank = rank
            raise RuntimeError(f"{key!r} was asked for by what computes or updates it: it would wait for itself")
        for other in tuple(one.waiters):
            if other.rank <= one.rank:
                before.setdefault(other, other.rank)
                other.rank = one.rank + 1
                raised.append(other)
