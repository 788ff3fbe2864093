"""An agent that is run again under its flow run's id takes from there what was recorded, and does the rest."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import os
from typing import Any

import pytest
from pydantic import BaseModel

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, BinaryContent, ModelRetry, RunContext, ToolReturn
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_ai.messages import FilePart, ModelMessage, ModelResponse, TextPart, ToolReturnPart
from pydantic_ai.models.test import TestModel

from contextstore import AsyncContextStore, ContextStore, InputsChangedError
from contextstore.integrations.pydantic_ai import ContextStoreDurability

from ..conftest import new_location
from ..support.agents import Script, Tools, returned

RUN = "ticket-17"


@dataclasses.dataclass
class Deps:
    connection: object


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.thorough)])
def target(request: pytest.FixtureRequest) -> str:
    """What is asked here is not the engine's to answer."""
    return str(new_location(request.param, request))


def agent_of(
    store: AsyncContextStore | ContextStore, script: Script, tools: Tools | None = None, **options: Any
) -> tuple[Agent[Any, Any], ContextStoreDurability[Any]]:
    """An agent that follows the script, made anew as a process that begins makes it."""
    settings = {name: options.pop(name) for name in ("check_inputs", "event_stream_handler") if name in options}
    durability: ContextStoreDurability[Any] = ContextStoreDurability(store, **settings)
    agent: Agent[Any, Any] = Agent(script.model(), **{"name": "support", "capabilities": [durability]} | options)
    if tools is not None:
        agent.tool_plain(tools.double)
        agent.tool_plain(tools.shout)
    return agent, durability


TWO_TOOLS = ([("double", {"number": 21})], [("shout", {"text": "done"}), ("double", {"number": 4})], "all of it")


class TestReplays:
    async def test_a_completed_run_returns_its_result_without_a_call(self, target: str) -> None:
        script, tools = Script(*TWO_TOOLS), Tools()
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script, tools)
            async with durability.flow_run(RUN):
                first = await agent.run("begin")
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script, tools)
            async with durability.flow_run(RUN):
                again = await agent.run("begin")
        assert first.output == again.output == "all of it"
        assert script.requests == 3
        assert tools.calls == {"double(21)": 1, "shout(done)": 1, "double(4)": 1}

    async def test_a_replay_counts_usage_once(self, target: str) -> None:
        script = Script(*TWO_TOOLS)
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script, Tools())
            plain = await agent.run("begin")
            results = []
            for _ in range(2):
                async with durability.flow_run(RUN):
                    results.append(await agent.run("begin"))
        assert [result.usage for result in results] == [plain.usage, plain.usage]

    async def test_a_replay_has_the_messages_and_ids_of_the_first_run(self, target: str) -> None:
        script = Script(*TWO_TOOLS)
        runs: list[list[ModelMessage]] = []
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, Tools())
                async with durability.flow_run(RUN):
                    runs.append((await agent.run("begin")).all_messages())
        first, again = runs
        assert [m for m in first if isinstance(m, ModelResponse)] == [m for m in again if isinstance(m, ModelResponse)]
        assert returned(first) == returned(again) == {"call_0_0": 42, "call_1_0": "DONE", "call_1_1": 8}
        assert {(m.run_id, m.conversation_id) for m in first} == {(m.run_id, m.conversation_id) for m in again}
        assert {m.run_id for m in first} == {f"{RUN}:support"}

    def test_blocking_code_runs_agents_as_well(self, target: str) -> None:
        script, tools = Script(*TWO_TOOLS), Tools()
        for _ in range(2):
            # run_sync takes the thread's loop, and would leave one that it makes unclosed.
            with asyncio.Runner() as runner, ContextStore(target) as store:
                runner.get_loop()
                agent, durability = agent_of(store, script, tools)
                with durability.flow_run(RUN) as run:
                    assert agent.run_sync("begin").output == "all of it"
                assert run.info().state == "completed"
        assert script.requests == 3
        assert tools.calls.total() == 3

    async def test_outside_of_a_flow_run_nothing_is_recorded(self, target: str) -> None:
        script = Script(*TWO_TOOLS)
        async with AsyncContextStore(target) as store:
            agent, _ = agent_of(store, script, Tools())
            for _ in range(2):
                assert (await agent.run("begin")).output == "all of it"
            assert await store.list_runs() == []
        assert script.requests == 6

    async def test_a_structured_output_comes_back_as_its_type(self, target: str) -> None:
        class Order(BaseModel):
            number: int
            due: datetime.date

        script = Script([("final_result", {"number": 7, "due": "2026-03-01"})])
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, output_type=Order)
                async with durability.flow_run(RUN):
                    assert (await agent.run("begin")).output == Order(number=7, due=datetime.date(2026, 3, 1))
        assert script.requests == 1

    async def test_binary_content_comes_back_exactly(self, target: str) -> None:
        picture = os.urandom(5000)

        def draws(messages: list[ModelMessage]) -> ModelResponse:
            return ModelResponse(parts=[FilePart(BinaryContent(picture, media_type="image/png")), TextPart("there")])

        script = Script([("load", {})], draws)
        seen = []
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script)

                @agent.tool_plain
                def load() -> ToolReturn:
                    return ToolReturn(
                        "here", content=[BinaryContent(picture, media_type="image/png")], metadata={"n": 1}
                    )

                async with durability.flow_run(RUN):
                    result = await agent.run(["look", BinaryContent(picture[:100], media_type="image/png")])
                seen.append(result)
            record = await store.get(RUN, "support/002.model")
        for result in seen:
            assert [image.data for image in result.response.images] == [picture]
            (tool_return,) = [
                part for m in result.all_messages() for part in m.parts if isinstance(part, ToolReturnPart)
            ]
            assert tool_return.metadata == {"n": 1}
        assert base64.urlsafe_b64decode(record["parts"][0]["content"]["data"]) == picture
        assert script.requests == 2

    async def test_what_no_json_of_the_store_can_hold_is_recorded_all_the_same(self, target: str) -> None:
        script, calls = Script([("measure", {})], "measured"), []
        async with AsyncContextStore(target) as store:
            results = []
            for _ in range(2):
                agent, durability = agent_of(store, script)

                @agent.tool_plain
                def measure() -> dict[str, Any]:
                    calls.append(1)
                    return {"grains": 2**70, "text": "ä"}

                async with durability.flow_run(RUN):
                    results.append(returned((await agent.run("begin")).all_messages()))
        assert results == [{"call_0_0": {"grains": 2**70, "text": "ä"}}] * 2
        assert calls == [1]

    async def test_deps_are_not_recorded_and_are_those_of_each_process(self, target: str) -> None:
        script, seen = Script([("ask", {})], "asked"), []
        async with AsyncContextStore(target) as store:
            for process in range(2):
                agent, durability = agent_of(store, script, deps_type=Deps)

                @agent.tool
                def ask(ctx: RunContext[Deps]) -> str:
                    seen.append(ctx.deps.connection)
                    if len(seen) == 1:
                        raise ConnectionError("gone")
                    return "answer"

                try:
                    async with durability.flow_run(RUN):
                        await agent.run("begin", deps=Deps(connection := object()))
                except ConnectionError:
                    assert process == 0
                assert seen[-1] is connection
        assert len(seen) == 2
        assert script.requests == 2

    async def test_a_history_may_go_on_in_a_flow_run_of_its_own(self, target: str) -> None:
        script = Script("first", "second")
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script)
                async with durability.flow_run("turn-1"):
                    history = (await agent.run("one")).all_messages()
                async with durability.flow_run("turn-2"):
                    result = await agent.run("two", message_history=history)
                assert result.output == "second"
                assert len(result.all_messages()) == 4
        assert script.requests == 2


