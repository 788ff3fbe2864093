"""The views for people and their tools have the columns that docs/sql-views.md promises, and what is there alone."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import sqlite3
from typing import Any

from contextstore import ContextStore

from ..support.nodes import execute
from ..support.servers import Server
from .pages import DOCS, fences, rows
from .test_readme import fences_of, run_python


def promised() -> dict[str, list[str]]:
    """The columns of each view, in the order of the page."""
    found: dict[str, list[str]] = {}
    view = ""
    for cells in rows("sql-views.md", "Columns"):
        view = cells[0].strip("`") or view
        found.setdefault(view, []).append(cells[1].strip("`"))
    return found


def fill(store: ContextStore) -> None:
    store.put_many("run", {"json": {"rows": 3}, "bytes": b"\0\xff"})
    store.run("run").begin(attributes={"kind": "report"}, parent="other")
    store.run("run").update(state="failed", error="it broke")
    store.put("deleted", "a", 1)
    store.delete_run("deleted")
    store.upsert_global("key", [1])
    store.upsert_global("key", [2])
    store.put_global("gone", 1)
    store.delete_global("gone")


EXPECTED = [("run", "bytes"), ("run", "json")]
SUMMARY = "SELECT flow_run_id, state, attributes, parent, failures, error FROM "
SAID = [("run", "failed", '{"kind":"report"}', "other", 0, "it broke")]


def test_on_sqlite_they_have_the_columns_and_the_rows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"
    with ContextStore(path) as store:
        fill(store)
    with contextlib.closing(sqlite3.connect(path)) as connection:

        def ask(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query).fetchall()

        for view, columns in promised().items():
            assert [row[1] for row in ask(f"PRAGMA table_info({view})")] == columns
        assert ask("SELECT flow_run_id, node_id FROM outputs ORDER BY node_id") == EXPECTED
        assert ask("SELECT value FROM outputs ORDER BY node_id") == [(b"\0\xff",), ('{"rows":3}',)]
        assert ask("SELECT key, value, version, expires_at FROM globals") == [("key", "[2]", 2, None)]
        assert ask(f"{SUMMARY} run_summaries") == SAID
        written_at = datetime.datetime.fromisoformat(ask("SELECT written_at FROM globals")[0][0])
        assert abs(datetime.datetime.now(datetime.UTC) - written_at) < datetime.timedelta(minutes=10)


def test_on_postgresql_they_have_the_columns_and_the_rows(postgres: Server, url: str, schema: str) -> None:
    with ContextStore(url) as store:
        fill(store)

    def ask(query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in execute(postgres, query)]

    for view, columns in promised().items():
        found = ask(
            "SELECT column_name FROM information_schema.columns "
            f"WHERE table_schema = '{schema}' AND table_name = '{view}' ORDER BY ordinal_position"
        )
        assert [column for (column,) in found] == columns
    assert ask(f"SELECT flow_run_id, node_id FROM {schema}.outputs ORDER BY node_id") == EXPECTED
    assert ask(f"SELECT value FROM {schema}.outputs ORDER BY node_id") == [("00ff",), ('{"rows":3}',)]
    assert ask(f"SELECT key, value, version, expires_at FROM {schema}.globals") == [("key", "[2]", 2, None)]
    assert ask(f"{SUMMARY} {schema}.run_summaries") == SAID


def test_each_query_of_the_page_is_run_here() -> None:
    assert [fence.info for fence in fences_of(DOCS / "sql-views.md")] == ["python", "console", "sql"]


def test_a_server_answers_the_queries_of_the_page(
    postgres: Server, url: str, schema: str, tmp_path: pathlib.Path
) -> None:
    (filling,) = fences("sql-views.md", "Looking", "python")
    run_python(dataclasses.replace(filling, text=filling.text.replace("flows.db", url)), tmp_path)
    (queries,) = fences("sql-views.md", "Looking", "sql")
    one, other = queries.text.replace("contextstore.", f"{schema}.").splitlines()
    assert [tuple(row) for row in execute(postgres, one)] == [("extract", "3")]
    assert [tuple(row) for row in execute(postgres, other)] == [("schedule", '{"hour":6}')]
