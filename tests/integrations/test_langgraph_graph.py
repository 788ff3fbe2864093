"""A real LangGraph graph, killed and begun again until its end, ends as one that nobody disturbed.

What it is compared with is the framework's own saver in memory, which nobody kills.
"""

from __future__ import annotations

import os
import pathlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("langgraph.graph")

from langgraph.checkpoint.memory import InMemorySaver

from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

from ..support.processes import run
from ..torture.nursery import Nursery
from . import graph_program as program
from .graph_program import ROUNDS, THREAD, WIDTH, built, config_of, go_to_the_end, go_to_the_end_blocking, lines_of

NODES = [
    name
    for round_ in range(1, ROUNDS + 1)
    for name in (
        f"plan {round_ - 1}",
        *(f"search {round_} {number}" for number in range(WIDTH)),
        f"draft {round_}",
        f"ask {round_}",
        f"record {round_}",
    )
]

LINES = 95
"""What a run that nobody kills says, and some more."""


def ignore(*_: str) -> None:
    pass


# ------------------------------------------------------------------------------------------------- what there is to see


def told(state: Any, below: Any) -> Any:
    """What a snapshot says, without the ids and times that are each run's own."""
    return {
        "values": state.values,
        "next": state.next,
        "source": state.metadata["source"],
        "step": state.metadata["step"],
        "interrupts": [one.value for one in state.interrupts],
        "tasks": [(one.name, one.error, [i.value for i in one.interrupts]) for one in state.tasks],
        "results": [one.result for one in state.tasks],
        "below": below,
    }


async def history(graph: Any, config: Any) -> list[Any]:
    """All the states that a thread has had, newest first, each with those of its subgraph."""
    found = []
    async for state in graph.aget_state_history(config):
        below = [await history(graph, task.state) for task in state.tasks if task.state]
        found.append(told(state, below))
    return found


def history_blocking(graph: Any, config: Any) -> list[Any]:
    return [
        told(state, [history_blocking(graph, task.state) for task in state.tasks if task.state])
        for state in graph.get_state_history(config)
    ]


def without_results(states: list[Any]) -> list[Any]:
    """LangGraph does not wait for a node's writes before it saves the checkpoint that takes them in, and needs them no
    more then: a kill in between leaves a past state without them.
    """
    return [
        {**state, "results": None, "below": [without_results(below) for below in state["below"]]} for state in states
    ]


