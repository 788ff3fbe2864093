"""What pages of runs cost a file, in steps of SQLite's machine: these are the same on every machine."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import sqlite3
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._core import run_listing
from contextstore._sqlite.worker import connection_here
from contextstore._waiting.threads import run_now

from ..support.doubles import core_of

_STEP = 250
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def filled(path: pathlib.Path, runs: int) -> pathlib.Path:
    """With so many runs: every second one is completed, every other one has an attribute, the older half a parent."""
    with ContextStore(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            """
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :runs)
            INSERT INTO flow_runs (flow_run_id, created_at, state, begun_at, parent)
            SELECT CASE WHEN n <= :runs / 2 THEN 'old-' ELSE 'new-' END || (n * 7919 % :runs) || '-' || n,
                n, n % 2, n, CASE WHEN n <= :runs / 2 THEN 'parent' END FROM numbers
            """,
            {"runs": runs},
        )
        connection.execute(
            "INSERT INTO run_attributes SELECT 'even', 'true', serial FROM flow_runs WHERE serial % 2 = 0"
        )
    return path


def steps_of(path: pathlib.Path, options: dict[str, Any]) -> int:
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    async def install(handler: Any) -> None:
        connection_here().set_progress_handler(handler, 1)

    with ContextStore(path) as store:
        session = core_of(store)._session
        run_now(session.scan(install, tick))
        assert store.list_runs(**options) == []
        run_now(session.scan(install, None))
    return ticks


@pytest.mark.parametrize(
    "options",
    [
        {"state": "completed", "attributes": {"even": True}},
        {"state": "completed", "attributes": {"even": True}, "since": EPOCH},
        {"state": "completed", "attributes": {"even": True}, "since": EPOCH, "oldest_first": True},
        {"parent": "parent", "prefix": "new"},
        {"prefix": "old", "state": "failed"},
        {"prefix": "old", "parent": "nobody", "since": EPOCH},
    ],
    ids=str,
)
def test_filters_that_no_run_fits_cost_in_proportion_to_the_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(run_listing, "_FIRST_LOOK", _STEP)
    monkeypatch.setattr(run_listing, "_MOST_LOOKS", _STEP)
    few, many = (steps_of(filled(tmp_path / f"{runs}.db", runs), options) for runs in (5000, 20_000))
    print(few, many)
    assert many <= 4.3 * few  # four times as many runs


def test_the_oldest_runs_of_a_prefix_are_found_by_its_index_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_listing, "_FIRST_LOOK", _STEP)
    monkeypatch.setattr(run_listing, "_MOST_LOOKS", _STEP)
    statements: list[str] = []

    async def install(connection_trace: Any) -> None:
        connection_here().set_trace_callback(connection_trace)

    path = filled(tmp_path / "store.db", 5000)
    with ContextStore(path) as store:
        session = core_of(store)._session
        run_now(session.scan(install, statements.append))
        store.list_runs(prefix="old")
        run_now(session.scan(install, None))
    (gathering, *_) = (text for text in statements if "AS c" in text)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        program = connection.execute(f"EXPLAIN {gathering}").fetchall()
        ((rows,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'flow_runs'")
    opened = [(place, root) for place, operation, _, root, *_ in program if operation == "OpenRead"]
    sorted_at = next(place for place, operation, *_ in program if operation == "Sort")
    assert [place > sorted_at for place, root in opened if root == rows] == [True]  # for those alone that come out
    assert len(opened) == 2
