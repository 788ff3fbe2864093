"""A store of an earlier version on a server is migrated as it is opened, and shuts processes of that version out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import (
    AsyncContextStore,
    ContextStore,
    IncompatibleStoreError,
    RunDeletedError,
    StoreBusyError,
    VersionConflictError,
)
from contextstore._postgres.tables import SCHEMA_VERSION

from ..support.earlier import OF_SCHEMA, earlier_child, make_earlier, package_at
from ..support.forked import Child, children
from ..support.nodes import execute, make_role_that_puts_and_gets
from ..support.portions import first_of, some
from ..support.servers import Server, running_pooler

TABLES = {
    1: ("runs", "output_rows", "global_rows"),
    2: ("flow_runs", "node_outputs", "global_values"),
    3: ("flow_runs", "node_outputs", "global_values"),
}
"""What the tables are called, by schema: those of runs, of outputs and of globals."""


# A portion of the suite migrates from the first of them, and so by every step.
@pytest.fixture(params=first_of(sorted(TABLES), 1), ids=lambda version: f"from {version}")
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def package(tmp_path: pathlib.Path, version: int) -> pathlib.Path:
    """The package of that version."""
    return package_at(OF_SCHEMA[version], tmp_path / "earlier")


@pytest.fixture
def earlier(postgres: Server, url: str, schema: str, version: int) -> str:
    """A store of an earlier schema with one output, as the version of then would have it."""
    with ContextStore(url) as store:
        store.put("run", "a", 1)
    make_earlier(postgres, schema, version)
    return url


def version_of(server: Server, schema: str) -> int:
    ((version,),) = execute(server, f"SELECT version FROM {schema}.store_format")
    return int(version)


# ------------------------------------------------------------------------------------------ the version before, running

FILL = """
    with ContextStore(sys.argv[1]) as store:
        store.put_many("run", {"a": 1, "b": b"bytes", "big": "x" * 100_000})
        store.put("other", "a", None)
        store.upsert_global("counter", 1)
        store.upsert_global("counter", 2)
        store.put_global("gone", 1)
        store.delete_global("gone")
        store.put("deleted", "a", 1)
        store.delete_run("deleted")
    say("done")
"""
WRITERS = """
    async def main():
        async with AsyncContextStore(sys.argv[1]) as store:
            await store.put("run", "first", 1)
            say("open")
            await asyncio.gather(*(write(store, worker) for worker in range(6)))
            for call in (
                lambda: store.put("run", "late", 1), lambda: store.put("late", "a", 1),
                lambda: store.put_many("run", {"late-a": 1, "late-b": 2}), lambda: store.upsert_global("late", 1),
                lambda: store.delete_run("run"), lambda: store.get("run", "first-of-all"),
                lambda: store.list_keys("run"), lambda: store.get_global("late"),
            ):
                try:
                    say("answered", await call())
                except StorageError as error:
                    say("refused", error.outcome_unknown)

    async def write(store, worker):
        number = 0
        while True:
            number += 1
            run = f"run-{worker}" if number % 5 else f"run-{worker}-{number}"
            try:
                if worker < 3:
                    await store.put(run, str(number), number)
                elif worker < 5:
                    await store.put_many(run, {str(number): number, f"{number}+": number})
                else:
                    await store.upsert_global(str(number), number)
            except StorageError as error:
                assert not error.outcome_unknown, error
                return
            say("acknowledged", worker, run, number)

    asyncio.run(main())
