"""A survey of Python's own standard library, as a flow that is killed half-way and goes on where it was.

    python examples/survey.py            # or: make demo

The flow has a node for every module of the standard library, which parses and measures it, and some nodes that combine
what these found: totals of each package, the most imported modules, the longest functions, the import cycles. Each
output is in the store before its node counts as complete. So a restart needs no more than this: ask the store what it
has (``list_keys``), compute what is missing.

The flow runs in a process of its own. Whoever started it watches the store, kills the process by SIGKILL once half of
the outputs are there, starts another one for the same flow run, and proves what became of every node: by a journal to
which the processes append a line whenever they begin or complete a node, and by reading the outputs back through plain
``sqlite3`` (on a server, through the store). If any claim does not hold, the exit status is 1; if the store cannot be
opened, it is 2.

What a program of your own would take over is ``run_flow``; the rest is what it computes, and the proof.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import functools
import math
import os
import pathlib
import platform
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from contextstore import AsyncContextStore, AtomicWriter, ContextStore, ContextStoreError, new_flow_run_id

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

T = TypeVar("T")


# ------------------------------------------------------------------------------------------------- measuring a module


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
        longest=_highest(functions, 5),
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


def _highest(ranked: Collection[Ranked], count: int) -> list[Ranked]:
    return sorted(ranked, key=lambda entry: (-entry.figure, entry.name))[:count]


# ------------------------------------------------------------------------------------------- combining the measurements


@dataclass(frozen=True)
class Totals:
    """The sums over several modules: the output of a package's node."""

    modules: int
    lines: int
    functions: int
    classes: int
    public: int
    documented: int


@dataclass(frozen=True)
class Report:
    """What the survey found: the output of the last node."""

    totals: Totals
    largest_packages: list[Ranked]
    most_imported: list[Ranked]
    longest_functions: list[Ranked]
    deepest_nesting: list[Ranked]
    import_cycles: list[list[str]]


def totals(modules: Mapping[str, Module]) -> Totals:
    measured = modules.values()
    return Totals(
        modules=len(measured),
        lines=sum(module.lines for module in measured),
        functions=sum(module.functions for module in measured),
        classes=sum(module.classes for module in measured),
        public=sum(module.public for module in measured),
        documented=sum(module.documented for module in measured),
    )


def most_imported(modules: Mapping[str, Module]) -> list[Ranked]:
    importers = Counter[str]()
    for module in modules.values():
        importers.update([*module.imports, *module.late_imports])
    return _highest([Ranked(name, count) for name, count in importers.items()], 5)


def longest_functions(modules: Mapping[str, Module]) -> list[Ranked]:
    return _highest([function for module in modules.values() for function in module.longest], 5)


def deepest_nesting(modules: Mapping[str, Module]) -> list[Ranked]:
    return _highest([Ranked(name, module.nesting) for name, module in modules.items()], 5)


def import_cycles(modules: Mapping[str, Module]) -> list[list[str]]:
    """The sets of modules each of which leads to every other by imports at import time; the largest sets first."""
    imported = {name: modules.keys() & set(module.imports) for name, module in modules.items()}
    leads_to = {name: _reachable(name, imported) for name in imported}
    cycles = {
        frozenset(other for other in reached if name in leads_to[other])
        for name, reached in leads_to.items()
        if name in reached
    }
    return sorted((sorted(cycle) for cycle in cycles if len(cycle) > 1), key=lambda cycle: (-len(cycle), cycle))


