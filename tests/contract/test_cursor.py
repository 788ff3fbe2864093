"""``cursor`` is the place of now: behind it nothing is missed, and of what was committed before it nothing is told."""

from __future__ import annotations

import random
from typing import Any

import pytest

from contextstore import ContextStore, RunDeletedError, StoreClosedError

from ..conftest import Target, new_location
from ..support.portions import some
from ..support.processes import children
from .followed import called, following
from .waiting import spawn, waiting, watching

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


class TestOfOutputs:
    @pytest.mark.parametrize("run", [None, "run"])
    async def test_just_what_is_committed_after_it_is_told(self, store: Any, run: str | None) -> None:
        await store.put_many("run", {"a": 1, "b": 2})
        cursor = await store.cursor()
        await store.put_many("run", {"d": 1, "c": 1})
        async with watching(store, run, after=cursor) as watch:
            assert await watch.take(2) == ["c", "d"]
            (following_one,) = spawn(watch.next())
            await waiting(store)
            await store.put("run", "e", 1)
            assert (await following_one).node_id == "e"

    @pytest.mark.parametrize("run", [None, "run"])
    async def test_in_an_empty_store_it_is_the_beginning(self, store: Any, run: str | None) -> None:
        cursor = await store.cursor()
        assert cursor
        await store.put("run", "a", 1)
        async with watching(store, run, after=cursor) as watch:
            assert await watch.take(1) == ["a"]

    async def test_what_is_told_behind_it_has_cursors_that_go_on(self, store: Any) -> None:
        await store.put("run", "a", 1)
        async with watching(store, None, after=await store.cursor("outputs")) as watch:
            await store.put_many("run", {"b": 1, "c": 1})
            first = await watch.next()
        async with watching(store, None, after=first.cursor) as watch:
            assert await watch.take(1) == ["c"]

    async def test_it_lies_behind_changes_of_runs_too(self, store: Any) -> None:
        await store.put("run", "a", 1)
        await called(store, "begin", "other")
        cursor = await store.cursor()
        await called(store, "update", "run", state="completed")
        await store.put("run", "b", 1)
        async with watching(store, None, after=cursor) as watch:
            assert await watch.take(1) == ["b"]

    async def test_what_was_deleted_before_it_hides_nothing_that_comes_after(self, store: Any) -> None:
        for number in range(3):
            await store.put_many(f"run-{number}", {"a": 1, "b": 1})
        await store.delete_outputs("run-0", ["b"])
        await store.delete_run("run-1")
        await store.delete_run("run-2", forget=True)
        cursor = await store.cursor()
        await store.put("run-2", "c", 1)
        await store.put("run-0", "d", 1)
        async with watching(store, None, after=cursor) as watch:
            assert await watch.take(2) == ["c", "d"]

    async def test_a_node_that_is_there_ends_a_watch_until_it_at_once(self, store: Any) -> None:
        await store.put("run", "a", 1)
        async with watching(store, "run", after=await store.cursor(), until="a") as watch:
            assert await watch.rest() == []

    async def test_a_run_that_is_deleted_after_it_ends_its_watch(self, store: Any) -> None:
        await store.put("run", "a", 1)
        async with watching(store, "run", after=await store.cursor()) as watch:
            (step,) = spawn(watch.next())
            await waiting(store)
            await store.delete_run("run")
            with pytest.raises(RunDeletedError):
                await step


class TestOfRuns:
    async def test_only_changes_after_it_are_told_and_no_run_is_listed_first(self, store: Any) -> None:
        for name in "abc":
            await called(store, "begin", name)
        await store.put("b", "node", 1)
        cursor = await store.cursor("runs")
        await called(store, "update", "b", state="completed")
        await store.put("d", "node", 1)
        await store.delete_run("c")
        async with following(store, after=cursor) as runs:
            told = [(info.flow_run_id, info.state) for info in await runs.take(3)]
            assert told == [("b", "completed"), ("d", "open"), ("c", "deleted")]
            (next_one,) = spawn(runs.next())
            await waiting(store)
            await called(store, "begin", "e")
            assert (await next_one).flow_run_id == "e"

    async def test_in_an_empty_store_it_is_the_beginning(self, store: Any) -> None:
        cursor = await store.cursor("runs")
        await called(store, "begin", "a")
        async with following(store, after=cursor) as runs:
            assert await runs.names(1) == ["a"]

    async def test_what_is_told_behind_it_has_cursors_that_go_on(self, store: Any) -> None:
        await called(store, "begin", "a")
        async with following(store, after=await store.cursor("runs")) as runs:
            await called(store, "begin", "b")
            await called(store, "begin", "c")
            (first,) = await runs.take(1)
        async with following(store, after=first.cursor) as runs:
            assert await runs.names(1) == ["c"]

    async def test_a_forgotten_run_before_it_hides_no_later_change(self, store: Any) -> None:
        await store.put("a", "node", 1)
        await called(store, "begin", "b")
        await store.delete_run("b", forget=True)
        cursor = await store.cursor("runs")
        await called(store, "begin", "c")
        async with following(store, after=cursor) as runs:
            assert await runs.names(1) == ["c"]


