"""What is written, or why it is refused: from what is stored and what is asked.

Rules of this module: pure functions on records, the same for every engine. An engine reads the rows and writes what it
is told here; it decides nothing of this by itself. ``location`` is how messages name the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from .._values.codec import DELETED, Encoded, equal
from .._values.keys import named
from .._waiting.outcome import Outcome
from ..errors import (
    AlreadyExistsError,
    CorruptStoreError,
    GlobalAlreadyExistsError,
    OutputDeletedError,
    RunAlreadyExistsError,
    RunDeletedError,
    VersionConflictError,
)
from .attempts import made_of
from .operations import DeleteGlobal, ExpectGlobal, LoadGlobal, LoadOutput, LoadRun, PutGlobal, PutOutput, UpsertGlobal
from .records import (
    Fetched,
    GlobalRecord,
    GlobalRow,
    OutputMark,
    OutputRecord,
    RunRecord,
    is_intact,
    is_intact_mark,
    is_time,
)

GlobalOperation: TypeAlias = PutGlobal | UpsertGlobal | DeleteGlobal | ExpectGlobal | LoadGlobal

# -- outputs ----------------------------------------------------------------------------------------------------------


def refusal_of_put(put: PutOutput | LoadOutput, stored: Encoded) -> AlreadyExistsError | OutputDeletedError | None:
    """Why an output is not put where this one, or a mark, stands; None: it may stand, to the put as well."""
    if stored.codec == DELETED:
        return OutputDeletedError(put.flow_run_id, put.node_id)
    if put.exist_ok == "keep":
        return None
    same_value = equal(stored, put.value)
    return None if put.exist_ok and same_value else AlreadyExistsError(put.flow_run_id, put.node_id, same_value)


def read_output(location: str, flow_run_id: str, row: Sequence[Any]) -> Fetched:
    """The output of a row, or its mark: node_id, codec, value, checksum, written_at, size, serial of the run, tag, and
    the text of the attempt that made it.
    """
    node_id, codec, data, checksum, written_at, size, run, tag, attempt = row
    encoded = Encoded(codec, data, tag)
    if is_intact(flow_run_id, node_id, encoded, checksum, size, attempt) and is_time(written_at):
        if attempt is None:
            return Outcome(OutputRecord(node_id, encoded, written_at, run))
        made = made_of(attempt)
        if made is not None:
            return Outcome(OutputRecord(node_id, encoded, written_at, run, made))
    is_mark = codec == DELETED and attempt is None and is_time(written_at)
    if is_mark and is_intact_mark(flow_run_id, node_id, encoded, checksum, size):
        return Outcome(OutputMark(node_id, written_at, run))
    return Outcome.failure(damaged_output(location, flow_run_id, node_id))


def damaged_output(location: str, flow_run_id: str, node_id: Any, error: Exception | None = None) -> CorruptStoreError:
    """``error``: why it cannot be read; None: what was read is not what was written."""
    damaged = CorruptStoreError(
        f"the output of {named(flow_run_id, node_id)} in {location} is damaged: "
        f"{error or 'its checksum does not fit'}; restore it from a backup",
        flow_run_id=flow_run_id,
        node_id=node_id if type(node_id) is str else None,
    )
    damaged.__cause__ = error
    return damaged


# -- runs -------------------------------------------------------------------------------------------------------------


def marks_deleted(load: LoadRun, is_deleted: bool) -> bool:
    """Whether a run that is there, deleted or not, is to be marked as deleted when this one is taken over.

    Raises RunDeletedError if it is deleted only here, RunAlreadyExistsError if it is not to be deleted here.
    """
    if is_deleted and load.deleted_at is None:
        raise RunDeletedError(load.flow_run_id)
    is_deleted_there_alone = load.deleted_at is not None and not is_deleted
    if is_deleted_there_alone and not load.replaces:
        raise RunAlreadyExistsError(load.flow_run_id)
    return is_deleted_there_alone


def run_record(serial: int, flow_run_id: str, outputs: int, size: int, times: tuple[Any, Any]) -> RunRecord:
    """A run with the times of its first and last output. One that is damaged may have been either: neither is said."""
    first, last = times if outputs and is_time(times[0]) and is_time(times[1]) else (None, None)
    return RunRecord(serial, flow_run_id, outputs, size, first, last)


# -- globals ----------------------------------------------------------------------------------------------------------


class StoredGlobal(NamedTuple):
    """A global's row as it was read: any column may be damaged."""

    key: Any
    codec: Any
    data: Any
    checksum: Any
    version: Any
    written_at: Any
    size: Any
    expires_at: Any = None

    @property
    def is_deleted(self) -> bool:
        return self.codec is None and self.data is None  # a value alone that is gone is damage

    def is_there(self, now: int) -> bool:
        """Whether it is neither deleted nor expired. A time that is damaged is none at which anything expires."""
        return not self.is_deleted and not (is_time(self.expires_at) and self.expires_at <= now)


class GlobalChange(NamedTuple):
    """What becomes of a global: what the operation gives, and what is to be written."""

    result: Any
    version: int | None = None  # None: nothing is written
    value: Encoded | None = None  # None: it is deleted
    written_at: int | None = None  # None: now
    expires_at: int | None = None  # None: never