def _reachable(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        if (name := ahead.pop()) not in reached:
            reached.add(name)
            ahead.extend(edges[name])
    return reached


# ------------------------------------------------------------------------------------------------------------- the flow


class Outputs:
    """What a node may read: the outputs of this flow run."""

    def __init__(self, store: AsyncContextStore, flow_run_id: str) -> None:
        self._store = store
        self._flow_run_id = flow_run_id

    async def read(self, node_id: str, kind: type[T]) -> T:
        output = await self._store.get(self._flow_run_id, node_id, type=kind)
        if output is None:
            raise LookupError(f"{node_id} has no output yet")
        return output

    async def read_modules(self, names: Collection[str]) -> dict[str, Module]:
        measured = await asyncio.gather(*(self.read(f"module/{name}", Module) for name in names))
        return dict(zip(names, measured, strict=True))


@dataclass(frozen=True)
class Node:
    """A step of the flow: what must be there before, and how its output is computed."""

    after: Collection[str]
    compute: Callable[[Outputs], Awaitable[object]]


def survey(library: Mapping[str, pathlib.Path], limit: int | None = None) -> dict[str, Node]:
    """The nodes of the flow, by their ids."""
    surveyed = list(library)[:limit]
    nodes: dict[str, Node] = {}

    async def compute_module(name: str, _: Outputs) -> Module:
        # A thread keeps the event loop free; that it cannot run in parallel to the others does not matter here.
        return await asyncio.to_thread(measure, name, library[name], library.keys())

    async def combine(function: Callable[[Mapping[str, Module]], T], names: Collection[str], outputs: Outputs) -> T:
        return function(await outputs.read_modules(names))

    def add_combining(node_id: str, function: Callable[[Mapping[str, Module]], object], names: Collection[str]) -> None:
        nodes[node_id] = Node([f"module/{name}" for name in names], functools.partial(combine, function, names))

    async def compute_report(outputs: Outputs) -> Report:
        sizes = [Ranked(package, (await outputs.read(f"package/{package}", Totals)).lines) for package in packages]
        return Report(
            totals=await outputs.read("survey/totals", Totals),
            largest_packages=_highest(sizes, 5),
            most_imported=await outputs.read("survey/most-imported", list[Ranked]),
            longest_functions=await outputs.read("survey/longest-functions", list[Ranked]),
            deepest_nesting=await outputs.read("survey/deepest-nesting", list[Ranked]),
            import_cycles=await outputs.read("survey/import-cycles", list[list[str]]),
        )

    for name in surveyed:
        nodes[f"module/{name}"] = Node([], functools.partial(compute_module, name))
    members = defaultdict(list)
    for name in surveyed:
        members[name.partition(".")[0]].append(name)
    packages = {package: names for package, names in members.items() if len(names) > 1}
    for package, names in packages.items():
        add_combining(f"package/{package}", totals, names)
    for function in (totals, most_imported, longest_functions, deepest_nesting, import_cycles):
        add_combining(f"survey/{function.__name__.replace('_', '-')}", function, surveyed)
    combining = [node_id for node_id in nodes if not node_id.startswith("module/")]
    nodes["survey/report"] = Node(combining, compute_report)
    return nodes


class Journal:
    """The lines ``began <node>`` and ``completed <node>``, appended by every process that works at the flow.

    A line is one write to a file that is opened with O_APPEND: the death of the process, which the store is to get
    over, does not take it back.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def note(self, event: str, node_id: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{event} {node_id}\n")

    def counts(self, event: str) -> Counter[str]:
        """How often this happened to each node."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return Counter(node_id for happened, _, node_id in (line.partition(" ") for line in lines) if happened == event)


CONCURRENCY = 8
"""So many nodes are in work at once; those that are written at the same time share a commit."""


async def run_flow(
    store: AsyncContextStore,
    flow_run_id: str,
    nodes: Mapping[str, Node],
    journal: Journal,
    pace: float = 0.0,
) -> None:
    """Compute the nodes that have no output yet, each after those that it builds on."""
    written = set(await store.list_keys(flow_run_id))  # by an earlier process; this is all there is to resuming
    writer = AtomicWriter(store)
    outputs = Outputs(store, flow_run_id)
    order = TopologicalSorter({node_id: node.after for node_id, node in nodes.items()})
    order.prepare()
    slots = asyncio.Semaphore(CONCURRENCY)

    async def run_node(node_id: str) -> None:
        async with slots:
            journal.note("began", node_id)
            output = await nodes[node_id].compute(outputs)
            await asyncio.sleep(pace)
            # Write before complete: what follows is called only once the output is durable.
            await writer.write_and_complete(flow_run_id, node_id, output, functools.partial(complete, node_id))

    def complete(node_id: str) -> None:
        journal.note("completed", node_id)
        order.done(node_id)
        start_ready()

    def start_ready() -> None:
        while ready := order.get_ready():
            for node_id in ready:
                if node_id in written:
                    order.done(node_id)
                else:
                    group.create_task(run_node(node_id))

    async with asyncio.TaskGroup() as group:
        start_ready()


async def work(options: argparse.Namespace) -> None:
    """The process that is killed, and the one that goes on: they differ in nothing."""
    nodes = survey(standard_library(), options.limit)
    async with AsyncContextStore(options.store) as store:
        await run_flow(store, options.worker, nodes, Journal(options.journal), options.pace)


# ------------------------------------------------------------------------------------------------- the demonstration


class Place(NamedTuple):
    """Where the store is: for the library, and for people and their tools."""

    target: str  # what the library is given; a URL may have a password in it
    location: str  # the path or the URL, without one

    @property
    def is_file(self) -> bool:
        return "://" not in self.location

    def query(self, condition: str) -> str:
        """The command that shows the values of the outputs for which this SQL holds."""
        if self.is_file:
            return f'sqlite3 {shlex.quote(self.location)} "SELECT value FROM outputs WHERE {condition}"'
        parts = urllib.parse.urlsplit(self.location)
        options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        schema = options.pop("schema", "contextstore")  # this library's own option, unknown to psql
        url = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(options)))
        return f'psql {shlex.quote(url)} -c "SELECT value FROM {schema}.outputs WHERE {condition}"'


