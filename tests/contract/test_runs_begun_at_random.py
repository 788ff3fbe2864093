"""What is said of runs, by any number of clients in any order, is what a model of a few lines says."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from contextstore import ContextStore, RunAlreadyExistsError, RunDeletedError, RunStateConflictError

from ..conftest import new_location
from ..support.portions import some
from ..support.processes import ROOT
from .test_flow_run import Bound

STATES = ["open", "completed", "failed", "cancelled"]
NAMES = ["a", "b", "'; DROP TABLE flow_runs; --", "é\u2028", "", "x" * 256, "$.a", "%", "\\"]
VALUES: list[Any] = [0, 1, 1.0, True, False, -0.0, "1", "", "'--", '"', 2**64 - 1, -(2**63), 1e300, "é" * 512]


class Model:
    """A run as it should be."""

    def __init__(self) -> None:
        self.is_there = self.is_deleted = self.is_begun = False
        self.state = "open"
        self.error: str | None = None
        self.parent: str | None = None
        self.attributes: dict[str, Any] = {}
        self.first: dict[str, Any] = {}

    def begin(self, attributes: dict[str, Any] | None, parent: str | None) -> type[Exception] | None:
        if self.is_deleted:
            return RunDeletedError
        if self.is_begun:
            differs = attributes is not None and text(attributes) != text(self.first)
            return RunAlreadyExistsError if differs or parent not in (None, self.parent) else None
        self.is_there = self.is_begun = True
        self.first, self.parent = attributes or {}, parent
        self.attributes = self.attributes | self.first
        return None

    def update(
        self, state: str | None, attributes: dict[str, Any], error: str | None, expected: str | None
    ) -> type[Exception] | None:
        if self.is_deleted:
            return RunDeletedError
        if expected not in (None, self.state):
            return RunStateConflictError
        self.is_there = True
        self.state = state or self.state
        self.error = self.error if error is None else error or None
        merged = self.attributes | attributes
        self.attributes = {name: value for name, value in merged.items() if value is not None}
        return None


def text(attributes: dict[str, Any]) -> str:
    """So that 1, 1.0 and True differ."""
    return json.dumps(attributes, sort_keys=True)


async def matches(store: Any, name: str, model: Model) -> None:
    info = await store.get_run_info(name)
    assert (info is not None) == (model.is_there and not model.is_deleted)
    if info is not None:
        assert (info.state, info.error, info.parent) == (model.state, model.error, model.parent)
        assert text(info.attributes) == text(model.attributes)
        assert (info.begun_at is not None) == model.is_begun


async def test_any_calls_in_any_order_do_as_the_model_says(store: Any) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    models = {name: Model() for name in ("one", "two", "three")}
    for _ in range(60):
        name, model = chance.choice(list(models.items()))
        attributes = {key: chance.choice(VALUES) for key in chance.sample(NAMES, chance.randrange(3))}
        run = Bound(store, name)
        match chance.choice(["begin", "begin", "update", "update", "update", "delete", "put"]):
            case "begin":
                given = chance.choice([None, attributes, model.first])
                parent = chance.choice([None, None, "p", "q"])
                refusal, call = model.begin(given, parent), run.begin(attributes=given, parent=parent)
            case "update":
                state, expected = chance.choice([None, *STATES]), chance.choice([None, None, None, *STATES])
                error = chance.choice([None, "", "it broke"])
                changes = attributes | dict.fromkeys(chance.sample(NAMES, 2))
                refusal = model.update(state, changes, error, expected)
                call = run.update(state=state, attributes=changes, error=error, expected_state=expected)
            case "put":
                refusal, call = RunDeletedError if model.is_deleted else None, run.put("n", 1, exist_ok=True)
                model.is_there = True
            case _:
                if chance.random() < 0.7:
                    continue
                model.is_deleted, refusal, call = True, None, store.delete_run(name)
        if refusal is None:
            await call
        else:
            with pytest.raises(refusal):
                await call
        await matches(store, name, model)
    assert (await store.check()).problems == ()


@pytest.mark.each_input_once
@pytest.mark.parametrize("bad", ["begin", "update"])
@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"x" * 257: 1}, ValueError),
        ({"é" * 129: 1}, ValueError),
        ({"a\0": 1}, ValueError),
        ({"\udc80": 1}, ValueError),
        ({"a": "x" * 1025}, ValueError),
        ({"a": "\0"}, ValueError),
        ({"a": "\udc80"}, ValueError),
        ({"a": float("nan")}, ValueError),
        ({"a": float("inf")}, ValueError),
        ({"a": 2**64}, ValueError),
        ({str(number): 1 for number in range(65)}, ValueError),
        ({1: 1}, TypeError),
        ({"a": [1]}, TypeError),
        ({"a": b"x"}, TypeError),
        ([("a", 1)], TypeError),
        ("a", TypeError),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_what_is_no_attribute_is_refused_by_its_name(
    store: Any, bad: str, attributes: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="attributes"):
        await getattr(Bound(store), bad)(attributes=attributes)
    assert await store.list_runs() == []


async def test_an_update_cannot_bring_a_run_beyond_sixty_four(store: Any) -> None:
    run = Bound(store)
    many = {str(number): number for number in range(64)}
    before = await run.begin(attributes=many)
    with pytest.raises(ValueError, match="at most 64"):
        await run.update(state="failed", attributes={"one more": 1})
    assert await run.info() == before
    after = await run.update(attributes={"0": None, "one more": 1})
    assert after.attributes == {name: value for name, value in many.items() if name != "0"} | {"one more": 1}


async def test_what_is_no_state_is_refused_by_its_name(store: Any) -> None:
    run = Bound(store)
    for bad, kind in (("done", ValueError), ("deleted", ValueError), (1, TypeError), (["open"], TypeError)):
        with pytest.raises(kind, match=r"^state"):
            await run.update(state=bad)
        with pytest.raises(kind, match=r"^expected_state"):
            await run.update(expected_state=bad)
    with pytest.raises(TypeError, match=r"^error"):
        await run.update(error=ValueError("x"))
    with pytest.raises(ValueError, match="parent"):
        await run.begin(parent="")
    with pytest.raises(TypeError):
        await run.begin({})
    assert await store.list_runs() == []


TURNS = """
    import sys, time
    from contextstore import ContextStore, RunStateConflictError

    with ContextStore(sys.argv[1], timeout=60) as store:
        run, done = store.run("run"), 0
        while done < int(sys.argv[2]):
            try:
                run.update(state="completed", expected_state="open")
            except RunStateConflictError:
                time.sleep(0.001)
                continue
            turns = run.info().attributes.get("turns", 0)
            run.update(state="open", attributes={"turns": turns + 1}, expected_state="completed")
            done += 1
    print("done")
