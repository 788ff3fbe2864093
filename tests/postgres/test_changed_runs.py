"""Runs that are followed on a server: no open transaction holds anybody up, and none is overtaken."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import asyncpg
import pytest

from contextstore import AsyncContextStore
from contextstore._postgres import run_news as _news

TOLD = 30.0  # a guard against hangs, not a measure


async def names(runs: Any, count: int) -> list[str]:
    async with asyncio.timeout(TOLD):
        return [(await anext(runs)).flow_run_id for _ in range(count)]


@pytest.mark.parametrize("window", [1, 5000])
async def test_a_change_that_was_held_open_is_told_at_each_cursor_of_meanwhile(
    url: str, schema: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_news, "_WINDOW_ROWS", window)
    writer = await asyncpg.connect(url.partition("?")[0])
    async with AsyncContextStore(url) as store:
        await store.run("held").begin()
        async with contextlib.aclosing(store.watch_runs()) as runs:
            assert await names(runs, 1) == ["held"]
            await writer.execute("BEGIN")
            change = "UPDATE {}.flow_runs SET touched_at = 1, change = pg_current_xact_id() WHERE flow_run_id = 'held'"
            await writer.execute(change.format(schema))
            cursors = []
            for number in range(10):
                await store.run(f"run-{number}").begin()
                async with asyncio.timeout(TOLD):
                    info = await anext(runs)
                assert info.flow_run_id == f"run-{number}"
                cursors.append(info.cursor)
            await writer.execute("COMMIT")
            await store.run("last").begin()
            assert sorted(await names(runs, 2)) == ["held", "last"]
        for number, cursor in enumerate(cursors):
            async with contextlib.aclosing(store.watch_runs(after=cursor)) as runs:
                behind = [f"run-{later}" for later in range(number + 1, 10)]
                assert sorted(await names(runs, len(behind) + 2)) == ["held", "last", *behind]
    await writer.close()


async def test_a_change_of_a_transaction_that_has_not_begun_here_is_renewed(url: str, schema: str) -> None:
    """As a dump brings it from a server that has counted further."""
    async with AsyncContextStore(url) as store:
        await store.run("run").begin()
    connection = await asyncpg.connect(url.partition("?")[0])
    await connection.execute(f"UPDATE {schema}.flow_runs SET change = '4000000000000'::xid8")
    await connection.execute(f"UPDATE {schema}.store_format SET cluster = 1")
    async with AsyncContextStore(url) as store:
        (future,) = await connection.fetchrow(
            f"SELECT count(*) FROM {schema}.flow_runs WHERE change >= pg_snapshot_xmax(pg_current_snapshot())"
        )
        assert future == 0
        async with contextlib.aclosing(store.watch_runs()) as runs:
            assert await names(runs, 1) == ["run"]
            await store.run("run").update(state="completed")
            assert await names(runs, 1) == ["run"]
    await connection.close()
