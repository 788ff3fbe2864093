"""The end of a store's event loop, whichever loop it is: the store says so, and can be closed.

Each in a process of its own. "Hang" is what the processes' own guard (60 seconds) says.
"""

from __future__ import annotations

import pathlib

import pytest

from ..support.processes import Child, run
from .programs import acknowledged, stored


def test_a_loop_that_closes_during_an_operation_leaves_a_store_that_other_loops_use_and_close(
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
                await call()
                say("done")

        async def closing(store):
            await store.close()
            await store.close()

        tasks = []
        store = AsyncContextStore(sys.argv[1])
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin(store))
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
        assert said == [*["done"] * 8, "closed ['MainThread']"], err
        assert "Traceback" not in err.replace("Task was destroyed", ""), err
        assert stored(file_path) >= {"cached", "other"}
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
