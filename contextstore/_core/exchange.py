"""A store as records that a program can keep elsewhere, and loaded from them again.

Rules of this module: nothing is lost on the way: a record has the stored bytes, times and versions. What comes in is
checked as what a caller puts. What is here already is never replaced, and never deleted.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Literal, TypeAlias

import orjson

from .._engine.appending import LAST_NUMBER
from .._engine.lease_operations import LoadLastToken
from .._engine.operations import (
    LoadAppendCounter,
    LoadAppendKey,
    LoadFreedVersion,
    LoadGlobal,
    LoadMark,
    LoadOutput,
    LoadRun,
    Operation,
    value_bytes,
)
from .._engine.run_operations import LoadFacts, LoadFailure, LoadState
from .._results import (
    Attempt,
    ExportedAppendCounter,
    ExportedAppendKey,
    ExportedFailure,
    ExportedFreedVersion,
    ExportedGlobal,
    ExportedOutput,
    ExportedRun,
    ExportedState,
    ImportReport,
    Problem,
    time_of,
)
from .._values.arguments import check_count, check_tag
from .._values.codec import JSON, Encoded, encode
from .._values.keys import flow_run_key, global_key, named, named_state, node_key, prefix_key, state_key
from ..errors import (
    AlreadyExistsError,
    OutputDeletedError,
    RunAlreadyExistsError,
    RunDeletedError,
    SerializationError,
    VersionConflictError,
)
from .archive import Archive, Selection
from .backend import LARGEST_VALUE
from .exchanged_attempts import exported_success, failure_of, made_by
from .exchanged_facts import load_of_facts, with_facts
from .exchanged_times import microseconds

ExportedRecord: TypeAlias = (
    ExportedRun
    | ExportedOutput
    | ExportedAppendCounter
    | ExportedAppendKey
    | ExportedFailure
    | ExportedState
    | ExportedGlobal
    | ExportedFreedVersion
)

Tell: TypeAlias = Callable[[Problem], Coroutine[Any, Any, Any]]

_CONFLICTS = (AlreadyExistsError, OutputDeletedError, RunAlreadyExistsError, RunDeletedError, VersionConflictError)
_OF_A_RUN = LoadFacts | LoadOutput | LoadMark | LoadAppendCounter | LoadAppendKey | LoadFailure | LoadState
_UNIT_ROWS = 200
_UNIT_BYTES = 2**20
_LAST_VERSION = 2**63 - 1

Encoding: TypeAlias = Literal["json", "bytes"]


# -- out --------------------------------------------------------------------------------------------------------------


async def export(source: Archive, selection: Selection, tell: Tell | None) -> AsyncIterator[ExportedRecord]:
    """The records of what is selected, in the order in which they can be loaded.

    Args:
        tell: told of what is damaged, and so left out; goes with an archive that skips.
    """
    await source.open_to_read()
    run: ExportedRun | None = None  # its facts may follow
    async for operation in source.contents(selection):
        await _tell_skipped(source, tell)
        if run is not None:
            yield with_facts(run, operation) if isinstance(operation, LoadFacts) else run
            run = None
        if isinstance(operation, LoadRun):
            run = _run_of(operation)
        elif not isinstance(operation, LoadFacts | LoadLastToken):
            # A token is of no meaning but to a copy, which may take this store's place.
            yield _record_of(operation)
    if run is not None:
        yield run
    await _tell_skipped(source, tell)


async def _tell_skipped(source: Archive, tell: Tell | None) -> None:
    while tell is not None and source.skipped:
        await tell(source.skipped.pop(0))


def _run_of(load: LoadRun) -> ExportedRun:
    deleted_at = None if load.deleted_at is None else time_of(load.deleted_at)
    return ExportedRun(load.flow_run_id, time_of(load.created_at), deleted_at)


def _record_of(operation: Operation) -> ExportedRecord:
    match operation:
        case LoadOutput(run, node, value, written_at, made):
            written = time_of(written_at)
            attempt = None if made is None else exported_success(node, made, written_at)
            return ExportedOutput(run, node, _encoding_of(value), value.data, written, value.tag, attempt)
        case LoadMark(run, node, written_at):
            return ExportedOutput(run, node, None, None, time_of(written_at))
        case LoadAppendCounter():
            return ExportedAppendCounter(*operation)
        case LoadAppendKey():
            return ExportedAppendKey(*operation)
        case LoadFailure(run, node, number, started_at, ended_at, error, inputs):
            attempt = Attempt(node, number, time_of(started_at), time_of(ended_at), error, inputs)
            return ExportedFailure(run, attempt)
        case LoadState(run, key, value, version, written_at):
            return ExportedState(run, key, _encoding_of(value), value.data, version, time_of(written_at))
        case LoadGlobal(key, None, version, written_at):
            return ExportedGlobal(key, None, None, version, time_of(written_at))
        case LoadGlobal(key, Encoded() as value, version, written_at, expires_at):
            expiry = None if expires_at is None else time_of(expires_at)
            return ExportedGlobal(key, _encoding_of(value), value.data, version, time_of(written_at), expiry)
        case LoadFreedVersion(version):
            return ExportedFreedVersion(version)
        case _:
            raise AssertionError(f"an archive gave {type(operation).__name__}")


def _encoding_of(value: Encoded) -> Encoding:
    return "json" if value.codec == JSON else "bytes"


# -- in ---------------------------------------------------------------------------------------------------------------


async def load(target: Archive, records: Iterable[ExportedRecord], tell: Tell | None) -> ImportReport:
    """Load what another store had, in commits of bounded size.

    Args:
        tell: told of each record that is left out, since something else is there; None: the first one is raised.
    """
    await target.open_to_load()
    loader = _Loader(target, tell)
    for record in records:
        for operation in _operations_of(record):
            await loader.add(operation)
    await loader.flush()
    return loader.report()


class _Loader:
    """Gathers what goes into one commit, and finds out which of it is refused."""

    def __init__(self, target: Archive, tell: Tell | None) -> None:
        self._target = target
        self._tell = tell
        self._units: list[list[Operation]] = []
        self._bytes = 0
        self._run: LoadRun | None = None  # without an output there is no run: it waits for its first
        self._refused_run: str | None = None
        self._loaded = {"runs": 0, "outputs": 0, "globals": 0, "tombstones": 0, "bytes": 0}
        self._conflicts = 0

    def report(self) -> ImportReport:
        return ImportReport(**self._loaded, conflicts=self._conflicts)

    async def add(self, operation: Operation) -> None:
        if isinstance(operation, LoadRun) and operation.deleted_at is None:
            self._run = operation
            return
        unit = [operation]
        if self._run is not None and isinstance(operation, _OF_A_RUN) and operation.flow_run_id == self._run[0]:
            unit.insert(0, self._run)
        self._run = None
        size = value_bytes(operation)
        if self._units and (len(self._units) >= _UNIT_ROWS or self._bytes + size > _UNIT_BYTES):
            await self.flush()
        self._units.append(unit)
        self._bytes += size

    async def flush(self) -> None:
        units, self._units, self._bytes = self._units, [], 0
        await self._load(units)

    async def _load(self, units: list[list[Operation]]) -> None:
        units = [unit for unit in units if not self._is_of_refused_run(unit[-1])]
        if not units:
            return
        try:
            await self._target.load([operation for unit in units for operation in unit])
        except _CONFLICTS as error:
            if len(units) == 1:
                if self._tell is None:
                    raise
                await self._leave_out(units[0][-1], error, self._tell)
                return
            # In order, so that the first that conflicts is found, and in few commits where few do.
            middle = len(units) // 2
            await self._load(units[:middle])
            await self._load(units[middle:])
        else:
            for unit in units:
                for operation in unit:
                    self._count(operation)

    def _is_of_refused_run(self, operation: Operation) -> bool:
        return isinstance(operation, _OF_A_RUN) and operation.flow_run_id == self._refused_run

    async def _leave_out(self, operation: Operation, error: Exception, tell: Tell) -> None:
        self._conflicts += 1
        match operation:
            case _ if isinstance(operation, _OF_A_RUN) and isinstance(error, RunDeletedError):
                run = operation.flow_run_id
                self._refused_run = run  # one conflict, however many outputs
                problem = Problem("run", (run,), str(error))
            case LoadOutput(run, node) | LoadMark(run, node):
                problem = Problem("output", (run, node), str(error))
            case LoadAppendKey(run, prefix, key):
                message = (
                    f"append key {key!r} of prefix {prefix!r} of flow run {run!r}: another output is here under it"
                )
                problem = Problem("run", (run,), message)
            case LoadFacts(run):
                message = f"what is said of flow run {run!r} (state, attributes, parent, error): other is here"
                problem = Problem("run", (run,), message)
            case LoadState(run, key, _, version):
                here = f" at version {error.actual}" if isinstance(error, VersionConflictError) else ""
                message = f"{named_state(run, key)} of version {version}: another one is here{here}, and stays"
                problem = Problem("state", (run, key), message)
            case LoadRun(run):
                problem = Problem("run", (run,), str(error))
            case LoadGlobal(key, _, version):
                here = f" at version {error.actual}" if isinstance(error, VersionConflictError) else ""
                message = f"global {key!r} of version {version}: another one is here{here}, and stays"
                problem = Problem("global", (key,), message)
            case _:
                raise AssertionError(f"a record became {type(operation).__name__}")
        await tell(problem)

    def _count(self, operation: Operation) -> None:
        match operation:
            case LoadRun(deleted_at=None):
                self._loaded["runs"] += 1
            case LoadRun():
                self._loaded["tombstones"] += 1
            case LoadOutput():
                self._loaded["outputs"] += 1
            case LoadGlobal():
                self._loaded["globals"] += operation.value is not None
        self._loaded["bytes"] += value_bytes(operation)


def _operations_of(record: ExportedRecord) -> list[Operation]:
    """What loads a record, which anybody may have made."""
    if not isinstance(record, ExportedRun):
        return [_operation_of(record)]
    deleted = None if record.deleted_at is None else microseconds("deleted_at", record.deleted_at)
    created = microseconds("created_at", record.created_at)
    load = LoadRun(flow_run_key(record.flow_run_id), created, deleted, replaces=False)
    facts = load_of_facts(record)
    if facts is None:
        return [load]
    if deleted is not None:
        raise ValueError(f"nothing is said of a run that is deleted (flow run {record.flow_run_id!r})")
    return [load, facts]


def _operation_of(record: ExportedRecord) -> Operation:
    match record:
        case ExportedOutput(run, node, encoding, data, written_at, tag, attempt):
            key = flow_run_key(run), node_key(node)
            written = microseconds("written_at", written_at)
            if encoding is None and data is None and tag is None and attempt is None:
                return LoadMark(*key, written, replaces=False)
            tagged = _encoded(encoding, data, *key)._replace(tag=check_tag(tag))
            made = None if attempt is None else made_by(attempt, key, written)
            return LoadOutput(*key, tagged, written, made)
        case ExportedFailure(run, attempt):
            return failure_of(flow_run_key(run), attempt)
        case ExportedState(run, key, encoding, data, version, written_at):
            names = flow_run_key(run), state_key(key)
            stored = _encoded(encoding, data, *names)
            written = microseconds("written_at", written_at)
            return LoadState(*names, stored, _version(version), written, replaces=False)
        case ExportedAppendCounter(run, prefix, last):
            if check_count("last", last, 1) > LAST_NUMBER:
                raise ValueError(f"last must be at most {LAST_NUMBER}, not {last}")
            return LoadAppendCounter(flow_run_key(run), prefix_key(prefix), last)
        case ExportedAppendKey(run, prefix, key, node):
            return LoadAppendKey(flow_run_key(run), prefix_key(prefix), node_key(key, "key"), node_key(node))
        case ExportedGlobal(key, encoding, data, version, written_at, expires_at):
            name = global_key(key)
            value = None if encoding is None and data is None else _encoded(encoding, data, name)
            expiry = None if expires_at is None else microseconds("expires_at", expires_at)
            if expiry is not None and value is None:
                raise ValueError(f"expires_at must be None of a global that is deleted ({named(name)})")
            written = microseconds("written_at", written_at)
            return LoadGlobal(name, value, _version(version), written, expiry, replaces=False)
        case ExportedFreedVersion(version):
            return LoadFreedVersion(_version(version))
        case _:
            raise TypeError(f"a record is what export_records gives, not {type(record).__name__}")


def _version(version: int) -> int:
    if check_count("version", version, 1) > _LAST_VERSION:
        raise ValueError(f"version must be at most {_LAST_VERSION}, not {version}")
    return version


def _encoded(encoding: str | None, data: bytes | None, *key: str) -> Encoded:
    """A value as a put would have stored it."""
    if type(data) is not bytes:
        raise TypeError(f"data must be bytes, not {type(data).__name__} ({named(*key)})")
    if encoding == "bytes":
        return _as_put(data, *key)
    if encoding != "json":
        raise ValueError(f"encoding must be 'json' or 'bytes', not {encoding!r} ({named(*key)})")
    encoded = _as_put(_parsed(data, *key), *key)
    if encoded.data == data:
        return encoded
    # Written otherwise, by another program perhaps. orjson would take an integer beyond 64 bits for a float.
    return _as_put(_parsed_exactly(data, *key), *key)


def _as_put(value: Any, *key: str) -> Encoded:
    """As ``copy`` does, it takes what another store had, however small the values are that this one takes."""
    try:
        return encode(value, LARGEST_VALUE)
    except SerializationError as error:
        raise SerializationError(error.path, f"{error.problem} ({named(*key)})") from error


def _parsed(text: bytes, *key: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SerializationError("$", f"it is no JSON text ({error}; {named(*key)})") from error


def _parsed_exactly(text: bytes, *key: str) -> Any:
    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise SerializationError("$", f"an object has the same key twice ({named(*key)})")
        return members

    return json.loads(text, object_pairs_hook=no_twins)
