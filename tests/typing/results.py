"""What the calls give and raise, and what observers are told, as type checkers see it: read by them, never run."""

from __future__ import annotations

import datetime
from typing import Any, Literal, assert_type

import contextstore
from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    AtomicWriteError,
    Attempt,
    CheckReport,
    CompletionFailedError,
    ContextStore,
    ContextStoreError,
    CorruptStoreError,
    Counters,
    DeserializationError,
    ForkedProcessError,
    GlobalAlreadyExistsError,
    GlobalEntry,
    IncompatibleStoreError,
    InputsChangedError,
    InvalidKeyError,
    LeaseHeldError,
    LeaseLostError,
    Observer,
    Output,
    OutputDeletedError,
    Problem,
    PruneReport,
    ReadOnlyStoreError,
    RunAlreadyExistsError,
    RunDeletedError,
    RunInfo,
    RunStateConflictError,
    SerializationError,
    StateEntry,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreNotFoundError,
    StoreStats,
    TargetExistsError,
    VersionConflictError,
    WriteFailedError,
    WrongLoopError,
    errors,
    new_flow_run_id,
)
from contextstore.observers import CommitEvent, ErrorEvent, OperationEvent, WaitEvent
from contextstore.telemetry import OpenTelemetryObserver

assert_type(contextstore.__version__, str)
assert_type(new_flow_run_id(), str)


def results(
    output: Output, info: RunInfo, entry: GlobalEntry, stats: StoreStats, pruned: PruneReport, report: CheckReport
) -> None:
    assert_type(output.flow_run_id, str)
    assert_type(output.node_id, str)
    assert_type(output.value, Any)
    assert_type(output.written_at, datetime.datetime)
    assert_type(output.size, int)
    assert_type((info.flow_run_id, info.outputs), tuple[str, int])
    assert_type(
        (info.first_written_at, info.last_written_at), tuple[datetime.datetime | None, datetime.datetime | None]
    )
    assert_type((entry.key, entry.value, entry.version), tuple[str, Any, int])
    assert_type(entry.written_at, datetime.datetime)
    assert_type((stats.location, stats.engine), tuple[str, str])
    assert_type((stats.runs, stats.outputs, stats.globals, stats.tombstones), tuple[int, int, int, int])
    assert_type((pruned.runs, pruned.outputs, pruned.bytes, pruned.tombstones), tuple[int, int, int, int])
    assert_type(report.ok, bool)
    assert_type(report.problems, tuple[Problem, ...])
    for problem in report.problems:
        assert_type((problem.kind, problem.key, problem.message), tuple[str, tuple[str, ...], str])


def facts(error: Exception) -> None:
    match error:
        case OutputDeletedError():
            assert_type((error.flow_run_id, error.node_id), tuple[str, str])
        case AlreadyExistsError():
            assert_type((error.flow_run_id, error.node_id, error.same_value), tuple[str, str, bool])
        case OutputDeletedError():
            assert_type((error.flow_run_id, error.node_id), tuple[str, str])
        case GlobalAlreadyExistsError():
            assert_type((error.key, error.same_value), tuple[str, bool])
        case VersionConflictError():
            assert_type((error.key, error.expected, error.actual), tuple[str, int, int])
        case RunAlreadyExistsError() | RunDeletedError():
            assert_type(error.flow_run_id, str)
        case RunStateConflictError():
            assert_type((error.flow_run_id, error.expected, error.actual), tuple[str, str, str])
        case InputsChangedError():
            assert_type((error.node_id, error.recorded, error.given), tuple[str, str, str])
        case LeaseHeldError():
            assert_type((error.name, error.holder, error.expires_at), tuple[str, str, datetime.datetime])
        case LeaseLostError():
            assert_type(error.name, str)
        case SerializationError() | DeserializationError():
            assert_type(error.path, str)
        case StorageError():
            assert_type(error.outcome_unknown, bool)
        case AtomicWriteError():
            assert_type(error.reason, str)
        case ContextStoreError():
            print(str(error))
        case _:
            raise error


def flow_run_results(info: RunInfo, attempt: Attempt, state: StateEntry) -> None:
    assert_type((info.begun_at, info.error, info.failures), tuple[datetime.datetime | None, str | None, int])
    assert_type(info.state, Literal["open", "completed", "failed", "cancelled", "deleted"])
    assert_type(info.attributes, dict[str, str | int | float | bool])
    assert_type(
        (attempt.node_id, attempt.number, attempt.error, attempt.inputs), tuple[str, int, str | None, str | None]
    )
    assert_type((state.key, state.version, state.written_at), tuple[str, int, datetime.datetime])


def kinds() -> None:
    key_error: type[ValueError] = InvalidKeyError
    missing: type[FileNotFoundError] = StoreNotFoundError
    existing: type[FileExistsError] = TargetExistsError
    storage: list[type[StorageError]] = [
        StoreBusyError,
        StoreFullError,
        StoreNotFoundError,
        ReadOnlyStoreError,
        CorruptStoreError,
        IncompatibleStoreError,
    ]
    atomic: list[type[AtomicWriteError]] = [WriteFailedError, CompletionFailedError]
    others: list[type[ContextStoreError]] = [StoreClosedError, WrongLoopError, ForkedProcessError, *storage, *atomic]
    same: type[AlreadyExistsError] = errors.AlreadyExistsError
    print(key_error, missing, existing, others, same)


class Slow(Observer):
    """An observer has those of the methods that it wants."""

    def on_operation(self, event: OperationEvent, /) -> None:
        assert_type((event.operation, event.seconds, event.flow_run_id), tuple[str, float, str | None])
        assert_type((event.started_at, event.cached, event.error), tuple[datetime.datetime, bool | None, str | None])

    def on_commit(self, event: CommitEvent, /) -> None:
        assert_type((event.units, event.seconds, event.queued_seconds), tuple[int, float, float])


class All:
    """Or it has all of them, and is one by that."""

    def on_operation(self, event: OperationEvent, /) -> None: ...
    def on_commit(self, event: CommitEvent, /) -> None: ...
    def on_wait(self, event: WaitEvent, /) -> None:
        assert_type((event.kind, event.seconds, event.timed_out), tuple[str, float, bool])

    def on_error(self, event: ErrorEvent, /) -> None:
        assert_type((event.kind, event.error, event.code), tuple[str, str, str | None])


def observed(counters: Counters) -> None:
    AsyncContextStore("flows.db", observers=[Slow(), All(), OpenTelemetryObserver()])
    ContextStore("flows.db", observers=(Slow(),))
    assert_type((counters.calls, counters.errors), tuple[dict[str, int], dict[str, int]])
    assert_type(counters.last_commit_at, datetime.datetime | None)
