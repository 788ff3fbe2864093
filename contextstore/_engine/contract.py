"""What a storage engine is: the operations it commits, the records it gives back, and the calls it answers.

Rules of this module: keys and bytes only, no Python value; no SQL. An engine decides by error codes, never by the text
of a message, and raises ``StorageError`` and its kin for whatever the driver raises.

All calls but ``post_write``, ``post_read``, ``post_scan``, ``deletion_epoch`` and the attributes are ``async def``, and
they run where the engine says: the first three hand it a job, which it runs in the place that its connection belongs
to. SQLite's jobs run in the connection's own thread, where nothing is ever awaited: there, a coroutine is a plain call.
What may take long for what is stored is a scan: it is marked so, and posted so.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard

from .._process.own_threads import OwnThreads
from .._results import CheckReport
from .._values.codec import BYTES, JSON, Encoded
from .._values.codec import checksum as value_checksum
from ..errors import ContextStoreError, CorruptStoreError, StorageError
from .epochs import Epoch, Epochs

logger = logging.getLogger("contextstore")


Cursor: TypeAlias = Any
"""A place in a store's history. It differs from the last one if anything was committed since."""


class PutOutput(NamedTuple):
    """Write an output once. Refused: AlreadyExistsError, RunDeletedError. Result: None."""

    flow_run_id: str
    node_id: str
    value: Encoded
    exist_ok: bool


class PutGlobal(NamedTuple):
    """Write a global once. Refused: GlobalAlreadyExistsError. Result: None."""

    key: str
    value: Encoded
    exist_ok: bool


class UpsertGlobal(NamedTuple):
    """Write or overwrite a global. Refused: VersionConflictError. Result: the new version."""

    key: str
    value: Encoded
    expected_version: int | None


class DeleteGlobal(NamedTuple):
    """Delete a global; its version is kept, to be counted on. Result: whether it was there."""

    key: str


class DeleteRun(NamedTuple):
    """Mark a run as deleted, for good: a tombstone, also for a run never seen. Its outputs are gone for every reader.

    Result: whether this marked it.
    """

    flow_run_id: str


class DeleteIdleRuns(NamedTuple):
    """Delete those of the runs that are idle: marked as ``DeleteRun`` does, and their outputs removed.

    A run is idle if it and all its outputs, one at least, were written before ``idle_since``. ``place`` is that of the
    ``IdleRuns`` that named them: what was written before it need not be looked at again.

    As many of the runs, in their order and one at least, as go into one commit: at most so many outputs, and no more
    bytes than a group may have. Of a run that alone has more, the rest is left. Result: IdleDeletion.
    """

    flow_run_ids: tuple[str, ...]
    idle_since: int
    limit: int
    place: Cursor | None


class IdleDeletion(NamedTuple):
    """What became of a ``DeleteIdleRuns``."""

    done: int  # how many of the runs, from the first on, were dealt with: deleted, or not idle
    runs: int  # how many were deleted,
    outputs: int  # how many outputs were removed with them,
    bytes: int  # and their bytes
    left: tuple[str, ...]  # those deleted that still have outputs


class RemoveOutputs(NamedTuple):
    """Remove outputs of deleted runs, at most so many, and no more bytes than a group may have. Result: Removal."""

    flow_run_ids: tuple[str, ...]
    limit: int


class Removal(NamedTuple):
    """What became of a ``RemoveOutputs``."""

    outputs: int
    bytes: int
    left: tuple[str, ...]  # those of the runs that still have outputs


class ForgetRuns(NamedTuple):
    """Remove at most so many tombstones from that time on until before that one, of runs without outputs.

    Result: how many, and from when on there may be more; None: there are none.
    """

    deleted_from: int
    deleted_before: int
    limit: int


class GiveBackSpace(NamedTuple):
    """Make the storage smaller by at most so many pages. Result: how many."""

    pages: int


class LoadRun(NamedTuple):
    """Take over a run of another store, after those before. Refused: RunDeletedError, if it is deleted only here.

    Result: None.
    """

    flow_run_id: str
    created_at: int
    deleted_at: int | None


class LoadOutput(NamedTuple):
    """Take over an output of another store with its time. Refused: AlreadyExistsError, if it differs. Result: None."""

    flow_run_id: str
    node_id: str
    value: Encoded
    written_at: int

    @property
    def exist_ok(self) -> bool:
        return True


class LoadGlobal(NamedTuple):
    """Take over a global of another store with its version and time; None: it is deleted. Result: None.

    Refused: VersionConflictError, if it has come further here.
    """

    key: str
    value: Encoded | None
    version: int
    written_at: int


Operation: TypeAlias = (
    PutOutput
    | PutGlobal
    | UpsertGlobal
    | DeleteGlobal
    | DeleteRun
    | DeleteIdleRuns
    | RemoveOutputs
    | ForgetRuns
    | GiveBackSpace
    | LoadRun
    | LoadOutput
    | LoadGlobal
)
Unit: TypeAlias = Sequence[Operation]
"""Operations that commit together or not at all."""

