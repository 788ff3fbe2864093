"""A LangGraph graph with all that is awkward for a saver, and a process that runs it on until its end, or its own.

It loops; each round fans out by ``Send``, goes through a subgraph that interrupts itself to ask, and goes on with the
answer. Every node tells of itself outside of the store: a line in a file that it appends to, before it does anything.
What the saver acknowledged is noted in the same file, so that the lines say what had been completed when a process
died. Run as a program this is the nursery of the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import operator
import os
import pathlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, StateSnapshot, interrupt

from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

from ..torture import nursery

ROUNDS, WIDTH = 3, 4
THREAD = "thread"
Note = Callable[..., None]
Durability = Literal["sync", "async"]


class State(TypedDict, total=False):
    round: int
    found: Annotated[list[str], operator.add]
    verdict: str
    verdicts: Annotated[list[str], operator.add]


class Item(TypedDict):
    round: int
    number: int


class Review(TypedDict, total=False):
    round: int
    found: list[str]
    draft: str
    verdict: str


class Verdict(TypedDict):
    verdict: str


def plan(state: State) -> State:
    return {"round": state.get("round", 0) + 1}


def search(item: Item) -> State:
    return {"found": [f"{item['round']}.{item['number']}"]}


def draft(state: Review) -> Review:
    return {"draft": " ".join(state["found"])}


def ask(state: Review) -> Verdict:
    return {"verdict": interrupt({"round": state["round"], "draft": state["draft"]})}


def record(state: State) -> State:
    return {"verdicts": [state["verdict"]]}


def fan_out(state: State) -> list[Send]:
    return [Send("search", Item(round=state["round"], number=number)) for number in range(WIDTH)]


def go_on(state: State) -> str:
    return "plan" if state["round"] < ROUNDS else END


def answer_to(question: Any) -> str:
    return f"yes to round {question['round']}"


def built(saver: BaseCheckpointSaver[Any], face: str, note: Note) -> Any:
    """The graph, of coroutine functions or plain ones."""

    def told(function: Callable[[Any], Any]) -> Callable[..., Any]:
        """It tells that it has begun, and takes long enough to be killed in the middle."""

        def begun(state: Any, config: RunnableConfig) -> None:
            task = config["metadata"]["langgraph_checkpoint_ns"].rpartition(":")[2]
            name = f"{function.__name__} {state.get('round', 0)} {state.get('number', '')}".strip()
            note("began", task, name)

        @functools.wraps(function)
        def plain(state: Any, config: RunnableConfig) -> Any:
            begun(state, config)
            time.sleep(0.001)
            return function(state)

        @functools.wraps(function)
        async def coroutine(state: Any, config: RunnableConfig) -> Any:
            begun(state, config)
            await asyncio.sleep(0.001)
            return function(state)

        chosen = coroutine if face == "async" else plain
        del chosen.__wrapped__  # its parameters are its own
        return chosen

    review = StateGraph(Review, output_schema=Verdict)
    for node in (draft, ask):
        review.add_node(node.__name__, told(node))
    review.add_edge(START, "draft")
    review.add_edge("draft", "ask")

    graph = StateGraph(State)
    for node in (plan, search, record):
        graph.add_node(node.__name__, told(node))
    graph.add_node("review", review.compile())
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", fan_out, ["search"])
    graph.add_edge("search", "review")
    graph.add_edge("review", "record")
    graph.add_conditional_edges("record", go_on, ["plan", END])
    return graph.compile(checkpointer=saver)


# ---------------------------------------------------------------------------------------------------- savers that tell


def _has_completed(writes: Sequence[tuple[str, Any]]) -> bool:
    """Whether a node has, and has not just interrupted itself."""
    return any(channel not in WRITES_IDX_MAP for channel, _ in writes)


class TellingAsync(AsyncContextStoreSaver):
    note: Note
    forgets = False
    """The planted fault: it acknowledges what nodes have written, and does not store it."""

    async def aput(self, *arguments: Any) -> RunnableConfig:
        config = await super().aput(*arguments)
        self.note("saved", config["configurable"]["checkpoint_id"])
        return config

    async def aput_writes(self, config: RunnableConfig, writes: Any, task_id: str, task_path: str = "") -> None:
        if not (self.forgets and _has_completed(writes)):
            await super().aput_writes(config, writes, task_id, task_path)
        if _has_completed(writes):
            self.note("wrote", task_id, config["configurable"]["checkpoint_id"])


class Telling(ContextStoreSaver):
    note: Note

    def put(self, *arguments: Any) -> RunnableConfig:
        config = super().put(*arguments)
        self.note("saved", config["configurable"]["checkpoint_id"])
        return config

    def put_writes(self, config: RunnableConfig, writes: Any, task_id: str, task_path: str = "") -> None:
        super().put_writes(config, writes, task_id, task_path)
        if _has_completed(writes):
            self.note("wrote", task_id, config["configurable"]["checkpoint_id"])


# -------------------------------------------------------------------------------------------------------- running it


def config_of(thread: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 100}


def next_input(state: StateSnapshot) -> Any:
    """What a program that does not know how far the last one came gives to the graph. None is "go on"."""
    if state.created_at is None:
        return {"round": 0}
    if state.interrupts:
        return Command(resume={one.id: answer_to(one.value) for one in state.interrupts})
    return None


# A snapshot without `next` need not be the end: a node whose writes are there, but not the checkpoint that takes them
# in, is no longer in it. So each life goes on once at least; a graph at its end has nothing to do then.


async def go_to_the_end(graph: Any, thread: str, durability: Durability) -> AsyncIterator[tuple[str, Any]]:
    config = config_of(thread)
    asks = True
    while asks:
        given = next_input(await graph.aget_state(config))
        async for part in graph.astream(given, config, stream_mode=["updates", "values"], durability=durability):
            yield part
        asks = bool((await graph.aget_state(config)).interrupts)


def go_to_the_end_blocking(graph: Any, thread: str, durability: Durability) -> Iterator[tuple[str, Any]]:
    config = config_of(thread)
    asks = True
    while asks:
        given = next_input(graph.get_state(config))
        yield from graph.stream(given, config, stream_mode=["updates", "values"], durability=durability)
        asks = bool(graph.get_state(config).interrupts)


class Notes:
    """Lines of a file that outlives the process, each told to whoever listens, too."""

    def __init__(self, path: str, connection: Connection) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._connection, self._lock = connection, threading.Lock()

    def note(self, *words: str) -> None:
        with self._lock:
            os.write(self._descriptor, json.dumps(words).encode() + b"\n")
            with contextlib.suppress(BrokenPipeError):
                self._connection.send(words)


async def _live(target: str, thread: str, durability: Durability, forgets: bool, note: Note) -> None:
    async with TellingAsync.from_conn_string(target) as saver:
        saver.note, saver.forgets = note, forgets
        async for _ in go_to_the_end(built(saver, "async", note), thread, durability):
            pass


def _live_blocking(target: str, thread: str, durability: Durability, note: Note) -> None:
    with Telling.from_conn_string(target) as saver:
        saver.note = note
        for _ in go_to_the_end_blocking(built(saver, "sync", note), thread, durability):
            pass


def _serve(connection: Connection) -> None:
    face, target, thread, durability, forgets, path = connection.recv()
    note = Notes(path, connection).note
    if face == "async":
        asyncio.run(_live(target, thread, durability, forgets, note))
    else:
        _live_blocking(target, thread, durability, note)
    connection.send(("ended",))
    nursery.wait_for_end(connection)


def lines_of(path: pathlib.Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    nursery.keep(int(sys.argv[2]), _serve)
