"""wait_for_global: told of what any process writes, once it is beyond the version that is known."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contextstore import DeserializationError, InvalidKeyError, StorageError, StoreClosedError

from ..conftest import Target
from ..support.doubles import core_of, fail, until
from ..support.forked import Child
from ..support.portions import some
from .passing import Passing, batch_of
from .runs import DAY, Clock
from .waiting import TOLD, outcomes_of, spawn, subscriptions, waiting

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


@pytest.fixture
def passing(make_store: Target, clock: Clock, request: pytest.FixtureRequest) -> Passing:
    return Passing(make_store, clock, request)


@contextlib.asynccontextmanager
async def opened(make_store: Target, count: int) -> Any:
    stores = [make_store() for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        for store in stores:
            await stack.enter_async_context(store)
        yield stores


class TestWhatIsThere:
    async def test_is_given_at_once(self, store: Any) -> None:
        await store.put_global("key", {"a": 1}, ttl=60)
        assert await store.wait_for_global("key", timeout=0) == await store.get_global_entry("key")
        assert subscriptions(store) == []

    async def test_is_converted_to_a_type(self, store: Any) -> None:
        await store.put_global("key", [1, 2])
        entry = await store.wait_for_global("key", type=tuple[int, ...])
        assert (entry.value, entry.version) == ((1, 2), 1)
        with pytest.raises(DeserializationError, match="'key'"):
            await store.wait_for_global("key", type=int)

    async def test_is_waited_beyond_if_its_version_is_known(self, store: Any) -> None:
        version = await store.upsert_global("key", 1)
        (waiter,) = spawn(store.wait_for_global("key", after_version=version))
        await waiting(store)
        await store.upsert_global("key", 2)
        (entry,) = await outcomes_of([waiter])
        assert (entry.value, entry.version) == (2, 2)


WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "put": lambda store: store.put_global("key", 1),
    "upsert": lambda store: store.upsert_global("key", 1),
    "update": lambda store: store.update_global("key", lambda value: 1),
}


@pytest.mark.each_pair
class TestWhatIsWritten:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("write", WRITES)
    async def test_by_this_store_is_told(self, store: Any, write: str) -> None:
        (waiter,) = spawn(store.wait_for_global("key"))
        await waiting(store)
        await WRITES[write](store)
        (entry,) = await outcomes_of([waiter])
        assert (entry.key, entry.value, entry.version) == ("key", 1, 1)

    async def test_by_a_batch_is_told(self, store: Any) -> None:
        waiters = spawn(store.wait_for_global("a"), store.wait_for_global("b"))
        await waiting(store, 2)
        async with batch_of(store) as batch:
            batch.put("run", "node", 1)
            batch.put_global("a", 1)
            batch.upsert_global("b", 2)
        assert [entry.value for entry in await outcomes_of(waiters)] == [1, 2]

    @pytest.mark.usefixtures("shared_target")
    async def test_by_another_store_is_told(self, make_store: Target) -> None:
        async with opened(make_store, 2) as (store, other):
            for version in range(1, 4):
                (waiter,) = spawn(store.wait_for_global("key", after_version=version - 1))
                await waiting(store)
                await other.upsert_global("key", version)
                (entry,) = await outcomes_of([waiter])
                assert (entry.value, entry.version) == (version, version)

    @pytest.mark.usefixtures("shared_target")
    async def test_with_outputs_that_are_waited_for_as_well_is_told(self, make_store: Target) -> None:
        async with opened(make_store, 2) as (store, other):
            waiters = spawn(store.wait_for("run", "node"), store.wait_for_global("key"))
            await waiting(store, 2)
            await other.put_global("key", 1)
            (entry,) = await outcomes_of(waiters[1:])
            assert entry.value == 1
            await other.put("run", "node", 2)
            assert await outcomes_of(waiters[:1]) == [2]

    async def test_to_another_key_is_not_told(self, store: Any) -> None:
        (waiter,) = spawn(store.wait_for_global("key", timeout=0.3))
        await waiting(store)
        await store.put_global("other", 1)
        (outcome,) = await outcomes_of([waiter])
        assert isinstance(outcome, TimeoutError)

    @pytest.mark.usefixtures("shared_target")
    async def test_below_the_version_that_is_known_wakes_nobody(self, make_store: Target) -> None:
        async with opened(make_store, 2) as (store, other):
            (waiter,) = spawn(store.wait_for_global("key", after_version=3))
            await waiting(store)
            for _ in range(3):
                await other.upsert_global("key", 1)
            assert not waiter.done()
            await other.upsert_global("key", "enough")
            (entry,) = await outcomes_of([waiter])
            assert (entry.value, entry.version) == ("enough", 4)


class TestWhatGoesAgain:
    async def test_is_waited_for_anew_when_it_was_deleted(self, store: Any) -> None:
        version = await store.upsert_global("key", 1)
        (waiter,) = spawn(store.wait_for_global("key", after_version=version))
        await waiting(store)
        await store.delete_global("key")
        await store.prune(older_than=DAY)
        assert not waiter.done()
        await store.put_global("key", 2)
        (entry,) = await outcomes_of([waiter])
        assert (entry.value, entry.version) == (2, 2)

    async def test_is_waited_for_anew_when_it_has_expired(self, store: Any, passing: Passing) -> None:
        await store.put_global("key", 1, ttl=60)
        await passing.by(60)
        (waiter,) = spawn(store.wait_for_global("key"))
        await waiting(store)
        await store.put_global("key", 2)
        (entry,) = await outcomes_of([waiter])
        assert (entry.value, entry.version) == (2, 2)


class TestTheEnd:
    async def test_of_the_time_is_the_builtin_error_that_names_the_key(self, store: Any) -> None:
        with pytest.raises(TimeoutError, match=r"global 'key' was not there within 0\.01 seconds"):
            await store.wait_for_global("key", timeout=0.01)
        await store.put_global("key", 1)
        with pytest.raises(TimeoutError, match="above version 1"):
            await store.wait_for_global("key", after_version=1, timeout=0)
        assert (await store.stats()).globals == 1

    async def test_of_the_store_ends_all_waiting(self, make_store: Target) -> None:
        store = make_store()
        await store.open()
        waiters = spawn(*(store.wait_for_global(f"key {i % 2}") for i in range(4)))
        await waiting(store, 4)
        await store.close()
        assert {type(outcome) for outcome in await outcomes_of(waiters)} == {StoreClosedError}

    async def test_of_a_call_that_is_cancelled_leaves_nothing(self, store: Any) -> None:
        if hasattr(store, "plain"):
            pytest.skip("threads cannot be cancelled")
        waiters = spawn(*(store.wait_for_global("key") for _ in range(3)))
        await waiting(store, 3)
        waiters[0].cancel()
        await until(lambda: len(subscriptions(store)) == 2)
        await store.put_global("key", 1)
        assert [entry.value for entry in await outcomes_of(waiters[1:])] == [1, 1]

    @pytest.mark.usefixtures("shared_target")
    async def test_of_a_look_that_fails_is_told(self, make_store: Target) -> None:
        async with make_store() as store, make_store() as other:
            (waiter,) = spawn(store.wait_for_global("key"))
            await waiting(store)
            fail(store, "globals_beyond", StorageError("the disk is gone"))
            await other.put_global("another", 1)
            (outcome,) = await outcomes_of([waiter])
            assert isinstance(outcome, StorageError)
            (waiter,) = spawn(store.wait_for_global("key"))
            await waiting(store)
            await other.put_global("key", 1)
            assert (await outcomes_of([waiter]))[0].value == 1

    @pytest.mark.each_input_once
    async def test_what_cannot_be_meant_is_refused(self, store: Any) -> None:
        for error, arguments in [
            (InvalidKeyError, {"key": 5}),
            (ValueError, {"key": "key", "after_version": -1}),
            (TypeError, {"key": "key", "after_version": "1"}),
            (TypeError, {"key": "key", "timeout": "1"}),
        ]:
            with pytest.raises(error):
                await store.wait_for_global(**arguments)


@pytest.mark.usefixtures("shared_target")
class TestNoWakeUpIsLost:
    async def test_of_writers_and_waiters_that_come_and_go_in_any_order(self, make_store: Target) -> None:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        async with opened(make_store, 2) as (store, other):
            crowd = 20 if hasattr(store, "plain") else 60

            async def later(seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
                await asyncio.sleep(seconds)
                return await call()

            for turn in range(some(600, 120) // crowd):
                spread = chance.choice([0, 0.001, 0.01])
                calls: list[Any] = []
                for i in range(crowd):
                    key, writer = f"{turn} {i}", chance.choice([store, other])
                    calls.append(later(chance.uniform(0, spread), lambda key=key: store.wait_for_global(key)))
                    calls.append(
                        later(
                            chance.uniform(0, spread),
                            lambda key=key, writer=writer: writer.put_global(key, key),
                        )
                    )
                chance.shuffle(calls)
                outcomes = [outcome for outcome in await outcomes_of(spawn(*calls)) if outcome is not None]
                assert sorted(entry.value for entry in outcomes) == sorted(f"{turn} {i}" for i in range(crowd)), seed
                assert subscriptions(store) == []
                await asyncio.sleep(chance.choice([0, 0.001, 0.012]))

    async def test_of_a_chain_in_which_each_waits_for_the_other(self, make_store: Target) -> None:
        """Two stores that answer each other, step by step: a wake-up that is lost leaves both waiting."""
        async with opened(make_store, 2) as (one, other):
            steps = some(60, 20)

            async def play(store: Any, own: str, others: str, first: bool) -> None:
                for step in range(1, steps + 1):
                    if not first:
                        await store.wait_for_global(others, after_version=step - 1, timeout=TOLD)
                    await store.upsert_global(own, step)
                    if first:
                        await store.wait_for_global(others, after_version=step - 1, timeout=TOLD)

            assert await outcomes_of(spawn(play(one, "a", "b", True), play(other, "b", "a", False))) == [None, None]


@pytest.mark.usefixtures("shared_target")
async def test_many_who_wait_cost_one_look_each_time(make_store: Target) -> None:
    async with opened(make_store, 2) as (store, other):
        count = 40 if hasattr(store, "plain") else 1000
        engine: Any = core_of(store)._session.engine
        looks: list[int] = []
        fetches: list[int] = []
        beyond, fetch = engine.feed.globals_beyond, engine.fetch_globals

        async def counted_look(versions: Any) -> Any:
            looks.append(len(versions))
            return await beyond(versions)

        async def counted_fetch(keys: Any) -> Any:
            fetches.append(len(keys))
            return await fetch(keys)

        engine.feed.globals_beyond, engine.fetch_globals = counted_look, counted_fetch
        waiters = spawn(*(store.wait_for_global(f"key {i}", timeout=TOLD) for i in range(count)))
        await waiting(store, count)
        if make_store.engine == "file":
            looks.clear()
        async with batch_of(other) as batch:
            for i in range(count):
                batch.put_global(f"key {i}", i)
        assert [entry.value for entry in await outcomes_of(waiters)] == list(range(count))
        assert max(looks) == count  # all of them by one
        if make_store.engine == "file":
            assert len(looks) <= 3
        if not hasattr(store, "plain"):
            assert len(fetches) < count / 10


def test_a_process_is_told_of_what_another_one_writes(file_path: Any) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            version = 0
            say("open")
            while version < 5:
                version = store.wait_for_global("key", after_version=version, timeout=30).version
                say(version)
    """
    from contextstore import ContextStore

    with ContextStore(file_path) as store, Child(program, file_path) as child:
        assert child.hear() == "open"
        for version in range(1, 6):
            store.upsert_global("key", version)
            assert child.hear() == str(version)
        assert child.end()[0] == 0
