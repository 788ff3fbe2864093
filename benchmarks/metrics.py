"""Figures of the source, not of its speed: how large, how branched, how entangled the package is, and a call's path.

python -m benchmarks.metrics             # or: make metrics
python -m benchmarks.metrics --json      # every figure, and every place that is counted
python -m benchmarks.metrics FOLDER      # of another package; paths are of contextstore alone

What is counted, and how:

- Lines of code are lines with a token on them. Comments, blank lines, strings that stand alone (docstrings) and stubs
  under ``@overload`` do not count. A function has those from its ``def`` to its end, a class from its ``class``.
- Complexity is McCabe's: 1, and 1 for each ``if``, ``elif``, ``for``, ``while``, ``except``, ternary, ``for`` and
  ``if`` of a comprehension, operand of ``and`` or ``or`` after the first, and arm of a ``match`` but ``case _``. A
  ``match`` whose every arm is one call, ``return`` or ``raise`` is a table and counts as 1. ``with`` and ``assert``
  count nothing. A function in a function counts for itself alone.
- A helper called once is a function with a private name, or one of a module that the package does not export, whose
  name is defined once in the package and used once. ``self`` and ``cls`` are no parameters.
- A reach-in is ``x._y``, unless ``x`` is ``self``, ``cls``, ``super()``, or of the same module: a class, or an object
  of one, which is ``other`` in a class, a parameter that is annotated with it, and what a loop takes from a collection
  that is. Dunders, and ``_replace`` and the like of named tuples, are no ``_y``.
- An import counts wherever it stands, under ``TYPE_CHECKING`` and in functions, too. Floors are the modules on the
  longest way down, where a circle is one. At the top, a folder stands for all that is in it.
- The paths of calls are counted as ``benchmarks/paths.py`` says.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import json
import math
import pathlib
import tokenize
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import paths

PACKAGE = pathlib.Path(__file__).parent.parent / "contextstore"
MOST_IN_FILE, MOST_IN_CLASS = 500, 300
OF_NAMED_TUPLES = ("_replace", "_asdict", "_make", "_fields")
Definition = ast.FunctionDef | ast.AsyncFunctionDef
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Source:
    """One file of the package."""

    def __init__(self, path: pathlib.Path, package: pathlib.Path) -> None:
        text = path.read_text(encoding="utf-8")
        self.package = package.name
        self.file = path.relative_to(package).as_posix()
        self.parts = path.relative_to(package).with_suffix("").parts
        self.lines = len(text.splitlines())
        self.tree = ast.parse(text, str(path))
        self.code = _code_lines(text, self.tree)

    def size(self, node: ast.stmt) -> int:
        return sum(node.lineno <= line <= (node.end_lineno or 0) for line in self.code)

    def place(self, node: ast.expr | ast.stmt) -> str:
        return f"{self.file}:{node.lineno}"


def _code_lines(text: str, tree: ast.Module) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for t in tokens if t.type not in LAYOUT for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, Definition) and any(ast.unparse(d).endswith("overload") for d in node.decorator_list):
            code -= set(range(node.decorator_list[0].lineno, (node.end_lineno or 0) + 1))
    return code


# ---------------------------------------------------------------------------------------------------- size and branches


def sizes(sources: Collection[Source]) -> dict[str, Any]:
    files = [(len(source.code), source.file) for source in sources]
    classes = [
        (source.size(node), f"{source.place(node)} {node.name}")
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    ]
    return {
        "files": len(files),
        "lines": sum(source.lines for source in sources),
        "code": sum(size for size, _ in files),
        "largest_files": _ranked(files, 8),
        "files_above": _ranked((f for f in files if f[0] > MOST_IN_FILE), None),
        "largest_classes": _ranked(classes, 8),
        "classes_above": _ranked((c for c in classes if c[0] > MOST_IN_CLASS), None),
    }


def functions(sources: Collection[Source]) -> dict[str, Any]:
    found = [
        (source.size(node), complexity(node), f"{source.place(node)} {name}")
        for source in sources
        for name, node in _definitions(source.tree)
        if source.size(node)  # none of an overload's stubs
    ]
    lengths = sorted((size, name) for size, _, name in found)
    branched = [(count, name) for _, count, name in found]
    return {
        "functions": len(found),
        "length_median": _at(lengths, 0.5),
        "length_p90": _at(lengths, 0.9),
        "longest": _ranked(lengths, 8),
        "most_complex": _ranked(branched, 8),
        "complexity_above_10": _ranked((f for f in branched if f[0] > 10), None),
        "complexity_above_12": _ranked((f for f in branched if f[0] > 12), None),
        "called_once_most_parameters": _ranked(_called_once(sources), 8),
    }


def _definitions(node: ast.AST, scope: str = "") -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        name = f"{scope}{child.name}" if isinstance(child, Definition | ast.ClassDef) else ""
        if isinstance(child, Definition):
            yield name, child
        yield from _definitions(child, f"{name}." if name else scope)


def complexity(function: Definition) -> int:
    return 1 + sum(_branches(node) for statement in function.body for node in _own_nodes(statement))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, Definition | ast.ClassDef):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _own_nodes(child)


def _branches(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler():
            return 1
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=ifs):
            return 1 + len(ifs)
        case ast.Match(cases=cases):
            return 1 if all(map(_is_one_step, cases)) else sum(ast.unparse(case.pattern) != "_" for case in cases)
    return 0


def _is_one_step(case: ast.match_case) -> bool:
    step = case.body[0]
    value = step.value if isinstance(step, ast.Expr) else None
    value = value.value if isinstance(value, ast.Await) else value
    return len(case.body) == 1 and isinstance(value or step, ast.Call | ast.Return | ast.Raise)


def _called_once(sources: Collection[Source]) -> Iterator[tuple[int, str]]:
    nodes = [node for source in sources for node in ast.walk(source.tree)]
    uses = Counter(node.id for node in nodes if isinstance(node, ast.Name))
    uses += Counter(node.attr for node in nodes if isinstance(node, ast.Attribute))
    definitions = Counter(node.name for node in nodes if isinstance(node, Definition))
    exported = {a.asname or a.name for s in sources if s.file == "__init__.py" for a in _aliases(s.tree)}
    for source in sources:
        for name, node in _definitions(source.tree):
            is_helper = is_private(node.name) or (node in source.tree.body and node.name not in exported)
            if is_helper and uses[node.name] == definitions[node.name] == 1:
                names = [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.arg not in ("self", "cls")]
                yield len(names), f"{source.place(node)} {name}"


# ----------------------------------------------------------------------------------------------- who knows what of whom


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def reach_ins(source: Source) -> list[str]:
    classes = {node.name for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)}
    annotated = [node for node in source.tree.body if isinstance(node, ast.AnnAssign)]
    collections = {ast.unparse(a.target) for a in annotated if classes & _names(a.annotation)}

    def own_in(function: Definition, own: Collection[str]) -> set[str]:
        parameters = [a for a in ast.walk(function.args) if isinstance(a, ast.arg) and a.annotation is not None]
        kinds = {a.arg: ast.unparse(a.annotation).strip("'\"").partition("[")[0] for a in parameters if a.annotation}
        loops = [node for node in ast.walk(function) if isinstance(node, ast.For)]
        taken = {ast.unparse(loop.target) for loop in loops if collections & _names(loop.iter)}
        return {*own, *taken, *(name for name, kind in kinds.items() if kind in {*classes, "Self"})}

    def visit(node: ast.AST, own: Collection[str]) -> Iterator[str]:
        if isinstance(node, ast.ClassDef):
            own = {*own, "other"}
        elif isinstance(node, Definition):
            own = own_in(node, own)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            value = ast.unparse(node.value)
            if value not in own and not value.startswith("super()"):
                yield f"{source.place(node)} {value}.{node.attr}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, own)

    return list(visit(source.tree, {"self", "cls", *classes}))


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def imports(sources: Collection[Source], at_the_top: bool = False) -> dict[str, Any]:
    modules = {_module(source.parts) for source in sources}
    edges: dict[str, set[str]] = {}
    for source in sources:
        one = _module(source.parts)
        targets = {_known(name, modules) for name in _imported(source)}
        if at_the_top:
            one, targets = one.partition(".")[0], {target.partition(".")[0] for target in targets}
        edges.setdefault(one, set()).update(targets - {one})
    reached = {module: _reachable(module, edges) for module in edges}
    circles = {frozenset(other for other in reached[m] if m in reached[other]) for m in edges if m in reached[m]}

    @functools.cache
    def floors_from(module: str) -> int:
        circle = {module, *(other for other in reached[module] if module in reached[other])}
        below = {target for member in circle for target in edges[member]} - circle
        return 1 + max(map(floors_from, below), default=0)

    return {
        "modules": len(edges),
        "edges": sum(map(len, edges.values())),
        "floors": max(map(floors_from, edges)),
        "circles": sorted(map(sorted, circles)),
    }


def _module(parts: tuple[str, ...]) -> str:
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _known(name: str, modules: Collection[str]) -> str:
    """The module that a dotted name below the package belongs to; its own front door, if none does."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or "__init__"