def streamed(parts: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Parts of a stream, an interrupt as what it asks."""
    return [
        (mode, {key: [one.value for one in some] if key == "__interrupt__" else some for key, some in chunk.items()})
        for mode, chunk in parts
    ]


async def undisturbed() -> tuple[list[Any], list[Any]]:
    graph = built(InMemorySaver(), "async", ignore)
    parts = [part async for part in go_to_the_end(graph, THREAD, "sync")]
    return streamed(parts), await history(graph, config_of(THREAD))


async def test_a_graph_streams_what_it_streams_with_the_saver_in_memory_and_leaves_the_same_history(
    target: str,
) -> None:
    begun: list[str] = []
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        graph = built(saver, "async", lambda _, task, name: begun.append(name))
        parts = [part async for part in go_to_the_end(graph, THREAD, "sync")]
        seen = streamed(parts), await history(graph, config_of(THREAD))
    assert seen == await undisturbed()
    assert sum("__interrupt__" in chunk for mode, chunk in seen[0] if mode == "updates") == ROUNDS
    # A node that has interrupted itself is run again with the answer: that is LangGraph's way.
    assert Counter(begun) == Counter(NODES) + Counter(f"ask {round_}" for round_ in range(1, ROUNDS + 1))


def test_a_graph_of_plain_functions_in_blocking_code_does_the_same(target: str) -> None:
    def done(saver: Any) -> tuple[Any, Any]:
        graph = built(saver, "sync", ignore)
        parts = streamed(list(go_to_the_end_blocking(graph, THREAD, "sync")))
        updates = sorted(str(chunk) for mode, chunk in parts if mode == "updates")  # those of a step: as they come
        return updates, history_blocking(graph, config_of(THREAD))

    with ContextStoreSaver.from_conn_string(target) as saver:
        seen = done(saver)
    assert seen == done(InMemorySaver())


# --------------------------------------------------------------------------------------------------------------- kills


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery(program.__name__) as running:
        yield running


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("TORTURE_SEED", random.randrange(2**32)))
    print(f"TORTURE_SEED={seed}")
    return seed


class Runs:
    """Threads of the graph, each lived by process after process until its end."""

    def __init__(
        self, nursery: Nursery, folder: pathlib.Path, target: str, seed: int, *, face: str = "async",
        durability: str = "sync", forgets: bool = False,
    ) -> None:  # fmt: skip
        self._nursery, self._folder, self._dice = nursery, folder, random.Random(seed)
        self._target, self._face, self._how = target, face, (durability, forgets)
        self._threads = 0
        self.kills = 0

    def run(self) -> tuple[str, list[list[list[str]]]]:
        """A new thread, from its beginning to its end: its name, and the lines of each life."""
        self._threads += 1
        thread = f"{THREAD} {self._threads}"
        lives: list[list[list[str]]] = []
        while True:
            log = self._folder / f"{self._threads}-{len(lives)}.log"
            log.touch()
            is_at_its_end = self._live(thread, log)
            lives.append(lines_of(log))
            if is_at_its_end:
                return thread, lives
            self.kills += 1

    def _live(self, thread: str, log: pathlib.Path) -> bool:
        """Until the end, or until a moment after one of its lines."""
        child = self._nursery.child()
        try:
            child.tell(self._face, self._target, thread, *self._how, str(log))
            for _ in range(self._dice.randrange(LINES)):
                if child.hear(60)[0] == "ended":
                    return True
            time.sleep(self._dice.choice([0, self._dice.uniform(0, 0.005)]))  # not to wait for anything
            child.kill()
            return False
        finally:
            child.close()


def run_again(lives: list[list[list[str]]]) -> list[str]:
    """Names of the nodes that were begun although they had completed before: acknowledged, with what they hang on."""
    saved: set[str] = set()
    tasks: dict[str, set[str]] = {}
    """Of the nodes: who has run, or runs, under which ids."""
    checkpoints: dict[str, str] = {}
    """Of the ids that have completed: what their writes hang on."""
    again = []
    for word, first, *rest in (line for lines in lives for line in lines):
        if word == "saved":
            saved.add(first)
        elif word == "wrote":
            checkpoints[first] = rest[0]
        else:
            before = tasks.setdefault(rest[0], set())
            again += [rest[0] for task in before if checkpoints.get(task) in saved]
            before.add(first)
    return again


def begun(lines: list[list[str]]) -> Counter[str]:
    return Counter(rest[0] for word, _, *rest in lines if word == "began")


KILLS = [
    pytest.param("async", 3, id="async"),
    pytest.param("sync", 3, id="sync", marks=pytest.mark.thorough),
    pytest.param("async", 50, id="async-50", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    pytest.param("sync", 15, id="sync-15", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
]


@pytest.mark.disk
@pytest.mark.parametrize(("face", "kills"), KILLS)
async def test_killed_at_random_points_it_ends_as_if_undisturbed_and_runs_no_completed_node_again(
    nursery: Nursery, tmp_path: pathlib.Path, target: str, seed: int, face: str, kills: int
) -> None:
    runs = Runs(nursery, tmp_path, target, seed, face=face)
    expected = without_results((await undisturbed())[1])
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        graph = built(saver, "async", ignore)
        while runs.kills < kills:
            thread, lives = runs.run()
            assert without_results(await history(graph, config_of(thread))) == expected
            assert run_again(lives) == []
            assert sum((begun(lines) for lines in lives), Counter()).keys() == set(NODES)
            for lines in lives:  # in one life a node is begun once, but for one that asks
                assert all(count == 1 or name.startswith("ask") for name, count in begun(lines).items())


@pytest.mark.thorough
async def test_with_asynchronous_durability_it_ends_the_same_though_its_last_steps_may_be_run_again(
    nursery: Nursery, tmp_path: pathlib.Path, target: str, seed: int
) -> None:
    runs = Runs(nursery, tmp_path, target, seed, durability="async")
    expected = without_results((await undisturbed())[1])
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        graph = built(saver, "async", ignore)
        while runs.kills < 5:
            thread, _ = runs.run()
            assert without_results(await history(graph, config_of(thread))) == expected


@pytest.mark.thorough
async def test_a_saver_that_only_promises_to_store_what_nodes_wrote_is_found_out(
    nursery: Nursery, tmp_path: pathlib.Path, target: str, seed: int
) -> None:
    runs = Runs(nursery, tmp_path, target, seed, forgets=True)
    while runs.kills < 100:
        _, lives = runs.run()
        if run_again(lives):
            return
    pytest.fail("no node was run again")


# -------------------------------------------------------------------------------------------------- a program to copy

PROGRAM = """
    from typing import TypedDict

    from langgraph.graph import START, StateGraph

    from contextstore.integrations.langgraph import ContextStoreSaver

    class State(TypedDict, total=False):
        visits: int

    builder = StateGraph(State)
    builder.add_node("visit", lambda state: {"visits": state.get("visits", 0) + 1})
    builder.add_edge(START, "visit")

    with ContextStoreSaver.from_conn_string(sys.argv[1]) as saver:
        graph = builder.compile(checkpointer=saver)
        say(graph.invoke({}, {"configurable": {"thread_id": "ada"}})["visits"])
"""


@pytest.mark.thorough
def test_a_plain_program_finds_in_its_next_process_what_it_left_in_the_last_one(target: str) -> None:
    assert [run(PROGRAM, target) for _ in range(2)] == [["1"], ["2"]]
