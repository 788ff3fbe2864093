"""Subscriptions against an engine in which the test chooses what happens when: no wake-up is lost in any order."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from contextstore import StorageError, StoreClosedError
from contextstore._dispatch.subscriptions import Subscription, Subscriptions
from contextstore._engine.operations import DeleteIdleRuns, DeleteRun, LoadOutput, LoadRun, PutOutput

from ..support.clock import Clock
from ..support.fake_engine import (
    FakeEngine,
    LoopHost,
    outcomes_of,
    run_now,
    spawn,
    thread_callers,
    turns,
    until,
)
from ..support.instructions import AtInstruction
from ..support.portions import steps
from ..support.waiting import KEY, ONE, PUT, Waiting, tell

KEPT = ("_everyone", "_arrived", "_by_output", "_by_run", "_of_run", "_departed")


async def next_of(subscription: Subscription) -> asyncio.Future[list[str]]:
    (task,) = spawn(subscription.next(None))
    await turns(1)
    return task


class TestASubscription:
    async def test_to_an_output_is_told_of_that_one_alone(self, waiting: Waiting) -> None:
        task = await next_of(await waiting.subscribe())
        waiting.commit(PutOutput("run", "other", ONE, False), PutOutput("other", "node", ONE, False))
        await turns()
        assert not task.done()
        waiting.commit(PUT)
        assert await outcomes_of([task]) == [["node"]]

    async def test_to_a_run_is_told_of_all_its_outputs_and_keeps_the_last_alone(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe(node_id=None)
        waiting.commit(PUT, PutOutput("other", "node", ONE, False), LoadOutput("run", "loaded", ONE, 5))
        assert await subscription.next(None) == ["loaded"]
        task = await next_of(subscription)
        waiting.commit(PutOutput("run", "later", ONE, False))
        assert await outcomes_of([task]) == [["later"]]

    async def test_to_everything_is_told_of_the_outputs_of_all_runs_and_of_no_deletion(self, waiting: Waiting) -> None:
        subscription = await waiting.subscribe(None, None)
        for run in ("run", "other"):
            waiting.commit(PutOutput(run, "node", ONE, False))
            assert await subscription.next(None) == ["node"]
        waiting.engine.place.put("a third", "node", ONE)
        await waiting.poll()
        assert await subscription.next(None) == ["node"]
        task = await next_of(subscription)
        waiting.commit(DeleteRun("run"))
        await waiting.poll()
        assert not task.done()
        task.cancel()

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
        tell(waiting.subscriptions, deletion)
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

    async def test_that_is_closed_while_news_is_told_is_gone_when_the_next_is_told(self, waiting: Waiting) -> None:
        gone, stays = await waiting.subscribe(), await waiting.subscribe()
        waiting.commit(PutOutput("run", "another", ONE, False))
        with waiting.subscriptions._telling:
            gone.close()  # by a collector, in the very thread that tells
        waiting.commit(PUT)
        with pytest.raises(TimeoutError):
            await gone.next(0.0)
        assert await stays.next(0.0) == ["node"]
        assert len(waiting.subscriptions._of_run["run"]) == 1

    async def test_leaves_nothing_behind_once_news_was_told_or_asked_for(self, waiting: Waiting) -> None:
        subscriptions = [await waiting.subscribe(), await waiting.subscribe(), await waiting.subscribe(node_id=None)]
        for subscription in subscriptions:
            subscription.close()
        assert not waiting.subscriptions._all()
        await waiting.poll()
        for kept in KEPT:
            assert not getattr(waiting.subscriptions, kept)

    async def test_leaves_nothing_behind_where_no_news_ever_comes(self, clock: Clock) -> None:
        waiting = Waiting(clock, polls=False)
        for node_id in ("node", None):
            subscription = await waiting.subscribe(node_id=node_id)
            subscription.close()
            subscription.close()
        for kept in KEPT:
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
        (beginning,) = spawn(waiting.subscriptions.subscription(*KEY).begin(waiting.host, waiting.callers))  # type: ignore[arg-type]
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
            await waiting.subscriptions.subscription(*KEY).begin(waiting.host, waiting.callers)  # type: ignore[arg-type]
        waiting.host.error = None
        await waiting.subscribe()
        assert waiting.host.running == 1

    async def test_whose_start_was_given_up_is_no_ones_loss(self, waiting: Waiting) -> None:
        first, second = (waiting.subscriptions.subscription(*KEY) for _ in range(2))
        tasks = spawn(first.begin(waiting.host, waiting.callers), second.begin(waiting.host, waiting.callers))  # type: ignore[arg-type]
        await turns()
        tasks[0].cancel()
        await turns()
        await waiting.engine.let_poll()
        assert [type(told) for told in await outcomes_of(tasks)] == [asyncio.CancelledError, type(None)]
        waiting.commit(PUT)
        assert await second.next(0.0) == ["node"]

    @pytest.mark.parametrize("fails", [False, True], ids=["since no one waits", "since it fails"])
    def test_that_ends_leaves_no_one_unpolled_who_comes_at_whatever_instruction(
        self, clock: Clock, fails: bool
    ) -> None:
        for at in itertools.count(*steps(7)):
            if not self._comes_at(at, clock, fails):
                break
        assert at > 50

    def _comes_at(self, at: int, clock: Clock, fails: bool) -> bool:
        """Subscribe at that instruction of a poller's end; False: it was at its end before."""
        waiting = Waiting(clock)
        late = waiting.subscriptions.subscription(*KEY)

        def come() -> None:
            beginning = late.begin(waiting.host, waiting.callers)  # type: ignore[arg-type]
            try:
                beginning.send(None)
            except StopIteration:
                return
            beginning.close()  # it waits for the poller to take its place

        instruction = AtInstruction(at, come, "_dispatch/subscriptions")

        async def begin() -> None:
            (await waiting.subscribe()).close()
            if fails:
                waiting.engine.fail("poll", StorageError("the server is gone"))

        async def polls() -> None:
            for _ in range(6):
                if waiting.engine.is_polled:
                    await waiting.poll()

        async def is_told() -> None:
            try:
                assert set(await late.next(0.0)) == {"node"}, instruction.where  # by one poller, or by two
            except StorageError:
                assert fails

        with asyncio.Runner() as runner:
            runner.run(begin())
            instruction.run(lambda: runner.run(polls()))
            waiting.engine.place.put(*KEY, ONE)
            runner.run(polls())
            if instruction.where is not None:
                runner.run(is_told())
            runner.run(waiting.end())
        return instruction.where is not None

    def test_whose_start_was_interrupted_is_started_by_another_one_who_waits_for_it(self, clock: Clock) -> None:
        engine = FakeEngine()
        engine.polls_at_once = True
        subscriptions = Subscriptions(engine)
        host = _HostThatIsInterrupted()
        outcomes: list[Any] = []

        def subscribe() -> None:
            try:
                outcomes.append(run_now(subscriptions.subscription(*KEY).begin(host, thread_callers(engine))))  # type: ignore[arg-type]
            except KeyboardInterrupt as interrupt:
                outcomes.append(interrupt)

        first = threading.Thread(target=subscribe)
        first.start()
        assert host.is_starting.wait(10)
        second = threading.Thread(target=subscribe)
        second.start()
        second.join(10)
        assert outcomes == [None]
        host.is_interrupted.set()
        first.join(10)
        assert [type(told) for told in outcomes] == [type(None), KeyboardInterrupt]
        assert len(host.pollers) == 1
        with pytest.raises(GeneratorExit):
            host.pollers[0].throw(GeneratorExit)

    async def test_that_was_started_twice_runs_once(self, waiting: Waiting) -> None:
        class Twice(LoopHost):
            """A call is interrupted behind what it does: so the next subscriber does it again."""

            def call(self, function: Any) -> Any:
                super().call(function)
                return super().call(function)

        waiting.host = Twice()
        await waiting.subscribe()
        await turns()
        assert (len(waiting.host.calls), waiting.host.running) == (2, 1)

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


