"""One iterator of the store for all who follow: each sees each change once, in order, however they come, go and lag."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import trio

from contextstore import AsyncContextStore, ContextStore, Output, RunDeletedError, RunInfo, StoreClosedError
from contextstore.inspector.feed import Feeds, Follower, SharedFeed

from .site import PATIENCE

RUN = "run-1"


class Outputs:
    """The outputs of a run, and how often they were begun to be iterated over."""

    def __init__(self, store: AsyncContextStore) -> None:
        self.store, self.begun = store, 0

    def __call__(self, after: str | None) -> AsyncGenerator[Output, None]:
        self.begun += 1
        return self.store.watch(RUN, after=after)


@pytest.fixture
async def looked_at(target: str, store: ContextStore) -> AsyncIterator[AsyncContextStore]:
    """Who reads: another object than the one that writes."""
    store.open()
    async with AsyncContextStore(target, read_only=True) as opened:
        yield opened


async def seen_by(follower: Follower[Output], count: int) -> list[str]:
    """The nodes of the next so many outputs, at least."""
    seen: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while len(seen) < count:
            seen += [output.node_id for output in await follower.next()]
    return seen


def write(store: ContextStore, first: int, last: int) -> list[str]:
    """Outputs, each in a commit of its own."""
    nodes = [f"node-{number:04}" for number in range(first, last)]
    for node in nodes:
        store.put(RUN, node, node)
    return nodes


async def test_all_who_follow_are_told_by_one_iterator(store: ContextStore, looked_at: AsyncContextStore) -> None:
    outputs, feeds = Outputs(looked_at), Feeds()
    start = await looked_at.cursor()
    async with contextlib.AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(feeds.follow(RUN, outputs, start)) for _ in range(20)]
        nodes = await asyncio.to_thread(write, store, 0, 30)
        assert await asyncio.gather(*(seen_by(follower, 30) for follower in followers)) == [nodes] * 20
        assert outputs.begun == 1


async def test_nothing_is_left_once_the_last_has_gone(store: ContextStore, looked_at: AsyncContextStore) -> None:
    feeds, before = Feeds(), asyncio.all_tasks()
    start = await looked_at.cursor()
    async with feeds.follow(RUN, Outputs(looked_at), start) as follower:
        write(store, 0, 3)
        await seen_by(follower, 3)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(follower.next(), 0.05)  # it leaves while it waits
    assert feeds.count == 0
    assert asyncio.all_tasks() == before


async def test_the_others_go_on_where_the_one_that_fetches_goes(
    store: ContextStore, looked_at: AsyncContextStore
) -> None:
    outputs, feeds = Outputs(looked_at), Feeds()
    start = await looked_at.cursor()
    async with feeds.follow(RUN, outputs, start) as first, feeds.follow(RUN, outputs, start) as second:
        fetching = asyncio.ensure_future(first.next())
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(seen_by(second, 5))
        await asyncio.sleep(0)
        fetching.cancel()
        nodes = await asyncio.to_thread(write, store, 0, 5)
        assert await waiting == nodes


async def test_one_that_lags_behind_the_ring_goes_on_by_itself_and_comes_back(
    store: ContextStore, looked_at: AsyncContextStore
) -> None:
    feed = SharedFeed(Outputs(looked_at), ring=4)
    start = await looked_at.cursor()
    async with feed.follow(start) as quick, feed.follow(start) as slow:
        nodes = await asyncio.to_thread(write, store, 0, 10)
        assert await seen_by(quick, 10) == nodes
        seen = await seen_by(slow, 1)
        assert slow.is_on_its_own
        seen += await seen_by(slow, 9)
        assert seen == nodes
        assert not slow.is_on_its_own  # what it has seen last stands in the ring


async def test_one_that_was_elsewhere_meanwhile_goes_on_by_its_cursor(
    store: ContextStore, looked_at: AsyncContextStore
) -> None:
    """As a browser whose tab was hidden, or whose server was another process."""
    feed, former = SharedFeed(Outputs(looked_at), ring=4), SharedFeed(Outputs(looked_at))
    start = await looked_at.cursor()
    write(store, 0, 2)
    async with former.follow(start) as follower:
        assert await seen_by(follower, 2) == ["node-0000", "node-0001"]
        left_at = follower.cursor
    write(store, 2, 9)
    async with feed.follow(start) as other, feed.follow(left_at) as again:
        assert len(await seen_by(other, 9)) == 9
        assert await seen_by(again, 7) == [f"node-{number:04}" for number in range(2, 9)]


async def test_each_sees_each_output_once_and_in_order_however_it_comes_goes_and_lags(
    store: ContextStore, looked_at: AsyncContextStore
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    feeds, count = Feeds(), 120
    start = await looked_at.cursor()

    async def follow(chance: random.Random) -> list[str]:
        seen: list[str] = []
        cursor: str | None = start
        while len(seen) < count:
            async with feeds.follow(RUN, Outputs(looked_at), cursor) as follower:
                for _ in range(chance.randrange(1, 40)):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(chance.choice((0.001, 0.02, 0.5))):
                            seen += [output.node_id for output in await follower.next()]
                    if len(seen) >= count:
                        break
                    await asyncio.sleep(chance.choice((0, 0, 0.005)))
                cursor = follower.cursor
        return seen

    async with asyncio.timeout(PATIENCE):
        following = [asyncio.ensure_future(follow(random.Random(seed + number))) for number in range(12)]
        nodes = await asyncio.to_thread(write, store, 0, count)
        assert await asyncio.gather(*following) == [nodes] * 12
    assert feeds.count == 0


async def test_of_runs_each_sees_the_newest_of_each(store: ContextStore, looked_at: AsyncContextStore) -> None:
    feeds, start = Feeds(), await looked_at.cursor("runs")

    def runs(after: str | None) -> AsyncGenerator[RunInfo, None]:
        return looked_at.watch_runs(after=after)

    async def newest(follower: Follower[RunInfo]) -> dict[str, int]:
        seen: dict[str, int] = {}
        while sum(seen.values()) < 3 * 7:
            for run in await follower.next():
                assert run.outputs >= seen.get(run.flow_run_id, 0)  # the newest each time, which may be the same
                seen[run.flow_run_id] = run.outputs
        return seen

    def write_runs() -> None:
        for number in range(21):
            store.put(f"run-{number % 3}", f"node-{number}", number)

    async with feeds.follow("runs", runs, start) as first, feeds.follow("runs", runs, start) as second:
        async with asyncio.timeout(PATIENCE):
            writing = asyncio.to_thread(write_runs)
            _, *seen = await asyncio.gather(writing, newest(first), newest(second))
    assert seen == [{"run-0": 7, "run-1": 7, "run-2": 7}] * 2


async def test_what_goes_wrong_is_told_to_each(store: ContextStore, looked_at: AsyncContextStore) -> None:
    write(store, 0, 1)
    outputs, feeds = Outputs(looked_at), Feeds()
    async with feeds.follow(RUN, outputs, "no cursor") as lost:
        with pytest.raises(ValueError, match="cursor"):
            await lost.next()
        start = await looked_at.cursor()
        async with feeds.follow(RUN, outputs, start) as first, feeds.follow(RUN, outputs, start) as second:
            waiting = asyncio.gather(first.next(), second.next(), return_exceptions=True)
            await asyncio.sleep(0)
            await asyncio.to_thread(store.delete_run, RUN)
            async with asyncio.timeout(PATIENCE):
                assert [type(error) for error in await waiting] == [RunDeletedError, RunDeletedError]
    assert feeds.count == 0


async def test_who_follows_a_closed_store_is_told(store: ContextStore, looked_at: AsyncContextStore) -> None:
    async with Feeds().follow(RUN, Outputs(looked_at), None) as follower:
        waiting = asyncio.ensure_future(follower.next())
        await asyncio.sleep(0)
        await looked_at.close()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreClosedError):
                await waiting


def test_it_is_followed_from_any_loop(target: str, store: ContextStore) -> None:
    """The application is served by whichever server: of each loop there is a feed of its own."""
    nodes, feeds = write(store, 0, 3), Feeds()
    looked_at = AsyncContextStore(target, read_only=True)

    async def follow() -> list[str]:
        async with feeds.follow(RUN, Outputs(looked_at), None) as follower:
            seen: list[str] = []
            while len(seen) < 3:
                seen += [output.node_id for output in await follower.next()]
            return seen

    try:
        assert asyncio.run(follow()) == nodes
        assert trio.run(follow) == nodes
        assert asyncio.run(follow()) == nodes
    finally:
        looked_at.blocking.close()