class TestFailures:
    async def test_a_failed_request_is_an_attempt_and_the_next_run_goes_on_there(self, target: str) -> None:
        script, tools = Script([("double", {"number": 1})], ModelHTTPError(503, "script", "overloaded")), Tools()
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script, tools)
            with pytest.raises(ModelHTTPError):
                async with durability.flow_run(RUN):
                    await agent.run("begin")
            info = await store.get_run_info(RUN)
            assert info is not None
            assert (info.state, info.failures) == ("failed", 1)
            assert (info.error or "").startswith("ModelHTTPError: status_code: 503")
            script.turns = ([("double", {"number": 1})], "after all")
            async with durability.flow_run(RUN) as run:
                assert (await run.info()).state == "open"
                assert (await agent.run("begin")).output == "after all"
            attempts = await run.attempts("support/002.model")
            assert [(attempt.number, attempt.error is None) for attempt in attempts] == [(1, False), (2, True)]
            info = await run.info()
            assert (info.state, info.error) == ("completed", None)
        assert script.requests == 3
        assert tools.calls == {"double(1)": 1}

    async def test_a_model_retry_is_no_failure_and_is_not_asked_again(self, target: str) -> None:
        script, calls = Script([("guess", {"number": 1})], [("guess", {"number": 2})], "found"), []
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script)

                @agent.tool_plain(retries=3)
                def guess(number: int) -> str:
                    calls.append(number)
                    if number == 1:
                        raise ModelRetry("higher")
                    return "yes"

                async with durability.flow_run(RUN) as run:
                    result = await agent.run("begin")
                assert "higher" in str(result.all_messages()[2])
                info = await run.info()
                assert (info.failures, info.state) == (0, "completed")
        assert calls == [1, 2]
        assert script.requests == 3

    async def test_a_failure_that_the_run_went_on_from_is_raised_again_on_replay(self, target: str) -> None:
        from pydantic_ai.capabilities import ModelFallback

        overloaded = ModelHTTPError(503, "script", "overloaded")
        first, second = Script(overloaded, overloaded), Script([("double", {"number": 1})], "done")
        tools = Tools()

        def program(store: AsyncContextStore) -> tuple[Agent[Any, Any], ContextStoreDurability[Any]]:
            backup = second.model()
            durability: ContextStoreDurability[Any] = ContextStoreDurability(store, models={"backup": backup})
            agent: Agent[Any, Any] = Agent(
                first.model(), name="support", capabilities=[durability, ModelFallback("backup")]
            )
            agent.tool_plain(tools.double)
            return agent, durability

        async with AsyncContextStore(target) as store:
            agent, durability = program(store)
            async with durability.flow_run(RUN):
                await agent.run("begin")
            asked = first.requests
            first.turns = ("another way", "and another")
            agent, durability = program(store)
            async with durability.flow_run(RUN):
                assert (await agent.run("begin")).output == "done"
        assert first.requests == asked
        assert second.requests == 2
        assert tools.calls == {"double(1)": 1}

    async def test_a_cancelled_run_stays_open(self, target: str) -> None:
        script = Script([("hang", {})], "done")
        began = asyncio.Event()
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script)

            @agent.tool_plain
            async def hang() -> str:
                began.set()
                await asyncio.Event().wait()
                return ""

            async def program() -> None:
                async with durability.flow_run(RUN):
                    await agent.run("begin")

            task = asyncio.create_task(program())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            info = await store.get_run_info(RUN)
            assert info is not None
            assert (info.state, info.failures, info.outputs) == ("open", 0, 1)

    async def test_who_says_another_state_meanwhile_has_the_last_word(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, Script("done"))
            async with durability.flow_run(RUN) as run:
                await agent.run("begin")
                await store.run(RUN).update(state="cancelled")
            assert (await run.info()).state == "cancelled"


