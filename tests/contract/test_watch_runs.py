"""``watch_runs``: the runs that there are, then each as it changes, in commit order, resumed at any cursor."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
import trio

from contextstore import AsyncContextStore, ContextStore, RunInfo, StoreClosedError
from contextstore._core import run_watching as _watching
from contextstore._postgres import run_news as _postgres
from contextstore._sqlite import run_news as _sqlite

from ..conftest import Target, new_location
from .followed import Following, called, following
from .waiting import TOLD, outcomes_of, spawn, subscriptions, waiting

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


def states(infos: list[RunInfo]) -> list[tuple[str, str]]:
    return [(info.flow_run_id, info.state) for info in infos]


async def begun(store: Any, *names: str, **options: Any) -> None:
    for name in names:
        await called(store, "begin", name, **options)


class TestWhatIsTold:
    async def test_those_that_are_there_come_oldest_first_as_they_are_now(self, store: Any) -> None:
        await store.put("with outputs", "a", 1)
        await begun(store, "begun", attributes={"team": "a"})
        await called(store, "update", "ended", state="failed", error="no")
        await store.put_many("with outputs", {"b": 1, "c": 2})
        await store.delete_run("never seen")
        async with following(store) as runs:
            infos = await runs.take(3)
        assert states(infos) == [("with outputs", "open"), ("begun", "open"), ("ended", "failed")]
        assert [info.outputs for info in infos] == [3, 0, 0]
        assert [await store.get_run_info(info.flow_run_id) for info in infos] == [
            RunInfo(**{name: getattr(info, name) for name in RunInfo.__slots__ if name != "cursor"}) for info in infos
        ]
        assert len({info.cursor for info in infos}) == 3

    @pytest.mark.each_pair
    async def test_then_each_as_it_changes_by_any_object(self, pair: tuple[Any, Any]) -> None:
        follows, writes = pair
        await begun(writes, "first")
        async with following(follows) as runs:
            assert await runs.names(1) == ["first"]
            (later,) = spawn(runs.next())
            await waiting(follows)
            await begun(writes, "second", attributes={"n": 1})
            assert (await later).attributes == {"n": 1}
            await called(writes, "update", "first", state="completed")
            assert states([await runs.next()]) == [("first", "completed")]
            await writes.put("third", "a", 1)
            assert (await runs.next()).outputs == 1
            await writes.put("first", "a", 1)
            assert (await runs.next()).outputs == 1
            await writes.delete_run("second")
            (deleted,) = await runs.take(1)
            assert (deleted.flow_run_id, deleted.state, deleted.outputs) == ("second", "deleted", 0)
            assert (deleted.attributes, deleted.begun_at) == ({}, None)

    @pytest.mark.each_pair
    async def test_failures_and_outputs_of_steps_are_told_one_after_the_other(self, pair: tuple[Any, Any]) -> None:
        follows, writes = pair
        await writes.put("run", "first", 1)
        async with following(follows) as runs:
            assert [info.outputs for info in await runs.take(1)] == [1]
            for number in range(1, 4):
                with pytest.raises(ZeroDivisionError):
                    await called(writes, "step", "run", f"step {number}", divmod, 1, 0)
                told = await runs.next()
                assert (told.outputs, told.failures) == (number, number)
                await called(writes, "step", "run", f"step {number}", str, 1)
                told = await runs.next()
                assert (told.outputs, told.failures) == (number + 1, number)

    async def test_a_failure_alone_makes_a_run_that_is_told(self, store: Any) -> None:
        await store.put("other", "node", 1)
        async with following(store) as runs:
            await runs.take(1)
            with pytest.raises(ZeroDivisionError):
                await called(store, "step", "run", "node", divmod, 1, 0)
            told = await runs.next()
        assert (told.flow_run_id, told.outputs, told.failures, told.state) == ("run", 0, 1, "open")

    async def test_quick_changes_come_in_the_order_of_the_last_ones(self, store: Any) -> None:
        async with following(store) as runs:
            (first,) = spawn(runs.next())
            await waiting(store)
            await begun(store, "begin")
            await first
            (second,) = spawn(runs.next())
            await waiting(store)
            for name in ("a", "b", "c", "a", "b", "a", "last"):
                await called(store, "update", name, attributes={"seen": name})
            told = [await second]
            while told[-1].flow_run_id != "last":
                told.append(await runs.next())
        newest = list(dict.fromkeys(info.flow_run_id for info in reversed(told)))
        assert newest == ["last", "a", "b", "c"]

    async def test_a_commit_that_changes_nothing_of_a_run_tells_nothing(self, store: Any) -> None:
        await begun(store, "run")
        async with following(store) as runs:
            await runs.take(1)
            await store.put_global("key", 1)
            await begun(store, "next")
            assert await runs.names(1) == ["next"]

    async def test_who_never_asked_has_no_cursor(self, store: Any) -> None:
        await begun(store, "run")
        assert (await store.get_run_info("run")).cursor is None


class TestFilters:
    async def test_are_asked_of_the_run_as_it_is_told(self, store: Any) -> None:
        await begun(store, "a", "b")
        await called(store, "update", "b", state="completed")
        async with following(store, state="open") as runs:
            assert await runs.names(1) == ["a"]
            await called(store, "update", "a", state="failed")
            await called(store, "update", "b", state="open")
            assert await runs.names(1) == ["b"]

    async def test_several_states_and_deletions_are_named(self, store: Any) -> None:
        await begun(store, "a", "b", "c")
        async with following(store, state=["completed", "deleted"]) as runs:
            (first,) = spawn(runs.next())
            await waiting(store)
            await called(store, "update", "a", state="completed")
            assert states([await first]) == [("a", "completed")]
            await store.delete_run("b")
            assert states([await runs.next()]) == [("b", "deleted")]

    async def test_attributes_are_compared_as_json(self, store: Any) -> None:
        for name, value in [("int", 1), ("float", 1.0), ("bool", True), ("str", "1")]:
            await begun(store, name, attributes={"n": value, "also": "x"})
            for other, wanted in [("int", 1), ("float", 1.0), ("bool", True), ("str", "1")]:
                if other == name:
                    async with following(store, attributes={"n": wanted}) as runs:
                        assert await runs.names(1) == [name]
        async with following(store, attributes={"n": "1", "also": "x"}, parent=None) as runs:
            assert await runs.names(1) == ["str"]

    @pytest.mark.parametrize("name", ["a'b", 'a"b', "$.x", "a;DROP TABLE flow_runs", "%", "ключ"])
    @pytest.mark.each_input_once
    async def test_their_names_are_data(self, store: Any, name: str) -> None:
        await begun(store, "other", attributes={"x": name})
        await begun(store, "run", attributes={name: name})
        async with following(store, attributes={name: name}) as runs:
            assert await runs.names(1) == ["run"]

    async def test_of_a_parent_or_with_attributes_and_no_deletions_since_nothing_tells_whose(self, store: Any) -> None:
        await begun(store, "alone")
        await begun(store, "child", parent="above", attributes={"k": 1})
        await begun(store, "other child", parent="beside")
        for wanted in ({"parent": "above"}, {"attributes": {"k": 1}}, {"parent": "above", "attributes": {"k": 1}}):
            async with following(store, **wanted) as runs, following(store) as of_all:
                (child,) = await runs.take(1)
                await of_all.until(child.flow_run_id)
                await store.delete_run(child.flow_run_id)
                assert states([(await of_all.until(child.flow_run_id))[-1]]) == [(child.flow_run_id, "deleted")]
                name = f"next of {child.flow_run_id}"
                await begun(store, name, parent="above", attributes={"k": 1})
                assert await runs.names(1) == [name]

    async def test_what_fits_among_thousands_that_do_not_is_found_in_bounded_steps(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (_sqlite, _postgres):
            monkeypatch.setattr(module, "_WINDOW_ROWS", 3)
        await begun(store, *(f"other-{number}" for number in range(10)))
        await begun(store, "wanted", attributes={"w": True})
        async with following(store, attributes={"w": True}) as runs:
            assert await runs.names(1) == ["wanted"]
            for number in range(10):
                await store.put(f"other-{number}", "a", 1)
            await store.put_many("wanted", {f"n{number}": 1 for number in range(10)})
            assert await runs.names(1) == ["wanted"]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"state": "gone"}, ValueError),
            ({"state": []}, ValueError),
            ({"state": 1}, TypeError),
            ({"attributes": ["a"]}, TypeError),
            ({"attributes": {"a": None}}, TypeError),
            ({"attributes": {"a": float("nan")}}, ValueError),
            ({"parent": ""}, ValueError),
            ({"after": 7}, TypeError),
            ({"after": "no cursor"}, ValueError),
        ],
    )
    @pytest.mark.each_input_once
    async def test_what_can_be_none_is_refused(self, store: Any, options: Any, error: type[Exception]) -> None:
        async with following(store, **options) as runs:
            with pytest.raises(error, match=next(iter(options))):
                await runs.next()


class TestCursors:
    @pytest.mark.parametrize("seed", [None, pytest.param(7, marks=pytest.mark.thorough)])
    async def test_at_each_one_it_goes_on_without_a_gap(
        self, store: Any, monkeypatch: pytest.MonkeyPatch, seed: int | None
    ) -> None:
        """What is told behind a cursor has each run's last state, unless it was told before it."""
        seed = random.randrange(10**6) if seed is None else seed
        print("seed", seed)
        chance = random.Random(seed)
        for module in (_sqlite, _postgres):
            monkeypatch.setattr(module, "_WINDOW_ROWS", chance.choice([1, 2, 5]))
        monkeypatch.setattr(_watching, "PAGE_ROWS", chance.choice([1, 2, 50]))
        names = [f"run-{number}" for number in range(6)]
        told: list[RunInfo] = []

        async def change(number: int) -> None:
            name = chance.choice(names)
            kind = chance.randrange(3)
            if kind == 0:
                await called(store, "update", name, attributes={"n": number})
            elif kind == 1:
                await store.put(name, f"node-{number}", number)
            else:
                await store.put_many(name, {f"many-{number}-{nth}": nth for nth in range(chance.randrange(1, 8))})

        for number in range(10):
            await change(number)
        async with following(store) as runs:
            for burst in range(4):
                for number in range(6):
                    await change(10 + 6 * burst + number)
                await called(store, "begin", f"end-{burst}")
                told += await runs.until(f"end-{burst}")
        found = {name: await store.get_run_info(name) for name in names}
        now = {name: _facts(info) for name, info in found.items() if info is not None}
        for number, info in enumerate(told):
            known = {one.flow_run_id: _facts(one) for one in told[: number + 1]}
            async with following(store, after=info.cursor) as runs:
                while any(known.get(name) != facts for name, facts in now.items()):
                    one = await runs.next()  # in vain, and so not for ever, if there is a gap
                    known[one.flow_run_id] = _facts(one)

    async def test_within_the_first_part_too(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_watching, "PAGE_ROWS", 2)
        names = [f"run-{number}" for number in range(7)]
        await begun(store, *names)
        async with following(store) as runs:
            infos = await runs.take(4)
        await called(store, "update", "run-0", state="completed")
        await store.delete_run("run-6")
        async with following(store, after=infos[-1].cursor) as runs:
            assert states(await runs.take(4)) == [
                *[("run-4", "open"), ("run-5", "open"), ("run-0", "completed"), ("run-6", "deleted")]
            ]

    async def test_a_forgotten_run_hides_no_later_change(self, store: Any) -> None:
        async with following(store) as runs:
            (first,) = spawn(runs.next())
            await waiting(store)
            await begun(store, "a")
            await first
            await store.delete_run("a")
            (deleted,) = await runs.take(1)
        await store.delete_run("a", forget=True)
        for after in (deleted.cursor,):
            async with following(store, after=after) as runs:
                (later,) = spawn(runs.next())
                await waiting(store)
                await begun(store, "b")
                assert (await later).flow_run_id == "b"

    async def test_of_another_store_or_of_an_output_it_is_refused(
        self, store: Any, make_store: Target, request: pytest.FixtureRequest, tmp_path: Any
    ) -> None:
        await begun(store, "run")
        await store.put("run", "a", 1)
        with ContextStore(tmp_path / "other.db") as other:
            other.run("run").begin()
            foreign = next(other.watch_runs()).cursor
        async with following(store) as runs:
            (own,) = await runs.take(1)
        watch = getattr(store, "plain", store).watch()
        output = next(watch) if hasattr(store, "plain") else await anext(watch)
        watch.close() if hasattr(store, "plain") else await watch.aclose()
        for cursor in (foreign, output.cursor):
            async with following(store, after=cursor) as runs:
                with pytest.raises(ValueError, match="no cursor of the runs of this store"):
                    await runs.next()
        made = getattr(store, "plain", store).watch(after=own.cursor)
        with pytest.raises(ValueError, match="no cursor"):
            await (outcome(made) if hasattr(store, "plain") else anext(made))


