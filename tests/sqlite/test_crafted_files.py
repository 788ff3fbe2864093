"""Files that the library has not written: they give what was put or a typed error, never a wrong value."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, ContextStoreError, IncompatibleStoreError
from contextstore._values.codec import Encoded, checksum


def _rewrite(node: str, value: bytes, codec: int = 0, kind: str = "TEXT", size: int | None = None) -> str:
    whole = checksum("run", node, Encoded(codec, value))
    return (
        f"UPDATE node_outputs SET codec = {codec}, value = CAST(x'{value.hex()}' AS {kind}), checksum = {whole}, "
        f"size = {len(value) if size is None else size} WHERE node_id = '{node}'"
    )


def _rewrite_global(value: bytes) -> str:
    whole = checksum("", "key", Encoded(0, value))
    return f"UPDATE global_values SET value = CAST(x'{value.hex()}' AS TEXT), checksum = {whole}, size = {len(value)}"


ORIGINALS: dict[str, Any] = {"a": {"a": [1, None]}, "b": b"bytes", "c": "text"}

# See also tests/torture/damage.py, which has others.
CRAFTED: dict[str, list[str]] = {
    "a size that is no size": [_rewrite("a", b"[1]", size=2**62)],
    "a negative size": [_rewrite("a", b"[1]", size=-1)],
    "text where bytes should be": ["UPDATE node_outputs SET codec = 1 WHERE node_id = 'a'"],
    "bytes where text should be": ["UPDATE node_outputs SET codec = 0 WHERE node_id = 'b'"],
    "a huge value that is all zeros": ["UPDATE node_outputs SET value = zeroblob(10000000) WHERE node_id = 'b'"],
    "a null that stands for a number": ["UPDATE node_outputs SET size = '', checksum = '' WHERE node_id = 'a'"],
    "invalid UTF-8 in a global": [_rewrite_global(b'"\xff\xfe"')],
    "overlong UTF-8": [_rewrite("a", b'"\xc0\xaf"')],
    "deep JSON in a global": [_rewrite_global(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)],
    "infinity by a large exponent": [_rewrite("a", b"1e999")],
    "two values": [_rewrite("a", b"1 2")],
    "nothing": [_rewrite("a", b"")],
    "a byte order mark": [_rewrite("a", b"\xef\xbb\xbf1")],
    "comments": [_rewrite("a", b"1 /* x */")],
    "a value of another key": [
        "UPDATE node_outputs SET (codec, value, checksum, size) = "
        "(SELECT codec, value, checksum, size FROM node_outputs WHERE node_id = 'c') WHERE node_id = 'a'"
    ],
    "the values of a run given to another": ["UPDATE flow_runs SET flow_run_id = 'other' WHERE flow_run_id = 'run'"],
    "an id that is a blob": ["UPDATE flow_runs SET flow_run_id = CAST(flow_run_id AS BLOB)"],
    "a node id that is a blob": ["UPDATE node_outputs SET node_id = CAST(node_id AS BLOB) WHERE node_id = 'a'"],
    "a node id of megabytes": ["UPDATE node_outputs SET node_id = hex(zeroblob(3000000)) WHERE node_id = 'a'"],
    "a negative version": ["UPDATE global_values SET version = -5"],
    "a version that is no integer": ["UPDATE global_values SET version = 1.5"],
    "statistics that are lies": [
        "ANALYZE",
        "DELETE FROM sqlite_stat1",
        "INSERT INTO sqlite_stat1 VALUES ('node_outputs', 'sqlite_autoindex_node_outputs_1', '1 1 1 unordered')",
    ],
    "tables of others": [
        'CREATE TABLE "\'; DROP TABLE flow_runs; --" (x)',
        'CREATE VIEW "outputs of all" AS SELECT * FROM "outputs of all"',
    ],
    "a trigger on a view": [
        "CREATE TRIGGER t INSTEAD OF INSERT ON outputs BEGIN DELETE FROM node_outputs; END",
    ],
    "a column that is computed": ["ALTER TABLE node_outputs ADD COLUMN extra AS (zeroblob(900000000))"],
    "an index on an expression": ["CREATE INDEX i ON node_outputs (abs(length(value)))"],
    "an index that leaves out rows": ["CREATE UNIQUE INDEX i ON node_outputs (run) WHERE run > 5"],
    "a virtual table": ["CREATE VIRTUAL TABLE t USING fts5(x)"],
    "a schema that is not SQL": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE flow_runs (load_extension(1))' WHERE name = 'flow_runs'",
    ],
    "a schema with a table twice": [
        "PRAGMA writable_schema = 1",
        "INSERT INTO sqlite_schema SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema "
        "WHERE name = 'flow_runs'",
    ],
    "two tables in one tree": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'flow_runs') "
        "WHERE name = 'node_outputs'",
    ],
    "a root beyond the end of the file": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET rootpage = 1000000 WHERE name = 'node_outputs'",
    ],
}


def _craft(path: pathlib.Path, statements: list[str]) -> None:
    with ContextStore(path) as store:
        store.put_many("run", ORIGINALS)
        store.put_global("key", "value")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def _read(call: Callable[[], Any]) -> Any:
    """None for a typed error; any other error is the test's."""
    try:
        return call()
    except ContextStoreError as error:
        assert str(error)
        return None