"""


def test_the_version_before_stores_nothing_once_this_one_has_the_store_open_and_says_so(
    url: str, package: pathlib.Path
) -> None:
    with earlier_child(package, WRITERS, url) as child:
        assert child.hear() == "open"
        before = [child.hear() for _ in range(200)]
        with ContextStore(url) as store:
            said = [line.split() for line in [*before, *child.hear_all()]]
            assert [line for line in said if line[0] != "acknowledged"] == [["refused", "False"]] * 8
            acknowledged = [line[1:] for line in said if line[0] == "acknowledged"]
            outputs = {(run, number) for worker, run, number in acknowledged if worker != "5"}
            outputs |= {(run, f"{number}+") for worker, run, number in acknowledged if worker in "34"}
            runs = {info.flow_run_id for info in store.list_runs(limit=10_000)} - {"run"}
            assert {(run, node) for run in runs for node in store.list_keys(run)} == outputs
            stored = {entry.key for entry in store.list_globals(limit=100_000)}
            assert stored == {number for worker, _, number in acknowledged if worker == "5"}
            assert store.list_keys("run") == ["first"]


def test_a_store_of_the_version_before_has_all_that_it_had(url: str, package: pathlib.Path) -> None:
    with earlier_child(package, FILL, url) as child:
        assert child.end() == (0, ["done"], "")
    with ContextStore(url) as store:
        assert store.get_run("run") == {"a": 1, "b": b"bytes", "big": "x" * 100_000}
        assert store.list_keys("other") == ["a"]
        assert store.get("other", "a", "nothing") is None
        assert [(entry.key, entry.value, entry.version) for entry in store.list_globals()] == [("counter", 2, 2)]
        with pytest.raises(VersionConflictError):
            store.upsert_global("counter", 3, expected_version=1)
        assert store.upsert_global("gone", 1) > 1  # versions never repeat
        with pytest.raises(RunDeletedError):
            store.put("deleted", "b", 1)
        assert [info.flow_run_id for info in store.list_runs()] == ["other", "run"]
        assert store.check().ok


def test_behind_a_pooler_the_version_before_is_shut_out_as_well(
    postgres: Server, schema: str, package: pathlib.Path
) -> None:
    with running_pooler(postgres) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres?pooler=transaction&schema={schema}"
        with earlier_child(package, WRITERS, url) as child:
            assert child.hear() == "open"
            with ContextStore(url) as store:
                said = child.hear_all()
                assert [line for line in said if not line.startswith("acknowledged")] == ["refused False"] * 8
                assert store.list_keys("run") == ["first"]


def test_the_version_before_refuses_to_open_it(url: str, package: pathlib.Path) -> None:
    with ContextStore(url) as store:
        store.put("run", "a", 1)
    program = """
        try:
            ContextStore(sys.argv[1]).open()
        except IncompatibleStoreError as error:
            say("upgrade contextstore" in str(error))
    """
    with earlier_child(package, program, url) as child:
        assert child.end()[:2] == (0, ["True"])


# ----------------------------------------------------------------------------------------------------- the step itself

CATALOG = """
    SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity, collation_name
    FROM information_schema.columns WHERE table_schema = '{schema}' ORDER BY 1, 2
"""
INDEXES = (
    "SELECT tablename, replace(indexdef, '{schema}.', '') FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1, 2"
)
VIEWS = "SELECT viewname, definition FROM pg_views WHERE schemaname = '{schema}' ORDER BY 1"


def test_what_was_migrated_is_as_what_was_made_anew(postgres: Server, earlier: str, schema: str) -> None:
    with ContextStore(earlier) as store:
        store.put("run", "b", 2)
    fresh = f"{schema}_fresh"
    with ContextStore(postgres.url(schema=fresh)):
        pass
    for query in (CATALOG, INDEXES, VIEWS):
        migrated, made = ([tuple(row) for row in execute(postgres, query.format(schema=s))] for s in (schema, fresh))
        assert [str(row).replace(schema, "s") for row in migrated] == [str(row).replace(fresh, "s") for row in made]


@pytest.mark.parametrize("version", [1])
def test_a_store_from_before_there_was_an_epoch_gets_one(postgres: Server, earlier: str, schema: str) -> None:
    execute(postgres, f"ALTER TABLE {schema}.store_format DROP COLUMN deletions")
    with ContextStore(earlier) as store:
        assert [store.get("run", "a") for _ in range(3)] == [1, 1, 1]
        assert store.stats().cache_hits == 2
        assert store.delete_run("run") == 1
    assert execute(postgres, f"SELECT deletions > 0 FROM {schema}.store_format")[0][0]


def test_processes_that_open_it_at_the_same_moment_all_have_it(postgres: Server, earlier: str, schema: str) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            store.put("run", sys.argv[2], 1)
        say("done")
    """
    with children(some(6, 3), program, earlier) as all_children:
        for child in all_children:
            assert child.end() == (0, ["done"], "")
    assert version_of(postgres, schema) == SCHEMA_VERSION
    with ContextStore(earlier) as store:
        assert len(store.list_keys("run")) == 1 + len(all_children)


