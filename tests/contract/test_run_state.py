"""State values of a run: small, mutable, with versions, and gone with the run."""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    CorruptStoreError,
    DeserializationError,
    GlobalAlreadyExistsError,
    InvalidKeyError,
    ReadOnlyStoreError,
    RunDeletedError,
    SerializationError,
    StateEntry,
    VersionConflictError,
)

from ..conftest import Target, new_location
from ..support.doubles import core_of
from ..support.forked import children
from ..support.portions import some
from .runs import RUN
from .test_flow_run import Bound
from .test_lives import ENDS
from .test_update_global import increment
from .test_what_is_left import Place

HOSTILE_KEYS = [
    "",
    "'; DROP TABLE run_states; --",
    "%",
    "a_b",
    "ä\U0001f600",
    "x" * 1024,
    "$.a",
    "[1]",
    '"',
    "\\",
    "\x01",
]


class _InThread:
    def __init__(self, batch: Any) -> None:
        self._batch = batch

    async def __aenter__(self) -> Any:
        return await asyncio.to_thread(self._batch.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._batch.__exit__, *exc)


def batch_of(store: Any) -> Any:
    return _InThread(store.plain.batch()) if hasattr(store, "plain") else store.batch()


class TestReadingAndWriting:
    async def test_what_is_written_is_read_with_versions_that_rise(self, store: Any) -> None:
        run = Bound(store)
        assert await run.get_state("cursor") is None
        assert await run.get_state("cursor", "default") == "default"
        assert await run.upsert_state("cursor", {"at": 1}) == 1
        assert await run.upsert_state("cursor", b"\x00") == 2
        assert await run.get_state("cursor") == b"\x00"
        assert await run.upsert_state("cursor", None) == 3
        assert await run.get_state("cursor", "default") is None

    async def test_a_value_comes_back_as_the_type_that_is_asked_for(self, store: Any) -> None:
        run = Bound(store)
        await run.upsert_state("when", datetime.date(2026, 1, 2))
        assert await run.get_state("when", type=datetime.date) == datetime.date(2026, 1, 2)
        with pytest.raises(DeserializationError) as caught:
            await run.get_state("when", type=int)
        assert "state value 'when' of flow run 'run'" in str(caught.value)

    async def test_a_value_that_cannot_be_stored_is_refused_and_named(self, store: Any) -> None:
        run = Bound(store)
        with pytest.raises(SerializationError) as caught:
            await run.upsert_state("key", {"a": [object()]})
        assert caught.value.path == "$.a[0]"
        assert "state value 'key' of flow run 'run'" in str(caught.value)
        assert await run.list_state() == []

    async def test_compare_and_set_writes_over_what_was_expected_alone(self, store: Any) -> None:
        run = Bound(store)
        with pytest.raises(VersionConflictError) as caught:
            await run.upsert_state("key", 1, expected_version=1)
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("key", 1, 0)
        assert await run.upsert_state("key", 1, expected_version=0) == 1
        with pytest.raises(VersionConflictError):
            await run.upsert_state("key", 2, expected_version=0)
        assert await run.upsert_state("key", 2, expected_version=1) == 2
        assert await run.get_state("key") == 2

    async def test_a_refused_write_makes_no_run(self, store: Any) -> None:
        with pytest.raises(VersionConflictError):
            await Bound(store).upsert_state("key", 1, expected_version=1)
        assert (await store.stats()).runs == 0
        assert await store.delete_run("run", forget=True) == 0

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("wrong", [-1, 1.0, "1", True])
    async def test_what_is_no_version_is_refused(self, store: Any, wrong: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            await Bound(store).upsert_state("key", 1, expected_version=wrong)

    async def test_all_are_listed_by_key_with_their_versions_and_times(self, store: Any) -> None:
        run = Bound(store)
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=5)
        for key in ("b/2", "a", "b/1", "b/1"):
            await run.upsert_state(key, key.upper())
        entries = await run.list_state()
        assert [(entry.key, entry.value, entry.version) for entry in entries] == [
            ("a", "A", 1),
            ("b/1", "B/1", 2),
            ("b/2", "B/2", 1),
        ]
        assert all(isinstance(entry, StateEntry) and entry.written_at > before for entry in entries)
        assert [entry.key for entry in await run.list_state("b/")] == ["b/1", "b/2"]
        assert await run.list_state("c") == []

    async def test_many_are_listed_however_many_they_are(self, store: Any) -> None:
        async with batch_of(store) as batch:
            for number in range(1100):
                batch.upsert_state("run", f"{number:04}", number)
        entries = await Bound(store).list_state()
        assert [entry.value for entry in entries] == list(range(1100))

    async def test_hostile_keys_are_keys(self, store: Any) -> None:
        run = Bound(store)
        for number, key in enumerate(HOSTILE_KEYS):
            assert await run.upsert_state(key, number, expected_version=0) == 1
        for number, key in enumerate(HOSTILE_KEYS):
            assert await run.get_state(key) == number
        assert [entry.key for entry in await run.list_state()] == sorted(HOSTILE_KEYS)
        assert [entry.key for entry in await run.list_state("%")] == ["%"]

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("wrong", ["a\0", "\ud800", "x" * 1025, 5, None, b"a"])
    async def test_what_is_no_key_is_refused_by_each_call(self, store: Any, wrong: Any) -> None:
        run = Bound(store)
        for call in (
            lambda: run.get_state(wrong),
            lambda: run.upsert_state(wrong, 1),
            lambda: run.update_state(wrong, increment),
            lambda: run.list_state(wrong),
        ):
            with pytest.raises(InvalidKeyError):
                await call()

    async def test_a_uuid_is_its_canonical_string(self, store: Any) -> None:
        run = Bound(store)
        await run.upsert_state(RUN, 1)
        assert [entry.key for entry in await run.list_state()] == [str(RUN)]
        assert await run.get_state(str(RUN)) == 1

    async def test_runs_and_globals_are_apart(self, store: Any) -> None:
        await store.upsert_global("key", "global")
        await Bound(store, "one").upsert_state("key", 1)
        await Bound(store, "other").upsert_state("key", 2)
        assert await Bound(store, "one").get_state("key") == 1
        assert await store.get_global("key") == "global"

    async def test_a_run_without_an_output_is_there_and_sound(self, store: Any) -> None:
        await Bound(store).upsert_state("key", 1)
        report = await store.check()
        assert report.problems == ()

    async def test_a_value_that_is_larger_than_allowed_is_refused(self, make_store: Target) -> None:
        async with make_store(max_value_bytes=100) as store:
            with pytest.raises(SerializationError):
                await Bound(store).upsert_state("key", "x" * 100)

    async def test_a_read_only_store_reads_them_and_writes_none(self, make_store: Target, shared_target: None) -> None:
        async with make_store() as store:
            await Bound(store).upsert_state("key", 1)
            async with make_store(read_only=True) as reader:
                run = Bound(reader)
                assert await run.get_state("key") == 1
                assert len(await run.list_state()) == 1
                for call in (lambda: run.upsert_state("key", 2), lambda: run.update_state("key", increment)):
                    with pytest.raises(ReadOnlyStoreError):
                        await call()

    async def test_what_another_object_writes_is_read_at_once(self, make_store: Target, shared_target: None) -> None:
        async with make_store() as one, make_store() as other:
            mine, theirs = Bound(one), Bound(other)
            for number in range(1, 4):
                assert await mine.upsert_state("key", number) == number
                assert await theirs.get_state("key") == number


