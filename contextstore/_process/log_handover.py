"""Records that the stores' own threads log, handed over to a thread in which a logging handler may wait.

Rules of this module: a store's own thread never calls a logging handler. ``logging`` calls each handler under the
handler's lock. A handler that uses a store holds that lock while it waits for the store's thread. If the store's thread
logged at that moment, it would wait for the lock, and no code of this package could see that the two wait for each
other.

So a filter takes each record that the package or a driver logs in such a thread, and hands it to a thread that no store
waits for. A handler that calls a store there is treated as a call of the store that has logged: refused, see
``own_threads.py``. Rejected: to drop the records of the drivers, and a handler of the package in place of the user's.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections import deque

from .fork import at_fork
from .own_threads import OnBehalf, OwnThreads, owner_here

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_MOST_WAITING = 1000
"""Records beyond these are dropped: the handlers do not get on."""
_SECONDS = 1.0
"""How long a thread waits until a record of its own is handled, so that it comes before records of later events."""


class _Entry:
    """A record on its way to its handlers."""

    def __init__(self, logger: logging.Logger, record: logging.LogRecord, owner: OwnThreads) -> None:
        self.logger = logger
        self.record = record
        self.owner = owner
        self.handled = threading.Event()


class _HandOver(logging.Filter):
    """Lets the records of the program's threads pass, and takes those of the stores' threads."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def filter(self, record: logging.LogRecord) -> bool:
        owner = owner_here()
        if owner is None or threading.current_thread() is _speaker:
            return True
        entry = _Entry(self._logger, record, owner)
        # Not while an earlier record is still unhandled: its handler may be waiting for this very thread.
        if _hand_over(entry) and record.name == "contextstore":
            entry.handled.wait(_SECONDS)
        return False


_FILTERS = {
    logger: _HandOver(logger)
    for logger in map(
        logging.getLogger, ("contextstore", "aiosqlite", "asyncio", "asyncpg", "concurrent.futures", "py.warnings")
    )
}
"""By logger, of all that log in the stores' threads. ``py.warnings``: warnings, if the program has them logged."""

_lock = threading.RLock()
_waiting: deque[_Entry] = deque()
_is_handling = False
_speaker: threading.Thread | None = None


def prepare() -> None:
    """Called in the thread that opens a store, before the store's threads are started."""
    for logger, handing_over in _FILTERS.items():
        logger.addFilter(handing_over)  # no second time, unless the program has removed it
        # logging looks up under its lock whether a level is enabled, and remembers the answer. A store's thread that
        # looked it up could wait for the thread that opens the store: that one may hold the lock, all through
        # logging.config.dictConfig(), which makes handlers.
        for level in _LEVELS:
            logger.isEnabledFor(level)


def _hand_over(entry: _Entry) -> bool:
    """Queue the record. Returns whether it is the only one that waits."""
    global _speaker
    with _lock:
        if len(_waiting) >= _MOST_WAITING:
            return False
        is_alone = not _waiting and not _is_handling
        _waiting.append(entry)
        if _speaker is not None:
            return is_alone
        # Not a daemon: the interpreter waits for it, so that nothing that was logged is lost.
        speaker = threading.Thread(target=_speak, name="contextstore log", daemon=False)
        _speaker = speaker
        try:
            speaker.start()
        except RuntimeError:  # there are too many threads, or the interpreter is at its end
            _speaker = None
            _waiting.clear()
            return False
        return is_alone


def _speak() -> None:
    """Handle the waiting records, then end: a new thread is started for the next ones."""
    global _speaker, _is_handling
    ident = threading.get_ident()
    while True:
        with _lock:
            if not _waiting:
                _speaker = None
                return
            entry = _waiting.popleft()
            _is_handling = True
        owner = OnBehalf(entry.owner)
        owner.add(ident)
        try:
            entry.logger.callHandlers(entry.record)
        except BaseException:  # noqa: BLE001 - logging itself reports an error of a handler in this way
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()
        finally:
            owner.discard(ident)
            _is_handling = False
            entry.handled.set()
            del entry  # or it would stay alive, with all that it holds, until the next one comes


def _forget_in_child() -> None:
    global _lock, _waiting, _is_handling, _speaker
    _lock, _waiting, _is_handling, _speaker = threading.RLock(), deque(), False, None


at_fork(in_child=_forget_in_child)
