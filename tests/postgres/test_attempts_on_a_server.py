"""Attempts over a network: what is recorded once although the answer was lost, and numbers beside other clients."""

from __future__ import annotations

import asyncio

import pytest

from contextstore import AsyncContextStore

from ..contract.attempts import commit, failure, in_short, success
from ..support.proxy import Proxy


@pytest.mark.parametrize("text", ["COMMIT", "second"])
async def test_a_failure_whose_answer_is_lost_is_recorded_once(proxy: Proxy, schema: str, text: str) -> None:
    async with AsyncContextStore(proxy.url(schema=schema), timeout=60) as store:
        await store.put("run", "plain", 1)
        await commit(store, failure("node", "first"))
        proxy.lose_answer_to(text)
        assert await commit(store, failure("node", "second")) == [2]
        assert proxy.cuts == 1
        assert in_short(await store.run("run").attempts()) == [("node", 1, "first"), ("node", 2, "second")]
        info = await store.run("run").info()
        assert info is not None
        assert info.failures == 2


async def test_a_failure_that_makes_its_run_is_recorded_once(proxy: Proxy, schema: str) -> None:
    async with AsyncContextStore(proxy.url(schema=schema), timeout=60) as store:
        await store.put("other", "plain", 1)
        proxy.lose_answer_to("COMMIT")
        assert await commit(store, failure("node", run="new")) == [1]
        assert proxy.cuts == 1
        assert len(await store.run("new").attempts()) == 1


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_success_whose_answer_is_lost_has_one_number(proxy: Proxy, schema: str, failures: int) -> None:
    async with AsyncContextStore(proxy.url(schema=schema), timeout=60) as store:
        await store.put("run", "plain", 1)
        for _ in range(failures):
            await commit(store, failure("node"))
        proxy.lose_answer_to("COMMIT" if failures else "[1,1700")
        assert await commit(store, success("node")) == [True]
        assert proxy.cuts == 1
        assert [attempt.number for attempt in await store.run("run").attempts()] == list(range(1, failures + 2))
        assert await store.get("run", "node") == 1


async def test_a_group_of_first_and_later_attempts_gets_the_number_of_each(url: str) -> None:
    async with AsyncContextStore(url, timeout=60) as store:
        await store.put_many("run", {"plain": 1})
        await store.put_many("new", {"plain": 1})
        await commit(store, failure("3"))
        some = [commit(store, success(f"{number}", run=run)) for number in range(64) for run in ("run", "new")]
        assert await asyncio.gather(*some) == [[True]] * 128
        numbers = {attempt.node_id: attempt.number for attempt in await store.run("run").attempts()}
        assert numbers == {f"{number}": 2 if number == 3 else 1 for number in range(64)}
        assert {attempt.number for attempt in await store.run("new").attempts()} == {1}
        assert (await store.check()).problems == ()


async def test_a_success_waits_for_a_failure_that_is_under_way_and_counts_it(url: str, schema: str) -> None:
    async with AsyncContextStore(url, timeout=60) as one, AsyncContextStore(url, timeout=60) as other:
        await one.put("run", "plain", 1)
        for number in range(30):
            node = f"{number}"
            await asyncio.gather(commit(one, failure(node)), commit(other, success(node)))
            numbers = [attempt.number for attempt in await one.run("run").attempts(node)]
            assert numbers == [1, 2]
