"""What a server or a second failure may do in the worst moment: no write is told of an outcome that is not its own."""

from __future__ import annotations

import asyncio
import datetime
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    ContextStoreError,
    CorruptStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
)
from contextstore._postgres import counting, retry
from contextstore._postgres.statements import statements_for
from contextstore._waiting.deadline import Deadline

from ..support.doubles import core_of
from ..support.nodes import execute
from ..support.proxy import Proxy
from ..support.servers import Server, running_server

pytestmark = pytest.mark.one_python


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ContextStoreError as error:
        return error


# ------------------------------------------------------------------------------------------------ a second failure


@pytest.mark.parametrize("what", ["put", "put_many", "upsert_global"])
def test_a_write_whose_answer_is_lost_and_that_is_then_refused_for_good_is_unknown(
    postgres: Server, proxy: Proxy, schema: str, what: str
) -> None:
    role = f"role_{schema}"
    execute(postgres, f"CREATE ROLE {role} LOGIN SUPERUSER")
    writes: dict[str, Callable[[ContextStore], Any]] = {
        "put": lambda store: store.put("run", "node-x", 1),
        "put_many": lambda store: store.put_many("run", {"node-x": 1, "node-y": 2}),
        "upsert_global": lambda store: store.upsert_global("key", 1),
    }
    with ContextStore(proxy.url(schema=schema).replace("postgres@", f"{role}@"), timeout=20) as store:
        store.put("run", "first", 0)
        execute(postgres, f"ALTER ROLE {role} NOLOGIN")
        proxy.lose_answer_to("node-x" if what == "put" else "COMMIT")
        error = outcome_of(lambda: writes[what](store))
        assert isinstance(error, StorageError)
        assert error.outcome_unknown
        execute(postgres, f"ALTER ROLE {role} LOGIN")
        if what != "upsert_global":
            store.put("run", "node-x", 1, exist_ok=True)  # which settles it
            assert store.get("run", "node-x") == 1


async def test_of_a_group_whose_answer_is_lost_nobody_is_told_that_it_was_there_already(
    postgres: Server, proxy: Proxy, schema: str
) -> None:
    role = f"role_{schema}"
    await asyncio.to_thread(execute, postgres, f"CREATE ROLE {role} LOGIN SUPERUSER")
    url = proxy.url(schema=schema).replace("postgres@", f"{role}@")
    async with AsyncContextStore(url, timeout=20, cache_bytes=0) as store:
        await store.put("run", "first", 0)
        await asyncio.to_thread(execute, postgres, f"ALTER ROLE {role} NOLOGIN")
        proxy.lose_answer_to("node-x")
        outcomes = await asyncio.gather(*(store.put("run", f"node-x{i}", i) for i in range(5)), return_exceptions=True)
        await asyncio.to_thread(execute, postgres, f"ALTER ROLE {role} LOGIN")
        stored = await store.get_run("run")
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, StorageError) and not outcome.outcome_unknown:
                assert f"node-x{number}" not in stored
            else:
                assert outcome is None or isinstance(outcome, StorageError)
        assert any(isinstance(outcome, StorageError) and outcome.outcome_unknown for outcome in outcomes)


MOVED: dict[str, tuple[Any, Callable[[ContextStore], Any], Callable[[ContextStore], Any]]] = {
    "put_global, overwritten": (
        None, lambda store: store.put_global("key", "mine"), lambda other: other.upsert_global("key", "theirs")),
    "put_global, deleted": (
        None, lambda store: store.put_global("key", "mine"), lambda other: other.delete_global("key")),
    "upsert_global, deleted": (
        "old", lambda store: store.upsert_global("key", "mine"), lambda other: other.delete_global("key")),
    "compare-and-set, deleted": (
        "old", lambda store: store.upsert_global("key", "mine", expected_version=1),
        lambda other: other.delete_global("key")),
    "compare-and-set of what is not there, deleted": (
        None, lambda store: store.upsert_global("key", "mine", expected_version=0),
        lambda other: other.delete_global("key")),
    "delete_global, written anew": (
        "old", lambda store: store.delete_global("key"), lambda other: other.upsert_global("key", "theirs")),
}  # fmt: skip


