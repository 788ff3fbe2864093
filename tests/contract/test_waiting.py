"""Waiting: whoever waits for an output, or watches a run, is told of it, whoever writes it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    ContextStoreError,
    CorruptStoreError,
    DeserializationError,
    InvalidKeyError,
    RunDeletedError,
)
from contextstore._core import outputs as _outputs

from ..conftest import Target
from ..support.doubles import core_of, engine_alone
from ..support.forked import Child, children
from .waiting import TOLD, Watching, outcomes_of, spawn, subscriptions, waiting, watching

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


@pytest.mark.each_pair
class TestWaitFor:
    async def test_what_is_there_is_returned_at_once(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put("run", "node", {"rows": 3})
            assert await store.wait_for("run", "node") == {"rows": 3}
            assert await store.wait_for("run", "node", timeout=0) == {"rows": 3}

    async def test_a_waiter_is_told_of_what_another_call_writes(self, store: Any) -> None:
        (waiter,) = spawn(store.wait_for("run", "node"))
        await waiting(store)
        await store.put("run", "other", 0)
        await store.put("other run", "node", 0)
        await waiting(store)
        await store.put("run", "node", {"rows": 3})
        assert await outcomes_of([waiter]) == [{"rows": 3}]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_waiter_is_told_of_what_another_store_object_writes(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            (waiter,) = spawn(one.wait_for("run", "node"))
            await waiting(one)
            await other.put("run", "node", {"rows": 3})
            assert await outcomes_of([waiter]) == [{"rows": 3}]

    async def test_whatever_writes_an_output_wakes_its_waiters(self, pair: tuple[Any, Any]) -> None:
        store, writer = pair
        await writer.put("source", "node", "forked")

        async def in_a_batch() -> None:
            if hasattr(writer, "plain"):
                with writer.plain.batch() as batch:
                    batch.put("batch", "node", "batched")
            else:
                async with writer.batch() as batch:
                    batch.put("batch", "node", "batched")

        writes: dict[str, Callable[[], Awaitable[Any]]] = {
            "put": lambda: writer.put("put", "node", "put"),
            "retry": lambda: writer.put("retry", "node", "retried", exist_ok=True),
            "many": lambda: writer.put_many("many", {"a": 1, "node": "among many"}),
            "step": lambda: writer.get_or_put("step", "node", lambda: "computed"),
            "fork": lambda: writer.fork_run("source", new_flow_run_id="fork"),
            "batch": in_a_batch,
        }
        waiters = spawn(*(store.wait_for(run, "node") for run in writes))
        await waiting(store, len(waiters))
        for write in writes.values():
            await write()
        assert await outcomes_of(waiters) == [
            "put", "retried", "among many", "computed", "forked", "batched",
        ]  # fmt: skip

    async def test_a_null_that_is_written_ends_the_waiting(self, store: Any) -> None:
        (waiter,) = spawn(store.wait_for("run", "node"))
        await waiting(store)
        await store.put("run", "node", None)
        assert await outcomes_of([waiter]) == [None]

    async def test_each_waiter_gets_a_value_of_its_own_and_of_its_type(self, store: Any) -> None:
        waiters = spawn(
            store.wait_for("run", "node"),
            store.wait_for("run", "node"),
            store.wait_for("run", "node", type=tuple[int, ...]),
            store.wait_for("run", "node", type=str),
        )
        await waiting(store, 4)
        await store.put("run", "node", [1, 2])
        one, other, converted, refused = await outcomes_of(waiters)
        assert one == other == [1, 2]
        assert one is not other
        assert converted == (1, 2)
        assert isinstance(refused, DeserializationError)

    async def test_a_bad_id_is_refused(self, store: Any) -> None:
        for run, node in [("", "node"), ("run", ""), ("run", 5)]:
            with pytest.raises(InvalidKeyError):
                await store.wait_for(run, node, timeout=0)

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_output_is_an_error_and_not_waited_for(
        self, make_store: Target, tmp_path: pathlib.Path
    ) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put("run", "node", 1)
            with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
                connection.execute("UPDATE node_outputs SET value = '2'")
            with pytest.raises(CorruptStoreError):
                await store.wait_for("run", "node")

    @pytest.mark.usefixtures("shared_target")
    async def test_a_read_only_store_waits_for_what_others_write(self, make_store: Target) -> None:
        async with make_store() as writer, make_store(read_only=True) as reader, watching(reader) as watch:
            (waiter,) = spawn(reader.wait_for("run", "b"))
            await waiting(reader)
            await writer.put("run", "a", 1)
            assert await watch.take(1) == ["a"]
            await writer.put("run", "b", 2)
            assert await outcomes_of([waiter]) == [2]
            assert await watch.take(1) == ["b"]
            with pytest.raises(TimeoutError):
                await reader.wait_for("run", "c", timeout=0.02)
            (doomed,) = spawn(reader.wait_for("run", "c"))
            await waiting(reader)
            await writer.delete_run("run")
            (outcome,) = await outcomes_of([doomed])
            assert isinstance(outcome, RunDeletedError)


@pytest.mark.each_pair
class TestTimeouts:
    @pytest.mark.parametrize("timeout", [0, 0.0, -1, 0.02])
    @pytest.mark.each_input_once
    async def test_what_is_not_there_in_time_is_the_builtin_timeout_error(self, store: Any, timeout: float) -> None:
        with pytest.raises(TimeoutError) as caught:
            await store.wait_for("run", "node", timeout=timeout)
        assert type(caught.value) is TimeoutError
        assert not isinstance(caught.value, ContextStoreError)

    @pytest.mark.parametrize("timeout", [60, 1e12, float("inf"), None])
    @pytest.mark.each_input_once
    async def test_what_comes_in_time_is_returned(self, store: Any, timeout: float | None) -> None:
        (waiter,) = spawn(store.wait_for("run", "node", timeout=timeout))
        await waiting(store)
        await store.put("run", "node", 1)
        assert await outcomes_of([waiter]) == [1]

    async def test_a_timeout_counts_from_the_call_whatever_else_happens_meanwhile(self, store: Any) -> None:
        async def write_others() -> None:
            for i in range(10**6):
                await store.put("run", f"other {i}", i)

        (waiter,) = spawn(store.wait_for("run", "node", timeout=0.1))
        (writer,) = spawn(write_others())
        (outcome,) = await outcomes_of([waiter])
        assert isinstance(outcome, TimeoutError)
        writer.cancel()
        await outcomes_of([writer])

    async def test_a_waiter_whose_time_is_up_harms_no_other(self, store: Any) -> None:
        (patient,) = spawn(store.wait_for("run", "node"))
        hasty = spawn(*(store.wait_for("run", "node", timeout=0.01 * i) for i in range(5)))
        assert {type(outcome) for outcome in await outcomes_of(hasty)} == {TimeoutError}
        await waiting(store)
        await store.put("run", "node", 1)
        assert await outcomes_of([patient]) == [1]

    async def test_written_and_timed_out_at_once_is_one_or_the_other(self, store: Any) -> None:
        for i in range(60):
            delay = 0.0002 * (i % 20)
            waiter, writer = spawn(store.wait_for("run", str(i), timeout=delay), store.put("run", str(i), i))
            outcome, written = await outcomes_of([waiter, writer])
            assert written is None
            assert outcome == i or isinstance(outcome, TimeoutError)
            assert subscriptions(store) == []
            assert await store.wait_for("run", str(i), timeout=0) == i


class TestDeletions:
    async def test_a_run_that_is_deleted_is_not_waited_for(self, store: Any) -> None:
        await store.put("run", "node", 1)
        await store.delete_run("run")
        await store.delete_run("never seen")
        for run in ("run", "never seen"):
            with pytest.raises(RunDeletedError) as caught:
                await store.wait_for(run, "node")
            assert caught.value.flow_run_id == run
            with pytest.raises(RunDeletedError):
                await Watching(store, run).next()

    async def test_a_deletion_ends_the_waiting_for_that_run_alone(self, store: Any) -> None:
        waiters = spawn(*(store.wait_for("run", node) for node in "ab"), store.wait_for("other run", "a"))
        watch = Watching(store)
        waiters += spawn(watch.next())
        await waiting(store, 4)
        await store.delete_run("run")
        outcomes = await outcomes_of([*waiters[:2], waiters[3]])
        assert [type(outcome) for outcome in outcomes] == [RunDeletedError] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        await waiting(store)
        await store.put("other run", "a", 1)
        assert await outcomes_of([waiters[2]]) == [1]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_deletion_by_another_store_object_ends_the_waiting(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            watch = Watching(one)
            waiters = spawn(one.wait_for("run", "node"), watch.next(), one.wait_for("other run", "node"))
            await waiting(one, 3)
            await asyncio.sleep(0.3)  # long enough for the first looks at what is deleted to be over
            await other.delete_run("run")
            outcomes = await outcomes_of(waiters[:2])
            assert [type(outcome) for outcome in outcomes] == [RunDeletedError] * 2
            await other.put("other run", "node", 1)
            assert await outcomes_of(waiters[2:]) == [1]

    async def test_what_prune_deletes_is_not_waited_for_any_more(self, store: Any) -> None:
        await store.put("run", "a", 1)
        (waiter,) = spawn(store.wait_for("run", "b"))
        await waiting(store)
        await asyncio.sleep(0.002)
        assert (await store.prune(older_than=datetime.timedelta(milliseconds=1))).runs == 1
        (outcome,) = await outcomes_of([waiter])
        assert isinstance(outcome, RunDeletedError)

    async def test_a_run_that_prune_leaves_since_it_was_written_to_is_waited_for_on(self, store: Any) -> None:
        await store.put("run", "a", 1)
        watch = Watching(store)
        assert await watch.take(1) == ["a"]
        (waiter,) = spawn(store.wait_for("run", "c"))
        waiters = [waiter, *spawn(watch.next())]
        await waiting(store, 2)
        await asyncio.sleep(0.05)
        commit: Any = core_of(store)._session.commit

        async def write_before_the_deletion(operations: Any) -> Any:
            if core_of(store)._session.commit is not commit:
                core_of(store)._session.commit = commit  # type: ignore[method-assign]
                await core_of(store).put("run", "b", 2)
            return await commit(operations)

        core_of(store)._session.commit = write_before_the_deletion  # type: ignore[method-assign]
        assert (await store.prune(older_than=datetime.timedelta(milliseconds=40))).runs == 0
        (output,) = await outcomes_of(waiters[1:])
        assert output.node_id == "b"
        await waiting(store)
        await store.put("run", "c", 3)
        assert await outcomes_of([waiter]) == [3]
        await watch.close()

    def test_a_deletion_by_another_process_ends_the_waiting(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                sys.stdin.readline()
                store.delete_run("run")
        """
        with ContextStore(file_path) as store, Child(program, file_path) as child:
            store.put("run", "a", 1)
            assert child.hear() == "open"
            outputs = store.watch("run")
            assert next(outputs).node_id == "a"
            child.tell()
            with pytest.raises(RunDeletedError):
                next(outputs)
            with pytest.raises(RunDeletedError):
                store.wait_for("run", "b", timeout=TOLD)
            assert child.end()[0] == 0


