"""The house, as docs/architecture.md draws it, held by walking the source and by looking at the public names.

``LAW`` is the plan of the folders. A new folder gets a line there, or the test that reads the plan fails.
"""

from __future__ import annotations

import ast
import builtins
import functools
import graphlib
import inspect
import pathlib
import re
import sys
import tokenize
import tomllib
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import contextstore
from contextstore import AsyncContextStore, AsyncFlowRun, AtomicWriter, ContextStore, FlowRun, errors
from contextstore._faces import batch as _batch

PACKAGE = pathlib.Path(contextstore.__file__).parent

LAW: list[tuple[str, ...]] = [
    ("_display",),  # ids, values, sizes and times for people
    ("errors", "_results", "observers"),  # what may go wrong; what the calls return; what observers are told
    ("_process",),  # what the process does to a store
    ("_values", "_waiting"),  # ids and values; how a call waits
    ("_engine",),  # what an engine is
    ("_sqlite", "_postgres", "_dispatch"),  # the engines; who goes to one with whom
    ("_core",),  # what a face holds
    ("_faces",),  # what users call
    ("__init__",),  # the front door
    # what stands on the public calls alone: what a store holds; OpenTelemetry; frameworks that keep their state in one
    ("_inspect", "telemetry", "integrations"),
    ("inspector",),  # pages that show a store
    ("cli",),  # the command line
    ("__main__",),  # python -m contextstore
]
"""The import law: a folder imports from the lines above its own, never from its own line or from further down.

A module of the top counts as a folder. Within a folder there is no circle. What is imported for annotations alone
counts as well.
"""

CIRCLES = {("_faces.async_store", "_faces.sync_store")}
"""The one circle that is allowed: each store makes the other, for ``blocking`` and ``awaitable``. It is closed by an
import within a function."""

KNOW_THE_ENGINES = {"_core.target", "__init__"}
"""Who imports from an engine's folder, outside of it. (The front door has ``restore``, which is about files.)"""

WITH_SQL = ("_sqlite", "_postgres")

ONLY_IN = {
    "anyio": {"_waiting.foreign", "inspector"},
    "trio": {"_waiting.trio_"},
    "sniffio": {"_waiting.foreign"},
    "asyncpg": {"_postgres.connection", "_postgres.engine"},
    "aiosqlite": {"_sqlite.worker"},
    "pydantic": {"_values.pydantic_", "integrations.pydantic_ai", "integrations.pydantic_ai_harness"},
    "pydantic_ai": {"integrations.pydantic_ai", "integrations.pydantic_ai_harness"},
    "pydantic_ai_harness": {"integrations.pydantic_ai_harness"},
    "opentelemetry": {"telemetry"},
    "key_value": {"integrations.py_key_value"},
    "langgraph": {"integrations.langgraph"},
    "langchain_core": {"integrations.langgraph"},
}
"""Modules of others, and where alone they are imported: in a module, or in all of a package."""

OF_EXTRAS = {"cli": "cli", "inspector": "ui"}
"""Folders that need an extra, which their own file does without: it asks whether it is there, and nobody else does."""

LOADED_WHEN_NEEDED = {"_waiting.trio_", "telemetry"}
"""Modules that no other one imports as it is loaded; so what they import need not be there."""

MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def path_of(module: str) -> pathlib.Path:
    path = PACKAGE / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def source_of(module: str) -> str:
    with tokenize.open(path_of(module)) as file:
        return file.read()


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(source_of(module))


