"""A store to take care of, what a check finds in it, and ways to damage it by plain ``sqlite3``."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from typing import Any

from contextstore import CheckReport, ContextStore

EVERYTHING = {
    "run-1": {f"node-{i:03}": {"i": i, "text": "x" * (i * 7 % 300)} for i in range(60)},
    "run-2": {"large": "y" * 20_000, "bytes": bytes(range(256)), "null": None},
}


def fill(path: Any) -> None:
    with ContextStore(path) as store:
        for run, outputs in EVERYTHING.items():
            store.put_many(run, outputs)
        for i in range(20):
            store.upsert_global(f"key-{i:02}", {"i": i})
        store.delete_global("key-19")
        store.put_many("deleted", {"a": 1, "b": 2})
        store.delete_run("deleted")


def sql(path: pathlib.Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        for statement in statements:
            connection.execute(statement)


def checked(path: pathlib.Path, **options: Any) -> CheckReport:
    with ContextStore(path, **options) as store:
        return store.check()


def found(path: pathlib.Path) -> set[tuple[str, tuple[str, ...]]]:
    return {(problem.kind, problem.key) for problem in checked(path).problems}
