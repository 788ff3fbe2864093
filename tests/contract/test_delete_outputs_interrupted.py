"""``delete_outputs`` interrupted: cancelled at any point, or its process killed; and beside other processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import pathlib
import random
import time
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, OutputDeletedError

from ..conftest import new_location
from ..support.forked import Child
from ..support.portions import some
from .outputs import Victims

MANY = 1200  # of which three commits delete some each


class CancelledAt:
    """A call that is cancelled where it waits for the so-manieth time."""

    def __init__(self, call: Coroutine[Any, Any, Any], number: int) -> None:
        self._call = call
        self._number = number
        self.has_ended = False

    def __await__(self) -> Generator[Any, Any, Any]:
        for number in itertools.count():
            try:
                if number == self._number + 1:
                    waited_for = self._call.throw(asyncio.CancelledError())
                else:
                    waited_for = self._call.send(None)
            except StopIteration as stop:
                self.has_ended = True
                return stop.value
            except asyncio.CancelledError:
                return None
            yield waited_for


@pytest.mark.parametrize("engine", ["file", "memory", "postgres"])
async def test_cancelled_at_any_point_it_leaves_a_part_deleted_and_the_same_call_goes_on(
    engine: str, request: pytest.FixtureRequest
) -> None:
    async with AsyncContextStore(new_location(engine, request)) as store:
        for number in range(1000):
            run = f"run-{number}"
            await store.put_many(run, dict.fromkeys([f"{node:04}" for node in range(MANY)], 1))
            call = CancelledAt(store.delete_outputs(run, prefix=""), number)
            await call
            await store.ping()
            left = await store.list_keys(run)
            (info,) = await store.list_runs(prefix=run, limit=1)
            assert info.outputs == len(left)
            assert await store.delete_outputs(run, prefix="") == len(left)
            assert await store.list_keys(run) == []
            if call.has_ended:
                break
        assert number >= 2
        report = await store.check()
        assert report.ok, report.problems


def test_killed_at_any_moment_it_leaves_whole_commits(file_path: pathlib.Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    work = """
        say("begun")
        store.delete_outputs("run", prefix=f"{number}-")
        signal.pause()  # it is killed in any case
    """
    chance = random.Random(seed)
    with Victims(file_path, work) as victims:
        for kill in range(some(10, 3)):
            names = [f"{kill}-{number:05}" for number in range(3000)]
            with ContextStore(file_path) as store:
                store.put_many("run", dict.fromkeys(names, 1))
            victim = victims.begin(kill)
            assert victims.hear() == "begun"
            time.sleep(chance.uniform(0, 0.05))  # the moment of the kill, whatever it has come to
            victims.kill(victim)
            with ContextStore(file_path) as store:
                left = store.list_keys("run", prefix=f"{kill}-")
                assert left == names[len(names) - len(left) :], f"seed {seed}"
                assert len(left) % 500 == 0, f"seed {seed}"
                report = store.check()
                assert report.ok, report.problems
                assert store.delete_outputs("run", prefix=f"{kill}-") == len(left)
                with pytest.raises(OutputDeletedError):
                    store.put("run", names[-1], 1)


READER = """
    with ContextStore(sys.argv[1]) as store:
        for line in sys.stdin:
            say(store.get("run", line.strip(), "none"))
"""


def test_the_cache_of_another_process_answers_with_nothing_that_was_deleted(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store, Child(READER, file_path) as reader:
        for number in range(50):
            node = f"node-{number}"
            store.put("run", node, number)
            for expected in (str(number), str(number)):  # read, and then from memory
                reader.tell(node)
                assert reader.hear() == expected
            store.delete_outputs("run", [node])
            reader.tell(node)
            assert reader.hear() == "none"


WAITER = """
    with ContextStore(sys.argv[1]) as store:
        for line in sys.stdin:
            say("begun")
            try:
                store.wait_for("run", line.strip(), timeout=60)
            except errors.OutputDeletedError as error:
                say("deleted", error.node_id)
"""


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_who_waits_in_another_process_is_told_of_what_was_written_and_deleted_at_once(
    engine: str, request: pytest.FixtureRequest
) -> None:
    location = new_location(engine, request)
    with ContextStore(location) as store, Child(WAITER, location) as waiter:
        store.put("run", "first", 1)
        for number in range(10):
            waiter.tell(f"node-{number}")
            assert waiter.hear() == "begun"
            with store.batch() as batch:
                batch.put("run", f"node-{number}", 1)
                batch.delete_outputs("run", [f"node-{number}"])
            assert waiter.hear() == f"deleted node-{number}"


WRITER = """
    with ContextStore(sys.argv[1]) as store:
        number, written, refused = int(sys.argv[2]), 0, 0
        for node in range(200):
            try:
                written += len(store.put_many("run", {f"{node:03}": number}, exist_ok="keep"))
            except errors.OutputDeletedError:
                refused += 1
        say(written, refused)
"""


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_of_writers_and_deleters_in_several_processes_each_output_has_one_writer_and_one_deleter(
    engine: str, request: pytest.FixtureRequest
) -> None:
    location = new_location(engine, request)
    with ContextStore(location) as store:
        with Child(WRITER, location, 1) as one, Child(WRITER, location, 2) as other:
            deleted = 0
            while one.process.poll() is None or other.process.poll() is None:
                deleted += store.delete_outputs("run", prefix="")
            deleted += store.delete_outputs("run", prefix="")
            (first,), (second,) = one.hear_all(), other.hear_all()
        written = int(first.split()[0]) + int(second.split()[0])
        assert written == deleted == 200
        report = store.check()
        assert report.ok, report.problems
