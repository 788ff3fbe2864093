"""Durable agents of pydantic-ai: ours beside the DBOS engine of the framework itself, and beside none at all.

python -m benchmarks.pydantic_ai
python -m benchmarks.pydantic_ai --rounds 21

Rules of this module: both keep their steps in SQLite and sync each commit. The agent is the same for everybody: three
model requests, of a model that answers at once, and two tool calls between them. DBOS records no function tools by
itself, so that its tools are steps of its own, as its documentation has it. What the framework does itself, without an
engine, is in everybody's time.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import importlib
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from contextstore import AsyncContextStore

from .contestants import Awaited
from .rounds import Size, Times, Work, opened

OURS, THEIRS, NOBODY = "contextstore", "dbos", "no engine"
ALONE, TOGETHER = "one agent", "16 agents at once"
AT_ONCE = {ALONE: 1, TOGETHER: 16}
_numbers = itertools.count()

GOALS = {ALONE: 1.3, TOGETHER: 2.5}
"""How many times as quick as DBOS, at least."""


def _answer(messages: list[Any], info: Any) -> Any:
    """Call the tool, call it again, and say something of a usual length."""
    parts = importlib.import_module("pydantic_ai.messages")
    turn = sum(message.kind == "response" for message in messages)
    if turn == 2:
        return parts.ModelResponse([parts.TextPart("That is what I have found out. " * 6)])
    return parts.ModelResponse([parts.ToolCallPart("look", {"at": f"page {turn}"}, tool_call_id=f"call_{turn}")])


async def _look(at: str) -> str:
    return f"{at}: " + "x" * 190


class NoEngine(Awaited):
    """The framework alone: what is recorded nowhere."""

    name = NOBODY
    needs: str | None = "pydantic_ai"

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        self.agent = self._agent([])

    def _agent(self, capabilities: list[Any], tool: Callable[..., Any] = _look) -> Any:
        function = importlib.import_module("pydantic_ai.models.function")

        # Awaited, so that no thread is in the figures.
        async def model(messages: list[Any], info: Any) -> Any:
            return _answer(messages, info)

        agent = importlib.import_module("pydantic_ai").Agent(
            function.FunctionModel(model), name="benchmark", capabilities=capabilities
        )
        agent.tool_plain(tool, name="look")
        return agent

    async def run(self, run_id: str) -> None:
        await self.agent.run("What is there?")

    async def close(self) -> None:
        pass


class Ours(NoEngine):
    name = OURS

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        self.store = await AsyncContextStore(folder / "store.db", durability="full").__aenter__()
        module = importlib.import_module("contextstore.integrations.pydantic_ai")
        self.durability = module.ContextStoreDurability(self.store)
        self.agent = self._agent([self.durability])

    async def run(self, run_id: str) -> None:
        async with self.durability.flow_run(run_id):
            await self.agent.run("What is there?")

    async def close(self) -> None:
        await self.store.close()


class OnDbos(NoEngine):
    name = THEIRS
    needs = "dbos"

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        self.module = importlib.import_module("dbos")
        self.module.DBOS(config={
            "name": "benchmark", "system_database_url": f"sqlite:///{folder}/dbos.db", "run_admin_server": False,
            "log_level": "ERROR",
        })  # fmt: skip
        engine = importlib.import_module("pydantic_ai.durable_exec.dbos")
        self.agent = self._agent([engine.DBOSDurability()], self.module.DBOS.step(name="look")(_look))

        async def flow() -> str:
            return str((await self.agent.run("What is there?")).output)

        self.workflow = self.module.DBOS.workflow(name="flow")(flow)
        self.module.DBOS.launch()

    async def run(self, run_id: str) -> None:
        with self.module.SetWorkflowID(run_id):
            await self.workflow()

    async def close(self) -> None:
        self.module.DBOS.destroy(destroy_registry=True)
        # It had made its own executor the loop's, and has shut it down.
        asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor())


def _runs(one: Any, at_once: int, groups: int) -> Work:
    """Agents at once, again and again; seconds for each of them. The first group is not counted."""

    async def together() -> None:
        await asyncio.gather(*(one.run(f"run-{next(_numbers):09}") for _ in range(at_once)))

    async def work() -> float:
        await together()
        began = time.perf_counter()
        for _ in range(groups):
            await together()
        return (time.perf_counter() - began) / (groups * at_once)

    return work


def agents(size: Size) -> Times:
    """Each number of agents, by everybody who is installed, in turn."""
    contestants = []
    for one in (NoEngine(), Ours(), OnDbos()):
        with contextlib.suppress(ImportError):
            importlib.import_module(str(one.needs))
            contestants.append(one)
    with opened(contestants, "full") as turns:
        return turns.take(
            {
                f"{one.name}, {what}": _runs(one, at_once, max(1, size.operations // (8 * at_once)))
                for what, at_once in AT_ONCE.items()
                for one in contestants
            },
            size,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    times = agents(Size(parser.parse_args().rounds, 192, 0, 20))
    for who, seconds in times.items():
        print(f"{who:32} {statistics.median(seconds) * 1e3:8.2f} ms an agent")
    for what, goal in GOALS.items():
        if f"{THEIRS}, {what}" in times:
            pairs = zip(times[f"{THEIRS}, {what}"], times[f"{OURS}, {what}"], strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in pairs)
            print(f"{what}: {ratio:.1f} times as quick as DBOS (to be {goal} at least)")


if __name__ == "__main__":
    main()
