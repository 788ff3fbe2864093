"""The end of a store, of its loop and of its process: nothing acknowledged is lost, and nobody hangs.

Each in a process of its own. "Hang" is what the processes' own guard (60 seconds) says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator

import pytest

from contextstore import ContextStore

from .portions import WHOLE, some
from .processes import Child, run

FACES = ["async", "sync"]


def stored(path: pathlib.Path, run_id: str = "run") -> set[str]:
    """What is in the file, which is whole."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT node_id FROM outputs WHERE flow_run_id = ?"
        return {node for (node,) in connection.execute(query, (run_id,))}


def acknowledged(said: list[str]) -> set[str]:
    return {line.removeprefix("stored ") for line in said if line.startswith("stored ")}


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
            commit = store._engine.commit
            async def slowly(units):
                time.sleep(0.2)
                return await commit(units)
            store._engine.commit = slowly
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


# ---------------------------------------------------------------------------------------------------- sudden endings

SUDDEN = {
    "an unhandled exception": ("raise ZeroDivisionError", 1),
    "sys.exit": ("sys.exit(7)", 7),
    "os._exit": ("os._exit(9)", 9),
    "SystemExit in the loop": ("asyncio.get_running_loop().call_soon(sys.exit, 5); await asyncio.sleep(9)", 5),
}


@pytest.mark.parametrize("ending", SUDDEN)
def test_a_sudden_end_with_puts_in_flight_keeps_its_exit_status_and_what_was_acknowledged(
    ending: str, file_path: pathlib.Path
) -> None:
    statement, expected = SUDDEN[ending]
    program = """
        async def main():
            store = AsyncContextStore(sys.argv[1])
            await store.open()
            async def put(i):
                await store.put("run", f"{i}", i)
                say("stored", i)
            tasks = [asyncio.ensure_future(put(i)) for i in range(200)]
            await tasks[0]
            ENDING

        asyncio.run(main())
    """.replace("ENDING", statement)
    with Child(program, file_path) as child:
        status, said, err = child.end()
    assert status == expected, err
    assert acknowledged(said)
    assert acknowledged(said) <= stored(file_path)
    with ContextStore(file_path) as store:
        store.put("after", "node", 1)


@pytest.mark.parametrize("way", ["async with", "forgotten"])
def test_ctrl_c_during_asyncio_run_with_puts_in_flight_ends_the_process_and_loses_nothing(
    way: str, file_path: pathlib.Path
) -> None:
    body = {
        "async with": "async with AsyncContextStore(sys.argv[1]) as store: await work(store)",
        "forgotten": "store = AsyncContextStore(sys.argv[1]); await work(store)",
    }[way]
    program = f"""
        async def write(store, worker):
            i = 0
            while True:
                node = f"{{sys.argv[2]}}-{{worker}}-{{i}}"
                await store.put("run", node, i)
                say("stored", node)
                i += 1

        async def work(store):
            async with asyncio.TaskGroup() as group:
                for worker in range(8): group.create_task(write(store, worker))

        async def main():
            {body}

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("interrupted")
    """
    all_acknowledged: set[str] = set()
    for attempt in range(4):
        with Child(program, file_path, attempt) as child:
            first = child.hear()
            time.sleep(random.uniform(0, 0.05))
            child.signal(signal.SIGINT)
            status, said, err = child.end()
        assert (status, err) == (0, "")
        assert said[-1] == "interrupted"
        all_acknowledged |= acknowledged([first, *said])
    assert all_acknowledged <= stored(file_path)


