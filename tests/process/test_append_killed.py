"""Appends by several processes that are killed at random: no number twice, none lost that was acknowledged."""

from __future__ import annotations

import itertools
import pathlib
import random
import threading
from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location
from ..support.forked import Child

APPENDER = """
store = ContextStore(sys.argv[1], timeout=60)
name, first = sys.argv[2], int(sys.argv[3])
say("ready")
for number in range(first, 10**6):
    say("appended", number, store.append("run", "p", [name, number], key=f"{name}-{number}"))
"""


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_processes_killed_at_random_lose_no_append_and_double_none(engine: str, request: pytest.FixtureRequest) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    place: Any = new_location(engine, request)
    with ContextStore(place) as store:
        store.append("run", "p", ["first", 0])
    given: dict[str, list[tuple[int, str]]] = {name: [] for name in "abc"}

    def be_killed(name: str, kills: list[int]) -> None:
        for lines in kills:
            # Again from the last one that was acknowledged: it and the one after it may both be there.
            first = given[name][-1][0] if given[name] else 0
            with Child(APPENDER, place, name, first) as child:
                for line in itertools.islice(iter(child.hear, ""), lines):
                    if line.startswith("appended"):
                        _, number, node = line.split()
                        given[name].append((int(number), node))
                child.kill()
                for line in child.hear_all():
                    if line.startswith("appended"):
                        _, number, node = line.split()
                        given[name].append((int(number), node))

    threads = [
        threading.Thread(target=be_killed, args=(name, [chance.randint(1, 60) for _ in range(2)])) for name in given
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ContextStore(place) as store:
        there = store.get_run("run")
        assert list(there) == [f"p{n:012}" for n in range(1, len(there) + 1)]
        values = [tuple(value) for value in there.values()]
        assert len(set(values)) == len(values)
        for name, ids in given.items():
            for number, node in ids:
                assert there[node] == [name, number]
        assert store.check().problems == ()


def test_processes_that_append_to_one_prefix_at_once_share_its_numbers(tmp_path: pathlib.Path) -> None:
    program = """
    with ContextStore(sys.argv[1]) as store:
        say("ready")
        sys.stdin.readline()
        for number in range(100):
            say(store.append("run", "p", number))
    """
    path = tmp_path / "store.db"
    with ContextStore(path) as store:
        store.open()
        with Child(program, path) as one, Child(program, path) as other:
            for child in (one, other):
                assert child.hear() == "ready"
            for child in (one, other):
                child.tell()
            given = [child.end()[1] for child in (one, other)]
        assert sorted(given[0] + given[1]) == store.list_keys("run") == [f"p{n:012}" for n in range(1, 201)]
        assert all(ids == sorted(ids) for ids in given)