def read_global(location: str, row: StoredGlobal) -> GlobalRecord:
    """Raises CorruptStoreError if the row is damaged."""
    key, codec, data, checksum, _, written_at, size, expires_at = row
    version = _version(location, row)  # first: what is damaged there is not mended by overwriting it
    encoded = Encoded(codec, data)
    are_times = is_time(written_at) and (expires_at is None or is_time(expires_at))
    if is_intact("", key, encoded, checksum, size) and are_times:
        return GlobalRecord(key, encoded, version, written_at, expires_at)
    raise CorruptStoreError(
        f"global {key!r} in {location} is damaged: its checksum does not fit; "
        "restore it from a backup, or overwrite it with upsert_global",
        key=key if type(key) is str else None,
    )


def read_global_there(location: str, row: StoredGlobal) -> Outcome[GlobalRecord | None]:
    """A global that is there, or how it is damaged."""
    try:
        return Outcome(read_global(location, row))
    except CorruptStoreError as error:
        return Outcome.failure(error)


def read_global_row(location: str, row: StoredGlobal) -> Outcome[GlobalRow]:
    """A global, or what is left of a deleted one."""
    if row.is_deleted and type(row.version) is int and is_time(row.written_at):
        return Outcome(GlobalRow(row.key, None, row.version, row.written_at))
    try:
        return Outcome(GlobalRow(*read_global(location, row)))
    except CorruptStoreError as error:
        return Outcome.failure(error)


def change_global(
    location: str, stored: StoredGlobal | None, operation: GlobalOperation, now: int, freed_version: int = 0
) -> GlobalChange:
    """What an operation makes of a global; ``stored`` None: the store has no trace of it.

    Versions count on behind a deletion and an expiry; those of a key without a trace begin above ``freed_version``, the
    highest one ever freed. Raises what the operation is refused for, or CorruptStoreError.

    Args:
        now: by the clock by which globals expire.
    """
    match operation:
        case PutGlobal():
            return _put(location, stored, operation, now, freed_version)
        case UpsertGlobal():
            return _upsert(location, stored, operation, now, freed_version)
        case DeleteGlobal():
            return _delete(location, stored, now)
        case ExpectGlobal():
            return _expect(location, stored, operation, now)
        case LoadGlobal():
            return _take_over(location, stored, operation, now)


def _put(location: str, stored: StoredGlobal | None, put: PutGlobal, now: int, freed_version: int) -> GlobalChange:
    if stored is None or not stored.is_there(now):
        version = _version(location, stored) or freed_version
        return GlobalChange(None, version + 1, put.value, expires_at=_expiry(put.ttl, now))
    same_value = equal(read_global(location, stored).value, put.value)
    if not (put.exist_ok and same_value):
        raise GlobalAlreadyExistsError(put.key, same_value)
    return GlobalChange(None)


def _upsert(
    location: str, stored: StoredGlobal | None, upsert: UpsertGlobal, now: int, freed_version: int
) -> GlobalChange:
    version = _version(location, stored)
    if upsert.expected_version is not None:
        _refuse_other_version(upsert.key, upsert.expected_version, _version_there(location, stored, now))
    expires_at = _expiry(upsert.ttl, now)
    if upsert.keeps_expiry:
        is_kept = stored is not None and stored.is_there(now) and is_time(stored.expires_at)
        expires_at = stored.expires_at if is_kept and stored is not None else None
    new = (version or freed_version) + 1
    return GlobalChange(new, new, upsert.value, expires_at=expires_at)


def _expect(location: str, stored: StoredGlobal | None, expect: ExpectGlobal, now: int) -> GlobalChange:
    _refuse_other_version(expect.key, expect.version, _version_there(location, stored, now))
    return GlobalChange(None)


def _refuse_other_version(key: str, expected: int, actual: int) -> None:
    if expected != actual:
        raise VersionConflictError(key, expected, actual)


def _expiry(ttl: int | None, now: int) -> int | None:
    return None if ttl is None else now + ttl


def _delete(location: str, stored: StoredGlobal | None, now: int) -> GlobalChange:
    if stored is None or not stored.is_there(now):
        return GlobalChange(False)
    # Also if it is damaged: deleting it is a way to be rid of it. A damaged version stays so.
    return GlobalChange(True, _version(location, stored) if stored.version is None else stored.version)


def _take_over(location: str, stored: StoredGlobal | None, load: LoadGlobal, now: int) -> GlobalChange:
    """By what is stored, expired or not: what two stores have is compared whatever time it is."""
    version = _version(location, stored)
    is_deleted_since = version == load.version and load.value is None
    may_replace = load.replaces or stored is None or not stored.is_there(now)
    if may_replace and (version < load.version or is_deleted_since):
        return GlobalChange(None, load.version, load.value, load.written_at, load.expires_at)
    value = expires_at = None
    if stored is not None and not stored.is_deleted:
        _, value, _, _, expires_at = read_global(location, stored)
    if (version, value, expires_at) != (load.version, load.value, load.expires_at):
        raise VersionConflictError(load.key, load.version, version)
    return GlobalChange(None)


def _version_there(location: str, stored: StoredGlobal | None, now: int) -> int:
    """The version of what is there; 0: nothing is."""
    return _version(location, stored) if stored is not None and stored.is_there(now) else 0


def _version(location: str, stored: StoredGlobal | None) -> int:
    """The last version that the key had; 0: none."""
    if stored is None:
        return 0
    if type(stored.version) is not int:
        message = f"the version of global {stored.key!r} in {location} is damaged; restore a backup"
        raise CorruptStoreError(message, key=stored.key if type(stored.key) is str else None)
    return stored.version
