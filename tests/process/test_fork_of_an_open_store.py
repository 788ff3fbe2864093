"""Forked with an open store: the child is refused it and may open its own, and the parent goes on.

Each in a process of its own. "Hang" is what the processes' own guard (60 seconds) says.
"""

from __future__ import annotations

import pathlib

import pytest

from ..support.portions import some
from ..support.processes import run
from .programs import acknowledged, run_with_fork, stored


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_in_a_forked_child_every_call_is_refused_and_the_parent_goes_on(leave: str, file_path: pathlib.Path) -> None:
    program = f"""
        store = ContextStore(sys.argv[1])
        store.put("run", "cached", 1)

        def refused():
            calls = [
                store.open, store.close, store.__enter__, lambda: store.put("run", "child", 1),
                lambda: store.get("run", "cached"), lambda: store.get("run", "missing"), store.stats,
                lambda: store.list_keys("run"), lambda: store.upsert_global("key", 1),
                lambda: store.get_or_put("run", "cached", lambda: 1), lambda: store.exists("run", "cached"),
            ]
            for call in calls:
                try:
                    call()
                except ForkedProcessError as error:
                    assert "new store object" in str(error) and "spawn" in str(error)
                else:
                    raise AssertionError(call)

        for i in range(10):
            assert in_child(refused, {leave}) == 0
            store.put("run", f"{{i}}", i)
            say("stored", i)
        store.close()
        with ContextStore(sys.argv[1]) as again:
            say(len(again.list_keys("run")))
    """
    said = run_with_fork(program, file_path, options=["-W", "error::ResourceWarning"])
    assert said[-1] == "11"
    assert len(stored(file_path)) == 11


def test_an_async_store_is_refused_in_a_forked_child(file_path: pathlib.Path) -> None:
    program = """
        store = AsyncContextStore(sys.argv[1])

        async def calls():
            for call in (store.open, store.close, lambda: store.get("run", "node"), lambda: store.put("run", "x", 1)):
                try:
                    await call()
                except ForkedProcessError:
                    continue
                raise AssertionError(call)

        async def main():
            await store.put("run", "node", 1)
            def work():
                try:
                    calls().send(None)
                except StopIteration:
                    pass
            assert in_child(work) == 0
            await store.put("run", "after", 1)

        asyncio.run(main())
        assert in_child(lambda: asyncio.run(calls()), sys.exit) == 0
        asyncio.run(store.close())
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"node", "after"}


def test_a_forked_child_keeps_neither_the_lock_nor_the_files_of_its_parent(file_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1], timeout=5)
        store.put("run", "before", 1)
        pid = os.fork()
        if not pid:
            links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            files = [os.readlink(link) for link in links if os.path.exists(link)]
            say("open in the child:", [file for file in files if file.startswith(sys.argv[1])])
            time.sleep(60)
        time.sleep(0.2)
        store.put("run", "beside the child", 1)
        store.close()
        with ContextStore(sys.argv[1], timeout=5) as again:      # needs the lock file
            again.put("run", "again", 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    """
    assert run_with_fork(program, file_path) == ["open in the child: []"]
    assert stored(file_path) == {"before", "beside the child", "again"}


