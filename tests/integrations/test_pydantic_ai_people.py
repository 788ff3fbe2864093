"""Agents that stream, that wait for people, and whose tools are elsewhere: each of it goes on in another process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, RunContext, ToolApproved, ToolDenied
from pydantic_ai.capabilities import RequestInput
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, UserError
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelResponse,
    PartDeltaEvent,
    TextPart,
)
from pydantic_ai.toolsets import DynamicToolset, FunctionToolset

from contextstore import AlreadyExistsError, AsyncContextStore, ContextStore
from contextstore.integrations.pydantic_ai import (
    ContextStoreDurability,
    fail_external_event,
    resolve_external_event,
)

from ..conftest import new_location
from ..support.agents import Script, Tools, returned
from .test_pydantic_ai_replay import RUN, TWO_TOOLS, agent_of


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.thorough)])
def target(request: pytest.FixtureRequest) -> str:
    """What is asked here is not the engine's to answer."""
    return str(new_location(request.param, request))


class TestStreams:
    async def test_a_handler_gets_each_event_once_however_often_the_run_is_replayed(self, target: str) -> None:
        events: Counter[str] = Counter()

        async def handle(ctx: RunContext[Any], stream: AsyncIterable[AgentStreamEvent]) -> None:
            async for event in stream:
                if isinstance(event, PartDeltaEvent):
                    events["delta"] += 1
                elif isinstance(event, FunctionToolCallEvent | FunctionToolResultEvent):
                    events[f"{event.event_kind} {event.tool_call_id}"] += 1

        script = Script([("double", {"number": 2}), ("shout", {"text": "a"})], "all of it")
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, Tools(), event_stream_handler=handle)
                async with durability.flow_run(RUN) as run:
                    assert (await agent.run("begin")).output == "all of it "
                seen, keys = Counter(events), await run.list_keys()
                assert seen["delta"] > 0
                assert {count for event, count in seen.items() if event != "delta"} == {1}
            assert seen == events
            assert keys == await run.list_keys()
        assert len(events) == 5
        assert script.requests == 2

    async def test_a_streamed_answer_is_streamed_again_from_the_record(self, target: str) -> None:
        script, texts = Script([("double", {"number": 2})], "one two three"), []
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, Tools())
                async with durability.flow_run(RUN), agent.run_stream("begin") as stream:
                    texts.append("".join([text async for text in stream.stream_text(delta=True)]))
        assert texts == ["one two three "] * 2
        assert script.requests == 2

    async def test_a_run_may_be_driven_node_by_node(self, target: str) -> None:
        script, kinds = Script(*TWO_TOOLS), []
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, Tools())
                async with durability.flow_run(RUN), agent.iter("begin") as run:
                    kinds.append([type(node).__name__ async for node in run])
                assert run.result is not None
                assert run.result.output == "all of it"
        assert kinds[0] == kinds[1]
        assert script.requests == 3


class TestPeople:
    async def test_approvals_come_days_later_in_another_process(self, target: str) -> None:
        script, sent = Script([("send", {"to": "all"}), ("send", {"to": "me"}), ("lookup", {})], "sent"), []

        def program(store: AsyncContextStore) -> tuple[Agent[Any, Any], ContextStoreDurability[Any]]:
            agent, durability = agent_of(store, script, output_type=[str, DeferredToolRequests])

            @agent.tool(requires_approval=False)
            async def send(ctx: RunContext[Any], to: str) -> str:
                if to == "all" and not ctx.tool_call_approved:
                    raise ApprovalRequired(metadata={"reason": "many"})
                sent.append(to)
                return f"sent to {to}"

            @agent.tool_plain
            async def lookup() -> str:
                raise CallDeferred

            return agent, durability

        async with AsyncContextStore(target) as store:
            agent, durability = program(store)
            async with durability.flow_run(RUN) as run:
                first = await agent.run("begin")
            assert isinstance(first.output, DeferredToolRequests)
            assert [part.tool_call_id for part in first.output.approvals] == ["call_0_0"]
            assert first.output.metadata == {"call_0_0": {"reason": "many"}}
            info = await run.info()
            assert (info.state, info.attributes) == ("open", {"deferred": 2})
        results = DeferredToolResults(approvals={"call_0_0": ToolApproved()}, calls={"call_0_2": "found"})
        for _ in range(2):
            async with AsyncContextStore(target) as store:
                agent, durability = program(store)
                async with durability.flow_run(RUN) as run:
                    first = await agent.run("begin")
                    second = await agent.run(message_history=first.all_messages(), deferred_tool_results=results)
                info = await run.info()
                assert (info.state, info.attributes) == ("completed", {})
            assert second.output == "sent"
            assert returned(second.all_messages()) == {
                "call_0_0": "sent to all",
                "call_0_1": "sent to me",
                "call_0_2": "found",
            }
        assert sorted(sent) == ["all", "me"]
        assert script.requests == 2

    async def test_what_is_denied_is_not_called(self, target: str) -> None:
        script, tools = Script([("double", {"number": 2})], "not then"), Tools()
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, output_type=[str, DeferredToolRequests])
                agent.tool_plain(requires_approval=True)(tools.double)
                async with durability.flow_run(RUN):
                    first = await agent.run("begin")
                    denied = DeferredToolResults(approvals={"call_0_0": ToolDenied("no")})
                    result = await agent.run(message_history=first.all_messages(), deferred_tool_results=denied)
                assert result.output == "not then"
        assert tools.calls.total() == 0
        assert script.requests == 2


APPROVED = {"approvals": {"call_0_0": {"kind": "tool-approved"}}}
"""The JSON form of DeferredToolResults."""