async def test_a_client_that_waited_for_another_to_migrate_finds_it_done(
    postgres: Server, earlier: str, schema: str, version: int
) -> None:
    waiting = f"""
        SELECT count(*) FROM pg_locks
        WHERE NOT granted AND relation = '{schema}.{TABLES[version][0]}'::regclass
    """
    stores = [AsyncContextStore(earlier, timeout=60) for _ in range(3)]
    connection = await asyncpg.connect(postgres.url())
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {schema}.{TABLES[version][0]} IN ACCESS SHARE MODE")
            opening = [asyncio.ensure_future(store.open()) for store in stores]
            while await connection.fetchval(waiting) < len(stores):  # each has seen the version of before
                assert not any(task.done() for task in opening)
        await asyncio.gather(*opening)
        assert [await store.get("run", "a") for store in stores] == [1] * len(stores)
    finally:
        await connection.close()
        for store in stores:
            await store.close()
    assert await asyncio.to_thread(version_of, postgres, schema) == SCHEMA_VERSION


@contextlib.contextmanager
def held(url: str, statement: str) -> Iterator[Callable[[], None]]:
    """A transaction of another client's that goes on until it is told to commit, or until the end."""
    with asyncio.Runner() as runner:
        connection: Any = runner.run(asyncpg.connect(url.partition("?")[0]))

        def finish() -> None:
            runner.run(connection.execute("COMMIT"))

        try:
            runner.run(connection.execute(f"BEGIN; {statement}"))
            yield finish
        finally:
            runner.run(connection.close())


def test_behind_a_dump_it_gives_up_leaves_it_as_it_was_and_says_why(
    postgres: Server, earlier: str, schema: str, version: int
) -> None:
    with held(earlier, f"SELECT * FROM {schema}.{TABLES[version][0]}") as finish:
        store = ContextStore(earlier, timeout=1)
        with pytest.raises(StoreBusyError, match="could not be migrated: other clients had its tables lock") as caught:
            store.open()
        assert caught.value.code == "55P03"
        assert version_of(postgres, schema) == version
        finish()
        with store:
            assert store.get("run", "a") == 1
    assert version_of(postgres, schema) == SCHEMA_VERSION


