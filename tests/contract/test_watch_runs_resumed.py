"""A follower of runs that is killed again and again, and goes on by its last cursor, misses no run's last state."""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location
from ..support.forked import Child, children
from ..support.portions import some

WRITER = """
    import random
    with ContextStore(sys.argv[1]) as store:
        count, who = int(sys.argv[2]), sys.argv[4]
        chance = random.Random(sys.argv[3] + who)
        say("open")
        sys.stdin.readline()
        for number in range(count):
            name = f"run-{chance.randrange(count // 4)}"
            kind = chance.randrange(10)
            try:
                if kind < 4:
                    store.put(name, f"{who}-{number}", number)
                elif kind < 9:
                    state = chance.choice(["open", "completed", "failed"])
                    store.run(name).update(state=state, attributes={who: number})
                elif chance.randrange(10) == 0:
                    store.delete_run(name)
            except RunDeletedError:
                pass
        say("written")
"""
TAIL = """
    with ContextStore(sys.argv[1]) as store:
        for info in store.watch_runs(after=sys.argv[2]):
            say(info.cursor, info.flow_run_id, info.state, info.outputs, sorted(info.attributes.items()))
"""


HANG = 300.0  # seconds: a guard, not a measure


def now_of(store: ContextStore, runs: int) -> dict[str, str]:
    """Each run as the follower is to have told it last."""
    found = {}
    for number in range(runs):
        info = store.get_run_info(name := f"run-{number}")
        if info is not None:
            found[name] = f"{info.state} {info.outputs} {sorted(info.attributes.items())}"
    return found


class Tail:
    """A follower with many lives: what it has told of each run last, and where."""

    def __init__(self, location: Any, chance: random.Random) -> None:
        self._location = location
        self._chance = chance
        self.cursor = ""
        self.told: dict[str, str] = {}
        self.lives = self.changes = 0

    def live(self, most: int, until: Callable[[], bool]) -> None:
        """For at most so many changes."""
        self.lives += 1
        with Child(TAIL, self._location, self.cursor) as child:
            guard = threading.Timer(HANG, child.process.kill)  # a gap is waited for in vain, and so not for ever
            guard.start()
            for _ in range(self._chance.randrange(1, most)):
                if until():
                    break
                self.cursor, name, now = child.hear().split(" ", 2)
                self.told[name] = now
                self.changes += 1
            guard.cancel()
            child.kill()


def run_writers(location: Any, count: int) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    most = count // 32  # so that the first lives have enough to hear: each run is told once at least
    with ContextStore(location) as store:
        tail = Tail(location, random.Random(seed))
        with children(4, WRITER, location, count, seed) as writers:
            assert [writer.hear() for writer in writers] == ["open"] * 4
            for writer in writers:
                writer.tell()
            for _ in range(4):
                tail.live(most, lambda: False)
            assert [writer.end(timeout=400)[1] for writer in writers] == [["written"]] * 4
        store.run("end").begin()
        expected = now_of(store, count // 4)

        def is_told() -> bool:
            return all(tail.told.get(name) == now for name, now in expected.items()) and "end" in tail.told

        while not is_told():
            tail.live(10 * most, is_told)
        gone = {name for name, now in tail.told.items() if now.startswith("deleted")}
        assert gone == {name for name in tail.told if name.startswith("run-") and store.get_run_info(name) is None}
    print(f"{tail.lives} lives, {tail.changes} told")


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_while_four_processes_write(engine: str, request: pytest.FixtureRequest) -> None:
    run_writers(new_location(engine, request), count=some(160, 64))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_while_four_processes_make_ten_thousand_changes(engine: str, request: pytest.FixtureRequest) -> None:
    run_writers(new_location(engine, request), count=3000)


LATENCY_TAIL = """
    with ContextStore(sys.argv[1]) as store:
        for info in store.watch_runs():
            said = info.attributes.get("at", 0.0)
            say(info.flow_run_id, time.time() - said)
"""


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_a_follower_that_keeps_up_is_told_within_milliseconds(engine: str, request: pytest.FixtureRequest) -> None:
    location = new_location(engine, request)
    program = """
        with ContextStore(sys.argv[1]) as store:
            for number in range(300):
                store.run(f"run-{number}").begin(attributes={"at": time.time()})
                time.sleep(0.01)
    """
    with ContextStore(location) as store:
        store.run("first").begin()
    with Child(LATENCY_TAIL, location) as tail:
        assert tail.hear().startswith("first")
        with Child(program, location) as writer:
            late = [float(tail.hear().split()[1]) for _ in range(300)]
            assert writer.end()[0] == 0
        tail.kill()
    print(f"late by {statistics.median(late) * 1000:.2f} ms at the median")
    assert statistics.median(late) < 0.1  # a figure of an idle machine is a tenth of it
