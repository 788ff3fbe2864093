"""How many outputs a run has is kept, not counted: it is what is there, whoever writes, deletes, copies and dies."""

from __future__ import annotations

import contextlib
import pathlib
import random
import sqlite3
import time
from typing import Any

import pytest

from contextstore import ContextStore, copy
from contextstore._postgres import counting as _postgres_counting
from contextstore._sqlite import counting as _sqlite_counting

from ..conftest import new_location
from ..support.forked import Child, run
from ..support.nodes import execute
from .runs import rows_of

LOW = {"_PUTS": 5, "_SHORT": 3, "_STEP": 4}

WRITER = """
    import random
    from contextstore._postgres import counting as of_postgres
    from contextstore._sqlite import counting as of_sqlite

    of_sqlite._PUTS, of_sqlite._SHORT, of_sqlite._STEP = 5, 3, 4
    of_postgres._OUTPUTS, of_postgres._STEP = 5, 7
    target, seed, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    chance = random.Random(seed)

    def write(store, run, name):
        kind = chance.choice(["put", "put", "put", "many", "append", "batch", "delete", "mark all", "fork", "forget"])
        if kind == "put":
            store.put(run, name, name)
        elif kind == "many":
            store.put_many(run, {f"{name}-{n}": n for n in range(chance.randrange(1, 12))}, exist_ok="keep")
        elif kind == "append":
            store.append(run, "log", name)
        elif kind == "batch":
            with store.batch() as batch:
                batch.put(run, name, 1)
                batch.append(run, "log", 1)
                batch.put("run-0", f"{name}-too", 1, exist_ok=True)
                batch.delete_outputs(run, [name + "-none"])
        elif kind == "delete":
            keys = store.list_keys(run)
            store.delete_outputs(run, chance.sample(keys, min(3, len(keys))))
        elif kind == "mark all":
            store.delete_outputs(run, prefix="log")
        elif kind == "fork":
            if store.list_keys(run):
                store.fork_run(run, new_flow_run_id=f"fork-{name}")
        else:
            store.delete_run(run, forget=chance.random() < 0.5)

    with ContextStore(target) as store:
        for number in range(rounds):
            try:
                write(store, f"run-{chance.randrange(6)}", f"{seed}-{number}")
            except (errors.RunDeletedError, errors.AlreadyExistsError, errors.OutputDeletedError):
                pass
            say(number)
"""

