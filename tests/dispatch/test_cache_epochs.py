"""What is kept in memory is of one epoch: whoever deletes, whenever an answer comes, whatever the lock file is."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from contextstore import AsyncContextStore, ContextStore, ReadOnlyStoreError, StoreFullError
from contextstore._dispatch.cache import OutputCache
from contextstore._engine.epochs import AskedEpochs
from contextstore._engine.operations import DeleteRun, Operation, PutOutput
from contextstore._sqlite import epochs as _epoch
from contextstore._values.codec import JSON, Encoded

from ..conftest import Target
from ..contract.test_ids_used_anew import begin_anew
from ..support.doubles import after_each_fetch, core_of, engine_alone, until
from ..support.forked import Child, run

OLD, NEW = Encoded(JSON, b'"old"'), Encoded(JSON, b'"new"')
KEY = ("run", "a")

DELETER = """
    import datetime
    with ContextStore(sys.argv[1]) as store:
        say("ready")
        for line in sys.stdin:
            store.delete_run("run")
            time.sleep(0.002)
            store.prune(older_than=datetime.timedelta(0))
            store.put_many("run", {node: line.strip() for node in ("a", "b")})
            say("done")
"""
"""Uses the id anew at each line that it is told; the line is what the outputs are then."""


class Epochs:
    """An engine's, as a test sets them."""

    is_exact = True

    def __init__(self, now: int) -> None:
        self.now: list[Any] = [now]
        self.turn: Any = (now, now)

    @property
    def latest(self) -> Any:
        return self.now[0]


def books_are_right(cache: Any) -> bool:
    from contextstore._dispatch.cache import _size, _size_of_run

    entries = dict(cache._entries)
    runs: dict[str, set[str]] = {}
    for flow_run_id, node_id in entries:
        runs.setdefault(flow_run_id, set()).add(node_id)
    size = sum(_size(key[1], value) for key, value in entries.items()) + sum(map(_size_of_run, runs))
    return {name: run.node_ids for name, run in cache._runs.items()} == runs and cache.bytes == size


