"""The end of a store that is closed under load, or forgotten: nothing acknowledged is lost, and nobody hangs.

Each in a process of its own. "Hang" is what the processes' own guard (60 seconds) says.
"""

from __future__ import annotations

import pathlib
import sys

import pytest

from contextstore import ContextStore

from ..support.portions import WHOLE
from ..support.processes import Child, run
from .programs import FACES, acknowledged, stored

# ------------------------------------------------------------------------------------------------- close, under load

LOAD = {
    "async": """
        async def write(store, worker):
            i = 0
            while True:
                await store.put("run", f"{worker}-{i}", "x" * 500)
                say("stored", f"{worker}-{i}")
                i += 1
                counts[worker] = i

        counts = {}

        async def main():
            store = AsyncContextStore(sys.argv[1])
            await store.open()
            tasks = [asyncio.ensure_future(write(store, worker)) for worker in range(20)]
            tasks.append(asyncio.ensure_future(store.wait_for("run", "never")))
            while sum(counts.values()) < 100:
                await asyncio.sleep(0.001)
            await asyncio.gather(*(store.close() for _ in range(3)))
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                say("ended", type(outcome).__name__)
            await store.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
    """,
    "sync": """
        def write(worker):
            i = 0
            try:
                while True:
                    store.put("run", f"{worker}-{i}", "x" * 500)
                    say("stored", f"{worker}-{i}")
                    i += 1
                    counts[worker] = i
            except Exception as error:
                say("ended", type(error).__name__)

        def wait():
            try:
                store.wait_for("run", "never")
            except Exception as error:
                say("ended", type(error).__name__)

        counts = {}
        store = ContextStore(sys.argv[1])
        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(20)]
        threads.append(threading.Thread(target=wait))
        for thread in threads: thread.start()
        while sum(counts.copy().values()) < 100: time.sleep(0.001)
        closing = [threading.Thread(target=store.close) for _ in range(3)]
        for thread in closing: thread.start()
        for thread in closing + threads: thread.join()
        store.close()
    """,
}


@pytest.mark.parametrize("face", FACES)
def test_close_under_load_answers_what_was_accepted_and_refuses_the_rest(face: str, file_path: pathlib.Path) -> None:
    said = run(LOAD[face], file_path)
    assert said.count("ended StoreClosedError") == 21
    assert len(acknowledged(said)) >= 100
    assert acknowledged(said) == stored(file_path)
    assert not pathlib.Path(f"{file_path}-wal").exists()


def test_a_close_that_was_cancelled_half_way_is_finished_before_the_process_ends(file_path: pathlib.Path) -> None:
    program = """
        async def main():
            store = AsyncContextStore(sys.argv[1])
            await store.open()
            commit = store._core.session.engine.commit
            async def slowly(units):
                time.sleep(0.2)
                return await commit(units)
            store._core.session.engine.commit = slowly
            put = asyncio.ensure_future(store.put("run", "node", 1))
            await asyncio.sleep(0.05)
            try:
                async with asyncio.timeout(0.01):
                    await store.close()
            except TimeoutError:
                say("cancelled")
            await put
            say("stored node")

        asyncio.run(main())
    """
    assert run(program, file_path, options=["-X", "dev"]) == ["cancelled", "stored node"]
    assert stored(file_path) == {"node"}


# ---------------------------------------------------------------------------------------------- the forgotten close

FORGOTTEN = {
    "asyncio.run ends with the store open": """
        async def main():
            store = AsyncContextStore(sys.argv[1])
            for i in range(5):
                await store.put("run", f"{i}", i)
                say("stored", i)
            keep.append(store)

        keep = []
        asyncio.run(main())
    """,
    "asyncio.run ends with puts in flight": """
        async def main():
            store = AsyncContextStore(sys.argv[1])
            await store.put("run", "0", 0)
            say("stored 0")
            async def put(i):
                await store.put("run", f"{i}", i)
                say("stored", i)
            for i in range(1, 100):
                keep.append(asyncio.ensure_future(put(i)))
            await asyncio.sleep(0.001)
            keep.append(store)

        keep = []
        asyncio.run(main())
    """,
    "asyncio.run ends while the store is opening": """
        async def main():
            keep.append(AsyncContextStore(sys.argv[1]))
            keep.append(asyncio.ensure_future(keep[0].open()))
            await asyncio.sleep(0)

        keep = []
        asyncio.run(main())
    """,
    "asyncio.run ends with a store that somebody waits at": """
        async def main():
            store = AsyncContextStore(sys.argv[1])
            await store.open()
            keep.append(store)
            keep.append(asyncio.ensure_future(store.wait_for("run", "never")))
            await asyncio.sleep(0.05)

        keep = []
        asyncio.run(main())
    """,
    "a blocking store": """
        store = ContextStore(sys.argv[1])
        store.put("run", "0", 0)
        say("stored 0")
    """,
    "several stores": """
        stores = [ContextStore(sys.argv[1]), ContextStore(sys.argv[1] + "-2"), ContextStore(":memory:")]
        for store in stores: store.put("run", "0", 0)
        say("stored 0")
    """,
    "a store that was collected": """
        import gc
        def use():
            store = ContextStore(sys.argv[1])
            store.put("run", "0", 0)
            say("stored 0")
        use()
        gc.collect()
    """,
    "a store whose loop is closed and that was collected": """
        import gc
        async def use():
            await AsyncContextStore(sys.argv[1]).put("run", "0", 0)
            say("stored 0")
        asyncio.run(use())
        gc.collect()
    """,
    "a store of a daemon thread that goes on writing": """
        def use():
            i = 0
            while True:
                try:
                    store.put("run", f"{i}", i)
                except (StoreClosedError, StorageError):
                    break
                say("stored", i)
                i += 1
        store = ContextStore(sys.argv[1])
        store.open()
        threading.Thread(target=use, daemon=True).start()
        time.sleep(0.1)
    """,
    "a store of a daemon thread that waits": """
        store = ContextStore(sys.argv[1])
        store.put("run", "0", 0)
        say("stored 0")
        def wait():
            try:
                store.wait_for("run", "never")
            except StoreClosedError:
                say("told")
        threading.Thread(target=wait, daemon=True).start()
        time.sleep(0.05)
    """,
    "a daemon thread that opens store after store": """
        def use():
            try:
                while True:
                    stores.append(ContextStore(":memory:"))
                    stores[-1].open()
            except (StorageError, StoreClosedError):
                pass
        stores = []
        store = ContextStore(sys.argv[1])
        store.put("run", "0", 0)
        say("stored 0")
        threading.Thread(target=use, daemon=True).start()
        time.sleep(0.05)
    """,
    "threads that go on when the main one has ended": """
        store = ContextStore(sys.argv[1])
        store.open()
        def use(worker):
            for i in range(20):
                time.sleep(0.01)
                store.put("run", f"{worker}-{i}", i)
                say("stored", f"{worker}-{i}")
        for worker in range(4):
            threading.Thread(target=use, args=(worker,)).start()
    """,
    "a thread that begins when the main one has ended": """
        def use():
            threading.main_thread().join()
            keep.append(ContextStore(sys.argv[1]))
            keep[0].put("run", "0", 0)
            say("stored 0")
        keep = []
        threading.Thread(target=use).start()
    """,
    "an executor whose work goes on when the main thread has ended": """
        import concurrent.futures
        store = ContextStore(sys.argv[1])
        store.open()
        def use(i):
            time.sleep(0.01)
            store.put("run", f"{i}", i)
            say("stored", i)
        executor = concurrent.futures.ThreadPoolExecutor(4)
        for i in range(40): executor.submit(use, i)
    """,
    "an exit in the middle": """
        store = ContextStore(sys.argv[1])
        store.put("run", "0", 0)
        say("stored 0")
        sys.exit(0)
    """,
}
NO_LATE_THREADS = (3, 12) <= sys.version_info < (3, 12, 2)
"""These start no thread once the main one has ended, not even for threads that go on: python/cpython#113964."""

