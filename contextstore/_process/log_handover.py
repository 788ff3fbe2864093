"""What the stores' own threads log, handed on to where a logging handler may wait.

Rules of this module: a thread of a store's own never calls a logging handler. ``logging`` calls each handler under its
lock. A handler that uses a store holds it while it waits for that store's thread; if that thread logged just then, it
would wait for the handler, before any of our code could see that the two wait for each other.

So a filter takes what is logged there, by us or by the drivers, and hands it to a thread that nobody waits for. The
calls of a handler there are those of the store that has logged: refused, see _own_threads. Rejected: to drop what the
drivers log, and a handler of our own in place of the user's.
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
"""Records beyond these are dropped: whoever handles them does not get on."""
_SECONDS = 1.0
"""How long a thread waits for what it has said itself to be handled, so that it comes before what follows from it."""


class _Entry:
    """A record on its way to its handlers."""

    def __init__(self, logger: logging.Logger, record: logging.LogRecord, owner: OwnThreads) -> None:
        self.logger = logger
        self.record = record
        self.owner = owner
        self.handled = threading.Event()


class _HandOver(logging.Filter):
    """Lets pass what other threads log."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def filter(self, record: logging.LogRecord) -> bool:
        owner = owner_here()
        if owner is None or threading.current_thread() is _speaker:
            return True
        entry = _Entry(self._logger, record, owner)
        # Not behind another one that is not handled either: its handler may be waiting for this very thread.
        if _hand_over(entry) and record.name == "contextstore":
            entry.handled.wait(_SECONDS)
        return False


_FILTERS = {
    logger: _HandOver(logger)
    for logger in map(
        logging.getLogger, ("contextstore", "aiosqlite", "asyncio", "asyncpg", "concurrent.futures", "py.warnings")
    )
}
"""Of all that log in our threads. ``py.warnings``: warnings, if the program has them logged."""

_lock = threading.RLock()
_waiting: deque[_Entry] = deque()
_is_handling = False
_speaker: threading.Thread | None = None


def prepare() -> None:
    """To be called by whoever has a store opened, before its threads are started."""
    for logger, handing_over in _FILTERS.items():
        logger.addFilter(handing_over)  # if it is not there any more
        # Whether a level is enabled is looked up under a lock, once. The caller may hold it, all through
        # logging.config.dictConfig(), where handlers are made.
        for level in _LEVELS:
            logger.isEnabledFor(level)


def _hand_over(entry: _Entry) -> bool:
    """Whether it is the only one that waits."""
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
    """Handle what waits, and end: a thread for each time that there is something."""
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
        except BaseException:  # noqa: BLE001 - as logging itself does with what a handler meets
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()
        finally:
            owner.discard(ident)
            _is_handling = False
            entry.handled.set()
            del entry  # or it, and all that it holds, would stay alive until the next one comes


def _forget_in_child() -> None:
    global _lock, _waiting, _is_handling, _speaker
    _lock, _waiting, _is_handling, _speaker = threading.RLock(), deque(), False, None


at_fork(in_child=_forget_in_child)
