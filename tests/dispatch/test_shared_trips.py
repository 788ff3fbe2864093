"""The reader against an engine in which the test chooses what happens when: gets share trips, and no error object."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from contextstore import CorruptStoreError, StorageError, StoreBusyError, StoreClosedError
from contextstore._dispatch import reader as reader_module
from contextstore._dispatch.cache import OutputCache
from contextstore._dispatch.reader import Reader
from contextstore._engine.pages import Part
from contextstore._values.codec import JSON, Encoded

from ..support.clock import Clock
from ..support.fake_engine import FakeEngine, outcomes_of, run_now, spawn, task_callers, thread_callers, turns

ONE = Encoded(JSON, b"1")


def key(node_id: object) -> tuple[str, str]:
    return "run", str(node_id)


CALLERS = task_callers(FakeEngine())


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine()
    for number in range(6):
        engine.place.put("run", str(number), Encoded(JSON, b"%d" % number))
    return engine


@pytest.fixture
def cache(engine: FakeEngine) -> OutputCache:
    return OutputCache(10**6, engine.epochs)


@pytest.fixture
def reader(engine: FakeEngine, cache: OutputCache) -> Reader:
    return Reader(engine, cache, 5.0)


async def asked(reader: Reader, *node_ids: object) -> list[asyncio.Future[Any]]:
    tasks: list[asyncio.Future[Any]] = spawn(*(reader.fetch(key(node_id), CALLERS) for node_id in node_ids))
    await turns(1)
    return tasks


def damage(engine: FakeEngine, node_id: str) -> None:
    outputs = engine.place.runs["run"].outputs
    outputs[node_id] = outputs[node_id]._replace(data=b"9")


class TestAFetch:
    async def test_gives_the_output_or_none(self, engine: FakeEngine, reader: Reader) -> None:
        tasks = await asked(reader, 3, "absent")
        engine.run_reads()
        found, absent = await outcomes_of(tasks)
        assert (found.node_id, found.value, absent) == ("3", Encoded(JSON, b"3"), None)

    async def test_is_one_trip_for_all_that_wait(self, engine: FakeEngine, reader: Reader) -> None:
        tasks = await asked(reader, 0, 1, 2)
        engine.run_reads()
        await outcomes_of(tasks)
        assert engine.trips == [[key(0), key(1), key(2)]]

    async def test_that_comes_during_a_trip_goes_with_the_next_one(self, engine: FakeEngine, reader: Reader) -> None:
        engine.hold("fetch")
        tasks = await asked(reader, 0)
        job = engine.begin_read()
        tasks += await asked(reader, 1, 2)
        assert not engine.reads  # one trip at a time
        engine.release()
        job.finish()
        assert len(engine.reads) == 1
        engine.run_reads()
        await outcomes_of(tasks)
        assert engine.trips == [[key(0)], [key(1), key(2)]]

    async def test_of_what_is_written_during_a_trip_sees_it_in_the_next_one(
        self, engine: FakeEngine, reader: Reader
    ) -> None:
        engine.hold("fetched")
        tasks = await asked(reader, "new")
        job = engine.begin_read()
        engine.place.put("run", "new", ONE)
        tasks += await asked(reader, "new")
        engine.release()
        job.finish()
        engine.run_reads()
        before, after = await outcomes_of(tasks)
        assert (before, after.value) == (None, ONE)

    async def test_takes_no_more_keys_than_go_into_a_trip(
        self, engine: FakeEngine, reader: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader_module, "FETCH_KEYS", 2)
        tasks = await asked(reader, *range(5))
        engine.run_reads()
        assert [record.node_id for record in await outcomes_of(tasks)] == list("01234")
        assert [len(trip) for trip in engine.trips] == [2, 2, 1]

    async def test_of_one_key_by_several_is_answered_to_each(self, engine: FakeEngine, reader: Reader) -> None:
        tasks = await asked(reader, 1, 1, 1)
        engine.run_reads()
        assert [record.node_id for record in await outcomes_of(tasks)] == ["1"] * 3

    async def test_that_is_cancelled_is_no_ones_loss(self, engine: FakeEngine, reader: Reader) -> None:
        engine.hold("fetched")
        tasks = await asked(reader, 0, 1)
        job = engine.begin_read()
        tasks[0].cancel()
        await turns()
        job.finish()
        assert (await outcomes_of(tasks))[1].node_id == "1"

    async def test_of_a_damaged_output_fails_alone(self, engine: FakeEngine, reader: Reader) -> None:
        damage(engine, "1")
        tasks = await asked(reader, 0, 1, 2)
        engine.run_reads()
        outcomes = await outcomes_of(tasks)
        assert [outcomes[0].node_id, type(outcomes[1]), outcomes[2].node_id] == ["0", CorruptStoreError, "2"]
        assert outcomes[1].node_id == "1"


class TestATripThatFails:
    async def test_is_told_to_each_by_an_error_of_its_own(self, engine: FakeEngine, reader: Reader) -> None:
        error = StorageError("the file is gone")
        error.__cause__ = OSError()
        engine.fail("fetch", error)
        tasks = await asked(reader, 0, 1)
        engine.run_reads()
        outcomes = await outcomes_of(tasks)
        assert [(str(outcome), outcome.__cause__) for outcome in outcomes] == [(str(error), error.__cause__)] * 2
        assert len({id(outcome) for outcome in (error, *outcomes)}) == 3

    async def test_by_a_bug_is_told_as_an_error_of_the_store(
        self, engine: FakeEngine, reader: Reader, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.fail("fetch", ZeroDivisionError("a bug"))
        tasks = await asked(reader, 0, 1)
        engine.run_reads()
        outcomes = await outcomes_of(tasks)
        assert [type(outcome) for outcome in outcomes] == [StorageError] * 2
        assert "unforeseen" in str(outcomes[0])
        assert caplog.records

    async def test_keeps_no_later_one_from_being_made(self, engine: FakeEngine, reader: Reader) -> None:
        engine.hold("fetch")
        engine.fail("fetch", StorageError("failed"))
        tasks = await asked(reader, 0)
        job = engine.begin_read()
        tasks += await asked(reader, 1)
        engine.release()
        job.finish()
        engine.run_reads()
        outcomes = await outcomes_of(tasks)
        assert [type(outcomes[0]), outcomes[1].node_id] == [StorageError, "1"]

    async def test_since_the_engine_was_busy_answers_those_who_have_waited_as_long_and_no_others(
        self, engine: FakeEngine, reader: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch, reader_module)
        monkeypatch.setattr(reader_module, "FETCH_KEYS", 1)
        engine.fail("fetch", StoreBusyError("busy"))
        engine.hold("fetch")
        tasks = await asked(reader, 0, 1)
        job = engine.begin_read()
        clock.advance(2)
        tasks += await asked(reader, 2)
        clock.advance(3)
        engine.release()
        job.finish()
        outcomes = await outcomes_of(tasks[:2])
        assert [type(outcome) for outcome in outcomes] == [StoreBusyError] * 2
        assert outcomes[0] is not outcomes[1]
        assert not tasks[2].done()
        engine.run_reads()
        assert (await outcomes_of(tasks[2:]))[0].node_id == "2"
        assert engine.trips == [[key(0)], [key(2)]]

    async def test_since_the_engine_was_busy_leaves_no_trip_to_be_made_where_all_have_waited_as_long(
        self, engine: FakeEngine, reader: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch, reader_module)
        monkeypatch.setattr(reader_module, "FETCH_KEYS", 1)
        engine.fail("fetch", StoreBusyError("busy"))
        engine.hold("fetch")
        tasks = await asked(reader, 0, 1)
        job = engine.begin_read()
        clock.advance(5)
        engine.release()
        job.finish()
        await outcomes_of(tasks)
        assert not engine.reads
        tasks = await asked(reader, 2)
        engine.run_reads()
        assert (await outcomes_of(tasks))[0].node_id == "2"

    async def test_since_the_engine_was_busy_with_one_damaged_output_is_not_taken_for_a_busy_engine(
        self, engine: FakeEngine, reader: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader_module, "FETCH_KEYS", 1)
        damage(engine, "0")
        tasks = await asked(reader, 0, 1)
        engine.run_reads()
        outcomes = await outcomes_of(tasks)
        assert [type(outcomes[0]), outcomes[1].node_id] == [CorruptStoreError, "1"]


class TestManyAtOnce:
    async def test_are_those_that_are_there(self, engine: FakeEngine, reader: Reader) -> None:
        (task,) = spawn(reader.fetch_many([key(0), key("absent"), key(2)], CALLERS))
        await turns(1)
        engine.run_reads()
        (found,) = await outcomes_of([task])
        assert {where: record.node_id for where, record in found.items()} == {key(0): "0", key(2): "2"}
        assert len(engine.trips) == 1

    async def test_are_an_error_if_one_is_damaged(self, engine: FakeEngine, reader: Reader) -> None:
        damage(engine, "1")
        (task,) = spawn(reader.fetch_many([key(0), key(1)], CALLERS))
        await turns(1)
        engine.run_reads()
        (error,) = await outcomes_of([task])
        assert (type(error), error.node_id) == (CorruptStoreError, "1")

    async def test_fill_the_cache(self, engine: FakeEngine, reader: Reader, cache: OutputCache) -> None:
        (task,) = spawn(reader.fetch_many([key(0), key(1)], CALLERS))
        await turns(1)
        engine.run_reads()
        await outcomes_of([task])
        assert cache.get(key(1)) == Encoded(JSON, b"1")


class TestOtherReads:
    async def test_are_jobs_of_their_own(self, engine: FakeEngine, reader: Reader) -> None:
        tasks: list[Any] = spawn(
            reader.call(lambda: engine.exists(key(1)), CALLERS), reader.call(lambda: engine.exists(key(9)), CALLERS)
        )
        await turns(1)
        assert len(engine.reads) == 2
        engine.run_reads()
        assert await outcomes_of(tasks) == [True, False]

    async def test_that_may_take_long_are_posted_as_scans(self, engine: FakeEngine, reader: Reader) -> None:
        tasks: list[Any] = spawn(reader.scan(lambda: engine.list_node_ids("run", Part(), None), CALLERS))
        await turns(1)
        assert (len(engine.reads), len(engine.scans)) == (0, 1)
        engine.run_reads()
        assert await outcomes_of(tasks) == [list("012345")]

    async def test_hand_on_what_they_raise(self, engine: FakeEngine, reader: Reader) -> None:
        error = StorageError("failed")
        engine.fail("exists", error)
        engine.fail("count_runs", LookupError("absent"))
        tasks: list[Any] = spawn(
            reader.call(lambda: engine.exists(key(1)), CALLERS),
            reader.scan(engine.count_runs, CALLERS),
        )
        await turns(1)
        engine.run_reads()
        failed, absent = await outcomes_of(tasks)
        assert (str(failed), type(absent), failed is error) == ("failed", LookupError, False)


class TestClosed:
    @pytest.mark.parametrize("ask", ["fetch", "call", "scan", "fetch_many"])
    async def test_no_read_is_accepted_any_more(self, engine: FakeEngine, reader: Reader, ask: str) -> None:
        reader.close()
        arguments: dict[str, Any] = {"fetch": key(1), "fetch_many": [key(1)]}
        with pytest.raises(StoreClosedError):
            await getattr(reader, ask)(arguments.get(ask, lambda: engine.exists(key(1))), CALLERS)
        assert (len(engine.reads), len(engine.scans)) == (0, 0)

    async def test_those_under_way_and_those_that_wait_are_answered(self, engine: FakeEngine, reader: Reader) -> None:
        engine.hold("fetch")
        tasks = await asked(reader, 0)
        job = engine.begin_read()
        tasks += await asked(reader, 1)
        reader.close()
        engine.release()
        job.finish()
        await engine.close()
        assert [record.node_id for record in await outcomes_of(tasks)] == ["0", "1"]


class TestThreads:
    def test_that_wait_share_a_trip_too(self, engine: FakeEngine, cache: OutputCache) -> None:
        reader, callers = Reader(engine, cache, 5.0), thread_callers(engine)
        found: dict[int, Any] = {}

        def get(number: int) -> None:
            found[number] = run_now(reader.fetch(key(number), callers))

        threads = [threading.Thread(target=get, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        pause = threading.Event()
        for _ in range(10_000):
            if len(reader._wanted) == 3:
                break
            pause.wait(0.001)
        engine.run_reads()
        for thread in threads:
            thread.join(10)
        assert {number: record.node_id for number, record in found.items()} == {0: "0", 1: "1", 2: "2"}
        assert len(engine.trips) == 1


class TestTheCacheIsFilled:
    async def test_by_what_was_read(self, engine: FakeEngine, reader: Reader, cache: OutputCache) -> None:
        tasks = await asked(reader, 1, "absent")
        engine.run_reads()
        await outcomes_of(tasks)
        assert (cache.get(key(1)), cache.get(key("absent"))) == (Encoded(JSON, b"1"), None)

    async def test_not_by_what_another_process_has_deleted_between_the_read_and_the_fill(
        self, engine: FakeEngine, reader: Reader, cache: OutputCache
    ) -> None:
        engine.hold("fetched")
        tasks = await asked(reader, 1)
        job = engine.begin_read()
        engine.place.delete("run")
        job.finish()
        assert (await outcomes_of(tasks))[0].value == ONE  # it was there when it was asked for
        assert (cache.get(key(1)), len(cache)) == (None, 0)

    async def test_not_by_the_former_life_of_an_id_that_was_used_anew(
        self, engine: FakeEngine, reader: Reader, cache: OutputCache
    ) -> None:
        engine.hold("fetched")
        tasks = await asked(reader, 1)
        job = engine.begin_read()
        engine.place.begin_anew("run")
        engine.place.put("run", "1", Encoded(JSON, b"2"))
        engine.release()
        job.finish()
        await outcomes_of(tasks)
        assert cache.get(key(1)) is None
        tasks = await asked(reader, 1)
        engine.run_reads()
        await outcomes_of(tasks)
        assert cache.get(key(1)) == Encoded(JSON, b"2")

    async def test_by_what_was_read_beside_the_deletion_of_another_run_only_in_the_next_read(
        self, engine: FakeEngine, reader: Reader, cache: OutputCache
    ) -> None:
        engine.hold("fetched")
        tasks = await asked(reader, 1)
        job = engine.begin_read()
        engine.place.delete("other")
        engine.release()
        job.finish()
        assert cache.get(key(1)) is None
        tasks += await asked(reader, 1)
        engine.run_reads()
        await outcomes_of(tasks)
        assert cache.get(key(1)) == ONE
