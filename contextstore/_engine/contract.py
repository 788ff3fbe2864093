"""What an engine is: four small protocols (writes, reads, a feed, maintenance), and how it is told what to run.

Rules of this module: keys and bytes only, no Python value; no SQL. An engine decides by error codes, never by the text
of a message, and raises ``StorageError`` and its kin for all that the driver raises. What is stored, and what is
refused, is decided in ``rules``.

A job is posted to an engine, which runs it where the connection that it needs belongs. SQLite's jobs run in the
connection's own thread, where nothing is ever awaited: a coroutine is a plain call there. A scan is a read that may
take long for what is stored: it is marked so, and posted so. All calls are ``async def`` but ``post_write``,
``post_read``, ``post_scan``, ``release_write`` and ``deletion_epoch``, which never wait, and those of ``Inline``: by
these a thread of the caller's, which may wait for a disk, does a read or a single put without a job.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from .._process.own_threads import OwnThreads
from .._results import CheckReport
from .._waiting.outcome import Outcome
from .attempts import AttemptKey, AttemptPage
from .epochs import Epoch, Epochs
from .lease_operations import Held
from .operations import PutOutput, Unit
from .pages import OutputPage, Part
from .records import (
    AppendCounter,
    AppendKey,
    Counts,
    Cursor,
    CursorFields,
    EngineStats,
    Extent,
    Fetched,
    GlobalRecord,
    GlobalRow,
    IdleRuns,
    LeaseRecord,
    NewsPage,
    OutputKey,
    Place,
    RunLife,
    RunRecord,
    RunRow,
    Wanted,
    Watched,
    WatchStart,
)
from .reports import Reports
from .run_feeds import RunFilter, RunNewsPage
from .run_query import RunGathering, RunIndex, RunPlace, RunQuery, RunRange, RunStep
from .run_states import RunStates

T = TypeVar("T")


class GroupLimits(NamedTuple):
    """How much may go into one commit. A unit that is larger travels alone."""

    operations: int
    bytes: int


Job: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Feed(Protocol):
    """What any client writes to a store, for the callers that wait for it. On the engine host's loop."""

    poll_seconds: tuple[float, float]
    """How often to ask for what other clients have written: seconds at first, and in the end."""

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        """What any client has written since the cursor, and the cursor of now. With None: nothing yet.

        At least what there is of the wanted outputs, and of the outputs of the wanted runs. It may report some again.
        """

    async def globals_beyond(self, versions: Mapping[str, int]) -> Sequence[tuple[str, int]] | None:
        """Those of the globals that are there with a version above the one named, with that version. None: look anew.

        Asked after each ``poll`` that gave another cursor than the one before.
        """

    async def changed_runs(self, place: Cursor | None) -> tuple[Cursor, list[str]] | None:
        """Runs that any client has begun, updated, given a failure or deleted since the place, and the place of now.

        With None: none yet, but the place. Asked as ``globals_beyond`` is, and once more after there were some: it may
        tell some of them. None: look anew.
        """

    def deletion_epoch(self) -> int | None:
        """What differs from the last time if any client has deleted a run since; None: that is not known."""

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        """Those of the runs that are deleted."""

    async def alive_among(self, serials: Sequence[int]) -> list[int]:
        """Those of the runs, by serial, that are not deleted, let alone forgotten."""


class Writes(Protocol):
    """What a write job asks, in the place to which ``post_write`` brings it."""

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        """Acquire the right to commit. Give up and return False once ``wanted()`` is false."""

    async def put_alone(self, put: PutOutput) -> bool:
        """Commit a single put, durably, by the quickest way there is. False: nothing was done; it goes the usual way.

        Raises ``StorageError`` with ``outcome_unknown`` if the commit itself failed.
        """

    async def begin_commit(self, wanted: Callable[[], bool]) -> bool:
        """Wait for what else may keep a commit from being made. Give up and return False once ``wanted()`` is false."""

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        """Commit the units that are not refused, durably, all at once.

        Raises ``StorageError`` if the commit failed as a whole: nothing is stored, or ``outcome_unknown`` says so.
        """

    def release_write(self) -> None:
        """Release it, to the next of this process or of another."""

    async def maintain(self) -> None:
        """Periodic maintenance, after the callers have been answered."""