class TestInBatches:
    async def test_outputs_globals_and_state_values_are_one_commit(self, store: Any) -> None:
        async with batch_of(store) as batch:
            batch.put("run", "node", 1)
            batch.upsert_state("run", "key", "first", expected_version=0)
            batch.upsert_state("other", "key", "of another")
            batch.upsert_global("key", "global")
        assert await store.get("run", "node") == 1
        assert await Bound(store).get_state("key") == "first"
        assert await Bound(store, "other").get_state("key") == "of another"

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("refused", ["state", "output", "global"])
    async def test_if_one_of_them_is_refused_nothing_is_written(self, store: Any, refused: str) -> None:
        await store.put("there", "node", "there")
        await store.upsert_global("there", 1)
        put_what_is_refused: dict[str, tuple[type[Exception], Callable[[Any], None]]] = {
            "state": (
                VersionConflictError,
                lambda batch: batch.upsert_state("there", "key", 1, expected_version=1),
            ),
            "output": (AlreadyExistsError, lambda batch: batch.put("there", "node", "else")),
            "global": (GlobalAlreadyExistsError, lambda batch: batch.put_global("there", 2)),
        }
        error, put_it = put_what_is_refused[refused]

        async def write() -> None:
            async with batch_of(store) as batch:
                batch.put("run", "node", 1)
                batch.upsert_state("run", "first", 1)
                put_it(batch)
                batch.upsert_state("run", "last", 1)

        with pytest.raises(error):
            await write()
        assert await store.get("run", "node") is None
        assert await Bound(store).list_state() == []
        assert (await store.stats()).runs == 1

    async def test_the_last_write_of_a_key_takes_the_place_of_those_before(self, store: Any) -> None:
        async with batch_of(store) as batch:
            batch.upsert_state("run", "key", "first", expected_version=5)
            batch.upsert_state("run", "key", "last")
        assert await Bound(store).get_state("key") == "last"
        assert (await Bound(store).list_state())[0].version == 1

    async def test_a_deleted_run_takes_none(self, store: Any) -> None:
        await store.delete_run("run")

        async def write() -> None:
            async with batch_of(store) as batch:
                batch.put("other", "node", 1)
                batch.upsert_state("run", "key", 1)

        with pytest.raises(RunDeletedError):
            await write()
        assert await store.get("other", "node") is None

    async def test_two_batches_that_meet_crosswise_both_commit(self, make_store: Target, shared_target: None) -> None:
        async with make_store() as one, make_store() as other:

            async def write(store: Any, first: str, second: str) -> None:
                for number in range(20):
                    async with batch_of(store) as batch:
                        batch.put(first, f"{first}-{second}-{number}", 1)
                        batch.delete_outputs(first, prefix="x")
                        batch.upsert_state(second, "key", number)

            await asyncio.gather(write(one, "a", "b"), write(other, "b", "a"))
            assert [(await Bound(one, run).list_state())[0].version for run in "ab"] == [20, 20]


