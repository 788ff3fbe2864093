"""Before and after fork: a store object that nobody has used yet is of whichever process uses it first.

As gunicorn with --preload has it, Celery's prefork pool and multiprocessing: the module that makes the store is
imported in the parent, and its workers are forked then. Each in a process of its own; "hang" is what its guard says.
"""

from __future__ import annotations

import pathlib
import pickle

import pytest

from contextstore import ForkedProcessError

from ..support.processes import run
from .programs import run_with_fork, stored

FACES = ["async", "sync"]

USE = {
    "async": """
        store = AsyncContextStore(sys.argv[1])
        unopened = AsyncContextStore(sys.argv[1] + "-2")

        def do(call, *arguments, of=None):
            async def main():
                return await getattr(of or store, call)(*arguments)
            return asyncio.run(main())
    """,
    "sync": """
        store = ContextStore(sys.argv[1])
        unopened = ContextStore(sys.argv[1] + "-2")

        def do(call, *arguments, of=None):
            return getattr(of or store, call)(*arguments)
    """,
}
ERROR_OF = """
        def error_of(call, *arguments, of=None):
            try:
                do(call, *arguments, of=of)
            except Exception as error:
                return error
            return None
    """


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
@pytest.mark.parametrize("face", FACES)
def test_an_object_that_was_not_used_works_in_each_child_and_in_the_parent(
    face: str, leave: str, file_path: pathlib.Path
) -> None:
    program = f"""
        {USE[face]}
        def work(n):
            # One call a loop: on the async face the object belongs to the loop of its first use.
            async def all_of_it():
                await store.put("run", f"{{n}}", n)
                assert await store.get("run", f"{{n}}") == n
                await store.close()
            if isinstance(store, ContextStore):
                do("put", "run", f"{{n}}", n)
                assert do("get", "run", f"{{n}}") == n
                do("close")
            else:
                asyncio.run(all_of_it())

        for n in range(3):
            assert in_child(lambda: work(n), {leave}) == 0
        work("parent")
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"0", "1", "2", "parent"}


@pytest.mark.parametrize("face", FACES)
def test_it_works_whichever_thread_has_forked(face: str, file_path: pathlib.Path) -> None:
    program = f"""
        {USE[face]}
        other = ContextStore(sys.argv[1] + "-other")
        other.put("run", "node", 1)  # with threads of its own, which the child does not have
        said = []

        def fork():
            said.append(in_child(lambda: do("put", "run", "child", 1), sys.exit))

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        other.close()
        assert said == [0]
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"child"}


@pytest.mark.parametrize("face", FACES)
def test_calls_that_were_refused_before_anything_was_opened_are_no_use_of_it(
    face: str, file_path: pathlib.Path
) -> None:
    program = f"""
        {USE[face]}
        {ERROR_OF}
        assert isinstance(error_of("put", "", "node", 1), InvalidKeyError)
        assert isinstance(error_of("put", "run", "node", {{1}}), SerializationError)
        store.run("run"), repr(store), store.batch()
        assert in_child(lambda: do("put", "run", "child", 1), sys.exit) == 0
        do("put", "run", "parent", 1)
        {"" if face == "async" else 'do("close")'}
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"child", "parent"}


@pytest.mark.parametrize("face", FACES)
def test_the_error_in_the_child_says_what_is_true(face: str, file_path: pathlib.Path) -> None:
    program = f"""
        {USE[face]}
        {ERROR_OF}
        folder = sys.argv[1] + "-folder"
        kind = type(store)
        never = kind(os.path.join(folder, "a.db"))
        closed = kind(sys.argv[1] + "-closed")
        closed_unused = kind(sys.argv[1] + "-closed")

        do("put", "run", "parent", 1)
        assert isinstance(error_of("open", of=never), StoreNotFoundError)
        do("open", of=closed)
        if kind is ContextStore:
            do("close", of=closed)
        else:
            closed = kind(sys.argv[1] + "-closed")
            async def open_and_close():
                async with closed:
                    pass
            asyncio.run(open_and_close())
        do("close", of=closed_unused)

        def look():
            for call in (("put", "run", "x", 1), ("get", "run", "parent"), ("close",), ("open",), ("stats",)):
                error = error_of(*call)
                assert isinstance(error, ForkedProcessError), error
                assert "was opened before fork()" in str(error), error
                assert error.was_open
            error = error_of("put", "run", "x", 1, of=never)
            assert isinstance(error, ForkedProcessError) and not error.was_open, error
            assert "had begun to open before fork()" in str(error), error
            for one in (closed, closed_unused):
                for call in (("put", "run", "x", 1), ("get", "run", "x"), ("open",)):
                    error = error_of(*call, of=one)
                    assert isinstance(error, StoreClosedError), error
                assert do("close", of=one) is None

        assert in_child(look) == 0
        assert in_child(look, sys.exit) == 0
        {"" if face == "async" else 'do("close")'}
    """
    run_with_fork(program, file_path)


@pytest.mark.parametrize("face", FACES)
def test_an_object_whose_first_call_is_under_way_in_another_thread_has_been_used(
    face: str, file_path: pathlib.Path
) -> None:
    program = f"""
        {USE[face]}
        {ERROR_OF}
        opening, go_on = threading.Event(), threading.Event()
        database = store._core.session.engine._database
        create = database._open

        async def slowly():
            opening.set()
            go_on.wait(40)
            await create()

        database._open = slowly
        thread = threading.Thread(target=do, args=("put", "run", "parent", 1))
        thread.start()
        assert opening.wait(40)

        def look():
            error = error_of("put", "run", "child", 1)
            assert isinstance(error, ForkedProcessError), error
            assert "had begun to open" in str(error)

        assert in_child(look) == 0
        assert in_child(lambda: do("put", "run", "child", 1, of=unopened), sys.exit) == 0
        go_on.set()
        thread.join()
        {"" if face == "async" else 'do("close")'}
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {"parent"}
    assert stored(file_path.with_name(f"{file_path.name}-2")) == {"child"}