"""


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_of_four_processes_that_expect_a_state_one_alone_comes_to_the_next(engine: str, request: Any) -> None:
    """Each counts between two states that keep the others out."""
    place, turns = str(new_location(engine, request)), some(10, 4)
    with ContextStore(place) as store:
        store.run("run").begin()
        command = [sys.executable, "-c", textwrap.dedent(TURNS), place, str(turns)]
        processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n"] * 4
        info = store.get_run_info("run")
        assert info is not None
        assert (info.state, info.attributes) == ("open", {"turns": 4 * turns})
        assert store.check().problems == ()


KILLED = """
    import sys
    from contextstore import ContextStore

    with ContextStore(sys.argv[1]) as store:
        run, number = store.run("run"), 0
        while True:
            number += 1
            run.update(state="failed", error=str(number), attributes={"number": number, str(number % 7): number})
            print(number, flush=True)
"""


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_of_an_update_under_way_at_a_kill_all_is_there_or_nothing(engine: str, request: Any) -> None:
    place = str(new_location(engine, request))
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    with ContextStore(place) as store:
        for _ in range(3):
            command = [sys.executable, "-c", textwrap.dedent(KILLED), place]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                said = [int(process.stdout.readline()) for _ in range(chance.randrange(1, 40))]
                process.send_signal(signal.SIGKILL)
                said += [int(line) for line in process.stdout if line.endswith("\n")]
            info = store.get_run_info("run")
            assert info is not None
            assert info.error is not None
            number = int(info.error)
            assert number in (said[-1], said[-1] + 1)
            assert info.attributes["number"] == info.attributes[str(number % 7)] == number
            assert store.check().problems == ()
