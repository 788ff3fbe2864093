"""The loop of a store's own thread, on which the driver works: a plain one, also where the program runs uvloop."""

from __future__ import annotations

from contextstore import ContextStore

from ..support.processes import run


def test_it_is_a_plain_one_whatever_the_program_runs(url: str) -> None:
    program = """
        import uvloop

        async def main():
            async with AsyncContextStore(sys.argv[1]) as store:
                await store.put("run", "node", 1)
                own = store._core.backend.host._loop
                say(isinstance(asyncio.get_running_loop(), uvloop.Loop), isinstance(own, asyncio.SelectorEventLoop))

        uvloop.install()
        asyncio.run(main())
    """
    assert run(program, url) == ["True True"]


def test_awaited_and_blocking_calls_are_answered_from_several_loops(url: str) -> None:
    program = """
        async def main(number):
            await asyncio.gather(*(store.put("run", f"{number}-{i}", i) for i in range(100)))
            gets = [store.get("run", f"{number}-{i}") for i in range(100)]
            assert await asyncio.gather(*gets) == list(range(100))
            assert await store.update_global(f"{number}", lambda _: 1) == 1
            task = asyncio.ensure_future(store.put("run", f"{number}-cancelled", 1))
            await asyncio.sleep(0)
            task.cancel()
            waiting = asyncio.ensure_future(store.wait_for("run", f"{number}-later"))
            await asyncio.sleep(0.01)
            await store.put("run", f"{number}-later", 2)
            assert await waiting == 2

        store = AsyncContextStore(sys.argv[1], cache_bytes=0)
        threads = [threading.Thread(target=lambda i=i: asyncio.run(main(i))) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(main("last"))
        asyncio.run(store.close())
        say([thread.name for thread in threading.enumerate() if "postgres" in thread.name])
    """
    assert run(program, url, options=["-W", "error"]) == ["[]"]


def test_a_store_that_was_forgotten_open_keeps_no_process_from_its_end(url: str) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        store.put("run", "a", 1)
        say("stored")
    """
    assert run(program, url, options=["-W", "ignore::ResourceWarning"]) == ["stored"]
    with ContextStore(url) as store:
        assert store.get("run", "a") == 1


def test_a_forked_child_refuses_the_store_and_may_open_its_own_while_the_parent_goes_on(url: str) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            stop = threading.Event()

            def write():
                number = 0
                while not stop.is_set():
                    number += 1
                    store.put("busy", f"{number}", number)

            writer = threading.Thread(target=write)
            writer.start()
            store.put("run", "before", 1)
            for number in range(5):
                child = os.fork()
                if child == 0:
                    try:
                        store.put("run", "in the child", 1)
                    except errors.ForkedProcessError:
                        with ContextStore(sys.argv[1]) as own:
                            own.put("run", f"child-{number}", 1)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                store.put("run", f"parent-{number}", 1)
            stop.set()
            writer.join()
            say(len(store.list_keys("run")), "in the child" in store.list_keys("run"))
    """
    assert run(program, url) == ["11 False"]
