"""The end of the interpreter: a store that was not closed must not keep it from coming.

Rules of this module: nothing here knows what is stopped, only that it can be (``Stoppable``).
"""

from __future__ import annotations

import atexit
import sys
import threading
import warnings
from typing import Protocol

from .fork import at_fork
from .own_threads import OF_ALL


class Stoppable(Protocol):
    """A thing with threads of its own, for which the interpreter would wait."""

    def stop(self) -> None:
        """Have it end. Does not wait."""

    def owns(self, thread: threading.Thread) -> bool:
        """Whether a thread is one of its own."""

    def warn_unclosed(self) -> None:
        """Warn, once, that it was not closed."""


_running: set[Stoppable] = set()
"""Those whose threads run, or are about to be started."""
_exit_lock = threading.Lock()
_exit_watcher: threading.Thread | None = None
_is_at_end = False
_left_open: list[Stoppable] = []
"""Those that were stopped at the interpreter's end. An atexit callback may still come to close their stores."""


def watch_for_exit(one: Stoppable) -> None:
    """See to it that a store that was not closed does not keep the interpreter from ending.

    Python joins all threads before it runs atexit callbacks, so an open store would hang it for ever. A daemon thread
    that waits for the main thread's end is told in time. Rejected: daemon threads for the engine (a commit could be cut
    off in the middle), and threading._register_atexit (private).
    """
    global _exit_watcher
    with _exit_lock:
        if _is_at_end:
            raise RuntimeError("the interpreter is at its end")
        _running.add(one)
        if _exit_watcher is None:
            _exit_watcher = threading.Thread(target=_stop_all_at_exit, name="contextstore exit watcher", daemon=True)
            _exit_watcher.start()


def forget(one: Stoppable) -> None:
    """Its threads are at their end."""
    _running.discard(one)


def _stop_all_at_exit() -> None:
    global _is_at_end
    OF_ALL.add(threading.get_ident())
    threading.main_thread().join()
    # Threads that go on after the main one may still use their stores: the interpreter waits for them, and so do we.
    working = _working_threads()
    while working:
        working[0].join(0.1)  # not for ever: it may be a store's that is just being opened
        if all(thread.is_alive() for thread in working):
            # No new ones: a daemon thread that opens store after store would keep us here for ever.
            working = [thread for thread in working if _is_working(thread)]
        else:  # the thread that has ended may have started another before
            working = _working_threads()
    with _exit_lock:
        _is_at_end = True
        left = _running.copy()
    _left_open.extend(left)
    if _ends_without_ado():
        _warn_of_left_open()  # before the stores' threads are gone: then the interpreter waits no longer
    for one in left:
        one.stop()


def _ends_without_ado() -> bool:
    """Whether this process ends by os._exit, as multiprocessing's forked children do: it runs no callbacks."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    is_child = multiprocessing is not None and multiprocessing.parent_process() is not None
    return is_child and "--multiprocessing-fork" not in sys.orig_argv


def _warn_of_left_open() -> None:
    """The first callback that was registered is the last to be called: those of the program have closed by then what
    they close, if they were registered after this module was imported. The main thread is here, and no other runs.

    Rejected: the finalizer of an object of this module. Python does not promise to call one at its end, and does not.
    """
    for one in _left_open:
        try:
            one.warn_unclosed()
        except ResourceWarning as warning:  # a filter made it an error, and no caller is there to raise it to
            with warnings.catch_warnings():
                warnings.simplefilter("always", ResourceWarning)
                warnings.warn(warning, stacklevel=1)
    _left_open.clear()


atexit.register(_warn_of_left_open)


def _working_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if _is_working(thread)]


def _is_working(thread: threading.Thread) -> bool:
    if thread.daemon or not thread.is_alive():
        return False
    return not any(one.owns(thread) for one in _running.copy())


def _forget_in_child() -> None:
    global _running, _exit_lock, _exit_watcher, _is_at_end
    _running, _exit_lock, _exit_watcher, _is_at_end = set(), threading.Lock(), None, False
    _left_open.clear()


at_fork(in_child=_forget_in_child)