class TestInputs:
    async def test_another_prompt_is_refused(self, target: str) -> None:
        script = Script("done")
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script)
            async with durability.flow_run(RUN):
                await agent.run("begin")
            with pytest.raises(InputsChangedError) as raised:
                async with durability.flow_run(RUN):
                    await agent.run("something else")
            assert (raised.value.flow_run_id, raised.value.node_id) == (RUN, "support/001.model")
            agent, durability = agent_of(store, script, check_inputs=False)
            async with durability.flow_run(RUN):
                assert (await agent.run("something else")).output == "done"
        assert script.requests == 1

    async def test_other_arguments_are_refused(self, target: str) -> None:
        """The tool's own code makes them other ones, on their way in."""
        script = Script([("double", {"number": 1})], "done")
        async with AsyncContextStore(target) as store:
            for process in range(2):
                agent, durability = agent_of(store, script)

                class Number(BaseModel):
                    value: int = 0

                @agent.tool_plain
                def double(number: int, extra: int = process) -> int:
                    return number + extra

                if process == 0:
                    async with durability.flow_run(RUN):
                        await agent.run("begin")
                    continue
                with pytest.raises(InputsChangedError, match="call_0_0"):
                    async with durability.flow_run(RUN):
                        await agent.run("begin")

    async def test_instructions_and_descriptions_of_tools_may_change(self, target: str) -> None:
        script = Script([("look", {})], "done")
        async with AsyncContextStore(target) as store:
            for process in range(2):
                agent, durability = agent_of(
                    store, script, instructions=f"It is day {process}.", system_prompt=f"{process}"
                )

                @agent.tool_plain(description=f"version {process}")
                def look() -> str:
                    return "seen"

                async with durability.flow_run(RUN):
                    assert (await agent.run("begin")).output == "done"
        assert script.requests == 2

    async def test_a_tool_may_opt_out_and_is_called_on_each_replay(self, target: str) -> None:
        script, calls = Script([("look", {})], "done"), []
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script)

                @agent.tool_plain(metadata={"contextstore": False})
                def look() -> str:
                    calls.append(1)
                    return "seen"

                async with durability.flow_run(RUN) as run:
                    await agent.run("begin")
            assert await run.list_keys() == ["support/001.model", "support/002.model"]
        assert calls == [1, 1]

    async def test_what_is_no_opting_out_is_refused(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, Script([("look", {})], "done"))

            @agent.tool_plain(metadata={"contextstore": {"retries": 3}})
            def look() -> str:
                return "seen"

            with pytest.raises(UserError, match="can be False alone"):
                async with durability.flow_run(RUN):
                    await agent.run("begin")


class TestTestModel:
    async def test_the_frameworks_own_test_model_calls_each_tool_once(self, target: str) -> None:
        tools = Tools()
        async with AsyncContextStore(target) as store:
            outputs = []
            for _ in range(2):
                durability: ContextStoreDurability[None] = ContextStoreDurability(store)
                agent = Agent(TestModel(), name="support", capabilities=[durability], tools=[tools.double, tools.shout])
                async with durability.flow_run(RUN):
                    outputs.append((await agent.run("begin")).output)
        assert outputs == ['{"double":0,"shout":"A"}'] * 2
        assert tools.calls == {"double(0)": 1, "shout(a)": 1}
