"""Stores that an atexit callback closes: they are closed, and not said to be forgotten; those that nobody closes are.

Each in a process of its own, since it is the end of one.
"""

from __future__ import annotations

import pathlib

import pytest

from ..support.processes import Child
from .programs import FACES, stored

MADE = {
    "sync": """
        store = ContextStore(sys.argv[1])
        def close():
            store.close()
        def put(node):
            store.put("run", node, 1)
    """,
    "async": """
        store = AsyncContextStore(sys.argv[1])
        loop = asyncio.new_event_loop()
        def close():
            asyncio.run(store.close())
        def put(node):
            loop.run_until_complete(store.put("run", node, 1))
    """,
}
WAYS = {
    "the method itself, before the first use": ("atexit.register(store.close)", ""),
    "the method itself, after it": ("", "atexit.register(store.close)"),
    "a function that closes": ("atexit.register(close)", ""),
    "a function that closes, after the first use": ("", "atexit.register(close)"),
    "an exit stack": ("stack = contextlib.ExitStack(); atexit.register(stack.close); stack.callback(close)", ""),
    "one after another that fails": ("atexit.register(close); atexit.register(lambda: 1 / 0)", ""),
}
CASES = [(face, way) for face in FACES for way in WAYS if face == "sync" or "method" not in way]


@pytest.mark.parametrize("filters", ["default", pytest.param("error::ResourceWarning", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("face", "way"), CASES)
def test_a_store_that_an_atexit_callback_closes_is_not_warned_of(
    face: str, way: str, filters: str, file_path: pathlib.Path
) -> None:
    before, after = WAYS[way]
    program = f"""
        import atexit, contextlib
        {MADE[face]}
        {before}
        put("node")
        {after}
        {"loop.close()" if face == "async" else ""}
        say("stored node")
    """
    with Child(program, file_path, options=["-W", filters]) as child:
        status, said, err = child.end()
    assert (status, said) == (0, ["stored node"])
    assert "was not closed" not in err
    assert ("ZeroDivisionError" in err) is ("fails" in way)
    assert stored(file_path) == {"node"}
    assert not pathlib.Path(f"{file_path}-wal").exists()


@pytest.mark.parametrize("closed", ["one of two", "none"])
@pytest.mark.parametrize("face", FACES)
def test_what_nobody_closes_is_warned_of_once_by_its_name(face: str, closed: str, file_path: pathlib.Path) -> None:
    program = f"""
        import atexit
        forgotten = ContextStore(sys.argv[1] + "-forgotten")
        forgotten.put("run", "node", 1)
        {MADE[face]}
        {"atexit.register(close)" if closed == "one of two" else ""}
        put("node")
        {"loop.close()" if face == "async" else ""}
    """
    with Child(program, file_path, options=["-W", "default"]) as child:
        status, _, err = child.end()
    assert status == 0
    assert err.count("-forgotten was not closed") == 1
    assert err.count("store.db was not closed") == (closed == "none")
    assert stored(file_path) == {"node"}


def test_a_close_at_exit_returns_at_once_and_may_be_made_twice(file_path: pathlib.Path) -> None:
    program = """
        import atexit
        store = ContextStore(sys.argv[1])
        store.put("run", "node", 1)

        @atexit.register
        def close():
            assert [thread for thread in threading.enumerate() if "contextstore /" in thread.name] == []
            store.close()
            store.close()
            try:
                store.put("run", "late", 1)
            except StoreClosedError:
                say("refused")
    """
    with Child(program, file_path, options=["-W", "error"]) as child:
        assert child.end() == (0, ["refused"], "")
    assert stored(file_path) == {"node"}


def test_a_store_that_is_closed_by_the_last_thread_is_not_warned_of(file_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        store.open()
        def use():
            threading.main_thread().join()
            time.sleep(0.2)
            store.put("run", "node", 1)
            store.close()
        threading.Thread(target=use).start()
    """
    with Child(program, file_path, options=["-W", "error"]) as child:
        assert child.end() == (0, [], "")
    assert stored(file_path) == {"node"}