def test_ctrl_c_during_blocking_calls_is_raised_at_once_and_the_store_stays_usable(file_path: pathlib.Path) -> None:
    # Every instruction at which it can come is tried in test_sync.py; these are real signals, at random moments.
    program = """
        import queue, random
        seed = random.randrange(2**32)
        chance = random.Random(seed)
        say("seed", seed)
        alarms = queue.SimpleQueue()

        def interrupt():
            while True:
                time.sleep(alarms.get())
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        other = ContextStore(sys.argv[1])

        def keep_writing():
            for i in range(100):
                other.put("run", f"other-{i}", i)
                say("stored", f"other-{i}")
                time.sleep(0.005)

        beside = threading.Thread(target=keep_writing)
        beside.start()
        serial = iter(range(10**9))
        store = ContextStore(sys.argv[1], cache_bytes=0)

        def use(kind):
            global store
            while True:
                n = next(serial)
                if kind == "open and close":
                    mine = ContextStore(sys.argv[1])
                    mine.open()
                    mine.close()
                elif kind == "put":
                    store.put("run", f"{n}", n)
                    say("stored", n)
                elif kind == "get":
                    store.get("run", f"{n}")
                else:
                    store.update_global("count", lambda count: (count or 0) + 1)

        for attempt in range(60):
            try:
                alarms.put(chance.uniform(0.0002, 0.02))
                use(["put", "get", "open and close", "update"][attempt % 4])
            except KeyboardInterrupt:
                say("interrupted")
            if attempt % 8 == 7:
                store.close()
                store = ContextStore(sys.argv[1], cache_bytes=0)
            store.put("after", f"{attempt}", 1)
            assert store.get("after", f"{attempt}") == 1
            assert store._core._writer._queued_bytes == 0
            store.update_global("count", lambda count: count)
        beside.join()
        store.close()
        other.close()
        say("done")
    """
    with Child(program, file_path) as child:
        status, said, err = child.end(120)
    assert status == 0, (said[0], err)
    assert "Traceback" not in err, (said[0], err)
    assert said[-1] == "done"
    assert said.count("interrupted") == 60
    assert acknowledged(said) <= stored(file_path), said[0]
    assert stored(file_path, "after") == {f"{attempt}" for attempt in range(60)}


@pytest.mark.parametrize("call", ["put", "open", "close"])
def test_ctrl_c_is_raised_at_once_while_another_process_holds_the_lock(call: str, file_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        if sys.argv[2] != "open":
            store.put("run", "before", 1)
        say("ready")
        sys.stdin.readline()
        say("calling")
        try:
            {"put": lambda: store.put("run", "withdrawn", 1), "open": store.open, "close": store.close}[sys.argv[2]]()
        except KeyboardInterrupt:
            say("interrupted")
        sys.stdin.readline()
        if sys.argv[2] != "close":
            store.put("run", "after", 1)
        store.close()
        say("done")
    """
    with Child(program, file_path, call) as child:
        assert child.hear() == "ready"
        with held_file_lock(file_path):
            child.tell()
            assert child.hear() == "calling"
            time.sleep(0.1)
            child.signal(signal.SIGINT)
            assert child.hear() == "interrupted"
        child.tell()
        assert child.hear() == "done"
        assert child.end() == (0, [], "")
    assert "withdrawn" not in stored(file_path)


@contextlib.contextmanager
def held_file_lock(path: pathlib.Path) -> Iterator[None]:
    descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------------- another loop


def test_a_loop_that_closes_during_an_operation_leaves_a_store_that_says_so_and_can_be_closed(
    file_path: pathlib.Path,
) -> None:
    program = """
        import gc
        async def begin(store):
            await store.put("run", "cached", 1)
            for i in range(50):
                tasks.append(asyncio.ensure_future(store.put("run", f"in flight {i}", 1)))
                tasks.append(asyncio.ensure_future(store.get("run", f"missing {i}")))
            tasks.append(asyncio.ensure_future(store.wait_for("run", "never")))
            await asyncio.sleep(0)

        async def from_another_loop(store):
            for call in (
                lambda: store.open(),
                lambda: store.put("run", "other", 1),
                lambda: store.get("run", "cached"),
                lambda: store.get("run", "missing"),
                lambda: store.list_keys("run"),
                lambda: store.upsert_global("key", 1),
                lambda: store.update_global("key", lambda _: 1),
                lambda: store.get_or_put("run", "cached", lambda: 1),
            ):
                try:
                    await call()
                except WrongLoopError as error:
                    assert "ContextStore" in str(error), error
                    say("refused")

        async def closing(store):
            await store.close()
            await store.close()

        tasks = []
        store = AsyncContextStore(sys.argv[1])
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin(store))
        try:
            asyncio.run(store.close())
        except WrongLoopError:
            say("not yet closed")
        loop.close()
        asyncio.run(from_another_loop(store))
        asyncio.run(closing(store))
        say("closed", [thread.name for thread in threading.enumerate() if not thread.daemon])
        tasks.clear()  # "Task was destroyed but it is pending!": that is asyncio's word to who closes a loop so
        gc.collect()
    """
    for _ in range(3):
        with Child(program, file_path) as child:
            status, said, err = child.end()
        assert status == 0, err
        assert said == ["not yet closed", *["refused"] * 8, "closed ['MainThread']"], err
        assert "Traceback" not in err.replace("Task was destroyed", ""), err
        assert stored(file_path) >= {"cached"}
        file_path.unlink()


def test_a_loop_that_is_left_without_closing_it_does_no_harm(file_path: pathlib.Path) -> None:
    program = """
        store = AsyncContextStore(sys.argv[1])
        loop = asyncio.new_event_loop()
        async def begin():
            await store.put("run", "first", 1)
            say("stored first")
            return asyncio.ensure_future(store.put("run", "second", 1))
        task = loop.run_until_complete(begin())
        time.sleep(0.05)                       # the answer comes while nobody runs the loop
        loop.run_until_complete(task)
        say("stored second")
        loop.run_until_complete(store.close())
        loop.close()
    """
    said = run(program, file_path)
    assert acknowledged(said) == stored(file_path) == {"first", "second"}


UVLOOP = """
    import uvloop

    async def main():
        async with AsyncContextStore(sys.argv[1]) as store:
            await asyncio.gather(*(store.put("run", f"{i}", i) for i in range(100)))
            assert len(await store.get_run("run")) == 100
            assert await store.update_global("key", lambda _: 1) == 1
            task = asyncio.ensure_future(store.put("run", "cancelled", 1))
            await asyncio.sleep(0)
            task.cancel()
            waiting = asyncio.ensure_future(store.wait_for("run", "later"))
            await asyncio.sleep(0.01)
            await store.put("run", "later", 2)
            assert await waiting == 2
        forgotten.append(AsyncContextStore(sys.argv[1]))
        await forgotten[0].put("run", "forgotten", 1)
        say("stored forgotten")

    forgotten = []
