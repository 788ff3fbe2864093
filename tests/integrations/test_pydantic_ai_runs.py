"""Flow runs that agents take part in: several agents, many at once, two processes; and the interface it stands on."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

import pydantic_ai.durable_exec
from pydantic_ai import Agent
from pydantic_ai.durable_exec import BaseDurabilityCapability, JournalCallableOperationBackend
from pydantic_ai.exceptions import UserError

from contextstore import AsyncContextStore, ContextStore, LeaseHeldError, LeaseLostError
from contextstore.integrations.pydantic_ai import ContextStoreDurability

from ..support.agents import Script, Tools
from .test_pydantic_ai_replay import RUN, TWO_TOOLS, agent_of


class TestSeveralAgents:
    async def test_steps_of_agents_and_of_their_runs_have_ids_of_their_own(self, target: str) -> None:
        first, second = Script("one"), Script("two")
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, first)
                other, _ = agent_of(store, second, name="a/b#c")
                async with durability.flow_run(RUN) as run:
                    await agent.run("x")
                    await other.run("x")
                    await agent.run("y")
                    await agent.run("z", run_id="named")
            assert await run.list_keys() == [
                "a%2Fb%23c/001.model",
                "support#2/001.model",
                "support(named)/001.model",
                "support/001.model",
            ]
        assert (first.requests, second.requests) == (3, 1)

    async def test_an_agent_that_a_tool_runs_records_its_steps_below_the_tools(self, target: str) -> None:
        outer = Script([("delegate", {"task": "a"}), ("delegate", {"task": "b"})], "done")
        inner, tools, fails = Script([("double", {"number": 1})], "inner"), Tools(), [True]

        def program(store: AsyncContextStore) -> tuple[Agent[Any, Any], ContextStoreDurability[Any]]:
            helper, _ = agent_of(store, inner, tools, name="helper")
            agent, durability = agent_of(store, outer)

            @agent.tool_plain
            async def delegate(task: str) -> str:
                result = await helper.run(task)
                if task == "b" and fails:
                    fails.clear()
                    raise ConnectionError("after all that")
                return str(result.output)

            return agent, durability

        async with AsyncContextStore(target) as store:
            agent, durability = program(store)
            with pytest.raises(ConnectionError):
                async with durability.flow_run(RUN):
                    await agent.run("begin")
            agent, durability = program(store)
            async with durability.flow_run(RUN) as run:
                await agent.run("begin")
            below = "support/001.tool/delegate/call_0_1/helper/"
            assert await run.list_keys(prefix=below) == [
                f"{below}001.model",
                f"{below}001.tool/double/call_0_0",
                f"{below}002.model",
            ]
        # The tool that failed was called again, and what the agent in it had done was not.
        assert (outer.requests, inner.requests) == (2, 4)
        assert tools.calls == {"double(1)": 2}

    async def test_a_blocking_tool_may_run_an_agent_in_its_thread(self, target: str) -> None:
        outer, inner = Script([("delegate", {})], "done"), Script("inner")

        def program(store: AsyncContextStore) -> tuple[Agent[Any, Any], ContextStoreDurability[Any]]:
            helper, _ = agent_of(store, inner, name="helper")
            agent, durability = agent_of(store, outer)

            @agent.tool_plain
            def delegate() -> str:
                return str(asyncio.run(helper.run("begin")).output)

            return agent, durability

        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = program(store)
                async with durability.flow_run(RUN) as run:
                    await agent.run("begin")
            assert "support/001.tool/delegate/call_0_0/helper/001.model" in await run.list_keys()
        assert inner.requests == 1

    async def test_a_flow_run_within_another_is_its_child(self, target: str) -> None:
        script = Script("done")
        async with AsyncContextStore(target) as store:
            agent, durability = agent_of(store, script)
            async with durability.flow_run("outer"), durability.flow_run("inner"):
                await agent.run("begin")
            (child,) = await store.list_runs(parent="outer")
            assert (child.flow_run_id, child.outputs, child.state) == ("inner", 1, "completed")
            assert await store.list_keys("outer") == []

    async def test_steps_of_the_program_itself_stand_beside_the_agents(self, target: str) -> None:
        script, loads = Script("done"), []

        def load(path: str) -> list[int]:
            loads.append(path)
            return [1, 2]

        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script)
                async with durability.flow_run(RUN) as run:
                    rows = await run.step("load", load, "orders.csv")
                    await agent.run(f"sum {rows}")
            assert await run.list_keys() == ["load", "support/001.model"]
        assert loads == ["orders.csv"]

    async def test_an_agent_on_another_store_is_refused(self, target: str) -> None:
        async with AsyncContextStore(target) as store, AsyncContextStore(":memory:") as other:
            _, durability = agent_of(store, Script("done"))
            agent, _ = agent_of(other, Script("done"))
            with pytest.raises(UserError, match="another store"):
                async with durability.flow_run(RUN):
                    await agent.run("begin")

    async def test_both_faces_of_a_store_are_one_store(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            _, durability = agent_of(store.blocking, Script("done"))
            agent, _ = agent_of(store, Script("done"))
            async with durability.flow_run(RUN):
                assert (await agent.run("begin")).output == "done"

    async def test_ids_that_would_be_too_long_are_shortened_and_stay_apart(self, target: str) -> None:
        script, tools = Script("done"), Tools()
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                for ending in ("a", "b"):
                    agent, durability = agent_of(store, script, tools, name="x" * 2000 + ending)
                    async with durability.flow_run(RUN + ending * 900) as run:
                        await agent.run("begin")
                    (node_id,) = await run.list_keys()
                    assert len(node_id) <= 1024
        assert script.requests == 2

    def test_an_agent_needs_a_name(self, target: str) -> None:
        with ContextStore(target) as store, pytest.raises(UserError, match="unique `name`"):
            agent_of(store, Script("done"), name=None)


class TestAtOnce:
    async def test_sixteen_agents_at_once_on_one_store(self, target: str) -> None:
        script, tools = Script(*TWO_TOOLS), Tools()

        async def one(store: AsyncContextStore, number: int) -> str:
            agent, durability = agent_of(store, script, tools)
            async with durability.flow_run(f"job-{number}"):
                return str((await agent.run("begin")).output)

        async with AsyncContextStore(target) as store:
            for _ in range(2):
                assert await asyncio.gather(*(one(store, number) for number in range(16))) == ["all of it"] * 16
            assert {info.state for info in await store.list_runs()} == {"completed"}
            assert [info.outputs for info in await store.list_runs()] == [6] * 16
        assert script.requests == 3 * 16
        assert set(tools.calls.values()) == {16}

    async def test_runs_of_one_agent_at_once_in_one_flow_run_are_told_apart(self, target: str) -> None:
        script, tools = Script(*TWO_TOOLS), Tools()
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script, tools)
                async with durability.flow_run(RUN):
                    results = await asyncio.gather(*(agent.run(f"part {number}") for number in range(5)))
                assert [str(result.all_messages()[0].parts[0].content) for result in results] == [
                    f"part {number}" for number in range(5)
                ]
        assert script.requests == 15

    async def test_two_stores_that_run_the_same_at_once_agree(self, target: str) -> None:
        """Without a lease both may do a step; one result stands, and both go on from that."""
        numbers = iter(range(100))
        script = Script([("draw", {})], "done")
        async with AsyncContextStore(target) as one, AsyncContextStore(target) as other:

            async def program(store: AsyncContextStore) -> Any:
                agent, durability = agent_of(store, script)

                @agent.tool_plain
                async def draw() -> int:
                    return next(numbers)

                async with durability.flow_run(RUN):
                    return (await agent.run("begin")).all_messages()[2].parts[0]

            first, second = await asyncio.gather(program(one), program(other))
            assert first.content == second.content
            assert await one.get(RUN, "support/001.tool/draw/call_0_0") == {
                "result": first.content,
                "kind": "tool_return",
            }

    async def test_a_lease_keeps_others_from_the_run(self, target: str) -> None:
        script, tools = Script(*TWO_TOOLS), Tools()
        async with AsyncContextStore(target) as store, AsyncContextStore(target) as other:
            agent, durability = agent_of(store, script, tools)
            async with store.lease(RUN) as lease:
                with pytest.raises(LeaseHeldError):
                    async with other.lease(RUN, wait=0):
                        pass
                async with durability.flow_run(RUN, lease=lease):
                    await agent.run("begin")
            with pytest.raises(LeaseLostError):
                async with durability.flow_run("another", lease=lease):
                    await agent.run("begin")


class TestInterface:
    def test_the_framework_has_the_interface_that_this_stands_on(self) -> None:
        """As version 2.68 has it: what we call, what calls us, and with what."""
        names = {
            "BaseDurabilityCapability",
            "CapabilityOperationId",
            "DurabilityEngineSpec",
            "DurableOperationId",
            "EventStreamHandlerId",
            "ExternalEventError",
            "ExternalEventWaiter",
            "JSON_CODEC",
            "JournalCallableOperationBackend",
            "ModelRequestId",
            "RoleBasedOperationConfig",
            "ToolsetCallToolId",
            "ToolsetGetInstructionsId",
            "ToolsetGetToolsId",
            "ToolsetValidateToolArgumentsId",
            "conversation_id_from_run_id",
            "external_event_scope",
            "record_durable_unit",
            "replay_scope",
        }
        assert names <= set(pydantic_ai.durable_exec.__all__)
        execute = inspect.signature(JournalCallableOperationBackend.execute)
        assert list(execute.parameters) == ["self", "operation_id", "name", "body", "cache_key", "config"]
        hooks = {
            "in_durable_context",
            "get_durable_operation_backend",
            "get_default_run_id",
            "get_default_conversation_id",
            "get_run_start_time",
            "wrap_run",
        }
        assert {hook for hook in hooks if hasattr(BaseDurabilityCapability, hook)} == hooks

    @pytest.mark.parametrize("missing", ["pydantic_ai", "pydantic_ai.durable_exec"])
    def test_without_it_the_import_says_what_is_needed(self, missing: str) -> None:
        program = f"import sys; sys.modules[{missing!r}] = None; import contextstore.integrations.pydantic_ai"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert "ImportError: contextstore.integrations.pydantic_ai needs pydantic-ai" in ended.stderr
        assert "pip install 'contextstore[pydantic-ai]'" in ended.stderr

    def test_the_store_itself_imports_nothing_of_it(self) -> None:
        program = "import sys, contextstore; assert not {'pydantic_ai', 'contextstore.integrations'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", program], check=True)

    async def test_from_conn_string_makes_and_closes_a_store(self, target: str) -> None:
        script = Script("done")
        async with ContextStoreDurability.from_conn_string(target, name="support", durability="normal") as durability:
            agent: Agent[None, Any] = Agent(script.model(), capabilities=[durability])
            async with durability.flow_run(RUN):
                await agent.run("begin")
        with ContextStoreDurability.from_conn_string(target, name="support") as durability:
            assert isinstance(durability.store, ContextStore)
            assert durability.store.list_keys(RUN) == ["support/001.model"]
        with pytest.raises(Exception, match="closed"):
            durability.store.list_keys(RUN)

    async def test_a_flow_run_is_entered_once(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            _, durability = agent_of(store, Script("done"))
            once = durability.flow_run(RUN)
            async with once:
                pass
            with pytest.raises(RuntimeError, match="entered once"):
                async with once:
                    pass

    async def test_what_a_run_waits_for_its_timeout_counts_from_its_first_beginning(self, target: str) -> None:
        script, seen = Script("done"), Counter[str]()
        async with AsyncContextStore(target) as store:
            for _ in range(2):
                agent, durability = agent_of(store, script)
                async with durability.flow_run(RUN) as run:
                    await agent.run("begin", timeout=1000)
                seen[await run.get("support/began")] += 1
        assert list(seen.values()) == [2]
