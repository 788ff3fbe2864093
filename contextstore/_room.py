"""The engine room: the event-loop thread on which a store's engine lives, from its opening to its end.

Rules of this room: one thread per open store, whichever its face. It is asleep unless something is opened, closed or
watched: reads and writes go straight to where the engine runs them. A driver belongs to the loop that opened it, and
aiosqlite's threads die when they answer a loop that is closed; on a loop of our own they outlive the caller's, finish
what was accepted, and are closed in order, whatever becomes of the caller.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ._engine import Engine
from .errors import StoreClosedError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


class EngineRoom:
    """An engine that is open, or about to be, on a thread of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._portal: BlockingPortal | None = None
        self._stop_lock = threading.Lock()
        self._stopping = False
        self._pid = os.getpid()
        # Both give an error as their result instead of raising it, so that nobody raises another's exception object.
        self.opened: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
        """Done once the engine is open, or has failed to open and the thread is at its end."""
        self.closed: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
        """Done once the engine is closed and the thread is at its end."""
        for future in (self.opened, self.closed):
            future.set_running_or_notify_cancel()  # so that no caller that gives up can cancel it for the others
        self.thread = threading.Thread(target=self._run, name=f"contextstore {engine.location}", daemon=False)

    def start(self) -> None:
        _watch_for_exit(self)
        self.thread.start()

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T | Exception]:
        """Run a coroutine function on the engine's loop. Its error, too, is the future's result. From any thread."""

        async def run() -> T | Exception:
            try:
                return await function()
            except Exception as error:  # noqa: BLE001 - handed over to whoever waits, whatever it is
                return error

        if self._portal is None:
            raise StoreClosedError(self._engine.location)
        try:
            return self._portal.start_task_soon(run)
        except RuntimeError:  # it has just been stopped
            raise StoreClosedError(self._engine.location) from None

    def stop(self) -> None:
        """Have the engine closed. From any thread, any number of times; does not wait."""
        with self._stop_lock:
            self._stopping = True
            if self._portal is not None:
                with contextlib.suppress(RuntimeError):  # the thread is at its end already
                    self._portal.start_task_soon(self._portal.stop)

    def is_running_here(self) -> bool:
        """Whether the thread lives, and in this process: a forked child has the object only."""
        return self._pid == os.getpid() and self.thread.is_alive()

    def _run(self) -> None:
        import anyio  # not at the top: `import contextstore` is to be quick

        self._engine.own_threads.add(threading.get_ident())
        error: BaseException | None = None
        try:
            anyio.run(self._live)
        except BaseException as raised:  # noqa: BLE001 - handed over to whoever waits: nobody may wait for ever
            error = raised
        finally:
            self._engine.own_threads.discard(threading.get_ident())
            _rooms.discard(self)
            if not self.opened.done():
                self.opened.set_result(error)
                error = None
            self.closed.set_result(error)

    async def _live(self) -> None:
        from anyio.from_thread import BlockingPortal

        await self._engine.open()
        try:
            async with BlockingPortal() as portal:
                with self._stop_lock:
                    self._portal = portal
                    stopping = self._stopping
                self.opened.set_result(None)
                if stopping:
                    await portal.stop()
                await portal.sleep_until_stopped()
        finally:
            await self._engine.close()


# ------------------------------------------------------------------------------------------------- the forgotten close

_rooms: weakref.WeakSet[EngineRoom] = weakref.WeakSet()
_exit_lock = threading.Lock()
_exit_watcher: threading.Thread | None = None


def _watch_for_exit(room: EngineRoom) -> None:
    """See to it that a store whose close() was forgotten does not keep the interpreter from ending.

    Python joins all threads before it runs atexit callbacks, so an open store would hang it for ever. A daemon thread
    that waits for the main thread's end is told in time. Rejected: daemon threads for the engine (a commit could be cut
    off in the middle), and threading._register_atexit (private).
    """
    global _exit_watcher
    with _exit_lock:
        _rooms.add(room)
        if _exit_watcher is None:
            _exit_watcher = threading.Thread(target=_stop_all_at_exit, name="contextstore exit watcher", daemon=True)
            _exit_watcher.start()


def _stop_all_at_exit() -> None:
    threading.main_thread().join()
    # Threads that go on after the main one may still use their stores: the interpreter waits for them, and so do we.
    while working := [thread for thread in threading.enumerate() if not thread.daemon and not _is_of_a_store(thread)]:
        working[0].join(0.1)  # not for ever: it may be a store's that is just being opened
    for room in list(_rooms):
        warn_unclosed(room)
        room.stop()


def _is_of_a_store(thread: threading.Thread) -> bool:
    return any(thread.ident in room._engine.own_threads for room in list(_rooms))


def warn_unclosed(room: EngineRoom) -> None:
    warnings.warn(
        f"the store {room._engine.location} was not closed: use 'with' or call close()", ResourceWarning, stacklevel=2
    )


def _forget_in_child() -> None:
    global _rooms, _exit_lock, _exit_watcher
    _rooms, _exit_lock, _exit_watcher = weakref.WeakSet(), threading.Lock(), None


os.register_at_fork(after_in_child=_forget_in_child)
