"""Every error that the library raises on purpose.

    ContextStoreError
    ├── AlreadyExistsError
    ├── OutputDeletedError
    ├── GlobalAlreadyExistsError
    ├── VersionConflictError
    ├── RunDeletedError
    ├── RunAlreadyExistsError
    ├── RunStateConflictError
    ├── InputsChangedError
    ├── LeaseHeldError
    ├── LeaseLostError
    ├── InvalidKeyError              (also a ValueError)
    ├── SerializationError
    ├── DeserializationError
    ├── StorageError
    │   ├── StoreBusyError
    │   ├── StoreFullError
    │   ├── StoreNotFoundError       (also a FileNotFoundError)
    │   ├── TargetExistsError        (also a FileExistsError)
    │   ├── ReadOnlyStoreError
    │   ├── CorruptStoreError
    │   └── IncompatibleStoreError
    ├── StoreClosedError
    ├── WrongLoopError
    ├── ForkedProcessError
    └── AtomicWriteError
        ├── WriteFailedError
        └── CompletionFailedError

Rules of this module: it imports nothing from the package. An error keeps its facts as attributes and builds its
sentence from them: what happened, to which key, what to do. The facts are the positional arguments, so that every error
can be pickled and copied. The engine's own error, where there is one, is the ``__cause__``.
"""

from __future__ import annotations

import datetime
import errno
from typing import Any

__all__ = [
    "AlreadyExistsError",
    "AtomicWriteError",
    "CompletionFailedError",
    "ContextStoreError",
    "CorruptStoreError",
    "DeserializationError",
    "ForkedProcessError",
    "GlobalAlreadyExistsError",
    "IncompatibleStoreError",
    "InputsChangedError",
    "InvalidKeyError",
    "LeaseHeldError",
    "LeaseLostError",
    "OutputDeletedError",
    "ReadOnlyStoreError",
    "RunAlreadyExistsError",
    "RunDeletedError",
    "RunStateConflictError",
    "SerializationError",
    "StorageError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreFullError",
    "StoreNotFoundError",
    "TargetExistsError",
    "VersionConflictError",
    "WriteFailedError",
    "WrongLoopError",
]


class ContextStoreError(Exception):
    """The base of every error of this library."""


def _differs(same_value: bool | None) -> str:
    return {True: "the same value", False: "a different value", None: "a value"}[same_value]


class AlreadyExistsError(ContextStoreError):
    """An output is written once, and this one is there already; the stored value stands.

    ``same_value`` tells whether the refused value equals the stored one.
    """

    def __init__(self, flow_run_id: str, node_id: str, same_value: bool) -> None:
        super().__init__(flow_run_id, node_id, same_value)
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.same_value = same_value

    def __str__(self) -> str:
        hint = "pass exist_ok=True if this is a retry" if self.same_value else "the stored value stands"
        return (
            f"node {self.node_id!r} of flow run {self.flow_run_id!r} already has {_differs(self.same_value)} as its "
            f"output; outputs are written once: {hint}"
        )


class OutputDeletedError(ContextStoreError):
    """An output was deleted by ``delete_outputs``: its id stays used up, so nothing will ever be written under it."""

    def __init__(self, flow_run_id: str, node_id: str) -> None:
        super().__init__(flow_run_id, node_id)
        self.flow_run_id = flow_run_id
        self.node_id = node_id

    def __str__(self) -> str:
        return (
            f"the output of node {self.node_id!r} of flow run {self.flow_run_id!r} was deleted, and a deleted output's "
            "id is not used again: write under another node id"
        )


class GlobalAlreadyExistsError(ContextStoreError):
    """``put_global`` writes once, and this key is there already; the stored value stands."""

    def __init__(self, key: str, same_value: bool) -> None:
        super().__init__(key, same_value)
        self.key = key
        self.same_value = same_value

    def __str__(self) -> str:
        return (
            f"global {self.key!r} already holds {_differs(self.same_value)}; put_global writes once: "
            "use upsert_global to overwrite"
        )


