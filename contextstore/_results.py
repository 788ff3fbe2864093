"""What the calls return: plain, frozen, picklable.

Rules of this room: nothing here does anything. Times are aware, in UTC; sizes are bytes of the stored, encoded values.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Output:
    """What a node has produced, with when it was written and how large it is."""

    flow_run_id: str
    node_id: str
    value: Any
    written_at: datetime.datetime
    size: int
    """Bytes of the stored value."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A flow run that has outputs."""

    flow_run_id: str
    outputs: int
    """How many."""
    first_written_at: datetime.datetime
    last_written_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class GlobalEntry:
    """A global key with its value and its version."""

    key: str
    value: Any
    version: int
    written_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What ``prune`` has deleted, or with ``dry_run`` would delete."""

    runs: int
    outputs: int
    bytes: int
    """Of the values of these outputs."""
    tombstones: int
    """How many deleted runs were forgotten."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What ``copy`` has copied, and proved equal."""

    runs: int
    outputs: int
    globals: int
    tombstones: int
    """Deleted runs, which stay deleted in the copy."""
    bytes: int
    """Of all values, encoded."""
    digest: str
    """SHA-256 over everything in its order; the same for both stores."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How much there is, and what this store object has done since it was opened."""

    location: str
    runs: int
    outputs: int
    globals: int
    tombstones: int
    value_bytes: int
    """Of all outputs and globals, encoded."""
    file_bytes: int
    """Of the database file; 0 in memory."""
    wal_bytes: int
    """Of the write-ahead log beside it."""
    commits: int
    """Commits that this object has made."""
    writes: int
    """Units that went into them: a put is one, a batch is one."""
    largest_group: int
    """The most units that shared a commit."""
    queued_writes: int
    cache_hits: int
    cache_misses: int
    cache_entries: int
    cache_bytes: int
    checkpoint_pinned: bool
    """Whether the last checkpoint was incomplete, since a reader holds on to an old snapshot."""
    engine: str
    """The engine's name and version."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that ``check`` found."""

    kind: str
    """One of output, global, run, schema, file."""
    key: tuple[str, ...]
    """(flow_run_id, node_id), (key,), (flow_run_id,), (name,), or () for the file."""
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``check`` looked at, and every problem that it found."""

    runs: int
    outputs: int
    globals: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What is no damage and yet worth knowing, such as a SQLite version with a known bug."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
