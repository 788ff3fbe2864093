"""The benchmarks run: each workload at its smallest size. What it measures is nobody's business here."""

from __future__ import annotations

import pytest

from benchmarks import measure
from benchmarks import postgres as postgres_benchmark
from benchmarks.contestants import Ours, OursBlocking, RawSQLite
from benchmarks.measure import TINY, Times

from ..support.servers import Server

pytestmark = pytest.mark.one_python


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers are an extra."""
    monkeypatch.setattr(measure, "available", lambda: ([Ours(), OursBlocking(), RawSQLite()], []))


def all_measured(times: Times, *names: str) -> bool:
    return set(names) <= times.keys() and all(len(some) == 1 and some[0] > 0 for some in times.values())


async def test_puts_one_after_the_other() -> None:
    assert all_measured(await measure.sequential_puts(TINY, "full"), "contextstore", "contextstore (sync)", "sqlite3")


async def test_puts_at_once() -> None:
    assert all_measured(await measure.concurrent_puts(TINY, "normal", 8), "contextstore", "sqlite3")


async def test_puts_by_threads() -> None:
    assert all_measured(await measure.threads_of_puts(TINY, "full"), "eight threads", "sqlite3")


async def test_gets_beside_writes() -> None:
    assert all_measured(await measure.gets_beside_writes(TINY), "contextstore", "sqlite3", "aiosqlite")


async def test_puts_on_a_busy_loop() -> None:
    assert all_measured(await measure.puts_on_a_busy_loop(TINY), "contextstore", "sqlite3")


async def test_large_values() -> None:
    assert all_measured(await measure.values_of(TINY, 4096), "contextstore", "sqlite3")


async def test_a_store_that_grows() -> None:
    figures = await measure.growing(TINY)
    assert figures["put, large"] > 0
    assert figures["MB at last"] > 0


def test_processes() -> None:
    assert all(puts > 0 for puts, _, _ in measure.processes(2, 0.1))


def test_opening_and_closing() -> None:
    assert min(measure.open_and_close(TINY)) > 0


async def test_postgres_against_plain_asyncpg(postgres: Server) -> None:
    times = await postgres_benchmark.measured(postgres.url(), rounds=1)
    for what, _, _ in postgres_benchmark.GOALS:
        (ratio,) = postgres_benchmark.ratios_of(times, what)
        assert ratio > 0