class VersionConflictError(ContextStoreError):
    """A compare-and-set found another version than expected. Version 0 stands for "not there"."""

    def __init__(self, key: str, expected: int, actual: int) -> None:
        super().__init__(key, expected, actual)
        self.key = key
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"{self.key!r} is at version {self.actual}, not {self.expected}: "
            "read it again and decide anew (0 means that it is not there)"
        )


class RunDeletedError(ContextStoreError):
    """The flow run was deleted, and deleted stays deleted."""

    def __init__(self, flow_run_id: str) -> None:
        super().__init__(flow_run_id)
        self.flow_run_id = flow_run_id

    def __str__(self) -> str:
        return f"flow run {self.flow_run_id!r} was deleted and takes no more outputs: use a new flow_run_id"


class RunAlreadyExistsError(ContextStoreError):
    """The flow run is here, and is another one than was asked for.

    By ``begin``: its first begin gave other attributes, or another parent. By an import: it was deleted where this
    comes from, and an import deletes nothing.
    """

    def __init__(self, flow_run_id: str, difference: str | None = None) -> None:
        super().__init__(flow_run_id, difference)
        self.flow_run_id = flow_run_id
        self.difference = difference

    def __str__(self) -> str:
        if self.difference is None:
            return (
                f"flow run {self.flow_run_id!r} is here, and was deleted where this comes from: it stays; "
                "delete it here as well, or leave it out"
            )
        return (
            f"flow run {self.flow_run_id!r} was begun with {self.difference}: use another flow_run_id, or begin it "
            "with the same, or without any"
        )


class RunStateConflictError(ContextStoreError):
    """An update with ``expected_state`` found the run in another state."""

    def __init__(self, flow_run_id: str, expected: str, actual: str) -> None:
        super().__init__(flow_run_id, expected, actual)
        self.flow_run_id = flow_run_id
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"flow run {self.flow_run_id!r} is {self.actual}, not {self.expected}: look at it again and decide anew"


class InputsChangedError(ContextStoreError):
    """A step's output is there, and was made from other arguments than it is asked for with now."""

    def __init__(self, flow_run_id: str, node_id: str, recorded: str, given: str) -> None:
        super().__init__(flow_run_id, node_id, recorded, given)
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.recorded = recorded
        self.given = given

    def __str__(self) -> str:
        return (
            f"the output of node {self.node_id!r} of flow run {self.flow_run_id!r} was made from other arguments "
            f"(recorded {self.recorded}, given {self.given}): use another node_id, or fork the run without this output"
        )


class LeaseHeldError(ContextStoreError):
    """Another holder has the lease."""

    def __init__(self, name: str, holder: str, expires_at: datetime.datetime) -> None:
        super().__init__(name, holder, expires_at)
        self.name = name
        self.holder = holder
        self.expires_at = expires_at

    def __str__(self) -> str:
        return f"lease {self.name!r} is held by {self.holder}: wait longer, or do something else meanwhile"


class LeaseLostError(ContextStoreError):
    """The lease is not this holder's any more: another has taken it, or it was given back. Nothing was stored."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"lease {self.name!r} is not held any more: another has taken it since, or it was given back; nothing was "
            "stored: take it anew, and look at what is there"
        )


class InvalidKeyError(ContextStoreError, ValueError):
    """An id or key that cannot be stored: empty, too long, of another type, with NUL or lone surrogates."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


class SerializationError(ContextStoreError):
    """A value that cannot be stored without changing it. ``path`` names the place, as in ``$.items[3].score``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class DeserializationError(ContextStoreError):
    """A value that does not fit the ``type`` asked for. ``path`` names the place.

    It is a stored value, or the result of a factory, which is then not stored.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class StorageError(ContextStoreError):
    """The engine could not carry out the call.

    ``outcome_unknown`` is False where nothing was stored, and True where that cannot be known (a commit whose fsync
    failed, a connection lost in the middle of a commit). Retrying a write-once call settles an unknown outcome.
    ``code`` is what the engine itself calls it: PostgreSQL's SQLSTATE, such as "53300", or SQLite's extended result
    code, such as 2067; None where the error is not the engine's.
    """

    def __init__(self, message: str, outcome_unknown: bool = False, code: str | int | None = None) -> None:
        super().__init__(message, outcome_unknown)  # no more: OSError, which two of the classes are, takes a third away
        self.args = (message, outcome_unknown, code)
        self.message = message
        self.outcome_unknown = outcome_unknown
        self.code = code

    def __str__(self) -> str:
        if self.outcome_unknown:
            return f"{self.message}; whether the write is stored is not known: retry it to find out"
        return self.message