class TestTheBooks:
    def test_ids_beyond_ascii_take_as_much_room_when_they_go_as_when_they_came(self) -> None:
        cache = OutputCache(100_000, Epochs(2))
        keys = [(f"поток-{i}", f"узел-{i}") for i in range(20)]
        cache.fill([(key, OLD) for key in keys], 2)
        orjson.dumps(keys)  # which hangs its own form of each string on it, as SQLite does
        assert books_are_right(cache)
        for key in keys:
            cache.committed([DeleteRun(key[0])])
        assert (cache.bytes, len(cache)) == (0, 0)

    def test_they_are_right_after_many_threads_have_got_what_is_driven_out_meanwhile(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(20_000, epochs)
        keys = [(f"run-{i % 7}", f"node-{i}") for i in range(60)]
        failures: list[BaseException] = []
        ended = threading.Event()

        def get() -> None:
            choice = random.Random(threading.get_ident())
            while not ended.is_set():
                cache.get(choice.choice(keys))

        def fill() -> None:
            choice = random.Random(threading.get_ident())
            try:
                for _ in range(4000):
                    value = Encoded(JSON, b"1" * choice.randrange(1500))
                    some = choice.sample(keys, 5)
                    if choice.random() < 0.5:
                        cache.fill([(key, value) for key in some], 2)
                    else:
                        cache.committed([PutOutput(*key, value, False) for key in some])
                    if choice.random() < 0.1:
                        cache.committed([DeleteRun(f"run-{choice.randrange(7)}")])
            except BaseException as error:
                failures.append(error)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            getting = [threading.Thread(target=get) for _ in range(3)]
            filling = [threading.Thread(target=fill) for _ in range(2)]
            for thread in (*getting, *filling):
                thread.start()
            for thread in filling:
                thread.join()
            ended.set()
            for thread in getting:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert failures == []
        assert len(cache) > 0
        assert books_are_right(cache)

    async def test_they_are_kept_by_the_stores_own_threads_where_those_read(
        self, make_store: Target, shared_target: None
    ) -> None:
        # In a task's thread an interrupt would come between two steps. A blocked thread's own reads are allowed for.
        await make_store().put_many("run", {"a": 1, "b": 2})
        store = make_store()
        await store.open()
        engine_alone(store)
        cache: Any = core_of(store)._session.cache
        fill, threads = cache.fill, set()

        def noted(*arguments: Any) -> None:
            threads.add(threading.get_ident())
            fill(*arguments)

        cache.fill = noted
        await store.get("run", "a")
        await store.get_many("run", ["a", "b"])
        assert threads
        assert all(ident in core_of(store)._session.engine.own_threads for ident in threads)


class _Moments(list[Operation]):
    """Operations that have something done each time that they are gone through."""

    def __init__(self, operations: list[Operation], moment: Callable[[], object]) -> None:
        super().__init__(operations)
        self.moment = moment

    def __iter__(self) -> Iterator[Operation]:
        self.moment()
        yield from super().__iter__()
        self.moment()


class _KeyWithAMoment(tuple[str, str]):
    moment: Any = None

    def __hash__(self) -> int:
        moment, self.moment = self.moment, None
        if moment is not None:
            moment()
        return super().__hash__()


class TestTheEntries:
    def test_none_of_a_deleted_run_is_given_while_the_deletion_is_noted(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, OLD)], 2)
        epochs.now[0], epochs.turn = 4, (2, 4)
        seen: list[Any] = []
        cache.committed(_Moments([DeleteRun("run")], lambda: seen.append(cache.get(KEY))))
        assert set(seen) == {None}

    def test_they_do_not_go_back_to_an_epoch_that_is_over(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        epochs.now[0] = 4  # another process has deleted what this one has just put
        cache.fill([(KEY, NEW)], 4)
        key = _KeyWithAMoment(KEY)
        key.moment = lambda: cache.committed([PutOutput(*KEY, OLD, False)])  # of the turn before, noted late
        assert cache.get(key) in (None, NEW)
        assert cache.get(KEY) == NEW

    def test_what_was_put_before_a_deletion_elsewhere_is_not_kept_after_one_here(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        epochs.now[0], epochs.turn = 6, (None, 6)  # a put of this turn, a deletion elsewhere, a deletion of this turn
        cache.committed([PutOutput(*KEY, OLD, False), DeleteRun("other")])
        assert cache.get(KEY) is None


class TestWhatIsAskedFor:
    def test_an_answer_from_before_an_own_deletion_is_not_taken_for_later(self) -> None:
        epochs = AskedEpochs("here")
        asked_at = time.monotonic()
        epochs.note((1,), asked_at)
        epochs.begin_write()
        epochs.deleted((1,), (2,))
        epochs.note((1,), asked_at)
        assert (epochs.latest, epochs.now[0], epochs.turn) == ((2,), (2,), ((1,), (2,)))

    def test_after_an_own_deletion_an_epoch_before_it_is_not_the_present_one(self) -> None:
        epochs = AskedEpochs("here")
        epochs.note((1,), time.monotonic())
        epochs.begin_write()
        epochs.deleted((2,), (3,))
        assert (epochs.latest, epochs.now[0], epochs.turn) == ((3,), None, (None, (3,)))

    async def test_a_read_that_began_before_an_own_deletion_and_anothers_is_not_kept(
        self, make_store: Target, shared_target: None
    ) -> None:
        async with make_store() as writer:
            await writer.put_many("run", {"a": "old", "b": "old"})
        store = make_store()
        assert await store.get("run", "b") == "old"
        with Child(
            "store = ContextStore(sys.argv[1]); store.open(); say(1); sys.stdin.readline();"
            "store.delete_run('other'); say(2); store.close()",
            make_store.location,
        ) as other:
            other.hear()
            fetched, blocked = threading.Event(), threading.Event()

            async def hold(_: int) -> None:
                fetched.set()
                if make_store.engine == "postgres":  # whose loop must not be blocked
                    while not blocked.is_set():
                        await asyncio.sleep(0.001)
                else:
                    assert blocked.wait(30)

            end = after_each_fetch(store, hold)
            reading = asyncio.ensure_future(store.get("run", "a"))
            await until(fetched.is_set)
            end()
            other.tell()
            assert await asyncio.to_thread(other.hear) == "2"
            await store.delete_run("run")
            blocked.set()
            await reading
            assert await store.get("run", "a", "gone") == "gone"


class TestOneCall:
    @pytest.mark.parametrize("read_only", [False, True])
    async def test_get_many_gives_one_life_of_what_was_kept_in_two(
        self, make_store: Target, shared_target: None, read_only: bool
    ) -> None:
        await make_store().put_many("run", {"a": "0", "b": "0"})
        with Child(DELETER, make_store.location) as deleter:
            assert deleter.hear() == "ready"
            for life in range(1, 12):
                store = make_store(read_only=read_only)
                await store.get("run", "a")
                deleter.tell(str(life))
                assert await asyncio.to_thread(deleter.hear) == "done"
                await store.get("run", "b")
                assert len(set((await store.get_many("run", ["a", "b"])).values())) == 1
                await store.close()

    async def test_get_many_gives_one_life_if_no_epoch_was_known_when_it_began_and_none_when_it_ended(
        self, make_store: Target, shared_target: None
    ) -> None:
        await make_store().put_many("run", {"a": "new", "b": "new"})
        store = make_store()
        await store.open()
        core: Any = core_of(store)
        kept = iter([OLD, NEW])
        core._session.cache.get = lambda _: next(
            kept
        )  # as two threads, which have asked for the epoch meanwhile, leave it
        epochs = core._session.engine.epochs
        epochs.now, now = [None], epochs.now
        try:
            assert await store.get_many("run", ["a", "b"]) == {"a": "new", "b": "new"}
        finally:
            epochs.now = now

    async def test_get_many_of_more_than_a_trip_gives_all_of_a_run_or_nothing(
        self, make_store: Target, shared_target: None
    ) -> None:
        nodes = [f"{i:04}" for i in range(700)]
        await make_store().put_many("run", dict.fromkeys(nodes, 1))
        store = make_store()
        reader: Any = core_of(store)._session.reader
        fetch_many, trips = reader.fetch_many, []

        async def deleted_meanwhile(keys: Any, callers: Any) -> Any:
            found = await fetch_many(keys, callers)
            trips.append(len(keys))
            if len(trips) == 1:
                run("with ContextStore(sys.argv[1]) as store: store.delete_run('run')", make_store.location)
            return found

        reader.fetch_many = deleted_meanwhile
        assert await store.get_many("run", nodes) == {}
        assert len(trips) > 1

    async def test_get_or_put_does_not_join_one_that_has_found_a_former_life(
        self, make_store: Target, shared_target: None
    ) -> None:
        await make_store().put_many("run", {"a": "old", "b": "old"})
        store = make_store()
        if not core_of(store)._session.engine.epochs.is_exact:
            pytest.skip("whose clients may answer what they have read for a second")
        reader: Any = core_of(store)._session.reader
        fetch, found = reader.fetch, threading.Event()
        blocked = threading.Event()

        async def held(key: Any, callers: Any, **options: Any) -> Any:
            record = await fetch(key, callers, **options)
            found.set()
            while not blocked.is_set():
                if make_store.face == "async":
                    await asyncio.sleep(0.001)
                else:
                    time.sleep(0.001)
            return record

        reader.fetch = held
        first = asyncio.ensure_future(store.get_or_put("run", "a", lambda: "computed"))
        await until(found.is_set)
        reader.fetch = fetch
        await asyncio.to_thread(begin_anew, make_store.location)
        second = asyncio.ensure_future(store.get_or_put("run", "a", lambda: "computed"))
        await asyncio.sleep(0.2)  # so that it has joined
        blocked.set()
        assert await first == "old"
        assert await second == 0


class TestALockFileThatWasReplaced:
    def test_who_only_reads_goes_by_it_from_the_next_look_at_the_file_on(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put_many("run", {"a": "first", "b": "first"})
        with ContextStore(file_path) as reader:
            assert reader.get("run", "a") == "first"
            os.unlink(f"{file_path}-lock")
            for life in range(3):
                begin_anew(file_path, lives=life + 1)
                assert reader.get("run", "missing") is None
                assert reader.get("run", "a") == life
            reader.put("other", "c", 1)
            hits = reader.stats().cache_hits
            assert [reader.get("other", "c") for _ in range(3)] == [1, 1, 1]
            assert reader.stats().cache_hits == hits + 3

    @pytest.mark.parametrize("how", ["deleted", "replaced"])
    def test_a_write_that_begins_just_then_is_made_under_the_new_one(
        self, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        lock = pathlib.Path(f"{file_path}-lock")
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
            os.unlink(lock)
            read, reads = _epoch._read, []

            def replaced(descriptor: int) -> int:
                reads.append(descriptor)
                if len(reads) < 4:
                    os.unlink(lock)
                    if how == "replaced":
                        lock.touch()
                return read(descriptor)

            with monkeypatch.context() as patched:
                patched.setattr(_epoch, "_read", replaced)
                assert store.delete_run("run") == 1
            begin_anew(file_path)
            assert store.get("run", "a") == 0

    @pytest.mark.parametrize("read_only", [False, True])
    def test_an_older_copy_of_it_does_not_bring_an_epoch_back(
        self, file_path: pathlib.Path, tmp_path: pathlib.Path, read_only: bool
    ) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", "first")
        lock, older = f"{file_path}-lock", tmp_path / "older"
        shutil.copy(lock, older)
        run("with ContextStore(sys.argv[1]) as store: store.delete_run('other')", file_path)
        with ContextStore(file_path, read_only=read_only) as reader:
            assert reader.get("run", "a") == "first"
            os.replace(older, lock)
            begin_anew(file_path)
            if read_only:
                time.sleep(1.1)
            else:
                reader.put("third", "c", 1)
            assert reader.get("run", "a") == 0


class TestNoRoom:
    def test_for_an_epoch_leaves_reads_and_writes_and_takes_deletions(
        self, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
        os.unlink(f"{file_path}-lock")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with ContextStore(file_path) as store, monkeypatch.context() as patched:
            os.unlink(f"{file_path}-lock")
            patched.setattr(_epoch.MappedEpochs, "_write", full)
            for writer in (store, ContextStore(file_path)):
                with writer:
                    writer.put("run", f"b-{id(writer)}", 2)
                    assert [writer.get("run", "a") for _ in range(3)] == [1, 1, 1]
                    assert writer.stats().cache_hits == 0
                    with pytest.raises(StoreFullError):
                        writer.delete_run("run")
                    assert writer.get("run", "a") == 1
        with ContextStore(file_path) as store:
            assert store.delete_run("run") == 3


class TestTheEpochOfAServer:
    async def test_a_role_that_may_not_change_it_deletes_nothing(self, url: str, schema: str) -> None:
        import asyncpg

        async with AsyncContextStore(url) as store:
            await store.put("run", "a", 1)
        connection = await asyncpg.connect(url.partition("?")[0])
        try:
            await connection.execute(f"""
                CREATE ROLE "{schema}" LOGIN;
                GRANT USAGE ON SCHEMA {schema} TO "{schema}";
                GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO "{schema}";
                GRANT INSERT, UPDATE, DELETE ON {schema}.flow_runs, {schema}.node_outputs,
                    {schema}.append_counters, {schema}.append_keys, {schema}.run_attributes, {schema}.run_states,
                    {schema}.failed_attempts TO "{schema}";
            """)
            user, at, rest = url.removeprefix("postgresql://").partition("@")
            theirs = f"postgresql://{schema}@{rest if at else user}"
            async with AsyncContextStore(theirs) as store:
                with pytest.raises(ReadOnlyStoreError):
                    await store.delete_run("run")
                assert await store.get("run", "a") == 1
                await connection.execute(f'GRANT UPDATE (deletions) ON {schema}.store_format TO "{schema}"')
                assert await store.delete_run("run") == 1
        finally:
            await connection.execute(f'DROP OWNED BY "{schema}"; DROP ROLE "{schema}"')
            await connection.close()

    async def test_deletions_at_once_each_have_their_own_epoch_one_after_the_other(self, url: str) -> None:
        turns: list[Any] = []
        stores = [AsyncContextStore(url) for _ in range(6)]
        for store in stores:
            await store.open()
            epochs: Any = core_of(store)._session.engine.epochs
            deleted = epochs.deleted

            def noted(before: Any, after: Any, deleted: Any = deleted) -> None:
                turns.append((before, after))
                deleted(before, after)

            epochs.deleted = noted
        await asyncio.gather(
            *(store.delete_run(f"run-{place}-{i}") for place, store in enumerate(stores) for i in range(20))
        )
        turns.sort(key=lambda turn: turn[1])
        assert len(turns) == 120
        assert [turn[0] for turn in turns[1:]] == [turn[1] for turn in turns[:-1]]
        for store in stores:
            await store.close()