def make_store(target: str) -> Place:
    """Make the store, so that there is something to watch from the first moment on."""
    with ContextStore(target) as store:
        location = store.stats().location
    if location == ":memory:":
        raise ValueError("a store in memory ends with its process, and this takes several: name a file")
    place = Place(target, location)
    return Place(location, location) if place.is_file else place


class Check(NamedTuple):
    """A line of the closing table. ``holds`` is None where a figure is told and nothing is claimed of it."""

    label: str
    figure: int
    expected: str = ""
    holds: bool | None = None


def demonstrate(options: argparse.Namespace, place: Place, folder: str, console: Console) -> bool:
    """Run the flow, kill it, run it again. Returns whether all went as it must."""
    nodes = survey(standard_library(), options.limit)
    journal = Journal(pathlib.Path(folder, "journal"))
    flow_run_id = new_flow_run_id()
    console.print(
        f"[bold]A survey of the standard library of Python {platform.python_version()}[/]: {len(nodes):,} nodes",
        highlight=False,
    )
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"store     {place.location}{' (temporary)' if options.store is None else ''}")
    say(f"flow run  {flow_run_id}\n")
    command = [sys.executable, __file__, "--worker", flow_run_id, "--store", place.target]
    command += ["--journal", os.path.join(folder, "journal"), "--pace", str(options.pace)]
    command += [] if options.limit is None else ["--limit", str(options.limit)]
    checks = [Check("nodes of the flow", len(nodes))]
    killed = Snapshot({}, Counter(), Counter())
    with ProgressDisplay(console, len(nodes)) as display:
        if options.kill:
            bar = display.bar("first process")
            status = run_process(command, place, flow_run_id, bar, math.ceil(options.kill_at * len(nodes)))
            killed = Snapshot.of(place, flow_run_id, journal)
            was_killed = status == -signal.SIGKILL
            how = "killed by SIGKILL" if was_killed else f"ended by itself, status {status}"
            bar.end(len(killed.rows), how, "red")
            if status == 0:
                say("It was through before it could be killed: take a larger --limit, or a --pace.")
            checks.append(Check("processes killed by SIGKILL", int(was_killed), "1", was_killed))
        bar = display.bar("second process" if options.kill else "the process")
        status = run_process(command, place, flow_run_id, bar)
        end = Snapshot.of(place, flow_run_id, journal)
        how = "done" if status == 0 else f"failed, status {status}"
        bar.end(len(end.rows), how, "green" if status == 0 else "red")
        checks.append(Check("processes that came to the end", int(status == 0), "1", status == 0))
    console.print()
    checks += compare(nodes, killed, end)
    console.print(checks_table(checks, console))
    if killed.began:
        console.print(
            "A node is written once its output is in the store, and completed once the flow has been told so, which "
            "comes after. The kill may come between the two.\n",
            highlight=False,
        )
    if holds := all(check.holds is not False for check in checks):
        # Not read-only: whoever closes a file last then leaves nothing in a -wal beside it.
        with ContextStore(place.target) as store:
            report = store.get(flow_run_id, "survey/report", type=Report)
        if report is not None:
            console.print(findings_table(report, console))
    if options.store is not None:
        condition = f"flow_run_id = '{flow_run_id}' AND node_id = 'survey/report'"
        say(f"Look for yourself:\n  {place.query(condition)}\n")
    console.print("[green]Every claim holds.[/]" if holds else "[bold red]A claim does not hold.[/]")
    return holds


