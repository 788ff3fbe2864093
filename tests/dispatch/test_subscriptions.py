"""Subscriptions against an engine in which the test chooses what happens when: no wake-up is lost in any order."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from contextstore import RunDeletedError, StorageError, StoreClosedError
from contextstore._dispatch import subscriptions as subscriptions_module
from contextstore._dispatch.subscriptions import Subscription, Subscriptions
from contextstore._engine.operations import DeleteIdleRuns, DeleteRun, LoadOutput, LoadRun, Operation, PutOutput
from contextstore._values.codec import JSON, Encoded

from ..support.clock import Clock
from ..support.fake_engine import (
    FakeEngine,
    LoopHost,
    outcomes_of,
    run_now,
    spawn,
    task_callers,
    thread_callers,
    turns,
    until,
)
from ..support.interleaving import interleavings

ONE = Encoded(JSON, b"1")
KEY = ("run", "node")
PUT = PutOutput(*KEY, ONE, False)


class Waiting:
    """Subscriptions on the fake engine, with the host in which their poller runs."""

    def __init__(self, clock: Clock, *, polls: bool = True) -> None:
        self.clock = clock
        self.engine = FakeEngine(polls=polls)
        self.host = LoopHost()
        self.subscriptions = Subscriptions(self.engine, task_callers(self.engine))

    async def subscribe(self, flow_run_id: str = "run", node_id: str | None = "node") -> Subscription:
        """One that is begun: the poller, if one is needed, has taken its place."""
        subscription = self.subscriptions.subscription(flow_run_id, node_id)
        (beginning,) = spawn(subscription.begin(self.host))  # type: ignore[arg-type]
        await turns()
        if not beginning.done():
            await self.engine.let_poll()
        await beginning
        return subscription

    def commit(self, *operations: Operation) -> None:
        """By this object: what it commits, it tells."""
        self.engine.place.commit(*operations)
        self.subscriptions.committed(operations)

    async def poll(self) -> None:
        """One look, by when it is time to look for deleted runs, too."""
        self.clock.advance(1)
        await self.engine.let_poll()

    async def end(self) -> None:
        self.subscriptions.close()
        await self.host.end()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(subscriptions_module, "_MOST_REST", 0.0)  # a look takes as long as the test lets it wait
    return Clock(monkeypatch, subscriptions_module)


@pytest.fixture
async def waiting(clock: Clock) -> AsyncIterator[Waiting]:
    waiting = Waiting(clock)
    yield waiting
    await waiting.end()


async def next_of(subscription: Subscription) -> asyncio.Future[list[str]]:
    (task,) = spawn(subscription.next(None))
    await turns(1)
    return task


# -- every interleaving -----------------------------------------------------------------------------------------------


class Waiter:
    """A caller that waits for an output as the store's ``wait_for`` does, and stops before each of its steps."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._gates = {step: asyncio.Event() for step in ("look", "sleep")}
        self.task: asyncio.Task[str] | None = None

    def step(self, step: str) -> None:
        if step == "subscribe":
            self.task = asyncio.ensure_future(self._wait())
        else:
            self._gates[step].set()

    async def _wait(self) -> str:
        place = self._waiting.engine.place
        subscription = self._waiting.subscriptions.subscription(*KEY)
        try:
            await subscription.begin(self._waiting.host)  # type: ignore[arg-type]
            await self._gates["look"].wait()
            while not place.has(KEY):
                if place.is_deleted("run"):
                    raise RunDeletedError("run")
                await self._gates["sleep"].wait()
                await subscription.next(None)
            return "there"
        finally:
            subscription.close()


WAITER = ["subscribe", "look", "sleep"]
OWN = ["store", "tell"]
"""A commit of this object: it is durable first, and told then."""
POLLS = ["poll", "poll"]


async def played(waiting: Waiting, order: Sequence[str]) -> Waiter:
    """The waiter, after the steps in this order and as many looks of the poller as there is something to see."""
    waiter = Waiter(waiting)
    place = waiting.engine.place
    is_stored = False
    for step in order:
        match step:
            case "store":
                is_stored = place.commit_units([[PUT]])[0].error is None
            case "tell":
                waiting.subscriptions.committed([PUT] if is_stored else [])
            case "stored elsewhere":
                place.commit_units([[PUT]])
            case "delete" | "deleted elsewhere":
                place.delete("run")
            case "tell deletion":
                waiting.subscriptions.committed([DeleteRun("run")])
            case "close":
                waiting.subscriptions.close()
            case "poll":
                if waiting.engine.is_polled:
                    await waiting.poll()
            case _:
                waiter.step(step)
        await turns(3)
    for _ in range(4):
        if waiting.engine.is_polled:
            await waiting.poll()
    await turns()
    return waiter


