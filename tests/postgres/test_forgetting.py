"""What is left of a run on a server once it is forgotten: nothing, whatever came in between."""

from __future__ import annotations

import asyncio
import datetime
import time

import asyncpg
import pytest

from contextstore import ContextStore, RunDeletedError

from ..support.remains import TABLES
from .test_care_postgres import execute


def rows(url: str) -> list[int]:
    return [execute(url, f"SELECT count(*) FROM {{schema}}.{table}")[0][0] for table in TABLES]


@pytest.mark.parametrize("how", ["forget", "prune"])
def test_what_appending_has_left_goes_with_the_run(url: str, how: str) -> None:
    with ContextStore(url) as store:
        store.put("run", "node", 1)
        execute(url, "INSERT INTO {schema}.append_counters SELECT serial, 'log/', 700 FROM {schema}.flow_runs")
        execute(
            url,
            """
            INSERT INTO {schema}.append_keys
            SELECT serial, 'log/', n::text, 'log/' || n FROM {schema}.flow_runs, generate_series(1, 700) AS n
            """,
        )
        if how == "forget":
            assert store.delete_run("run", forget=True) == 1
        else:
            for _ in range(2):
                time.sleep(0.002)
                store.prune(older_than=datetime.timedelta(0))
        assert rows(url) == [0] * len(TABLES)


async def test_a_put_that_began_before_the_run_was_deleted_leaves_nothing_behind(url: str) -> None:
    address, _, schema = url.partition("?schema=")
    with ContextStore(url) as store:
        await asyncio.to_thread(store.put, "run", "node", 1)
        former = store.run("run")
        assert former.get("node") == 1
        connection = await asyncpg.connect(address)
        try:
            async with connection.transaction():  # as a put that is under way
                ((serial,),) = await connection.fetch(f"SELECT serial FROM {schema}.flow_runs FOR KEY SHARE")
                await connection.execute(
                    f"""
                    INSERT INTO {schema}.node_outputs
                        (run, node_id, codec, checksum, written_at, size, writer, value)
                    VALUES ($1, 'late', 0, 1, 1, 1, gen_random_uuid(), '1')
                    """,
                    serial,
                )
                deleting = asyncio.create_task(asyncio.to_thread(store.delete_run, "run", forget=True))
                is_deleted = False
                while not is_deleted:
                    is_deleted = await connection.fetchval(f"SELECT deleted_at IS NOT NULL FROM {schema}.flow_runs")
                    await asyncio.sleep(0.01)
                assert not deleting.done()
            assert await deleting == 2
        finally:
            await connection.close()
        assert await asyncio.to_thread(rows, url) == [0] * len(TABLES)
        with pytest.raises(RunDeletedError):
            await asyncio.to_thread(former.put, "new", 1)