class TestWatch:
    async def test_those_already_there_come_in_the_order_of_the_commits_and_then_each_as_it_is_written(
        self, store: Any
    ) -> None:
        for node in ("c", "a", "b"):
            await store.put("run", node, node.upper())
        async with watching(store) as watch:
            first = await watch.next()
            assert (first.flow_run_id, first.node_id, first.value, first.size) == ("run", "c", "C", 3)
            assert first.written_at.tzinfo is datetime.UTC
            assert await watch.take(2) == ["a", "b"]
            for node in ("z", "d", "y"):
                await store.put("run", node, 0)
                assert await watch.take(1) == [node]

    @pytest.mark.usefixtures("shared_target")
    async def test_the_writes_of_several_store_objects_are_seen_once_each(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other, watching(one) as watch:
            (first,) = spawn(watch.next())
            await waiting(one)
            for i in range(50):
                await (one, other)[i % 2].put("run", f"{i:02}", i)
            nodes = [(await first).node_id, *await watch.take(49)]
            assert sorted(nodes) == [f"{i:02}" for i in range(50)]
            with pytest.raises(TimeoutError):
                await one.wait_for("run", "nothing", timeout=0.05)  # long enough for the poller to find all of them
            await other.put("run", "last", 0)
            assert await watch.take(1) == ["last"]

    async def test_what_is_written_while_it_lists_is_seen_once(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_outputs, "PAGE_ROWS", 3)
        await store.put_many("run", {f"{i:02}": i for i in range(10, 20)})
        async with watching(store) as watch:
            seen = await watch.take(4)
            await store.put_many("run", {f"{i:02}": i for i in (0, 1, 11 + 10, 22)})
            await store.put("run", "155", 0)
            seen += await watch.take(11)
            assert sorted(seen) == sorted([*(f"{i:02}" for i in [0, 1, *range(10, 20), 21, 22]), "155"])
            await store.put("run", "last", 0)
            assert await watch.take(1) == ["last"]

    async def test_a_retry_of_what_is_there_is_no_news(self, store: Any) -> None:
        await store.put("run", "a", 1)
        async with watching(store) as watch:
            assert await watch.take(1) == ["a"]
            await store.put("run", "a", 1, exist_ok=True)
            await store.put_many("run", {"a": 1, "b": 2}, exist_ok=True)
            await store.put_many("run", {"b": 2, "c": 3}, exist_ok=True)
            assert await watch.take(2) == ["b", "c"]

    async def test_several_watchers_and_waiters_see_all_each(self, store: Any) -> None:
        watches = [Watching(store) for _ in range(5)]
        firsts = spawn(*(watch.next() for watch in watches), store.wait_for("run", "b"))
        await waiting(store, 6)
        await store.put_many("run", {"a": 1, "b": 2, "c": 3})
        *outputs, waited = await outcomes_of(firsts)
        assert waited == 2
        for watch, output in zip(watches, outputs, strict=True):
            assert [output.node_id, *await watch.take(2)] == ["a", "b", "c"]
            await watch.close()

    async def test_each_consumer_gets_values_of_its_own(self, store: Any) -> None:
        await store.put("run", "node", [1])
        async with watching(store) as one, watching(store) as other:
            first = await one.next()
            first.value.append(2)
            assert (await other.next()).value == [1]

    async def test_a_watcher_of_one_run_hears_nothing_of_others(self, store: Any) -> None:
        async with watching(store) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for run in ("run2", "ru", "other"):
                await store.put_many(run, {"a": 1, "b": 2})
            await store.put("run", "node", 3)
            (output,) = await outcomes_of([first])
            assert (output.flow_run_id, output.node_id, output.value) == ("run", "node", 3)

    async def test_a_consumer_that_is_slow_misses_nothing(self, store: Any) -> None:
        async with watching(store) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for i in range(200):
                await store.put("run", f"{i:03}", i)
            assert [(await first).node_id, *await watch.take(199)] == [f"{i:03}" for i in range(200)]

    @pytest.mark.usefixtures("shared_target", "embedded")
    async def test_a_reader_that_lags_misses_nothing(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store, make_store() as other, watching(store) as watch:
            await store.put("run", "a", 0)
            assert await watch.take(1) == ["a"]
            (waiter,) = spawn(store.wait_for("run", "c"))
            await waiting(store)
            held = threading.Event()

            async def hold() -> None:
                assert held.wait(60)

            engine_alone(store).post_read(hold)
            (following,) = spawn(watch.take(2))
            await store.put("run", "b", 1)
            await other.put("run", "c", 2)
            await asyncio.sleep(0.05)
            assert not waiter.done()
            held.set()
            assert await outcomes_of([waiter, following]) == [2, ["b", "c"]]

    @pytest.mark.usefixtures("shared_target")
    async def test_outputs_that_are_deleted_leave_no_gap_in_which_news_are_missed(self, make_store: Target) -> None:
        """If the ids of deleted rows were given anew, the poller would take new outputs for old ones."""
        async with make_store() as store, make_store() as other, watching(store) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for i in range(5):
                await other.put_many(f"doomed {i}", {str(n): n for n in range(20)})
                await asyncio.sleep(0.01 * (i % 2))  # seen by the poller, or not
                await other.delete_run(f"doomed {i}")
                await other.put("run", str(i), i)
            assert [(await first).node_id, *await watch.take(4)] == list("01234")

    async def test_a_bad_id_is_refused(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await Watching(store, "").next()

    def test_what_several_processes_write_is_seen_once_each(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                sys.stdin.readline()
                for i in range(150):
                    store.put("run", f"{sys.argv[2]} {i:03}", i)
                    store.put("other run", f"{sys.argv[2]} {i:03}", i)
        """
        with ContextStore(file_path) as store, children(3, program, file_path) as writers:
            assert [writer.hear() for writer in writers] == ["open"] * 3
            for writer in writers:
                writer.tell()
            outputs = store.watch("run")
            seen = [next(outputs).node_id for _ in range(450)]
            outputs.close()
            assert sorted(seen) == [f"{writer} {i:03}" for writer in range(3) for i in range(150)]
            assert subscriptions(store) == []
            assert [writer.end()[0] for writer in writers] == [0] * 3
