"""The sudden end of a process, and Ctrl-C: nothing acknowledged is lost, and nobody hangs.

Each in a process of its own. "Hang" is what the processes' own guard (60 seconds) says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import random
import signal
import time
from collections.abc import Iterator

import pytest

from contextstore import ContextStore

from ..support.processes import Child
from .programs import acknowledged, stored

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
    # Every instruction at which it can come is tried in test_interrupts.py; these are real signals, at random moments.
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
            assert store._core.session.writer.queued_bytes == 0
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