def run_process(
    command: Sequence[str],
    place: Place,
    flow_run_id: str,
    bar: ProgressBar,
    kill_at: int | None = None,
) -> int:
    """Start a process that works at the flow and watch the store; returns the exit status, negative for a signal."""
    # In a process group of its own: Ctrl-C in the terminal is for the process that watches.
    child = subprocess.Popen(command, process_group=0)
    try:
        # Read-only: what a killed process leaves behind is for the next one to put in order, not for the watcher.
        with ContextStore(place.target, read_only=True) as store:
            while child.poll() is None:
                written = len(store.list_keys(flow_run_id))
                bar.show(written)
                if kill_at is not None and written >= kill_at:
                    child.kill()
                    break
                time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    return child.returncode


class Snapshot(NamedTuple):
    """All there is to know at one time: the rows of this flow run in the view ``outputs``, and the journal."""

    rows: Mapping[str, Sequence[tuple[str, str]]]  # (value, written_at) by node; more than one row would be an error
    began: Counter[str]
    completed: Counter[str]

    @classmethod
    def of(cls, place: Place, flow_run_id: str, journal: Journal) -> Snapshot:
        """Read by Python's own sqlite3, if it is a file: what is in the store is no secret of the library."""
        rows = defaultdict(list)
        if not place.is_file:
            with ContextStore(place.target, read_only=True) as store:
                for output in store.iter_outputs(flow_run_id):
                    rows[output.node_id].append((repr(output.value), output.written_at.isoformat()))
            return cls(rows, journal.counts("began"), journal.counts("completed"))
        uri = f"file:{urllib.parse.quote(place.location)}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            query = "SELECT node_id, value, written_at FROM outputs WHERE flow_run_id = ?"
            for node_id, value, written_at in connection.execute(query, (flow_run_id,)):
                rows[node_id].append((value, written_at))
        return cls(rows, journal.counts("began"), journal.counts("completed"))


def compare(nodes: Collection[str], killed: Snapshot, end: Snapshot) -> list[Check]:
    """What was there at the kill, and what became of it."""
    checks = []
    begun_again = {node_id for node_id in killed.began if end.began[node_id] > killed.began[node_id]}
    in_flight = killed.began.keys() - killed.rows.keys()
    if killed.began:
        acknowledged = killed.completed.keys()
        told_nobody = killed.rows.keys() - acknowledged
        lost = acknowledged - killed.rows.keys()
        unchanged = [node_id for node_id, rows in killed.rows.items() if end.rows.get(node_id) == rows]
        at_most = f"at most {CONCURRENCY}"
        checks += [
            Check("completed before the kill", len(acknowledged)),
            Check("  whose output was lost", len(lost), "0", not lost),
            Check("  computed again", len(acknowledged & begun_again), "0", not acknowledged & begun_again),
            Check("written at the kill, not completed", len(told_nobody)),
            Check("  computed again", len(told_nobody & begun_again), "0", not told_nobody & begun_again),
            Check("being computed at the kill", len(in_flight), at_most, len(in_flight) <= CONCURRENCY),
            Check("  computed again", len(in_flight & begun_again), f"{len(in_flight)}", in_flight <= begun_again),
            Check(
                "outputs unchanged since the kill",
                len(unchanged),
                f"{len(killed.rows):,}",
                len(unchanged) == len(killed.rows),
            ),
        ]
    once = [node_id for node_id in nodes if len(end.rows.get(node_id, [])) == 1]
    foreign = end.rows.keys() - set(nodes)
    is_all = len(once) == len(nodes) and not foreign
    computed = end.began.total()
    expected = f"{len(nodes):,}" + (f" + {len(in_flight)}" if killed.began else "")
    return [
        *checks,
        Check("outputs at the end, each once", len(once), f"{len(nodes):,}", is_all),
        Check("computations in all", computed, expected, computed == len(nodes) + len(in_flight)),
    ]


# ---------------------------------------------------------------------------------------------------- what is displayed