OFTEN = 3  # how many times each, since it is a race that is looked for


@pytest.mark.parametrize("story", FORGOTTEN)
def test_a_forgotten_close_keeps_no_process_from_ending_and_loses_nothing(story: str, file_path: pathlib.Path) -> None:
    if NO_LATE_THREADS and "begins when" in story:
        pytest.skip("this Python starts no thread once the main one has ended")
    # In a portion of the suite one of the three ways each, the next story in the next way.
    for attempt in range(OFTEN) if WHOLE else [list(FORGOTTEN).index(story) % 3]:
        path = file_path.with_name(f"{attempt}.db")
        options = [[], ["-W", "default"], ["-W", "error::ResourceWarning"]][attempt % 3]
        with Child(FORGOTTEN[story], path, options=options) as child:
            status, said, err = child.end()
        assert status == 0, err
        assert "Fatal" not in err
        if options != ["-W", "error::ResourceWarning"] or ("collected" not in story and "opening" not in story):
            # (There Python shows that a finalizer has raised.)
            assert "Traceback" not in err, err
        if said or path.exists():
            assert not acknowledged(said) or acknowledged(said) <= stored(path)
            with ContextStore(path) as store:
                store.put("after", "node", 1)
        if options and "opening" not in story and "opens store after store" not in story:
            assert "was not closed" in err, err
        if not options:
            assert err == ""


@pytest.mark.parametrize("face", FACES)
def test_in_development_mode_a_store_that_was_closed_causes_no_word_on_stderr(
    face: str, file_path: pathlib.Path
) -> None:
    program = {
        "async": """
            async def main():
                asyncio.get_running_loop().slow_callback_duration = 60
                async with AsyncContextStore(sys.argv[1]) as store:
                    await asyncio.gather(*(store.put("run", f"{i}", i) for i in range(20)))
                    await store.get_run("run")
            asyncio.run(main())
        """,
        "sync": """
            with ContextStore(sys.argv[1]) as store:
                store.put("run", "1", 1)
                store.get_run("run")
        """,
    }[face]
    with Child(program, file_path, options=["-X", "dev", "-W", "error"], PYTHONASYNCIODEBUG="1") as child:
        assert child.end() == (0, [], "")


def test_a_store_closed_by_atexit_is_closed_in_time(file_path: pathlib.Path) -> None:
    program = """
        import atexit
        store = ContextStore(sys.argv[1])
        atexit.register(store.close)
        store.put("run", "node", 1)
        say("stored node")
    """
    assert run(program, file_path) == ["stored node"]
    assert stored(file_path) == {"node"}


@pytest.mark.skipif(NO_LATE_THREADS, reason="this Python starts no thread once the main one has ended")
def test_a_call_from_atexit_is_refused_where_the_store_is_open_and_served_where_it_is_opened_there(
    file_path: pathlib.Path,
) -> None:
    program = """
        import atexit
        store = ContextStore(sys.argv[1])
        store.put("run", "node", 1)

        @atexit.register
        def late():
            # Python joins all threads first, so the store's are gone.
            for call in (lambda: store.put("run", "late", 1), lambda: store.get("run", "missing"), store.stats):
                try:
                    call()
                except StoreClosedError:
                    say("refused")
            with ContextStore(sys.argv[1]) as another:
                another.put("run", "later", 1)
                say("stored later")
    """
    assert run(program, file_path) == ["refused", "refused", "refused", "stored later"]
    assert stored(file_path) == {"node", "later"}