def test_forking_while_other_threads_make_their_first_calls_leaves_no_child_waiting(file_path: pathlib.Path) -> None:
    program = """
        def use(store, n):
            store.put("run", f"{n}", 1)
            store.close()

        for n in range(30):
            store = ContextStore(sys.argv[1])
            thread = threading.Thread(target=use, args=(store, n))
            thread.start()
            time.sleep(0.0002 * (n % 10))
            def work():
                try:
                    store.put("child", f"{n}", 1)
                except (ForkedProcessError, StoreClosedError):
                    pass
            assert in_child(work) == 0
            thread.join()
    """
    run_with_fork(program, file_path)
    assert stored(file_path) == {f"{n}" for n in range(30)}


MODULE = """
import asyncio, sys
from contextstore import AsyncContextStore, ContextStore

store = ContextStore(sys.argv[1])
async_store = AsyncContextStore(sys.argv[1])

def task(n):
    store.put("run", f"{n}", n)
    return n

def async_task(n):
    async def main():
        await async_store.put("run", f"{n} async", n)
        await async_store.close()
    asyncio.run(main())
    return n
"""


def test_workers_that_are_forked_after_the_import_serve_and_go_on_serving(file_path: pathlib.Path) -> None:
    """As gunicorn --preload does: the arbiter imports, forks, waits, and forks anew where a worker has ended."""
    program = f"""
        module = {{}}
        exec({MODULE!r}, module)

        workers = {{}}

        def start(first):
            pid = os.fork()
            if pid:
                workers[pid] = first
                return
            signal.alarm(50)
            for n in range(first, first + 5):
                module["task"](n)
            module["async_task"](first)
            sys.exit(0)

        for first in (0, 10, 20):
            start(first)
        while workers:
            pid, status = os.wait()
            assert status == 0
            first = workers.pop(pid)
            if first < 100:  # one of the first three, and a second one may end before the last of these
                start(first + 100)
    """
    run_with_fork(program, file_path)
    firsts = [0, 10, 20, 100, 110, 120]
    wanted = {f"{n}" for first in firsts for n in range(first, first + 5)}
    assert stored(file_path) == wanted | {f"{first} async" for first in firsts}


@pytest.mark.parametrize("kind", ["Pool", "ProcessPoolExecutor", "Process"])
def test_a_store_of_the_parents_module_serves_in_the_processes_of_multiprocessing(
    kind: str, file_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """As Celery's prefork pool does, which is a multiprocessing pool."""
    (tmp_path / "tasks.py").write_text(MODULE)
    program = """
        import concurrent.futures, multiprocessing
        kind = sys.argv.pop()
        sys.path.insert(0, os.path.dirname(sys.argv[1]))
        import tasks

        context = multiprocessing.get_context("fork")
        if kind == "Pool":
            with context.Pool(2) as pool:
                assert pool.map(tasks.task, range(6)) == list(range(6))
                pool.close()
                pool.join()
        elif kind == "ProcessPoolExecutor":
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                assert list(pool.map(tasks.task, range(6))) == list(range(6))
        else:
            processes = [context.Process(target=tasks.task, args=(n,)) for n in range(6)]
            for process in processes: process.start()
            for process in processes: process.join(50)
            assert [process.exitcode for process in processes] == [0] * 6
        tasks.task("parent")
        tasks.store.close()
    """
    run_with_fork(program, file_path, kind)
    assert stored(file_path) == {"parent", *(f"{n}" for n in range(6))}


def test_a_forked_child_of_multiprocessing_that_forgets_to_close_is_told(file_path: pathlib.Path) -> None:
    program = """
        import multiprocessing
        store = ContextStore(sys.argv[1])
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        read, write = os.pipe()

        def work():
            os.dup2(write, 2)
            warnings.simplefilter("always")
            store.put("run", "node", 1)

        process = context.Process(target=work)
        process.start()
        process.join(50)
        os.close(write)
        told = os.read(read, 10_000).decode()
        say(process.exitcode, told.count("was not closed"))
    """
    assert run(program, file_path) == ["0 1"]


def test_the_error_is_pickled_with_its_facts() -> None:
    error = pickle.loads(pickle.dumps(ForkedProcessError("place", False)))
    assert (error.location, error.was_open, str(error)) == ("place", False, str(ForkedProcessError("place", False)))
    assert ForkedProcessError("place").was_open
