"""The programs whose disk is recorded: each says in the log what it tries, what it is told and what it sees.

Run as ``python -m tests.torture.workload`` with the shim under it. The plan follows from the seed; how threads and
tasks take turns does not, which is why what was found is replayed from the log and not from the program.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import errno
import itertools
import os
import pathlib
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    IncompatibleStoreError,
    RunDeletedError,
    StorageError,
    StoreNotFoundError,
)
from contextstore._core import retention as _retention
from contextstore._dispatch import writer as _writer
from contextstore._sqlite import engine as _sqlite_engine
from contextstore._sqlite import file as _sqlite
from contextstore._sqlite import single_put as _single_put
from contextstore._sqlite import visit as _sqlite_visit
from contextstore._sqlite import wal as _wal
from contextstore._sqlite import worker as _worker
from contextstore._sqlite import writes as _sqlite_writes
from contextstore._sqlite.worker import connection_here
from contextstore._waiting.outcome import Outcome

from .facts import contested_value_of, global_value_of, value_of
from .shim import SYNC, Shim

STORE = "store.db"


class Marks(Protocol):
    def mark(self, *words: Any) -> None:
        """Have these words in the log, before anything that comes later."""


class Teller:
    """Writes what becomes of each call into the log."""

    def __init__(self, marks: Marks, folder: pathlib.Path) -> None:
        self._marks = marks
        self.folder = folder
        self._numbers = itertools.count()
        self.faults_expected = False

    def attempt(self, words: list[Any]) -> str:
        number = f"{os.getpid()}-{next(self._numbers)}"
        self._marks.mark("try", number, *words)
        return number

    def acknowledged(self, attempt: str, result: Any) -> None:
        self._marks.mark("ack", attempt, result)

    def refused(self, attempt: str, words: list[Any], error: Exception) -> None:
        """Only what an earlier life of the program explains; anything else is not expected here."""
        self._marks.mark("no", attempt, type(error).__name__)
        match words:
            case [_, run, *_] if isinstance(error, RunDeletedError):
                self._marks.mark("saw", "deleted", run)
            case ["put", run, node] if isinstance(error, AlreadyExistsError):
                self.saw_output(run, node)
            case ["contest", run, node] if isinstance(error, AlreadyExistsError):
                self._marks.mark("saw", "contested", run, node)
            case ["many" | "batch", run, nodes, *_] if isinstance(error, AlreadyExistsError):
                for node in nodes:  # they were written together, so that one tells of all
                    self.saw_output(run, node)
            case _:
                raise error

    def saw_output(self, run: str, node: str) -> None:
        self._marks.mark("saw", "output", run, node)

    def saw_global(self, key: str, version: int, value: Any) -> None:
        self._marks.mark("saw", "global", key, version, value)


def plan(dice: random.Random, worker: str, steps: int) -> Iterator[list[Any]]:
    """What one worker does, in order. Its runs are its own; one of the globals is everybody's."""
    for step in range(steps):
        run = f"run-{worker}-{step // 6}"
        match dice.choice(["put"] * 5 + ["many", "batch", "upsert", "upsert", "delete"]):
            case "put":
                yield ["put", run, f"{step}"]
            case "many":
                yield ["many", run, [f"{step}.{part}" for part in range(dice.randint(2, 9))]]
            case "batch":
                nodes = [f"{step}.{part}" for part in range(dice.randint(1, 5))]
                yield ["batch", run, nodes, [f"batch-{worker}-{step}"]]
            case "upsert":
                yield ["upsert", dice.choice([f"own-{worker}", "shared"])]
            case "delete":
                if step % 6 == 5:
                    yield ["delete", run]
                else:
                    yield ["put", run, f"{step}"]