class Reads(Protocol):
    """What a read job asks, in the place to which ``post_read`` or ``post_scan`` brings it."""

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        """The outputs under the keys, or their marks, in their order, as they were at one moment, and the epoch then.

        The epoch may be one before, if that is seen to be over as soon as the deletion between them is committed; None
        if it cannot be had. A damaged output is an error in its own place only.
        """

    async def exists(self, key: OutputKey) -> bool: ...

    async def ping(self) -> None:
        """Go to where the store is and back, as the least read does."""

    async def first_node_ids(self, flow_run_id: str, part: Part, limit: int) -> list[str]:
        """Node ids that have an output, by code point: the first so many."""

    async def list_node_ids(self, flow_run_id: str, part: Part, limit: int | None) -> list[str]:
        """Node ids that have an output, by code point: those there are at one moment, however many. A scan."""

    async def list_outputs(
        self, flow_run_id: str, run: int | None, part: Part, limit: int, max_bytes: int
    ) -> OutputPage:
        """The first of the outputs: at most so many, and about so many bytes, but one at least.

        With its serial ``run`` only if the id is still that run's. Raises where not even the name of the next one can
        be read.
        """

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int, with_marks: bool = False
    ) -> list[Fetched]:
        """The run's outputs with a node id above ``after``, by node id: at most so many, and about so many bytes.

        Without the marks of deleted ones, unless they are asked for. With its serial ``run`` only if the id is still
        that run's. A damaged one is an error in its own place, which names it. Raises where not even its name can be
        read.
        """

    async def find_run_place(self, flow_run_id: str) -> RunPlace | None:
        """Where a run, deleted or not, stands in each listing. None: there is no trace of it. A scan."""

    async def list_runs(
        self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int, limit: int
    ) -> RunStep:
        """Runs behind the place, in the order of the listing, at most so many, by an index that has that order.

        No more than ``most`` of the index are looked at. All of it is of one moment. A scan.
        """

    async def count_index(self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int) -> int:
        """How many runs an index has, about, at most so many; behind the place if it has that order. A scan."""

    async def gather_runs(
        self, query: RunQuery, index: RunIndex, within: RunRange, after: str | int | None, most: int, limit: int
    ) -> RunGathering:
        """Runs of a part of the listing: the first so many of those among the next ``most`` of an index. A scan."""

    async def describe_runs(self, query: RunQuery, serials: Sequence[int]) -> list[RunRecord]:
        """Those of the runs that are there and still fit, in this order. A scan."""

    async def fetch_run(self, flow_run_id: str) -> RunRecord | None:
        """None: it is not there, or deleted."""

    async def page_idle_runs(
        self, after: int, idle_since: int, limit: int, states: tuple[int, ...] | None = None
    ) -> IdleRuns:
        """The idle ones among the runs with a serial above ``after``, oldest first, at most so many; fewer, or none,
        once very many were looked at: as ``DeleteIdleRuns`` has it. A scan.
        """

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        """How much those of the runs have that are not deleted. A scan."""

    async def count_runs(self) -> int:
        """How many there are that are not deleted. A scan."""

    async def find_run(self, flow_run_id: str) -> tuple[Epoch, RunLife | None]:
        """What has the id, deleted or not, and the epoch then, as ``fetch`` has it. None: there is no trace of it."""

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        """Deleted runs that still have outputs, since their deletion was interrupted: some of those deleted after that
        time, and the time after which to go on; None: that was all. A scan.
        """

    async def count_tombstones(self, deleted_before: int) -> int:
        """How many runs were deleted before. A scan."""

    async def fetch_state(self, flow_run_id: str, key: str) -> RunStates:
        """A state value of a run, or none."""

    async def page_states(
        self,
        flow_run_id: str,
        run: int | None,
        bounds: tuple[str, str | None],
        after: str | None,
        limit: int,
        max_bytes: int,
    ) -> RunStates:
        """Its state values with a key from the first bound on and below the other, and above ``after``, by key: at most
        so many, and about so many bytes. With its serial ``run`` only if the id is still that run's.
        """

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        """None where it is deleted or expired, by the engine's clock; so for each of the reads of globals."""

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        """By key, with a key above ``after``."""

    async def fetch_globals(self, keys: Sequence[str]) -> list[Outcome[GlobalRecord | None]]:
        """The globals under the keys, in their order, as they were at one moment. Damaged ones: as for ``fetch``."""

    async def list_global_keys(self, prefix: str, after: str | None, limit: int | None) -> list[str]:
        """Keys of globals that are there, by code point; at most so many, or all at one moment."""

    async def count_passing_globals(self) -> int:
        """How many globals are deleted or expired, and not freed yet. A scan."""

    async def freed_version(self) -> int:
        """The highest version of a global that was freed altogether; 0: none was."""

    async def find_lease(self, name: str) -> Held | None:
        """A lease that was not given back; nothing is left of one that has ended."""

    async def list_leases(self, prefix: str) -> list[LeaseRecord]:
        """Those that have not ended, by name. A scan."""

    async def last_token(self) -> int:
        """That of the newest lease there ever was; 0: there was none."""

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        """All runs, deleted ones too, oldest first, with a serial above ``after``."""

    async def page_append_counters(self, flow_run_id: str, after: str | None, limit: int) -> list[AppendCounter]:
        """Of a run that is not deleted, by prefix, with a prefix above ``after``."""

    async def page_append_keys(
        self, flow_run_id: str, run: int, after: tuple[str, str] | None, limit: int
    ) -> list[AppendKey]:
        """The same by prefix and key, with its serial ``run`` if the id is still that run's."""

    async def page_attempts(
        self, flow_run_id: str, run: int | None, node_id: str | None, after: AttemptKey, limit: int
    ) -> AttemptPage:
        """Attempts of a run that is not deleted, behind that one; with ``node_id`` those of this node.

        Of plain outputs at most so many are passed over, and no value is read. With its serial ``run`` only if the id
        is still that run's.
        """

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        """All globals, deleted and expired ones too, by key, with a key above ``after``. Damaged ones: as for
        ``page_outputs``."""

    async def count(self) -> Counts:
        """A scan."""

    async def watch_from(self, watched: Watched, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        """Where a watcher begins: at the place that a cursor names, in a history; None: at the first commit."""

    async def page_since(self, watched: Watched, place: Place, limit: int, max_bytes: int) -> NewsPage:
        """What is watched of all that was committed behind the place, in the order of the commits; within one, by run
        and node id: at most so many, and about so many bytes.

        No output is told before one that can still come to lie before it. A damaged one is an error in its own place.
        """

    async def newest_cursor(self) -> tuple[str, CursorFields]:
        """The place behind all that is committed, as ``watch_from`` takes it: before all that is committed later."""

    async def watch_runs_from(self, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        """Where a follower of runs begins: as ``watch_from``. None: at those that there are, before what comes next."""

    async def page_runs_since(self, wanted: RunFilter, place: Place, limit: int) -> RunNewsPage:
        """Those wanted of the runs that have changed behind the place, in the order of the commits, each once, where it
        changed last: at most so many.

        None is told before one that can still come to lie before it.
        """

    async def newest_run_cursor(self) -> tuple[str, CursorFields]:
        """As ``newest_cursor``, for ``watch_runs_from``."""


class Inline(Protocol):
    """What a thread that may block does itself, in place of a job that it posts and waits for. Waits for no other."""

    def fetch_one(self, key: OutputKey) -> tuple[Epoch, Fetched] | None:
        """What ``fetch`` gives for one key, here and now; errors are raised. None: it cannot be just now; post it."""

    def read(self, read: Callable[[], Coroutine[Any, Any, T]]) -> Outcome[T] | None:
        """The same for what any other read job gives."""

    def put(self, put: PutOutput, begin: Callable[[], None], committed: Callable[[PutOutput, Epoch], None]) -> bool:
        """Commit a put, durably, if no more than that is to be done, and say so with the epoch in which it was.

        ``begin()`` is called with the right to commit, before the commit; after it nothing may be done all the same.
        False: nothing was done; post it. Raises ``StorageError`` as ``commit`` does.
        """

    def leave(self) -> None:
        """The calling thread is about to wait for the engine's end, perhaps in the middle of a read of its own: as a
        signal handler does. The engine does not wait for that read.
        """


class Maintenance(Protocol):
    """What an operator asks, on the engine host's loop, beside the reads and writes."""

    async def stats(self) -> EngineStats: ...

    async def check(self, report: Callable[[int, int], None] | None) -> CheckReport:
        """Look at everything, and stop at nothing; ``report(done, total)`` is called from any thread. What it raises
        ends the check."""

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        """Copy a snapshot to a new file, verified with ``check``; ``report(done, total)`` is called from any thread."""


class Engine(Writes, Reads, Maintenance, Protocol):
    """A place where a store is, which has a feed where other clients can write."""

    location: str
    """How messages name the store. Never a password."""
    max_value_bytes: int
    group_limits: GroupLimits
    deletes_at_once: bool
    """Whether a run may be marked as deleted and its outputs removed by one commit: no put can come in between."""
    own_threads: OwnThreads
    """The ids of the store's own threads. To wait there for a job would be to wait for oneself."""
    reports: Reports
    """What is counted of the store object, and told to its observers."""

    @property
    def epochs(self) -> Epochs:
        """What changes with each deletion of a run, by any client."""

    @property
    def inline(self) -> Inline | None:
        """For threads that may block. None: all is done by the store's own threads."""

    @property
    def feed(self) -> Feed | None:
        """What other clients write. None: there are none."""

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
