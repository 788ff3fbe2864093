"""What becomes of counters and keys: with forks, copies, exports, deletions, and what ``check`` says of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import sqlite3
from typing import Any

import pytest

from contextstore import ContextStore, ExportedAppendCounter, ExportedAppendKey, copy, export_records, import_records
from contextstore.errors import AlreadyExistsError

from ..conftest import Target
from .test_append import ids

SOON = datetime.timedelta(microseconds=-1)


async def fill(store: Any) -> None:
    """A run with two prefixes, of which one has keys; one with many; and one without appends."""
    for number in range(3):
        await store.append("run", "p", number, key=f"k{number}")
    await store.append("run", "", "of no prefix")
    await asyncio.gather(*(store.append("many", f"{n % 250}/", n, key=str(n)) for n in range(500)))
    await store.put("plain", "node", 1)


# -- fork --------------------------------------------------------------------------------------------------------------


async def test_a_fork_has_the_counters_and_the_keys(store: Any) -> None:
    await fill(store)
    await store.fork_run("run", new_flow_run_id="fork")
    assert await store.append("fork", "p", "again", key="k1") == "p000000000002"
    assert await store.append("fork", "p", "new", key="k3") == "p000000000004"
    assert await store.append("fork", "", "new") == "000000000002"
    assert await store.append("run", "p", "new") == "p000000000004"


async def test_a_fork_of_some_outputs_has_their_keys_alone_and_all_counters(store: Any) -> None:
    await fill(store)
    await store.fork_run("run", new_flow_run_id="fork", node_ids=["p000000000002"])
    assert await store.append("fork", "p", "again", key="k1") == "p000000000002"
    assert await store.append("fork", "p", "new", key="k0") == "p000000000004"
    assert await store.append("fork", "", "new") == "000000000002"


async def test_a_fork_of_many_prefixes_and_keys_has_them_all(store: Any) -> None:
    await fill(store)
    await store.fork_run("many", new_flow_run_id="fork")
    again = await asyncio.gather(*(store.append("fork", f"{n % 250}/", "again", key=str(n)) for n in range(500)))
    assert {await store.get("fork", node) for node in again} == set(range(500))
    assert len(await store.list_keys("fork")) == 500


# -- other stores ------------------------------------------------------------------------------------------------------


def of_the_run(store: ContextStore) -> list[Any]:
    kinds = ExportedAppendCounter, ExportedAppendKey
    return [record for record in export_records(store, runs=["run"]) if isinstance(record, kinds)]


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Any:
    with ContextStore(tmp_path / "source.db") as store:
        for number in range(3):
            store.append("run", "p", number, key=f"k{number}")
        store.append("run", "", 0)
        store.put_many("plain", {"a": 1, "b": 2})
        yield store


@pytest.fixture
def target(make_store: Target) -> Any:
    """A blocking store in the place of each engine."""
    with contextlib.closing(ContextStore(make_store.location)) as store:
        yield store


async def test_a_copy_has_the_counters_and_the_keys(source: ContextStore, target: ContextStore) -> None:
    await asyncio.to_thread(copy, source, target)
    assert of_the_run(target) == of_the_run(source)
    assert len(of_the_run(source)) == 5
    assert target.append("run", "p", "again", key="k2") == "p000000000003"
    assert target.append("run", "p", "new") == "p000000000004"


async def test_a_copy_made_again_takes_along_what_was_appended_since(
    source: ContextStore, target: ContextStore
) -> None:
    await asyncio.to_thread(copy, source, target)
    source.append("run", "p", "new", key="k3")
    source.append("run", "q", "new")
    await asyncio.to_thread(copy, source, target)
    assert of_the_run(target) == of_the_run(source)


async def test_an_import_of_an_export_has_the_counters_and_the_keys(source: ContextStore, target: ContextStore) -> None:
    await asyncio.to_thread(lambda: import_records(target, export_records(source)))
    assert await asyncio.to_thread(lambda: list(export_records(target)) == list(export_records(source)))
    await asyncio.to_thread(lambda: import_records(target, export_records(source)))


async def test_an_import_sets_no_counter_back(target: ContextStore) -> None:
    target.append("run", "p", 1)
    target.append("run", "p", 2)
    import_records(target, [ExportedAppendCounter("run", "p", 1)])
    assert target.append("run", "p", 3) == "p000000000003"


async def test_an_import_replaces_no_key(target: ContextStore) -> None:
    node = target.append("run", "p", 1, key="a")
    with pytest.raises(AlreadyExistsError):
        import_records(target, [ExportedAppendKey("run", "p", "a", "other")])
    told: list[Any] = []
    import_records(target, [ExportedAppendKey("run", "p", "a", "other")], on_conflict=told.append)
    assert [problem.key for problem in told] == [("run",)]
    assert target.append("run", "p", 2, key="a") == node


async def test_numbers_go_on_beyond_twelve_digits(target: ContextStore) -> None:
    import_records(target, [ExportedAppendCounter("run", "p", 10**12 - 2)])
    target.put("run", "p1000000000001", "put")
    assert [target.append("run", "p", n) for n in range(3)] == [f"p{10**12 - 1}", f"p{10**12}", f"p{10**12 + 2}"]


async def test_a_counter_that_is_at_its_end_gives_nothing_more(target: ContextStore) -> None:
    import_records(target, [ExportedAppendCounter("run", "p", 2**63 - 2)])
    assert target.append("run", "p", 1) == f"p{2**63 - 1}"
    for _ in range(2):
        with pytest.raises(ValueError, match="prefix"):
            target.append("run", "p", 2)
    assert target.append("run", "q", 2) == "q000000000001"


@pytest.mark.each_input_once
@pytest.mark.parametrize("last", [0, -1, 2**63, True, "1"], ids=repr)
async def test_a_counter_that_no_store_could_give_is_refused(target: ContextStore, last: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="last"):
        import_records(target, [ExportedAppendCounter("run", "p", last)])


def test_a_backup_has_them_by_itself(source: ContextStore, tmp_path: pathlib.Path) -> None:
    source.backup(tmp_path / "backup.db")
    with ContextStore(tmp_path / "backup.db") as backup:
        assert backup.append("run", "p", "again", key="k0") == "p000000000001"
        assert backup.append("run", "p", "new") == "p000000000004"


# -- deleting ----------------------------------------------------------------------------------------------------------


async def rows_left(store: Any) -> int:
    """How many counters and keys there are, of runs that are there or not."""
    engine = getattr(store, "plain", store)._core.session.engine
    connect = getattr(engine, "_database", None)
    if connect is not None:
        query = "SELECT (SELECT count(*) FROM append_counters) + (SELECT count(*) FROM append_keys)"

        async def count() -> int:
            return int(engine._database.read("rows", lambda here: here.execute(query).fetchone()[0]))

    else:
        statement = engine._statements.page_append_counters.partition("FROM ")[2].partition(".append_counters")[0]
        query = f"SELECT (SELECT count(*) FROM {statement}.append_counters)"
        query += f" + (SELECT count(*) FROM {statement}.append_keys)"

        async def count() -> int:
            return int((await engine._pool.fetch(query))[0][0])

    core = getattr(store, "plain", store)._core
    read = core.session.read(count)
    if hasattr(store, "plain"):
        from contextstore._waiting.threads import run_now

        return await asyncio.to_thread(run_now, read)
    return int(await read)


async def test_a_deleted_run_leaves_no_counter_and_no_key(store: Any) -> None:
    await fill(store)
    await store.delete_run("many")
    assert await rows_left(store) == 5
    await store.delete_run("run")
    assert await rows_left(store) == 0
    assert (await store.check()).problems == ()


async def test_pruned_runs_leave_no_counter_and_no_key(store: Any) -> None:
    await fill(store)
    await asyncio.sleep(0.001)
    report = await store.prune(older_than=datetime.timedelta(0))
    assert report.runs == 3
    assert await rows_left(store) == 0


async def test_an_id_that_is_used_anew_counts_from_one(store: Any) -> None:
    await fill(store)
    await store.delete_run("run")
    await asyncio.sleep(0.001)
    await store.prune(older_than=datetime.timedelta(0))
    assert await store.append("run", "p", "new", key="k2") == "p000000000001"


# -- check -------------------------------------------------------------------------------------------------------------


async def test_a_fork_that_has_counters_and_no_outputs_is_no_damage(store: Any) -> None:
    await store.append("run", "p", 1, key="k")
    await store.fork_run("run", new_flow_run_id="fork", node_ids=[])
    assert await rows_left(store) == 3
    assert (await store.check()).problems == ()


def test_check_names_counters_and_keys_of_no_run_and_counters_that_are_none(
    source: ContextStore, tmp_path: pathlib.Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "source.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO append_counters VALUES (99, 'p', 1)")
        connection.execute("INSERT INTO append_keys VALUES (99, 'p', 'k', 'node')")
        connection.execute("UPDATE append_counters SET last = 'many' WHERE prefix = '' AND run = 1")
    problems = source.check().problems
    assert [(problem.kind, problem.key) for problem in problems] == [
        ("run", ("run",)),
        ("run", ("run number 99",)),
        ("run", ("run number 99",)),
    ]
    assert "counter" in problems[0].message
    assert ids("p", 1) == ["p000000000001"]
