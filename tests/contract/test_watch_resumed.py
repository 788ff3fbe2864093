"""A tail that is killed again and again, and goes on by its last cursor, loses nothing and sees each run in order."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location
from ..support.forked import Child, children
from ..support.portions import some

WRITER = """
    async def main():
        run, count, bursts = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        async with AsyncContextStore(sys.argv[1]) as store:
            say("open")
            for burst in range(bursts):
                await asyncio.to_thread(sys.stdin.readline)
                nodes = [f"{burst:03}-{number:06}" for number in range(count)]
                for start in range(0, count, 500):
                    await asyncio.gather(*(store.put(run, node, node) for node in nodes[start : start + 500]))
                say("written")

    asyncio.run(main())
"""
TAIL = """
    with ContextStore(sys.argv[1]) as store:
        for output in store.watch(after=sys.argv[2]):
            late = time.time() - output.written_at.timestamp()
            say(output.cursor, output.flow_run_id, output.node_id, late)
"""


class Tail:
    """What a tail has told, over all its lives."""

    def __init__(self, location: str, chance: random.Random) -> None:
        self._location = location
        self._chance = chance
        self.cursor = ""
        self.told: dict[str, list[str]] = {"one": [], "two": []}
        self.late: list[float] = []
        self.lives = 0

    def follow(self, total: int, most: int) -> None:
        """Until so many outputs were told: each life for at most so many."""
        while sum(map(len, self.told.values())) < total:
            self.lives += 1
            with Child(TAIL, self._location, self.cursor) as child:
                for _ in range(min(self._chance.randrange(1, most), total - sum(map(len, self.told.values())))):
                    self.cursor, run, node, late = child.hear().split()
                    self.told[run].append(node)
                    self.late.append(float(late))
                child.kill()


def run_bursts(location: Any, bursts: int, count: int, most: int) -> Tail:
    seed = random.randrange(10**6)
    print("seed", seed)
    with ContextStore(location) as store:
        store.put("one", "000", "begun")
    tail = Tail(str(location), random.Random(seed))
    with (
        Child(WRITER, location, "one", count, bursts) as one,
        Child(WRITER, location, "two", count, bursts) as two,
    ):
        assert [one.hear(), two.hear()] == ["open", "open"]
        for burst in range(bursts):
            for writer in (one, two):
                writer.tell()
            tail.follow(1 + (burst + 1) * count * 2, most)
            assert [one.hear(), two.hear()] == ["written", "written"]
        assert [one.end()[0], two.end()[0]] == [0, 0]
    expected = [f"{burst:03}-{number:06}" for burst in range(bursts) for number in range(count)]
    assert tail.told == {"one": ["000", *expected], "two": expected}
    print(f"{tail.lives} lives; late by {statistics.median(tail.late) * 1000:.2f} ms at the median")
    return tail


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_a_tail_that_is_killed_at_any_point_goes_on_by_its_cursor(engine: str, request: pytest.FixtureRequest) -> None:
    tail = run_bursts(new_location(engine, request), bursts=2, count=some(600, 200), most=some(900, 300))
    assert tail.lives > 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_it_does_so_through_five_bursts_of_ten_thousand(engine: str, request: pytest.FixtureRequest) -> None:
    run_bursts(new_location(engine, request), bursts=5, count=10_000, most=15_000)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_a_tail_that_keeps_up_is_told_within_milliseconds(engine: str, request: pytest.FixtureRequest) -> None:
    """Each put by itself, by two processes: no more is waiting than what has just been committed."""
    location = new_location(engine, request)
    program = """
        with ContextStore(sys.argv[1]) as store:
            say("open")
            sys.stdin.readline()
            for number in range(500):
                store.put(sys.argv[2], f"{number:04}", number)
                if number % 50 == 49:
                    time.sleep(0.05)
    """
    with ContextStore(location):
        pass
    with Child(TAIL, location, "") as tail, children(2, program, location) as writers:
        assert [writer.hear() for writer in writers] == ["open"] * 2
        for writer in writers:
            writer.tell()
        late = sorted(float(tail.hear().split()[3]) for _ in range(1000))
        assert [writer.end()[0] for writer in writers] == [0, 0]
        tail.kill()
    print(f"late by {late[500] * 1000:.2f} ms at the median, {late[900] * 1000:.2f} at the ninetieth of a hundred")
    assert late[500] < 0.1  # a figure of an idle machine is a tenth of it