def outcome(waiter: Waiter) -> str:
    assert waiter.task is not None
    if not waiter.task.done():
        waiter.task.cancel()
        return "waits"
    error = waiter.task.exception()
    return waiter.task.result() if error is None else type(error).__name__


STORIES: dict[str, tuple[list[list[str]], bool, set[str]]] = {
    "this object's commit": ([WAITER, OWN], False, {"there"}),
    "this object's commit beside a poller": ([WAITER, OWN, POLLS], True, {"there"}),
    "another's commit": ([WAITER, ["stored elsewhere"], POLLS], True, {"there"}),
    "this object's deletion": ([WAITER, ["delete", "tell deletion"]], False, {"RunDeletedError"}),
    "another's deletion": ([WAITER, ["deleted elsewhere"], POLLS], True, {"RunDeletedError"}),
    "close": ([WAITER, ["close"], ["poll"]], True, {"StoreClosedError"}),
    "close without a poller": ([WAITER, ["close"]], False, {"StoreClosedError"}),
    "a commit and then a deletion": (
        [WAITER, [*OWN, "delete", "tell deletion"]],
        False,
        {"there", "RunDeletedError"},
    ),
    "a commit, and another's deletion": (
        [WAITER, ["stored elsewhere", "deleted elsewhere"], POLLS],
        True,
        {"there", "RunDeletedError"},
    ),
    "a commit beside close": ([WAITER, OWN, ["close"]], False, {"there", "StoreClosedError"}),
    "another's commit beside close": (
        [WAITER, ["stored elsewhere"], ["close"], POLLS],
        True,
        {"there", "StoreClosedError"},
    ),
}


@pytest.mark.parametrize("story", STORIES)
async def test_no_wake_up_is_lost_in_any_interleaving_with(story: str, clock: Clock) -> None:
    actors, polls, expected = STORIES[story]
    for order in interleavings(*actors):
        waiting = Waiting(clock, polls=polls)
        waiter = await played(waiting, order)
        assert outcome(waiter) in expected, order
        await waiting.end()
        await turns(1)


async def test_no_wake_up_is_lost_in_orders_of_all_that_can_happen(clock: Clock) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # of what is told of a failure
    choice = random.Random(seed)
    for _ in range(300):
        elsewhere = [["stored elsewhere"], ["deleted elsewhere"], ["delete", "tell deletion"], ["close"], OWN, POLLS]
        order = shuffled(choice, [WAITER, *choice.sample(elsewhere, choice.randrange(1, len(elsewhere)))])
        waiting = Waiting(clock)
        told = outcome(await played(waiting, order))
        place = waiting.engine.place
        possible = {
            "there": "store" in order or "stored elsewhere" in order,
            "RunDeletedError": place.is_deleted("run"),
            "StoreClosedError": "close" in order,
            "waits": not ("close" in order or place.has(KEY) or place.is_deleted("run")),
        }
        assert possible[told], (told, order)
        await waiting.end()


def shuffled(choice: random.Random, actors: Sequence[Sequence[str]]) -> list[str]:
    """The steps of all in some order, each actor's in its own."""
    turns_of = [index for index, steps in enumerate(actors) for _ in steps]
    choice.shuffle(turns_of)
    left = [iter(steps) for steps in actors]
    return [next(left[index]) for index in turns_of]


async def test_who_waits_for_what_does_not_come_waits_in_every_interleaving(clock: Clock) -> None:
    for order in interleavings(WAITER, POLLS):
        waiting = Waiting(clock)
        assert outcome(await played(waiting, order)) == "waits"
        await waiting.end()


# -- what each is told ------------------------------------------------------------------------------------------------