def perform(store: ContextStore, teller: Teller, words: list[Any], exist_ok: bool = False) -> None:
    attempt = teller.attempt(words)
    result: Any = None
    try:
        match words:
            case ["put", run, node]:
                store.put(run, node, value_of(run, node), exist_ok=exist_ok)
            case ["contest", run, node]:
                store.put(run, node, contested_value_of(run, node, attempt))
            case ["prune"]:
                store.prune(older_than=datetime.timedelta(0))
            case ["many", run, nodes]:
                store.put_many(run, {node: value_of(run, node) for node in nodes}, exist_ok=exist_ok)
            case ["batch", run, nodes, keys]:
                with store.batch() as batch:
                    for node in nodes:
                        batch.put(run, node, value_of(run, node))
                    for key in keys:
                        batch.upsert_global(key, global_value_of(key, attempt))
            case ["upsert", key]:
                result = store.upsert_global(key, global_value_of(key, attempt))
            case ["delete", run]:
                store.delete_run(run)
            case ["backup", name]:
                store.backup(teller.folder / name)
    except (AlreadyExistsError, RunDeletedError) as error:
        teller.refused(attempt, words, error)
    except StorageError:
        if not teller.faults_expected:
            raise
    else:
        teller.acknowledged(attempt, result)


async def perform_async(store: AsyncContextStore, teller: Teller, words: list[Any]) -> None:
    attempt = teller.attempt(words)
    result: Any = None
    try:
        match words:
            case ["put", run, node]:
                await store.put(run, node, value_of(run, node))
            case ["contest", run, node]:
                await store.put(run, node, contested_value_of(run, node, attempt))
            case ["many", run, nodes]:
                await store.put_many(run, {node: value_of(run, node) for node in nodes})
            case ["batch", run, nodes, keys]:
                async with store.batch() as batch:
                    for node in nodes:
                        batch.put(run, node, value_of(run, node))
                    for key in keys:
                        batch.upsert_global(key, global_value_of(key, attempt))
            case ["upsert", key]:
                result = await store.upsert_global(key, global_value_of(key, attempt))
            case ["delete", run]:
                await store.delete_run(run)
    except (AlreadyExistsError, RunDeletedError) as error:
        teller.refused(attempt, words, error)
    else:
        teller.acknowledged(attempt, result)


# -- the programs ------------------------------------------------------------------------------------------------------


class Program:
    def __init__(self, shim: Shim, path: pathlib.Path, seed: int, name: str, options: dict[str, Any]) -> None:
        self.teller = Teller(shim, path.parent)
        self.path = path
        self.seed = seed
        self.name = name  # of this life of the program, so that two at the same time have runs of their own
        self.options = options

    def plan(self, worker: Any, steps: int) -> Iterator[list[Any]]:
        return plan(random.Random(f"{self.seed}/{worker}"), f"{self.name}{worker}", steps)

    def tasks(self) -> None:
        async def work(store: AsyncContextStore, worker: int) -> None:
            for words in self.plan(worker, 12):
                await perform_async(store, self.teller, words)

        async def main() -> None:
            async with AsyncContextStore(self.path, **self.options) as store:
                await asyncio.gather(*(work(store, worker) for worker in range(6)))

        asyncio.run(main())

    def threads(self) -> None:
        self._in_threads(4, 14)

    def puts(self) -> None:
        """One put after the other: each has its commit, and its sync, to itself."""
        with ContextStore(self.path, **self.options) as store:
            for step in range(25):
                perform(store, self.teller, ["put", f"run-{self.name}", f"{step:02}"])

    def reopen(self) -> None:
        for life in range(4):
            with ContextStore(self.path, **self.options) as store:
                self._look(store)
                for words in self.plan(life, 5):
                    perform(store, self.teller, words)

    def create(self) -> None:
        with ContextStore(self.path, **self.options) as store:
            perform(store, self.teller, ["put", "run-0", "0"])

    def backup(self) -> None:
        with ContextStore(self.path, **self.options) as store:
            for part in range(2):
                for words in self.plan(part, 6):
                    perform(store, self.teller, words)
                perform(store, self.teller, ["backup", f"backup-{self.name}{part}.db"])

    def prunes(self) -> None:
        """Runs that are put, some of them deleted, and then all of them pruned; one that is left in the end."""
        with ContextStore(self.path, **self.options) as store:
            dice = random.Random(self.seed)
            for part in range(3):
                for number in range(3):
                    run = f"pruned-{self.name}{part}-{number}"
                    perform(store, self.teller, ["many", run, [f"{node}" for node in range(dice.randint(2, 14))]])
                    perform(store, self.teller, ["put", run, "put"])
                    perform(store, self.teller, ["batch", run, ["batch 0", "batch 1"], [f"batch-{run}"]])
                    if dice.random() < 0.3:
                        perform(store, self.teller, ["delete", run])
                perform(store, self.teller, ["prune"])
            perform(store, self.teller, ["put", f"left-{self.name}", "0"])

    def resume(self) -> None:
        """A later life: first everything is answered that can be without a commit, then the plan is done again."""
        with ContextStore(self.path, **self.options) as store:
            self._look(store)
            self._in_threads(3, 10, store)

    def glance(self) -> None:
        """A later life that only reads, if the one before has come as far as to make a store."""
        store = ContextStore(self.path, read_only=True)
        try:
            store.open()
        except (StoreNotFoundError, IncompatibleStoreError):
            return
        with store:
            self._look(store, puts=False)

    def _look(self, store: ContextStore, puts: bool = True) -> None:
        for entry in store.list_globals(limit=1000):
            self.teller.saw_global(entry.key, entry.version, entry.value)
        for run in store.list_runs(limit=1000):
            for node in reversed(store.list_keys(run.flow_run_id)):  # the newest is what may be lost
                self.teller.saw_output(run.flow_run_id, node)
                if puts:
                    # Refused, or taken as a retry: either is an answer that must hold, and needs no commit.
                    perform(store, self.teller, ["put", run.flow_run_id, node], exist_ok=len(node) % 2 == 0)

    def _in_threads(self, count: int, steps: int, store: ContextStore | None = None) -> None:
        if store is None:
            with ContextStore(self.path, **self.options) as opened:
                self._in_threads(count, steps, opened)
            return
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for words in self.plan(worker, steps):
                    perform(store, self.teller, words)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


