"""Attempts of steps, written by the operations that a step commits."""

from __future__ import annotations

import asyncio
from typing import Any

from contextstore import Attempt, ContextStore
from contextstore._engine.operations import Operation, PutOutput
from contextstore._engine.records import Made
from contextstore._engine.run_operations import RecordFailure
from contextstore._values.codec import JSON, Encoded
from contextstore._waiting.threads import run_now

from ..support.doubles import core_of

STARTED = 1_700_000_000_000_000
ENDED = STARTED + 2_000_000


async def commit(store: Any, *operations: Operation) -> list[Any]:
    """One unit, as the store's own calls commit it."""
    committing = core_of(store)._session.commit(list(operations))
    if isinstance(getattr(store, "plain", store), ContextStore):
        results: list[Any] = await asyncio.to_thread(run_now, committing)
        return results
    return list(await committing)


def success(node_id: str, value: bytes = b"1", *, run: str = "run", inputs: str | None = None) -> PutOutput:
    return PutOutput(run, node_id, Encoded(JSON, value), False, made=Made(None, STARTED, inputs))


def failure(
    node_id: str, error: str = "ValueError: no", *, run: str = "run", inputs: str | None = None
) -> RecordFailure:
    return RecordFailure(run, node_id, STARTED, ENDED, error, inputs)


def in_short(attempts: list[Attempt]) -> list[tuple[str, int, str | None]]:
    return [(attempt.node_id, attempt.number, attempt.error) for attempt in attempts]
