"""What an administrator does on a server: a statement, and a standby beside a primary."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg

from .servers import Server, running_server


def execute(server: Server, statement: str, user: str = "postgres") -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(server.url().replace("postgres@", f"{user}@"))
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:  # a browser that tests have opened leaves this one with a loop that runs
        return thread.submit(asyncio.run, run()).result()


def make_role_that_puts_and_gets(
    server: Server, schema: str, role: str, runs: str = "flow_runs", outputs: str = "node_outputs"
) -> None:
    """And has no other right to that store, whose tables have these names: the writer of docs/postgresql.md."""
    for statement in (
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}",
        f"GRANT INSERT (flow_run_id, created_at, writer) ON {schema}.{runs} TO {role}",
        f"GRANT INSERT ON {schema}.{outputs} TO {role}",
        f"GRANT UPDATE (created_at) ON {schema}.{runs} TO {role}",
    ):
        execute(server, statement)


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
