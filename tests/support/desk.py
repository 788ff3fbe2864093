"""A writer on the fake engine, and those who put something there."""

from __future__ import annotations

import asyncio
from typing import Any

from contextstore._dispatch.writer import Writer
from contextstore._engine.operations import Operation, PutOutput
from contextstore._values.codec import JSON, Encoded

from .fake_engine import FakeEngine, spawn, task_callers, turns


def put(node_id: str, value: bytes = b"1", *, run: str = "run", exist_ok: bool = False) -> PutOutput:
    return PutOutput(run, node_id, Encoded(JSON, value), exist_ok)


class Desk:
    """A writer on the fake engine, with what it has told others of its commits."""

    def __init__(self, engine: FakeEngine, timeout: float = 5.0) -> None:
        self.engine = engine
        self.told: list[list[Operation]] = []
        self.callers = task_callers(engine, timeout)
        self.writer = Writer(engine, [self.told.append], timeout)

    async def submit(self, *units: Any) -> list[asyncio.Future[list[Any]]]:
        """Have as many callers put these, each as a unit: an operation, or a list of some."""
        tasks = spawn(*(self.writer.commit(unit if isinstance(unit, list) else [unit], self.callers) for unit in units))
        await turns(1)
        return tasks

    def nodes(self) -> list[list[str]]:
        """Who committed with whom, by the nodes of their puts."""
        return [[operation.node_id for unit in group for operation in unit] for group in self.engine.groups]  # type: ignore[union-attr]