def _aliases(tree: ast.AST) -> list[ast.alias]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.alias)]


def _imported(source: Source) -> Iterator[str]:
    """Dotted names below the package; whether the last part is a module is not seen here."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*source.parts[: len(source.parts) - node.level], *(node.module or "").split(".")]
            yield from (".".join(filter(None, [*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            within = f"{getattr(node, 'module', None) or ''}."
            names = [f"{within}{alias.name}".lstrip(".") for alias in node.names]
            yield from (name.partition(".")[2] for name in names if name.partition(".")[0] == source.package)


def _reachable(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        if (name := ahead.pop()) not in reached:
            reached.add(name)
            ahead.extend(edges[name])
    return reached


# --------------------------------------------------------------------------------------------------------- what is told


def _ranked(entries: Iterable[tuple[int, str]], count: int | None) -> list[tuple[int, str]]:
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))[:count]


def _at(ascending: Sequence[tuple[int, str]], share: float) -> tuple[int, str]:
    """The entry that so large a share of the others does not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def measure(package: pathlib.Path) -> dict[str, Any]:
    """Every figure that needs nothing but the source."""
    sources = [Source(path, package) for path in sorted(package.rglob("*.py"))]
    return {
        "size": sizes(sources),
        "functions": functions(sources),
        "reach_ins": [place for source in sources for place in reach_ins(source)],
        "imports": {"modules": imports(sources), "at the top": imports(sources, at_the_top=True)},
    }