class TestAnswersFromOutside:
    """The framework's RequestInput: an agent waits in the middle of its run, until somebody answers."""

    def program(
        self, store: AsyncContextStore, asked: list[str], tools: Tools, timeout: timedelta | None = None
    ) -> Any:
        script = Script(
            [("double", {"number": 2})], lambda messages: ModelResponse([TextPart(str(returned(messages)))])
        )
        durability: ContextStoreDurability[Any] = ContextStoreDurability(store)

        def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> None:
            asked.append(token)

        inputs: Any = RequestInput(ask, timeout=timeout)
        agent: Agent[Any, Any] = Agent(script.model(), name="support", capabilities=[durability, inputs])
        agent.tool_plain(requires_approval=True)(tools.double)

        async def run() -> str:
            async with durability.flow_run(RUN):
                return str((await agent.run("begin")).output)

        return run

    async def until(self, asked: list[str], waiting: asyncio.Task[str]) -> str:
        while not asked and not waiting.done():
            await asyncio.sleep(0.01)
        return asked[0]

    async def test_an_answer_from_elsewhere_ends_the_wait(self, target: str) -> None:
        asked: list[str] = []
        tools = Tools()
        async with AsyncContextStore(target) as store, AsyncContextStore(target) as elsewhere:
            run = self.program(store, asked, tools)
            waiting = asyncio.create_task(run())
            token = await self.until(asked, waiting)
            await asyncio.to_thread(resolve_external_event, elsewhere, token, APPROVED)
            assert await waiting == "{'call_0_0': 4}"
            assert await run() == "{'call_0_0': 4}"  # a replay asks nobody
        assert len(asked) == 1
        assert tools.calls == {"double(2)": 1}

    async def test_an_answer_may_come_while_no_process_waits(self, target: str) -> None:
        asked: list[str] = []
        tools = Tools()
        async with AsyncContextStore(target) as store:
            waiting = asyncio.create_task(self.program(store, asked, tools)())
            token = await self.until(asked, waiting)
            await store.wait_for(RUN, "support/answer/deferred_tool_calls/asked")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        with ContextStore(target) as other:
            resolve_external_event(other, token, APPROVED)
            with pytest.raises(AlreadyExistsError):
                fail_external_event(other, token, "too late")
            with pytest.raises(ValueError, match="token"):
                resolve_external_event(other, "nonsense", APPROVED)
        async with AsyncContextStore(target) as store:
            assert await self.program(store, asked, tools)() == "{'call_0_0': 4}"
        assert asked == [token]

    async def test_that_no_answer_will_come_is_told_to_the_model(self, target: str) -> None:
        asked: list[str] = []
        tools = Tools()
        async with AsyncContextStore(target) as store:
            run = self.program(store, asked, tools)
            waiting = asyncio.create_task(run())
            token = await self.until(asked, waiting)
            await asyncio.to_thread(fail_external_event, store, token, "nobody is there")
            assert "nobody is there" in await waiting
            assert "nobody is there" in await run()
        assert tools.calls.total() == 0

    async def test_time_that_has_run_out_stays_run_out(self, target: str) -> None:
        asked: list[str] = []
        tools = Tools()
        async with AsyncContextStore(target) as store:
            run = self.program(store, asked, tools, timeout=timedelta(milliseconds=1))
            assert "No resolution" in await run()
            with pytest.raises(AlreadyExistsError):
                await asyncio.to_thread(resolve_external_event, store, asked[0], APPROVED)
            assert "No resolution" in await run()
        assert tools.calls.total() == 0
        assert len(asked) == 1


class TestToolsets:
    async def test_tools_of_a_mcp_server_are_listed_and_called_once(self, target: str) -> None:
        pytest.importorskip("fastmcp")
        from fastmcp import FastMCP
        from pydantic_ai.mcp import MCPToolset

        calls: Counter[str] = Counter()
        server: Any = FastMCP("tools")

        @server.tool
        async def triple(number: int) -> int:
            calls["triple"] += 1
            return 3 * number

        script = Script([("triple", {"number": 2})], [("triple", {"number": 3})], "done")
        async with AsyncContextStore(target) as store:
            results = []
            for _ in range(2):
                agent, durability = agent_of(store, script, toolsets=[MCPToolset(server, id="mcp")])
                async with durability.flow_run(RUN) as run:
                    results.append(returned((await agent.run("begin")).all_messages()))
            assert "support/001.tools/mcp" in await run.list_keys()
        assert [{call: str(value) for call, value in result.items()} for result in results] == [
            {"call_0_0": "6", "call_1_0": "9"}
        ] * 2
        assert calls == {"triple": 2}
        assert script.requests == 3

    async def test_toolsets_that_are_made_in_the_run_are_recorded(self, target: str) -> None:
        script, tools = Script([("double", {"number": 2})], "done"), Tools()
        async with AsyncContextStore(target) as store:
            for _ in range(2):

                def made(ctx: RunContext[Any]) -> FunctionToolset[Any]:
                    return FunctionToolset([tools.double])

                agent, durability = agent_of(store, script, toolsets=[DynamicToolset(made, id="made")])
                async with durability.flow_run(RUN):
                    assert (await agent.run("begin")).output == "done"
        assert tools.calls == {"double(2)": 1}
        assert script.requests == 2

    async def test_toolsets_of_one_run_alone_are_refused_as_by_other_engines(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, Script("done"))
            with pytest.raises(UserError, match="ContextStore"):
                async with durability.flow_run(RUN):
                    await agent.run("begin", toolsets=[FunctionToolset([Tools().double], id="late")])
