"""What an engine gives back: rows as records, and whether a row can be what was written.

Rules of this module: records of ids and bytes, and pure functions on them; no SQL, no Python value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from .._values.codec import BYTES, JSON, MARK, Encoded
from .._values.codec import checksum as value_checksum
from .._values.run_facts import STATES
from .._waiting.outcome import Outcome

Cursor: TypeAlias = Any
"""A place in a store's history. It differs from the last one if anything was committed since."""


OutputKey: TypeAlias = tuple[str, str]
"""flow_run_id, node_id"""


Wanted: TypeAlias = tuple[Sequence[OutputKey], Sequence[str | None]]
"""What is waited for: outputs, and runs of which any output is; None: any output of any run."""


class OutputRecord(NamedTuple):
    node_id: str
    value: Encoded
    written_at: int  # microseconds since 1970, UTC
    run: int
    """The serial of its run: another one if the run's id was deleted, forgotten and used anew."""
    made: Made | None = None
    """The attempt of a step that made it. None: it was put without one."""


class OutputMark(NamedTuple):
    """What is left of an output that was deleted: its id stays used up."""

    node_id: str
    written_at: int  # when it was deleted
    run: int


Fetched: TypeAlias = "Outcome[OutputRecord | OutputMark | None]"
"""An output, or the mark of one; None: there never was one; or CorruptStoreError."""


class Watched(NamedTuple):
    """What a watcher is to be told of."""

    flow_run_id: str | None
    """None: the outputs of all runs."""
    prefix: str
    until: str | None
    """A node of the run, which is told of whether or not it has the prefix, and also once it is deleted."""


Place: TypeAlias = Any
"""How far a watcher has come in a store's history: the engine's own."""

CursorFields: TypeAlias = tuple[int | str, ...]
"""What a cursor says of a place."""


class WatchStart(NamedTuple):
    """Where a watcher begins."""

    history: str
    """The name of the store's history."""
    place: Place | None
    """None: there is no such place in it."""
    is_past_until: bool
    """Whether the output at which the watcher ends lies at the place, or before it."""


class News(NamedTuple):
    """An output that was committed."""

    flow_run_id: str
    node_id: str
    output: Outcome[OutputRecord] | None
    """None: it was deleted, and its mark stands there."""
    cursor: CursorFields
    """Of the place behind it."""


class NewsPage(NamedTuple):
    """Some of what was committed behind a place."""

    news: list[News]
    place: Place
    """Behind which to go on."""
    is_last: bool
    """Whether nothing more was there, just now."""
    run: int | None
    """The serial of the one run that was asked for; None: there is no trace of it."""
    is_deleted: bool
    """Whether that run is deleted."""


def is_intact(owner: str, name: str, encoded: Encoded, checksum: object, size: object, attempt: object = None) -> bool:
    """Whether a value is what was written under these names, by all that the row says of it."""
    return (
        encoded.codec in (JSON, BYTES)
        and type(encoded.data) is bytes
        and (encoded.tag is None or type(encoded.tag) is str)
        and (attempt is None or type(attempt) is str)
        and len(encoded.data) == size
        and type(name) is str
        and value_checksum(owner, name, encoded, attempt) == checksum
    )


END_OF_TIME = 253_402_300_800_000_000


def is_intact_mark(owner: str, name: str, encoded: Encoded, checksum: object, size: object) -> bool:
    """The same for the mark of a deleted output."""
    return (*encoded, size) == (*MARK, 0) and type(name) is str and value_checksum(owner, name, MARK) == checksum


def is_time(microseconds: object) -> bool:
    """Whether something can have been written then: before the year 10000, where the calendar of datetime ends."""
    return type(microseconds) is int and 0 <= microseconds < END_OF_TIME


