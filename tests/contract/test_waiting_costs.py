"""What waiting costs, however many wait and for whatever, and that they are told all the same."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import statistics
import time
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, RunDeletedError
from contextstore._dispatch import deletion_looks as _looks
from contextstore._dispatch import subscriptions as _watch
from contextstore._dispatch.deletion_looks import DeletionLooks, Rest
from contextstore._dispatch.subscriptions import Subscriptions
from contextstore._engine.operations import DeleteIdleRuns, DeleteRun

from ..conftest import Target
from ..support.doubles import core_of, until
from ..support.forked import Child
from ..support.waiting import tell
from .waiting import outcomes_of, spawn, waiting

WRITER = """
    with ContextStore(sys.argv[1]) as store:
        say("open")
        for number in range(10**6):
            store.put("neighbour", f"n{number}", number)
            time.sleep(0.01)
"""


class Counted(str):
    """An id that counts how often it is compared."""

    __slots__ = ()
    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)  # type: ignore[no-any-return]


class Nobody:
    """An engine that nobody else writes to."""

    location = "nowhere"
    feed = None


class TestTheCostOfADeletion:
    @pytest.mark.parametrize("in_one", [True, False], ids=["in one operation", "in an operation each"])
    async def test_it_does_not_grow_with_those_who_wait_for_other_runs(self, in_one: bool) -> None:
        engine: Any = Nobody()
        news = Subscriptions(engine)
        room: Any = None
        subscriptions = [news.subscription(Counted(f"run-{number}"), "node") for number in range(1500)]
        for one in subscriptions:
            await one.begin(room, room)
        names = [f"run-{number}" for number in range(0, 3000, 2)]
        Counted.comparisons = 0
        tell(news, *([DeleteIdleRuns(tuple(names), 0, 1, None)] if in_one else [DeleteRun(name) for name in names]))
        assert Counted.comparisons < 5000
        assert sum(one.maybe_deleted for one in subscriptions) == 750
        for one in subscriptions:
            one.close()
        tell(news, DeleteRun("another"))
        assert not news._of_run

    @pytest.mark.usefixtures("embedded")
    @pytest.mark.usefixtures("shared_target")
    async def test_all_runs_that_are_waited_for_are_looked_up_by_one_statement(self, make_store: Target) -> None:
        async with make_store() as store:
            names = [f"run-{number}" for number in range(300)]
            tasks = spawn(*(store.wait_for(name, "node") for name in names[:50]))
            await waiting(store, 50)
            core = core_of(store)
            engine: Any = core._session.engine
            statements: list[str] = []

            async def look() -> list[str]:
                engine.feed._poll_connection().set_trace_callback(statements.append)
                found: list[str] = await engine.feed.deleted_among(names)
                engine.feed._poll_connection().set_trace_callback(None)
                return found

            await core.delete_run("run-7")
            await core.delete_run("never waited for")
            assert await core._session.on_host(look) == ["run-7"]
            assert len(statements) == 1
            for task in tasks:
                task.cancel()
            await outcomes_of(tasks)


@pytest.mark.usefixtures("shared_target")
class TestThoseWhoWaitAreTold:
    async def test_of_deletions_by_another_process_among_many_runs(self, make_store: Target) -> None:
        program = """
            import datetime
            with ContextStore(sys.argv[1]) as store:
                with store.batch() as batch:
                    for number in range(40, 60):
                        batch.put(f"run-{number}", "other", 1)
                time.sleep(0.01)
                between = time.time()
                store.put("run-59", "young", 1)
                for number in range(0, 20):
                    store.delete_run(f"run-{number}")
                store.prune(older_than=datetime.timedelta(seconds=time.time() - between))
                store.put("run-30", "node", 30)
                say("done")
        """
        async with make_store() as store:
            waiters = spawn(*(store.wait_for(f"run-{number}", "node") for number in range(60)))
            await waiting(store, 60)
            with Child(program, make_store.location) as other:
                assert await asyncio.to_thread(other.hear) == "done"
            deleted = {*range(20), *range(40, 59)}
            await until(lambda: sum(waiter.done() for waiter in waiters) == len(deleted) + 1)
            for number, waiter in enumerate(waiters):
                if number in deleted:
                    assert isinstance(waiter.exception(), RunDeletedError)
                elif number == 30:
                    assert waiter.result() == 30
                else:
                    assert not waiter.done()
                    waiter.cancel()
            await outcomes_of(waiters)

    async def test_of_a_deletion_while_others_write_without_end(self, make_store: Target) -> None:
        async with make_store() as store:
            with Child(WRITER, make_store.location) as writer, Child(WRITER, make_store.location):
                assert await asyncio.to_thread(writer.hear) == "open"
                waiters = spawn(*(store.wait_for(f"run-{number}", "node") for number in range(60)))
                await waiting(store, 60)
                async with make_store() as other:
                    for number in range(60):
                        await other.delete_run(f"run-{number}")
                outcomes = await outcomes_of(waiters)
                assert {type(outcome) for outcome in outcomes} == {RunDeletedError}

    @pytest.mark.usefixtures("embedded")
    async def test_where_deletions_are_known_they_are_not_looked_for_without_one(
        self, make_store: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_looks, "_SURE_SECONDS", 60)
        async with make_store() as store, make_store() as other:
            engine: Any = core_of(store)._session.engine
            epoch, looks, deleted_among = 7, [], engine.feed.deleted_among

            async def counted(flow_run_ids: Any) -> Any:
                looks.append(len(flow_run_ids))
                return await deleted_among(flow_run_ids)

            engine.feed.deletion_epoch = lambda: epoch
            engine.feed.deleted_among = counted
            (waiter,) = spawn(store.wait_for("run", "node"))
            await waiting(store)
            for number in range(60):
                await other.put("other", str(number), 1)
                await asyncio.sleep(0.01)
            assert len(looks) == 1  # at the beginning
            await other.delete_run("run")
            epoch = 9
            (outcome,) = await outcomes_of([waiter])
            assert isinstance(outcome, RunDeletedError)
            assert len(looks) <= 3

    @pytest.mark.usefixtures("embedded")
    async def test_a_deletion_that_its_engine_does_not_know_of_is_found_a_little_later(
        self, make_store: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_looks, "_SURE_SECONDS", 0.3)
        async with make_store() as store, make_store() as other:
            engine: Any = core_of(store)._session.engine
            engine.feed.deletion_epoch = lambda: 7
            (waiter,) = spawn(store.wait_for("run", "node"))
            await waiting(store)
            await asyncio.sleep(0.2)
            await other.delete_run("run")
            (outcome,) = await outcomes_of([waiter])
            assert isinstance(outcome, RunDeletedError)


class TestLooks:
    def test_they_leave_nine_tenths_of_the_time(self) -> None:
        for times in (_watch._REST_AFTER_POLL, _looks._REST_AFTER_DELETIONS):
            rest = Rest(times)
            rest.after(0.01)
            assert rest.after(0.01) == pytest.approx(times * 0.01)
        share = sum(1 / (1 + times) for times in (_watch._REST_AFTER_POLL, _looks._REST_AFTER_DELETIONS))
        assert share <= 0.1 + 1e-9

    def test_one_that_took_long_for_no_reason_of_its_own_delays_nobody(self) -> None:
        rest = Rest(14)
        for seconds in (0.001, 3.0, 0.001, 0.001):
            assert rest.after(seconds) <= 0.02
        rest.after(100.0)
        assert rest.after(100.0) <= _looks._MOST_REST

    async def test_those_for_deletions_are_as_far_apart_as_they_take(self) -> None:
        class Slow(Nobody):
            def deletion_epoch(self) -> None:
                return None

            async def deleted_among(self, flow_run_ids: Any) -> list[str]:
                await asyncio.sleep(0.02)
                return []

        engine: Any = Slow()
        deletions = DeletionLooks(engine)
        looks = 0
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            if deletions.may_be_news(True):
                looks += 1
                await deletions.among([("run", None)])
            await asyncio.sleep(0.002)
        assert 2 <= looks <= 6  # each takes 20 ms: two at first, then one in 600 ms

    @pytest.mark.usefixtures("shared_target")
    async def test_a_file_that_nobody_writes_to_is_looked_at_every_thirty_milliseconds(
        self, make_store: Target
    ) -> None:
        if make_store.engine != "file":
            pytest.skip("a server is asked more seldom")
        async with make_store() as store:
            engine: Any = core_of(store)._session.engine
            (waiter,) = spawn(store.wait_for("run", "node"))
            await waiting(store)
            await asyncio.sleep(1)  # by now it has calmed down
            poll, looks = engine.feed.poll, []

            async def counted(*args: Any) -> Any:
                looks.append(time.monotonic())
                return await poll(*args)

            engine.feed.poll = counted
            await asyncio.sleep(1)
            waiter.cancel()
            await outcomes_of([waiter])
            between = [after - before for before, after in itertools.pairwise(looks)]
            assert 0.025 <= statistics.median(between) <= 0.1

    def test_who_waits_on_a_quiet_file_takes_about_a_hundredth_of_a_core(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                def wait():
                    try:
                        store.wait_for("run", "never", timeout=30)
                    except errors.StoreClosedError:
                        pass
                thread = threading.Thread(target=wait)
                thread.start()
                time.sleep(1)
                for _ in range(4):
                    began, used = time.perf_counter(), time.process_time()
                    time.sleep(1)
                    say((time.process_time() - used) / (time.perf_counter() - began))
            thread.join()
        """
        with Child(program, file_path) as child:
            shares = [float(child.hear()) for _ in range(4)]
        assert min(shares) < 0.02, shares  # 0.04 where it is looked every 10 ms


