"""Connections that are lent to threads of the caller, so that a call that may block does its own read, or its own put.

A hop to a connection's own thread costs two wake-ups, of which each takes longer than most statements.

Rules of this module: what a thread of the caller's holds may be lost at any moment. Between any two of its steps may
come a KeyboardInterrupt, an exception that another thread sets, a RecursionError, or a finalizer that calls the store.
So nothing is shared between a borrower and the store's own threads but SQLite's file and the lock file, both of which
keep out whom they must; a connection that is not given back is collected, and closed by that; and a put is committed by
one call into C, within which nothing of the caller's runs.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from sys import gettrace
from threading import get_ident
from typing import Any, Protocol, TypeAlias, TypeVar

from .._engine.epochs import Epoch, is_known
from .._engine.operations import PutOutput
from .._engine.records import Fetched, OutputKey
from .._process.own_threads import OWNERS, OwnThreads
from .._waiting.deadline import Deadline
from .._waiting.outcome import Outcome
from ..errors import StoreBusyError
from .counting import Tally
from .epochs import MappedEpochs
from .fork import deregister, register
from .location import StoreFile
from .lock import FileLock
from .reads import fetch_output
from .single_put import put_alone
from .wal import Wal
from .worker import run_over

T = TypeVar("T")
L = TypeVar("L", bound="Lent")
Connect: TypeAlias = Callable[[bool], sqlite3.Connection]
"""Makes a connection; true: one that writes."""


class ReadOver(Protocol):
    """What a query gives over a connection; SQLite's errors are translated, and name what was read."""

    def __call__(self, connection: sqlite3.Connection, what: str, query: Callable[[sqlite3.Connection], T], /) -> T: ...


_SERIALIZED = 3

_MOST = 4
"""Connections of a kind that are lent at once. Further threads share the trips of the store's own."""


_LONGEST_COMMIT = 1.0
"""Seconds after which a commit of a borrower's is waited for as if it were another process's."""

_GLANCE = 0.005
"""Seconds until a thread that waits for a borrower looks whether it still commits."""

_FRAMES = 12
"""How deep the calls go that a commit makes, and what is done after it."""


def _be_shallow(frames: int) -> None:
    """Raise RecursionError now, before anything is done, if one would come later."""
    if frames:
        _be_shallow(frames - 1)


def _seconds(deadline: Deadline) -> float:
    """What is left, as a lock takes it."""
    return min(deadline.left, threading.TIMEOUT_MAX)


class Lent:
    """A connection that one thread at a time works on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.busy = threading.Lock()
        """Held while SQLite may be at work on it."""
        self.borrower = 0
        """The id of the thread that holds it, or that was interrupted while it did."""
        self.is_left = False
        """Whether its borrower waits for the store's end, in the middle of it."""

    def close(self) -> None:
        self.connection.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # its making was interrupted
            self.close()  # before the connection itself goes, which warns of that from 3.13 on


class LentWriter(Lent):
    """The same with the lock file, as a borrower that commits holds it.

    Args:
        owner: the threads of the store.
    """

    def __init__(self, connection: sqlite3.Connection, lock: FileLock, owner: OwnThreads) -> None:
        super().__init__(connection)
        self.lock = lock
        self.leading = _Leading(owner, self)
        self.changes = 0
        """How many rows the connection had changed when it was lent."""

    @property
    def has_committed(self) -> bool:
        """Whether its borrower has no commit before it any more."""
        try:
            return self.connection.total_changes != self.changes
        except sqlite3.ProgrammingError:  # it was closed just now, with the store
            return True

    def release(self) -> None:
        """Give up the right to commit. Any number of times."""
        if self.lock.is_held:
            with contextlib.suppress(OSError):  # it is closed just now
                self.lock.release()
        OWNERS.pop(get_ident(), None)

    def close(self) -> None:
        super().close()
        self.lock.close()


class _Leading(OwnThreads):
    """A thread of the caller's that commits: a call that it makes meanwhile would wait for itself."""

    def __init__(self, owner: OwnThreads, lent: LentWriter) -> None:
        super().__init__(owner.place)
        self.lock = lent.lock
        self._lent = weakref.ref(lent)
        self._owner = owner

    def may_call(self, other: OwnThreads) -> bool:
        lent = self._lent()
        if lent is not None and lent.has_committed:
            # The put is committed. Most signals come during its sync, and their handlers run right behind it.
            lent.lock.release()
            return True
        return other is not self._owner and super().may_call(other)


