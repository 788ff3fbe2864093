"""Deleted outputs on a server: answers that are lost, clients that race, and what the server holds in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from contextstore import AsyncContextStore, ContextStore, OutputDeletedError, StorageError
from contextstore._postgres.statements import statements_for

from ..support.doubles import core_of
from ..support.nodes import execute
from ..support.proxy import Proxy
from ..support.servers import Server

pytestmark = pytest.mark.one_python


def before_connecting_anew(store: ContextStore, proxy: Proxy, act: Callable[[], Any]) -> None:
    """Have something done by another client before the connection that writes is made again."""
    writing: Any = core_of(store)._session.engine._writing
    connect, done = writing.connect, []

    async def late(deadline: float) -> None:
        if not writing.is_connected and proxy.cuts and not done:
            done.append(await asyncio.to_thread(act))
        await connect(deadline)

    writing.connect = late


def test_a_deletion_whose_answer_is_lost_is_done_once_and_counted_truly(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.put_many("run", {"a": 1, "b": 2, "c": 3})
        proxy.lose_answer_to("COMMIT")
        assert store.delete_outputs("run", ["a", "b", "x"]) == 2
        assert proxy.cuts == 1
        assert store.get_run("run") == {"c": 3}
        assert store.check().ok


def test_it_is_counted_truly_if_others_have_deleted_there_since(proxy: Proxy, schema: str, url: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        store.put_many("run", {"a": 1, "b": 2, "c": 3, "d": 4})
        before_connecting_anew(store, proxy, lambda: other.delete_outputs("run", ["a", "c"]))
        proxy.lose_answer_to("COMMIT")
        assert store.delete_outputs("run", ["a", "b"]) == 2
        assert proxy.cuts == 1
        assert store.get_run("run") == {"d": 4}
        assert store.check().ok


def test_if_the_run_itself_is_gone_since_the_number_is_not_known(proxy: Proxy, schema: str, url: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        store.put_many("run", {"a": 1, "b": 2})
        before_connecting_anew(store, proxy, lambda: other.delete_run("run"))
        proxy.lose_answer_to("COMMIT")
        with pytest.raises(StorageError) as caught:
            store.delete_outputs("run", ["a"])
        assert caught.value.outcome_unknown
        assert store.delete_outputs("run", ["a"]) == 0


def test_of_many_that_keep_the_ids_that_were_written_are_known_though_the_answer_is_lost(
    proxy: Proxy, schema: str
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.put("run", "b", 1)
        proxy.lose_answer_to("COMMIT")
        assert store.put_many("run", {"a": 1, "b": 2, "c": 3}, exist_ok="keep") == ["a", "c"]
        assert proxy.cuts == 1
        assert store.get_run("run") == {"a": 1, "b": 1, "c": 3}


def test_a_batch_that_deletes_and_whose_answer_is_lost_is_done_once(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.put_many("run", {"a": 1, "b": 2})
        proxy.lose_answer_to("COMMIT")
        with store.batch() as batch:
            batch.put("run", "c", 3)
            batch.delete_outputs("run", ["a", "c"])
            batch.upsert_global("key", 1)
        assert proxy.cuts == 1
        assert store.get_run("run") == {"b": 2}
        entry = store.get_global_entry("key")
        assert entry is not None
        assert entry.version == 1
        assert store.check().ok


async def test_clients_that_put_and_delete_the_same_in_any_order_end_without_a_circle(url: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    nodes = [f"{number:02}" for number in range(12)]

    async def work(store: AsyncContextStore, chance: random.Random) -> int:
        deleted = 0
        for _ in range(40):
            some = chance.sample(nodes, 6)
            try:
                async with store.batch() as batch:
                    for node in some[:3]:
                        batch.put(f"run-{chance.randrange(2)}", node, 1, exist_ok="keep")
                    batch.delete_outputs(f"run-{chance.randrange(2)}", some[3:])
            except OutputDeletedError:
                deleted += await store.delete_outputs(f"run-{chance.randrange(2)}", some)
        return deleted

    async with AsyncContextStore(url) as one, AsyncContextStore(url) as two, AsyncContextStore(url) as three:
        stores = [one, two, three]
        async with asyncio.timeout(120):  # a guard against hangs
            await asyncio.gather(*(work(store, random.Random(seed + n)) for n, store in enumerate(stores)))
        report = await one.check()
        assert report.ok, (seed, report.problems)


@pytest.mark.parametrize(
    "change",
    ["checksum = checksum + 1", "value = 'x', size = 1", "tag = 'a'", "written_at = -1"],
)
def test_a_damaged_mark_is_found(postgres: Server, url: str, schema: str, change: str) -> None:
    with ContextStore(url) as store:
        store.put_many("run", {"a": 1, "b": 2})
        store.delete_outputs("run", ["a"])
        execute(postgres, f"UPDATE {schema}.node_outputs SET {change} WHERE node_id = 'a'")
        (problem,) = store.check().problems
        assert problem.key == ("run", "a")


@pytest.mark.parametrize("marks", [0, 2])
def test_a_count_of_marks_that_does_not_fit_is_found(postgres: Server, url: str, schema: str, marks: int) -> None:
    with ContextStore(url) as store:
        store.put_many("run", {"a": 1, "b": 2})
        store.delete_outputs("run", ["a"])
        execute(postgres, f"UPDATE {schema}.flow_runs SET marks = {marks}")
        (problem,) = store.check().problems
        assert (problem.kind, problem.key) == ("run", ("run",))


async def test_a_list_of_a_run_without_marks_reads_the_index_alone(postgres: Server, url: str, schema: str) -> None:
    async with AsyncContextStore(url) as store:
        await store.put_many("run", dict.fromkeys([f"{number:05}" for number in range(3000)], 1))
    connection = await asyncpg.connect(postgres.url())
    try:
        await connection.execute(f"VACUUM ANALYZE {schema}.node_outputs")
        statement = statements_for(schema).first_node_ids
        for name, value in {"$1": "'run'", "$2": "''", "$3": "'~'", "$4": "5000"}.items():
            statement = statement.replace(name, value)
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (ANALYZE) {statement}"))
    finally:
        await connection.close()
    assert "Index Only Scan" in plan
    assert "never executed" in plan or "rows=0" in plan
