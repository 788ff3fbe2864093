"""The flow: its nodes, and how they are run so that whoever comes after a killed process goes on where it was.

Rules of this module: it works on the store's public calls alone, in plain asyncio, and knows nothing of who kills or
watches it. ``run_flow`` is what a program of your own would take over.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TypeVar

from contextstore import AsyncContextStore

from .findings import Report, Totals, deepest_nesting, import_cycles, longest_functions, most_imported, totals
from .measure import Module, Ranked, highest, measure

T = TypeVar("T")

CONCURRENCY = 8
"""So many nodes are in work at once; those that are written at the same time share a commit."""

PROCESSES = "processes"
"""The state value of the run that lists the processes that have worked at it."""

_parser = ThreadPoolExecutor(max_workers=1)
"""One thread: several that parse at once may find each other's depth of recursion, and CPython 3.11 raises then."""


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
        return await asyncio.get_running_loop().run_in_executor(_parser, measure, name, library[name], library.keys())

    async def combine(
        function: Callable[[Mapping[str, Module]], object], names: Collection[str], outputs: Outputs
    ) -> object:
        return function(await outputs.read_modules(names))

    def add_combining(node_id: str, function: Callable[[Mapping[str, Module]], object], names: Collection[str]) -> None:
        nodes[node_id] = Node([f"module/{name}" for name in names], functools.partial(combine, function, names))

    async def compute_report(outputs: Outputs) -> Report:
        sizes = [Ranked(package, (await outputs.read(f"package/{package}", Totals)).lines) for package in packages]
        return Report(
            totals=await outputs.read("survey/totals", Totals),
            largest_packages=highest(sizes, 5),
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


async def run_flow(
    store: AsyncContextStore,
    flow_run_id: str,
    nodes: Mapping[str, Node],
    journal: Journal,
    pace: float = 0.0,
) -> None:
    """Bring the run to its end: every node is a step, called after those that it builds on.

    That is all there is to resuming, too: a step that an earlier process has recorded is not computed again.
    """
    run = store.run(flow_run_id)
    await run.begin(attributes={"flow": "survey", "nodes": len(nodes)})
    await run.update_state(PROCESSES, lambda pids: [*pids, os.getpid()], [])
    outputs = Outputs(store, flow_run_id)
    order = TopologicalSorter({node_id: node.after for node_id, node in nodes.items()})
    order.prepare()
    slots = asyncio.Semaphore(CONCURRENCY)

    async def compute(node_id: str) -> object:
        journal.note("began", node_id)
        output = await nodes[node_id].compute(outputs)
        await asyncio.sleep(pace)
        return output

    async def run_node(node_id: str) -> None:
        async with slots:
            await run.step(node_id, compute, node_id)
        # What follows begins only now: the output is durable.
        journal.note("completed", node_id)
        order.done(node_id)
        start_ready()

    def start_ready() -> None:
        while ready := order.get_ready():
            for node_id in ready:
                group.create_task(run_node(node_id))

    async with asyncio.TaskGroup() as group:
        start_ready()
    await run.update(state="completed")
