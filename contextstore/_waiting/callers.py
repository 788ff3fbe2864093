"""How a call waits: what both faces ask of it, and which process and threads a store may be called from.

Rules of this module: this is the only difference between the two faces. Each call asks its ``Callers`` for a waiter,
hands the waiter to the thread that will do the work, and waits on it. That thread answers many waiters at once, and
learns nothing of the callers behind them. A caller that ``may_block`` may do the work itself, and needs no waiter then.

A thread's waiter blocks inside the coroutine that awaits it, so a coroutine that awaits nothing but waiters never
suspends, and ``run_now`` runs it to its end in the calling thread. That is how the blocking face runs the same code as
the async one with two thread wake-ups for each wait instead of four: the thread that did the I/O wakes the caller.
Rejected: ``BlockingPortal.call`` and ``run_coroutine_threadsafe``, which go through the loop's thread both ways.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from threading import get_ident
from typing import Any, NoReturn, Protocol, TypeVar

from .._process.fork import at_fork
from .._process.own_threads import OWNERS, OwnThreads, owner_here
from ..errors import ForkedProcessError, StoreClosedError, WrongLoopError
from .deadlock import Computation
from .future import SharedFuture
from .waiters import Waiter

T = TypeVar("T")


class Callers(Protocol):
    """The calls of one store: how each is admitted, and how it waits."""

    may_block: bool
    """Whether a call may keep its thread for as long as a disk takes."""

    @property
    def admit(self) -> Callable[[], None]:
        """Raises if a call may not come from here: see ``Binding``, whose method it is."""

    def waiter(self) -> Waiter[Any]:
        """A place to wait for one answer, of the calling task or thread."""

    def wait(self, waiter: Waiter[T]) -> Awaitable[T]:
        """Wait for the result, as long as it takes."""

    def wait_until(self, waiter: Waiter[T], timeout: float | None, expire: Callable[[], T | None]) -> Awaitable[T]:
        """Wait for the result. After ``timeout`` seconds call ``expire()`` once: if it returns a value, that becomes
        the result; if None, keep waiting. No ``timeout``: wait for what others may do at any time, or never."""

    def wait_watchfully(self, waiter: Waiter[T], look: Callable[[], object]) -> Awaitable[T]:
        """Wait for the result. Again and again call ``look()``, which gives it if it will not come by itself."""

    def waiting_for(self, computation: Computation, key: object) -> AbstractContextManager[None]:
        """Around waiting for it. Raises RuntimeError if that could never end: see ``deadlock``."""

    async def single_flight(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of ``compute()``, run once for all callers that ask under the key while it runs.

        A caller that is cancelled does not cancel it for the others. An ``Exception`` of it reaches all of them.
        """

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        """What a function that the user passed in has returned to be awaited; refused where nothing can be awaited."""

    async def join(self, future: SharedFuture[T]) -> T:
        """The future's result. To be cancelled while waiting does nothing to the future."""

    async def to_the_end(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await the call, and if that is cancelled once more, out of the reach of cancel scopes.

        Once more for as long as a call usually waits; what has not come to its end by then goes on in the background.
        """

    async def join_thread(self, thread: threading.Thread) -> None:
        """Wait until a thread that is at its end is gone."""


LOOK_AGAIN = 0.1
"""Seconds after which a call that waits for other callers, or for an opening, looks whether it waits in vain."""

_process = object()
"""Another one in a forked child. Each call looks at it; os.getpid() is a system call, a tenth of a get."""


def _note_fork() -> None:
    global _process
    _process = object()


at_fork(in_child=_note_fork)


class Binding:
    """Which process a store is of, whichever of its faces is called: the first that opens it. None, and any may, until
    then.

    From that process each of its threads may call, but those of the store itself.
    """

    def __init__(self, location: str, own_threads: OwnThreads) -> None:
        self._location = location
        self._own_threads = own_threads
        self._process: object = None
        self._is_bound = False
        self._is_closed = False

    def admit(self) -> None:
        """Raise if a call may not come from here: a forked child, a thread of the store's own."""
        if self._process is not _process and self._process is not None:
            self._refuse_in_child()
        if get_ident() in OWNERS:
            self._refuse_own_thread()

    def settle(self) -> None:
        """The caller was admitted, and is about to open the store: from now on it is of this process."""
        self._process = _process

    def bind(self) -> None:
        """The store is open now; a failed opening binds it to no process."""
        self._is_bound = True

    def end(self) -> None:
        """The store is closed."""
        self._is_closed = True

    def admit_close(self) -> bool:
        """The same as ``admit`` and ``settle`` for ``close()``.

        False: there is nothing to be done, the store was closed before a fork.
        """
        if self._process not in (None, _process) and self._is_closed:
            return False
        self.admit()
        self.settle()
        return True

    def _refuse_in_child(self) -> NoReturn:
        # A fork may have come at any point of what another thread was doing with the store: nothing of it is touched.
        if self._is_closed:
            raise StoreClosedError(self._location)
        raise ForkedProcessError(self._location, self._is_bound)

    def _refuse_own_thread(self) -> None:
        owner = owner_here()
        if owner is not None and not owner.may_call(self._own_threads):
            raise WrongLoopError(
                f"the store {self._location} was called from a thread of its own, which would wait for itself: "
                "hand the call to another thread"
            )