def nodes_of(module: str, *kinds: type[ast.AST]) -> Iterator[Any]:
    return (node for node in ast.walk(tree_of(module)) if isinstance(node, kinds))


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def is_for_annotations(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(module: str, *, when_loaded: bool = False) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports, those for annotations too; with ``when_loaded`` those that ``import contextstore`` executes."""
    rooms: list[ast.AST] = [tree_of(module)]
    while rooms:
        for node in ast.iter_child_nodes(rooms.pop()):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node
            elif not when_loaded:
                rooms.append(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            elif not (isinstance(node, ast.stmt) and is_for_annotations(node)):
                rooms.append(node)


def own_modules_in(module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Which of our modules an import in this module names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == "contextstore"]
        return [name.partition(".")[2] or "__init__" for name in names]
    if node.level == 0:
        if (node.module or "").split(".")[0] != "contextstore":
            return []
        base = (node.module or "").partition(".")[2]
    else:
        package = module.split(".") if path_of(module).name == "__init__.py" else module.split(".")[:-1]
        above = package[: len(package) - node.level + 1] if module != "__init__" else []
        base = ".".join([*above, *filter(None, [node.module])])
    named = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
    return [name if name in MODULES else base or "__init__" for name in named]


def edges() -> Iterator[tuple[str, str, ast.Import | ast.ImportFrom]]:
    """Who imports from whom, and by which statement."""
    for module in MODULES:
        for node in imports_of(module):
            for imported in own_modules_in(module, node):
                yield module, imported, node


def outside_modules_in(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Which modules of others an import names, each by its first part."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".")[0] for alias in node.names]
    else:
        names = [] if node.level else [(node.module or "").split(".")[0]]
    return [name for name in names if name != "contextstore"]


def in_place(module: str, node: ast.AST) -> str:
    return f"{module}.py:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:100]}"


class TestPlan:
    def test_every_folder_has_its_place_in_the_law(self) -> None:
        assert sorted(folder for line in LAW for folder in line) == sorted({folder_of(module) for module in MODULES})

    def test_folders_import_in_one_direction(self) -> None:
        line_of = {folder: number for number, line in enumerate(LAW) for folder in line}
        wrong = [
            in_place(module, node)
            for module, imported, node in edges()
            if folder_of(module) != folder_of(imported) and line_of[folder_of(imported)] >= line_of[folder_of(module)]
        ]
        assert wrong == []

    def test_there_is_no_circle(self) -> None:
        graph: dict[str, set[str]] = {module: set() for module in MODULES}
        for module, imported, _ in edges():
            if (module, imported) not in CIRCLES and module != imported:
                graph[module].add(imported)
        assert list(graphlib.TopologicalSorter(graph).static_order())

    def test_the_one_circle_that_is_allowed_is_closed_by_an_import_within_a_function(self) -> None:
        for module, other in CIRCLES:
            loaded = [own_modules_in(module, node) for node in imports_of(module, when_loaded=True)]
            assert not any(other in names for names in loaded)

    def test_one_module_knows_which_engines_there_are(self) -> None:
        wrong = [
            in_place(module, node)
            for module, imported, node in edges()
            if folder_of(imported) in WITH_SQL and folder_of(module) != folder_of(imported)
            if module not in KNOW_THE_ENGINES
        ]
        assert wrong == []

    def test_what_is_of_one_module_alone_is_imported_there_alone(self) -> None:
        wrong = [
            in_place(module, node)
            for module in MODULES
            for node in imports_of(module)
            for name in outside_modules_in(node)
            if not any(f"{module}.".startswith(f"{place}.") for place in ONLY_IN.get(name, {module}))
        ]
        assert wrong == []

    def test_every_module_begins_with_a_docstring(self) -> None:
        without = [module for module in MODULES if not ast.get_docstring(tree_of(module))]
        assert without == []

    def test_every_private_module_begins_with_its_rules(self) -> None:
        """A module that is so small that it needs none has nothing but a first sentence there."""
        docstrings = {module: ast.get_docstring(tree_of(module)) or "" for module in MODULES if module[0] == "_"}
        del docstrings["__init__"]
        assert [m for m, text in docstrings.items() if "\n" in text and "Rules of this module" not in text] == []


# ------------------------------------------------------------------------------------------------------------------ SQL

# The beginning of a statement, or a clause that SQL is put together from. English sentences do not look like that.
SQL = re.compile(
    r"""
    ^\s* (
        SELECT\s | INSERT\s+(OR\s+\w+\s+)?INTO\b | UPDATE\s+\S+\s+SET\b | DELETE\s+FROM\b | REPLACE\s+INTO\b
        | (CREATE|DROP|ALTER)\s+(UNIQUE\s+|TEMP\s+)?(TABLE|VIEW|INDEX|TRIGGER|SEQUENCE|FUNCTION|SCHEMA)\b
        | PRAGMA\s+\w+ | VACUUM\b | ATTACH\b | ANALYZE\b | LISTEN\s | NOTIFY\s
        | (BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\s*(;|$|IMMEDIATE|EXCLUSIVE|TO\b|TRANSACTION|\w+$)
        | WITH\s+(RECURSIVE\s+)?\w+\s+AS\s
    )
    | \bSELECT\b .+ \bFROM\b | \bVALUES\s*\( | \bON\s+CONFLICT\b | \bORDER\s+BY\b | \bWHERE\s+\w+\s*(=|IN\b|IS\b)
    """,
    re.VERBOSE | re.DOTALL,
)


def strings_but_docstrings(module: str) -> Iterator[ast.Constant]:
    described = {id(node.value) for node in nodes_of(module, ast.Expr)}
    for node in nodes_of(module, ast.Constant):
        if isinstance(node.value, str | bytes) and id(node) not in described:
            yield node


def looks_like_sql(text: str | bytes) -> bool:
    return bool(SQL.search(text if isinstance(text, str) else text.decode("latin-1")))


class TestSQL:
    @pytest.mark.parametrize(
        "text",
        [
            "SELECT 1",
            b"SELECT a FROM b",
            "\n  INSERT OR IGNORE INTO t VALUES (?)",
            "UPDATE runs SET a = 1",
            "DELETE FROM runs",
            "CREATE UNIQUE INDEX i ON t (a)",
            "PRAGMA journal_mode",
            "BEGIN IMMEDIATE",
            "COMMIT",
            "SAVEPOINT unit",
            " WHERE a = ?",
            " ORDER BY node_id",
            "WITH t AS (SELECT 1) ",
        ],
    )
    def test_sql_is_recognised(self, text: str | bytes) -> None:
        assert looks_like_sql(text)

    @pytest.mark.parametrize(
        "text",
        ["could not begin a commit to", "Select a file from the list", "ordered by key", "commit", "where it is", ""],
    )
    def test_sentences_are_not_mistaken_for_it(self, text: str) -> None:
        assert not looks_like_sql(text)

    def test_sql_stands_in_the_engines_alone(self) -> None:
        found = [
            in_place(module, node)
            for module in MODULES
            if folder_of(module) not in WITH_SQL
            for node in strings_but_docstrings(module)
            if looks_like_sql(node.value)
        ]
        assert found == []

    def test_it_does_stand_there(self) -> None:
        assert any(looks_like_sql(node.value) for node in strings_but_docstrings("_sqlite.schema"))


# ------------------------------------------------------------------------------------------------ what is not done here


@functools.cache
def own_private_names() -> frozenset[str]:
    """Every private name that this package defines: of modules, of classes, of objects."""
    names: set[str] = set()
    for module in MODULES:
        names.update(module.split("."))
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                names.add(node.attr)
    return frozenset(name for name in names if is_private(name))


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_open_to_all(node: ast.ExceptHandler) -> bool:
    caught = "" if node.type is None else ast.unparse(node.type)
    return caught == "" or re.search(r"\b(Base)?Exception\b", caught) is not None


class TestHabits:
    def test_no_private_field_of_anybody_else_is_used(self) -> None:
        """``_thread`` is the standard library's documented name for it."""
        wrong = []
        for module in MODULES:
            imports = [node for node in nodes_of(module, ast.Import, ast.ImportFrom) if outside_modules_in(node)]
            outside = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
            for node in nodes_of(module, ast.Attribute):
                is_of_others = isinstance(node.value, ast.Name) and node.value.id in outside
                if is_private(node.attr) and (is_of_others or node.attr not in own_private_names()):
                    wrong.append(in_place(module, node))
            for node in imports:
                named = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                if any(is_private(part) and part != "_thread" for name in named for part in name.split(".")):
                    wrong.append(in_place(module, node))
        assert wrong == []

    def test_nothing_is_unpickled_or_evaluated(self) -> None:
        refused = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "code", "runpy"}
        wrong = []
        for module in MODULES:
            for node in nodes_of(module, ast.Import, ast.ImportFrom):
                if refused & set(outside_modules_in(node)):
                    wrong.append(in_place(module, node))
            for node in nodes_of(module, ast.Name):
                if node.id in ("eval", "exec", "compile", "__import__"):
                    wrong.append(in_place(module, node))
        assert wrong == []

    def test_whoever_keeps_any_exception_to_himself_says_why(self) -> None:
        """An ``except`` for all that does not end in ``raise`` has a comment, on its line or right below."""
        wrong = []
        for module in MODULES:
            lines = source_of(module).splitlines()
            for node in nodes_of(module, ast.ExceptHandler):
                if not is_open_to_all(node) or isinstance(node.body[-1], ast.Raise):
                    continue
                reason = re.search(r"#\s*(?:noqa: [A-Z0-9, ]+?\s*(?:-|$))?\s*(.*)", lines[node.lineno - 1])
                if not (reason and reason[1]) and not lines[node.lineno].strip().startswith("#"):
                    wrong.append(in_place(module, node))
        assert wrong == []

    def test_importing_needs_nothing_but_the_declared_dependencies(self) -> None:
        with open(PACKAGE.parent / "pyproject.toml", "rb") as file:
            project = tomllib.load(file)["project"]

        def allowed(module: str) -> set[str]:
            extra = OF_EXTRAS.get(folder_of(module)) if "." in module else None
            declared = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
            names = {re.split(r"[^\w-]", dependency)[0].replace("-", "_") for dependency in declared}
            return names | sys.stdlib_module_names

        wrong = [
            in_place(module, node)
            for module in MODULES
            if module not in LOADED_WHEN_NEEDED and folder_of(module) != "integrations"
            for node in imports_of(module, when_loaded=True)
            for name in [*outside_modules_in(node), *LOADED_WHEN_NEEDED.intersection(own_modules_in(module, node))]
            if name not in allowed(module)
        ]
        assert wrong == []

    def test_what_needs_an_extra_is_loaded_by_nothing_else(self) -> None:
        wrong = [
            in_place(module, node)
            for module in MODULES
            for node in imports_of(module, when_loaded=True)
            for imported in own_modules_in(module, node)
            if "." in imported and folder_of(imported) in OF_EXTRAS
            if module == folder_of(imported) or folder_of(module) != folder_of(imported)
        ]
        assert wrong == []

    def test_no_framework_is_loaded_by_anything_else(self) -> None:
        wrong = [
            in_place(module, node)
            for module, imported, node in edges()
            if folder_of(imported) == "integrations" != folder_of(module)
        ]
        assert wrong == []

    def test_public_errors_say_where_they_are_found(self) -> None:
        for name in errors.__all__:
            assert getattr(errors, name).__module__ == "contextstore.errors"
            assert getattr(contextstore, name) is getattr(errors, name)


# ------------------------------------------------------------------------------------------------------------ two faces

FACES: list[tuple[type, type]] = [
    (AsyncContextStore, ContextStore),
    (AsyncFlowRun, FlowRun),
    (_batch.AsyncBatch, _batch.Batch),
]
FUNCTIONS = [getattr(contextstore, name) for name in contextstore.__all__ if name[0].islower()]


def public_members(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


FACTS = {"location"}
"""What is no call, but an attribute that both faces have."""

CALLS = [
    pytest.param(one, other, name, id=f"{other.__name__}.{name}")
    for one, other in FACES
    for name in sorted(public_members(one) & public_members(other) - FACTS)
]

BLOCKING_NAMES = {
    f"Async{name}": name for name in ("FlowRun", "Batch", "LeaseBlock", "ContextStore", "Iterator", "Generator")
}


class WithoutAwait(ast.NodeTransformer):
    """An annotation of the async face as it stands on the blocking one."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(BLOCKING_NAMES.get(node.id, node.id))

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if ast.unparse(node.value) == "AsyncGenerator" and isinstance(node.slice, ast.Tuple):
            node.slice.elts.append(ast.Constant(None))  # a plain one returns something, too
        self.generic_visit(node)
        return node.slice if ast.unparse(node.value) == "Awaitable" else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.left if ast.dump(node.left) == ast.dump(node.right) else node


def without_await(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return ast.unparse(WithoutAwait().visit(ast.parse(text, mode="eval")))


def shape_of(function: Callable[..., Any]) -> list[tuple[Any, ...]]:
    signature = inspect.signature(function)
    parameters: list[tuple[Any, ...]] = [
        (parameter.name, parameter.kind, parameter.default, without_await(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    return [*parameters, ("return", without_await(signature.return_annotation))]


class TestTwoFaces:
    @pytest.mark.parametrize(("one", "other"), FACES)
    def test_each_has_the_names_of_the_other(self, one: type, other: type) -> None:
        views = {"blocking", "awaitable"}
        assert public_members(one) - views == public_members(other) - views
        assert len(public_members(one) & views) == len(public_members(other) & views)

    @pytest.mark.parametrize(("one", "other", "name"), CALLS)
    def test_a_call_is_the_same_on_both(self, one: type, other: type, name: str) -> None:
        assert shape_of(getattr(one, name)) == shape_of(getattr(other, name))
        assert inspect.getdoc(getattr(one, name)) == inspect.getdoc(getattr(other, name))
        of_one, of_other = ([shape_of(f) for f in typing.get_overloads(getattr(kind, name))] for kind in (one, other))
        # What is overloaded only by whether it is awaited is one signature on the blocking face.
        assert of_one == (of_other or [shape_of(getattr(other, name))] * len(of_one))

    @pytest.mark.parametrize(("one", "other"), FACES)
    def test_they_are_made_in_the_same_way(self, one: type, other: type) -> None:
        assert [shape[:3] for shape in shape_of(one.__init__)] == [shape[:3] for shape in shape_of(other.__init__)]
        assert hasattr(one, "__aenter__") == hasattr(other, "__enter__")
        assert hasattr(one, "__aexit__") == hasattr(other, "__exit__")
        assert not hasattr(one, "__enter__")
        assert not hasattr(other, "__aenter__")

    @pytest.mark.parametrize("kind", [ContextStore, FlowRun, _batch.Batch])
    def test_nothing_on_the_blocking_face_is_awaited(self, kind: type) -> None:
        for name in public_members(kind) - {"awaitable"} - FACTS:
            function = getattr(kind, name)
            assert not inspect.iscoroutinefunction(function), name
            assert not inspect.isasyncgenfunction(function), name
            returned = str(inspect.signature(function).return_annotation)
            assert without_await(returned) == returned, name

    @pytest.mark.parametrize("kind", [*(kind for faces in FACES for kind in faces), AtomicWriter])
    def test_annotations_can_be_looked_up_at_run_time(self, kind: type) -> None:
        for name in ["__init__", *public_members(kind)]:
            if callable(getattr(kind, name)):
                assert "return" in typing.get_type_hints(getattr(kind, name)), name

    @pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
    def test_those_of_functions_too(self, function: Callable[..., Any]) -> None:
        assert "return" in typing.get_type_hints(function)


# ----------------------------------------------------------------------------------------------------------- docstrings

PUBLIC_CLASSES = sorted(
    {getattr(contextstore, name) for name in contextstore.__all__ if inspect.isclass(getattr(contextstore, name))}
    | {kind for faces in FACES for kind in faces},
    key=lambda kind: kind.__name__,
)
NOTHING_OF_ITS_OWN = {"blocking", "close", "run"}
"""Calls that raise nothing but what every call raises: StoreClosedError, WrongLoopError, ForkedProcessError."""


class TestDocstrings:
    def test_every_public_name_has_a_docstring(self) -> None:
        for name in contextstore.__all__:
            value = getattr(contextstore, name)
            docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            assert docstring, name
            assert not docstring.startswith(f"{name}("), name  # what dataclass makes up

    @pytest.mark.parametrize("kind", PUBLIC_CLASSES, ids=lambda kind: kind.__name__)
    def test_every_public_method_has_a_docstring(self, kind: type) -> None:
        methods = {name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))}
        assert {name for name in methods if not inspect.getdoc(getattr(kind, name))} == set()

    @pytest.mark.parametrize("name", sorted(public_members(AsyncContextStore) - NOTHING_OF_ITS_OWN - FACTS))
    def test_help_names_the_errors_that_a_call_may_raise(self, name: str) -> None:
        docstring = inspect.getdoc(getattr(AsyncContextStore, name)) or ""
        assert re.search(r"Raises:\n    \S|``\w+Error``", docstring)

    @pytest.mark.parametrize("kind", PUBLIC_CLASSES, ids=lambda kind: kind.__name__)
    def test_errors_that_a_docstring_names_do_exist(self, kind: type) -> None:
        texts = [inspect.getdoc(kind) or ""]
        texts += [inspect.getdoc(getattr(kind, name)) or "" for name in vars(kind) if not name.startswith("_")]
        named = {name for text in texts for name in re.findall(r"\b[A-Z]\w+Error\b", text)}
        assert named <= {*errors.__all__, *dir(builtins)}

    def test_all_names_everything_that_is_public(self) -> None:
        public = {
            name
            for name, value in vars(contextstore).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        }
        assert set(contextstore.__all__) == public
        assert len(contextstore.__all__) == len(set(contextstore.__all__))

    def test_the_tree_of_errors_in_the_docstring_is_the_tree_of_errors(self) -> None:
        drawn: dict[str, str] = {}
        branch: list[str] = []
        for line in (errors.__doc__ or "").splitlines():
            if match := re.match(r"    ([│ ├└─]*)(\w+Error)\b", line):
                depth = len(match[1]) // 4
                branch[depth:] = [match[2]]
                drawn[match[2]] = branch[depth - 1] if depth else "Exception"
        assert drawn == {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__}
