"""An id that was deleted, forgotten and used anew: what is answered is of its present life, whoever deleted it."""

from __future__ import annotations

import asyncio
import datetime
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, RunDeletedError

from ..conftest import Target
from ..support.doubles import core_of
from ..support.forked import Child, run
from .outputs import iterate

OTHER_PROCESS = """
    import datetime
    with ContextStore(sys.argv[1]) as store:
        for life in range(int(sys.argv[2])):
            store.delete_run("run")
            time.sleep(0.002)
            store.prune(older_than=datetime.timedelta(0))
            store.put_many("run", {node: life for node in sys.argv[3].split(",")})
            say(life)
        say("end")
"""


def begin_anew(location: Any, nodes: str = "a,b", lives: int = 1) -> None:
    """In another process: delete the run, have it forgotten, and use its id anew; each output is the life's number."""
    assert run(OTHER_PROCESS, location, lives, nodes)[-1] == "end"


async def soon(store: Any, condition: Callable[[], Any]) -> Any:
    """At once, but for a server, whose clients may answer from memory for a second."""
    if core_of(store)._session.engine.epochs.is_exact:
        return await condition()
    deadline = time.monotonic() + 10
    while not (found := await condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return found


@pytest.fixture
async def used(make_store: Target, shared_target: None) -> Any:
    """A store that has "a" of the first life in its memory, and knows that there is "b"."""
    store = make_store()
    await store.put_many("run", {"a": "first", "b": "first"})
    assert await store.get("run", "a") == "first"
    return store


class TestAnotherProcessUsesTheIdAnew:
    async def test_a_get_gives_the_new_output(self, used: Any, make_store: Target) -> None:
        begin_anew(make_store.location)
        assert await soon(used, lambda: _is(used.get("run", "a"), 0))

    async def test_a_get_after_the_deletion_alone_gives_the_default(self, used: Any, make_store: Target) -> None:
        run("with ContextStore(sys.argv[1]) as store: store.delete_run('run')", make_store.location)
        assert await soon(used, lambda: _is(used.get("run", "a", "gone"), "gone"))
        assert not await used.exists("run", "a")

    @pytest.mark.slow
    async def test_get_many_mixes_no_two_lives(self, make_store: Target, shared_target: None) -> None:
        store = make_store()
        await store.put_many("run", {"a": -1, "b": -1})
        reading = make_store()
        seen = set()
        lives = 150  # which take longer than the second for which a server's client may answer from memory
        with Child(OTHER_PROCESS, make_store.location, lives, "a,b") as child:
            ending = asyncio.ensure_future(asyncio.to_thread(child.end, 150))
            while not ending.done():
                await asyncio.sleep(0)  # what is answered from memory lets nobody else run
                await reading.get("run", "a")  # so that this one is in memory, and the other may be not
                values = tuple((await reading.get_many("run", ["a", "b"])).values())
                assert values in {(), *((life, life) for life in range(-1, lives))}
                seen.add(values)
            status, _, err = ending.result()
            assert status == 0, err
        assert len(seen) > 1

    async def test_an_iteration_ends_with_the_life_that_it_began_in(
        self, make_store: Target, shared_target: None
    ) -> None:
        store = make_store()
        await store.put_many("run", {f"{i:04}": "first" for i in range(450)})  # more than a page
        values = []
        async for output in iterate(store):
            if not values:
                await asyncio.to_thread(begin_anew, make_store.location, ",".join(f"{i:04}" for i in range(450)))
            values.append(output.value)
        assert set(values) == {"first"}
        assert len(values) < 450

    async def test_a_fork_of_a_run_whose_id_is_used_anew_meanwhile_is_refused(
        self, make_store: Target, shared_target: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = make_store()
        nodes = [f"{i:04}" for i in range(450)]
        await store.put_many("run", dict.fromkeys(nodes, "first"))
        engine: Any = core_of(store)._session.engine
        page, pages = engine.page_outputs, []

        async def paged(*arguments: Any) -> Any:
            pages.append(1)
            if len(pages) == 2:
                begin_anew(make_store.location, ",".join(nodes))
            return await page(*arguments)

        monkeypatch.setattr(engine, "page_outputs", paged)
        with pytest.raises(RunDeletedError):
            await store.fork_run("run")

    async def test_a_watch_ends_with_the_life_that_it_began_in(self, make_store: Target, shared_target: None) -> None:
        if make_store.face != "async":
            pytest.skip("a thread that waits for an output cannot be left alone here")
        store = make_store()
        await store.put("run", "a", "first")
        watching = store.watch("run")
        assert (await anext(watching)).value == "first"
        following = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(begin_anew, make_store.location, "b")
        with pytest.raises(RunDeletedError):
            await asyncio.wait_for(following, 30)
        await watching.aclose()


async def _is(getting: Any, expected: Any) -> bool:
    return bool(await getting == expected)


class TestWhatStaysInMemory:
    async def test_an_own_deletion_leaves_the_other_runs_in_memory(self, store: Any) -> None:
        await store.put_many("other", {"a": 1, "b": 2})
        await store.put("run", "a", 1)
        assert await store.get("other", "a") == 1
        await store.delete_run("run")
        hits = (await store.stats()).cache_hits
        assert await store.get("other", "a") == 1
        assert await store.get("other", "b") == 2
        assert (await store.stats()).cache_hits == hits + 2

    async def test_what_is_written_after_a_deletion_is_answered_from_memory(self, store: Any) -> None:
        await store.delete_run("run")
        await store.put("other", "a", 1)
        hits = (await store.stats()).cache_hits
        assert await store.get("other", "a") == 1
        assert (await store.stats()).cache_hits == hits + 1

    async def test_what_is_read_after_a_deletion_elsewhere_is_kept(
        self, make_store: Target, shared_target: None
    ) -> None:
        first, second = make_store(), make_store()
        await first.put_many("other", {"a": 1, "b": 2})
        await second.get("other", "a")
        await first.delete_run("run")
        assert await second.get("other", "a") == 1
        hits = (await second.stats()).cache_hits
        assert await second.get("other", "a") == 1
        assert (await second.stats()).cache_hits == hits + 1


class TestTheEpochOfAFile:
    def test_it_stands_behind_what_earlier_versions_read_of_the_lock_file(self, file_path: pathlib.Path) -> None:
        lock = pathlib.Path(f"{file_path}-lock")
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
        before = lock.read_bytes()
        own, database = before[:100].split()
        assert (int(own), int(database)) == (lock.stat().st_ino, file_path.stat().st_ino)
        with ContextStore(file_path) as store:
            store.delete_run("run")
        after = lock.read_bytes()
        assert after[:128] == before[:128]
        assert int.from_bytes(after[128:136], "little") == int.from_bytes(before[128:136], "little") + 2

    def test_a_lock_file_of_an_earlier_version_is_taken_over(self, file_path: pathlib.Path) -> None:
        lock = pathlib.Path(f"{file_path}-lock")
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
        lock.write_bytes(b"%d %d\n" % (lock.stat().st_ino, file_path.stat().st_ino))
        for _ in range(2):
            with ContextStore(file_path) as store:
                assert store.get("run", "a") == 1
                assert store.get("run", "a") == 1
                assert store.stats().cache_hits == 1
        assert len(lock.read_bytes()) >= 136

    def test_after_a_kill_in_a_deletion_nothing_is_answered_from_memory_until_somebody_has_mended_it(
        self, file_path: pathlib.Path
    ) -> None:
        with ContextStore(file_path) as store:
            store.put_many("run", {"a": 1, "b": 1})
            store.put("other", "a", 1)
        with ContextStore(file_path) as reader:
            assert reader.get("other", "a") == 1
            with Child(
                """
                from contextstore._sqlite import epochs as _epoch
                store = ContextStore(sys.argv[1])
                store.open()
                write = _epoch.MappedEpochs._write
                def killed(self, lock, epoch):
                    write(self, lock, epoch)
                    os.kill(os.getpid(), signal.SIGKILL)
                _epoch.MappedEpochs._write = killed
                store.delete_run("run")
                """,
                file_path,
            ) as child:
                assert child.end()[0] == -signal.SIGKILL
            hits = reader.stats().cache_hits
            assert [reader.get("other", "a") for _ in range(3)] == [1, 1, 1]
            assert reader.stats().cache_hits == hits
            assert reader.get_many("run", ["a", "b"]) in ({}, {"a": 1, "b": 1})
            with ContextStore(file_path) as writer:
                writer.put("other", "b", 1)
            assert [reader.get("other", "a") for _ in range(3)] == [1, 1, 1]
            assert reader.stats().cache_hits == hits + 2

    def test_a_deletion_that_cannot_be_noted_is_not_made(
        self, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from contextstore import StoreFullError
        from contextstore._sqlite import epochs as _epoch

        with ContextStore(file_path) as store:
            store.put("run", "a", 1)

            def full(*_: object) -> None:
                raise OSError(28, os.strerror(28))

            with monkeypatch.context() as patched:
                patched.setattr(_epoch.MappedEpochs, "_write", full)
                with pytest.raises(StoreFullError):
                    store.delete_run("run")
            assert store.get("run", "a") == 1
            store.put("run", "b", 2)

    def test_a_reader_of_an_archived_file_answers_from_memory(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
        os.unlink(f"{file_path}-lock")
        with ContextStore(file_path, read_only=True) as reader:
            assert [reader.get("run", "a") for _ in range(3)] == [1, 1, 1]
            assert reader.stats().cache_hits == 2

    def test_a_reader_follows_within_a_second(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put_many("run", {"a": "first", "b": "first"})
            with ContextStore(file_path, read_only=True) as reader:
                assert reader.get("run", "a") == "first"
                begin_anew(file_path)
                time.sleep(1.1)
                assert reader.get_many("run", ["a", "b"]) == {"a": 0, "b": 0}
                assert reader.get("run", "a") == 0


class TestTheEpochOfAServer:
    def test_objects_of_one_process_tell_each_other_at_once(self, url: str) -> None:
        with ContextStore(url) as service, ContextStore(url) as operator:
            for life in range(3):
                operator.put("run", "a", life)
                assert [service.get("run", "a") for _ in range(2)] == [life, life]
                operator.delete_run("run")
                time.sleep(0.002)
                operator.prune(older_than=datetime.timedelta(0))
