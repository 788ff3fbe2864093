"""State values of runs: what is written, or why it is refused, and whether a row is what was written.

Rules of this module: as in ``rules``: pure functions on records, the same for every engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .._results import Problem
from .._values.codec import Encoded, equal
from .._values.keys import named_state
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError, VersionConflictError
from .epochs import Epoch
from .records import RunLife, StateRecord, is_intact, is_time
from .run_operations import LoadState, UpsertState


class RunStates(NamedTuple):
    """State values under the id of a run, and whose they are, as of one moment."""

    epoch: Epoch
    run: RunLife | None
    """What has the id. None: there is no trace of it."""
    states: list[Outcome[StateRecord]]
    """None of a deleted run. A damaged one is an error in its own place, which names it."""


class StoredState(NamedTuple):
    """A state value's row as it was read: any column may be damaged."""

    key: Any
    codec: Any
    data: Any
    checksum: Any
    version: Any
    written_at: Any
    size: Any
    run: Any


class StateChange(NamedTuple):
    """What is written of a state value."""

    value: Encoded
    version: int
    written_at: int | None = None  # None: now


def read_state(location: str, flow_run_id: str, row: Sequence[Any]) -> Outcome[StateRecord]:
    """The state value of a row, its columns as in ``StoredState``."""
    stored = StoredState(*row)
    encoded = Encoded(stored.codec, stored.data)
    is_whole = is_intact(flow_run_id, stored.key, encoded, stored.checksum, stored.size)
    if is_whole and _is_version(stored.version) and is_time(stored.written_at):
        return Outcome(StateRecord(stored.key, encoded, stored.version, stored.written_at, stored.run))
    return Outcome.failure(damaged_state(location, flow_run_id, stored.key))


def problems_of(flow_run_id: str | None, stored: StoredState) -> list[Problem]:
    """What a check finds of a row; ``flow_run_id`` None: it belongs to no run."""
    key, version = str(stored.key), stored.version
    if flow_run_id is None:
        return [Problem("state", (f"run number {stored.run}", key), "it belongs to no run")]
    problems: list[str] = []
    if not _is_version(version):
        problems.append(f"{version!r} is no version")
    if not is_time(stored.written_at):
        problems.append(f"{stored.written_at!r} is no time")
    if not is_intact(flow_run_id, stored.key, Encoded(stored.codec, stored.data), stored.checksum, stored.size):
        problems.append("its checksum does not fit: the value, or whose it is, was changed")
    return [Problem("state", (flow_run_id, key), problem) for problem in problems]


def damaged_state(
    location: str,
    flow_run_id: str,
    key: Any,
    error: Exception | None = None,
    problem: str = "its checksum does not fit",
) -> CorruptStoreError:
    """``error``: why it cannot be read; None: what was read is not what was written."""
    name = key if type(key) is str else None
    damaged = CorruptStoreError(
        f"{named_state(flow_run_id, key)} in {location} is damaged: {error or problem}; restore it from a backup",
        flow_run_id=flow_run_id,
        key=name,
    )
    damaged.__cause__ = error
    return damaged


def change_state(location: str, stored: StoredState | None, operation: UpsertState | LoadState) -> StateChange | None:
    """What an operation makes of a state value; ``stored`` None: it is not there. None: nothing is to be written.

    Raises what the operation is refused for, or CorruptStoreError. A value that is damaged may be overwritten, a
    version that is damaged not: which one comes next is not known.
    """
    version = 0
    if stored is not None:
        if not _is_version(stored.version):
            problem = f"{stored.version!r} is no version"
            raise damaged_state(location, operation.flow_run_id, operation.key, problem=problem)
        version = stored.version
    if isinstance(operation, UpsertState):
        if operation.expected_version not in (None, version):
            raise VersionConflictError(operation.key, operation.expected_version, version)
        return StateChange(operation.value, version + 1)
    return _take_over(location, stored, operation, version)


def _take_over(location: str, stored: StoredState | None, load: LoadState, version: int) -> StateChange | None:
    if version < load.version and (stored is None or load.replaces):
        return StateChange(load.value, load.version, load.written_at)
    if stored is None or version != load.version:
        raise VersionConflictError(load.key, load.version, version)
    if not equal(read_state(location, load.flow_run_id, stored).unwrap().value, load.value):
        raise VersionConflictError(load.key, load.version, version)
    return None


def _is_version(version: object) -> bool:
    return type(version) is int and version >= 1