class _HostThatIsInterrupted:
    """Its first call is interrupted before it has done anything."""

    def __init__(self) -> None:
        self.is_starting, self.is_interrupted = threading.Event(), threading.Event()
        self.pollers: list[Any] = []

    def call(self, function: Any) -> None:
        if not self.is_starting.is_set():
            self.is_starting.set()
            assert self.is_interrupted.wait(10)
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
            await waiting.subscriptions.subscription(*KEY).begin(waiting.host, waiting.callers)  # type: ignore[arg-type]
        assert not waiting.host.calls

    async def test_the_poller_ends_with_its_next_look(self, waiting: Waiting) -> None:
        await waiting.subscribe()
        waiting.subscriptions.close()
        await waiting.poll()
        await until(lambda: waiting.host.running == 0)


def test_a_blocked_thread_is_woken_by_the_thread_that_commits(clock: Clock) -> None:
    engine = FakeEngine(polls=False)
    subscriptions = Subscriptions(engine)
    begun = threading.Event()
    told: list[Any] = []

    def wait() -> None:
        subscription = subscriptions.subscription(*KEY)
        run_now(subscription.begin(LoopHost(), thread_callers(engine)))  # type: ignore[arg-type]
        begun.set()
        told.append(run_now(subscription.next(None)))

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(10)
    engine.place.put(*KEY, ONE)
    tell(subscriptions, PUT)
    thread.join(10)
    assert told == [["node"]]
