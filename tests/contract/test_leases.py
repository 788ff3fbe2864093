"""``lease``: one holder at a time, renewed, given back; and the fence before what is written under it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import pickle
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contextstore import (
    AsyncContextStore,
    ContextStore,
    InvalidKeyError,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    ReadOnlyStoreError,
    RunDeletedError,
    StorageError,
    StoreClosedError,
)
from contextstore._dispatch.held_leases import HeldLeases

from ..conftest import Target
from ..support.doubles import until
from .leases import LONG, held, run_under, take_from
from .outputs import begun

# -------------------------------------------------------------------------------------------------------- one at a time


async def test_it_is_held_within_its_block_and_leaves_nothing(store: Any) -> None:
    async with held(store, "nightly") as lease:
        assert isinstance(lease, Lease)
        assert (lease.name, lease.token, lease.lost) == ("nightly", 1, False)
        (listed,) = await store.list_leases()
        assert (listed.name, listed.token, listed.holder) == ("nightly", 1, lease.holder)
        assert listed.expires_at > datetime.datetime.now(datetime.UTC)
        assert listed.lost
    assert lease.lost
    assert await store.list_leases() == []
    assert (await store.check()).problems == ()


async def test_tokens_rise_over_all_leases_of_a_store(make_store: Target) -> None:
    tokens = []
    async with make_store() as store:
        for name in ("a", "b", "a"):
            async with held(store, name) as lease:
                tokens.append(lease.token)
    assert tokens == [1, 2, 3]


async def test_leases_of_other_names_are_held_side_by_side(store: Any) -> None:
    async with held(store, "a/1"), held(store, "a/2"), held(store, "b"):
        assert [lease.name for lease in await store.list_leases()] == ["a/1", "a/2", "b"]
        assert [lease.name for lease in await store.list_leases("a/")] == ["a/1", "a/2"]


async def test_what_another_holds_is_refused_and_says_by_whom(store: Any) -> None:
    async with held(store, "name", ttl=LONG) as lease:
        with pytest.raises(LeaseHeldError) as refused:
            async with held(store, "name", wait=0):
                pytest.fail("held twice")
        assert (refused.value.name, refused.value.holder) == ("name", lease.holder)
        assert refused.value.expires_at == lease.expires_at
        with pytest.raises(LeaseHeldError):
            async with held(store, "name", wait=0.05):
                pytest.fail("held twice")


async def test_another_object_gets_it_once_it_was_given_back(make_store: Target, shared_target: None) -> None:
    async with make_store() as store, make_store() as other:
        async with held(store, "name", ttl=LONG) as first:
            waiting = asyncio.ensure_future(token_of(other, "name"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await waiting > first.token


async def token_of(store: Any, name: str, **terms: Any) -> int:
    async with held(store, name, **terms) as lease:
        return lease.token


async def test_callers_of_one_object_get_it_in_the_order_in_which_they_asked(store: Any) -> None:
    order: list[int] = []

    async def caller(number: int) -> None:
        async with held(store, "name", ttl=LONG):
            order.append(number)

    async with held(store, "name", ttl=LONG):
        tasks = []
        for number in range(5):
            tasks.append(asyncio.ensure_future(caller(number)))
            await until(lambda: len(turns(store)) == len(tasks))
    await asyncio.gather(*tasks)
    assert order == list(range(5))


def turns(store: Any) -> list[Any]:
    """Those who wait for the lease, the one first that asks the engine."""
    backend = getattr(store, "plain", store)._core.backend
    return list(backend.lease_turns._queues.get("name", []))


async def test_who_waits_behind_another_waits_no_longer_than_it_wants(store: Any) -> None:
    async with held(store, "name", ttl=LONG) as lease:
        first = asyncio.ensure_future(token_of(store, "name"))
        await until(lambda: len(turns(store)) == 1)
        for wait in (0, 0.05):
            with pytest.raises(LeaseHeldError) as refused:
                await token_of(store, "name", wait=wait)
            assert refused.value.holder == lease.holder
    assert await first == lease.token + 1


# ----------------------------------------------------------------------------------------------------- renewed, its end


async def test_it_is_renewed_for_as_long_as_the_block_goes_on(store: Any) -> None:
    async with held(store, "name", ttl=0.3) as lease:
        before = lease.expires_at
        await until(lambda: lease.expires_at - before > datetime.timedelta(seconds=0.6))
        assert [listed.token for listed in await store.list_leases()] == [lease.token]


async def test_it_is_given_back_if_the_block_raises(store: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with held(store, "name", ttl=LONG):
            raise ZeroDivisionError
    assert await token_of(store, "name", wait=0) == 2


async def test_it_is_given_back_if_the_block_is_cancelled(make_store: Target) -> None:
    async with make_store() as store:
        entered = asyncio.Event()

        async def work() -> None:
            async with held(store, "name", ttl=LONG):
                entered.set()
                await asyncio.sleep(LONG)

        task = asyncio.ensure_future(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await token_of(store, "name", wait=0) == 2


async def test_closing_the_store_within_the_block_gives_it_back(make_store: Target, shared_target: None) -> None:
    async with make_store() as other:
        store = make_store()
        async with held(store, "name", ttl=LONG) as lease:
            await store.close()
            assert lease.lost
        assert await token_of(other, "name", wait=5) == 2


async def test_closing_the_store_ends_the_waiting(make_store: Target) -> None:
    store = make_store()
    async with held(store, "name", ttl=LONG):
        waiting = [asyncio.ensure_future(token_of(store, "name")) for _ in range(3)]
        await until(lambda: len(turns(store)) == 3)
        await store.close()
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(ended, StoreClosedError)


async def test_one_that_nobody_holds_on_to_is_given_back(make_store: Target) -> None:
    async with make_store() as store:
        block = getattr(store, "plain", store).lease("name", ttl=LONG)
        await (asyncio.to_thread(block.__enter__) if hasattr(store, "plain") else block.__aenter__())
        del block
        gc.collect()
        assert await token_of(store, "name", wait=30) == 2


async def test_who_overslept_may_go_on_writing_while_nobody_came(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(*_: Any) -> None:
        raise StorageError("not reached")

    monkeypatch.setattr(HeldLeases, "_renew", unreachable)
    async with held(store, "name", ttl=0.05) as lease:
        await until(lambda: lease.lost)
        await run_under(store, "run", lease).put("node", 1)
        assert await store.get("run", "node") == 1
        while await store.list_leases():  # its ttl counts from the commit on, a little later
            await asyncio.sleep(0.005)
        assert await take_from(store, lease) == 2
        with pytest.raises(LeaseLostError):
            await run_under(store, "run", lease).put("other", 1)


async def test_one_that_has_expired_is_taken_over(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(*_: Any) -> None:
        raise StorageError("not reached")

    monkeypatch.setattr(HeldLeases, "_renew", unreachable)
    async with held(store, "name", ttl=0.1) as lease, held(store, "name", wait=30) as next_one:
        assert next_one.token == lease.token + 1
        with pytest.raises(LeaseLostError):
            await run_under(store, "run", lease).put("node", 1)
        await run_under(store, "run", next_one).put("node", 2)
    assert await store.get("run", "node") == 2


async def test_who_has_lost_it_is_told_and_leaves_what_another_holds(store: Any) -> None:
    async with held(store, "name", ttl=0.3) as lease:
        taken = await take_from(store, lease)
        await until(lambda: lease.lost)
    assert [listed.token for listed in await store.list_leases()] == [taken]


async def test_leaving_raises_nothing_if_the_engine_does_not_answer(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held(store, "name", ttl=LONG) as lease:
        engine = getattr(store, "plain", getattr(store, "_wrapped", store))._core.session.engine

        async def commit(_: Any) -> Any:
            raise StorageError("no answer", True)

        monkeypatch.setattr(engine, "commit", commit)
    assert lease.lost
    monkeypatch.undo()
    assert [listed.token for listed in await store.list_leases()] == [lease.token]


# ------------------------------------------------------------------------------------------------------------ the fence

Write = Callable[[Any], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "put": lambda run: run.put("node", 1),
    "put, kept": lambda run: run.put("node", 1, exist_ok="keep"),
    "append": lambda run: run.append("log/", 1),
    "put_many": lambda run: run.put_many({"a": 1, "b": 2}),
    "get_or_put": lambda run: run.get_or_put("node", int),
    "step": lambda run: run.step("node", int),
    "delete_outputs": lambda run: run.delete_outputs(prefix=""),
    "delete": lambda run: run.delete(),
    "delete, forgotten": lambda run: run.delete(forget=True),
}


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
async def test_a_write_under_a_lease_is_done(store: Any, what: str, is_known: bool) -> None:
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
        if is_known:
            await run.put("there", 0)
        await WRITES[what](run)
    if what.startswith("delete,") or what == "delete":
        assert await store.list_keys("run") == []
    elif what != "delete_outputs":
        assert len(await store.list_keys("run")) == is_known + (2 if what == "put_many" else 1)


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
async def test_a_write_under_a_lease_that_another_has_taken_is_refused(store: Any, what: str, is_known: bool) -> None:
    await store.put("run", "there", 0)
    async with held(store, "name", ttl=LONG) as lease:
        run = run_under(store, "run", lease)
        if is_known:
            await run.get("there")
        await take_from(store, lease)
        with pytest.raises(LeaseLostError) as refused:
            await WRITES[what](run)
        assert refused.value.name == "name"
        assert await store.get_run("run") == {"there": 0}
        assert await run.get("there") == 0  # reads are not fenced


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
async def test_a_write_under_a_lease_that_was_given_back_is_refused(store: Any, what: str) -> None:
    await store.put("run", "there", 0)
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
    with pytest.raises(LeaseLostError):
        await WRITES[what](run)
    assert await store.get_run("run") == {"there": 0}


async def test_a_fence_stands_beside_the_life_of_the_run(store: Any) -> None:
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
        await run.put("node", 1)
        await store.delete_run("run", forget=True)
        with pytest.raises(RunDeletedError):
            await run.put("other", 1)


async def test_a_batch_under_a_lease_is_done_whole_or_not_at_all(store: Any) -> None:
    plain = getattr(store, "plain", store)
    async with held(store, "name", ttl=LONG) as lease:
        async with begun(store, plain.batch(lease=lease)) as batch:
            batch.put("run", "a", 1)
            batch.upsert_global("key", 1)
        with pytest.raises(LeaseLostError):  # noqa: PT012 - it is raised at the end of the block
            async with begun(store, plain.batch(lease=lease)) as batch:
                batch.put("run", "b", 1)
                batch.upsert_global("key", 2)
                await take_from(store, lease)
        async with begun(store, plain.batch(lease=lease)):
            pass  # nothing is written, and nothing refused
    assert await store.get_run("run") == {"a": 1}
    assert await store.get_global("key") == 1


async def test_a_fork_is_not_fenced(store: Any) -> None:
    await store.put("run", "node", 1)
    async with held(store, "name", ttl=LONG) as lease:
        await take_from(store, lease)
        assert await store.get(await run_under(store, "run", lease).fork(), "node") == 1


async def test_many_writes_at_once_beside_their_lease_s_end(make_store: Target, shared_target: None) -> None:
    async with make_store() as store, make_store() as other:
        async with held(store, "name", ttl=LONG) as lease:
            run = run_under(store, "run", lease)
            await run.put("first", 0)
            writes = [asyncio.ensure_future(run.put(f"{n}", n)) for n in range(50)]
            await asyncio.sleep(0.002)
            taken = await take_from(other, lease)
            there = set(await other.list_keys("run"))
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        written = {"first", *(f"{n}" for n, outcome in enumerate(outcomes) if outcome is None)}
        assert all(outcome is None or isinstance(outcome, LeaseLostError) for outcome in outcomes)
        assert written == there == set(await other.list_keys("run"))
        assert taken == 2


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"ttl": 0.049}, ValueError),
        ({"ttl": 86401}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": -1}, ValueError),
        ({"ttl": float("nan")}, ValueError),
        ({"ttl": None}, TypeError),
        ({"ttl": "1"}, TypeError),
        ({"ttl": True}, TypeError),
        ({"wait": -1}, ValueError),
        ({"wait": float("nan")}, ValueError),
        ({"wait": "1"}, TypeError),
    ],
)
@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
def test_terms_that_cannot_be_are_refused_at_once(face: Any, terms: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(terms))):
        face(":memory:").lease("name", **terms)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 1025, 1, None, "\ud800"])
@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
def test_names_that_cannot_be_are_refused_at_once(face: Any, name: Any) -> None:
    with pytest.raises(InvalidKeyError, match="name"):
        face(":memory:").lease(name)


async def test_a_timedelta_is_a_ttl(store: Any) -> None:
    async with held(store, "name", ttl=datetime.timedelta(hours=24)) as lease:
        assert lease.expires_at - datetime.datetime.now(datetime.UTC) > datetime.timedelta(hours=23)


async def test_only_a_lease_of_the_store_s_own_is_a_fence(make_store: Target, shared_target: None) -> None:
    async with make_store() as store, make_store() as other, held(other, "name") as lease:
        plain = getattr(store, "plain", store)
        for given, error in ((lease, ValueError), ("name", TypeError), ((await store.list_leases())[0], ValueError)):
            with pytest.raises(error, match="lease"):
                plain.run("run", lease=given)
            with pytest.raises(error, match="lease"):
                plain.batch(lease=given)


async def test_a_lease_is_one_holder_s(store: Any) -> None:
    async with held(store, "name") as lease:
        with pytest.raises(TypeError, match="cannot be copied"):
            pickle.dumps(lease)
        assert "name" in repr(lease)


async def test_a_block_that_goes_on_is_not_begun_again(store: Any) -> None:
    block = getattr(store, "plain", store).lease("name")
    async with begun(store, block):
        with pytest.raises(RuntimeError, match="already"):
            async with begun(store, block):
                pytest.fail("begun twice")
    async with begun(store, block) as lease:
        assert lease.token == 2


async def test_a_store_that_is_only_read_takes_none_and_lists_all(make_store: Target, shared_target: None) -> None:
    async with make_store() as store, held(store, "name") as lease, make_store(read_only=True) as reader:
        with pytest.raises(ReadOnlyStoreError):
            await token_of(reader, "other")
        assert [listed.token for listed in await reader.list_leases()] == [lease.token]


# ---------------------------------------------------------------------------------------------------- cancelled at once


async def test_who_is_cancelled_while_it_acquires_leaves_it_to_others(make_store: Target) -> None:
    async with make_store() as store:
        for pause in [0.0, 0.0, 0.0005, 0.001, 0.002, 0.004] * 3:
            task = asyncio.ensure_future(token_of(store, "name", ttl=LONG))
            await asyncio.sleep(pause)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            began = time.monotonic()
            await token_of(store, "name", ttl=LONG, wait=60)
            assert time.monotonic() - began < 60
        assert await store.list_leases() == []