HOLDER = """
    import asyncpg

    async def hold():
        connection = await asyncpg.connect(sys.argv[1])
        await connection.execute("BEGIN; SELECT pg_current_xact_id()")
        say("held")
        sys.stdin.readline()
        await connection.execute("COMMIT")
        await connection.close()

    asyncio.run(hold())
"""


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have counts be kept after a few outputs."""
    for name, value in LOW.items():
        monkeypatch.setattr(_sqlite_counting, name, value)
    monkeypatch.setattr(_postgres_counting, "_OUTPUTS", 1)


def assert_counts_are_right(store: Any, seed: object) -> None:
    for info in store.list_runs(limit=10_000):
        outputs = list(store.iter_outputs(info.flow_run_id))
        assert info.outputs == len(outputs), (seed, info)
        assert store.get_run_info(info.flow_run_id) == info, seed
        times = [output.written_at for output in outputs]
        if times:
            assert info.first_written_at <= min(times), (seed, info)
            assert info.last_written_at >= max(times), (seed, info)
    report = store.check()
    assert report.ok, (seed, report.problems)


@pytest.fixture(params=["file", "postgres"])
def location(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


def test_they_are_what_is_there_whoever_writes_and_is_killed(location: Any) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    with ContextStore(location) as store:
        store.put("run-0", "first", 1)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(WRITER, location, f"{seed}-{number}", 60)) for number in range(3)]
        for child in children:
            for _ in range(chance.randrange(5, 60)):
                child.hear()
            if chance.random() < 0.7:
                child.kill()
        for child in children:
            child.hear_all()
    with ContextStore(location) as store:
        assert_counts_are_right(store, seed)
    assert run(WRITER, location, f"{seed}-last", 40)[-1] == "39", seed
    with ContextStore(location) as store:
        assert_counts_are_right(store, seed)


def test_they_are_right_in_a_copy(location: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    seed = time.time_ns()
    assert run(WRITER, location, seed, 80)[-1] == "79", seed
    with ContextStore(location) as source, ContextStore(tmp_path / "copy.db") as target:
        copy(source, target)
        assert_counts_are_right(target, seed)
        counts = {info.flow_run_id: info.outputs for info in source.list_runs(limit=10_000)}
        assert {info.flow_run_id: info.outputs for info in target.list_runs(limit=10_000)} == counts, seed


def test_what_a_process_alone_has_put_is_counted_in_by_itself(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    quick(monkeypatch)
    with ContextStore(path) as store:
        for number in range(100):
            store.put("run", str(number), number)
        ((tail,),) = rows_of(
            path, "SELECT max(id) - store_facts.value FROM node_outputs, store_facts WHERE name = 'counted'"
        )
        assert tail < 20
        ((kept,),) = rows_of(path, "SELECT outputs FROM flow_runs")
        assert 80 < kept <= 100
        assert store.list_runs()[0].outputs == 100


def test_a_server_counts_in_what_was_put(postgres: Any, url: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with ContextStore(url) as store:
        for number in range(30):
            store.put("run", str(number), number)
        ((kept,),) = execute(postgres, f"SELECT outputs FROM {schema}.flow_runs")
        assert kept > 0
        assert store.list_runs()[0].outputs == 30


def test_a_long_transaction_of_another_makes_no_count_wrong(
    postgres: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with Child(HOLDER, postgres.url()) as child, ContextStore(url) as store:
        assert child.hear() == "held"
        store.put_many("run", {str(number): number for number in range(30)})
        for number in range(10):
            store.put("other", str(number), number)
        assert {info.flow_run_id: info.outputs for info in store.list_runs()} == {"run": 30, "other": 10}
        child.tell()
        child.end()
        store.put("run", "last", 1)
        assert {info.flow_run_id: info.outputs for info in store.list_runs()} == {"run": 31, "other": 10}
        assert store.check().ok


def test_the_times_are_of_outputs_that_were_deleted_too(location: Any) -> None:
    with ContextStore(location) as store:
        for node in "abc":
            store.put("run", node, node)
        before = store.get_run_info("run")
        store.delete_outputs("run", ["a", "c"])
        after = store.get_run_info("run")
        assert (after.outputs, after.first_written_at, after.last_written_at) == (
            1, before.first_written_at, before.last_written_at
        )  # fmt: skip
        store.delete_outputs("run", prefix="")
        info = store.get_run_info("run")
        assert (info.outputs, info.first_written_at, info.last_written_at) == (0, None, None)


@pytest.mark.parametrize("wrong", ["outputs + 1", "outputs - 1"])
def test_check_tells_a_count_that_is_wrong(location: Any, request: pytest.FixtureRequest, wrong: str) -> None:
    with ContextStore(location) as store:
        store.put("run", "node", 1)
        store.put("other", "node", 1)
        assert store.check().ok
        statement = f"UPDATE flow_runs SET outputs = {wrong} WHERE flow_run_id = 'run'"
        if isinstance(location, pathlib.Path):
            rows_written(location, statement)
        else:
            schema = str(location).partition("?schema=")[2]
            execute(request.getfixturevalue("postgres"), statement.replace("flow_runs", f"{schema}.flow_runs"))
        (problem,) = store.check().problems
        assert (problem.kind, problem.key) == ("run", ("run",))


def test_each_call_that_tells_of_a_run_tells_the_count_that_is_kept(
    location: Any, request: pytest.FixtureRequest
) -> None:
    with ContextStore(location) as store:
        store.put_many("run", {"a": 1, "b": 2})
        statement = "UPDATE flow_runs SET outputs = outputs + 10"  # as none would find who counted the rows
        if isinstance(location, pathlib.Path):
            rows_written(location, statement)
        else:
            schema = str(location).partition("?schema=")[2]
            execute(request.getfixturevalue("postgres"), statement.replace("flow_runs", f"{schema}.flow_runs"))
        (listed,) = store.list_runs()
        watched = store.watch_runs()
        told = next(watched)
        watched.close()
        of_run, waited_for = store.run("run").info(), store.wait_for_run("run", state="open")
        for info in (listed, told, store.get_run_info("run"), of_run, waited_for):
            assert info is not None
            assert info.outputs == 12


def test_runs_whose_outputs_were_never_counted_are_counted_when_asked(
    location: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with ContextStore(location) as store:
        store.put_many("run", {"a": 1, "b": 2, "c": 3})
        statement = "UPDATE flow_runs SET outputs = NULL"
        if isinstance(location, pathlib.Path):
            rows_written(location, statement)
        else:
            schema = str(location).partition("?schema=")[2]
            execute(request.getfixturevalue("postgres"), statement.replace("flow_runs", f"{schema}.flow_runs"))
        store.delete_outputs("run", ["a"])
        for number in range(20):
            store.put("run", str(number), 1)
        assert_counts_are_right(store, None)
        assert store.list_runs()[0].outputs == 22


def rows_written(path: pathlib.Path, statement: str) -> None:

    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