class ProgressDisplay:
    """A bar for each process, which grows with what the store has. Without a terminal, a line for each."""

    def __init__(self, console: Console, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console
        self._total = total
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=34, style="grey30"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[end]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def bar(self, title: str) -> ProgressBar:
        return ProgressBar(self._console, self._progress, title, self._total)


class ProgressBar:
    """The bar of one process."""

    def __init__(self, console: Console, progress: Progress, title: str, total: int) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._total = total
        self._bar = progress.add_task(title, total=total, end="")

    def show(self, written: int) -> None:
        self._progress.update(self._bar, completed=written)

    def end(self, written: int, how: str, style: str) -> None:
        self._progress.update(self._bar, completed=written, end=f"[{style}]{how}[/]")
        self._progress.stop_task(self._bar)
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {written} of {self._total} nodes written, {how}", highlight=False)


def checks_table(checks: Sequence[Check], console: Console) -> Table:
    from rich import box
    from rich.table import Table

    can_tick = console.encoding.lower().startswith("utf")
    verdicts = {
        None: "",
        True: "[green]\N{CHECK MARK}[/]" if can_tick else "yes",
        False: "[bold red]\N{BALLOT X}[/]" if can_tick else "[bold red]NO[/]",
    }
    table = Table(title="What became of the nodes", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("measured")
    table.add_column("nodes", justify="right")
    table.add_column("expected")
    for check in checks:
        verdict = f"{check.expected} {verdicts[check.holds]}"
        table.add_row(check.label, f"{check.figure:,}", verdict, style="" if check.label[0] != " " else "dim")
    return table


def findings_table(report: Report, console: Console) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="What the survey found", title_justify="left", title_style="bold", box=box.SIMPLE)
    table.show_header = False
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    width = console.width - 23  # the rest is for the figures, their units and the space between
    sums = report.totals
    for label, figure in (
        ("modules", f"{sums.modules:,}"),
        ("lines", f"{sums.lines:,}"),
        ("functions", f"{sums.functions:,}"),
        ("classes", f"{sums.classes:,}"),
        ("public with docstring", f"{sums.documented / sums.public:.0%}"),
        ("import cycles", f"{len(report.import_cycles)}"),
    ):
        table.add_row(label, f"{figure} {'':<9}")
    for label, ranking, unit in (
        ("largest packages", report.largest_packages, "lines"),
        ("most imported modules", report.most_imported, "importers"),
        ("longest functions", report.longest_functions, "lines"),
        ("deepest nesting", report.deepest_nesting, "blocks"),
        (
            "largest import cycles",
            [Ranked(", ".join(cycle), len(cycle)) for cycle in report.import_cycles[:3]],
            "modules",
        ),
    ):
        table.add_section()
        table.add_row(label)
        for entry in ranking:
            table.add_row(folded(entry.name, width), f"{entry.figure:,} [dim]{unit:<9}[/]")
    return table


def folded(name: str, width: int) -> str:
    """The name, indented, in lines that end after a dot or a comma, as far as they are not too long otherwise."""
    lines = ["  "]
    for part in re.split(r"(?<=[. ])", name):
        if lines[-1].strip() and len(lines[-1] + part.rstrip()) > width:
            lines.append("    ")
        lines[-1] += part
    return "\n".join(map(str.rstrip, lines))


# --------------------------------------------------------------------------------------------------------- command line


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Survey Python's standard library; the flow is killed half-way and goes on where it was."
    )
    parser.add_argument("--store", metavar="TARGET", help="a path or a URL: keep it there (else it is temporary)")
    parser.add_argument(
        "--kill-at", type=fraction, default=0.5, metavar="FRACTION", help="kill when so much is done (default: 0.5)"
    )
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="let the first process come to the end")
    parser.add_argument("--limit", type=positive, metavar="N", help="survey the first N modules only")
    parser.add_argument(
        "--pace", type=float, default=0.0, metavar="SECONDS", help="rest in each node, to watch it more slowly"
    )
    # For the process that is started to do the work.
    parser.add_argument("--worker", metavar="FLOW_RUN_ID", help=argparse.SUPPRESS)
    parser.add_argument("--journal", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def fraction(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return value


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main() -> int:
    options = parse()
    if options.worker:
        asyncio.run(work(options))
        return 0
    try:
        from rich.console import Console
    except ImportError:
        print("The demonstration is displayed by the library rich: pip install rich", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="contextstore-survey-") as folder:
        try:
            place = make_store(os.path.join(folder, "survey.db") if options.store is None else options.store)
        except (ContextStoreError, ValueError) as error:  # ValueError: no target is written like that
            print(error, file=sys.stderr)
            return 2
        try:
            return 0 if demonstrate(options, place, folder, Console()) else 1
        except ContextStoreError as error:  # a server that went away meanwhile
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