class TestElsewhere:
    @pytest.mark.usefixtures("shared_target")
    async def test_it_is_good_in_another_object_and_after_a_restart(self, make_store: Target) -> None:
        async with make_store() as one:
            await one.put("run", "a", 1)
            outputs, of_runs = await one.cursor(), await one.cursor("runs")
        async with make_store() as other:
            await other.put("new", "b", 1)
            async with watching(other, None, after=outputs) as watch:
                assert await watch.take(1) == ["b"]
            async with following(other, after=of_runs) as runs:
                assert await runs.names(1) == ["new"]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_has_one_too(self, make_store: Target) -> None:
        async with make_store() as writer, make_store(read_only=True) as reader:
            await writer.put("run", "a", 1)
            outputs, of_runs = await reader.cursor(), await reader.cursor("runs")
            await writer.put("new", "b", 1)
            for store in (writer, reader):
                async with watching(store, None, after=outputs) as watch, following(store, after=of_runs) as runs:
                    assert await watch.take(1) == ["b"]
                    assert await runs.names(1) == ["new"]


class TestMistakes:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize(
        ("of", "error"), [("runss", ValueError), ("", ValueError), (None, TypeError), (b"runs", TypeError)]
    )
    async def test_another_history_is_refused_with_those_there_are(
        self, store: Any, of: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=r"^of must be one of 'outputs', 'runs', not "):
            await store.cursor(of)

    async def test_the_one_is_not_taken_for_the_other(self, store: Any) -> None:
        await store.put("run", "a", 1)
        async with watching(store, None, after=await store.cursor("runs")) as watch:
            with pytest.raises(ValueError, match="after is no cursor of this store"):
                await watch.next()
        async with following(store, after=await store.cursor("outputs")) as runs:
            with pytest.raises(ValueError, match="after is no cursor of the runs of this store"):
                await runs.next()

    async def test_one_of_another_store_is_refused(self, store: Any, tmp_path: Any) -> None:
        with ContextStore(tmp_path / "other.db") as other:
            outputs, of_runs = other.cursor(), other.cursor("runs")
        async with watching(store, None, after=outputs) as watch, following(store, after=of_runs) as runs:
            for follower in (watch, runs):
                with pytest.raises(ValueError, match="after is no cursor"):
                    await follower.next()

    async def test_a_closed_store_has_none(self, make_store: Target) -> None:
        store = make_store()
        await store.open()
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.cursor()


WRITER = """
    with ContextStore(sys.argv[1]) as store:
        say("open")
        sys.stdin.readline()
        for number in range(int(sys.argv[2])):
            if number % 2:
                store.put_many(f"put-{sys.argv[3]}-{number}", {"a": 1, "b": 1})
            else:
                store.run(f"begun-{sys.argv[3]}-{number}").begin()
        say("written")
"""


def told_up_to_the_end(followed: Any) -> set[str]:
    """The runs that a watch of either kind tells of, up to the last one."""
    told: set[str] = set()
    while "end" not in told:
        told.add(next(followed).flow_run_id)
    followed.close()
    return told


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_nothing_that_two_processes_commit_after_it_is_missed(engine: str, request: pytest.FixtureRequest) -> None:
    """What another object sees before the call is not told, and what it does not see after the call is told."""
    seed = random.randrange(10**6)
    print("seed", seed)
    location, count = new_location(engine, request), some(200, 40)
    with ContextStore(location) as store, ContextStore(location) as witness:

        def committed() -> set[str]:
            runs = witness.list_runs(limit=10 * count)
            return {run.flow_run_id for run in runs if run.outputs or run.begun_at is not None}

        taken = []
        with children(2, WRITER, location, count) as writers:
            assert [writer.hear() for writer in writers] == ["open"] * 2
            for writer in writers:
                writer.tell()
            while len(before := committed()) < 2 * count:
                cursors = store.cursor(), store.cursor("runs")
                taken.append((before, cursors, committed()))
            assert [writer.end()[1] for writer in writers] == [["written"]] * 2
        store.put("end", "z", 1)
        everything = committed()
        for before, cursors, after in random.Random(seed).sample(taken, min(20, len(taken))):
            outputs = told_up_to_the_end(store.watch(after=cursors[0]))
            runs = told_up_to_the_end(store.watch_runs(after=cursors[1]))
            assert not (outputs | runs) & before
            assert runs >= everything - after
            assert outputs >= {name for name in everything - after if name.startswith("put")}