@pytest.mark.alone
@pytest.mark.slow
async def test_ten_thousand_waiters_of_as_many_runs_cost_about_what_those_of_one_do(tmp_path: pathlib.Path) -> None:
    shares = {}
    for runs in (1, 10_000):
        path = tmp_path / f"{runs}.db"
        async with AsyncContextStore(path) as store:
            waiters = [asyncio.create_task(store.wait_for(f"run-{i % runs}", f"node-{i}")) for i in range(10_000)]
            await waiting(store, 10_000)
            with Child(WRITER, path) as neighbour:
                assert await asyncio.to_thread(neighbour.hear) == "open"
                await asyncio.sleep(1)
                began, used = time.perf_counter(), time.process_time()
                await asyncio.sleep(3)
                shares[runs] = (time.process_time() - used) / (time.perf_counter() - began)
            async with AsyncContextStore(path) as other:
                await other.put("run-0", "node-0", "told")
            assert await waiters[0] == "told"
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
    print(shares)
    assert shares[10_000] < max(0.25, 2 * shares[1])


def test_a_store_that_waits_for_nobody_is_closed_at_once(file_path: pathlib.Path) -> None:
    """However long it would have rested before its next look."""
    with ContextStore(file_path) as store:
        with pytest.raises(TimeoutError):
            store.wait_for("run", "node", timeout=0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 5