Outcome: TypeAlias = "list[Any] | ContextStoreError"
"""What became of a unit: the results of its operations, or why it was refused (and stored nothing)."""


OutputKey: TypeAlias = tuple[str, str]
"""flow_run_id, node_id"""

Wanted: TypeAlias = tuple[Sequence[OutputKey], Sequence[str]]
"""What is waited for: outputs, and runs of which any output is."""


class OutputRecord(NamedTuple):
    node_id: str
    value: Encoded
    written_at: int  # microseconds since 1970, UTC
    run: int
    """The serial of its run: another one if the run's id was deleted, forgotten and used anew."""


Fetched: TypeAlias = "OutputRecord | CorruptStoreError | None"


def is_intact(owner: str, name: str, encoded: Encoded, checksum: object, size: object) -> bool:
    """Whether a value is what was written under these names, by all that the row says of it."""
    return (
        encoded.codec in (JSON, BYTES)
        and type(encoded.data) is bytes
        and len(encoded.data) == size
        and type(name) is str
        and value_checksum(owner, name, encoded) == checksum
    )


def is_time(microseconds: object) -> bool:
    """Whether something can have been written then: before the year 10000, where the calendar of datetime ends."""
    return type(microseconds) is int and 0 <= microseconds < 253_402_300_800_000_000


def after_prefix(prefix: str) -> str | None:
    """What sorts above every string with this prefix, and below all others above it, by code point; None: nothing."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < 0x10FFFF:
            return prefix[:index] + chr(0xE000 if code == 0xD7FF else code + 1)  # past the surrogates
    return None


def is_deletion(operation: Operation) -> TypeGuard[DeleteRun | DeleteIdleRuns | LoadRun]:
    """Whether a run may be deleted when this is committed."""
    return type(operation) in (DeleteRun, DeleteIdleRuns) or (
        type(operation) is LoadRun and operation.deleted_at is not None
    )


def runs_deleted_by(operation: Operation) -> Sequence[str]:
    """The runs that may be deleted when this is committed."""
    if not is_deletion(operation):
        return ()
    return operation.flow_run_ids if isinstance(operation, DeleteIdleRuns) else (operation.flow_run_id,)


def value_bytes(operation: Operation) -> int:
    """How much an operation brings with it."""
    value = getattr(operation, "value", None)
    return 0 if value is None else len(value.data)


class GlobalRecord(NamedTuple):
    key: str
    value: Encoded
    version: int
    written_at: int  # microseconds since 1970, UTC


class RunRecord(NamedTuple):
    """A run that is not deleted."""

    serial: int  # the order in which the store first saw the runs
    flow_run_id: str
    outputs: int
    bytes: int
    first_written_at: int | None  # None: a time of its outputs is damaged, or it has none
    last_written_at: int | None


class IdleRuns(NamedTuple):
    """Runs that are idle, as far as was looked: see ``DeleteIdleRuns``."""

    runs: list[tuple[str, int]]
    """Each with how many outputs it has; of one that has very many, with many."""
    looked_at: int
    """How many runs, deleted ones apart, were looked at for it."""
    after: int | None
    """The serial behind which to go on; None: that was all."""
    place: Cursor | None
    """The place in the store's history up to which was looked, where the engine knows one."""


class Extent(NamedTuple):
    """How much some runs have."""

    runs: int
    outputs: int
    bytes: int


class RunRow(NamedTuple):
    """A run that the store has a trace of: alive, deleted, or without outputs."""

    serial: int
    flow_run_id: str
    created_at: int | None  # None: the row is damaged, and so the next says nothing
    deleted_at: int | None


class GlobalRow(NamedTuple):
    """A global that the store has a trace of; value None: it is deleted."""

    key: str
    value: Encoded | None
    version: int
    written_at: int


class Counts(NamedTuple):
    runs: int
    tombstones: int
    outputs: int
    globals: int
    value_bytes: int


class EngineStats(NamedTuple):
    name: str
    file_bytes: int
    wal_bytes: int
    checkpoint_pinned: bool


class GroupLimits(NamedTuple):
    """How much may go into one commit. A unit that is larger travels alone."""

    operations: int
    bytes: int