class _Awaiting:
    """An AsyncContextStore with the calls of ContextStore."""

    def __init__(self, store: AsyncContextStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._runner.run(getattr(self._store, name)(*args, **kwargs))


@contextlib.contextmanager
def _opened(face: str, path: pathlib.Path, **options: Any) -> Iterator[Any]:
    if face == "sync":
        blocking = ContextStore(path, cache_bytes=0, timeout=2, **options)
        try:
            yield blocking
        finally:
            blocking.close()
        return
    with asyncio.Runner() as runner:
        store = AsyncContextStore(path, cache_bytes=0, timeout=2, **options)
        try:
            yield _Awaiting(store, runner)
        finally:
            runner.run(store.close())


@pytest.mark.parametrize("face", ["async", "sync"])
@pytest.mark.parametrize("case", CRAFTED)
@pytest.mark.each_input_once
def test_a_crafted_file_gives_what_was_put_or_a_typed_error(file_path: pathlib.Path, case: str, face: str) -> None:
    try:
        _craft(file_path, CRAFTED[case])
    except sqlite3.OperationalError as error:
        pytest.skip(f"this SQLite does not make such a file: {error}")
    # What the file's author has written with a checksum that fits is a value like any other.
    authored = [1, [1]]
    for read_only in (True, False):
        with _opened(face, file_path, read_only=read_only) as store:
            for run_id in ("run", "other"):
                for node, value in ORIGINALS.items():
                    found = _read(lambda run_id=run_id, node=node: store.get(run_id, node, "missing"))
                    assert found in (None, value, "missing", *authored), found
                    _read(lambda run_id=run_id, node=node: store.get_entry(run_id, node))
                    _read(lambda run_id=run_id, node=node: store.exists(run_id, node))
                whole = _read(lambda run_id=run_id: store.get_run(run_id)) or {}
                for node, value in whole.items():
                    assert value in (ORIGINALS.get(node), *authored)
                for name in _read(lambda run_id=run_id: store.list_keys(run_id)) or []:
                    assert type(name) is str
            assert _read(lambda: store.get_global("key", "missing")) in (None, "value", "missing")
            _read(lambda: store.get_global_entry("key"))
            _read(lambda: store.list_globals())
            _read(lambda: store.list_runs())
            _read(lambda: store.stats())
            _read(lambda: store.check())
            if not read_only:
                if _read(lambda: store.put("new", "node", "é") or "put") == "put":
                    assert store.get("new", "node") == "é"
                if _read(lambda: store.upsert_global("new", [1])) is not None:
                    assert store.get_global("new") == [1]
                _read(lambda: store.upsert_global("key", "next"))
                _read(lambda: store.delete_run("run"))
                _read(lambda: store.prune(older_than=datetime.timedelta(0)))


def test_a_store_whose_text_is_in_utf_16_is_refused(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", "text")
    with contextlib.closing(sqlite3.connect(file_path)) as connection:
        script = [line for line in connection.iterdump() if "sqlite_sequence" not in line]
        marks = [connection.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
    file_path.unlink()
    with contextlib.closing(sqlite3.connect(file_path)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.executescript("\n".join(script))
        connection.execute(f"PRAGMA application_id = {marks[0]}")
        connection.execute(f"PRAGMA user_version = {marks[1]}")
    with pytest.raises(IncompatibleStoreError), ContextStore(file_path):
        pass


def test_a_checksum_is_bound_to_the_names_of_its_value() -> None:
    value = Encoded(0, b"1")
    assert len({checksum(run_id, node, value) for run_id, node in [("a", "bc"), ("ab", "c"), ("", "abc")]}) == 3
    assert checksum("a", "b", value) != zlib.crc32(b"1")
    assert checksum("a", "b", value) != checksum("a", "b", Encoded(1, b"1"))
