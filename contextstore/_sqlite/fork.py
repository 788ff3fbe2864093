"""What a fork does to SQLite's connections.

Rules of this module: no SQL, and nothing of what a connection does. Each object with a connection registers itself
here, and can be held still.

What SQLite knows of the locks that this process holds on a file is in the memory that a forked child inherits, while
the locks themselves stay with the parent. So a new connection of the child to the same file would take none: when the
parent closed, as the last that had any, it took the WAL with it, and what was acknowledged in the child was lost. And a
child that was forked in the middle of a commit found the file locked for ever, by a thread that it does not have.

So a fork waits until each connection is between two jobs, where it holds no lock but the shared one, and the child
closes them: SQLite then forgets them there, and nothing of the parent's is touched. (SQLite advises to let inherited
connections leak, for the sake of those that are in the middle of something: https://sqlite.org/howtocorrupt.html, 2.6.
But then no new connection of the child's to that file is safe.)

While they stand still, Python runs in the forking thread: hooks of the program and of others, and in the middle of them
finalizers and signal handlers. A store that one of these called would wait for a connection that waits for the fork. So
that thread counts as one of every store's own until the fork is over, and the call is refused. Rejected: to switch the
collector off meanwhile, which keeps out no handler and no hook, and to switch it on again may undo what another thread
has set.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

from .._process.fork import at_fork
from .._process.own_threads import OF_ALL, OWNERS, OwnThreads
from .._waiting.deadline import Deadline
from ..errors import StorageError

_FORK_SECONDS = 5.0
"""How long a fork waits for running jobs. A store that took longer cannot be opened anew in the child, and says so."""


class Holdable(Protocol):
    """Something that has a connection, and a thread that works on it."""

    @property
    def database(self) -> str:
        """What its connection is to."""

    def hold(self, seconds: float) -> None:
        """Stand still between two jobs, if that comes within so many seconds."""

    def let_go_on(self) -> bool:
        """Stand still no longer. Whether it stood still. (An interrupted ``hold`` could not have taken note of it.)"""

    def close_in_child(self) -> None:
        """Close the connection, in the thread that is left to the child."""


_holdables: set[Holdable] = set()
_lock = threading.RLock()
_spoilt: set[str] = set()
_owners_before: dict[int, OwnThreads | None] = {}
"""Of threads that fork just now."""


@contextlib.contextmanager
def without_fork() -> Iterator[None]:
    """Within it no thread forks, and no other thread is in here."""
    with _lock:
        yield


def register(holdable: Holdable) -> None:
    with _lock:
        _holdables.add(holdable)


def deregister(holdable: Holdable) -> None:
    with _lock:
        _holdables.discard(holdable)


def refuse_if_spoilt(database: str) -> None:
    """Raise if this process was forked while a connection of its parent's was at work on that file."""
    if file_of(database) in _spoilt:
        raise StorageError(
            f"could not open {file_of(database)}: this process was forked while a store of its parent's was at work "
            "there, and it has inherited SQLite's state: start it by 'spawn' or 'forkserver', or fork before opening"
        )


def file_of(database: str) -> str:
    """The file's name in a URI."""
    return database.partition("?")[0]


def _hold_all() -> None:
    ident = threading.get_ident()
    _owners_before.setdefault(ident, OWNERS.get(ident))
    OWNERS[ident] = OF_ALL
    _lock.acquire()
    deadline = Deadline(_FORK_SECONDS)
    for holdable in _holdables:
        holdable.hold(deadline.left)


def _go_on_in_parent() -> None:
    for holdable in _holdables:
        holdable.let_go_on()
    with contextlib.suppress(RuntimeError):  # an interrupted _hold_all may not have taken it
        _lock.release()


def _count_as_before() -> None:
    """Any number of times."""
    ident = threading.get_ident()
    if ident in _owners_before:
        owner = _owners_before[ident]
        if owner is not None:
            OWNERS[ident] = owner
        else:
            OWNERS.pop(ident, None)
        _owners_before.pop(ident, None)


def _give_up_in_child() -> None:
    global _lock
    for holdable in _holdables:
        if holdable.let_go_on():
            holdable.close_in_child()
        elif holdable.database != ":memory:":
            _spoilt.add(file_of(holdable.database))
    _holdables.clear()
    _lock = threading.RLock()
    _owners_before.clear()


at_fork(before=_hold_all, in_parent=_go_on_in_parent, in_child=_give_up_in_child)
at_fork(in_parent=_count_as_before)
at_fork(in_parent=_count_as_before)  # again: the first may be interrupted, and its thread could call no store any more
