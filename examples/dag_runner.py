"""A runner for flows that are DAGs: python examples/dag_runner.py flows.db night-1

Kill it wherever you like (kill -9 will do), start it again: it goes on with the nodes that have no output yet.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from contextstore import AsyncContextStore


class Node(NamedTuple):
    compute: Callable[..., Awaitable[Any]]  # called with the outputs of the nodes that it needs
    needs: tuple[str, ...] = ()


async def run_dag(store: AsyncContextStore, flow_run_id: str, dag: Mapping[str, Node]) -> dict[str, Any]:
    """The outputs of all nodes. Each begins once those that it needs are there; one in the store is not computed."""
    run = store.run(flow_run_id)
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def output_of(name: str) -> Any:
        return await run.step(name, compute, name, [await tasks[needed] for needed in dag[name].needs])

    async def compute(name: str, inputs: list[Any]) -> Any:
        output = await dag[name].compute(*inputs)
        print("computed", name, flush=True)
        return output

    async with asyncio.TaskGroup() as group:
        for name in TopologicalSorter({name: node.needs for name, node in dag.items()}).static_order():
            tasks[name] = group.create_task(output_of(name))
    return {name: tasks[name].result() for name in dag}


async def add(*above: int) -> int:
    return await asyncio.sleep(0.03, sum(above) or 1)  # stands for the work


PASCAL = {  # his triangle: each node adds up the one or two above it
    f"{row}/{place}": Node(add, tuple(f"{row - 1}/{above}" for above in (place - 1, place) if 0 <= above < row))
    for row in range(7)
    for place in range(row + 1)
}


async def main(path: str, flow_run_id: str) -> None:
    async with AsyncContextStore(path) as store:
        print(await run_dag(store, flow_run_id, PASCAL))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("usage: dag_runner.py FILE FLOW_RUN_ID", file=sys.stderr)
        sys.exit(2)
    asyncio.run(main(*sys.argv[1:]))