PROGRAMS = ["tasks", "threads", "puts", "reopen", "create", "backup", "prunes", "resume", "glance"]


# -- planted faults: the store with one of its cures taken away --------------------------------------------------------


def _synchronous_off() -> None:
    set_up = _sqlite.FileDatabase._set_up

    def relaxed(engine: Any, connection: sqlite3.Connection) -> None:
        set_up(engine, connection)
        connection.execute("PRAGMA synchronous = OFF").close()

    _sqlite.FileDatabase._set_up = relaxed  # type: ignore[method-assign]


def _early_acknowledgement() -> None:
    """Callers are answered when their statements have run; COMMIT comes with the next turn."""
    writes: Any = _sqlite.FileWrites
    database: Any = _sqlite.FileDatabase
    begin, close = writes.acquire, database.close

    def acquire(self: Any, wanted: Callable[[], bool]) -> bool:
        if connection_here().in_transaction:
            connection_here().execute("COMMIT")
        return bool(begin(self, wanted))

    def commit(self: Any, units: Any) -> Any:
        transactions = self._transactions
        if not connection_here().in_transaction:
            transactions._begin_now()
        transactions._look_at_commits_of_others()
        return _sqlite_writes.Transaction(connection_here(), "", transactions._serials, transactions._begin_anew).apply(
            units
        )

    async def close_committed(self: Any) -> None:
        def commit_last(connection: sqlite3.Connection) -> None:
            if connection.in_transaction:
                connection.execute("COMMIT")

        await self._writing.run(commit_last)
        await close(self)

    writes.acquire, writes.commit, writes.maintain = acquire, commit, lambda _: None
    writes.put_alone = lambda self, put: False
    writes.release = lambda self: self._lock.release()
    database.close = close_committed


def _no_sync_of_adopted_frames() -> None:
    for module in (_sqlite, _wal, _sqlite_visit):  # a writer's, and a visitor's
        module.sync_recovered_wal = lambda path: None  # type: ignore[attr-defined]


def _no_sync_of_folder() -> None:
    _sqlite.sync_folder = lambda folder: None


def _replacing() -> None:
    """What is put to a key that has an output takes its place."""
    for rows, statement in _sqlite_writes._INSERT_OUTPUTS.items():
        replacing = statement.replace("INSERT INTO", "INSERT OR REPLACE INTO").removesuffix(" ON CONFLICT DO NOTHING")
        assert replacing.count("REPLACE") == 1
        assert "CONFLICT" not in replacing
        _sqlite_writes._INSERT_OUTPUTS[rows] = replacing
    single: Any = _single_put
    single._PUT = single._PUT.replace("INSERT OR IGNORE", "INSERT OR REPLACE")
    assert "REPLACE" in single._PUT