def after_prefix(prefix: str) -> str | None:
    """What sorts above every string with this prefix, and below all others above it, by code point; None: nothing."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < 0x10FFFF:
            return prefix[:index] + chr(0xE000 if code == 0xD7FF else code + 1)  # past the surrogates
    return None


class GlobalRecord(NamedTuple):
    key: str
    value: Encoded
    version: int
    written_at: int  # microseconds since 1970, UTC
    expires_at: int | None = None  # from then on it is not there


class Made(NamedTuple):
    """The attempt of a step that made an output."""

    number: int | None
    """Among the attempts of its node, from 1 on. None: it is given inside the commit."""
    started_at: int  # microseconds since 1970, UTC
    inputs: str | None
    """The digest of the arguments. None: none was taken."""
    ended_at: int | None = None
    """None: as the output was written. Of one that was forked it is another time."""


class AttemptRecord(NamedTuple):
    """A call of a step's function that has ended."""

    node_id: str
    number: int
    started_at: int  # microseconds since 1970, UTC
    ended_at: int
    error: str | None
    """None: it has made the output."""
    inputs: str | None


class RunFacts(NamedTuple):
    """What a runner has said of a run. Of one that was never begun nor updated all are as they are here."""

    state: int = 0
    """The index of its name in ``RUN_STATES``."""
    state_changed_at: int | None = None
    begun_at: int | None = None
    begun_attributes: str | None = None
    """The digest of those that the first begin gave."""
    parent: str | None = None
    attributes: str | None = None
    """A JSON object, its keys sorted. None: none."""
    error: str | None = None


RUN_STATES = STATES
"""By the number under which they are stored."""


class StateRecord(NamedTuple):
    """A state value of a run."""

    key: str
    value: Encoded
    version: int
    written_at: int
    run: int
    """The serial of its run."""


class LeaseRecord(NamedTuple):
    """A lease that is held."""

    name: str
    token: int
    holder: str
    expires_at: int


class RunRecord(NamedTuple):
    """A run that is not deleted."""

    serial: int  # the order in which the store first saw the runs
    flow_run_id: str
    outputs: int
    bytes: int
    first_written_at: int | None  # None: a time of its outputs is damaged, or it has none
    last_written_at: int | None
    facts: RunFacts = RunFacts()
    failures: int = 0


class IdleRuns(NamedTuple):
    """Runs that are idle, as far as was looked: see ``DeleteIdleRuns``."""

    runs: list[tuple[str, int]]
    """Each with how many outputs it has; of one that has very many, with many."""
    looked_at: int
    """How many runs, deleted ones apart, were looked at for it."""
    after: int | None
    """The serial behind which to go on; None: that was all."""
    cursor: Cursor | None
    """The place in the store's history up to which the engine has looked, where it knows one."""


class Extent(NamedTuple):
    """How much some runs have."""

    runs: int
    outputs: int
    bytes: int


class RunLife(NamedTuple):
    """What has the id of a run: which run, by its serial, and whether it is deleted."""

    serial: int
    is_deleted: bool


class RunRow(NamedTuple):
    """A run that the store has a trace of: alive, deleted, or without outputs."""

    serial: int
    flow_run_id: str
    created_at: int | None  # None: the row is damaged, and so the next says nothing
    deleted_at: int | None
    has_appends: bool = False
    """Whether something was appended to it, so that it has counters, and perhaps keys."""
    facts: RunFacts | None = RunFacts()
    """None: they are damaged."""
    touched_at: int | None = None
    """When it was written to last beside its outputs. None: never."""
    failures: int = 0


class AppendCounter(NamedTuple):
    """How far a prefix of a run has counted."""

    prefix: str
    last: int
    run: int
    """The serial of the run."""


class AppendKey(NamedTuple):
    """What was appended under a key."""

    prefix: str
    key: str
    node_id: str
    has_output: bool
    """Whether it is still there."""


class GlobalRow(NamedTuple):
    """A global that the store has a trace of, expired or not; value None: it is deleted."""

    key: str
    value: Encoded | None
    version: int
    written_at: int
    expires_at: int | None = None


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
