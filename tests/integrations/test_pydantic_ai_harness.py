"""The harness's step persistence on a store: what its own store in memory answers, and what an agent leaves there.

The harness pins a pydantic-ai of its own, older than the one that ``ContextStoreDurability`` stands on; these tests run
where it is installed beside it: ``pip install --no-deps pydantic-ai-harness==0.62.0``.
"""

from __future__ import annotations

import datetime
from typing import Any

import pytest

pytest.importorskip("pydantic_ai_harness")

from pydantic_ai import Agent, BinaryContent
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai_harness.step_persistence import (
    ContinuableSnapshot,
    InMemoryStepStore,
    RunRecord,
    StepEvent,
    StepPersistence,
    StepStore,
    ToolEffectRecord,
)

from contextstore import AsyncContextStore
from contextstore.integrations.pydantic_ai_harness import ContextStoreStepStore

from ..support.agents import Script, Tools

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def at(minutes: int) -> datetime.datetime:
    return NOW + datetime.timedelta(minutes=minutes)


async def filled(store: Any) -> dict[str, Any]:
    """What is answered after some of everything was recorded."""
    for number, (conversation, parent) in enumerate([("a", None), ("a", "run-0"), ("b", "run-0"), (None, None)]):
        started = at(10 - number)
        await store.register_run(
            RunRecord(run_id=f"run-{number}", conversation_id=conversation, parent_run_id=parent, started_at=started)
        )
    for kind, key in (
        ("run_started", "1"),
        ("tool_call_started", "2"),
        ("tool_call_started", "2"),
        ("run_failed", None),
    ):
        event = StepEvent(run_id="run-0", kind=kind, step_index=1, timestamp=at(1), error="x", idempotency_key=key)
        await store.append_event(event)
    picture = BinaryContent(bytes(range(256)), media_type="application/pdf")
    messages = [ModelRequest(parts=[UserPromptPart(["look", picture], timestamp=NOW)])]
    for index, state in enumerate(("complete", "complete", "interrupted")):
        key = f"{index}:x" if index else None
        saved = ContinuableSnapshot(
            run_id="run-0", step_index=index, messages=messages, state=state, timestamp=at(index), idempotency_key=key
        )
        await store.save_snapshot(saved)
    await store.save_snapshot(saved)
    for call, statuses in {"c1": ("started", "completed"), "c2": ("started",), "c3": ("started", "failed")}.items():
        for status in statuses:
            await store.record_tool_effect(
                ToolEffectRecord(tool_call_id=call, tool_name="t", run_id="run-0", status=status, started_at=NOW)
            )
    return {
        "runs": await store.list_runs(),
        "of a": await store.list_runs(conversation_id="a"),
        "below": await store.list_runs(parent_run_id="run-0"),
        "both": await store.list_runs(parent_run_id="run-0", conversation_id="b"),
        "run": await store.get_run(run_id="run-1"),
        "no run": await store.get_run(run_id="nobody"),
        "events": await store.list_events(run_id="run-0"),
        "no events": await store.list_events(run_id="nobody"),
        "latest": await store.latest_snapshot(run_id="run-0"),
        "interrupted": await store.latest_snapshot(run_id="run-0", include_interrupted=True),
        "no snapshot": await store.latest_snapshot(run_id="nobody"),
        "snapshots": await store.list_snapshots(run_id="run-0", include_interrupted=True),
        "effect": await store.get_tool_effect(run_id="run-0", tool_call_id="c3"),
        "no effect": await store.get_tool_effect(run_id="run-0", tool_call_id="c4"),
        "unresolved": await store.list_unresolved_tool_effects(run_id="run-0"),
    }


async def test_it_answers_as_the_harnesss_own_store_in_memory(target: str) -> None:
    expected = await filled(InMemoryStepStore())
    async with AsyncContextStore(target) as store:
        assert isinstance(ContextStoreStepStore(store), StepStore)
        found = await filled(ContextStoreStepStore(store))
        for question, answer in expected.items():
            assert found[question] == answer, question
        info = await store.get_run_info("run-0")
        assert info is not None
        assert (info.state, info.error) == ("failed", "x")
    async with AsyncContextStore(target) as store:
        again = ContextStoreStepStore(store.blocking)
        assert await again.latest_snapshot(run_id="run-0") == expected["latest"]


async def test_an_agents_run_is_persisted_and_gone_on_with(target: str) -> None:
    script, tools = Script([("double", {"number": 4})], "eight", "and on"), Tools()
    async with AsyncContextStore(target) as store:
        steps = ContextStoreStepStore(store)
        agent: Agent[None, Any] = Agent(script.model(), name="support", capabilities=[StepPersistence(store=steps)])
        agent.tool_plain(tools.double)
        assert (await agent.run("begin")).output == "eight"
        (record,) = await steps.list_runs()
        kinds = [event.kind for event in await steps.list_events(run_id=record.run_id)]
        assert (kinds[0], kinds[-1]) == ("run_started", "run_completed")
        assert "tool_call_completed" in kinds
        assert await steps.list_unresolved_tool_effects(run_id=record.run_id) == []
        (info,) = await store.list_runs(state="completed")
        assert info.flow_run_id == record.run_id
        snapshot = await steps.latest_snapshot(run_id=record.run_id)
        assert snapshot is not None
        assert (await agent.run("more", message_history=snapshot.messages)).output == "and on"
