"""Globals that expire and are freed while many processes write them, and some are killed."""

from __future__ import annotations

import datetime
import itertools
import random
import time
from typing import Any

import pytest

from contextstore import ContextStore, ExportedGlobal, import_records

from ..conftest import new_location
from ..support.forked import Child, children
from ..support.portions import some

THEN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


PUT_EACH = """
    from contextstore import GlobalAlreadyExistsError
    with ContextStore(sys.argv[1]) as store:
        say("ready")
        for line in sys.stdin:
            try:
                store.put_global(line.strip(), sys.argv[2])
                say("won")
            except GlobalAlreadyExistsError:
                say("lost")
"""


def test_of_eight_that_put_an_expired_key_one_wins(place: Any) -> None:
    rounds = some(20, 3)
    with ContextStore(place) as store:
        expired = (ExportedGlobal(f"{i:02}", "json", b"0", 5, THEN, THEN) for i in range(rounds))
        import_records(store, expired)
        with children(8, PUT_EACH, place) as racers:
            assert [racer.hear() for racer in racers] == ["ready"] * 8
            for i in range(rounds):
                for racer in racers:
                    racer.tell(f"{i:02}")
                outcomes = [racer.hear() for racer in racers]
                assert sorted(outcomes) == ["lost"] * 7 + ["won"]
                entry = store.get_global_entry(f"{i:02}")
                assert entry is not None
                assert (entry.value, entry.version) == (str(outcomes.index("won")), 6)


WRITE = """
    import random
    chance = random.Random(sys.argv[2])
    with ContextStore(sys.argv[1]) as store:
        while True:
            key = chance.choice("abc")
            ttl = chance.choice([None, 0.0001, 0.002])
            say(key, store.upsert_global(key, sys.argv[2], ttl=ttl))
"""
TAKE_AWAY = """
    import datetime, random
    chance = random.Random(sys.argv[2])
    with ContextStore(sys.argv[1]) as store:
        while True:
            store.delete_globals(chance.choice(["a", "bc", "abc"]))
            if store.prune(older_than=datetime.timedelta(days=1)).globals:
                say("freed")
"""


def test_no_version_comes_twice_whoever_is_killed_whenever(place: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    numbers = itertools.count()
    said: list[str] = []
    with ContextStore(place) as store:
        for _ in range(some(12, 2)):
            programs = [WRITE, WRITE, TAKE_AWAY, TAKE_AWAY]
            running = [Child(program, place, f"{seed} {next(numbers)}") for program in programs]
            try:
                said += [child.hear() for child in running]  # all are at work
                time.sleep(chance.uniform(0, 0.2))  # any moment will do
            finally:
                for child in running:
                    child.kill()
                    said += child.hear_all()
                    child.end()
        given = [line for line in said if line.startswith(("a ", "b ", "c "))]
        assert len(given) == len(set(given)), f"seed {seed}"
        assert store.check().ok
        for key in "abc":
            highest = max((int(line.split()[1]) for line in given if line.startswith(key)), default=0)
            assert store.upsert_global(key, 1) > highest