def _swallowed_errors() -> None:
    """Whatever a commit raises, its callers are told that all went well."""
    engine: Any = _sqlite_engine.SQLiteEngine
    commit, put_alone = engine.commit, engine.put_alone

    async def put_well(self: Any, put: Any) -> bool:
        try:
            return bool(await put_alone(self, put))
        except StorageError:
            return True

    async def commit_well(self: Any, units: Any) -> Any:
        try:
            return await commit(self, units)
        except StorageError:
            return [Outcome([None] * len(unit)) for unit in units]

    engine.commit, engine.put_alone = commit_well, put_well


def _lost_waiters() -> None:
    """Of each group that has several callers, and now and then of one that has one, somebody is never answered."""
    answer = _writer.Writer._answer
    turns = itertools.count()

    def forgetful(self: Any, group: Any, outcomes: Any) -> None:
        forgotten = len(group) > 1 or next(turns) % 10 == 9
        answer(self, group[forgotten:], outcomes[forgotten:])

    _writer.Writer._answer = forgetful  # type: ignore[method-assign]


def _leaked_threads() -> None:
    """close() forgets the reading connection, and so its thread."""
    close = _sqlite.FileDatabase.close

    async def close_half(self: Any) -> None:
        forgotten, self._reading = self._reading, _worker.ConnectionWorker(self.own_threads)
        self._forgotten = forgotten
        await close(self)

    _sqlite.FileDatabase.close = close_half  # type: ignore[method-assign]


# Those that a power cut shows.
PLANTS: dict[str, Callable[[], None]] = {
    "synchronous=OFF": _synchronous_off,
    "acknowledged before COMMIT": _early_acknowledgement,
    "adopted frames not synced": _no_sync_of_adopted_frames,
    "folder not synced": _no_sync_of_folder,
}
# Those that it does not.
OTHER_PLANTS: dict[str, Callable[[], None]] = {
    "replaces instead of refusing": _replacing,
    "swallows errors": _swallowed_errors,
    "forgets a caller": _lost_waiters,
    "leaves a thread behind": _leaked_threads,
}
ALL_PLANTS = PLANTS | OTHER_PLANTS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("log", type=pathlib.Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--name", default="")
    parser.add_argument("--plant", choices=ALL_PLANTS)
    parser.add_argument("--durability", default="full")
    parser.add_argument("--checkpoint-frames", type=int, default=12)
    parser.add_argument("--truncate-bytes", type=int, default=2**26)
    parser.add_argument("--head-start-bytes", type=int, default=2**18)
    parser.add_argument("--kill", type=int, nargs="*", metavar="NUMBER", help="the how manieth call, then its kinds")
    parser.add_argument("--fail-sync", type=int, metavar="NUMBER", help="which sync fails, once, with EIO")
    given = parser.parse_args()
    # As in the library, but for a smaller world: a log of some hundred KiB has every kind of event in it.
    _wal._CHECKPOINT_FRAMES = given.checkpoint_frames
    _wal._TRUNCATE_WAL_BYTES = given.truncate_bytes
    _wal._WAL_HEAD_START_BYTES = given.head_start_bytes
    _retention._REMOVE_ROWS = 5
    if given.plant:
        ALL_PLANTS[given.plant]()
    shim = Shim()
    shim.watch(given.folder, given.log)
    if given.kill:
        shim.kill(given.kill[1:], given.kill[0])
    path = pathlib.Path(os.path.realpath(given.folder)) / STORE
    program = Program(shim, path, given.seed, given.name, {"durability": given.durability})
    if given.fail_sync:
        shim.fail([SYNC], given.fail_sync, errno.EIO, ever=False)
        program.teller.faults_expected = True
    try:
        getattr(program, given.program)()
    except StorageError:
        if not given.fail_sync:
            raise
        getattr(program, given.program)()  # it could not be opened; it has healed since


if __name__ == "__main__":
    main()
