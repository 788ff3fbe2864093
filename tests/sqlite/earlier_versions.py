"""Stores of earlier schemas: their files by plain ``sqlite3``, and a process of the last version that made such."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import orjson

from contextstore._sqlite.former_schemas import FORMER_SCHEMAS
from contextstore._sqlite.schema import APPLICATION_ID
from contextstore._values.codec import JSON, Encoded, checksum

from ..support.earlier import earlier_child
from ..support.processes import Child

RUNS = {
    "first": {"a": 1, "b": {"text": "ü"}, "c": [1, 2.5, None]},
    "second": {f"node-{number:03}": "x" * number for number in range(50)},
}


TABLES = {
    1: ("runs", "output_rows", "global_rows"),
    2: ("flow_runs", "node_outputs", "global_values"),
    3: ("flow_runs", "node_outputs", "global_values"),
}
"""What the tables are called, by schema: those of runs, of outputs and of globals."""


def make_file(path: pathlib.Path, version: int, *additions: str, in_wal_mode: bool = True) -> None:
    """A store of that schema with RUNS, two globals, a deleted run and a deleted output that had the highest id.

    ``additions`` are executed in the end: ``{runs}``, ``{outputs}`` and ``{globals}`` are the tables.
    """
    runs, outputs_, globals_ = TABLES[version]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if in_wal_mode:
            connection.execute("PRAGMA journal_mode = WAL")
        for statement in FORMER_SCHEMAS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("BEGIN")
        for run, outputs in (*RUNS.items(), ("deleted", {"a": 1})):
            insert = f"INSERT INTO {runs} (flow_run_id, created_at) VALUES (?, 1)"
            serial = connection.execute(insert, (run,)).lastrowid
            for node, value in outputs.items():
                connection.execute(
                    f"INSERT INTO {outputs_} (run, node_id, codec, checksum, written_at, size, value) "
                    "VALUES (?, ?, ?, ?, 1700000000000000, ?, ?)",
                    (serial, node, *_columns(run, node, value)),
                )
        for key in ("key", "other"):
            codec, of_all, size, text = _columns("", key, {"of": key})
            connection.execute(
                f"INSERT INTO {globals_} (key, version, codec, checksum, written_at, size, value) "
                "VALUES (?, 3, ?, ?, 1700000000000000, ?, ?)",
                (key, codec, of_all, size, text),
            )
        connection.execute(
            f"DELETE FROM {outputs_} WHERE run = (SELECT serial FROM {runs} WHERE flow_run_id = 'deleted')"
        )
        connection.execute(f"UPDATE {runs} SET deleted_at = 1700000000000000 WHERE flow_run_id = 'deleted'")
        connection.execute("COMMIT")
        for addition in additions:
            connection.execute(addition.format(runs=runs, outputs=outputs_, globals=globals_))
    path.chmod(0o600)


def _columns(owner: str, name: str, value: Any) -> tuple[int, int, int, str]:
    data = orjson.dumps(value)
    return JSON, checksum(owner, name, Encoded(JSON, data)), len(data), data.decode()


def fill_with(path: pathlib.Path, version: int, outputs: int) -> None:
    """So many more outputs, of a run of their own, with values that are none."""
    runs, rows, _ = TABLES[version]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"INSERT INTO {runs} (flow_run_id, created_at) VALUES ('large', 1)")
        connection.execute(
            f"""
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
            INSERT INTO {rows} (run, node_id, codec, checksum, written_at, size, value)
            SELECT (SELECT max(serial) FROM {runs}), printf('%08d', n), 0, 0, 1700000000000000, 1, '1' FROM numbers
            """,
            (outputs,),
        )


_PROGRAM = """
store = ContextStore(sys.argv[1], cache_bytes=0)
for line in sys.stdin:
    call = line.strip()
    try:
        say(repr(eval(call, {"store": store})))
    except Exception as error:
        unknown = getattr(error, "outcome_unknown", None)
        say("raised", type(error).__name__, unknown, str(error).replace(chr(10), " "))
"""


class Beside:
    """A process of that version, with a store of its own on the file."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def does(self, call: str) -> str:
        """What came of a call of ``store``."""
        self._child.tell(call)
        return self._child.hear()


@contextlib.contextmanager
def beside(package: pathlib.Path, path: pathlib.Path) -> Iterator[Beside]:
    with earlier_child(package, _PROGRAM, path) as child:
        yield Beside(child)
        child.end()