class TestUpdating:
    async def test_the_new_value_is_what_the_function_makes_of_the_old(self, store: Any) -> None:
        run = Bound(store)
        assert await run.update_state("key", lambda value: [value], "first") == ["first"]
        assert await run.update_state("key", lambda value: [*value, (2,)]) == ["first", [2]]
        assert (await run.list_state())[0].version == 2

    async def test_a_coroutine_function_is_awaited(self, store: Any) -> None:
        if hasattr(store, "plain"):
            pytest.skip("the blocking face takes plain functions")

        async def count(value: int) -> int:
            await asyncio.sleep(0)
            return value + 1

        assert await Bound(store).update_state("key", count, 0) == 1

    async def test_a_hundred_at_once_lose_no_update_and_call_the_function_once_each(self, store: Any) -> None:
        run, calls = Bound(store), [0]

        def count(value: int | None) -> int:
            calls[0] += 1
            return increment(value)

        values = await asyncio.gather(*(run.update_state("key", count) for _ in range(100)))
        assert sorted(values) == list(range(1, 101))
        assert calls == [100]

    async def test_two_objects_lose_no_update(self, make_store: Target, shared_target: None) -> None:
        async with make_store() as one, make_store() as other:
            runs = Bound(one), Bound(other)
            await asyncio.gather(*(runs[i % 2].update_state("key", increment) for i in range(60)))
            assert await runs[0].get_state("key") == 60

    async def test_what_the_function_raises_is_raised_and_nothing_is_written(self, store: Any) -> None:
        run = Bound(store)
        with pytest.raises(LookupError):
            await run.update_state("key", lambda value: {}["x"])
        assert await run.get_state("key", "none") == "none"
        with pytest.raises(TypeError):
            await run.update_state("key", 5)

    async def test_each_run_of_the_function_gets_a_fresh_copy(self, store: Any) -> None:
        run, default = Bound(store), {"seen": [0]}

        def add(value: dict[str, list[int]]) -> dict[str, list[int]]:
            value["seen"].append(1)
            return value

        await run.update_state("key", add, default)
        assert default == {"seen": [0]}
        assert await run.update_state("key", add, default) == {"seen": [0, 1, 1]}

    async def test_a_function_that_updates_the_same_key_is_refused(self, store: Any) -> None:
        run = Bound(store)
        if run.blocking is not None:
            blocking = run.blocking
            with pytest.raises(RuntimeError, match="wait for itself"):
                await run.update_state("key", lambda _: blocking.update_state("key", increment))
            return

        async def again(_: Any) -> Any:
            return await run.update_state("key", increment)

        with pytest.raises(RuntimeError, match="wait for itself"):
            await run.update_state("key", again)

    async def test_a_function_may_update_another_key(self, store: Any) -> None:
        run = Bound(store)
        if run.blocking is not None:
            blocking = run.blocking
            assert await run.update_state("key", lambda _: blocking.update_state("other", increment)) == 1
            return

        async def other(_: Any) -> Any:
            return await run.update_state("other", increment)

        assert await run.update_state("key", other) == 1


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_once_the_life_of_a_run_is_over_its_writes_raise_and_its_reads_find_nothing(store: Any, end: Any) -> None:
    run, called = Bound(store), [0]
    await run.upsert_state("key", "first")
    await end(store)
    assert await run.get_state("key", "default") == "default"
    assert await run.list_state() == []

    def count(value: Any) -> Any:
        called[0] += 1
        return value

    for write in (
        lambda: run.upsert_state("key", 2),
        lambda: run.upsert_state("key", 2, expected_version=0),
        lambda: run.update_state("key", count),
    ):
        with pytest.raises(RunDeletedError):
            await write()
    assert called == [0]
    assert await Bound(store).list_state() == []


