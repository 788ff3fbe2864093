"""Attempts that several processes record at once, and some are killed: no number twice, and none without its output."""

from __future__ import annotations

import collections
import random
from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location
from ..support.forked import Child, children
from ..support.portions import some

RECORD = """
import itertools, random
from contextstore._engine.operations import PutOutput
from contextstore._engine.records import Made
from contextstore._engine.run_operations import RecordFailure
from contextstore._values.codec import Encoded
from contextstore._waiting.threads import run_now

store = ContextStore(sys.argv[1], timeout=60)
store.open()

def commit(*operations):
    return run_now(store._core.session.commit(list(operations)))

def success(node, exist_ok="keep"):
    return PutOutput("run", node, Encoded(0, b"1"), exist_ok, made=Made(None, 1, None))

def failure(node):
    return RecordFailure("run", node, 1, 2, "no", None)
"""
RACE = (
    RECORD
    + """
chance = random.Random(sys.argv[2])
say("ready")
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    node = f"{number // 3}"
    if chance.random() < 0.5:
        say("failed", node, *commit(failure(node)))
    else:
        say("made" if commit(success(node)) == [True] else "kept", node, 0)
store.close()
"""
)
GO_ON = (
    RECORD
    + """
import threading

def record(name):
    for number in itertools.count():
        node = f"{name}/{number}"
        commit(failure(node))
        commit(success(node), success(node + "/more"))
        say("made", node)

for name in "ab":
    threading.Thread(target=record, args=[f"{sys.argv[2]}/{name}"], daemon=True).start()
threading.Event().wait()
"""
)


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


def test_no_number_is_given_twice_by_four_processes_at_once(place: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with ContextStore(place) as store:
        store.open()
        rounds = some(300, 45)
        told: list[tuple[str, str, int]] = []
        with children(4, RACE, place, seed, rounds) as racers:
            assert [racer.hear() for racer in racers] == ["ready"] * 4
            for racer in racers:
                racer.tell()
            for racer in racers:
                status, lines, errors = racer.end(300)
                assert (status, errors) == (0, "")
                told += [(what, node, int(number)) for what, node, number in map(str.split, lines)]
        numbers: dict[str, list[int]] = collections.defaultdict(list)
        for attempt in store.run("run").attempts():
            numbers[attempt.node_id].append(attempt.number)
        recorded = collections.Counter(node for what, node, _ in told if what != "kept")
        assert {node: list(range(1, count + 1)) for node, count in recorded.items()} == numbers
        of_failures = [(node, number) for what, node, number in told if what == "failed"]
        assert len(set(of_failures)) == len(of_failures)
        assert store.check().problems == ()


def test_a_process_killed_at_any_instant_leaves_an_output_and_its_attempt_or_neither(place: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    told: set[str] = set()
    with ContextStore(place) as store:
        for turn in range(some(12, 4)):
            with Child(GO_ON, place, turn) as child:
                for _ in range(chance.randint(1, 60)):
                    told.add(child.hear().split()[1])
                child.kill()
                told |= {line.split()[1] for line in child.hear_all() if line.startswith("made ")}
        attempts = store.run("run").attempts()
        made = {attempt.node_id for attempt in attempts if attempt.error is None}
        failed = {attempt.node_id for attempt in attempts if attempt.error is not None}
        assert made == set(store.list_keys("run"))
        assert told <= made
        assert {node for node in made if not node.endswith("/more")} <= failed
        assert {node.removesuffix("/more") for node in made} == {node for node in made if not node.endswith("/more")}
        numbers = {(attempt.node_id, attempt.number) for attempt in attempts}
        assert len(numbers) == len(attempts)
        assert {attempt.number for attempt in attempts if attempt.node_id in failed and attempt.error is None} == {2}
        assert store.check().problems == ()
