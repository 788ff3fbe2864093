"""A run object under a lease: all that it says of its run is written while the lease is its holder's, or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contextstore import LeaseLostError, RunDeletedError, RunStateConflictError, VersionConflictError

from .leases import LONG, held, run_under, take_from
from .test_flow_run import Bound


def one_more(old: int) -> int:
    return old + 1


def failed() -> int:
    raise ZeroDivisionError("it failed")


def unlike_its_form() -> Any:
    return 1


def own_class() -> object:
    return object()


Write = Callable[[Any], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "begin": lambda run: run.begin(),
    "begin with facts": lambda run: run.begin(attributes={"a": 1}, parent="above"),
    "update": lambda run: run.update(),
    "update of facts": lambda run: run.update(state="failed", error="no", attributes={"a": 2}),
    "update of a state": lambda run: run.update(state="failed", expected_state="open"),
    "upsert_state": lambda run: run.upsert_state("key", 2),
    "upsert_state at a version": lambda run: run.upsert_state("other", 2, expected_version=0),
    "update_state": lambda run: run.update_state("key", one_more, 0),
    "step": lambda run: run.step("node", unlike_its_form),
}
KNOWN = pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])


async def all_of(store: Any, name: str = "run") -> list[Any]:
    """Whatever is told of the run."""
    run = Bound(store, name)
    outputs = await store.list_outputs(name)
    return [await run.info(), await run.attempts(), await run.list_state(), outputs]


async def filled(store: Any) -> None:
    run = Bound(store)
    await run.put("there", 0)
    await run.upsert_state("key", 1)
    with pytest.raises(ZeroDivisionError):
        await run.step("node", failed)


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
@KNOWN
async def test_what_is_said_of_a_run_under_a_lease_is_written(store: Any, what: str, is_known: bool) -> None:
    if is_known:
        await filled(store)
    before = await all_of(store)
    async with held(store, "name") as lease:
        await WRITES[what](run_under(store, "run", lease))
    info, *rest = await all_of(store)
    assert info is not None
    if what not in ("begin", "update") or not is_known:
        assert [info, *rest] != before


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("there", ["nothing", "a run", "a run that it has seen"])
async def test_once_another_has_the_lease_it_is_refused_and_nothing_is_stored(
    store: Any, what: str, there: str
) -> None:
    if there != "nothing":
        await filled(store)
    async with held(store, "name", ttl=LONG) as lease:
        run = run_under(store, "run", lease)
        if there == "a run that it has seen":
            await run.get("there")
        await take_from(store, lease)
        before = await all_of(store)
        with pytest.raises(LeaseLostError) as refused:
            await WRITES[what](run)
        assert refused.value.name == "name"
        assert await all_of(store) == before
        assert await run.info() == before[0]  # reads are not fenced
        assert await run.list_state() == before[2]
    assert (await store.check()).problems == ()


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
async def test_once_it_was_given_back_it_is_refused_and_nothing_is_stored(store: Any, what: str) -> None:
    await filled(store)
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
    before = await all_of(store)
    with pytest.raises(LeaseLostError):
        await WRITES[what](run)
    assert await all_of(store) == before


@KNOWN
async def test_a_failure_is_recorded_while_the_lease_is_its_holders(store: Any, is_known: bool) -> None:
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
        if is_known:
            await run.put("there", 0)
        with pytest.raises(ZeroDivisionError):
            await run.step("node", failed)
    assert [attempt.error for attempt in await Bound(store).attempts()] == ["ZeroDivisionError: it failed"]
    assert (await Bound(store).info()).failures == 1


@pytest.mark.each_input_once
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("fn", [failed, own_class])
async def test_a_failure_behind_the_loss_is_raised_and_not_recorded(
    store: Any, is_known: bool, fn: Callable[[], Any]
) -> None:
    await store.put("run", "there", 0)
    async with held(store, "name", ttl=LONG) as lease:
        run = run_under(store, "run", lease)
        if is_known:
            await run.get("there")
        await take_from(store, lease)
        before = await all_of(store)
        with pytest.raises(Exception) as raised:
            await run.step("node", fn)
        assert type(raised.value).__name__ == ("ZeroDivisionError" if fn is failed else "SerializationError")
        assert any("could not be recorded: LeaseLostError" in note for note in raised.value.__notes__)
        assert await all_of(store) == before


async def test_of_a_lease_that_was_given_back_no_step_is_called(store: Any) -> None:
    calls: list[int] = []

    def called() -> int:
        calls.append(1)
        return 1

    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
    with pytest.raises(LeaseLostError):
        await run.step("node", called)
    assert calls == []


async def test_a_refusal_under_a_lease_is_the_calls_own(store: Any) -> None:
    await filled(store)
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
        with pytest.raises(RunStateConflictError):
            await run.update(state="failed", expected_state="completed")
        with pytest.raises(VersionConflictError):
            await run.upsert_state("key", 2, expected_version=0)
        before = await all_of(store)
        with pytest.raises(ValueError, match="64"):
            await run.update(attributes={f"{number}": number for number in range(65)})
        assert await all_of(store) == before


@pytest.mark.each_input_once
@pytest.mark.parametrize("what", WRITES)
async def test_the_fence_stands_beside_the_life_of_the_run(store: Any, what: str) -> None:
    async with held(store, "name") as lease:
        run = run_under(store, "run", lease)
        await run.begin()
        await store.delete_run("run", forget=True)
        await store.put("run", "another life's", 1)
        before = await all_of(store)
        with pytest.raises(RunDeletedError):
            await WRITES[what](run)
        assert await all_of(store) == before