async def test_each_first_call_binds_a_run_object_to_the_life_that_it_finds(store: Any) -> None:
    for first in (
        lambda run: run.get_state("key"),
        lambda run: run.get_state("nothing"),
        lambda run: run.list_state("nothing"),
        lambda run: run.upsert_state("key", 2),
        lambda run: run.update_state("key", increment),
    ):
        await Bound(store).upsert_state("key", 1)
        run = Bound(store)
        await first(run)
        await store.delete_run("run", forget=True)
        await Bound(store).upsert_state("key", "of the next life")
        assert await run.get_state("key", "default") == "default"
        with pytest.raises(RunDeletedError):
            await run.upsert_state("key", 3)
        await store.delete_run("run", forget=True)


async def test_a_read_is_one_trip(store: Any) -> None:
    run = Bound(store)
    await run.upsert_state("key", 1)
    engine: Any = core_of(store)._session.engine
    trips: list[str] = []
    for name in ("find_run", "fetch_state"):
        setattr(engine, name, _noted(trips, name, getattr(engine, name)))
    assert await Bound(store).get_state("key") == 1
    assert await run.get_state("key") == 1
    assert trips == ["fetch_state"] * 2


def _noted(trips: list[str], name: str, call: Any) -> Any:
    async def noted(*args: Any) -> Any:
        trips.append(name)
        return await call(*args)

    return noted


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_four_processes_with_25_tasks_each_lose_no_update(engine: str, request: pytest.FixtureRequest) -> None:
    program = """
        async def main():
            async with AsyncContextStore(sys.argv[1]) as store:
                run = store.run("run")
                say("ready")
                await asyncio.to_thread(sys.stdin.readline)
                async def work():
                    for _ in range(int(sys.argv[2])):
                        await run.update_state("counter", lambda value: value + 1, 0)
                await asyncio.gather(*(work() for _ in range(25)))
        asyncio.run(main())
    """
    place, each = new_location(engine, request), some(4, 1)
    with ContextStore(place):
        pass
    with children(4, program, place, each) as processes:
        for process in processes:
            assert process.hear() == "ready"
        for process in processes:
            process.tell()
        for process in processes:
            status, _, err = process.end(timeout=120)
            assert (status, err) == (0, "")
    with ContextStore(place) as store:
        (entry,) = store.run("run").list_state()
        assert (entry.value, entry.version) == (4 * 25 * each, 4 * 25 * each)


async def test_it_is_a_dict_with_versions_for_each_run(store: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    model: dict[str, dict[str, tuple[Any, int]]] = {}
    for _ in range(120):
        name, key = chance.choice("ab"), chance.choice(["", "k", "k/1", "ö"])
        run, there = Bound(store, name), model.setdefault(name, {})
        value, version = there.get(key, ("default", 0))
        match chance.randrange(6):
            case 0:
                assert await run.get_state(key, "default") == value
            case 1:
                expected = chance.choice([None, version, version + 1])
                if expected == version + 1:
                    with pytest.raises(VersionConflictError):
                        await run.upsert_state(key, 1, expected_version=expected)
                else:
                    there[key] = (chance.random(), version + 1)
                    assert await run.upsert_state(key, there[key][0], expected_version=expected) == version + 1
            case 2:
                there[key] = ([value], version + 1)
                assert await run.update_state(key, lambda old: [old], "default") == [value]
            case 3:
                prefix = chance.choice(["", "k", "x"])
                assert [(e.key, e.value, e.version) for e in await run.list_state(prefix)] == [
                    (k, *there[k]) for k in sorted(there) if k.startswith(prefix)
                ]
            case 4:
                async with batch_of(store) as batch:
                    for one in {key, "k"}:
                        there[one] = (chance.random(), there.get(one, (None, 0))[1] + 1)
                        batch.upsert_state(name, one, there[one][0])
            case 5 if chance.random() < 0.3:
                await store.delete_run(name, forget=True)
                model[name] = {}


@pytest.mark.parametrize("engine", ["file", "postgres"])
@pytest.mark.parametrize("column", ["value", "checksum", "size", "written_at"])
def test_damage_is_told_with_the_run_and_the_key(engine: str, column: str, request: pytest.FixtureRequest) -> None:
    place = Place(engine, request)
    with ContextStore(place.location) as store:
        run = store.run("run")
        run.upsert_state("sound", 1)
        run.upsert_state("damaged", 1)
        broken = "'2'" if column == "value" else "-1"
        place.execute(f"UPDATE {{schema}}run_states SET {column} = {broken} WHERE key = 'damaged'")
        for read in (lambda: run.get_state("damaged"), run.list_state, lambda: run.update_state("damaged", increment)):
            with pytest.raises(CorruptStoreError) as caught:
                read()
            assert (caught.value.flow_run_id, caught.value.node_id, caught.value.key) == ("run", None, "damaged")
        assert run.get_state("sound") == 1
        assert run.upsert_state("damaged", 3) == 2  # to write over it is a way to be rid of it
        assert run.get_state("damaged") == 3
