"""The source builds no SQL from what it is given, runs nothing that it reads, and trusts three packages."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from ..support.processes import ROOT
from .test_architecture import MODULES, in_place, own_modules_in, tree_of

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
# The engine's own call, and the one that gathers them.
TAKES_KEYS = {"self._engine.fetch", "self.reader.fetch", "session.fetch", "self._session.fetch", "super().fetch"}
TAKES_KEYS |= {"self.global_reader.fetch", "self._states.fetch"}
NUMBERS = {"int", "len"}
PARTS_OF_TEXT = {"replace", "split", "strip", "join", "format", "removesuffix", "removeprefix"}

# Texts that the rule below cannot follow, each with the reason why no input gets there.
FOLLOWED_BY_HAND = {
    ("_sqlite.worker", "self._serve"): "a function, which is called and not parsed",
    ("_sqlite.file", "self._synchronous"): "1 or 2, looked up in a dict of the two durabilities",
    ("_sqlite.migrations", "sql"): "a part of a schema of ours, as SQLite itself tells it of a new store in memory",
    ("_sqlite.check", "self._table.name"): "_OUTPUTS or _GLOBALS, of constants",
    ("_sqlite.check", "self._table.rows"): "_OUTPUTS or _GLOBALS, of constants",
    ("_sqlite.check", "self._table.keys"): "_OUTPUTS or _GLOBALS, of constants",
    ("_postgres.statements", "schema"): "a lower-case ASCII identifier, or the URL was refused",
    ("_postgres.migration", "self._schema"): "a lower-case ASCII identifier, or the URL was refused",
    ("_postgres.run_listing_statements", "part"): "gets into a copy of the text, whose use is no field of the record",
    ("_postgres.run_listing_statements", "f'[{name}]'"): "what is replaced there",
    ("_postgres.connection", "query"): "hands on what the other modules give it, which is looked at there",
    ("_postgres.pool", "statement"): "hands on what the modules that read give it, which is looked at there",
}
MADE_BY_FILTERS = {"_sqlite.run_listing", "_postgres.run_listing"}
"""Put texts together by which filters there are: ``test_texts_of_listings`` runs what the rule cannot follow."""
RECORDS = {
    "Statements",
    "WriteStatements",
    "MarkStatements",
}  # made in one place alone, with the schema's name in each text


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
        self._in_room: dict[ast.AST | None, list[ast.AST]] = {}
        for node in self._parents:
            self._in_room.setdefault(self._room_of(node), []).append(node)
        self._calls: dict[str, list[tuple[str, ast.Call]]] = {}
        for module, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    self._calls.setdefault(_last_name(node.func), []).append((module, node))
        self._following: set[ast.AST] = set()
        self.followed_by_hand: set[tuple[str, str]] = set()

    def breaches(self) -> list[str]:
        trees = [(module, tree) for module, tree in self._trees.items() if module not in MADE_BY_FILTERS]
        return [breach for module, tree in trees for breach in self.breaches_in(module, tree)]

    def breaches_in(self, module: str, tree: ast.AST) -> list[str]:
        found = []
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
            case ast.Constant() | ast.UnaryOp(operand=ast.Constant()):
                return True
            case ast.Starred(value=value):
                return self.is_fixed(module, value)
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
            case ast.Attribute(value=ast.Attribute(attr="_statements"), attr=name):
                return self._is_statement(module, name)
            case ast.Name(id=name):
                return self._is_fixed_name(module, node, name)
        return False

    def _is_statement(self, module: str, name: str) -> bool:
        """Whether a field of the folder's record of statements is fixed: its text, and what is put into all of them."""
        folder = module.partition(".")[0]
        homes = [one for one in self._trees if one.startswith(f"{folder}.") and one.endswith("statements")]
        if not homes or any(place not in homes for kind in RECORDS for place, _ in self._calls.get(kind, [])):
            return False
        texts = [
            (place, text) for place, call in self._calls.get("replace", []) if place in homes for text in call.args
        ]
        fields = [
            (home, node.value)
            for home in homes
            for node in ast.walk(self._trees[home])
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name
            if isinstance(self._parents[node], ast.ClassDef)
        ]
        return bool(fields) and all(text is not None and self.is_fixed(home, text) for home, text in [*fields, *texts])

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
        for node in self._in_room.get(room, []):
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
                case ast.ImportFrom(names=names) if any((a.asname or a.name) == name for a in names):
                    sources = zip(own_modules_in(module, node), names, strict=True)
                    yield any(self._imported(source, a.name) for source, a in sources if (a.asname or a.name) == name)

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


RECORD = 'class Statements:\n    one: str = "SELECT 1"\n'


@pytest.mark.parametrize(
    ("statements", "source", "is_fixed"),
    [
        (RECORD, "", True),
        ("class Statements:\n    one: str = input", "", False),
        ("class Statements:\n    other: str = 'SELECT 1'", "", False),
        (f"{RECORD}def filled(name): return text.replace('?', name)", "", False),
        (RECORD, "def get(text):\n    return Statements(one=text)", False),
        ("", "", False),
    ],
)
def test_statements_of_a_record_are_followed_to_their_texts(statements: str, source: str, is_fixed: bool) -> None:
    use = "def use(self):\n    self.connection.execute(self._statements.one)\n"
    rule = SQLRule({"f.statements": ast.parse(statements), "f.x": ast.parse(use + source)})
    assert (rule.breaches() == []) == is_fixed


# ---------------------------------------------------------------------------------------------------- whose code is run

CORE = {"aiosqlite", "anyio", "msgspec", "orjson"}
OF_ANYIO = {"exceptiongroup", "idna", "typing_extensions"}  # the first and the last for older Pythons
LOADED = CORE - {"anyio"}  # by the import of the package


def test_the_core_needs_four_packages_and_these_need_no_other_but_anyio() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in declared} == CORE
    for package in CORE:
        needs = [need for need in importlib.metadata.requires(package) or [] if "extra ==" not in need]
        required = {re.split(r"[^\w-]", need)[0] for need in needs}
        assert required <= (OF_ANYIO if package == "anyio" else set()), package


def test_importing_it_runs_the_code_of_nobody_else() -> None:
    program = "import sys; before = set(sys.modules); import contextstore; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    new = {name.partition(".")[0] for name in done.stdout.split()}
    # msgspec tries to import typing_extensions, and does without it.
    assert new - sys.stdlib_module_names - {"typing_extensions"} == LOADED | {"contextstore"}