def table(figures: Mapping[str, Any]) -> Iterator[str]:
    size, function = figures["size"], figures["functions"]
    yield f"{size['files']} files, {size['lines']:,} lines, {size['code']:,} of them code"
    yield from _listed("largest files", size["largest_files"])
    yield f"  above {MOST_IN_FILE}: {len(size['files_above'])}"
    yield from _listed("largest classes", size["largest_classes"])
    yield f"  above {MOST_IN_CLASS}: {len(size['classes_above'])}"
    yield f"{function['functions']:,} functions, by their lines of code"
    for label, key in (("median", "length_median"), ("p90", "length_p90")):
        yield f"  {function[key][0]:>6,}  {label}, such as {function[key][1]}"
    yield from _listed("longest functions", function["longest"])
    above = function["complexity_above_10"]
    yield from _listed(f"functions of a complexity above 10: {len(above)}", above)
    yield f"  above 12: {len(function['complexity_above_12'])}"
    yield from _listed("most parameters of a helper that is called once", function["called_once_most_parameters"][:4])
    yield f"reach-ins to private names of others: {len(figures['reach_ins'])}"
    yield from (f"  {place}" for place in figures["reach_ins"])
    for label, graph in figures["imports"].items():
        circles = "; ".join(" - ".join(circle) for circle in graph["circles"]) or "none"
        yield f"imports, {label}: {graph['modules']} modules, {graph['edges']} edges, {graph['floors']} floors"
        yield f"  circles: {circles}"
    for label, path in figures.get("paths", {}).items():
        yield f"{label}: " + ", ".join(f"{count:g} {what.replace('_', ' ')}" for what, count in path.items())


def _listed(title: str, entries: Iterable[tuple[int, str]]) -> Iterator[str]:
    yield title
    yield from (f"  {figure:>6,}  {name}" for figure, name in entries)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description="Figures of a package's source.")
    parser.add_argument("package", nargs="?", type=pathlib.Path, default=PACKAGE, help="its folder (default: ours)")
    parser.add_argument("--json", action="store_true", help="every figure and place, as JSON")
    options = parser.parse_args(arguments)
    figures = measure(options.package)
    if options.package == PACKAGE:
        figures["paths"] = paths.measure()
    print(json.dumps(figures, indent=2) if options.json else "\n".join(table(figures)))


if __name__ == "__main__":
    main()
