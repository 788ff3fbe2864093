"""What somebody who means harm may hand in: names that look like code, and files that the library has not written.

Names are data on every face and engine. A file of others is answered by what was put or by a typed error, never by a
wrong value. And no room builds SQL from what it is given, or runs what it reads.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime
import functools
import importlib.metadata
import logging
import pathlib
import re
import sqlite3
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import contextstore
from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    AtomicWriter,
    ContextStore,
    ContextStoreError,
    IncompatibleStoreError,
    InvalidKeyError,
    RunDeletedError,
)
from contextstore._values.codec import Encoded, checksum

from .processes import ROOT

PACKAGE = pathlib.Path(contextstore.__file__).parent

# -------------------------------------------------------------------------------------------- names that look like code

HOSTILE = [
    "'; DROP TABLE outputs;--",
    "'; DROP TABLE output_rows; --",
    '"; DELETE FROM runs; --',
    "x' OR '1'='1",
    "') ON CONFLICT DO UPDATE SET value = 'x' --",
    "?",
    "?1",
    ":name",
    "@name",
    "$1",
    "%",
    "_",
    "*",
    "[a-z]*",
    "\\",
    "\\x00",
    "%s",
    "%n%n%n",
    "%(key)s",
    "{0}",
    "{}",
    "{0.__class__.__mro__}",
    "{key!r:>1000000000}",
    "../../x",
    "/etc/passwd",
    "~/x",
    "C:\\x",
    "file:x?mode=memory",
    ":memory:",
    "sqlite:///x.db",
    "x\n; y",
    "\x1b[2J",
    "$(touch x)",
    "`touch x`",
    "__import__('os').system('touch x')",
    "<script>",
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "null",
    '{"a": 1}',
    "\N{FULLWIDTH APOSTROPHE}; DROP TABLE runs",
]


async def test_ids_and_keys_that_look_like_code_are_plain_data(store: Any) -> None:
    for number, name in enumerate(HOSTILE):
        await store.put(name, name, {name: name, "number": number})
        await store.put("run", name, number)
        assert await store.upsert_global(name, name) == 1
    for number, name in enumerate(HOSTILE):
        assert await store.get(name, name) == {name: name, "number": number}
        assert await store.get("run", name) == number
        assert await store.get_many("run", [name]) == {name: number}
        assert await store.exists(name, name)
        assert await store.wait_for("run", name, timeout=5) == number
        assert (await store.get_entry("run", name)).node_id == name
        assert await store.get_global(name) == name
        assert (await store.get_global_entry(name)).key == name
    assert await store.list_keys("run") == sorted(HOSTILE)
    assert await store.get_run("run") == {name: HOSTILE.index(name) for name in sorted(HOSTILE)}
    assert {info.flow_run_id for info in await store.list_runs()} == {"run", *HOSTILE}
    assert [entry.key for entry in await store.list_globals()] == sorted(HOSTILE)
    assert (await store.check()).problems == ()


async def test_a_prefix_that_looks_like_a_pattern_is_literal(store: Any) -> None:
    for name in HOSTILE:
        await store.put("run", name, 1)
        await store.put(name, "node", 1)
        await store.put_global(name, 1)
    for prefix in [*HOSTILE, *(name[:2] for name in HOSTILE)]:
        expected = sorted(name for name in HOSTILE if name.startswith(prefix))
        assert await store.list_keys("run", prefix=prefix) == expected
        assert sorted(info.flow_run_id for info in await store.list_runs(prefix=prefix)) == expected
        assert [entry.key for entry in await store.list_globals(prefix)] == expected
        after = [entry.key for entry in await store.list_globals(after=prefix)]
        assert after == sorted(name for name in HOSTILE if name > prefix)


async def test_what_is_deleted_by_such_a_name_is_that_alone(store: Any) -> None:
    for name in HOSTILE:
        await store.put(name, "node", name)
        await store.put_global(name, name)
    for number, name in enumerate(HOSTILE):
        assert await store.fork_run(name, new_flow_run_id=f"copy of {name}") == f"copy of {name}"
        assert await store.delete_run(name) == 1
        assert await store.delete_global(name)
        with pytest.raises(RunDeletedError) as caught:
            await store.put(name, "node", 1)
        assert caught.value.flow_run_id == name
        assert await store.get(f"copy of {name}", "node") == name
        assert len(await store.list_globals()) == len(HOSTILE) - number - 1
    assert len(await store.list_runs()) == len(HOSTILE)
    assert (await store.prune(older_than=datetime.timedelta(0))).runs == len(HOSTILE)


async def test_errors_and_logs_hold_such_names_as_they_are(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in HOSTILE:
        await store.put(name, name, 1)
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put(name, name, 2)
        assert (caught.value.flow_run_id, caught.value.node_id) == (name, name)
        assert len(str(caught.value)) < 2000
    assert all(len(record.getMessage()) < 2000 for record in caplog.records)


def test_what_the_writer_says_of_such_a_name_can_be_formatted(caplog: pytest.LogCaptureFixture) -> None:
    with ContextStore(":memory:") as store:
        for name in HOSTILE:
            store.put(name, name, "first")
            assert AtomicWriter(store).write_and_complete(name, name, "second", lambda: "done") == "done"
    assert len(caplog.records) >= len(HOSTILE)
    for record in caplog.records:
        assert record.getMessage()


async def test_a_nul_is_refused_by_every_kind_of_name(store: Any) -> None:
    for call in (
        lambda name: store.put(name, "node", 1),
        lambda name: store.put("run", name, 1),
        lambda name: store.put_many("run", {name: 1}),
        lambda name: store.get(name, "node"),
        lambda name: store.list_keys("run", prefix=name),
        lambda name: store.list_runs(prefix=name),
        lambda name: store.put_global(name, 1),
        lambda name: store.list_globals(name),
        lambda name: store.delete_run(name),
    ):
        for name in ("\x00", "x\x00", "x\x00'; DROP TABLE runs;--"):
            with pytest.raises(InvalidKeyError):
                await call(name)
    assert await store.list_runs() == []


@pytest.mark.parametrize("face", ["async", "sync"])
def test_no_name_is_taken_for_a_path(tmp_path: pathlib.Path, face: str) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)

    async def use() -> None:
        async with AsyncContextStore(folder / "store.db") as store:
            for name in HOSTILE:
                await store.put(name, name, name)
                await store.upsert_global(name, name)

    if face == "async":
        asyncio.run(use())
    else:
        with ContextStore(folder / "store.db") as store:
            for name in HOSTILE:
                store.put(name, name, name)
                store.upsert_global(name, name)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"deep/folder/store.db", "deep/folder/store.db-lock"}


def test_values_that_look_like_code_or_like_pickles_come_back_as_they_are() -> None:
    values: list[Any] = [
        *HOSTILE,
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x01x\x94\x85\x94R\x94.",
        b"cos\nsystem\n(S'touch x'\ntR.",
        {"__class__": "os.system", "$ref": "#", "py/object": "os.system", "__reduce__": ["touch x"]},
        {"$type": "bytes", "codec": 1},
    ]
    with ContextStore(":memory:") as store:
        for number, value in enumerate(values):
            store.put("run", f"{number}", value)
        assert [store.get("run", f"{number}") for number in range(len(values))] == values


# ------------------------------------------------------------------------------------------------- files made by others


def _rewrite(node: str, value: bytes, codec: int = 0, kind: str = "TEXT", size: int | None = None) -> str:
    whole = checksum("run", node, Encoded(codec, value))
    return (
        f"UPDATE output_rows SET codec = {codec}, value = CAST(x'{value.hex()}' AS {kind}), checksum = {whole}, "
        f"size = {len(value) if size is None else size} WHERE node_id = '{node}'"
    )


def _rewrite_global(value: bytes) -> str:
    whole = checksum("", "key", Encoded(0, value))
    return f"UPDATE global_rows SET value = CAST(x'{value.hex()}' AS TEXT), checksum = {whole}, size = {len(value)}"


ORIGINALS: dict[str, Any] = {"a": {"a": [1, None]}, "b": b"bytes", "c": "text"}

# See also tests/torture/damage.py, which has others.
CRAFTED: dict[str, list[str]] = {
    "a size that is no size": [_rewrite("a", b"[1]", size=2**62)],
    "a negative size": [_rewrite("a", b"[1]", size=-1)],
    "text where bytes should be": ["UPDATE output_rows SET codec = 1 WHERE node_id = 'a'"],
    "bytes where text should be": ["UPDATE output_rows SET codec = 0 WHERE node_id = 'b'"],
    "a huge value that is all zeros": ["UPDATE output_rows SET value = zeroblob(10000000) WHERE node_id = 'b'"],
    "a null that stands for a number": ["UPDATE output_rows SET size = '', checksum = '' WHERE node_id = 'a'"],
    "invalid UTF-8 in a global": [_rewrite_global(b'"\xff\xfe"')],
    "overlong UTF-8": [_rewrite("a", b'"\xc0\xaf"')],
    "deep JSON in a global": [_rewrite_global(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)],
    "infinity by a large exponent": [_rewrite("a", b"1e999")],
    "two values": [_rewrite("a", b"1 2")],
    "nothing": [_rewrite("a", b"")],
    "a byte order mark": [_rewrite("a", b"\xef\xbb\xbf1")],
    "comments": [_rewrite("a", b"1 /* x */")],
    "a value of another key": [
        "UPDATE output_rows SET (codec, value, checksum, size) = "
        "(SELECT codec, value, checksum, size FROM output_rows WHERE node_id = 'c') WHERE node_id = 'a'"
    ],
    "the values of a run given to another": ["UPDATE runs SET flow_run_id = 'other' WHERE flow_run_id = 'run'"],
    "an id that is a blob": ["UPDATE runs SET flow_run_id = CAST(flow_run_id AS BLOB)"],
    "a node id that is a blob": ["UPDATE output_rows SET node_id = CAST(node_id AS BLOB) WHERE node_id = 'a'"],
    "a node id of megabytes": ["UPDATE output_rows SET node_id = hex(zeroblob(3000000)) WHERE node_id = 'a'"],
    "a negative version": ["UPDATE global_rows SET version = -5"],
    "a version that is no integer": ["UPDATE global_rows SET version = 1.5"],
    "statistics that are lies": [
        "ANALYZE",
        "DELETE FROM sqlite_stat1",
        "INSERT INTO sqlite_stat1 VALUES ('output_rows', 'sqlite_autoindex_output_rows_1', '1 1 1 unordered')",
    ],
    "tables of others": [
        'CREATE TABLE "\'; DROP TABLE runs; --" (x)',
        'CREATE VIEW "outputs of all" AS SELECT * FROM "outputs of all"',
    ],
    "a trigger on a view": [
        "CREATE TRIGGER t INSTEAD OF INSERT ON outputs BEGIN DELETE FROM output_rows; END",
    ],
    "a column that is computed": ["ALTER TABLE output_rows ADD COLUMN extra AS (zeroblob(900000000))"],
    "an index on an expression": ["CREATE INDEX i ON output_rows (abs(length(value)))"],
    "an index that leaves out rows": ["CREATE UNIQUE INDEX i ON output_rows (run) WHERE run > 5"],
    "a virtual table": ["CREATE VIRTUAL TABLE t USING fts5(x)"],
    "a schema that is not SQL": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE runs (load_extension(1))' WHERE name = 'runs'",
    ],
    "a schema with a table twice": [
        "PRAGMA writable_schema = 1",
        "INSERT INTO sqlite_schema SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = 'runs'",
    ],
    "two tables in one tree": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'runs') "
        "WHERE name = 'output_rows'",
    ],
    "a root beyond the end of the file": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET rootpage = 1000000 WHERE name = 'output_rows'",
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


# --------------------------------------------------------------------------------------------- what the source may do

RUNS_CODE = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "dbm", "code", "codeop"),
    *("runpy", "ctypes", "_ctypes", "cffi", "subprocess", "pty", "multiprocessing", "jsonpickle", "yaml", "imp"),
}
RUNNING_NAMES = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
RUNNING_ATTRIBUTES = {
    *("system", "popen", "execv", "execve", "execvp", "spawnv", "posix_spawn", "startfile", "import_module"),
    *("enable_load_extension", "load_extension", "create_function", "create_module", "executescript", "deserialize"),
}


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


MODULES = sorted(path.relative_to(PACKAGE).as_posix().removesuffix(".py") for path in PACKAGE.rglob("*.py"))


def in_place(module: str, node: ast.AST) -> str:
    return f"{module}.py:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:100]}"


def dangers_in(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if RUNS_CODE & {alias.name.split(".")[0] for alias in names}:
                yield in_place(module, node)
            case ast.ImportFrom(module=str(name), level=0) if name.split(".")[0] in RUNS_CODE:
                yield in_place(module, node)
            case ast.ImportFrom(names=names) if RUNNING_ATTRIBUTES & {alias.name for alias in names}:
                yield in_place(module, node)
            case ast.Name(id=name) if name in RUNNING_NAMES or name in ("builtins", "__builtins__"):
                yield in_place(module, node)
            case ast.Attribute(attr=name) if name in RUNNING_ATTRIBUTES | {
                "__globals__",
                "__builtins__",
                "__subclasses__",
            }:
                yield in_place(module, node)


def test_nothing_that_is_read_can_be_run() -> None:
    assert [danger for module in MODULES for danger in dangers_in(module, tree_of(module))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from pickle import loads",
        "from importlib import import_module",
        "import importlib; importlib.import_module(name)",
        "eval(text)",
        "exec(text)",
        "run = eval",
        "import os; os.system(text)",
        "connection.enable_load_extension(True)",
        "connection.executescript(text)",
        "def f():\n    import subprocess",
    ],
)
def test_what_could_be_run_is_seen(source: str) -> None:
    assert list(dangers_in("x", ast.parse(source)))


# ---------------------------------------------------------------------------------------------------- where SQL is from

SPEAKS_SQL = {
    *("execute", "executemany", "executescript", "execute_fetchall", "execute_insert"),
    *("fetch", "fetchval", "fetchrow", "prepare", "cursor", "copy_from_query"),
}
TAKES_KEYS = {"self._engine.fetch", "self._reader.fetch"}  # the engine's own call, and the one that gathers them
NUMBERS = {"int", "len"}
PARTS_OF_TEXT = {"replace", "split", "strip", "join", "format", "removesuffix", "removeprefix"}

# Texts that the rule below cannot follow, each with the reason why no input gets there.
FOLLOWED_BY_HAND = {
    ("_worker", "sql"): "hands on what _sqlite gives to execute(), which is looked at there",
    ("_worker", "self._serve"): "a function, which is called and not parsed",
    ("_sqlite", "self._synchronous"): "1 or 2, looked up in a dict of the two durabilities",
    ("_sqlite_care", "table.name"): "_OUTPUTS or _GLOBALS, of constants",
    ("_sqlite_care", "table.rows"): "_OUTPUTS or _GLOBALS, of constants",
    ("_sqlite_care", "table.keys"): "_OUTPUTS or _GLOBALS, of constants",
    ("_postgres", "self._sql"): "the constants of _postgres_sql, with the schema's name in them, see the next",
    ("_postgres", "self._address.schema"): "a lower-case ASCII identifier, or the URL was refused",
    ("_postgres_lane", "query"): "hands on what _postgres gives, which is looked at there",
}


class SQLRule:
    """An SQL text is fixed if it is made of constants of the source and of numbers alone.

    Followed are: constants, names of the module and of own modules, locals by everything that is ever bound to them,
    parameters of private functions by what every call in the package passes, f-strings, joins and lists of such.
    """

    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self._trees = trees
        self._parents = {
            child: parent
            for tree in trees.values()
            for parent in ast.walk(tree)
            for child in ast.iter_child_nodes(parent)
        }
        self._calls: dict[str, list[tuple[str, ast.Call]]] = {}
        for module, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    self._calls.setdefault(_last_name(node.func), []).append((module, node))
        self._following: set[ast.AST] = set()
        self.followed_by_hand: set[tuple[str, str]] = set()

    def breaches(self) -> list[str]:
        found = []
        for module, tree in self._trees.items():
            for node in ast.walk(tree):
                if not (isinstance(node, ast.Attribute) and node.attr in SPEAKS_SQL):
                    continue
                if ast.unparse(node) in TAKES_KEYS:
                    continue
                call = self._parents[node]
                if not (isinstance(call, ast.Call) and call.func is node):
                    if node.attr.startswith("execute"):
                        found.append(f"{in_place(module, node)}: is taken to be called elsewhere")
                    continue
                texts = [argument for argument in call.args if not _is_deadline(argument)][:1]
                texts += [keyword.value for keyword in call.keywords if keyword.arg in ("sql", "query", "statement")]
                if not all(self.is_fixed(module, text) for text in texts):
                    found.append(in_place(module, call))
        return found

    def is_fixed(self, module: str, node: ast.AST) -> bool:
        if (module, ast.unparse(node)) in FOLLOWED_BY_HAND:
            self.followed_by_hand.add((module, ast.unparse(node)))
            return True
        match node:
            case ast.Constant():
                return True
            case ast.JoinedStr(values=values):
                return all(self.is_fixed(module, value) for value in values)
            case ast.FormattedValue(value=value):
                return self.is_fixed(module, value)
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return all(self.is_fixed(module, part) for part in parts)
            case ast.Dict(values=values):
                return all(self.is_fixed(module, value) for value in values)
            case ast.DictComp(value=value) | ast.ListComp(elt=value) | ast.GeneratorExp(elt=value):
                return self.is_fixed(module, value)
            case ast.IfExp(body=body, orelse=orelse):
                return self.is_fixed(module, body) and self.is_fixed(module, orelse)
            case ast.BinOp(op=ast.Mult(), left=left):  # a text times anything but a number is an error
                return self.is_fixed(module, left)
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self.is_fixed(module, left) and self.is_fixed(module, right)
            case ast.Subscript(value=value):
                return self.is_fixed(module, value)
            case ast.Call(func=ast.Name(id=name)) if name in NUMBERS:
                return True
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=args) if name in PARTS_OF_TEXT:
                return self.is_fixed(module, value) and all(self.is_fixed(module, argument) for argument in args)
            case ast.Call(func=ast.Name(id=name)):
                return self._gives_fixed(module, name)
            case ast.Name(id=name):
                return self._is_fixed_name(module, node, name)
        return False

    def _gives_fixed(self, module: str, name: str) -> bool:
        for node in self._trees[module].body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                returns = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
                return bool(returns) and all(value is not None and self.is_fixed(module, value) for value in returns)
        return False

    def _is_fixed_name(self, module: str, place: ast.AST, name: str) -> bool:
        room: ast.AST | None = place
        while room is not None:
            room = self._parents.get(room)
            if isinstance(room, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Module):
                if room in self._following:  # by a way round: whatever else is bound decides
                    return True
                bound = list(self._bound(module, room, name))
                if bound:
                    return all(bound)
        return False

    def _bound(self, module: str, room: ast.AST, name: str) -> Iterator[bool]:
        """For each binding of the name in this room, whether it is to something fixed."""
        if isinstance(room, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from self._parameter(room, name)
        for node in ast.walk(room):
            if node is not room and self._room_of(node) is not room:
                continue
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        yield from self._target(module, target, value, name)
                case (
                    ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value)
                ):
                    yield from self._target(module, target, value, name)
                case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                    yield self.is_fixed(module, value)
                case ast.For(target=target, iter=several) | ast.AsyncFor(target=target, iter=several):
                    yield from self._loop(module, target, several, name)
                case ast.comprehension(target=target, iter=several):
                    yield from self._loop(module, target, several, name)
                case ast.withitem(optional_vars=ast.expr() as target) if name in _names_in(target):
                    yield False
                case ast.ImportFrom(names=names, module=source) if any((a.asname or a.name) == name for a in names):
                    yield self._imported(source or "", next(a.name for a in names if (a.asname or a.name) == name))

    def _room_of(self, node: ast.AST) -> ast.AST | None:
        room = self._parents.get(node)
        while room is not None and not isinstance(
            room, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.Module
        ):
            room = self._parents.get(room)
        return room

    def _target(self, module: str, target: ast.expr, value: ast.expr, name: str) -> Iterator[bool]:
        if isinstance(target, ast.Name) and target.id == name:
            yield self.is_fixed(module, value)
        elif isinstance(target, ast.Tuple) and name in _names_in(target):
            if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
                for part, given in zip(target.elts, value.elts, strict=True):
                    yield from self._target(module, part, given, name)
            else:
                yield False

    def _loop(self, module: str, target: ast.expr, several: ast.expr, name: str) -> Iterator[bool]:
        if name not in _names_in(target):
            return
        if isinstance(several, ast.Tuple | ast.List):
            for one in several.elts:
                yield from self._target(module, target, one, name)
        else:
            yield isinstance(target, ast.Name) and self.is_fixed(module, several)

    def _imported(self, source: str, name: str) -> bool:
        tree = self._trees.get(source)
        return tree is not None and all(bound := list(self._bound(source, tree, name))) and bool(bound)

    def _parameter(self, function: Any, name: str) -> Iterator[bool]:
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names = [argument.arg for argument in arguments]
        if name in {extra.arg for extra in (function.args.vararg, function.args.kwarg) if extra}:
            yield False
        if name not in names:
            return
        calls = self._calls.get(getattr(function, "name", ""), [])
        if isinstance(function, ast.Lambda) or not function.name.startswith("_") or not calls:
            yield False
            return
        place = names.index(name) - (names[0] == "self")
        self._following.add(function)
        for module, call in calls:
            given = [keyword.value for keyword in call.keywords if keyword.arg == name] or call.args[place : place + 1]
            spread = any(isinstance(argument, ast.Starred) for argument in call.args[: place + 1])
            yield bool(given) and not spread and self.is_fixed(module, given[0])
        self._following.discard(function)


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _names_in(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def _is_deadline(argument: ast.expr) -> bool:
    return ast.unparse(argument).split(".")[-1] == "deadline"


def test_no_input_gets_into_the_text_of_a_statement() -> None:
    rule = SQLRule({module: tree_of(module) for module in MODULES})
    assert rule.breaches() == []
    left = {(module, text) for module, text in FOLLOWED_BY_HAND if module in MODULES} - rule.followed_by_hand
    assert left == set(), "what is followed by hand and is there no more"


@pytest.mark.parametrize(
    "source",
    [
        'def get(connection, key):\n    connection.execute(f"SELECT {key}")',
        'def get(connection, key):\n    connection.execute("SELECT " + key)',
        'def get(connection, key):\n    connection.execute("SELECT %s" % key)',
        'def get(connection, key):\n    connection.execute("SELECT {}".format(key))',
        "def get(connection, query):\n    connection.execute(query)",
        'def get(connection, key):\n    query = "SELECT 1"\n    query += key\n    connection.execute(query)',
        'def get(connection, key):\n    query = "SELECT 1" if key else key\n    connection.executemany(query, [])',
        'def get(connection, keys):\n    for key in keys:\n        connection.execute(f"SELECT {key}")',
        "def _get(connection, query):\n    connection.execute(query)\ndef get(c, key):\n    _get(c, key)",
        "def _get(connection, query):\n    connection.execute(query)\ndef get(c, some):\n    _get(*some)",
        "def get(self):\n    self.connection.execute(self.query)",
        "def get(connection):\n    run = connection.execute\n    run(input)",
        'def get(connection, **names):\n    connection.execute(f"SELECT {names}")',
        'def get(connection, open):\n    with open() as name:\n        connection.execute(f"SELECT {name}")',
    ],
)
def test_input_in_a_statement_is_seen(source: str) -> None:
    assert SQLRule({"x": ast.parse(source)}).breaches()


@pytest.mark.parametrize(
    "source",
    [
        'def get(connection, key):\n    connection.execute("SELECT ?", (key,))',
        'Q = "SELECT 1"\ndef get(connection):\n    connection.execute(Q)',
        'Q = "x"\ndef get(connection, limit):\n    connection.execute(f"SELECT {Q} LIMIT {int(limit)}")',
        'def get(connection, rows):\n    connection.execute(", ".join(["?"] * rows))',
        'def _get(connection, query):\n    connection.execute(query)\ndef get(c):\n    _get(c, "SELECT 1")',
        'def get(c):\n    for name, value in (("a", 1), ("b", 2)):\n        c.execute(f"PRAGMA {name} = {value}")',
    ],
)
def test_statements_without_input_are_let_pass(source: str) -> None:
    assert SQLRule({"x": ast.parse(source)}).breaches() == []


# ---------------------------------------------------------------------------------------------------- whose code is run

CORE = {"aiosqlite", "msgspec", "orjson"}


def test_the_core_needs_three_packages_and_these_need_no_other() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in declared} == CORE
    for package in CORE:
        required = [need for need in importlib.metadata.requires(package) or [] if "extra ==" not in need]
        assert required == [], package


def test_importing_it_runs_the_code_of_nobody_else() -> None:
    program = "import sys; before = set(sys.modules); import contextstore; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    new = {name.partition(".")[0] for name in done.stdout.split()}
    # msgspec tries to import typing_extensions, and does without it.
    assert new - sys.stdlib_module_names - {"typing_extensions"} == CORE | {"contextstore"}
