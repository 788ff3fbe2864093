"""Answers from outside that an agent waits for in the middle of a run: a person's, or another system's.

Rules of this module: the question, the answer and its absence are outputs of the flow run. A token says which run and
which node; whoever has the store and the token may answer, from any process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

from pydantic import JsonValue
from pydantic_ai.durable_exec import ExternalEventError, ExternalEventWaiter

from ... import AsyncContextStore, ContextStore
from .scopes import Scope, part


class StoreWaiter(ExternalEventWaiter):
    """Waits for an output of the flow run."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def wait(
        self, name: str, *, ask: Callable[[str], Awaitable[JsonValue]], timeout: timedelta | None
    ) -> JsonValue:
        """Ask once, then wait until somebody answers, or time runs out: each of it recorded."""
        scope, run = self._scope, self._scope.flow.run
        node_id = scope.claim(f"answer/{part(name)}")
        token = f"{quote(run.flow_run_id, safe='')}/{quote(node_id, safe='')}"

        async def asking() -> object:
            return {"asked_at": datetime.now(UTC).isoformat(), "answer": await ask(token)}

        asked, _ = await scope.record(f"{node_id}/asked", asking)
        if asked["answer"] is not None:
            answer: JsonValue = asked["answer"]
            return answer
        remaining = None
        if timeout is not None:
            since = datetime.now(UTC) - datetime.fromisoformat(asked["asked_at"])
            remaining = max(0.0, (timeout - since).total_seconds())
        try:
            outcome: Any = await run.wait_for(node_id, timeout=remaining)
        except TimeoutError:
            await run.put(node_id, {"failed": f"No resolution arrived within {timeout}."}, exist_ok="keep")
            outcome = await run.get(node_id)
        if "failed" in outcome:
            raise ExternalEventError(outcome["failed"])
        answered: JsonValue = outcome["answer"]
        return answered


def resolve_external_event(store: ContextStore | AsyncContextStore, token: str, payload: JsonValue) -> None:
    """Answer what an agent waits for in a flow run: from any process, whether the agent runs just now or not.

    It blocks until the answer is durable, whichever the face of the store.

    Raises:
        AlreadyExistsError: there is an answer already, or the agent has given up waiting.
        ValueError: it is not the token of an agent that waits in a flow run.
    """
    _settle(store, token, {"answer": payload})


def fail_external_event(store: ContextStore | AsyncContextStore, token: str, reason: str) -> None:
    """Say that what an agent waits for will not come. As ``resolve_external_event``."""
    _settle(store, token, {"failed": reason})


def _settle(store: ContextStore | AsyncContextStore, token: str, outcome: dict[str, Any]) -> None:
    flow_run_id, separator, node_id = token.partition("/")
    if not separator or not flow_run_id or not node_id:
        raise ValueError(f"not a token of an agent that waits in a flow run: {token!r}")
    blocking = store if isinstance(store, ContextStore) else store.blocking
    blocking.put(unquote(flow_run_id), unquote(node_id), outcome)