@pytest.mark.parametrize("what", MOVED)
def test_a_global_that_has_moved_on_since_an_answer_was_lost_is_unknown_and_left_alone(
    url: str, proxy: Proxy, schema: str, what: str
) -> None:
    before, write, meanwhile = MOVED[what]
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        if before is None:
            store.put("run", "node", 0)
        else:
            store.upsert_global("key", before)
        other.list_globals()
        writing: Any = core_of(store)._session.engine._writing
        connect, done = writing.connect, []

        async def late(deadline: float) -> None:
            if not writing.is_connected and proxy.cuts and not done:
                done.append(await asyncio.to_thread(meanwhile, other))
            await connect(deadline)

        writing.connect = late
        proxy.lose_answer_to("COMMIT")
        error = outcome_of(lambda: write(store))
        assert isinstance(error, StorageError)
        assert error.outcome_unknown
        entry = other.get_global_entry("key")
        assert (entry is None) == ("deleted" in what)
        assert entry is None or entry.value == "theirs"


def test_a_batch_one_of_whose_globals_still_bears_its_mark_is_known_to_be_done(
    url: str, proxy: Proxy, schema: str
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        store.put("run", "node", 0)
        writing: Any = core_of(store)._session.engine._writing
        connect, done = writing.connect, []

        async def late(deadline: float) -> None:
            if not writing.is_connected and proxy.cuts and not done:
                done.append(await asyncio.to_thread(other.upsert_global, "a", "theirs"))
            await connect(deadline)

        writing.connect = late
        proxy.lose_answer_to("COMMIT")
        with store.batch() as batch:
            batch.put_global("a", "mine")
            batch.put_global("b", "mine")
        assert (other.get_global("a"), other.get_global("b")) == ("theirs", "mine")
        assert done == [2]


def test_what_comes_after_a_connection_lost_within_a_transaction_is_not_run_alone(url: str) -> None:
    with ContextStore(url) as store:
        store.put_global("taken", 0)
        writing: Any = core_of(store)._session.engine._writing
        execute_original = writing.execute

        async def lose(deadline: float, query: str, *arguments: Any) -> int:
            count: int = await execute_original(deadline, query, *arguments)
            if query == "BEGIN":
                writing.terminate()  # and is noticed before the next statement
                writing.execute = execute_original
            return count

        writing.execute = lose
        batch = store.batch().__enter__()
        batch.put("run", "node", 1)
        batch.put_global("taken", 1)
        with pytest.raises(ContextStoreError):
            batch.__exit__(None, None, None)
        assert store.get("run", "node") is None


# ------------------------------------------------------------------------------------------------------- the server


def test_a_fail_over_that_has_lost_runs_leads_no_put_into_anothers_run(postgres: Server, url: str, schema: str) -> None:
    with ContextStore(url, cache_bytes=0) as old, ContextStore(url, cache_bytes=0) as new:
        old.put("lost", "a", "old")
        ((serial,),) = execute(postgres, f"SELECT serial FROM {schema}.flow_runs")
        # As a standby that was behind has it: the run was never there, and its number is given again.
        execute(postgres, f"DELETE FROM {schema}.node_outputs")
        execute(postgres, f"DELETE FROM {schema}.flow_runs")
        execute(postgres, f"ALTER TABLE {schema}.flow_runs ALTER COLUMN serial RESTART WITH {serial}")
        new.put("other", "a", "new")
        assert execute(postgres, f"SELECT serial FROM {schema}.flow_runs")[0][0] == serial
        old.put("lost", "b", "old")
        old.put_many("lost", {"c": "old", "d": "old"})
        old.put("lost", "a", "again")
        assert new.get_run("lost") == {"a": "again", "b": "old", "c": "old", "d": "old"}
        assert new.get_run("other") == {"a": "new"}
        assert new.check().ok


@pytest.mark.slow
def test_a_host_that_is_silent_is_passed_over_for_the_next_one(postgres: Server, schema: str) -> None:
    def both(hole: Proxy) -> str:
        hosts = f"127.0.0.1:{hole.port},127.0.0.1:{postgres.port}"
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write&schema={schema}"

    with Proxy(postgres.port) as hole:
        hole.is_silent = True
        with ContextStore(both(hole), timeout=6) as store:
            store.put("run", "silent from the start", 1)
    with Proxy(postgres.port) as hole, ContextStore(both(hole), timeout=6, cache_bytes=0) as store:
        store.put("run", "first", 1)
        hole.is_silent = True
        hole.cut_all()
        store.put("run", "silent later", 1)
        assert store.get("run", "first") == 1


async def test_gets_by_the_thousand_from_a_silent_server_end_soon_after_the_timeout(proxy: Proxy, schema: str) -> None:
    async with AsyncContextStore(proxy.url(schema=schema), timeout=1, cache_bytes=0) as store:
        await store.put("run", "node", 1)
        proxy.is_silent = True
        began = time.monotonic()
        outcomes = await asyncio.gather(*(store.get("run", f"{i}") for i in range(3000)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreBusyError}
        assert time.monotonic() - began < 12  # a group after the other takes 13 seconds, and longer where all is slower
        assert proxy.cancel_requests == 0
        proxy.is_silent = False


def test_a_lock_that_somebody_holds_makes_a_put_busy_and_leaves_nobody_behind(
    postgres: Server, url: str, schema: str
) -> None:
    async def run() -> None:
        async with AsyncContextStore(url, timeout=1.5, cache_bytes=0) as store:
            await store.put("run", "node", 1)
            connection = await asyncpg.connect(postgres.url())
            async with connection.transaction():
                await connection.execute(f"SELECT FROM {schema}.flow_runs FOR UPDATE")
                began = time.monotonic()
                outcomes = await asyncio.gather(
                    *(store.put("run", f"{i}", i) for i in range(50)), return_exceptions=True
                )
                assert {(type(error), error.outcome_unknown) for error in outcomes} == {(StoreBusyError, False)}  # type: ignore[union-attr]
                assert time.monotonic() - began < 12
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                assert await connection.fetchval(waiting) <= 1
            await connection.close()
            await store.put("run", "later", 1)
            assert await store.list_keys("run") == ["later", "node"]

    asyncio.run(run())


@pytest.mark.slow
def test_a_standby_that_is_gone_does_not_let_writes_pile_up_at_the_server() -> None:
    with running_server(max_connections=20) as server:
        with ContextStore(server.url()) as store:
            store.put("run", "first", 1)
        execute(server, "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        execute(server, "SELECT pg_reload_conf()")
        with ContextStore(server.url(), timeout=0.5) as store:
            outcomes = [outcome_of(lambda i=i: store.put("run", f"{i}", i)) for i in range(25)]
            assert all(isinstance(outcome, StorageError) for outcome in outcomes[1:])
            assert any(outcome.outcome_unknown for outcome in outcomes[1:])
            ((stuck,),) = execute(server, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            assert 0 < stuck <= 4


def test_a_store_that_promises_the_disk_does_not_rely_on_a_server_that_does_not(postgres: Server, schema: str) -> None:
    role = f"role_{schema}"
    execute(postgres, f"CREATE ROLE {role} LOGIN SUPERUSER")
    execute(postgres, f"ALTER ROLE {role} SET synchronous_commit = off")
    for durability, expected in (("full", "on"), ("normal", "off")):
        url = postgres.url(schema=schema).replace("postgres@", f"{role}@")
        with ContextStore(url, durability=durability) as store:  # type: ignore[arg-type]
            engine: Any = core_of(store)._session.engine
            told: list[Any] = []
            store.put("run", durability, 1)

            async def ask() -> None:
                told.append(await engine._writing.fetch(Deadline(10), "SHOW synchronous_commit"))  # noqa: B023

            engine.post_write(ask)
            while not told:
                time.sleep(0.01)
            assert told[0][0][0] == expected


def test_a_server_that_may_only_be_read_refuses_and_is_not_unknown(postgres: Server, url: str, schema: str) -> None:
    role = f"role_{schema}"
    with ContextStore(url) as owner:
        owner.put("run", "node", 1)
    execute(postgres, f"CREATE ROLE {role} LOGIN SUPERUSER")
    execute(postgres, f"ALTER ROLE {role} SET default_transaction_read_only = on")
    with ContextStore(url.replace("postgres@", f"{role}@"), timeout=1) as store:
        for write in (lambda: store.put("run", "a", 1), lambda: store.put_many("run", {"a": 1, "b": 2})):
            error = outcome_of(write)
            assert isinstance(error, ReadOnlyStoreError)
            assert not error.outcome_unknown


# ------------------------------------------------------------------------------------------------------------ damage


def test_a_damaged_value_is_told_to_those_who_need_it_and_to_nobody_else() -> None:
    with running_server(allow_system_table_mods="on") as server:
        with ContextStore(server.url()) as store:
            store.put_many("run", {"a": 1, "big": os.urandom(300_000), "c": 3})
            store.upsert_global("big", os.urandom(300_000))
            store.upsert_global("small", 1)
        toast = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'contextstore.{}'::regclass"
        paths = [execute(server, toast.format(table))[0][0] for table in ("node_outputs", "global_values")]
        server.stop("fast")
        for path in paths:
            file = server.folder / "data" / path
            file.write_bytes(bytes(file.stat().st_size))
        server.start()

        async def run() -> None:
            async with AsyncContextStore(server.url(), cache_bytes=0) as store:
                await store.get("run", "nothing")
                got = await asyncio.gather(
                    *(store.get("run", name) for name in ("a", "big", "c")), return_exceptions=True
                )
                assert (got[0], got[2]) == (1, 3)
                assert isinstance(got[1], CorruptStoreError)
                assert "'big'" in str(got[1])
                put = await asyncio.gather(
                    *(store.put("run", name, 1) for name in ("lead", "new 1", "big", "new 2")), return_exceptions=True
                )
                assert [put[0], put[1], put[3]] == [None] * 3
                assert isinstance(put[2], CorruptStoreError)
                report = await store.check()
                assert {(problem.kind, problem.key) for problem in report.problems} == {
                    ("output", ("run", "big")), ("global", ("big",)),
                }  # fmt: skip
                assert (report.outputs, report.globals) == (6, 2)

        asyncio.run(run())


def test_outputs_that_belong_to_no_run_are_found(postgres: Server, url: str, schema: str) -> None:
    with ContextStore(url) as store:
        store.put_many("run", {"a": 1, "b": 2})
        execute(postgres, f"DELETE FROM {schema}.flow_runs")
        problems = store.check().problems
        assert [(problem.kind, problem.key[1]) for problem in problems] == [("output", "a"), ("output", "b")]


def test_a_run_whose_times_cannot_be_is_damaged_and_not_an_overflow(
    postgres: Server, url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_OUTPUTS", 2**40)  # what was counted in, now and then at once, is known by the run
    with ContextStore(url) as store:
        store.put("run", "a", 1)
        execute(postgres, f"UPDATE {schema}.node_outputs SET written_at = 1::bigint << 61")
        (run,) = store.list_runs()
        assert (run.outputs, run.first_written_at, run.last_written_at) == (1, None, None)
        with pytest.raises(CorruptStoreError, match="'a'"):
            store.get_entry("run", "a")


async def test_a_put_under_way_while_its_deleted_run_is_forgotten_leaves_nothing_behind(
    postgres: Server, url: str, schema: str
) -> None:
    async with AsyncContextStore(url) as store:
        await store.put("run", "node", 1)
        connection = await asyncpg.connect(postgres.url())
        transaction = connection.transaction()
        await transaction.start()
        serial = await connection.fetchval(f"SELECT serial FROM {schema}.flow_runs")
        row = (serial, "late", 0, 0, b"1", time.time_ns() // 1000, "run", None, uuid.uuid4())
        await connection.execute(statements_for(schema).insert_output, *row)
        await store.delete_run("run")
        pruning = asyncio.ensure_future(store.prune(older_than=datetime.timedelta(0)))
        await asyncio.sleep(0.3)
        assert not pruning.done()
        await transaction.commit()
        await pruning
        await store.prune(older_than=datetime.timedelta(0))
        assert await connection.fetchval(f"SELECT count(*) FROM {schema}.node_outputs") == 0
        assert await connection.fetchval(f"SELECT count(*) FROM {schema}.flow_runs") == 0
        await connection.close()


def test_clients_that_begin_the_same_runs_at_once_do_not_wait_for_each_other_in_a_circle(
    postgres: Server, url: str
) -> None:
    async def run() -> None:
        stores = [AsyncContextStore(url) for _ in range(4)]
        runs = [f"run-{i:03}" for i in range(100)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(
            *(
                store.put(run, f"node-{number}", 1)
                for number, store in enumerate(stores)
                for run in (runs if number % 2 else reversed(runs))
            )
        )
        await asyncio.gather(*(store.close() for store in stores))

    execute(postgres, "SELECT pg_stat_reset()")
    asyncio.run(run())
    time.sleep(0.5)  # its counts come late
    ((deadlocks,),) = execute(postgres, "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'")
    assert deadlocks == 0


# -------------------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:S3CRET@h/db",
        "postgresql://u@h/db?password=S3CRET",
        "postgresql://u@h/db?sslpassword=S3CRET&sslmode=require",
        "postgresql://u:S3CRET@h1:1,h2:2/db?target_session_attrs=any",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    assert "S3CRET" not in repr(ContextStore(url))
    assert "S3CRET" not in str(outcome_of(lambda: ContextStore(url, timeout=0.1).open()))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:S3C/RET@h/db", "percent-encode"),
        ("postgresql://u:S3C#RET@h/db", "percent-encode"),
        ("postgresql://u:S3C?RET@h/db", "percent-encode"),
        ("postgresql://u:S3C[RET@h/db", "percent-encode"),
        ("postgresql://u:S3CRET\u2100x@h/db", "percent-encode"),
        ("postgresql://h:S3CRET/db", "is no number"),
        ("postgresql://h/db?connect_timeout=3", "timeout="),
        ("postgresql://h/db?schema=pg_mine", "pg_"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_showing_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ContextStore(url)
    assert "S3C" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_schema_may_have_the_name_of_a_word_of_sql(postgres: Server) -> None:
    with ContextStore(postgres.url(schema="user")) as store:
        store.put("run", "node", 1)
        assert store.stats().outputs == 1
        assert store.check().ok


def test_a_role_that_owns_the_schema_need_not_be_able_to_make_one(postgres: Server, schema: str) -> None:
    role = f"role_{schema}"
    execute(postgres, f"CREATE ROLE {role} LOGIN")
    execute(postgres, f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
    with ContextStore(postgres.url(schema=schema).replace("postgres@", f"{role}@")) as store:
        store.put("run", "node", 1)


def test_a_database_of_another_encoding_is_left_as_it_is(postgres: Server) -> None:
    execute(postgres, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ContextStoreError, match="UTF8"):
        ContextStore(f"postgresql://postgres@127.0.0.1:{postgres.port}/latin").open()


@pytest.mark.usefixtures("postgres")
def test_a_timeout_of_nothing_tries_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MIN_COMMIT_SECONDS", 60.0)  # a busy machine may not connect within the second
    with ContextStore(url, timeout=0) as store:
        store.put("run", "node", 1)
        assert store.get("run", "node") == 1
        with pytest.raises(AlreadyExistsError):
            store.put("run", "node", 2)


def test_a_final_error_keeps_the_drivers_own_as_its_cause(postgres: Server) -> None:
    with pytest.raises(StorageError) as caught:
        ContextStore(f"postgresql://postgres@127.0.0.1:{postgres.port}/missing").open()
    assert caught.value.code == "3D000"
    cause: Any = caught.value.__cause__
    assert cause.sqlstate == "3D000"