"""


@pytest.mark.parametrize("way", ["uvloop.run(main())", "uvloop.install(); asyncio.run(main())"])
def test_life_and_end_are_the_same_on_uvloop(way: str, file_path: pathlib.Path) -> None:
    pytest.importorskip("uvloop")
    said = run(UVLOOP + f"\n    {way}\n", file_path, options=["-W", "ignore::DeprecationWarning"])
    assert said == ["stored forgotten"]
    assert {"99", "later", "forgotten"} <= stored(file_path)


def test_a_policy_that_makes_no_loop_outside_the_main_thread_does_no_harm(file_path: pathlib.Path) -> None:
    program = """
        class Policy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self):
                assert threading.current_thread() is threading.main_thread()
                return super().new_event_loop()
        asyncio.set_event_loop_policy(Policy())
        with ContextStore(sys.argv[1]) as store:
            store.put("run", "node", 1)
    """
    run(program, file_path)
    assert stored(file_path) == {"node"}


# ------------------------------------------------------------------------------------------------------------ fork

IN_CHILD = """
import contextlib

def in_child(work, leave=os._exit):
    \"\"\"Fork, and work there; the exit status of the child.\"\"\"
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(50)
            work()
        except BaseException as error:
            say("child failed:", repr(error))
            os._exit(1)
        leave(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""


def run_with_fork(program: str, *arguments: object, options: list[str] | None = None) -> list[str]:
    options = [*(options or []), "-W", "ignore:.*fork:DeprecationWarning"]
    return run(IN_CHILD.replace("\n", "\n        ") + program, *arguments, options=options)


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
        from contextstore._sqlite import worker as _worker
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

        store._core._engine.post_read(job)
        begun.wait()
        threading.Timer(0.3, go_on.set).start()
        assert in_child(opens) == 0
        assert go_on.is_set()

        begun.clear(), go_on.clear()
        _worker._FORK_SECONDS = 0.1
        store._core._engine.post_read(job)
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
