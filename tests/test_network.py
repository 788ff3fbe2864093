"""Truth over a network: lost answers, silence, servers that end, fail-over; each on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import pathlib
import random
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    GlobalAlreadyExistsError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    RunDeletedError,
    StorageError,
    StoreBusyError,
    StoreNotFoundError,
)
from contextstore._postgres.statements import statements_for

from .doubles import until
from .processes import children
from .proxy import Proxy
from .servers import Server, running_pooler, running_server

GRANTS = """
    GRANT USAGE ON SCHEMA {schema} TO {role};
    GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};
    GRANT INSERT (flow_run_id, created_at, writer) ON {schema}.runs TO {role};
    GRANT INSERT ON {schema}.output_rows TO {role};
    GRANT UPDATE (created_at) ON {schema}.runs TO {role};
"""


def execute(server: Server, statement: str, user: str = "postgres") -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(server.url().replace("postgres@", f"{user}@"))
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


# --------------------------------------------------------------------------------------------------------- lost answers

WRITES: dict[str, tuple[str, Callable[[ContextStore], Any], Any]] = {
    "put": ("node-a", lambda store: store.put("run", "node-a", 1), None),
    "put, its run": ("new run", lambda store: store.put("new run", "a", 1), None),
    "put_many": ("COMMIT", lambda store: store.put_many("run", {"a": 1, "b": 2}), None),
    "put_many with exist_ok": (
        "COMMIT",
        lambda store: store.put_many("run", {"there": 0, "a": 1}, exist_ok=True),
        None,
    ),
    "put_global": ("COMMIT", lambda store: store.put_global("new", 1), None),
    "upsert_global": ("COMMIT", lambda store: store.upsert_global("key", "new"), 2),
    "upsert_global, before its end": ("key", lambda store: store.upsert_global("key", "new"), 2),
    "update_global": ("COMMIT", lambda store: store.update_global("count", lambda n: n + 1), 1),
    "delete_global": ("COMMIT", lambda store: store.delete_global("key"), True),
    "delete_run": ("COMMIT", lambda store: store.delete_run("run"), 1),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_write_whose_answer_is_lost_is_done_once_and_says_so(proxy: Proxy, schema: str, what: str) -> None:
    text, write, expected = WRITES[what]
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.put("run", "there", 0)
        store.upsert_global("key", "old")
        store.upsert_global("count", 0)
        proxy.lose_answer_to(text)
        assert write(store) == expected
        assert proxy.cuts == 1
        versions = {entry.key: entry.version for entry in store.list_globals()}
        assert versions.get("key", 2) <= 2
        assert versions["count"] <= 2
        if what in ("put", "put_many", "put_global"):
            with pytest.raises((AlreadyExistsError, GlobalAlreadyExistsError)):
                write(store)
        assert store.check().ok


def test_a_batch_whose_answer_is_lost_is_there_whole_and_once(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema)) as store:
        store.upsert_global("key", 0)
        proxy.lose_answer_to("COMMIT")
        with store.batch() as batch:
            batch.put("run-1", "a", 1)
            batch.put("run-2", "b", 2)
            batch.upsert_global("key", 1)
        assert proxy.cuts == 1
        assert (store.get("run-1", "a"), store.get("run-2", "b"), store.get_global("key")) == (1, 2, 1)
        assert store.get_global_entry("key").version == 2  # type: ignore[union-attr]


def test_an_upsert_that_others_have_written_over_since_is_said_to_be_unknown(
    proxy: Proxy, url: str, schema: str
) -> None:
    with ContextStore(proxy.url(schema=schema)) as store, ContextStore(url) as other:
        store.upsert_global("key", 0)
        core: Any = store._core
        connect = core._engine._writing.connect

        async def connect_late(deadline: float) -> None:
            if not core._engine._writing.is_connected and proxy.cuts:
                await asyncio.to_thread(lambda: other.upsert_global("key", "theirs"))
            await connect(deadline)

        core._engine._writing.connect = connect_late
        proxy.lose_answer_to("COMMIT")
        with pytest.raises(StorageError) as caught:
            store.upsert_global("key", "mine")
        assert caught.value.outcome_unknown
        assert other.get_global("key") == "theirs"


async def test_puts_that_share_a_commit_whose_answer_is_lost_are_all_told_of_success(proxy: Proxy, schema: str) -> None:
    async with AsyncContextStore(proxy.url(schema=schema)) as store:
        await store.put("run", "taken", 0)
        proxy.lose_answer_to("node-77")
        results = await asyncio.gather(
            *(store.put("run", f"node-{i}", i) for i in range(100)),
            store.put("run", "taken", 1),
            return_exceptions=True,
        )
        assert proxy.cuts == 1
        assert results[:100] == [None] * 100
        assert isinstance(results[100], AlreadyExistsError)
        assert await store.get_run("run") == {"taken": 0} | {f"node-{i}": i for i in range(100)}


@pytest.mark.parametrize("face", ["async", "sync"])
async def test_a_silent_server_costs_a_call_its_timeout_and_the_store_works_on(
    proxy: Proxy, schema: str, face: str
) -> None:
    async def call(store: Any, name: str, *args: Any) -> Any:
        if face == "async":
            return await getattr(store, name)(*args)
        return await asyncio.to_thread(getattr(store, name), *args)

    kind: Any = {"async": AsyncContextStore, "sync": ContextStore}[face]
    store = kind(proxy.url(schema=schema), timeout=1.0, cache_bytes=0)
    try:
        await call(store, "put", "run", "before", 1)
        proxy.is_silent = True
        began = time.monotonic()
        with pytest.raises(StorageError) as caught:
            await call(store, "put", "run", "lost", 1)
        assert caught.value.outcome_unknown
        with pytest.raises(StorageError):
            await call(store, "get", "run", "before")
        assert time.monotonic() - began < 15
        proxy.is_silent = False
        proxy.cut_all()
        await call(store, "put", "run", "after", 1)
        assert await call(store, "get", "run", "before") == 1
    finally:
        await call(store, "close")


def test_a_server_that_is_silent_from_the_start_ends_the_opening(proxy: Proxy, schema: str) -> None:
    proxy.is_silent = True
    began = time.monotonic()
    with pytest.raises(StorageError), ContextStore(proxy.url(schema=schema), timeout=1):
        pass
    assert time.monotonic() - began < 15


async def test_no_cancellation_reaches_the_server(proxy: Proxy, schema: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with AsyncContextStore(proxy.url(schema=schema)) as store:
        await store.open()
        tasks = {str(i): asyncio.ensure_future(store.put("run", str(i), i)) for i in range(2000)}
        while not all(task.done() for task in tasks.values()):
            for name in chance.sample(sorted(tasks), 50):
                tasks[name].cancel()
            await asyncio.sleep(0.001)
        acknowledged = {name for name, task in tasks.items() if not task.cancelled()}
        stored = await store.get_run("run")
        assert acknowledged <= stored.keys()
        assert all(stored[name] == int(name) for name in stored)
    assert proxy.cancel_requests == 0


# ----------------------------------------------------------------------------------------------------- servers that end


class Load:
    """Tasks that put unique and contested keys through two stores until they are told to stop."""

    def __init__(self, *stores: AsyncContextStore) -> None:
        self.acknowledged: dict[str, int] = {}
        self.winners: dict[str, list[int]] = {}
        self.unknown = 0
        self.false_refusals = 0
        self._stop = False
        self._tasks = [asyncio.ensure_future(self._work(store, i)) for i, store in enumerate(stores * 8)]

    async def _work(self, store: AsyncContextStore, worker: int) -> None:
        for number in range(10**9):
            if self._stop:
                return
            try:
                await store.put("run", f"{worker}-{number}", number)
                self.acknowledged[f"{worker}-{number}"] = number
            except AlreadyExistsError:
                self.false_refusals += 1
            except StorageError:
                self.unknown += 1
            key = f"contested-{number}"
            with contextlib.suppress(AlreadyExistsError, StorageError):
                await store.put("run", key, worker)
                self.winners.setdefault(key, []).append(worker)

    async def end(self) -> None:
        self._stop = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def judge(self, store: AsyncContextStore) -> None:
        stored = await store.get_run("run")
        assert self.acknowledged.items() <= stored.items(), "an acknowledged put is lost"
        assert all(len(winners) == 1 for winners in self.winners.values()), "two winners"
        assert all(stored[key] == winners[0] for key, winners in self.winners.items())
        assert self.false_refusals == 0, "a put was told that somebody else had written it"


async def test_backends_that_are_terminated_at_random_lose_nothing(postgres: Server, url: str) -> None:
    async with AsyncContextStore(url) as one, AsyncContextStore(url) as other:
        load = Load(one, other)
        killer = await asyncpg.connect(postgres.url())
        terminated = 0
        deadline = time.monotonic() + 60
        while terminated < 30 or len(load.acknowledged) <= 50:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
            terminated += len(
                await killer.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'contextstore'"
                )
            )
        await killer.close()
        await load.end()
        await load.judge(one)
        print(f"{terminated} terminated, {len(load.acknowledged)} acknowledged, {load.unknown} unknown")
        assert load.unknown == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_is_restarted_is_waited_for(mode: str) -> None:
    with running_server() as server:
        async with AsyncContextStore(server.url()) as one, AsyncContextStore(server.url()) as other:
            load = Load(one, other)
            await until(lambda: len(load.acknowledged) > 50)
            await asyncio.to_thread(server.stop, mode)
            before = len(load.acknowledged)
            await asyncio.to_thread(server.start)
            await until(lambda: len(load.acknowledged) > before + 50)
            await load.end()
            await load.judge(one)


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Server, Server]]:
    """A primary, and a standby that each commit waits for."""
    with running_server() as primary:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="contextstore-standby-", dir="/tmp"))
        standby = Server(folder)
        try:
            connection = f"host=127.0.0.1 port={primary.port} user=postgres application_name=s1"
            options = ("-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", connection)
            standby.run("pg_basebackup", "-D", folder / "data", *options)
            standby.start()
            execute(primary, "ALTER SYSTEM SET synchronous_standby_names = 's1'")
            execute(primary, "SELECT pg_reload_conf()")
            for _ in range(1000):
                if execute(primary, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
                    break
                time.sleep(0.01)
            yield primary, standby
        finally:
            with contextlib.suppress(AssertionError):
                standby.stop()
            shutil.rmtree(folder, ignore_errors=True)


async def test_killing_a_replicated_primary_loses_nothing_that_was_acknowledged() -> None:
    nodes = two_nodes()
    primary, standby = await asyncio.to_thread(nodes.__enter__)
    try:
        url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        url += "?target_session_attrs=read-write"
        async with AsyncContextStore(url) as one, AsyncContextStore(url) as other:
            load = Load(one, other)
            await until(lambda: len(load.acknowledged) > 200)
            os.kill(primary.process_id, signal.SIGKILL)
            killed = time.monotonic()
            before = len(load.acknowledged)
            await asyncio.to_thread(execute, standby, "SELECT pg_promote(true, 30)")
            await asyncio.to_thread(execute, standby, "ALTER SYSTEM SET synchronous_standby_names = ''")
            await asyncio.to_thread(execute, standby, "SELECT pg_reload_conf()")
            await until(lambda: len(load.acknowledged) > before + 20)
            pause = time.monotonic() - killed
            await until(lambda: len(load.acknowledged) > before + 200)
            await load.end()
            await load.judge(one)
            print(f"{before} acknowledged before, {len(load.acknowledged)} in all, {pause:.2f} s without")
    finally:
        await asyncio.to_thread(nodes.__exit__, None, None, None)


async def test_a_standby_is_read_and_not_written() -> None:
    nodes = two_nodes()
    primary, standby = await asyncio.to_thread(nodes.__enter__)
    try:
        async with (
            AsyncContextStore(primary.url()) as writer,
            AsyncContextStore(standby.url(), read_only=True, cache_bytes=0) as reader,
        ):
            await writer.put("run", "a", 1)
            assert await reader.wait_for("run", "a", timeout=20) == 1
            waiting = asyncio.ensure_future(reader.wait_for("run", "b", timeout=20))
            await writer.put("run", "b", 2)
            assert await waiting == 2
            assert (await reader.check()).ok
            with pytest.raises(ReadOnlyStoreError):
                await reader.put("run", "c", 3)
    finally:
        await asyncio.to_thread(nodes.__exit__, None, None, None)


# ------------------------------------------------------------------------------------------------------- set-up, rights


def test_eight_processes_set_up_a_new_schema_at_the_same_moment(url: str) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            store.put("run", sys.argv[2], 1)
        say("done")
    """
    with children(8, program, url) as all_children:
        for child in all_children:
            assert child.end() == (0, ["done"], "")
    with ContextStore(url) as store:
        assert len(store.list_keys("run")) == 8


