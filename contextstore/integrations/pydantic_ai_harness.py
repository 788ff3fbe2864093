"""Step persistence of pydantic-ai's harness, kept in a store: its ``StepStore``. Needs ``pydantic-ai-harness``.

    from contextstore import AsyncContextStore
    from contextstore.integrations.pydantic_ai_harness import ContextStoreStepStore
    from pydantic_ai_harness.step_persistence import StepPersistence

    store = AsyncContextStore("flows.db")
    agent = Agent("openai:gpt-5.2", capabilities=[StepPersistence(store=ContextStoreStepStore(store))])

Rules of this module: a run of the harness is a flow run of its own id. Its record and the newest word on each tool call
are state values, since they change; events and snapshots are appended, each under its idempotency key. What is recorded
is the framework's own JSON of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

try:
    from pydantic import TypeAdapter
    from pydantic_ai.messages import ModelMessagesTypeAdapter
    from pydantic_ai_harness.step_persistence import ContinuableSnapshot, RunRecord, StepEvent, ToolEffectRecord
except ImportError as error:
    raise ImportError(
        "contextstore.integrations.pydantic_ai_harness needs the harness of pydantic-ai, 0.62: "
        "pip install pydantic-ai-harness==0.62.0"
    ) from error

from .. import AsyncContextStore, AsyncFlowRun, ContextStore

__all__ = ["ContextStoreStepStore"]

RunState = Literal["open", "completed", "failed"]

_RUN, _TOOL, _EVENT, _SNAPSHOT = "harness/run", "harness/tool/", "harness/event/", "harness/snapshot/"
_CONVERSATION, _PARENT = "conversation_id", "parent_run_id"
_STATES: dict[str, RunState] = {"run_started": "open", "run_completed": "completed", "run_failed": "failed"}
_PAGE = 100

_runs: TypeAdapter[RunRecord] = TypeAdapter(RunRecord)
_effects: TypeAdapter[ToolEffectRecord] = TypeAdapter(ToolEffectRecord)
_events: TypeAdapter[StepEvent] = TypeAdapter(StepEvent)
_snapshots: TypeAdapter[ContinuableSnapshot] = TypeAdapter(ContinuableSnapshot)


def _snapshot_of(value: dict[str, Any]) -> ContinuableSnapshot:
    messages = ModelMessagesTypeAdapter.validate_python(value["messages"])
    return replace(_snapshots.validate_python(value | {"messages": []}), messages=messages)


class ContextStoreStepStore:
    """A ``StepStore``: events, snapshots to go on from, and the ledger of tool calls, of any number of runs.

    It takes an open store of either face, and never closes it.
    """

    def __init__(self, store: ContextStore | AsyncContextStore) -> None:
        self._store = store if isinstance(store, AsyncContextStore) else store.awaitable

    def _run(self, run_id: str) -> AsyncFlowRun:
        return self._store.run(run_id)

    async def register_run(self, record: RunRecord) -> None:
        """Keep the record; a later one of the run takes its place."""
        run = self._run(record.run_id)
        attributes = {_CONVERSATION: record.conversation_id, _PARENT: record.parent_run_id, "agent": record.agent_name}
        await run.update(attributes=attributes)
        await run.upsert_state(_RUN, _runs.dump_python(record, mode="json"))

    async def get_run(self, *, run_id: str) -> RunRecord | None:
        """The record of the run, if it was registered."""
        recorded = await self._run(run_id).get_state(_RUN)
        return None if recorded is None else _runs.validate_python(recorded)

    async def list_runs(
        self, *, parent_run_id: str | None = None, conversation_id: str | None = None
    ) -> list[RunRecord]:
        """The records that fit, the one that began first at first."""
        wanted = {_PARENT: parent_run_id, _CONVERSATION: conversation_id}
        attributes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        records: list[RunRecord] = []
        after: str | None = None
        while True:
            page = await self._store.list_runs(
                attributes=attributes or None, after=after, limit=_PAGE, oldest_first=True
            )
            found = [await self.get_run(run_id=info.flow_run_id) for info in page]
            records += [record for record in found if record is not None]
            if len(page) < _PAGE:
                return sorted(records, key=lambda record: record.started_at)
            after = page[-1].flow_run_id

    async def append_event(self, event: StepEvent) -> None:
        """Keep the event, and what it says of the run's state; one of the same idempotency key is a retry."""
        await self._append(event.run_id, _EVENT, _events.dump_python(event, mode="json"), event.idempotency_key)
        if (state := _STATES.get(event.kind)) is not None:
            await self._run(event.run_id).update(state=state, error=event.error or "")

    async def list_events(self, *, run_id: str) -> list[StepEvent]:
        """The events of the run, as they came."""
        recorded = self._run(run_id).iter_outputs(prefix=_EVENT)
        return [_events.validate_python(output.value) async for output in recorded]

    async def save_snapshot(self, snapshot: ContinuableSnapshot) -> None:
        """Keep the snapshot; one of the same idempotency key is a retry."""
        value = _snapshots.dump_python(replace(snapshot, messages=[]), mode="json")
        value["messages"] = ModelMessagesTypeAdapter.dump_python(snapshot.messages, mode="json")
        await self._append(snapshot.run_id, _SNAPSHOT, value, snapshot.idempotency_key)

    async def latest_snapshot(self, *, run_id: str, include_interrupted: bool = False) -> ContinuableSnapshot | None:
        """The newest one that is complete, or whatever is newest."""
        async for output in self._run(run_id).iter_outputs(prefix=_SNAPSHOT, reverse=True):
            if include_interrupted or output.value["state"] == "complete":
                return _snapshot_of(output.value)
        return None

    async def list_snapshots(self, *, run_id: str, include_interrupted: bool = False) -> list[ContinuableSnapshot]:
        """The snapshots of the run, as they were saved. (For its search of conversations.)"""
        recorded = self._run(run_id).iter_outputs(prefix=_SNAPSHOT)
        return [
            _snapshot_of(output.value)
            async for output in recorded
            if include_interrupted or output.value["state"] == "complete"
        ]

    async def record_tool_effect(self, record: ToolEffectRecord) -> None:
        """Keep the newest word on a tool call."""
        value = _effects.dump_python(record, mode="json")
        await self._run(record.run_id).upsert_state(f"{_TOOL}{record.tool_call_id}", value)

    async def get_tool_effect(self, *, run_id: str, tool_call_id: str) -> ToolEffectRecord | None:
        """The newest word on a tool call, if there is one."""
        recorded = await self._run(run_id).get_state(f"{_TOOL}{tool_call_id}")
        return None if recorded is None else _effects.validate_python(recorded)

    async def list_unresolved_tool_effects(self, *, run_id: str) -> list[ToolEffectRecord]:
        """The tool calls that were begun, and of which no end is known."""
        entries = await self._run(run_id).list_state(_TOOL)
        records = [_effects.validate_python(entry.value) for entry in entries]
        return [record for record in records if record.status == "started"]

    async def _append(self, run_id: str, prefix: str, value: Any, key: str | None) -> None:
        await self._run(run_id).append(prefix, value, key=key)
