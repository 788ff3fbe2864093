"""What one module of the standard library measures: read from its syntax tree, nothing of it is run or imported.

Rules of this module: it knows neither the flow nor the store. What a node's output is made of are plain dataclasses,
which the store writes as JSON and reads back as what they were.
"""

from __future__ import annotations

import ast
import os
import pathlib
import sysconfig
import tokenize
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Ranked:
    """A name and the figure by which it is ranked."""

    name: str
    figure: int


@dataclass(frozen=True)
class Module:
    """What one module measures: the output of a module's node."""

    lines: int
    functions: int
    classes: int
    public: int  # modules, classes and functions that should have a docstring
    documented: int  # and those that do
    nesting: int  # of blocks, at the deepest place
    imports: list[str]  # modules imported when this one is imported
    late_imports: list[str]  # modules imported later, or only by type checkers
    longest: list[Ranked]  # functions, by their lines


def standard_library() -> dict[str, pathlib.Path]:
    """The modules that are written in Python, by name; without tests and without what was installed later."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    modules = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name not in left_out)
        package = pathlib.Path(folder).relative_to(root).parts
        for file in map(pathlib.Path, files):
            if file.suffix == ".py" and file.stem.isidentifier():
                parts = package if file.stem == "__init__" else (*package, file.stem)
                modules[".".join(parts)] = pathlib.Path(folder, file)
    return dict(sorted(modules.items()))


def measure(name: str, path: pathlib.Path, library: Collection[str]) -> Module:
    """Measure a module; ``library`` has the names that an import may mean."""
    with tokenize.open(path) as file:  # decodes as the interpreter would
        source = file.read()
    tree = ast.parse(source, str(path))
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    functions: list[Ranked] = []
    public = [ast.get_docstring(tree, clean=False)]
    classes = nesting = 0
    imports: set[str] = set()
    late_imports: set[str] = set()
    for statement, place in _statements(tree.body, _Place(scope=name)):
        nesting = max(nesting, place.depth)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported = {_module_of(target, library) for target in _imported_names(statement, package)} - {name}
            (late_imports if place.is_late else imports).update(imported)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if isinstance(statement, ast.ClassDef):
                classes += 1
            else:
                length = (statement.end_lineno or statement.lineno) - statement.lineno + 1
                functions.append(Ranked(f"{place.scope}.{statement.name}", length))
            if not (statement.name.startswith("_") or place.is_late):
                public.append(ast.get_docstring(statement, clean=False))
    return Module(
        lines=len(source.splitlines()),
        functions=len(functions),
        classes=classes,
        public=len(public),
        documented=sum(docstring is not None for docstring in public),
        nesting=nesting,
        imports=sorted(imports),
        late_imports=sorted(late_imports - imports),
        longest=highest(functions, 5),
    )


@dataclass(frozen=True)
class _Place:
    """Where a statement stands."""

    scope: str
    depth: int = 0
    is_late: bool = False  # not executed when the module is imported


def _statements(body: Sequence[ast.stmt], place: _Place) -> Iterator[tuple[ast.stmt, _Place]]:
    for statement in body:
        yield statement, place
        inner = replace(place, depth=place.depth + 1)
        match statement:
            case ast.ClassDef(name=name, body=body):
                yield from _statements(body, replace(inner, scope=f"{place.scope}.{name}"))
            case ast.FunctionDef(name=name, body=body) | ast.AsyncFunctionDef(name=name, body=body):
                yield from _statements(body, replace(inner, scope=f"{place.scope}.{name}", is_late=True))
            case ast.If(test=test, body=body, orelse=orelse):
                yield from _statements(body, replace(inner, is_late=place.is_late or _is_false_at_import(test)))
                is_elif = len(orelse) == 1 and isinstance(orelse[0], ast.If)
                yield from _statements(orelse, place if is_elif else inner)
            case ast.For() | ast.AsyncFor() | ast.While() | ast.With() | ast.AsyncWith():
                yield from _statements([*statement.body, *getattr(statement, "orelse", [])], inner)
            case ast.Try() | ast.TryStar():
                handled = [inside for handler in statement.handlers for inside in handler.body]
                yield from _statements([*statement.body, *handled, *statement.orelse, *statement.finalbody], inner)
            case ast.Match(cases=cases):
                yield from _statements([inside for case in cases for inside in case.body], inner)


def _is_false_at_import(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")


def _imported_names(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Absolute names. Whether ``b`` of ``from a import b`` is a module cannot be seen here."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    base = statement.module or ""
    if statement.level:
        parents = package.split(".")
        parents = parents[: len(parents) - statement.level + 1]
        base = ".".join([*parents, base] if base else parents)
    yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in statement.names)


def _module_of(imported: str, library: Collection[str]) -> str:
    """The module that an imported name belongs to: ``os.getcwd`` to ``os``, the built-in ``_thread`` to itself."""
    name = imported
    while name and name not in library:
        name = name.rpartition(".")[0]
    return name or imported.partition(".")[0]


def highest(ranked: Collection[Ranked], count: int) -> list[Ranked]:
    return sorted(ranked, key=lambda entry: (-entry.figure, entry.name))[:count]