class Lender:
    """The connections of one open file that are lent, as many as are in use at once at most.

    Args:
        own_threads: those of the store.
        read_over: what a query gives over a connection, whose errors it translates.
    """

    def __init__(self, file: StoreFile, epochs: MappedEpochs, own_threads: OwnThreads, read_over: ReadOver) -> None:
        self._file = file
        self._epochs = epochs
        self._own_threads = own_threads
        self._read_over = read_over
        self.database = ""
        self._connect: Connect | None = None
        self._wal: Wal | None = None
        self._tally: Tally | None = None
        # What is lent is referred to by its borrower alone, so that one which is not given back goes.
        self._all: tuple[weakref.ref[Lent], ...] = ()
        self._readers: deque[Lent] = deque()
        self._writers: deque[LentWriter] = deque()
        self._making = threading.RLock()  # reentrant: a finalizer that runs while it is held may read
        """Held while a connection is made. Nobody waits for it but callers' threads, and a fork for a while."""
        self._maker = 0
        """The id of the thread that makes one."""
        self._held: list[Lent] = []
        self._is_making_held = False

    def make_ready(self, database: str, connect: Connect, wal: Wal, tally: Tally) -> None:
        """Lend from now on, unless this SQLite was built to let no connection pass from thread to thread.

        https://docs.python.org/3/library/sqlite3.html#sqlite3.threadsafety: 3 is "serialized". 1 would do by SQLite's
        own words, since one thread at a time has it, and is not tried: most Pythons have 3.
        """
        self.database, self._wal, self._tally = database, wal, tally
        register(self)
        if sqlite3.threadsafety == _SERIALIZED:
            self._connect = connect

    # -- in a thread of the caller's -----------------------------------------------------------------------------------

    def fetch_one(self, key: OutputKey) -> tuple[Epoch, Fetched] | None:
        def query(connection: sqlite3.Connection) -> tuple[Epoch, Fetched]:
            epoch = self._epochs.before_a_read()
            return epoch, fetch_output(connection, self._file.location, key)

        return self._over_reader(lambda lent: self._read_over(lent.connection, "the outputs", query))

    def read(self, read: Callable[[], Coroutine[Any, Any, T]]) -> Outcome[T] | None:
        return self._over_reader(lambda lent: Outcome(run_over(lent, read)))

    def _over_reader(self, read: Callable[[Lent], T]) -> T | None:
        lent = self._borrow_reader()
        if lent is None:
            return None
        found: T | None = None
        lent.borrower = get_ident()
        with lent.busy:
            if self._connect is not None:
                try:
                    found = read(lent)
                except StoreBusyError:
                    found = None  # the store's own reader waits
                except BaseException:
                    lent.close()  # or the collector would, which may come to the connection first, and that warns
                    raise
        lent.borrower = 0
        self._give_back(lent, self._readers)
        return found

    def put(self, put: PutOutput, begin: Callable[[], None], committed: Callable[[PutOutput, Epoch], None]) -> bool:
        ident = get_ident()
        # A debugger would stop here with the lock held. A thread that has an owner is on some store's behalf already.
        if gettrace() is not None or ident in OWNERS:
            return False
        lent = self._borrow_writer()
        if lent is None:
            return False
        _be_shallow(_FRAMES)
        try:
            lent.changes = lent.connection.total_changes
        except sqlite3.ProgrammingError:  # it was closed just now, with the store
            return False
        # Released twice, since an interrupt may come in the middle of the first.
        try:
            try:
                OWNERS[ident] = lent.leading
                lent.borrower = ident
                with lent.busy:
                    try:
                        epoch = self._commit(lent, put, begin)
                    except BaseException:
                        lent.close()  # as where it reads
                        raise
                    lent.lock.release()
                lent.borrower = 0
                if epoch is not None:
                    committed(put, epoch)
            finally:
                lent.release()
        finally:
            lent.release()
        self._give_back(lent, self._writers)
        return epoch is not None

    def leave(self) -> None:
        ident = get_ident()
        for lent in self._lent():
            if lent.borrower == ident:
                lent.is_left = True

    def _give_back(self, lent: L, idle: deque[L]) -> None:
        """Not in a finally: one that was interrupted may be in the middle of something."""
        idle.append(lent)
        if self._connect is None:  # closed meanwhile, perhaps without having waited for this one
            lent.close()

    def _commit(self, lent: LentWriter, put: PutOutput, begin: Callable[[], None]) -> Epoch:
        wal = self._wal
        tally = self._tally
        # What is due, the store's own writer does with a put, or after it.
        if wal is None or tally is None or wal.is_due or tally.is_due or not self._acquire(lent):
            return None
        epoch = self._epochs.known_under(lent.lock)
        if not is_known(epoch):
            return None
        begin()
        if not put_alone(lent.connection, self._file.location, put, time.time_ns() // 1000):
            return None
        wal.note_put(put)
        tally.note()
        return epoch

    def _acquire(self, lent: LentWriter) -> bool:
        try:
            if not lent.lock.try_now():
                return False
        except OSError:
            return False  # the store's own writer will meet it, too
        self._file.check()
        return True

    def _borrow_reader(self) -> Lent | None:
        try:
            return self._readers.pop()
        except IndexError:
            return self._made(Lent, lambda connect: Lent(connect(False)))

    def _borrow_writer(self) -> LentWriter | None:
        try:
            return self._writers.pop()
        except IndexError:
            lock = FileLock(self._file.path)
            return self._made(LentWriter, lambda connect: LentWriter(connect(True), lock, self._own_threads))

    def _made(self, kind: type[L], make: Callable[[Connect], L]) -> L | None:
        # Not within without_fork(): a finalizer may come that closes a store, whose host waits for that.
        with self._making:
            before = self._maker
            try:
                self._maker = get_ident()
                return self._make(kind, make)
            finally:
                self._maker = before

    def _make(self, kind: type[L], make: Callable[[Connect], L]) -> L | None:
        connect = self._connect
        if connect is None or sum(type(lent) is kind for lent in self._lent()) >= _MOST:
            return None
        self._file.check()
        try:
            lent = make(connect)
        except sqlite3.Error:
            return None  # the store's own threads go on
        self._all = (*(weakref.ref(other) for other in self._lent()), weakref.ref(lent))
        if self._connect is None:  # closed meanwhile, perhaps before this one was there to be closed
            lent.close()
            return None
        return lent

    def _lent(self) -> list[Lent]:
        return [lent for known in self._all if (lent := known()) is not None]

    # -- in the thread of the store's own writing connection ----------------------------------------------------------

    def wait_for_borrower(self) -> bool:
        """Whether a borrower held the lock just now, whose commit is over when this returns."""
        deadline = Deadline(_LONGEST_COMMIT)
        for lent in self._lent():
            # Looked at again and again: a fork may have it by now, which waits for the thread that waits here.
            while isinstance(lent, LentWriter) and lent.lock.is_held and not deadline.is_over:
                if lent.busy.acquire(timeout=_GLANCE):
                    lent.busy.release()
                    return True
        return False

    # -- on the host's loop -------------------------------------------------------------------------------------------

    def close(self, seconds: float) -> None:
        """Lend no more, and close what is lent once it is given back. After so many seconds borrowers do that."""
        self._connect = self._wal = None
        deadline = Deadline(seconds)
        for lent in self._lent():
            if not lent.is_left and lent.busy.acquire(timeout=_seconds(deadline)):
                lent.close()
                lent.busy.release()
        self._readers.clear()
        self._writers.clear()
        deregister(self)

    # -- around a fork, in whichever thread forks ----------------------------------------------------------------------

    def hold(self, seconds: float) -> None:
        deadline = Deadline(seconds)
        self._held = []
        # A thread that forks while it makes one, or in a job, is in the middle of something.
        is_maker = self._maker == get_ident()
        self._is_making_held = not is_maker and self._making.acquire(timeout=_seconds(deadline))
        for lent in self._lent():
            if lent.busy.acquire(timeout=0 if lent.borrower == get_ident() else _seconds(deadline)):
                self._held.append(lent)

    def let_go_on(self) -> bool:
        held, self._held = self._held, []
        for lent in held:
            lent.busy.release()
        is_making_held, self._is_making_held = self._is_making_held, False
        if is_making_held:
            self._making.release()
        return is_making_held and len(held) == len(self._lent())

    def close_in_child(self) -> None:
        for lent in self._lent():
            lent.close()