class TestASubscription:
    async def test_to_an_output_is_told_of_that_one_alone(self, waiting: Waiting) -> None:
        task = await next_of(await waiting.subscribe())
        waiting.commit(PutOutput("run", "other", ONE, False), PutOutput("other", "node", ONE, False))
        await turns()
        assert not task.done()
        waiting.commit(PUT)
        assert await outcomes_of([task]) == [["node"]]

    async def test_to_a_run_is_told_of_all_its_outputs_and_of_several_at_once(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe(node_id=None)
        waiting.commit(PUT, PutOutput("other", "node", ONE, False), LoadOutput("run", "loaded", ONE, 5))
        assert await subscription.next(None) == ["node", "loaded"]
        task = await next_of(subscription)
        waiting.commit(PutOutput("run", "later", ONE, False))
        assert await outcomes_of([task]) == [["later"]]

    async def test_is_told_of_what_others_have_written_by_the_poller(self, waiting: Waiting) -> None:
        tasks = [
            await next_of(await waiting.subscribe()),
            await next_of(await waiting.subscribe(node_id=None)),
            await next_of(await waiting.subscribe("other", None)),
        ]
        waiting.engine.place.put(*KEY, ONE)
        await waiting.poll()
        assert await outcomes_of(tasks[:2]) == [["node"]] * 2
        assert not tasks[2].done()
        tasks[2].cancel()

    async def test_is_told_once_of_what_others_have_written(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe(node_id=None)
        waiting.engine.place.put(*KEY, ONE)
        await waiting.poll()
        assert await subscription.next(0.0) == ["node"]
        await waiting.poll()
        with pytest.raises(TimeoutError):
            await subscription.next(0.0)

    @pytest.mark.parametrize(
        "deletion",
        [DeleteRun("run"), DeleteIdleRuns(("other", "run"), 10**6, 10, None), LoadRun("run", 1, 2)],
        ids=lambda deletion: type(deletion).__name__,
    )
    @pytest.mark.parametrize("node_id", ["node", None])
    async def test_is_told_that_its_run_may_be_deleted(
        self, waiting: Waiting, deletion: Any, node_id: str | None
    ) -> None:
        task = await next_of(await waiting.subscribe(node_id=node_id))
        waiting.subscriptions.committed([deletion])
        assert await outcomes_of([task]) == [[]]

    async def test_is_told_of_outputs_before_a_deletion(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe(node_id=None)
        waiting.commit(PUT, DeleteRun("run"))
        assert [await subscription.next(None), await subscription.next(None)] == [["node"], []]

    async def test_is_not_told_of_what_was_committed_before_it(self, waiting: Waiting) -> None:
        waiting.commit(PUT)
        task = await next_of(await waiting.subscribe(node_id=None))
        await waiting.poll()
        assert not task.done()
        task.cancel()

    async def test_ends_its_wait_when_the_time_is_over_and_may_wait_again(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe()
        for timeout in (0.0, 0.001, -1.0):
            with pytest.raises(TimeoutError):
                await subscription.next(timeout)
        waiting.commit(PUT)
        assert await subscription.next(0.0) == ["node"]

    async def test_that_is_closed_is_told_of_nothing_more(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe()
        subscription.close()
        waiting.commit(PUT)
        with pytest.raises(TimeoutError):
            await subscription.next(0.0)

    async def test_may_be_closed_before_it_is_begun_and_twice(self, waiting: Waiting) -> None:
        subscription = waiting.subscriptions.subscription(*KEY)
        subscription.close()
        subscription.close()
        waiting.commit(PUT)

    async def test_that_is_closed_while_the_lock_is_held_is_gone_as_soon_as_the_next_one_takes_it(
        self, waiting: Waiting
    ) -> None:
        gone, stays = await waiting.subscribe(), await waiting.subscribe()
        with waiting.subscriptions.lock:
            gone.close()  # by a collector, in the very thread that holds it
        waiting.commit(PUT)
        with pytest.raises(TimeoutError):
            await gone.next(0.0)
        assert await stays.next(0.0) == ["node"]
        assert len(waiting.subscriptions._of_run["run"]) == 1

    async def test_leaves_nothing_behind(self, waiting: Waiting) -> None:
        subscriptions = [await waiting.subscribe(), await waiting.subscribe(), await waiting.subscribe(node_id=None)]
        for subscription in subscriptions:
            subscription.close()
        for kept in ("_by_output", "_by_run", "_of_run", "_departed"):
            assert not getattr(waiting.subscriptions, kept)


class TestThePoller:
    async def test_is_one_for_all_that_wait(self, waiting: Waiting) -> None:
        for _ in range(3):
            await waiting.subscribe()
        await turns()
        assert waiting.host.running == 1

    async def test_is_not_there_where_no_one_else_can_write(self, clock: Clock) -> None:
        waiting = Waiting(clock, polls=False)
        task = await next_of(await waiting.subscribe())
        assert not waiting.host.calls
        waiting.commit(PUT)
        assert await outcomes_of([task]) == [["node"]]
        await waiting.end()

    async def test_ends_when_no_one_waits_and_another_one_starts_with_the_next(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe()
        subscription.close()
        await waiting.poll()
        await until(lambda: waiting.host.running == 0)
        task = await next_of(await waiting.subscribe())
        assert (len(waiting.host.calls), waiting.host.running) == (2, 1)
        waiting.engine.place.put(*KEY, ONE)
        await waiting.poll()
        assert await outcomes_of([task]) == [["node"]]

    async def test_goes_on_for_who_comes_before_it_has_seen_that_no_one_waits(self, waiting: Waiting) -> None:
        (await waiting.subscribe()).close()
        task = await next_of(await waiting.subscribe())
        await waiting.poll()
        assert (len(waiting.host.calls), waiting.host.running) == (1, 1)
        waiting.engine.place.put(*KEY, ONE)
        await waiting.poll()
        assert await outcomes_of([task]) == [["node"]]

    async def test_has_taken_its_place_when_the_first_is_subscribed(self, waiting: Waiting) -> None:
        (beginning,) = spawn(waiting.subscriptions.subscription(*KEY).begin(waiting.host))  # type: ignore[arg-type]
        await turns()
        assert not beginning.done()
        waiting.engine.place.put("run", "before", ONE)
        await waiting.engine.let_poll()
        assert await outcomes_of([beginning]) == [None]

    async def test_that_fails_tells_each_by_an_error_of_its_own_and_another_one_starts_with_the_next(
        self, waiting: Waiting
    ) -> None:
        error = StorageError("the server is gone")
        error.__cause__ = OSError()
        tasks = [await next_of(await waiting.subscribe()) for _ in range(2)]
        waiting.engine.fail("poll", error)
        await waiting.poll()
        outcomes = await outcomes_of(tasks)
        assert [(str(told), told.__cause__) for told in outcomes] == [(str(error), error.__cause__)] * 2
        assert len({id(told) for told in (error, *outcomes)}) == 3
        task = await next_of(await waiting.subscribe())
        waiting.commit(PUT)
        assert await outcomes_of([task]) == [["node"]]

    async def test_that_fails_at_once_tells_who_subscribes_when_it_waits(self, waiting: Waiting) -> None:
        waiting.engine.fail("poll", StorageError("the server is gone"))
        subscription = await waiting.subscribe()
        with pytest.raises(StorageError, match="the server is gone"):
            await subscription.next(None)

    async def test_that_fails_by_a_bug_tells_all(self, waiting: Waiting, caplog: pytest.LogCaptureFixture) -> None:
        tasks = [await next_of(await waiting.subscribe()) for _ in range(2)]
        waiting.engine.fail("poll", ZeroDivisionError("a bug"))
        await waiting.poll()
        assert [type(told) for told in await outcomes_of(tasks)] == [StorageError] * 2
        assert caplog.records

    async def test_that_is_cancelled_tells_all_that_the_store_is_closed(self, waiting: Waiting) -> None:
        task = await next_of(await waiting.subscribe())
        await waiting.host.end()
        assert [type(told) for told in await outcomes_of([task])] == [StoreClosedError]

    async def test_that_cannot_be_started_leaves_the_next_one_to_start_another(self, waiting: Waiting) -> None:
        waiting.host.error = StoreClosedError("fake")
        with pytest.raises(StoreClosedError):
            await waiting.subscriptions.subscription(*KEY).begin(waiting.host)  # type: ignore[arg-type]
        waiting.host.error = None
        await waiting.subscribe()
        assert waiting.host.running == 1

    async def test_whose_start_was_given_up_is_no_ones_loss(self, waiting: Waiting) -> None:
        first, second = (waiting.subscriptions.subscription(*KEY) for _ in range(2))
        tasks = spawn(first.begin(waiting.host), second.begin(waiting.host))  # type: ignore[arg-type]
        await turns()
        tasks[0].cancel()
        await turns()
        await waiting.engine.let_poll()
        assert [type(told) for told in await outcomes_of(tasks)] == [asyncio.CancelledError, type(None)]
        waiting.commit(PUT)
        assert await second.next(0.0) == ["node"]

    @pytest.mark.parametrize("fails", [False, True], ids=["since no one waits", "since it fails"])
    async def test_that_ends_leaves_no_one_unpolled_who_comes_at_whatever_moment(
        self, clock: Clock, fails: bool
    ) -> None:
        moments = 0
        while await self._comes_at(moments, clock, fails):
            moments += 1
        assert moments >= 2

    async def _comes_at(self, moment: int, clock: Clock, fails: bool) -> bool:
        """Subscribe at that moment of a poller's end; False: it was at its end before."""
        waiting = Waiting(clock)
        (await waiting.subscribe()).close()
        late = waiting.subscriptions.subscription(*KEY)

        def come() -> None:
            beginning = late.begin(waiting.host)  # type: ignore[arg-type]
            try:
                beginning.send(None)
            except StopIteration:
                return
            beginning.close()  # it waits for the poller to take its place

        lock = _LockWithAMoment(moment, come)
        waiting.subscriptions.lock = lock  # type: ignore[assignment]
        if fails:
            waiting.engine.fail("poll", StorageError("the server is gone"))
        for _ in range(3):
            if waiting.engine.is_polled:
                await waiting.poll()
        has_come, lock.wake = lock.left < 0, None
        waiting.engine.place.put(*KEY, ONE)
        for _ in range(2):
            if waiting.engine.is_polled:
                await waiting.poll()
        if has_come:
            try:
                assert await late.next(0.0) == ["node"], moment
            except StorageError:
                assert fails
        await waiting.end()
        return has_come

    def test_whose_start_was_interrupted_is_started_by_another_one_who_waits_for_it(self, clock: Clock) -> None:
        engine = FakeEngine()
        engine.polls_at_once = True
        callers = thread_callers(engine)
        subscriptions = Subscriptions(engine, callers)
        host = _HostThatIsInterrupted()
        outcomes: list[Any] = []
        join = callers.join

        async def noted(future: Any) -> Any:
            host.is_waited_for.set()
            return await join(future)

        callers.join = noted  # type: ignore[method-assign]

        def subscribe() -> None:
            try:
                outcomes.append(run_now(subscriptions.subscription(*KEY).begin(host)))  # type: ignore[arg-type]
            except KeyboardInterrupt as interrupt:
                outcomes.append(interrupt)

        first = threading.Thread(target=subscribe)
        first.start()
        assert host.is_starting.wait(10)
        second = threading.Thread(target=subscribe)
        second.start()
        first.join(10)
        second.join(10)
        assert {type(told) for told in outcomes} == {KeyboardInterrupt, type(None)}
        assert len(host.pollers) == 1
        with pytest.raises(GeneratorExit):
            host.pollers[0].throw(GeneratorExit)

    async def test_rests_longer_the_longer_there_is_nothing_for_those_who_wait(
        self, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        sleep = asyncio.sleep

        async def noted(seconds: float) -> None:
            if seconds:
                pauses.append(seconds)
            await sleep(0)

        waiting.engine.tells_more = True
        waiting.engine.poll_seconds = (0.01, 0.0108)
        monkeypatch.setattr(asyncio, "sleep", noted)
        await waiting.subscribe()
        await until(lambda: waiting.engine.is_polled)
        waiting.engine.place.put("run", "what no one waits for", ONE)
        for _ in range(3):
            await waiting.engine.let_poll()
            await until(lambda: waiting.engine.is_polled)
        waiting.engine.place.put(*KEY, ONE)
        await waiting.engine.let_poll()
        await until(lambda: waiting.engine.is_polled)
        assert pauses == pytest.approx([0.01, 0.0105, 0.0108, 0.0108, 0.01])


class _LockWithAMoment:
    """A lock that has something done, once, after so many times that it was let go: another thread comes then."""

    def __init__(self, moment: int, wake: Any) -> None:
        self._lock = threading.Lock()
        self.left = moment
        self.wake = wake

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()
        self.left -= 1
        if self.left == -1 and self.wake is not None:
            self.wake()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _HostThatIsInterrupted:
    """Its first call is interrupted once another thread waits for what it was to start."""

    def __init__(self) -> None:
        self.is_starting, self.is_waited_for = threading.Event(), threading.Event()
        self.pollers: list[Any] = []

    def call(self, function: Any) -> None:
        if not self.is_starting.is_set():
            self.is_starting.set()
            assert self.is_waited_for.wait(10)
            raise KeyboardInterrupt
        poller = function()
        poller.send(None)
        self.pollers.append(poller)


class TestDeletedRuns:
    async def test_are_looked_for_only_if_something_has_changed(self, waiting: Waiting) -> None:
        await waiting.subscribe()
        await waiting.poll()
        looks = waiting.engine.calls.count("deleted_among")
        for _ in range(3):
            await waiting.poll()
        assert waiting.engine.calls.count("deleted_among") == looks

    async def test_are_not_looked_for_where_no_run_was_deleted_though_much_was_written(self, waiting: Waiting) -> None:
        await waiting.subscribe()
        await waiting.poll()
        looks = waiting.engine.calls.count("deleted_among")
        for number in range(3):
            waiting.engine.place.put("other", str(number), ONE)
            await waiting.poll()
        assert waiting.engine.calls.count("deleted_among") == looks
        waiting.clock.advance(5)
        await waiting.poll()
        assert waiting.engine.calls.count("deleted_among") == looks + 1  # all the same, once in a while

    async def test_are_looked_for_whenever_something_was_written_where_deletions_are_not_known(
        self, waiting: Waiting
    ) -> None:
        waiting.engine.knows_deletions = False
        task = await next_of(await waiting.subscribe())
        await waiting.poll()
        looks = waiting.engine.calls.count("deleted_among")
        waiting.engine.place.put("other", "node", ONE)
        await waiting.poll()
        assert waiting.engine.calls.count("deleted_among") == looks + 1
        waiting.engine.place.delete("run")
        await waiting.poll()
        assert await outcomes_of([task]) == [[]]

    async def test_are_told_to_those_who_wait_for_them_and_to_no_others(self, waiting: Waiting) -> None:
        tasks = [await next_of(await waiting.subscribe(run, None)) for run in ("run", "other")]
        waiting.engine.place.delete("run")
        await waiting.poll()
        assert await outcomes_of(tasks[:1]) == [[]]
        assert not tasks[1].done()
        tasks[1].cancel()

    async def test_that_were_deleted_while_they_were_looked_for_are_found_by_the_next_look(
        self, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deleted_among = waiting.engine.deleted_among

        async def too_early(flow_run_ids: Sequence[str]) -> list[str]:
            found = await deleted_among(flow_run_ids)
            waiting.engine.place.delete("run")
            monkeypatch.setattr(waiting.engine, "deleted_among", deleted_among)
            return found

        monkeypatch.setattr(waiting.engine, "deleted_among", too_early)
        task = await next_of(await waiting.subscribe())
        await waiting.poll()
        assert not task.done()
        await waiting.poll()
        assert await outcomes_of([task]) == [[]]


class TestClosed:
    async def test_all_who_wait_are_told_each_by_an_error_of_its_own(self, waiting: Waiting) -> None:
        tasks = [await next_of(await waiting.subscribe()) for _ in range(2)]
        waiting.subscriptions.close()
        outcomes = await outcomes_of(tasks)
        assert [type(told) for told in outcomes] == [StoreClosedError] * 2
        assert outcomes[0] is not outcomes[1]

    async def test_no_one_subscribes_any_more(self, waiting: Waiting) -> None:
        waiting.subscriptions.close()
        with pytest.raises(StoreClosedError):
            await waiting.subscriptions.subscription(*KEY).begin(waiting.host)  # type: ignore[arg-type]
        assert not waiting.host.calls

    async def test_the_poller_ends_with_its_next_look(self, waiting: Waiting) -> None:
        await waiting.subscribe()
        waiting.subscriptions.close()
        await waiting.poll()
        await until(lambda: waiting.host.running == 0)


def test_a_blocked_thread_is_woken_by_the_thread_that_commits(clock: Clock) -> None:
    engine = FakeEngine(polls=False)
    subscriptions = Subscriptions(engine, thread_callers(engine))
    begun = threading.Event()
    told: list[Any] = []

    def wait() -> None:
        subscription = subscriptions.subscription(*KEY)
        run_now(subscription.begin(LoopHost()))  # type: ignore[arg-type]
        begun.set()
        told.append(run_now(subscription.next(None)))

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(10)
    engine.place.put(*KEY, ONE)
    subscriptions.committed([PUT])
    thread.join(10)
    assert told == [["node"]]
