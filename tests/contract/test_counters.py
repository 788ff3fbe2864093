"""What a store object counts of itself, and how long a trip to the engine takes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import pathlib
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, Counters, StorageError, StoreBusyError, StoreClosedError

from ..conftest import Awaited, Target
from ..process.threads import run_threads
from ..support.doubles import Gate, core_of


def counters_of(store: Any) -> Counters:
    """A plain call, on either face and in trio."""
    plain: Any = store.plain if isinstance(store, Awaited) else store
    counters: Counters = plain.counters()
    return counters


class TestCounters:
    async def test_calls_and_errors_are_counted_by_their_names(self, store: Any) -> None:
        await store.put("run", "a", 1)
        for _ in range(3):
            assert await store.get("run", "a") == 1
        await store.get("run", "missing")
        await store.put_global("key", 1)
        for call in (lambda: store.put("run", "a", 2), lambda: store.put("run", "b", {1}), lambda: store.get("", "a")):
            with contextlib.suppress(Exception):
                await call()
        with contextlib.suppress(Exception):
            await store.get("run", "a", type=str)
        counters = counters_of(store)
        assert counters.calls == {"get": 6, "put": 3, "put_global": 1}
        assert counters.errors == {
            "AlreadyExistsError": 1,
            "DeserializationError": 1,
            "InvalidKeyError": 1,
            "SerializationError": 1,
        }
        assert (counters.cache_hits, counters.cache_misses) == (4, 1)
        assert (counters.commits, counters.writes) == (2, 2)

    async def test_a_get_of_a_run_object_is_answered_from_memory_as_quickly_as_the_stores(self, store: Any) -> None:
        await store.put("run", "a", 1)
        run = store.plain.run("run") if isinstance(store, Awaited) else store.run("run")
        for _ in range(3):  # the first of them finds the run
            if isinstance(store, Awaited):
                assert await asyncio.to_thread(run.get, "a") == 1
            else:
                assert await run.get("a", type=int) == 1
        assert core_of(store)._session.cache.quick_hits == 2
        assert counters_of(store).calls == {"get": 3, "put": 1}

    async def test_the_counters_say_when_the_last_commit_was(self, store: Any) -> None:
        assert counters_of(store).last_commit_at is None
        before = datetime.datetime.now(datetime.UTC)
        await store.put("run", "a", 1)
        at = counters_of(store).last_commit_at
        assert at is not None
        assert at.utcoffset() == datetime.timedelta(0)
        assert before <= at <= datetime.datetime.now(datetime.UTC)
        await store.get("run", "a")
        assert counters_of(store).last_commit_at == at

    async def test_they_are_there_before_the_opening_and_after_the_closing(self, make_store: Target) -> None:
        store = make_store()
        assert counters_of(store).calls == {}
        async with store:
            await store.put("run", "a", 1)
        counters = counters_of(store)
        assert (counters.calls, counters.commits, counters.cache_entries) == ({"put": 1}, 1, 0)

    async def test_they_do_not_open_the_store(self, file_path: pathlib.Path) -> None:
        AsyncContextStore(file_path).counters()
        ContextStore(file_path).counters()
        assert not file_path.exists()

    async def test_they_are_picklable_and_a_copy(self, store: Any) -> None:
        await store.put("run", "a", 1)
        counters = counters_of(store)
        assert pickle.loads(pickle.dumps(counters)) == counters
        counters.calls["put"] = 99
        assert counters_of(store).calls == {"put": 1}

    async def test_a_call_of_a_run_object_counts_as_the_stores(self, store: Any) -> None:
        if isinstance(store, Awaited):
            await asyncio.to_thread(store.plain.run("run").put, "a", 1)
        else:
            await store.run("run").put("a", 1)
        assert counters_of(store).calls == {"put": 1}

    async def test_a_wait_that_is_given_up_is_counted_as_that(self, store: Any) -> None:
        with pytest.raises(TimeoutError):
            await store.wait_for("run", "never", timeout=0.001)
        counters = counters_of(store)
        assert (counters.waits, counters.busy_timeouts) == ({"output": 1}, {"output": 1})
        assert counters.errors == {"TimeoutError": 1}

    async def test_a_write_that_waits_in_vain_is_counted(self) -> None:
        async with AsyncContextStore(":memory:", timeout=0.05) as store:
            gate = Gate(store)
            first = asyncio.create_task(store.put("run", "a", 1))
            await gate.wait_for_arrival()
            with pytest.raises(StoreBusyError):
                await store.put("run", "b", 1)
            gate.open()
            await first
            counters = store.counters()
        assert (counters.waits, counters.busy_timeouts) == ({"commit": 1}, {"commit": 1})

    def test_a_write_that_its_caller_withdrew_is_no_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with ContextStore(":memory:") as store:
            callers: Any = core_of(store)._session.callers

            def interrupted(*_: object) -> Any:
                raise KeyboardInterrupt

            gate = Gate(store)
            holding = threading.Thread(target=store.put, args=("run", "a", 1))
            holding.start()
            assert gate.arrived.acquire(timeout=60)
            with monkeypatch.context() as patch:
                patch.setattr(callers, "wait_until", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    store.put("run", "b", 1)
            gate.open()
            holding.join(60)
            store.put("run", "c", 1)  # the drain has passed over what was withdrawn
            counters = store.counters()
        assert (counters.waits, counters.busy_timeouts) == ({}, {})

    def test_a_wait_for_the_lock_of_another_process_is_counted(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path, timeout=0.05) as store:
            store.put("run", "a", 1)
            with open(f"{file_path}-lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with pytest.raises(StoreBusyError):
                    store.put("run", "b", 1)
            store.put("run", "b", 1)
            counters = store.counters()
        assert counters.busy_timeouts["lock"] == 1
        assert counters.errors == {"StoreBusyError": 1}


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
class TestUnderManyThreads:
    def test_no_call_is_missed(self) -> None:
        calls = 2000
        with ContextStore(":memory:") as store:
            store.put("run", "there", 1)

            def use(thread: int) -> None:
                for _ in range(calls):
                    store.get("run", "there")  # from memory, by the quick way
                for n in range(50):
                    store.exists("run", "there")
                    store.put("run", f"{thread} {n}", n)
                    with contextlib.suppress(Exception):
                        store.put("run", "there", 2)

            assert run_threads(use, 8) == [None] * 8
            counters = store.counters()
        assert counters.calls == {"get": 8 * calls, "exists": 400, "put": 801}
        assert counters.errors == {"AlreadyExistsError": 400}
        assert counters.cache_hits == 8 * calls + 400
        assert counters.writes == 401


class TestPing:
    async def test_it_gives_the_seconds_of_a_trip(self, store: Any) -> None:
        seconds = await store.ping()
        assert isinstance(seconds, float)
        assert 0 < seconds < 60

    async def test_it_opens_the_store(self, make_store: Target) -> None:
        store = make_store()
        assert await store.ping() > 0
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.ping()

    @pytest.mark.each_input_once
    @pytest.mark.usefixtures("shared_target")
    async def test_it_works_on_a_store_that_is_only_read(self, make_store: Target) -> None:
        async with make_store() as store, make_store(read_only=True) as reader:
            await store.put("run", "a", 1)
            assert await reader.ping() > 0

    async def test_it_goes_to_the_file(self, file_path: pathlib.Path) -> None:
        async with AsyncContextStore(file_path) as store:
            await store.put("run", "a", 1)
            await store.ping()
            file_path.unlink()
            with pytest.raises(StorageError):
                await store.ping()

    @pytest.mark.each_input_once
    async def test_it_writes_nothing(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.ping()
            assert counters_of(store).commits == 0


async def test_a_ping_waits_for_no_commit(file_path: pathlib.Path) -> None:
    async with AsyncContextStore(file_path) as store:
        gate = Gate(store)
        put = asyncio.create_task(store.put("run", "a", 1))
        await gate.wait_for_arrival()
        assert await store.ping() > 0
        gate.open()
        await put