def test_behind_a_dump_others_get_on_in_between(postgres: Server, earlier: str, schema: str, version: int) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            say(store.get("run", "a"))
    """
    with held(earlier, f"SELECT * FROM {schema}.{TABLES[version][0]}") as finish, Child(program, earlier) as child:
        started, longest = time.monotonic(), 0.0
        while time.monotonic() < started + some(6, 2):
            began = time.monotonic()
            execute(postgres, f"SELECT count(*) FROM {schema}.{TABLES[version][0]}")
            longest = max(longest, time.monotonic() - began)
        assert longest < 15  # and not until the dump ends, or the other process gives up
        finish()
        assert child.end() == (0, ["1"], "")


def test_what_the_version_before_has_under_way_is_waited_for_and_kept(earlier: str, schema: str, version: int) -> None:
    copied = f"""
        INSERT INTO {schema}.{TABLES[version][1]} SELECT run, 'a-copy', codec, checksum, written_at, size, writer, value
        FROM {schema}.{TABLES[version][1]}
    """
    with (
        held(earlier, copied) as finish,
        Child("with ContextStore(sys.argv[1]) as s: say(s.list_keys('run'))", earlier) as child,
    ):
        time.sleep(1)
        assert child.process.poll() is None
        finish()
        assert child.end() == (0, ["['a', 'a-copy']"], "")


@pytest.mark.parametrize("attempt", first_of(range(6), 2))
def test_a_process_killed_at_any_moment_leaves_the_one_version_or_the_other(
    postgres: Server, earlier: str, schema: str, attempt: int, version: int
) -> None:
    program = """
        say("begins")
        ContextStore(sys.argv[1]).open()
    """
    with held(earlier, f"SELECT * FROM {schema}.{TABLES[version][0]}") as finish, Child(program, earlier) as child:
        assert child.hear() == "begins"
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while not execute(postgres, waiting)[0][0]:
            time.sleep(0.005)
        if attempt % 2:
            finish()
            time.sleep(random.uniform(0, 0.005))
        child.kill()
    with ContextStore(earlier) as store:
        assert store.get("run", "a") == 1
        store.put("run", "b", 2)
    assert version_of(postgres, schema) == SCHEMA_VERSION


# -------------------------------------------------------------------------------------------------- who may not do it


def test_who_only_reads_does_not_migrate_it_and_says_who_could(
    postgres: Server, earlier: str, schema: str, version: int
) -> None:
    with pytest.raises(IncompatibleStoreError, match=f"earlier version {version}, and with read_only=True"):
        ContextStore(earlier, read_only=True).open()
    assert version_of(postgres, schema) == version


def test_a_role_that_is_not_the_owner_is_told_so_and_keeps_its_rights_once_it_is_migrated(
    postgres: Server, earlier: str, schema: str, version: int
) -> None:
    role = f"role_{schema}"
    make_role_that_puts_and_gets(postgres, schema, role, runs=TABLES[version][0], outputs=TABLES[version][1])
    theirs = ContextStore(earlier.replace("postgres@", f"{role}@"))
    with pytest.raises(IncompatibleStoreError, match="this role may not migrate it: open it once as the owner"):
        theirs.open()
    assert version_of(postgres, schema) == version
    with ContextStore(earlier):
        pass
    with theirs:
        theirs.put("run", "b", 2)
        theirs.put("new", "a", 1)
        assert theirs.get_run("run") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("CREATE TABLE {schema}.run_states (theirs integer)", "run_states.* already exists"),
        ("CREATE VIEW {schema}.failed_attempts AS SELECT 1 AS theirs", "failed_attempts.* already exists"),
        ("ALTER TABLE {schema}.{globals} RENAME TO elsewhere", "lacks a table.*restore a backup.*{globals}"),
    ],
)
def test_what_keeps_it_from_being_migrated_is_named_and_left_as_it_was(
    postgres: Server, earlier: str, schema: str, change: str, message: str, version: int
) -> None:
    execute(postgres, change.format(schema=schema, globals=TABLES[version][2]))
    reason = message.format(globals=TABLES[version][2])
    with pytest.raises(IncompatibleStoreError, match=f"earlier version [{version}23].*{reason}"):
        ContextStore(earlier).open()
    assert version_of(postgres, schema) in (version, 2, 3)  # as far as the steps came
    assert len(execute(postgres, f"SELECT * FROM {schema}.{TABLES[version_of(postgres, schema)][1]}")) == 1


def test_an_owner_who_may_create_nothing_in_the_schema_is_told_so(
    postgres: Server, earlier: str, schema: str, version: int
) -> None:
    role = f"owner_{schema}"
    for statement in (
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        *(f"ALTER TABLE {schema}.{table} OWNER TO {role}" for table in TABLES[version]),
        f"ALTER TABLE {schema}.store_format OWNER TO {role}",
    ):
        execute(postgres, statement)
    with pytest.raises(IncompatibleStoreError, match="with the right to create in their schema"):
        ContextStore(earlier.replace("postgres@", f"{role}@")).open()
    assert version_of(postgres, schema) == version


# --------------------------------------------------------------------------------------- this version, once it is older


@pytest.fixture
async def outdated(postgres: Server, url: str, schema: str) -> AsyncIterator[AsyncContextStore]:
    """A store that is open while its number changes."""
    async with AsyncContextStore(url) as store:
        await store.put("run", "a", 1)
        await store.upsert_global("key", 1)
        await asyncio.to_thread(execute, postgres, f"UPDATE {schema}.store_format SET version = {SCHEMA_VERSION + 1}")
        yield store
        await asyncio.to_thread(execute, postgres, f"UPDATE {schema}.store_format SET version = {SCHEMA_VERSION}")
    async with AsyncContextStore(url) as fresh:
        assert await fresh.get_run("run") == {"a": 1}
        assert await fresh.list_keys("new") == []
        assert [(entry.key, entry.version) for entry in await fresh.list_globals()] == [("key", 1)]


async def many_puts(store: AsyncContextStore) -> None:
    puts = (store.put("run", str(n), n) for n in range(20))
    errors = await asyncio.gather(*puts, return_exceptions=True)
    assert {type(error) for error in errors} == {IncompatibleStoreError}
    raise errors[0] or AssertionError


CALLS: dict[str, Callable[[AsyncContextStore], Any]] = {
    "put": lambda store: store.put("run", "b", 1),
    "put of the same": lambda store: store.put("run", "a", 1, exist_ok=True),
    "put of a new run": lambda store: store.put("new", "a", 1),
    "many puts": many_puts,
    "put_many": lambda store: store.put_many("run", {"b": 1, "c": 2}),
    "put_global": lambda store: store.put_global("new", 1),
    "upsert_global": lambda store: store.upsert_global("key", 2),
    "delete_global": lambda store: store.delete_global("key"),
    "delete_run": lambda store: store.delete_run("run"),
    "get": lambda store: store.get("run", "b"),
    "get_many": lambda store: store.get_many("run", ["b", "c"]),
    "get of a new run": lambda store: store.get("new", "a"),
    "exists": lambda store: store.exists("run", "b"),
    "list_keys": lambda store: store.list_keys("run"),
    "get_run": lambda store: store.get_run("run"),
    "list_runs": lambda store: store.list_runs(),
    "get_global": lambda store: store.get_global("key"),
    "list_globals": lambda store: store.list_globals(),
    "stats": lambda store: store.stats(),
    "check": lambda store: store.check(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_store_that_was_migrated_beside_an_open_one_is_neither_written_nor_read_by_that(
    outdated: AsyncContextStore, call: str
) -> None:
    with pytest.raises(IncompatibleStoreError, match="a newer contextstore has migrated it") as caught:
        await CALLS[call](outdated)
    assert not caught.value.outcome_unknown


async def test_a_batch_is_refused_as_a_whole(outdated: AsyncContextStore) -> None:
    with pytest.raises(IncompatibleStoreError):  # noqa: PT012
        async with outdated.batch() as batch:
            batch.put("run", "b", 1)
            batch.upsert_global("key", 2)


async def test_of_writes_under_way_none_is_committed_behind_a_migration(url: str, schema: str) -> None:
    tables = [f"{schema}.{table}" for table in ("flow_runs", "node_outputs", "global_values")]
    contents = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    versions = f"SELECT sum(version) FROM {schema}.global_values"

    async def write(store: AsyncContextStore, name: str, worker: int) -> None:
        for number in itertools.count():
            if worker < 4:
                await store.put(f"{name}-{worker}-{number // 3}", f"{number}", number)
            elif worker < 6:
                await store.put_many(f"{name}-{worker}", {f"{number}": number, f"{number}+": number})
            else:
                await store.upsert_global("key", number)

    connection = await asyncpg.connect(url.partition("?")[0])
    async with AsyncContextStore(url) as store, AsyncContextStore(url) as other:
        stores = {"one": store, "other": other}
        writers = [asyncio.ensure_future(write(stores[name], name, n)) for name in stores for n in range(8)]
        await asyncio.sleep(0.5)
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
            before = await connection.fetch(contents), await connection.fetch(versions)
            await asyncio.sleep(0.1)  # until all of them wait
            await connection.execute(f"UPDATE {schema}.store_format SET version = {SCHEMA_VERSION + 1}")
        ended = await asyncio.gather(*writers, return_exceptions=True)
        assert {type(error) for error in ended} == {IncompatibleStoreError}
        assert (await connection.fetch(contents), await connection.fetch(versions)) == before
    await connection.close()


async def test_a_store_whose_tables_were_renamed_says_so(postgres: Server, url: str, schema: str) -> None:
    async with AsyncContextStore(url) as store:
        await store.put("run", "a", 1)
        await asyncio.to_thread(make_earlier, postgres, schema, 1)
        for call in (store.put("run", "b", 1), store.get("run", "b")):
            with pytest.raises(IncompatibleStoreError, match="a newer contextstore has migrated it"):
                await call