async def outcome(iterator: Any) -> Any:
    return next(iterator)


def _facts(info: RunInfo) -> tuple[Any, ...]:
    return info.flow_run_id, info.state, info.outputs, info.attributes


class TestItsEnd:
    async def test_closing_the_store_ends_it(self, make_store: Target) -> None:
        store = make_store()
        await store.open()
        made = Following(store)
        (step,) = spawn(made.next())
        await waiting(store)
        await store.close()
        assert [type(outcome) for outcome in await outcomes_of([step])] == [StoreClosedError]
        await made.close()

    async def test_a_cancelled_step_leaves_nothing(self, make_store: Target) -> None:
        tasks_store = make_store()
        if hasattr(tasks_store, "plain"):
            pytest.skip("threads cannot be cancelled")
        await tasks_store.open()
        made = [Following(tasks_store, state="open") for _ in range(5)]
        steps = spawn(*(one.next() for one in made))
        await waiting(tasks_store, 5)
        for step in steps:
            step.cancel()
        await outcomes_of(steps)
        assert subscriptions(tasks_store) == []


@pytest.mark.parametrize("engine", ["file", "postgres"])
async def test_a_store_that_is_only_read_follows_too(engine: str, request: pytest.FixtureRequest) -> None:
    location = new_location(engine, request)
    with ContextStore(location) as writer, ContextStore(location, read_only=True) as reader:
        writer.run("a").begin()
        runs = reader.watch_runs()
        assert next(runs).flow_run_id == "a"
        writer.run("b").begin()
        assert next(runs).flow_run_id == "b"
        writer.run("a").update(state="completed")
        assert reader.wait_for_run("a", timeout=30).state == "completed"
        runs.close()


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_under_trio_runs_are_followed_and_waited_for_too(engine: str, request: pytest.FixtureRequest) -> None:
    async def main() -> list[str]:
        told: list[str] = []
        async with AsyncContextStore(new_location(engine, request)) as store:

            async def follow() -> None:
                async with contextlib.aclosing(store.watch_runs()) as runs:
                    async for info in runs:
                        told.append(info.state)
                        if info.state == "completed":
                            return

            with trio.fail_after(TOLD):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow)
                    await store.run("run").begin()
                    nursery.start_soon(store.wait_for_run, "run")
                    await store.run("run").update(state="completed")
            with trio.move_on_after(0.01) as scope:
                await store.wait_for_run("none")
            assert scope.cancelled_caught
            assert subscriptions(store) == []
        return told

    assert trio.run(main)[-1] == "completed"
