"""A graph with everything in it behaves as it does with LangGraph's own saver in memory, step by step."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

from .langgraph_saver import BIG

pytestmark = pytest.mark.filterwarnings("ignore:.*DeltaChannel.*:Warning")

Durability = Literal["sync", "async", "exit"]
CONFIG: Any = {"configurable": {"thread_id": "t"}}


def extended(state: list[Any], writes: Any) -> list[Any]:
    return [*state, *(item for write in writes for item in write)]


class State(TypedDict):
    number: int
    log: Annotated[list[str], operator.add]
    big: str
    deltas: Annotated[list[Any], DeltaChannel(extended, list, snapshot_frequency=4)]


def loop(state: State) -> dict[str, Any]:
    number = state["number"]
    big = {"big": f"{number}{BIG}"} if number % 3 == 0 else {}
    return {"number": number + 1, "log": [f"loop {number}"], "deltas": [number], **big}


def after_loop(state: State) -> Any:
    return [Send("work", {"item": item}) for item in range(3)] if state["number"] == 7 else "loop"


def work(state: Any) -> dict[str, Any]:
    return {"log": [f"work {state['item']}"], "deltas": [f"work {state['item']}"]}


def ask(state: State) -> dict[str, Any]:
    return {"log": [interrupt("why?")]}


def graph_of(saver: Any) -> Any:
    inner = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
    outer = StateGraph(State).add_node("loop", loop).add_node("work", work).add_node("inner", inner)
    outer.add_edge(START, "loop").add_conditional_edges("loop", after_loop, ["loop", "work"])
    outer.add_edge("work", "inner").add_edge("inner", END)
    return outer.compile(checkpointer=saver)


def seen(state: Any) -> Any:
    """What a snapshot says, but for ids and times, which no two runs of a graph share."""
    tasks = [(task.name, [one.value for one in task.interrupts], task.error) for task in state.tasks]
    metadata = {key: value for key, value in (state.metadata or {}).items() if key != "parents"}
    return state.values, state.next, tasks, metadata, state.parent_config is None


def called(saver: Any, durability: Durability) -> list[Any]:
    graph = graph_of(saver)
    story: list[Any] = list(graph.stream({"number": 0, "log": [], "big": ""}, CONFIG, durability=durability))[:7]
    story.append(seen(graph.get_state(CONFIG, subgraphs=True)))
    story.append(graph.invoke(Command(resume="because"), CONFIG, durability=durability))
    history = list(graph.get_state_history(CONFIG))
    story.extend(map(seen, history))
    story.extend(map(seen, graph.get_state_history(CONFIG, filter={"source": "loop"}, limit=3)))
    fork = graph.update_state(history[len(history) // 2].config, {"log": ["fork"], "deltas": ["fork"]})
    story.append(seen(graph.get_state(fork)))
    story.append(graph.invoke(None, history[-1].config, durability=durability)["log"][:7])
    story.append(seen(graph.get_state(CONFIG)))
    return story


async def awaited(saver: Any, durability: Durability) -> list[Any]:
    graph = graph_of(saver)
    start = {"number": 0, "log": [], "big": ""}
    story: list[Any] = [event async for event in graph.astream(start, CONFIG, durability=durability)][:7]
    story.append(seen(await graph.aget_state(CONFIG, subgraphs=True)))
    story.append(await graph.ainvoke(Command(resume="because"), CONFIG, durability=durability))
    history = [state async for state in graph.aget_state_history(CONFIG)]
    story.extend(map(seen, history))
    story.extend([seen(one) async for one in graph.aget_state_history(CONFIG, filter={"source": "loop"}, limit=3)])
    fork = await graph.aupdate_state(history[len(history) // 2].config, {"log": ["fork"], "deltas": ["fork"]})
    story.append(seen(await graph.aget_state(fork)))
    story.append((await graph.ainvoke(None, history[-1].config, durability=durability))["log"][:7])
    story.append(seen(await graph.aget_state(CONFIG)))
    return story


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_called_graph_is_the_same_as_with_the_saver_in_memory(target: str, durability: Durability) -> None:
    with ContextStoreSaver.from_conn_string(target) as saver:
        assert called(saver, durability) == called(InMemorySaver(), durability)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_an_awaited_graph_is_the_same_as_with_the_saver_in_memory(target: str, durability: Durability) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        assert await awaited(saver, durability) == await awaited(InMemorySaver(), durability)


async def test_pruning_changes_nothing_of_what_a_graph_sees_of_its_newest_state(target: str) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        await awaited(saver, "async")
        graph = graph_of(saver)
        before = await graph.aget_state(CONFIG, subgraphs=True)
        await saver.acopy_thread("t", "copy")
        await saver.aprune(["t"])
        assert await graph.aget_state(CONFIG, subgraphs=True) == before
        assert seen(await graph.aget_state({"configurable": {"thread_id": "copy"}})) == seen(before)
        result = await graph.ainvoke(Command(resume="at last"), CONFIG)
        assert result["log"][-1] == "at last"
