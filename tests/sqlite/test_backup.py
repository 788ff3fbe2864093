"""Care: a backup is a whole store or nothing, and whoever uses the store meanwhile goes on."""

from __future__ import annotations

import asyncio
import os
import pathlib
import resource
import signal
import stat
import threading
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, ContextStoreError, StorageError, StoreNotFoundError
from contextstore._sqlite import location as _location

from ..conftest import Target
from ..support.doubles import core_of, fail, until
from ..support.forked import Child
from .care import EVERYTHING, checked

pytestmark = pytest.mark.usefixtures("embedded")  # a server is looked after in test_care_postgres


class TestBackup:
    async def test_the_copy_is_a_store_with_everything_in_it(self, store: Any, tmp_path: pathlib.Path) -> None:
        for run, outputs in EVERYTHING.items():
            await store.put_many(run, outputs)
        await store.upsert_global("key", 1)
        await store.upsert_global("key", 2)
        await store.upsert_global("gone", 1)
        await store.delete_global("gone")
        await store.delete_run("deleted")
        runs = await store.list_runs()
        await store.backup(tmp_path / "copy.db")
        with ContextStore(tmp_path / "copy.db", create=False) as copy:
            assert copy.check().ok
            assert copy.list_runs() == runs
            for run, outputs in EVERYTHING.items():
                assert copy.get_run(run) == dict(sorted(outputs.items()))
                for node in outputs:
                    assert copy.get_entry(run, node) == await store.get_entry(run, node)
            assert copy.get_global_entry("key") == await store.get_global_entry("key")
            # It writes, and goes on from where the original was.
            assert copy.upsert_global("gone", 1) == 2
            with pytest.raises(ContextStoreError, match="was deleted"):
                copy.put("deleted", "a", 1)
            copy.put("run-3", "a", 1)
        assert await store.list_keys("run-3") == []

    async def test_it_is_one_file_for_its_owner_only(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put("run", "a", 1)
        folder = tmp_path / "copies"
        folder.mkdir()
        old = os.umask(0)
        try:
            await store.backup(folder / "copy.db")
        finally:
            os.umask(old)
        assert os.listdir(folder) == ["copy.db"]
        assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600

    @pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "Path"])
    async def test_the_path_may_be_of_any_kind_and_relative(
        self, store: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        await store.put("run", "a", 1)
        await store.backup(kind("copy é.db"))
        with ContextStore(tmp_path / "copy é.db") as copy:
            assert copy.get("run", "a") == 1

    async def test_an_existing_file_is_left_as_it_is(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put("run", "a", 1)
        for name, make in {
            "file": lambda path: path.write_bytes(b"precious"),
            "empty": lambda path: path.write_bytes(b""),
            "folder": lambda path: path.mkdir(),
            "dangling": lambda path: path.symlink_to(tmp_path / "nowhere"),
        }.items():
            path = tmp_path / name
            make(path)
            before = path.lstat()
            with pytest.raises(StorageError, match="is there already"):
                await store.backup(path)
            assert path.lstat() == before
            assert not path.with_name(name + ".part").exists()
        assert (tmp_path / "file").read_bytes() == b"precious"
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.usefixtures("shared_target")
    async def test_nor_is_the_store_itself_overwritten(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
            with pytest.raises(StorageError, match="is there already"):
                await store.backup(make_store.location)
            assert await store.get("run", "a") == 1
            await store.put("run", "b", 1)

    async def test_a_file_that_appears_meanwhile_is_left_as_it_is(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put("run", "a", 1)
        copy = tmp_path / "copy.db"
        in_each_step(store, lambda: copy.write_bytes(b"precious"))
        with pytest.raises(StorageError):
            await store.backup(copy)
        assert copy.read_bytes() == b"precious"
        assert not copy.with_name("copy.db.part").exists()

    async def test_a_missing_folder_is_named_and_not_made(self, store: Any, tmp_path: pathlib.Path) -> None:
        with pytest.raises(StoreNotFoundError, match="nowhere"):
            await store.backup(tmp_path / "nowhere" / "copy.db")
        assert not (tmp_path / "nowhere").exists()

    async def test_a_name_that_cannot_be_one_is_refused(self, store: Any, tmp_path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="NUL"):
            await store.backup(f"{tmp_path}/a\0b")
        with pytest.raises(TypeError):
            await store.backup(7)
        with pytest.raises(StorageError):
            await store.backup(tmp_path / ("x" * 300))
        assert [name for name in os.listdir(tmp_path) if "store.db" not in name] == []

    async def test_a_url_is_refused_and_no_part_of_it_shown(self, store: Any) -> None:
        with pytest.raises(ValueError, match=r"^path must be the path of a file; .* copy\(\)$"):
            await store.backup("postgresql://me:hunter2@host/flows")

    async def test_another_under_way_is_not_disturbed(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("run", {str(i): "x" * 10_000 for i in range(300)})
        results = await asyncio.gather(*(store.backup(tmp_path / "copy.db") for _ in range(3)), return_exceptions=True)
        assert results.count(None) == 1
        assert all(isinstance(result, StorageError) for result in results if result is not None)
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.check().ok
            assert len(copy.list_keys("run")) == 300
        assert not (tmp_path / "copy.db.part").exists()

    async def test_several_to_different_places_at_once(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("run", {str(i): i for i in range(100)})
        await asyncio.gather(*(store.backup(tmp_path / f"copy-{i}.db") for i in range(4)))
        for i in range(4):
            with ContextStore(tmp_path / f"copy-{i}.db") as copy:
                assert len(copy.list_keys("run")) == 100

    async def test_on_a_file_system_without_hard_links_it_works_and_overwrites_nothing(
        self, store: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")  # what vfat says

        monkeypatch.setattr(_location.os, "link", refuse)
        await store.put("run", "a", 1)
        copy = tmp_path / "copy.db"
        await store.backup(copy)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with ContextStore(copy) as opened:
            assert opened.get("run", "a") == 1
        assert not copy.with_name("copy.db.part").exists()
        late = tmp_path / "late.db"
        in_each_step(store, lambda: late.write_bytes(b"precious"))
        with pytest.raises(StorageError):
            await store.backup(late)
        assert late.read_bytes() == b"precious"

    async def test_one_that_was_cut_off_earlier_is_named(self, store: Any, tmp_path: pathlib.Path) -> None:
        part = tmp_path / "copy.db.part"
        part.write_bytes(b"left over")
        with pytest.raises(StorageError, match=r"copy\.db\.part is there already"):
            await store.backup(tmp_path / "copy.db")
        assert part.read_bytes() == b"left over"

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_can_be_copied(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
            async with make_store(read_only=True) as reader:
                await store.put("run", "b", 2)
                await reader.backup(tmp_path / "copy.db")
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.get_run("run") == {"a": 1, "b": 2}

    async def test_a_fault_of_the_engine_is_raised(self, store: Any, tmp_path: pathlib.Path) -> None:
        fail(store, "backup", StorageError("no"))
        with pytest.raises(StorageError, match="no"):
            await store.backup(tmp_path / "copy.db")


class TestProgress:
    @pytest.fixture
    async def filled(self, store: Any) -> Any:
        for i in range(0, 40, 10):
            await store.put_many("run", {str(j): b"x" * 200_000 for j in range(i, i + 10)})
        return store

    async def test_it_rises_to_the_end(self, filled: Any, tmp_path: pathlib.Path) -> None:
        told: list[tuple[int, int]] = []
        await filled.backup(tmp_path / "copy.db", progress=lambda *event: told.append(event))
        assert told == sorted(set(told))
        assert len({total for _, total in told}) == 1
        assert told[-1][0] == told[-1][1] > 1900
        assert (tmp_path / "copy.db").stat().st_size == told[-1][1] // 2 * 4096  # once copied, once verified

    async def test_it_is_called_where_backup_was_called(self, filled: Any, tmp_path: pathlib.Path) -> None:
        called_in: set[Any] = set()
        if hasattr(filled, "plain"):

            def backup() -> int:
                copy = tmp_path / "copy.db"
                filled.plain.backup(copy, progress=lambda *_: called_in.add(threading.get_ident()))
                return threading.get_ident()

            assert {await asyncio.to_thread(backup)} == called_in
        else:
            await filled.backup(tmp_path / "copy.db", progress=lambda *_: called_in.add(asyncio.current_task()))
            assert called_in == {asyncio.current_task()}

    async def test_it_may_be_a_coroutine_function_on_the_async_face_alone(
        self, filled: Any, tmp_path: pathlib.Path
    ) -> None:
        told = []

        async def progress(done: int, total: int) -> None:
            told.append((done, total))
            await asyncio.sleep(0)

        if hasattr(filled, "plain"):
            with pytest.raises(TypeError, match="AsyncContextStore"):
                await filled.backup(tmp_path / "copy.db", progress=progress)
            assert not (tmp_path / "copy.db").exists()
        else:
            await filled.backup(tmp_path / "copy.db", progress=progress)
            assert told[-1][0] == told[-1][1]

    async def test_when_it_raises_the_copying_is_given_up(self, filled: Any, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "copies"
        folder.mkdir()
        hold = held_at_its_first_step(filled)

        def progress(done: int, total: int) -> None:
            hold.set()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await filled.backup(folder / "copy.db", progress=progress)
        assert os.listdir(folder) == []
        await filled.backup(folder / "copy.db")  # and it can be begun anew at once
        await filled.put("run", "new", 1)

    async def test_when_it_is_cancelled_the_copying_is_given_up(
        self, make_store: Target, tmp_path: pathlib.Path
    ) -> None:
        if make_store.face == "sync":
            pytest.skip("a blocked thread cannot be cancelled")
        folder = tmp_path / "copies"
        folder.mkdir()
        async with make_store() as store:
            for i in range(0, 40, 10):
                await store.put_many("run", {str(j): b"x" * 200_000 for j in range(i, i + 10)})
            hold = held_at_its_first_step(store)
            backing_up = asyncio.ensure_future(store.backup(folder / "copy.db"))
            await until(lambda: os.listdir(folder))
            await asyncio.sleep(0.01)
            backing_up.cancel()
            await asyncio.sleep(0)
            hold.set()
            with pytest.raises(asyncio.CancelledError):
                await backing_up
            assert os.listdir(folder) == []
            await store.backup(folder / "copy.db")


def in_each_step(store: Any, act: Callable[[], Any]) -> None:
    """Have something done after each step of the copying, in the thread that copies."""
    engine: Any = core_of(store)._session.engine
    backup = engine.backup

    async def acting(path: str, report: Callable[[int, int], None], *options: bool) -> None:
        def report_and_act(done: int, total: int) -> None:
            report(done, total)
            act()

        await backup(path, report_and_act, *options)

    engine.backup = acting


def held_at_its_first_step(store: Any) -> threading.Event:
    """Have the copying wait after its first step until the event is set."""
    go_on = threading.Event()
    in_each_step(store, lambda: go_on.wait(30))
    return go_on


class TestLive:
    async def test_under_load_the_copy_is_the_store_at_one_moment(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("ballast", {str(i): b"x" * 100_000 for i in range(50)})
        stop = asyncio.Event()
        acknowledged = [-1] * 4

        async def work(worker: int) -> None:
            for i in range(10**6):
                if stop.is_set():
                    return
                await store.put(f"run-{worker}", f"{i:06}", {"i": i, "text": "x" * (i % 500)})
                await store.upsert_global(f"key-{worker}", i)
                acknowledged[worker] = i

        workers = [asyncio.ensure_future(work(worker)) for worker in range(4)]
        for number in range(3):
            copy = tmp_path / f"copy-{number}.db"
            before = list(acknowledged)
            await store.backup(copy)
            after = list(acknowledged)
            await asyncio.to_thread(self.examine, copy, before, after)
        stop.set()
        await asyncio.gather(*workers)

    @staticmethod
    def examine(copy: pathlib.Path, before: list[int], after: list[int]) -> None:
        with ContextStore(copy) as opened:
            assert opened.check().ok
            for worker in range(4):
                outputs = opened.get_run(f"run-{worker}")
                # A prefix of what was written, at least up to when it began, at most up to when it ended.
                assert list(outputs) == [f"{i:06}" for i in range(len(outputs))]
                assert before[worker] < len(outputs) <= after[worker] + 2
                assert all(outputs[f"{i:06}"] == {"i": i, "text": "x" * (i % 500)} for i in range(len(outputs)))
                # Each worker writes its global after its output: the two are of one moment.
                assert opened.get_global(f"key-{worker}", -1) in (len(outputs) - 1, len(outputs) - 2)

    @pytest.mark.slow
    def test_while_another_process_writes(self, file_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                for i in range(10**9):
                    with store.batch() as batch:
                        batch.put("run", f"{i:06}", i)
                        batch.put("twin", f"{i:06}", i)
                        batch.upsert_global("last", i)
                    if i == 50:
                        say("busy")
        """
        with Child(program, file_path) as child, ContextStore(file_path) as store:
            assert child.hear() == "busy"
            for number in range(5):
                store.backup(tmp_path / f"copy-{number}.db")
            child.kill()
        lengths = []
        for number in range(5):
            with ContextStore(tmp_path / f"copy-{number}.db") as copy:
                assert copy.check().ok
                nodes = copy.list_keys("run")
                assert nodes == copy.list_keys("twin") == [f"{i:06}" for i in range(copy.get_global("last") + 1)]
                lengths.append(len(nodes))
        assert lengths == sorted(lengths)

    async def test_writes_and_reads_go_on_meanwhile(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        if make_store.engine == "memory":
            pytest.skip("the one connection is busy with the copy")
        async with make_store() as store:
            await store.put_many("run", {str(i): b"x" * 100_000 for i in range(50)})
            go_on = held_at_its_first_step(store)
            backing_up = asyncio.ensure_future(store.backup(tmp_path / "copy.db"))
            await until(lambda: (tmp_path / "copy.db.part").exists())
            await store.put("run", "meanwhile", 1)
            assert await store.get("run", "meanwhile") == 1
            assert len(await store.list_keys("run")) == 51
            await store.upsert_global("key", 1)
            go_on.set()
            await backing_up
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.check().ok
            assert len(copy.list_keys("run")) in (50, 51)

    async def test_closing_waits_for_it(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        store = make_store()
        await store.put_many("run", {str(i): b"x" * 100_000 for i in range(50)})
        go_on = held_at_its_first_step(store)
        backing_up = asyncio.ensure_future(store.backup(tmp_path / "copy.db"))
        await until(lambda: (tmp_path / "copy.db.part").exists())
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(backing_up, closing)
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.check().ok


@pytest.mark.slow
def test_without_room_for_it_nothing_is_left_behind(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = """
        import resource
        with ContextStore(sys.argv[1]) as store:
            store.list_runs()
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
            try:
                store.backup(sys.argv[2])
            except StorageError as error:
                say(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert store.get("run-2", "null", "missing") is None
            say("works")
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    folder = tmp_path / "copies"
    folder.mkdir()
    for limit in (0, 4096, 30_000):
        with Child(program, path, folder / "copy.db", limit) as child:
            status, said, err = child.end()
        assert (status, err) == (0, "")
        assert said[1:] == ["works"]
        assert said[0] in ("StorageError", "StoreFullError")
        assert os.listdir(folder) == []


@pytest.mark.slow
def test_one_that_was_killed_has_not_got_its_name(file_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = """
        from tests.support.doubles import core_of
        with ContextStore(sys.argv[1]) as store:
            store.list_runs()
            store.backup(sys.argv[2], progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
    """
    with ContextStore(file_path) as store:
        store.put_many("run", {str(i): b"x" * 1_000_000 for i in range(30)})
    with Child(program, file_path, tmp_path / "copy.db") as child:
        assert child.end()[0] == -signal.SIGKILL
    # Either it was quick, and the copy is whole; or only the part is there, which is named.
    if (tmp_path / "copy.db").exists():
        assert checked(tmp_path / "copy.db").outputs == 30
    else:
        with ContextStore(file_path) as store:
            with pytest.raises(StorageError, match="remove it"):
                store.backup(tmp_path / "copy.db")
            (tmp_path / "copy.db.part").unlink()
            store.backup(tmp_path / "copy.db")
        assert checked(tmp_path / "copy.db").ok
