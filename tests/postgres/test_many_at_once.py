"""Calls at once share a statement of many rows: what its parameters keep, and how the server goes about it."""

from __future__ import annotations

import asyncio

import asyncpg

from contextstore import AsyncContextStore
from contextstore._postgres.arrays import integers, texts
from contextstore._postgres.opening import Terms, session_settings
from contextstore._postgres.statements import statements_for

from ..support.servers import Server

IDS = [
    "NULL",
    "null",
    '"',
    '""',
    "\\",
    '\\"',
    "{a}",
    "a,b",
    " a ",
    "\n",
    "\t\r",
    "'",
    "\x01",
    "é",
    "\U0001f600",
    '","',
    "$1",
    "{}",
]


async def test_ids_that_go_together_keep_every_character(url: str) -> None:
    async with AsyncContextStore(url, cache_bytes=0) as store:
        await asyncio.gather(*(store.put(run, node, [run, node]) for run in IDS for node in IDS[:5]))
        found = await asyncio.gather(*(store.get(run, node) for run in IDS for node in IDS[:5]))
        assert found == [[run, node] for run in IDS for node in IDS[:5]]
        assert {run.flow_run_id for run in await store.list_runs()} == set(IDS)


async def test_an_array_is_read_by_the_server_as_it_was_written(postgres: Server) -> None:
    connection = await asyncpg.connect(postgres.url())
    assert await connection.fetchval("SELECT $1::text::text[]", texts(IDS)) == IDS
    assert await connection.fetchval("SELECT $1::text::text[]", texts([])) == []
    numbers = [0, -1, 2**63 - 1, -(2**63)]
    assert await connection.fetchval("SELECT $1::text::bigint[]", integers(numbers)) == numbers
    assert await connection.fetchval("SELECT $1::text::bigint[]", integers([])) == []
    await connection.close()


async def test_gets_at_once_go_by_the_whole_key_in_a_store_of_many_small_runs(
    postgres: Server, url: str, schema: str
) -> None:
    async with AsyncContextStore(url) as store:
        await asyncio.gather(*(store.put(f"run-{number}", "node", number) for number in range(300)))
    settings = session_settings(Terms(10.0, "full", False, True)) | {"plan_cache_mode": "force_generic_plan"}
    connection = await asyncpg.connect(postgres.url(), server_settings=settings)
    await connection.execute(f"ANALYZE {schema}.flow_runs, {schema}.node_outputs")
    await connection.execute(f"PREPARE gets AS {statements_for(schema).fetch_outputs}")
    rows = await connection.fetch("EXPLAIN EXECUTE gets ('{run-1,run-2}', '{node,node}')")
    await connection.close()
    plan = "\n".join(row[0] for row in rows)
    assert "Index Cond: (flow_run_id = t.flow_run_id)" in plan, plan
    assert "Index Cond: ((run = flow_runs.serial) AND (node_id = t.node_id))" in plan, plan
