"""What a store object counts of what it does, and what its observers are told.

Rules of this module: no I/O, and no lock: what is counted is counted by one step in C. Observers are called with
nothing held and the answers on their way. What happens where something is held (a lock of other processes, say) is
noted, and told by the next thread that holds nothing.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .._process.log import log
from .._process.own_threads import OwnThreads, call_within, owner_here
from ..observers import CommitEvent, ErrorEvent, Observer, OperationEvent, WaitEvent

_QUIET_SECONDS = 60.0
"""Seconds for which the further failures of an observer's method are not logged."""

METHODS = {
    "on_operation": OperationEvent,
    "on_commit": CommitEvent,
    "on_wait": WaitEvent,
    "on_error": ErrorEvent,
}
"""An observer's methods, and what each is told."""

Tell = Callable[[Any], object]


class Tally:
    """Counts by kind, exact under any number of threads: ``next()`` of a count is one step, ``+= 1`` is three."""

    def __init__(self) -> None:
        self._counts: dict[str, itertools.count[int]] = {}

    def add(self, kind: str) -> None:
        next(self._count(kind))

    def adder(self, kind: str) -> Callable[[], int]:
        """What adds one of a kind, without looking it up each time."""
        return self._count(kind).__next__

    def _count(self, kind: str) -> itertools.count[int]:
        return self._counts.get(kind) or self._counts.setdefault(kind, itertools.count())

    @property
    def figures(self) -> dict[str, int]:
        """How many there were of each kind of which there were any."""
        figures = {kind: counted(count) for kind, count in sorted(self._counts.copy().items())}
        return {kind: figure for kind, figure in figures.items() if figure}


def counted(count: itertools.count[int]) -> int:
    """How often ``next()`` was called. A count has no other way to say so without being moved on: "count(3)"."""
    return int(repr(count)[6:-1])


def code_of(error: BaseException) -> str | None:
    """What the engine calls an error: a SQLSTATE, or the name of one of SQLite's codes."""
    code = getattr(error, "code", None) or getattr(error.__cause__ or error, "sqlite_errorname", None)
    return code if isinstance(code, str) else None


class Reports:
    """Of one store object, from its making on, opened or not.

    Args:
        engine: its name in events.
    """

    def __init__(self, location: str, engine: str, own_threads: OwnThreads) -> None:
        self.location = location
        self.engine = engine
        self._own_threads = own_threads
        self.calls = Tally()
        self.errors = Tally()
        self.waits = Tally()
        self.busy_timeouts = Tally()
        self.troubles = Tally()
        self._listeners: dict[str, list[Tell]] = {name: [] for name in METHODS}
        self._noted: deque[tuple[str, Any]] = deque()
        self._quiet_until: dict[tuple[int, str], float] = {}

    def tell_to(self, observers: Iterable[Observer]) -> None:
        """Have these told from now on, in their order; each of what it has a method for."""
        for observer in observers:
            for name, listeners in self._listeners.items():
                method = getattr(observer, name, None)
                if method is not None and getattr(method, "__func__", method) is not getattr(Observer, name):
                    listeners.append(method)

    def are_told(self, name: str) -> bool:
        """Whether there is an observer that has this method."""
        return bool(self._listeners[name])

    @property
    def has_observers(self) -> bool:
        return any(self._listeners.values())

    # -- anywhere: counted, and noted if there is an observer ----------------------------------------------------------

    def waited(self, kind: str, seconds: float, *, timed_out: bool = False) -> None:
        self.waits.add(kind)
        if timed_out:
            self.busy_timeouts.add(kind)
        if self.are_told("on_wait"):
            event = WaitEvent(
                location=self.location, engine=self.engine, kind=kind, seconds=seconds, timed_out=timed_out
            )
            self.note("on_wait", event)

    def trouble(self, kind: str, error: BaseException) -> None:
        self.troubles.add(kind)
        if self.are_told("on_error"):
            name = type(error).__name__
            event = ErrorEvent(location=self.location, engine=self.engine, kind=kind, error=name, code=code_of(error))
            self.note("on_error", event)

    def note(self, name: str, event: object) -> None:
        """Have it told by the next thread that holds nothing."""
        self._noted.append((name, event))

    # -- where nothing is held -----------------------------------------------------------------------------------------

    def tell(self, name: str, event: OperationEvent | CommitEvent) -> None:
        self.tell_noted()
        self._tell(name, event)

    def tell_noted(self) -> None:
        while self._noted:
            try:
                noted = self._noted.popleft()
            except IndexError:  # another thread has told it
                return
            contextvars.Context().run(self._tell, *noted)  # in none of a call's, which it may be none of

    def _tell(self, name: str, event: object) -> None:
        for listener in self._listeners[name]:
            try:
                call_within(self._own_threads, listener, event)
            except Exception as error:  # noqa: BLE001 - an observer is no part of the call that it is told of
                self._report_failure(name, listener, error)
            except BaseException as error:  # the caller's, if it comes in a thread of the caller's
                if owner_here() is not self._own_threads:
                    raise
                self._report_failure(name, listener, error)

    def _report_failure(self, name: str, listener: Tell, error: BaseException) -> None:
        self.troubles.add("observer")
        key, now = (id(listener), type(error).__name__), time.monotonic()
        if now >= self._quiet_until.get(key, now):
            self._quiet_until[key] = now + _QUIET_SECONDS
            problem, kind = "an observer's %s raised %s, which is dropped", key[1]
            arguments = (logging.WARNING, "observer_failed", self.location, problem, name, kind)
            log(*arguments, error=error, method=name, error_type=kind)