class StoreBusyError(StorageError):
    """``timeout`` passed while waiting for another process, a server or room in the queue. Nothing was stored."""


class StoreFullError(StorageError):
    """There is no room left on the disk, or for the database."""


class StoreNotFoundError(StorageError, FileNotFoundError):
    """There is no store at this place, and none was to be created."""

    def __init__(self, message: str, outcome_unknown: bool = False, code: str | int | None = None) -> None:
        super().__init__(message, outcome_unknown, code)
        self.errno = errno.ENOENT  # OSError takes its two arguments for these
        self.strerror = message


class TargetExistsError(StorageError, FileExistsError):
    """The place for a backup or a restored store is taken. Nothing there was changed."""

    def __init__(self, message: str, outcome_unknown: bool = False, code: str | int | None = None) -> None:
        super().__init__(message, outcome_unknown, code)
        self.errno = errno.EEXIST
        self.strerror = message


class ReadOnlyStoreError(StorageError):
    """A write to a store that was opened, or can only be opened, for reading."""


class CorruptStoreError(StorageError):
    """A stored value, or the store itself, is damaged. The message names the key or the file.

    ``flow_run_id`` and ``node_id`` tell which output it is, ``key`` which global; ``flow_run_id`` and ``key`` which
    state value of a run; None where it is none of these.
    """

    def __init__(
        self,
        message: str,
        outcome_unknown: bool = False,
        flow_run_id: str | None = None,
        node_id: str | None = None,
        key: str | None = None,
        code: str | int | None = None,
    ) -> None:
        super().__init__(message, outcome_unknown, code)
        self.args = (message, outcome_unknown, flow_run_id, node_id, key, code)
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.key = key


class IncompatibleStoreError(StorageError):
    """Not a store of ours, one of a newer schema, or a place where a store is not safe. It was left untouched."""


class StoreClosedError(ContextStoreError):
    """The store is closed, and a closed store stays closed."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location

    def __str__(self) -> str:
        return f"the store {self.location} is closed: make a new store object to go on"


class WrongLoopError(ContextStoreError):
    """A call from a thread of the store's own, which would wait for itself: hand it to another thread.

    Or from one that is committing to the store just then: by a finalizer, say, that the collector runs there.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class ForkedProcessError(ContextStoreError):
    """A store object that had been opened was carried into a child process by ``fork()``.

    ``was_open`` tells whether it was open then; else its opening had only begun, or had failed. One that was never used
    before works in the child.
    """

    def __init__(self, location: str, was_open: bool = True) -> None:
        super().__init__(location, was_open)
        self.location = location
        self.was_open = was_open

    def __str__(self) -> str:
        what = "was opened" if self.was_open else "had begun to open"
        return (
            f"the store {self.location} {what} before fork() and cannot be used in the child process: "
            "make a new store object in the child, or start it by 'spawn' or 'forkserver'"
        )


class AtomicWriteError(ContextStoreError):
    """``AtomicWriter.write_and_complete`` did not come to its end. The ``__cause__`` says why."""

    def __init__(self, flow_run_id: Any, node_id: Any, reason: str) -> None:
        super().__init__(flow_run_id, node_id, reason)
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.reason = reason


class WriteFailedError(AtomicWriteError):
    """The output could not be written; ``complete`` was not called."""

    def __str__(self) -> str:
        return (
            f"the output of node {self.node_id!r} of flow run {self.flow_run_id!r} was not acknowledged, "
            f"so complete() was not called: {self.reason}"
        )


class CompletionFailedError(AtomicWriteError):
    """``complete`` raised; the output is stored and stays."""

    def __str__(self) -> str:
        return (
            f"the output of node {self.node_id!r} of flow run {self.flow_run_id!r} is stored, "
            f"but complete() raised: {self.reason}"
        )