def test_what_a_forked_child_stores_by_a_store_of_its_own_outlives_the_parents_close(file_path: pathlib.Path) -> None:
    # A child inherits what SQLite knows of its parent's locks. Without more ado it takes none of its own; then the
    # parent closes as if it was the last, and removes the WAL in which the child goes on writing.
    program = """
        import contextlib, sqlite3
        store = ContextStore(sys.argv[1])
        store.put("run", "parent", 1)
        to_child, from_child = os.pipe(), os.pipe()

        def work():
            with ContextStore(sys.argv[1]) as mine:
                mine.put("run", "before", 1)
                os.write(from_child[1], b".")
                os.read(to_child[0], 1)
                mine.put("run", "after", 1)
                assert mine.get("run", "third") == 3
                assert mine.list_keys("run") == ["after", "before", "parent", "third"]

        pid = os.fork()
        if not pid:
            work()
            os._exit(0)
        os.read(from_child[0], 1)
        store.close()
        wal = os.stat(sys.argv[1] + "-wal").st_size
        with ContextStore(sys.argv[1]) as third:
            third.put("run", "third", 3)
        os.write(to_child[1], b".")
        assert os.waitpid(pid, 0)[1] == 0
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"parent", "before", "after", "third"}


def test_children_forked_under_load_open_stores_of_their_own_on_the_same_file(file_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        store.put("run", "first", 1)
        say("stored first")
        going = True

        def load(worker):
            i = 0
            while going:
                store.put("run", f"{worker}-{i}", "x" * 2000)
                say("stored", f"{worker}-{i}")
                store.get("run", f"missing {i}")
                i += 1

        threads = [threading.Thread(target=load, args=(worker,)) for worker in range(3)]
        for thread in threads: thread.start()
        for n in range(30):
            def work():
                with ContextStore(sys.argv[1], timeout=20) as mine:
                    mine.put("child", f"{n}", 1)
                    assert mine.list_keys("run")
            time.sleep(0.005)
            assert in_child(work, sys.exit if n % 2 else os._exit) == 0
        going = False
        for thread in threads: thread.join()
        store.close()
    """
    count = some(30, 8)
    said = run_with_fork(program.replace("range(30)", f"range({count})"), file_path)
    assert acknowledged(said) == stored(file_path)
    assert stored(file_path, "child") == {f"{n}" for n in range(count)}


def test_fork_waits_for_a_running_job_and_not_for_ever(file_path: pathlib.Path) -> None:
    program = """
        from contextstore._sqlite import fork as _fork
        store = ContextStore(sys.argv[1])
        store.put("run", "node", 1)
        begun, go_on = threading.Event(), threading.Event()

        async def job():
            begun.set()
            go_on.wait(50)

        def opens():
            with ContextStore(sys.argv[1]) as mine:
                mine.put("run", "child", 1)

        def is_refused():
            try:
                ContextStore(sys.argv[1]).open()
            except StorageError as error:
                assert "forked" in str(error), error
                with ContextStore(sys.argv[1] + "-another") as another:
                    another.put("run", "node", 1)
            else:
                raise AssertionError

        store._core.session.engine.post_read(job)
        begun.wait()
        threading.Timer(0.3, go_on.set).start()
        assert in_child(opens) == 0
        assert go_on.is_set()

        begun.clear(), go_on.clear()
        _fork._FORK_SECONDS = 0.1
        store._core.session.engine.post_read(job)
        begun.wait()
        assert in_child(is_refused) == 0
        go_on.set()
        store.put("run", "after", 1)
        store.close()
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"node", "child", "after"}


def test_grandchildren_and_forks_of_threads_have_stores_of_their_own(file_path: pathlib.Path) -> None:
    program = """
        def generation(n):
            with ContextStore(sys.argv[1]) as mine:
                mine.put("run", f"{n}", 1)
                if n < 3:
                    assert in_child(lambda: generation(n + 1)) == 0
                mine.put("run", f"{n} after", 1)

        generation(0)
        thread = threading.Thread(target=lambda: generation(2.5))
        with ContextStore(sys.argv[1]) as store:
            thread.start()
            thread.join()
            store.put("run", "end", 1)
    """
    run_with_fork(program, file_path)
    assert len(stored(file_path)) == 4 * 2 + 2 * 2 + 1


def test_a_child_that_forgets_to_close_its_own_store_ends(file_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        store.put("run", "parent", 1)
        def work():
            global mine
            mine = ContextStore(sys.argv[1])
            mine.put("run", "child", 1)
        assert in_child(work, sys.exit) == 0
        store.close()
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"parent", "child"}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_have_stores_of_their_own(
    method: str, file_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing, sys, warnings
from contextstore import ContextStore, ForkedProcessError

store = None

def work(n):
    if store is not None:  # inherited, by fork
        try:
            store.get("run", "parent")
            raise AssertionError
        except ForkedProcessError:
            pass
    with ContextStore(sys.argv[1]) as mine:
        mine.put("run", f"{n}", n)
        return mine.get("run", "parent")

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    with ContextStore(sys.argv[1]) as store:
        store.put("run", "parent", 42)
        with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
            assert pool.map(work, range(6)) == [42] * 6
            pool.close()
            pool.join()
        store.put("run", "after", 1)
"""
    )
    program = "import runpy; script = sys.argv.pop(1); runpy.run_path(script, run_name='__main__')"
    run(program, script, file_path, method)
    assert stored(file_path) == {"parent", "after", *(f"{n}" for n in range(6))}
