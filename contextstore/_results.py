"""The objects that the calls return: plain, frozen, picklable.

Rules of this module: data alone. Times are aware, in UTC; sizes are bytes of the stored, encoded values. Each shows
itself in a notebook as a table, and none as more than a page, however large the value in it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ._display.brief import brief_repr
from ._display.html import record_table


class Record:
    """A result, as a notebook shows it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return record_table(self)


class RecordWithValue(Record):
    """A result that has a value of a user's, of any size."""

    __slots__ = ()

    def __repr__(self) -> str:
        fields = ((one.name, getattr(self, one.name)) for one in dataclasses.fields(self))  # type: ignore[arg-type]  # each that follows is one
        shown = (f"{name}={brief_repr(value) if name in ('value', 'data') else repr(value)}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def time_of(microseconds: int) -> datetime.datetime:
    """When something was written, as users see it."""
    return _EPOCH + datetime.timedelta(0, 0, microseconds)


class OutputDraft(RecordWithValue):
    """An output in the making, whose class is then set to ``Output``: a listing makes very many.

    A frozen class calls for each field that it is made with, and a time costs as much as all of them. Together they
    took longer than to read the row, and to decode what is in it.
    """

    __slots__ = ("_microseconds", "cursor", "flow_run_id", "node_id", "size", "tag", "value", "written_at")

    def __init__(
        self, flow_run_id: str, node_id: str, value: Any, microseconds: int, size: int, tag: str | None
    ) -> None:
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.value = value
        self._microseconds = microseconds
        self.size = size
        self.tag = tag
        self.cursor: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Output(OutputDraft):
    """What a node has produced, with when it was written and how large it is.

    Attributes:
        flow_run_id, node_id: under which it is stored.
        value: a fresh object, without a ``type``.
        written_at: when it was written, by the clock of the writing machine; aware, in UTC.
        size: bytes of the stored value.
        tag: what the writer put beside the value: a media type, a serializer's name. None: nothing.
        cursor: where ``watch`` goes on behind this output. None where it does not come from ``watch``.
    """

    flow_run_id: str
    node_id: str
    value: Any
    written_at: datetime.datetime
    size: int
    tag: str | None = None
    cursor: str | None = None

    if not TYPE_CHECKING:  # else any attribute would do

        def __getattr__(self, name: str) -> datetime.datetime:
            """The time of what was a draft, made when it is asked for first: most who list outputs do not."""
            if name != "written_at":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            written_at = time_of(self._microseconds)
            object.__setattr__(self, "written_at", written_at)
            return written_at


RunState: TypeAlias = Literal["open", "completed", "failed", "cancelled"]
"""What a runner may say of a run."""

RunAttributes: TypeAlias = Mapping[str, str | int | float | bool]
"""Attributes of a run, by name."""
RunAttributeChanges: TypeAlias = Mapping[str, str | int | float | bool | None]
"""The same for an update. One that is None is removed."""


@dataclass(frozen=True, slots=True)
class RunInfo(Record):
    """A flow run, with what its runner has said of it.

    Attributes:
        flow_run_id: its id.
        outputs: how many it has.
        first_written_at, last_written_at: when the first and the last of these were written; aware, in UTC. None where
            that cannot be known, since a time of them is damaged: ``check()`` tells which.
        begun_at: when it was begun first; aware, in UTC. None: it never was.
        state: ``"open"``, ``"completed"``, ``"failed"`` or ``"cancelled"``, as its runner has said; ``"open"`` until
            then. From ``watch_runs`` also ``"deleted"``.
        state_changed_at: when that was said last; aware, in UTC. None: never.
        error: what was said of its failure. None: nothing.
        attributes: those of ``begin`` and ``update``, by name.
        parent: the id of another run, which may be there or not. None: none was given.
        failures: how many attempts of its steps have failed so far.
        cursor: where ``watch_runs`` goes on behind this. None where it does not come from there.
    """

    flow_run_id: str
    outputs: int
    first_written_at: datetime.datetime | None
    last_written_at: datetime.datetime | None
    begun_at: datetime.datetime | None = None
    state: Literal["open", "completed", "failed", "cancelled", "deleted"] = "open"
    state_changed_at: datetime.datetime | None = None
    error: str | None = None
    attributes: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    failures: int = 0
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt(Record):
    """A call of a step's function that has ended.

    Attributes:
        node_id: the node of the step.
        number: 1, 2, …: among the attempts of the node.
        started_at, ended_at: when the function was called, and when it had returned or raised; aware, in UTC.
        error: the type and the text of what it raised, at most 4 KiB. None: it has made the output.
        inputs: the digest of its arguments, hexadecimal. None: none was taken.
    """

    node_id: str
    number: int
    started_at: datetime.datetime
    ended_at: datetime.datetime
    error: str | None = None
    inputs: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class StateEntry(RecordWithValue):
    """A state value of a run, with its version.

    Attributes:
        key: its key.
        value: a fresh object.
        version: 1, 2, …; it rises with each write.
        written_at: when this version was written; aware, in UTC.
    """

    key: str
    value: Any
    version: int
    written_at: datetime.datetime


@dataclass(frozen=True, slots=True, repr=False)
class GlobalEntry(RecordWithValue):
    """A global key with its value and its version.

    Attributes:
        key: its key.
        value: a fresh object, without a ``type``.
        version: 1, 2, …; it rises with each write, and never repeats.
        written_at: when this version was written; aware, in UTC.
        expires_at: when it will be there no more, by the clock of the machine that has the file, or of the server;
            aware, in UTC. None: it stays.
    """

    key: str
    value: Any
    version: int
    written_at: datetime.datetime
    expires_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class PruneReport(Record):
    """What ``prune`` has deleted, or with ``dry_run`` would delete.

    Attributes:
        runs: how many runs.
        outputs: how many outputs these had.
        bytes: bytes of the stored values of these outputs.
        tombstones: how many deleted runs were forgotten.
        globals: how many globals, deleted or expired, were freed: nothing is left of them.
    """

    runs: int
    outputs: int
    bytes: int
    tombstones: int
    globals: int = 0


@dataclass(frozen=True, slots=True)
class CopyReport(Record):
    """What ``copy`` has copied, and proved equal.

    Attributes:
        runs, outputs, globals: how many of each.
        tombstones: how many deleted runs, which stay deleted in the copy.
        bytes: bytes of all stored values.
        digest: SHA-256 over everything in its order, in hexadecimal; the same for both stores.
        skipped: what was damaged and, with ``damaged="skip"``, left out.
    """

    runs: int
    outputs: int
    globals: int
    tombstones: int
    bytes: int
    digest: str
    skipped: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportedRun(Record):
    """A flow run, as ``export_records`` gives it before the first of its outputs, or as what is left of a deleted one.

    Attributes:
        flow_run_id: its id.
        created_at: when the store first saw it; aware, in UTC.
        deleted_at: when it was deleted. None: it was not, and its outputs follow.
        begun_at, state, state_changed_at, error, attributes, parent, failures: as ``RunInfo`` has them.
        begun_attributes: the SHA-256, hexadecimal, of the attributes that its first begin gave. None: there was none.
        touched_at: when it was written to last beside its outputs; aware, in UTC. None: never.
    """

    flow_run_id: str
    created_at: datetime.datetime
    deleted_at: datetime.datetime | None = None
    begun_at: datetime.datetime | None = None
    begun_attributes: str | None = None
    state: RunState = "open"
    state_changed_at: datetime.datetime | None = None
    error: str | None = None
    attributes: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    failures: int = 0
    touched_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ExportedOutput(RecordWithValue):
    """An output as it is stored, or what is left of a deleted one: its id, which stays used up.

    Attributes:
        flow_run_id, node_id: under which it is stored.
        encoding: ``"json"`` or ``"bytes"``. None: it is deleted.
        data: the JSON text as UTF-8, or the bytes themselves. None: it is deleted.
        written_at: when it was written, or deleted; aware, in UTC.
        tag: what the writer put beside the value. None: nothing.
        attempt: that of the step which made it. None: it was put without one, or it is deleted.
    """

    flow_run_id: str
    node_id: str
    encoding: Literal["json", "bytes"] | None
    data: bytes | None
    written_at: datetime.datetime
    tag: str | None = None
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class ExportedFailure(Record):
    """A failed attempt of a step.

    Attributes:
        flow_run_id: the run.
        attempt: the attempt, which has an error.
    """

    flow_run_id: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class ExportedAppendCounter(Record):
    """How far a prefix of a run has counted: ``append`` goes on behind it.

    Attributes:
        flow_run_id: the run.
        prefix: that of the ids.
        last: the number given last.
    """

    flow_run_id: str
    prefix: str
    last: int


@dataclass(frozen=True, slots=True)
class ExportedAppendKey(Record):
    """What was appended under a key: ``append`` gives it again.

    Attributes:
        flow_run_id, prefix: of which the key is.
        key: the key.
        node_id: the id of the output, which may be deleted.
    """

    flow_run_id: str
    prefix: str
    key: str
    node_id: str


@dataclass(frozen=True, slots=True, repr=False)
class ExportedState(RecordWithValue):
    """A state value of a run as it is stored.

    Attributes:
        flow_run_id, key: under which it is stored.
        encoding: ``"json"`` or ``"bytes"``.
        data: the JSON text as UTF-8, or the bytes themselves.
        version: its version.
        written_at: when this version was written; aware, in UTC.
    """

    flow_run_id: str
    key: str
    encoding: Literal["json", "bytes"]
    data: bytes
    version: int
    written_at: datetime.datetime


@dataclass(frozen=True, slots=True, repr=False)
class ExportedGlobal(RecordWithValue):
    """A global as it is stored, or what is left of a deleted one: its last version.

    Attributes:
        key: its key.
        encoding: ``"json"`` or ``"bytes"``. None: it is deleted.
        data: the JSON text as UTF-8, or the bytes themselves. None: it is deleted.
        version: its version; of a deleted one, the last that it had.
        written_at: when this version was written, or deleted; aware, in UTC.
        expires_at: from when on it is not there, be that in the past; aware, in UTC. None: it stays.
    """

    key: str
    encoding: Literal["json", "bytes"] | None
    data: bytes | None
    version: int
    written_at: datetime.datetime
    expires_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class ExportedFreedVersion(Record):
    """How far the versions had come of those globals of which ``prune`` has left nothing: they begin above it.

    Attributes:
        version: the highest of them.
    """

    version: int


@dataclass(frozen=True, slots=True)
class ImportReport(Record):
    """What ``import_records`` has brought, or found there already.

    Attributes:
        runs, outputs, globals: how many of each.
        tombstones: how many deleted runs.
        bytes: bytes of all stored values.
        conflicts: how many records were left out, since something else is there in their place. A run that is deleted
            here counts as one, with all of its outputs.
    """

    runs: int
    outputs: int
    globals: int
    tombstones: int
    bytes: int
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class StoreStats(Record):
    """How much there is, and what this store object has done since it was opened.

    Attributes:
        location: where the store is; a URL without its password.
        runs, outputs, globals: how many there are.
        tombstones: how many deleted runs are remembered.
        value_bytes: bytes of the stored values of all outputs and globals.
        file_bytes: bytes of the database file, or of the tables on a server with their indexes; 0 in memory.
        wal_bytes: bytes of the write-ahead log beside the file; 0 on a server and in memory.
        commits: how many commits this object has made.
        writes: how many units went into them: a put is one, a batch is one.
        largest_group: the most units that shared a commit.
        queued_writes: how many units now wait for a commit, or for room in the queue.
        cache_hits, cache_misses: how many reads the cache has answered, and how many it could not.
        cache_entries: how many outputs it holds.
        cache_bytes: bytes that these are reckoned to take up.
        checkpoint_pinned: whether the last checkpoint was incomplete, since a reader holds on to an old snapshot.
        engine: the engine's name and version.
    """

    location: str
    runs: int
    outputs: int
    globals: int
    tombstones: int
    value_bytes: int
    file_bytes: int
    wal_bytes: int
    commits: int
    writes: int
    largest_group: int
    queued_writes: int
    cache_hits: int
    cache_misses: int
    cache_entries: int
    cache_bytes: int
    checkpoint_pinned: bool
    engine: str


@dataclass(frozen=True, slots=True)
class Counters(Record):
    """What a store object has done since it was made, in this process: nothing of it is stored, nothing is set back.

    Opening and closing change none of it. A forked child of a process whose store was not used yet goes on from what
    was counted until then.

    Attributes:
        calls: how many calls there were, by the call's name: those of a run object by that of the store's call that
            they make, an iteration once it is begun. ``open``, ``close``, ``counters`` and ``copy`` are not counted.
        errors: how many of them ended by an exception, by the name of its class; cancellations, too.
        waits: how often something was waited for, by its kind: ``"lock"``, ``"connection"``, ``"commit"``,
            ``"output"``, ``"global"``, as ``contextstore.observers.WaitEvent`` has them.
        busy_timeouts: how many of these were given up.
        troubles: how often there was trouble that no call has raised, by its kind: ``"checkpoint"``, ``"connection"``,
            ``"poll"``, ``"observer"`` (one has raised).
        commits: how many commits this object has made.
        writes: how many units went into them: a put is one, a batch is one.
        cache_hits, cache_misses: how many reads the cache has answered, and how many it could not.
        cache_entries: how many outputs it holds.
        cache_bytes: bytes that these are reckoned to take up.
        last_commit_at: when the last commit was made, by this machine's clock; aware, in UTC. None: there was none.
    """

    calls: dict[str, int]
    errors: dict[str, int]
    waits: dict[str, int]
    busy_timeouts: dict[str, int]
    troubles: dict[str, int]
    commits: int
    writes: int
    cache_hits: int
    cache_misses: int
    cache_entries: int
    cache_bytes: int
    last_commit_at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Problem(Record):
    """Something that ``check`` found.

    Attributes:
        kind: one of ``output``, ``state``, ``global``, ``run``, ``schema``, ``file``.
        key: ``(flow_run_id, node_id)``, ``(flow_run_id, key)``, ``(key,)``, ``(flow_run_id,)``, ``(name,)``, or ``()``
            for the file.
        message: what is wrong with it.
    """

    kind: str
    key: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport(Record):
    """What ``check`` looked at, and every problem that it found.

    Attributes:
        runs, outputs, globals: how many of each were looked at.
        problems: every problem found; empty if nothing is wrong.
        notes: what is no damage and yet worth knowing, such as a SQLite version with a known bug.
    """

    runs: int
    outputs: int
    globals: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