def test_what_is_not_there_is_not_created_unasked(url: str) -> None:
    with pytest.raises(StoreNotFoundError), ContextStore(url, create=False):
        pass
    with pytest.raises(StoreNotFoundError), ContextStore(url, read_only=True):
        pass


def test_tables_of_others_are_left_as_they_were(postgres: Server, url: str, schema: str) -> None:
    execute(postgres, f"CREATE SCHEMA {schema}")
    execute(postgres, f"CREATE TABLE {schema}.runs (theirs integer)")
    with pytest.raises(IncompatibleStoreError, match="another program"), ContextStore(url):
        pass
    names = execute(postgres, f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'")
    assert [tuple(row) for row in names] == [("runs",)]


def test_a_newer_schema_is_refused(postgres: Server, url: str, schema: str) -> None:
    with ContextStore(url) as store:
        store.put("run", "a", 1)
    execute(postgres, f"UPDATE {schema}.store_format SET version = 2")
    with pytest.raises(IncompatibleStoreError, match="upgrade contextstore"), ContextStore(url):
        pass


@pytest.mark.parametrize(
    "credentials",
    ["nobody:s3cr3t-word@127.0.0.1:{port}/postgres", "postgres:s3cr3t-word@127.0.0.1:{port}/no_such_database",
     "postgres:s3cr3t-word@127.0.0.1:1/postgres", "postgres@127.0.0.1:{port}/nowhere?password=s3cr3t-word"],
)  # fmt: skip
def test_what_cannot_be_connected_to_is_an_error_at_once_that_keeps_the_password(
    postgres: Server, credentials: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = ContextStore("postgresql://" + credentials.format(port=postgres.port))
    with pytest.raises(StorageError) as caught:
        store.open()
    store.close()
    cause = caught.value.__cause__
    said = [str(caught.value), repr(caught.value), repr(store), str(cause), repr(cause), caplog.text]
    assert "s3cr3t" not in " ".join(said)
    assert "127.0.0.1" in str(caught.value)


def test_a_role_that_may_only_insert_and_select_can_put_and_get(postgres: Server, url: str, schema: str) -> None:
    role = f"role_{schema}"
    with ContextStore(url) as owner:
        owner.put_global("key", 1)
        execute(postgres, f"CREATE ROLE {role} LOGIN")
        for statement in GRANTS.format(schema=schema, role=role).strip().split(";")[:-1]:
            execute(postgres, statement)
        with ContextStore(url.replace("postgres@", f"{role}@")) as store:
            store.put("run", "a", 1)
            with pytest.raises(AlreadyExistsError):
                store.put("run", "a", 2)
            store.put("run", "a", 1, exist_ok=True)
            assert store.get("run", "a") == 1
            assert store.list_keys("run") == ["a"]
            assert store.get_global("key") == 1
            for refused in (lambda: store.delete_run("run"), lambda: store.upsert_global("key", 2)):
                with pytest.raises(ReadOnlyStoreError):
                    refused()
            store.put("run", "b", 2)
        for statement in (
            f"UPDATE {schema}.output_rows SET value = ''",
            f"DELETE FROM {schema}.output_rows",
            f"TRUNCATE {schema}.output_rows",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                execute(postgres, statement, user=role)
        assert owner.get_run("run") == {"a": 1, "b": 2}


def test_a_store_that_only_reads_works_and_refuses_every_write(url: str) -> None:
    with ContextStore(url) as store:
        store.put("run", "a", 1)
    with ContextStore(url, read_only=True) as reader:
        assert reader.get("run", "a") == 1
        for write in (lambda: reader.put("run", "b", 1), lambda: reader.delete_run("run")):
            with pytest.raises(ReadOnlyStoreError):
                write()


# ------------------------------------------------------------------------------------------- isolation, late writers


async def test_at_serializable_one_wins_and_no_update_is_lost(postgres: Server, schema: str) -> None:
    database = f"db_{schema}"
    await asyncio.to_thread(execute, postgres, f"CREATE DATABASE {database}")
    setting = f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"
    await asyncio.to_thread(execute, postgres, setting)
    url = postgres.url().removesuffix("/postgres") + f"/{database}"
    stores = [AsyncContextStore(url) for _ in range(4)]
    try:
        for store in stores:
            await store.open()

        async def race(key: str) -> int:
            results = await asyncio.gather(
                *(store.put("run", key, i) for i, store in enumerate(stores)), return_exceptions=True
            )
            assert sorted(type(result).__name__ for result in results) == ["AlreadyExistsError"] * 3 + ["NoneType"]
            return results.index(None)

        winners = await asyncio.gather(*(race(str(i)) for i in range(100)))
        assert await stores[0].get_run("run") == {str(i): winner for i, winner in enumerate(winners)}
        await asyncio.gather(*(store.update_global("count", lambda n: n + 1, 0) for store in stores for _ in range(10)))
        assert await stores[0].get_global("count") == 40
    finally:
        for store in stores:
            await store.close()


async def test_no_output_survives_a_deletion_that_races_with_puts(postgres: Server, url: str, schema: str) -> None:
    async with AsyncContextStore(url) as writer, AsyncContextStore(url) as deleter:

        async def one(number: int) -> None:
            run = f"run-{number}"
            await writer.put(run, "first", 1)
            puts = [asyncio.ensure_future(writer.put(run, str(i), i)) for i in range(10)]
            await asyncio.sleep(random.random() * 0.01)
            await deleter.delete_run(run)
            for result in await asyncio.gather(*puts, return_exceptions=True):
                assert result is None or isinstance(result, RunDeletedError)
            with pytest.raises(RunDeletedError):
                await writer.put(run, "late", 1)

        for start in range(0, 200, 20):
            await asyncio.gather(*(one(number) for number in range(start, start + 20)))
        async with AsyncContextStore(url) as fresh:
            assert await fresh.list_runs() == []
            assert await fresh.get_many("run-7", [str(i) for i in range(10)]) == {}
            await asyncio.sleep(0.001)
            await fresh.prune(older_than=datetime.timedelta(0))
    rows = await asyncio.to_thread(execute, postgres, f"SELECT count(*) FROM {schema}.output_rows")
    assert rows[0][0] == 0


@pytest.mark.parametrize("statement", ["insert_output", "insert_outputs"])
def test_prune_waits_for_a_put_under_way_and_leaves_its_run(
    postgres: Server, url: str, schema: str, statement: str
) -> None:
    insert = statements_for(schema)[statement]

    async def put_slowly(store: AsyncContextStore) -> None:
        connection = await asyncpg.connect(postgres.url())
        now = time.time_ns() // 1000
        async with connection.transaction():
            serial = await connection.fetchval(f"SELECT serial FROM {schema}.runs")
            row = (serial, "new", 0, 0, b"1", now, "run")
            columns = row if statement == "insert_output" else tuple([one] for one in row)
            await connection.execute(insert, *columns, uuid.uuid4())
            pruning = asyncio.ensure_future(store.prune(older_than=datetime.timedelta(seconds=0.2)))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not await connection.fetchval(waiting):
                assert not pruning.done()
                await asyncio.sleep(0.01)
        await connection.close()
        assert (await pruning).runs == 0

    async def run() -> None:
        async with AsyncContextStore(url) as store:
            await store.put("run", "old", 1)
            await asyncio.sleep(0.3)
            await put_slowly(store)
            assert await store.list_keys("run") == ["new", "old"]
            await store.put("run", "later", 1)

    asyncio.run(run())


async def test_prune_loses_no_acknowledged_put_that_races_with_it(url: str) -> None:
    async with AsyncContextStore(url) as writer, AsyncContextStore(url) as pruner:
        runs = [f"run-{number}" for number in range(150)]
        refused = 0
        for _ in range(3):
            await asyncio.gather(*(writer.put(run, uuid.uuid4(), "old") for run in runs if run))
            await asyncio.sleep(0.3)
            pruning = asyncio.ensure_future(pruner.prune(older_than=datetime.timedelta(seconds=0.25)))

            async def put(run: str) -> str | None:
                await asyncio.sleep(random.random() * 0.2)
                try:
                    await writer.put_many(run, {"new-1": 1, "new-2": 2})
                except RunDeletedError:
                    return None
                return run

            acknowledged = await asyncio.gather(*map(put, runs))
            await pruning
            for run in filter(None, acknowledged):
                assert await pruner.get(run, "new-2") == 2, run
            refused += acknowledged.count(None)
            runs = [f"{run}+" for run in runs]
        assert 0 < refused < 450


async def test_behind_a_pooler_that_hands_out_connections_by_transaction(postgres: Server, schema: str) -> None:
    with running_pooler(postgres) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres?pooler=transaction&schema={schema}"
        stores = [AsyncContextStore(url) for _ in range(6)]  # more than the pool has connections
        try:
            puts = [store.put("run", f"{i}-{n}", i) for n, store in enumerate(stores) for i in range(100)]
            await asyncio.gather(*puts)
            await asyncio.gather(
                *(store.update_global("count", lambda n: n + 1, 0) for store in stores for _ in range(5)),
                *(store.put_many("batch", {str(n): n, f"{n}+": n}) for n, store in enumerate(stores)),
            )
            results = await asyncio.gather(*(store.put("run", "one", i) for i, store in enumerate(stores)),
                                           return_exceptions=True)  # fmt: skip
            assert results.count(None) == 1
            assert await stores[0].get("run", "one") == results.index(None)
            assert len(await stores[1].list_keys("run")) == 601
            assert len(await stores[2].get_run("batch")) == 12
            assert await stores[3].get_global("count") == 30
            assert await stores[4].delete_run("run") == 601
            assert (await stores[5].check()).ok
        finally:
            for store in stores:
                await store.close()


def test_threads_share_commits(url: str) -> None:
    with ContextStore(url) as store:

        def put_some(worker: int) -> None:
            for i in range(20):
                store.put("run", f"{worker}-{i}", i)

        threads = [threading.Thread(target=put_some, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = store.stats()
        assert (stats.outputs, stats.writes) == (160, 160)
        assert stats.commits < 160


def test_a_store_without_its_driver_says_what_to_install(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "asyncpg", None)
    with pytest.raises(StorageError, match="pip install asyncpg"), ContextStore(url):
        pass


@pytest.mark.parametrize(
    ("url", "word"),
    [("postgresql://h/db?schema=Bad", "schema"), ("postgresql://h/db?schema=a;b", "schema"),
     ("postgresql://h/db?pooler=session", "pooler")],
)  # fmt: skip
def test_a_url_that_cannot_be_meant_is_refused_at_construction(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ContextStore(url)


def test_a_write_that_was_not_sent_is_busy_and_not_unknown(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=1) as store:
        store.put("run", "a", 1)
        proxy.is_silent = True
        proxy.cut_all()
        time.sleep(0.2)
        with pytest.raises(StoreBusyError) as caught:
            store.put("run", "b", 1)
        assert not caught.value.outcome_unknown
        proxy.is_silent = False
        proxy.cut_all()
        store.put("run", "b", 2)
        assert store.get("run", "b") == 2
