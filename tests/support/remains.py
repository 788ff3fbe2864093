"""Rows of all that a run may have, as SQL that both engines understand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

TABLES = (
    "flow_runs",
    "node_outputs",
    "append_keys",
    "append_counters",
    "run_states",
    "failed_attempts",
    "run_attributes",
)
"""What has rows of runs."""
ATTRIBUTES = {"größe": 1.5, "is new": True, "it's": 'a "text"', "n": 1, "x": "ü\U0001f600"}
"""Sorted, as they are stored."""


def texts_of_attributes() -> tuple[str, list[tuple[str, str]]]:
    """As they stand in a run's row, and in their own rows."""
    rows = [(name, json.dumps(value, ensure_ascii=False)) for name, value in ATTRIBUTES.items()]
    return "{" + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{value}" for name, value in rows) + "}", rows


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def remains(run: str, rows: int, *, with_writer: bool, size: int = 1) -> Sequence[str]:
    """Statements that give a run so many state values and failures, and facts.

    Args:
        with_writer: whether rows have one: on a server.
        size: bytes of each state value.
    """
    whose = f"(SELECT serial FROM {{schema}}flow_runs WHERE flow_run_id = {_quoted(run)})"
    numbers = f"(WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows}) SELECT n FROM n)"
    writer, uuid = (", writer", ", gen_random_uuid()") if with_writer else ("", "")
    value = _quoted("x" * size)
    text, attributes = texts_of_attributes()
    return (
        f"""
        INSERT INTO {{schema}}run_states (run, key, version, codec, checksum, written_at, size, value{writer})
        SELECT {whose}, 'key-' || n, 1, 0, 1, 1, {size}, {value}{uuid} FROM {numbers} AS numbers
        """,
        f"""
        INSERT INTO {{schema}}failed_attempts (run, node_id, number, started_at, ended_at, error{writer})
        SELECT {whose}, 'node', n, 1, 2, 'error'{uuid} FROM {numbers} AS numbers
        """,
        *(
            f"INSERT INTO {{schema}}run_attributes VALUES ({_quoted(name)}, {_quoted(value)}, {whose})"
            for name, value in attributes
        ),
        f"""
        UPDATE {{schema}}flow_runs SET attributes = {_quoted(text)}, parent = 'parent', error = 'an error',
            begun_at = 1, state = 2, checksum = 1
        WHERE flow_run_id = {_quoted(run)}
        """,
    )


Execute = Callable[[str], Any]


def rows_left(execute: Execute) -> dict[str, int]:
    """How many rows of runs each table has; not counted is the mark of a file's highest id."""
    counts = {table: execute(f"SELECT count(*) FROM {{schema}}{table}")[0][0] for table in TABLES}
    counts["node_outputs"] = execute("SELECT count(*) FROM {schema}node_outputs WHERE run <> 0")[0][0]
    return {table: count for table, count in counts.items() if count}