Job: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Engine(Protocol):
    location: str
    """How messages name the store. Never a password."""
    max_value_bytes: int
    group_limits: GroupLimits
    poll_seconds: tuple[float, float] | None
    """How often to ask for what others have written, at first and in the end. None: nobody else can write."""
    deletes_at_once: bool
    """Whether a run may be marked as deleted and its outputs removed by one commit: no put can come in between."""
    own_threads: OwnThreads
    """The ids of the store's own threads. To wait there for a job would be to wait for oneself."""

    @property
    def epochs(self) -> Epochs:
        """What changes with each deletion of a run, by whomever."""

    async def open(self) -> None:
        """Connect, set up or migrate. May be called anew after it failed."""

    async def close(self) -> None:
        """Run the jobs posted so far, then give everything back. Its threads are gone when it returns."""

    def post_write(self, job: Job) -> None:
        """Run the job where writes are made, after those posted before. From any thread; never waits."""

    def post_read(self, job: Job) -> None:
        """Run the job where reads are made, after those posted before. From any thread; never waits."""

    def post_scan(self, job: Job) -> None:
        """Run a job that may read for long where it keeps no read waiting, if there is such a place."""

    # -- within a write job -----------------------------------------------------------------------------------------

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        """Wait for the right to commit for as long as ``wanted()`` says so; False: it was not had, nobody wants it."""

    async def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        """Commit the units that are not refused, durably, all at once.

        Raises ``StorageError`` if the commit failed as a whole: nothing is stored, or ``outcome_unknown`` says so.
        """

    def release_write(self) -> None:
        """Give the right to commit to whoever waits for it, in this process or another."""

    async def tidy(self) -> None:
        """What must be done now and then, but keeps nobody waiting for an answer."""

    # -- within a read job, or a scan -------------------------------------------------------------------------------

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        """The outputs under the keys, in their order, all as they were at one moment, and the epoch then.

        The epoch may be one before, if that is seen to be over as soon as the deletion between them is committed; None
        if it cannot be had. A damaged output is an error in its own place only.
        """

    async def exists(self, key: OutputKey) -> bool: ...

    async def first_node_ids(self, flow_run_id: str, prefix: str, limit: int) -> list[str]:
        """Node ids that have an output, by code point: the first so many."""

    async def list_node_ids(self, flow_run_id: str, prefix: str) -> list[str]:
        """Node ids that have an output, by code point: all there are at one moment, however many. A scan."""

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int
    ) -> list[Fetched]:
        """The run's outputs with a node id above ``after``, by node id: at most so many, and about so many bytes.

        With its serial ``run`` only if the id is still that run's. A damaged one is an error in its own place, which
        names it. Raises where not even its name can be read.
        """

    async def list_runs(self, prefix: str, after: str | None, limit: int) -> list[RunRecord]:
        """Newest first; those after the run ``after``, deleted or not. LookupError: there is no trace of it. A scan."""

    async def page_idle_runs(self, after: int, idle_since: int, limit: int) -> IdleRuns:
        """The idle ones among the runs with a serial above ``after``, oldest first, at most so many; fewer, or none,
        once very many were looked at. A scan.
        """

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        """How much those of the runs have that are not deleted. A scan."""

    async def count_runs(self) -> int:
        """How many there are that are not deleted. A scan."""

    async def is_deleted(self, flow_run_id: str) -> bool: ...

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        """Deleted runs that still have outputs, since whoever deleted them was interrupted: some of those deleted after
        that time, and the time after which to go on; None: that was all. A scan.
        """

    async def count_tombstones(self, deleted_before: int) -> int:
        """How many runs were deleted before. A scan."""

    async def fetch_global(self, key: str) -> GlobalRecord | None: ...

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        """By key, with a key above ``after``."""

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        """All runs, deleted ones too, oldest first, with a serial above ``after``."""

    async def page_global_rows(self, after: str | None, limit: int) -> list[GlobalRow | CorruptStoreError]:
        """All globals, deleted ones too, by key, with a key above ``after``. Damaged ones: as for ``page_outputs``."""

    async def count(self) -> Counts:
        """A scan."""

    # -- in the engine room, beside the reads and writes --------------------------------------------------------------

    async def poll(self, place: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        """What was written after this place in the store's history, by whomever, and the place now; None: from now.

        At least what there is of the wanted outputs, and of the outputs of the wanted runs. It may report some again.
        """

    def deletion_epoch(self) -> int | None:
        """What differs from the last time if a run was deleted since, by whomever; None: that is not known."""

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        """Those of the runs that are deleted."""

    async def stats(self) -> EngineStats: ...

    async def check(self) -> CheckReport:
        """Look at everything, and stop at nothing."""

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        """Copy a snapshot to a new file, verified with ``check``; ``report(done, total)`` is called from any thread."""


def report_bug(message: str, *arguments: object, error: BaseException) -> None:
    """Log what should not have happened. A logging handler that raises must not keep others from being told."""
    with contextlib.suppress(Exception):
        logger.error(message, *arguments, exc_info=error)


def error_for_caller(error: Exception, engine: Engine) -> ContextStoreError:
    """What one of several callers is told of an error: a copy of its own, which collects no other's traceback."""
    if isinstance(error, ContextStoreError):
        own = copy.copy(error)
        own.__cause__ = error.__cause__
        return own
    report_bug("%s failed in an unforeseen way", engine.location, error=error)
    unforeseen = StorageError(f"{engine.location} failed in an unforeseen way ({error!r})")
    unforeseen.__cause__ = error
    return unforeseen
