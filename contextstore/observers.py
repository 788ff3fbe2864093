"""What a store tells an observer: its calls, commits, waits and troubles.

Rules of this module: data and names alone, and no imports from the package. No event has a value in it, nor the text of
an error, which may quote one. Times are aware, in UTC; sizes are bytes of the stored, encoded values.

    class Slow(Observer):
        def on_operation(self, event: OperationEvent) -> None:
            if event.seconds > 1:
                print(event.operation, event.flow_run_id, event.seconds)

    store = ContextStore("flows.db", observers=[Slow()])
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CommitEvent", "ErrorEvent", "Observer", "OperationEvent", "WaitEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationEvent:
    """A call of the store, or of a run object, has come to its end: each is told once, also if it failed.

    Attributes:
        location: where the store is; a URL without its password.
        engine: ``"sqlite"`` or ``"postgresql"``.
        operation: the call's name on the store: ``"put"``, ``"get"``, ``"batch"`` (told when its block ends) … A call
            of a run object is told as the store's that it is (``info`` as ``"get_run_info"``), one that the store does
            not have by its own name. ``open``, ``close``, ``counters`` and ``copy`` are not told.
        flow_run_id, node_id, key: what it was called with, as it is stored. None: it takes none, or was given none that
            could be one.
        started_at: when it was called; aware, in UTC.
        seconds: how long it took. For an iterator: until it ended or was left, without the time that its consumer took.
        items: how many outputs, globals, runs or keys a call of several was given, or gave. None for the others.
        size: bytes of the stored values that it has read or written, as far as this call did so itself. None where
            there was no value, or where that is not known.
        cached: whether memory alone answered. None for calls that do not ask it.
        error: the name of the class of what it raised. None: it raised nothing.
        code: what the engine called it: a SQLSTATE, or such as ``"SQLITE_BUSY"``. None where there is none.
        outcome_unknown: whether what it was to write may be stored in spite of its error.
    """

    location: str
    engine: str
    operation: str
    flow_run_id: str | None
    node_id: str | None
    key: str | None
    started_at: datetime.datetime
    seconds: float
    items: int | None
    size: int | None
    cached: bool | None
    error: str | None
    code: str | None
    outcome_unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitEvent:
    """A commit of this store object, made or failed. What was written is durable, or not, and its callers are told.

    Attributes:
        location, engine: as for ``OperationEvent``.
        units: how many calls shared it: a put is one, a batch is one. Those that were refused are counted.
        operations: how many writes these were.
        size: bytes of the values that it was given.
        seconds: from when the commit took them to when they were durable.
        queued_seconds: how long the first of them had waited for that. 0 where the calling thread committed by itself.
        error, code, outcome_unknown: as for ``OperationEvent``, if it failed as a whole. A unit that was refused by
            itself (an ``AlreadyExistsError``) is no failure of the commit.
    """

    location: str
    engine: str
    units: int
    operations: int
    size: int
    seconds: float
    queued_seconds: float
    error: str | None
    code: str | None
    outcome_unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEvent:
    """Something was waited for that another has to give. Waits are told once they are over.

    Attributes:
        location, engine: as for ``OperationEvent``.
        kind: ``"lock"`` (the lock file of a store in a file, held by another process or object), ``"connection"`` (of
            the pool to a server), ``"commit"`` (a write withdrawn at its ``timeout``), ``"output"`` (``wait_for``),
            ``"global"`` (``wait_for_global``).
        seconds: how long.
        timed_out: whether it was given up.
    """

    location: str
    engine: str
    kind: str
    seconds: float
    timed_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent:
    """Trouble that no call raises, since the store deals with it.

    Attributes:
        location, engine: as for ``OperationEvent``.
        kind: ``"checkpoint"`` (the WAL could not be copied into the file, and grows), ``"connection"`` (to a server: it
            was lost, or could not be made, and is tried again), ``"poll"`` (the look for what others have written
            failed; the calls that wait are told, too).
        error: the name of the error's class.
        code: as for ``OperationEvent``.
    """

    location: str
    engine: str
    kind: str
    error: str
    code: str | None


class Observer(Protocol):
    """What ``observers=`` takes. A method does nothing unless it is overridden; an object may lack some of them.

    They are plain functions, called one observer after the other, once the answer to those who wait is on its way: of a
    call in its own thread and context, so that a tracing span of the caller is the current one; of a commit in the
    thread that has made it, which is one of the store's own, or the caller's. Which other work waits for them there is
    theirs to care about: they should be quick, and wait for nothing that may itself wait for the store.

    An ``Exception`` that one raises is logged, and dropped. A call of the store from within one raises
    ``WrongLoopError``, and is not told.
    """

    def on_operation(self, event: OperationEvent, /) -> None:
        """A call has come to its end."""
        return

    def on_commit(self, event: CommitEvent, /) -> None:
        """A commit was made, or has failed."""
        return

    def on_wait(self, event: WaitEvent, /) -> None:
        """A wait is over."""
        return

    def on_error(self, event: ErrorEvent, /) -> None:
        """There is trouble that no call raises."""
        return
