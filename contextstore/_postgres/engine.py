"""The engine past one machine: a schema in a PostgreSQL database.

Rules of this module: with _postgres_sql, all SQL of PostgreSQL. Everything here runs on the engine room's loop, over
connections of its own (_postgres_lane): one that writes, a few that read. Writes go through one at a time, grouped.

A network may lose an answer, so each write carries a token, which is stored in the rows that it writes. Whoever is
not answered connects anew and sends the same again under the same token: rows that bear it are his own. The server
makes the second wait for the first if that is still under way, so that no order of the two stores anything twice.

A deletion marks the run first, and removes its outputs in later commits. A put looks at the mark in the same statement;
one that began before the mark may still leave a row behind it, which no reader sees and the next ``prune`` removes. It
is as if the put had come first, which is right for ``delete_run``. ``prune`` must not delete a run that has just got an
output, and waits for the puts under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from .._engine.contract import GroupLimits, Job
from .._engine.epochs import AskedEpochs, Epoch
from .._engine.failures import error_for_caller, report_bug
from .._engine.operations import (
    DeleteGlobal,
    DeleteIdleRuns,
    DeleteRun,
    ForgetRuns,
    GiveBackSpace,
    IdleDeletion,
    LoadGlobal,
    LoadOutput,
    LoadRun,
    Operation,
    PutGlobal,
    PutOutput,
    Removal,
    RemoveOutputs,
    Unit,
    UpsertGlobal,
    is_deletion,
)
from .._engine.records import (
    Counts,
    Cursor,
    EngineStats,
    Extent,
    Fetched,
    GlobalRecord,
    GlobalRow,
    IdleRuns,
    OutputKey,
    RunRecord,
    RunRow,
    Wanted,
    after_prefix,
    is_intact,
    is_time,
)
from .._engine.rules import (
    StoredGlobal,
    change_global,
    damaged_output,
    marks_deleted,
    read_global,
    read_global_row,
    read_output,
    refusal_of_put,
    run_record,
)
from .._process.own_threads import OwnThreads
from .._results import CheckReport, Problem
from .._values import codec as _codec
from .._values.codec import Encoded
from .._waiting.outcome import Outcome
from ..errors import (
    ContextStoreError,
    CorruptStoreError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    RunDeletedError,
    StorageError,
    StoreBusyError,
    StoreNotFoundError,
)
from .connection import (
    Connection,
    ConnectionLostError,
    Deadline,
    TryAgainError,
    import_driver,
    state_of,
    state_of_cause,
)
from .statements import SCHEMA, SCHEMA_VERSION, statements_for
from .url import Address

T = TypeVar("T")

logger = logging.getLogger("contextstore")

_PAUSES = (0.01, 0.5)
"""Seconds between two attempts to reach the server, at first and in the end."""
_REMOVE_BYTES = 4 * 2**20
"""How many bytes of outputs a commit removes, about."""
_RUNS_A_PAGE = 20_000
"""How many runs, and tombstones, one statement looks through at most."""
_MANY = 1000
"""How many outputs of a run are looked at together with those of other runs."""
_NODE_IDS = 5000
"""How many node ids one answer of the server has."""
_FEW = 5000
"""So many runs are put in order in the time that a page takes otherwise, about."""
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_PAGE_BYTES = 2**20
"""How many bytes of values one answer of the server has, about."""
_LAST_TIME = 253_402_300_799_999_999
_NOBODY = uuid.UUID(int=0)
_LEAST_ATTEMPT = 0.05
"""Seconds without which nothing is tried again: an attempt that is cut off leaves an unknown outcome."""
_LAST_CHANCE = 1.0
"""Seconds that a commit gets at least, however long it has waited for its turn."""


class _AlreadyDoneError(Exception):
    """A row bears the token of the unit that is being tried again: it has been committed."""


class _RunForgottenError(Exception):
    """A run's tombstone was removed, and so its serial; its id may be used anew."""


class PostgresEngine:
    """A store in a schema of a PostgreSQL database, shared with any number of clients."""

    max_value_bytes = 16 * 2**20
    group_limits = GroupLimits(operations=256, bytes=2**20)
    poll_seconds = (0.005, 0.25)
    deletes_at_once = False  # a put that began before may leave a row, see above: marked, and only then removed

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        durability: str,
        read_only: bool,
        create: bool,
        max_connections: int = 4,
    ) -> None:
        import_driver()
        self.location = address.location
        self.own_threads = OwnThreads(self.location)
        self._address = address
        self._timeout = timeout
        self._max_readers = max_connections - 1  # the other one writes
        self._why_not_create = "" if create else "create=True would make one"
        if read_only:
            self._why_not_create = "with read_only=True none is made: open it once without"
        # What a role's own settings would break off is not stored, and then it was; and a lock that somebody else holds
        # must not be waited for by connections that nobody listens to any more.
        patience = max(1, int(timeout * 900))
        self._settings = {"jit": "off", "statement_timeout": "0", "lock_timeout": f"{min(patience, 2**31 - 1)}ms"}
        if durability == "normal":
            self._settings["synchronous_commit"] = "off"
        if read_only:
            self._settings["default_transaction_read_only"] = "on"
        self._durability = durability
        self._sql = statements_for(address.schema)
        self._writing = Connection(address, self._settings)
        self._idle: list[Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._jobs: set[asyncio.Task[None]] = set()
        # Serials of runs that were alive when this object last looked. What is deleted since is seen by the insert.
        self._serials: dict[str, int] = {}
        self._turn_ends = 0.0
        self._commit_time = 0
        self.epochs = AskedEpochs(address.location)
        self._has_epoch = False

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._turns = asyncio.Lock()
        self._readers = asyncio.Semaphore(self._max_readers)
        self._scanners = asyncio.Semaphore(max(1, self._max_readers - 1))  # so that a get finds one that is free
        try:
            await self._open(time.monotonic() + max(self._timeout, _LAST_CHANCE))
        except BaseException as error:
            await self.close()
            if isinstance(error, ModuleNotFoundError) and error.name == "asyncpg":
                raise StorageError(
                    f"{self.location} needs asyncpg, which is not installed: pip install asyncpg"
                ) from error
            raise

    async def _open(self, deadline: Deadline) -> None:
        collisions = 0
        last: Exception | None = None
        while True:
            try:
                await self._look_at_settings(deadline)  # before anything is made
                if await self._is_set_up(deadline):
                    self._has_epoch = await self._add_epoch(deadline)
                    break
                if self._why_not_create:
                    raise StoreNotFoundError(f"there is no store at {self.location}; {self._why_not_create}")
                await self._set_up(deadline)
                self._has_epoch = await self._add_epoch(deadline)
                break
            except ConnectionLostError as lost:
                self._writing.terminate()
                # A server that starts up or that is full will answer soon; one that does not answer at all may never.
                if isinstance(lost.__cause__, OSError | None) or time.monotonic() > deadline:
                    told = lost if lost.__cause__ is not None or last is None else last
                    if last and state_of_cause(last) == "53300" and isinstance(lost.__cause__, TimeoutError):
                        told = last  # the last attempt had no time left
                    if state_of_cause(told) == "53300":
                        raise StoreBusyError(
                            f"could not open {self.location}: {told}; it had no connection left for timeout="
                            f"{self._timeout:g} seconds: raise the server's max_connections, or lower the stores'"
                        ) from told.__cause__
                    raise StorageError(
                        f"could not connect to {self.location}: {told}; is the server running, and the URL right?"
                    ) from told.__cause__
                last = lost
            except TryAgainError as error:
                last = error
                if time.monotonic() > deadline:
                    raise StoreBusyError(f"could not open {self.location}: {error}") from error
            except StorageError as error:
                # Somebody else creates it at the same moment: 23505, 42P06, 42P07 and 42710, also in spite of IF NOT
                # EXISTS. Unless there are such tables and no store.
                if state_of(error) not in ("23505", "42P06", "42P07", "42710"):
                    raise
                collisions += 1
                if collisions > 20:
                    raise IncompatibleStoreError(
                        f"{self.location} has tables of another program; it was left as it is: name another schema"
                    ) from error
            await asyncio.sleep(random.uniform(*_PAUSES) / 4)  # noqa: S311 - no secret

    async def _is_set_up(self, deadline: Deadline) -> bool:
        try:
            rows = await self._writing.fetch(deadline, self._sql["format"])
        except StorageError as error:
            if state_of(error) in ("42P01", "3F000"):  # no such table, no such schema
                return False
            raise
        if [tuple(row) for row in rows] != [(SCHEMA_VERSION,)]:
            versions = [row[0] for row in rows]
            raise IncompatibleStoreError(
                f"{self.location} is of no version that this one knows (its store_format has {versions}, known is "
                f"{SCHEMA_VERSION}); it was left as it is: upgrade contextstore, or restore a backup"
            )
        return True

    async def _add_epoch(self, deadline: Deadline) -> bool:
        """Whether the store has an epoch. One of an earlier version gets it from the first that may give it one."""
        try:
            asked_at = time.monotonic()
            ((epoch,),) = await self._writing.fetch(deadline, self._sql["epoch"])
            self.epochs.note((epoch,), asked_at)
        except StorageError as error:
            if state_of(error) == "42501":  # a role that may not read it
                return False
            if state_of(error) != "42703":  # no such column
                raise
            try:
                await self._writing.execute(deadline, self._sql["add_epoch"])
            except (StorageError, ConnectionLostError) as refusal:
                state = state_of(refusal) if isinstance(refusal, StorageError) else state_of_cause(refusal)
                # Not its owner; a standby, or only reading; somebody has been reading the table for a second.
                if state not in ("42501", "25006", "55P03"):
                    raise
                logger.info("%s has no epoch yet: until it has, nothing is answered from memory", self.location)
                return False
        return True

    async def _set_up(self, deadline: Deadline) -> None:
        # Not "if not exists" alone, which asks for the right to make schemas also where there is one.
        if not await self._writing.fetch(deadline, self._sql["has_schema"], self._address.schema):
            await self._writing.execute(deadline, self._sql["create_schema"])
        # One string without parameters is one transaction.
        await self._writing.execute(deadline, SCHEMA.replace("{schema}", f'"{self._address.schema}"'))

    async def _look_at_settings(self, deadline: Deadline) -> None:
        settings = dict(await self._writing.fetch(deadline, self._sql["settings"]))
        if settings.get("server_encoding") != "UTF8":
            raise IncompatibleStoreError(
                f"{self.location} has the encoding {settings.get('server_encoding')}; a store needs UTF8"
            )
        if self._durability != "full":
            return
        is_ours = "synchronous_commit" in self._settings  # or whoever overrules it would be asked without end
        if settings.get("synchronous_commit") == "off" and not self._address.has_pooler and not is_ours:
            self._settings["synchronous_commit"] = (
                "on"  # for ourselves, as we have promised; never less than the server's
            )
            self._writing.terminate()
            await self._look_at_settings(deadline)
            return
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            if settings.get(name) == "off":
                logger.warning("%s has %s=off: a power cut there may lose what was acknowledged", self.location, name)
        if not settings.get("synchronous_standby_names") and await self._writing.fetch(
            deadline, self._sql["has_standby"]
        ):
            logger.warning(
                "%s has standbys, none in synchronous_standby_names: a fail-over may lose what was acknowledged",
                self.location,
            )

    async def close(self) -> None:
        while self._jobs:
            await asyncio.wait(self._jobs)
        self._loop = None
        for connection in (self._writing, *self._idle):
            await connection.close()
        self._idle.clear()
        self._serials.clear()

    def post_write(self, job: Job) -> None:
        self._post(job)

    def post_read(self, job: Job) -> None:
        self._post(job)

    def post_scan(self, job: Job) -> None:
        async def scan() -> None:
            async with self._scanners:
                await job()

        self._post(scan)

    def _post(self, job: Job) -> None:
        loop = self._loop
        if loop is None:
            raise StorageError(f"{self.location} is closed")
        if threading.get_ident() == self._loop_thread:
            self._start(job)
        else:
            loop.call_soon_threadsafe(
                self._start, job, context=contextvars.Context()
            )  # not the first caller's, for ever

    def _start(self, job: Job) -> None:
        task = asyncio.ensure_future(self._run(job))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _run(self, job: Job) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - a bug; nobody waits for this task
            report_bug("a job of %s failed in an unforeseen way", self.location, error=error)

    # -- writes -------------------------------------------------------------------------------------------------------

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        await self._turns.acquire()
        self.epochs.begin_write()
        self._turn_ends = time.monotonic() + self._timeout
        pause, longest = _PAUSES
        try:
            while not self._writing.is_connected:
                try:
                    await self._writing.connect(time.monotonic() + min(self._timeout, 5.0))
                except (ConnectionLostError, TryAgainError) as error:
                    logger.info("%s does not answer: %s", self.location, error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
                    if not wanted():
                        self._turns.release()
                        return False
        except BaseException:
            self._turns.release()
            raise
        return True

    def release_write(self) -> None:
        self._turns.release()

    async def maintain(self) -> None:
        """Nothing to do: the server does it."""

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        deadline = max(self._turn_ends, time.monotonic() + _LAST_CHANCE)
        # By this machine's clock, as on SQLite: an age is reckoned by the clock of whoever asks.
        self._commit_time = time.time_ns() // 1000
        outcomes: list[Outcome[list[Any]] | None] = [None] * len(units)
        puts = {place: unit[0] for place, unit in enumerate(units) if len(unit) == 1 and type(unit[0]) is PutOutput}
        if puts:
            for place, outcome in (await self._put_outputs(puts, deadline)).items():
                outcomes[place] = outcome
        for place, unit in enumerate(units):
            if outcomes[place] is None:
                try:
                    outcomes[place] = Outcome(await self._commit_unit(unit, deadline))
                except ContextStoreError as error:
                    if any(map(is_deletion, unit)):
                        self.epochs.lose()
                    outcomes[place] = Outcome.failure(error)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _put_outputs(self, puts: dict[int, PutOutput], deadline: Deadline) -> dict[int, Outcome[list[Any]]]:
        """Put them in one statement; each is refused for itself. By place in the group.

        Raises StorageError if the server refused the statement for good: then nothing is stored.
        """
        outcomes: dict[int, Outcome[list[Any]]] = {}
        left, token = puts, uuid.uuid4()
        unanswered = False  # whether an insert of these was sent under this token, and nobody knows what became of it
        attempt = _Attempts(self.location, deadline)
        while left:
            # A key once at a time: who comes later with the same is refused, or not, by what is there then.
            now = {(put.flow_run_id, put.node_id): place for place, put in reversed(left.items())}
            try:
                runs = await self._alive_runs(sorted({key[0] for key in now}), token, deadline)
                self._remember(runs)
                rows: _Rows = []
                for (flow_run_id, _), place in now.items():
                    serial = runs[flow_run_id]
                    if serial is None:
                        outcomes[place] = Outcome.failure(RunDeletedError(flow_run_id))
                    else:
                        rows.append((serial, place, left[place]))
                if rows:
                    try:
                        inserted = await self._insert_outputs(rows, token, deadline)
                    except ConnectionLostError as lost:
                        unanswered = unanswered or not lost.is_refusal
                        raise
                    outcomes |= {place: Outcome([None]) for place in inserted}
                    outcomes |= await self._look_back([row for row in rows if row[1] not in inserted], token, deadline)
            except (ConnectionLostError, TryAgainError) as error:
                left = {place: put for place, put in left.items() if place not in outcomes}
                if not await attempt.may_go_on(error):
                    return outcomes | self._failures(attempt.failure(unanswered), left)
                continue
            except StorageError as error:  # refused for good
                left = {place: put for place, put in left.items() if place not in outcomes}
                if not unanswered and not outcomes:
                    raise  # nothing is stored: the writer goes on one by one
                told = attempt.unknown(error) if unanswered else error
                return outcomes | self._failures(told, left)
            before = len(left)
            left = {place: put for place, put in left.items() if place not in outcomes}
            if len(left) < before:  # those with keys of their own are done: the rest are other writes
                token, unanswered = uuid.uuid4(), False
        return outcomes

    def _failures(self, error: StorageError, left: Iterable[int]) -> dict[int, Outcome[list[Any]]]:
        return {place: Outcome.failure(error_for_caller(error, self.location)) for place in left}

    async def _alive_runs(self, flow_run_ids: list[str], token: uuid.UUID, deadline: Deadline) -> dict[str, int | None]:
        """The serials of the runs, which are made if they are new; None: the run is deleted."""
        found: dict[str, int | None] = {run: self._serials[run] for run in flow_run_ids if run in self._serials}
        missing = [run for run in dict.fromkeys(flow_run_ids) if run not in found]
        while missing:
            for run, serial, is_deleted in await self._writing.fetch(deadline, self._sql["find_runs"], missing):
                found[run] = None if is_deleted else serial
            missing = [run for run in missing if run not in found]
            if missing:
                await self._writing.execute(deadline, self._sql["insert_runs"], missing, token, self._commit_time)
        return found

    def _remember(self, runs: dict[str, int | None]) -> None:
        if len(self._serials) > 10_000:
            self._serials.clear()
        self._serials.update({run: serial for run, serial in runs.items() if serial is not None})

    async def _insert_outputs(self, rows: _Rows, token: uuid.UUID, deadline: Deadline) -> set[int]:
        """The places of those rows (serial, place, put) that were not there and are now."""
        columns = _columns([(serial, put) for serial, _, put in rows], self._commit_time)
        if len(rows) == 1:
            one = [column[0] for column in columns]
            new = await self._writing.fetch(deadline, self._sql["insert_output"], *one, token)
        else:
            new = await self._writing.fetch(deadline, self._sql["insert_outputs"], *columns, token)
        if len(new) == len(rows):
            return {place for _, place, _ in rows}
        keys = {tuple(row) for row in new}
        return {place for serial, place, put in rows if (serial, put.node_id) in keys}

    async def _look_back(self, rows: _Rows, token: uuid.UUID, deadline: Deadline) -> dict[int, Outcome[list[Any]]]:
        """What became of rows that were not inserted, by place; a place that is missing is to be tried again."""
        outcomes: dict[int, Outcome[list[Any]]] = {}
        if not rows:
            return outcomes
        keys = [[serial for serial, _, _ in rows], [put.node_id for _, _, put in rows]]
        names = [put.flow_run_id for _, _, put in rows]
        looked = await self._writing.fetch(deadline, self._sql["look_back"], *keys, names)
        others: list[tuple[tuple[int, int, PutOutput | LoadOutput], int]] = []
        for row, (run_is_there, is_deleted, writer, size) in zip(rows, looked, strict=True):
            _, place, put = row
            if not run_is_there or is_deleted:
                self._serials.pop(put.flow_run_id, None)
            if run_is_there and is_deleted:
                outcomes[place] = Outcome.failure(RunDeletedError(put.flow_run_id))
            elif writer == token:
                outcomes[place] = Outcome([None])
            elif writer is not None:
                others.append((row, size))
        for some in _pieces(others):
            outcomes |= await self._compare(some, deadline)
        return outcomes

    async def _compare(self, rows: _Rows, deadline: Deadline) -> dict[int, Outcome[list[Any]]]:
        """The outcomes of puts to outputs that somebody else has written."""
        keys = [[serial for serial, _, _ in rows], [put.node_id for _, _, put in rows]]
        try:
            found = await self._writing.fetch(deadline, self._sql["stored_values"], *keys)
        except CorruptStoreError as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return await self._compare(rows[:half], deadline) | await self._compare(rows[half:], deadline)
            ((_, place, put),) = rows
            return {place: Outcome.failure(self._damaged(put.flow_run_id, put.node_id, error))}
        outcomes: dict[int, Outcome[list[Any]]] = {}
        for (_, place, put), (codec, value, checksum, size) in zip(rows, found, strict=True):
            if value is None:  # deleted since
                continue
            stored = Encoded(codec, value)
            if not is_intact(put.flow_run_id, put.node_id, stored, checksum, size):
                outcomes[place] = Outcome.failure(self._damaged(put.flow_run_id, put.node_id))
                continue
            refusal = refusal_of_put(put, stored)
            outcomes[place] = Outcome([None]) if refusal is None else Outcome.failure(refusal)
        return outcomes

    # -- units that are more than one put: a transaction each ----------------------------------------------------------

    async def _commit_unit(self, unit: Unit, deadline: Deadline) -> list[Any]:
        token = uuid.uuid4()
        attempt = _Attempts(self.location, deadline)
        unanswered: list[Any] | None = None  # the results of an earlier attempt, if the answer to its COMMIT was lost
        found: dict[str, _Version] = {}  # how its globals were before
        while True:
            results: list[Any] | None = None  # known before COMMIT is sent
            seen: dict[str, _Version] = {}
            try:
                async with self._transaction(self._writing, "BEGIN", deadline):
                    results = await self._apply_unit(unit, token, unanswered, found, seen, deadline)
                    changed = await self._change_epoch(unit, deadline)
                if changed is not None:
                    self.epochs.deleted(*changed)
                return results
            except _AlreadyDoneError:
                assert unanswered is not None
                if any(map(is_deletion, unit)):
                    self.epochs.lose()
                return unanswered
            except _RunForgottenError:  # since its serial was looked up
                continue
            except TryAgainError as error:  # the server has undone this attempt for certain
                if not await attempt.may_go_on(error):
                    raise attempt.failure(unanswered is not None) from error
            except ConnectionLostError as error:
                if results is not None and unanswered is None and not error.is_refusal:
                    unanswered, found = results, seen
                in_time = await attempt.may_go_on(error)
                if not in_time or (unanswered and not any(_leaves_a_token(operation) for operation in unit)):
                    raise attempt.failure(unanswered is not None) from error
            except StorageError as error:  # refused for good
                if unanswered is None or error.outcome_unknown:
                    raise
                raise attempt.unknown(error) from error

    async def _change_epoch(self, unit: Unit, deadline: Deadline) -> tuple[Epoch, Epoch] | None:
        """Last in its transaction, since all deletions wait for each other here: the epochs before and after."""
        if not any(map(is_deletion, unit)):
            return None
        if not self._has_epoch:  # unless somebody has given it one since, by which others now go
            self._has_epoch = bool(await self._writing.fetch(deadline, self._sql["has_epoch"]))
        if not self._has_epoch:
            return None
        ((before, after),) = await self._writing.fetch(deadline, self._sql["change_epoch"])
        return (before,), (after,)

    @contextlib.asynccontextmanager
    async def _transaction(self, connection: Connection, begin: str, deadline: Deadline) -> AsyncIterator[None]:
        await connection.execute(deadline, begin)
        connection.is_in_transaction = True
        try:
            yield
            await connection.execute(deadline, "COMMIT")
        except BaseException as error:
            if not isinstance(error, ConnectionLostError):  # also where COMMIT itself was refused
                with contextlib.suppress(ConnectionLostError, TryAgainError, StorageError):
                    await connection.execute(deadline, "ROLLBACK")
            raise
        finally:
            connection.is_in_transaction = False

    async def _apply_unit(
        self,
        unit: Unit,
        token: uuid.UUID,
        unanswered: list[Any] | None,
        found: dict[str, _Version],
        seen: dict[str, _Version],
        deadline: Deadline,
    ) -> list[Any]:
        results: list[Any] = [None] * len(unit)
        refused: dict[int, ContextStoreError] = {}
        for operation in unit:  # before their outputs
            if isinstance(operation, LoadRun):
                await self._load_run(operation, token, deadline)
        puts = {place: operation for place, operation in enumerate(unit) if isinstance(operation, _Put)}
        if puts and await self._apply_puts(puts, token, unanswered is not None, refused, deadline):
            unanswered = None  # they were not there: an earlier attempt cannot have succeeded
        keys = sorted({o.key for o in unit if isinstance(o, _GlobalOperation)})
        if keys:
            before = found if unanswered else None
            await self._apply_globals(unit, keys, token, before, seen, results, refused, deadline)
        if refused:
            raise refused[min(refused)]
        for place, operation in enumerate(unit):
            match operation:
                case DeleteRun():
                    results[place] = await self._delete_run(operation, token, deadline)
                case DeleteIdleRuns():
                    results[place] = await self._delete_idle_runs(operation, token, deadline)
                case RemoveOutputs():
                    results[place] = await self._remove_outputs(operation, deadline)
                case ForgetRuns():
                    results[place] = await self._forget_runs(operation, deadline)
                case GiveBackSpace():  # the server does so by itself
                    results[place] = 0
        return results

    async def _apply_puts(
        self,
        puts: dict[int, PutOutput | LoadOutput],
        token: uuid.UUID,
        is_retry: bool,
        refused: dict[int, ContextStoreError],
        deadline: Deadline,
    ) -> bool:
        """Whether any of them was new."""
        serials = await self._alive_runs([put.flow_run_id for put in puts.values()], token, deadline)
        rows: list[tuple[int, int, PutOutput | LoadOutput]] = []
        keys: dict[OutputKey, PutOutput | LoadOutput] = {}
        for place, put in puts.items():
            serial = serials[put.flow_run_id]
            twin = keys.setdefault((put.flow_run_id, put.node_id), put)
            if serial is None:
                refused[place] = RunDeletedError(put.flow_run_id)
            elif twin is not put:
                refusal = refusal_of_put(put, twin.value)
                if refusal is not None:
                    refused[place] = refusal
            else:
                rows.append((serial, place, put))
        anything_new = False
        for some in _parts(rows, self.group_limits):
            inserted = await self._insert_outputs(some, token, deadline)
            anything_new = anything_new or bool(inserted)
            rest = [row for row in some if row[1] not in inserted]
            looked = await self._look_back(rest, token, deadline)
            for _, place, _ in rest:
                outcome = looked.get(place)
                if outcome is None:
                    raise _RunForgottenError
                if isinstance(outcome.error, ContextStoreError):
                    refused[place] = outcome.error
        if is_retry and rows and not anything_new and await self._is_done(rows, token, deadline):
            raise _AlreadyDoneError
        return anything_new

    async def _is_done(self, rows: _Rows, token: uuid.UUID, deadline: Deadline) -> bool:
        """Whether one of the rows bears the token: an earlier attempt has been committed."""
        keys = [[serial for serial, _, _ in rows], [put.node_id for _, _, put in rows]]
        names = [put.flow_run_id for _, _, put in rows]
        looked = await self._writing.fetch(deadline, self._sql["look_back"], *keys, names)
        return any(writer == token for _, _, writer, _ in looked)

    async def _apply_globals(
        self,
        unit: Unit,
        keys: list[str],
        token: uuid.UUID,
        before: dict[str, _Version] | None,
        seen: dict[str, _Version],
        results: list[Any],
        refused: dict[int, ContextStoreError],
        deadline: Deadline,
    ) -> None:
        """``before``: how they were before an earlier attempt whose answer was lost; ``seen``: how they are now."""
        await self._writing.execute(deadline, self._sql["claim_globals"], keys, _NOBODY)
        state = {row[0]: row for row in await self._writing.fetch(deadline, self._sql["lock_globals"], keys)}
        seen.update({key: (row[1], row[2]) for key, row in state.items()})
        if any(writer == token for _, writer in seen.values()):
            raise _AlreadyDoneError
        if before is not None and seen != before:
            # Others have written, or deleted, one of them since: before the earlier attempt, or after it.
            raise StorageError(f"the connection to {self.location} was lost during a commit", True)
        for place, operation in enumerate(unit):
            if not isinstance(operation, _GlobalOperation):
                continue
            key, version, _, codec, value, checksum, size, written_at = state[operation.key]
            stored = StoredGlobal(key, codec, value, checksum, version, written_at, size)
            try:
                change = change_global(self.location, stored, operation)
            except ContextStoreError as error:
                refused[place] = error
                continue
            results[place] = change.result
            if change.version is None:
                continue
            columns: tuple[Any, ...] = (None, None, None, None)
            if change.value is not None:
                value = change.value
                columns = (value.codec, value.data, _codec.checksum("", key, value), len(value.data))
            at = self._commit_time if change.written_at is None else change.written_at
            write = self._sql["write_global"]
            await self._writing.execute(deadline, write, key, change.version, token, *columns, at)

    async def _remove_outputs(self, remove: RemoveOutputs, deadline: Deadline) -> Removal:
        rows = await self._writing.fetch(deadline, self._sql["deleted_serials"], list(remove.flow_run_ids))
        return await self._remove_outputs_of(dict(rows), remove.limit, deadline)

    async def _remove_outputs_of(self, runs: dict[int, str], limit: int, deadline: Deadline) -> Removal:
        """Of these runs, by serial."""
        gone = await self._writing.fetch(deadline, self._sql["remove_outputs"], list(runs), limit, _REMOVE_BYTES)
        left = await self._writing.fetch(deadline, self._sql["with_outputs"], list(runs))
        return Removal(len(gone), sum(size for (size,) in gone), tuple(runs[serial] for (serial,) in left))

    async def _forget_runs(self, forget: ForgetRuns, deadline: Deadline) -> tuple[int, int | None]:
        rows = await self._writing.fetch(deadline, self._sql["lock_forgettable"], *forget)
        serials = [serial for serial, _ in rows]
        forgotten = await self._writing.execute(deadline, self._sql["forget_runs"], serials)
        return forgotten, max(deleted_at for _, deleted_at in rows) if len(rows) == forget.limit else None

    async def _delete_idle_runs(self, delete: DeleteIdleRuns, token: uuid.UUID, deadline: Deadline) -> IdleDeletion:
        names = list(delete.flow_run_ids)
        locked = await self._writing.fetch(deadline, self._sql["lock_idle_runs"], names, delete.idle_since)
        if any(is_deleted and writer == token for *_, is_deleted, writer in locked):
            raise _AlreadyDoneError
        serials = {name: serial for serial, name, is_old, is_deleted, _ in locked if is_old and not is_deleted}
        rows = await self._writing.fetch(deadline, self._sql["extents"], list(serials.values()))
        extents = {row[0]: row[1:] for row in rows}
        marked: dict[int, str] = {}
        done = outputs = size = 0
        for name in names:
            self._serials.pop(name, None)
            serial = serials.get(name)
            if serial is not None:
                count, of_this, first, last = extents[serial]
                if count and first >= 0 and last < delete.idle_since:
                    if marked and (outputs + count > delete.limit or size + of_this > _REMOVE_BYTES):
                        break  # in the next commit
                    marked[serial] = name
                    outputs, size = outputs + count, size + of_this
            done += 1
        if not marked:
            return IdleDeletion(done, 0, 0, 0, ())
        await self._writing.execute(deadline, self._sql["mark_deleted"], list(marked), token, self._commit_time)
        removal = await self._remove_outputs_of(marked, delete.limit, deadline)
        return IdleDeletion(done, len(marked), *removal)

    async def _delete_run(self, delete: DeleteRun, token: uuid.UUID, deadline: Deadline) -> bool:
        await self._writing.execute(
            deadline, self._sql["insert_runs"], [delete.flow_run_id], _NOBODY, self._commit_time
        )
        rows = await self._writing.fetch(deadline, self._sql["lock_run"], delete.flow_run_id)
        self._serials.pop(delete.flow_run_id, None)
        ((serial, is_deleted, writer),) = rows
        if is_deleted:
            if writer == token:
                raise _AlreadyDoneError
            return False
        await self._writing.execute(deadline, self._sql["mark_deleted"], [serial], token, self._commit_time)
        return True

    async def _load_run(self, load: LoadRun, token: uuid.UUID, deadline: Deadline) -> None:
        await self._writing.execute(deadline, self._sql["load_run"], *load, token)
        ((serial, is_deleted, _),) = await self._writing.fetch(deadline, self._sql["lock_run"], load.flow_run_id)
        if marks_deleted(load, is_deleted):
            await self._writing.execute(deadline, self._sql["mark_deleted"], [serial], token, load.deleted_at)
            self._serials.pop(load.flow_run_id, None)

    # -- reads --------------------------------------------------------------------------------------------------------

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """The rows of a statement that only reads, tried until the timeout."""
        attempt = _Attempts(self.location, time.monotonic() + max(self._timeout, _LAST_CHANCE))
        while True:
            try:
                async with self._reading() as connection:
                    return await connection.fetch(attempt.deadline, self._sql[statement], *arguments)
            except (ConnectionLostError, TryAgainError) as error:
                if not await attempt.may_go_on(error):
                    raise attempt.failure(False) from error

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        async with self._readers:
            connection = self._idle.pop() if self._idle else Connection(self._address, self._settings)
            try:
                yield connection
            finally:
                self._idle.append(connection)

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        return await self._outputs(keys)

    async def _outputs(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        found: list[Fetched] = [Outcome(None)] * len(keys)
        # The epoch comes with what was read, by the same snapshot: else a run that another client has begun anew under
        # its id would stand in the cache beside its former life. None comes where nothing is there to be kept.
        statement = "fetch_outputs_in_epoch" if self._has_epoch else "fetch_outputs"
        asked_at = time.monotonic()
        try:
            rows = await self._fetch(statement, [key[0] for key in keys], [key[1] for key in keys])
        except CorruptStoreError as error:
            if len(keys) == 1:
                return None, [Outcome.failure(self._damaged(*keys[0], error))]
            half = len(keys) // 2  # so that only those who need it are told
            first, second = await self._outputs(keys[:half]), await self._outputs(keys[half:])
            return first[0] if first[0] == second[0] else None, [*first[1], *second[1]]
        epoch: Epoch = None
        for place, deletions, *columns in rows:
            flow_run_id, node_id = keys[place - 1]
            found[place - 1] = read_output(self.location, flow_run_id, (node_id, *columns))
            epoch = None if deletions is None else (deletions,)
        if epoch is not None:
            self.epochs.note(epoch, asked_at)
        return epoch, found

    def _damaged(self, flow_run_id: str, node_id: str, error: Exception | None = None) -> CorruptStoreError:
        return damaged_output(self.location, flow_run_id, node_id, error)

    async def exists(self, key: OutputKey) -> bool:
        return bool(await self._fetch("exists", *key))

    async def first_node_ids(self, flow_run_id: str, prefix: str, limit: int) -> list[str]:
        ((names,),) = await self._fetch("first_node_ids", flow_run_id, prefix, _end_of(prefix), limit)
        return names or []

    async def list_node_ids(self, flow_run_id: str, prefix: str) -> list[str]:
        attempt = _Attempts(self.location, time.monotonic() + max(self._timeout, _LAST_CHANCE))
        while True:
            try:
                async with (
                    self._reading() as connection,
                    self._transaction(connection, _SNAPSHOT, attempt.deadline),
                ):
                    return await self._all_node_ids(connection, flow_run_id, prefix)
            except (ConnectionLostError, TryAgainError) as error:
                if not await attempt.may_go_on(error):
                    raise attempt.failure(False) from error

    async def _all_node_ids(self, connection: Connection, flow_run_id: str, prefix: str) -> list[str]:
        names: list[str] = []
        page: list[str] | None = None
        while page is None or len(page) == _NODE_IDS:
            statement = self._sql["next_node_ids" if names else "first_node_ids"]
            bounds = (names[-1] if names else prefix, _end_of(prefix))
            deadline = time.monotonic() + max(self._timeout, _LAST_CHANCE)  # of each answer: there may be many
            ((page,),) = await connection.fetch(deadline, statement, flow_run_id, *bounds, _NODE_IDS)
            page = page or []
            names += page
        return names

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int
    ) -> list[Fetched]:
        try:
            rows = await self._fetch("page_outputs", flow_run_id, run, after, limit, max_bytes)
        except CorruptStoreError as error:
            if limit > 1:
                return await self.page_outputs(flow_run_id, run, after, 1, max_bytes)
            names = await self._fetch("next_node_id", flow_run_id, after)
            if not names:
                raise
            return [Outcome.failure(self._damaged(flow_run_id, names[0][0], error))]
        return [read_output(self.location, flow_run_id, row) for row in rows]

    async def list_runs(self, prefix: str, after: str | None, limit: int) -> list[RunRecord]:
        below = 2**63 - 1
        if after is not None:
            rows = await self._fetch("serial_of", after)
            if not rows:
                raise LookupError(after)
            ((below,),) = rows
        # By the serial, so that a page costs the same at any size. But a few that have the prefix are found by it: the
        # planner, which does not see how many have it, would go through all runs for them.
        statement = "list_runs"
        if prefix:
            ((matches,),) = await self._fetch("count_prefix", prefix, _end_of(prefix), _FEW + 1)
            statement = "list_runs" if matches > _FEW else "list_few_runs"
        return self._sound_runs(await self._fetch(statement, below, prefix, _end_of(prefix), limit))

    async def page_idle_runs(self, after: int, idle_since: int, limit: int) -> IdleRuns:
        ((last,),) = await self._fetch("end_of_page", after, _RUNS_A_PAGE)
        if last is None:
            return IdleRuns([], 0, None, None)
        rows = await self._fetch("idle_runs", after, last, idle_since, limit, _MANY)
        if len(rows) == limit:
            last = rows[-1][0]
        large = [serial for serial, _, count in rows if count > _MANY]
        for serial, _, _, first, newest in await self._fetch("extents", large) if large else ():
            if first is None or not (first >= 0 and newest < idle_since):  # None: removed since by somebody else
                rows = [row for row in rows if row[0] != serial]
        ((looked_at,),) = await self._fetch("count_page", after, last)
        return IdleRuns([(name, count) for _, name, count in rows if count], looked_at, last, None)

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        (row,) = await self._fetch("measure_runs", list(flow_run_ids))
        return Extent(*map(int, row))

    async def count_runs(self) -> int:
        ((count,),) = await self._fetch("count_runs")
        return int(count)

    def _sound_runs(self, rows: list[Any]) -> list[RunRecord]:
        return [run_record(row[0], row[1], row[2], row[3], (row[4], row[5])) for row in rows]

    async def is_deleted(self, flow_run_id: str) -> bool:
        return bool(await self.deleted_among([flow_run_id]))

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        ((last,),) = await self._fetch("end_of_deletions", after, _RUNS_A_PAGE)
        if last is None:
            return [], None
        return [flow_run_id for (flow_run_id,) in await self._fetch("unfinished_deletions", after, last)], int(last)

    async def count_tombstones(self, deleted_before: int) -> int:
        ((count,),) = await self._fetch("count_tombstones", deleted_before)
        return int(count)

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        rows = await self._fetch("fetch_global", key)
        return self._global_record(rows[0]) if rows else None

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        rows = await self._fetch("page_globals", prefix, after, after_prefix(prefix), limit)
        return [self._global_record(row) for row in rows]

    def _global_record(self, row: Any) -> GlobalRecord:
        return read_global(self.location, StoredGlobal(*row))

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        return [RunRow(*row) for row in await self._fetch("page_run_rows", after, limit)]

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        try:
            rows = await self._fetch("page_global_rows", after, limit, _PAGE_BYTES)
        except CorruptStoreError as error:
            if limit > 1:
                return await self.page_global_rows(after, 1)
            names = await self._fetch("next_global", after)
            if not names:
                raise
            return [Outcome.failure(CorruptStoreError(error.message, key=names[0][0]))]
        return [read_global_row(self.location, StoredGlobal(*row)) for row in rows]

    async def count(self) -> Counts:
        (row,) = await self._fetch("count")
        return Counts(*map(int, row))

    # -- beside the reads and writes ----------------------------------------------------------------------------------

    @property
    def feed(self) -> PostgresEngine:
        return self

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        # No feed of all that is committed: ids and times are given before the commit, so that one may become visible
        # behind another that was seen already. What is waited for is looked up instead, which misses nothing.
        counts = dict(cursor or {})
        found: list[OutputKey] = []
        outputs, runs = wanted() if cursor is not None else ((), ())
        if outputs:
            rows = await self._fetch("waited_for", [key[0] for key in outputs], [key[1] for key in outputs])
            found += [(flow_run_id, node_id) for flow_run_id, node_id in rows]
        if runs:
            for flow_run_id, *count in await self._fetch("count_of_runs", list(runs)):
                if counts.get(flow_run_id) != count:  # or another run of that id has as many
                    counts[flow_run_id] = count
                    names = await self.first_node_ids(flow_run_id, "", _NODE_IDS)
                    if len(names) == _NODE_IDS:
                        names = await self.list_node_ids(flow_run_id, "")
                    found += [(flow_run_id, node_id) for node_id in names]
        # Never the same cursor as before: a deletion changes nothing that is looked at here.
        return counts | {"": counts.get("", 0) + 1}, found

    def deletion_epoch(self) -> int | None:
        return None

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        return [flow_run_id for (flow_run_id,) in await self._fetch("deleted_among", list(flow_run_ids))]

    async def stats(self) -> EngineStats:
        ((version, size),) = await self._fetch("size")
        return EngineStats(f"PostgreSQL {version}", int(size), 0, False)

    async def check(self) -> CheckReport:
        async with self._scanners:
            return await self._check()

    async def _check(self) -> CheckReport:
        problems: list[Problem] = []
        outputs = globals_ = leftovers = 0
        run, node_id = -1, ""
        while rows := await self._fetch("check_outputs", run, node_id):
            run, node_id = rows[-1][:2]
            wanted: list[tuple[OutputKey, int]] = []
            for serial, node, flow_run_id, is_deleted, written_at, size in rows:
                outputs += 1
                leftovers += is_deleted
                if flow_run_id is None:
                    problems.append(Problem("output", (f"run number {serial}", node), "it belongs to no run"))
                elif not is_deleted:
                    wanted.append(((flow_run_id, node), size))
                    if not is_time(written_at):
                        problems.append(Problem("output", (flow_run_id, node), f"{written_at!r} is no time"))
            for keys in _pieces(wanted):
                for key, outcome in zip(keys, (await self._outputs(keys))[1], strict=True):
                    if outcome.error is not None and not any(problem.key == key for problem in problems):
                        problems.append(Problem("output", key, str(outcome.error)))
        after, is_first = "", True
        while rows := await self._fetch("check_globals", after, is_first):
            is_first, after = False, rows[-1][0]
            live = []
            for name, version, written_at, size, is_deleted in rows:
                if version < 1 or not is_time(written_at):
                    problems.append(Problem("global", (name,), f"{version!r} is no version, or {written_at!r} no time"))
                elif not is_deleted:
                    live.append((name, size))
            globals_ += len(live)
            for names in _pieces(live):
                problems += await self._check_globals(names)
        for flow_run_id, created_at, deleted_at in await self._fetch("check_runs", _LAST_TIME):
            problems.append(Problem("run", (flow_run_id,), f"{created_at!r} or {deleted_at!r} is no time"))
        note = f"{leftovers} outputs of deleted runs still take up space: prune() removes them"
        notes = (note,) if leftovers else ()
        return CheckReport((await self.count()).runs, outputs, globals_, tuple(problems), notes)

    async def _check_globals(self, names: list[str]) -> list[Problem]:
        try:
            rows = await self._fetch("values_of_globals", names)
        except CorruptStoreError as error:
            if len(names) == 1:
                return [Problem("global", (names[0],), str(error))]
            half = len(names) // 2
            return [*await self._check_globals(names[:half]), *await self._check_globals(names[half:])]
        problems = []
        for row in rows:
            try:
                self._global_record(row)
            except CorruptStoreError as error:
                problems.append(Problem("global", (row[0],), str(error)))
        return problems

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        raise StorageError(
            f"{self.location} is not copied to a file by backup(): use copy(store, ContextStore({path!r})), or the "
            "server's pg_dump"
        )


class _Attempts:
    """How often something is tried against a server that may be away for a while."""

    def __init__(self, location: str, deadline: Deadline) -> None:
        self.deadline = deadline
        self._location = location
        self._pause = _PAUSES[0]
        self._last: Exception | None = None

    async def may_go_on(self, error: Exception) -> bool:
        """After a failure: wait a little. False: the time is up."""
        self._last = error
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - so that two that collide do not meet again
        if time.monotonic() + pause + _LEAST_ATTEMPT > self.deadline:
            return False
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, _PAUSES[1])
        return True

    def unknown(self, error: Exception | None) -> StorageError:
        """After a commit whose answer was lost, when it could not be found out what became of it."""
        unknown = StorageError(f"the connection to {self._location} was lost during a commit: {error}", True)
        unknown.__cause__ = error
        return unknown

    def failure(self, outcome_unknown: bool) -> StorageError:
        if outcome_unknown:
            return self.unknown(self._last)
        failure: StorageError
        if getattr(self._last, "is_refusal", False) and state_of_cause(self._last) == "25006":
            failure = ReadOnlyStoreError(f"{self._location} cannot be written: {self._last}; nothing was stored")
        else:
            failure = StoreBusyError(f"{self._location} did not answer in time; nothing was stored: {self._last}")
        failure.__cause__ = self._last
        return failure


def _leaves_a_token(operation: Operation) -> bool:
    return not isinstance(operation, RemoveOutputs | ForgetRuns)


def _end_of(prefix: str) -> str:
    """What sorts above every id with this prefix, and below all others above it: an index can be searched up to it."""
    return after_prefix(prefix) or "\U0010ffff" * 1000  # no id is that long


_Rows: TypeAlias = "list[tuple[int, int, PutOutput | LoadOutput]]"
"""Of puts: the serial of its run, its place in the group, itself."""
_Version: TypeAlias = tuple[int, uuid.UUID]
"""Of a global: its version, and the token of who wrote it."""
_Put = PutOutput | LoadOutput
_GlobalOperation = PutGlobal | UpsertGlobal | DeleteGlobal | LoadGlobal


def _columns(rows: Sequence[tuple[int, PutOutput | LoadOutput]], now: int) -> tuple[list[Any], ...]:
    return (
        [serial for serial, _ in rows],
        [put.node_id for _, put in rows],
        [put.value.codec for _, put in rows],
        [_codec.checksum(put.flow_run_id, put.node_id, put.value) for _, put in rows],
        [put.value.data for _, put in rows],
        [put.written_at if isinstance(put, LoadOutput) else now for _, put in rows],
        [put.flow_run_id for _, put in rows],
    )


def _pieces(sized: Sequence[tuple[T, int]]) -> list[list[T]]:
    """In their order, in pieces of about a page's bytes, by the sizes beside them, which may be damaged."""
    pieces: list[list[T]] = []
    left = 0
    for one, size in sized:
        if left <= 0:
            pieces.append([])
            left = _PAGE_BYTES
        pieces[-1].append(one)
        left -= max(1, size)
    return pieces


def _parts(rows: _Rows, limits: GroupLimits) -> list[_Rows]:
    """Sorted by key, in parts of bounded size."""
    parts: list[_Rows] = []
    size = limits.bytes
    for row in sorted(rows, key=lambda row: (row[0], row[2].node_id)):
        size += len(row[2].value.data)
        if size > limits.bytes or len(parts[-1]) >= limits.operations:
            parts.append([])
            size = len(row[2].value.data)
        parts[-1].append(row)
    return parts
