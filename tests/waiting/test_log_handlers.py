"""Logging handlers that use the store: nobody waits for ever, whoever logs, and whatever the store is about to do.

A handler is called under its lock, and holds it while it waits for the store. So the store's own threads never call
one. Each in a process of its own; "hang" is what its guard says.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import logging
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import ContextStore, WrongLoopError
from contextstore._sqlite import worker as _worker
from contextstore._waiting import threads as _threads

from ..conftest import new_location
from ..support.doubles import core_of
from ..support.processes import Child
from ..support.proxy import Proxy

GUARD = 40

HANDLER = """
import itertools, logging, logging.config

class Keep(logging.Handler):
    # Puts each record; counts what came of it by kind. `raises`: lets errors out, as no handler should.
    raises = False
    def __init__(self, put=None):
        super().__init__()
        self.put = put
        self.numbers = itertools.count()
        self.outcomes = {}
        self.within = threading.local()
    def emit(self, record):
        if getattr(self.within, "emitting", False):  # what the handler's own calls log
            return
        self.within.emitting = True
        try:
            self.put(f"{next(self.numbers):06}", record.getMessage())
            outcome = "put"
        except ContextStoreError as error:
            outcome = type(error).__name__
            if self.raises:
                raise
        finally:
            self.within.emitting = False
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

"""

STORES = {
    "sync": """
store = ContextStore(sys.argv[1], timeout=5)
keep = Keep(lambda node, text: store.put("log", node, text))
""",
    "async": """
store = AsyncContextStore(sys.argv[1], timeout=5)
keep = Keep(lambda node, text: asyncio.run(store.put("log", node, text)))
""",
}


@pytest.fixture(params=["file", "memory", "postgres"])
def location(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


def ended(program: str, *arguments: Any, environment: dict[str, str] | None = None) -> tuple[list[str], str]:
    with Child((HANDLER + program).strip(), *arguments, **(environment or {})) as child:
        status, said, err = child.end(GUARD)
    assert status == 0, (said, err)
    return said, err


@pytest.mark.parametrize("raises", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["catches", "raises"])
@pytest.mark.parametrize("face", STORES)
def test_a_handler_that_puts_each_record_with_the_root_logger_at_debug_never_hangs(
    face: str, raises: bool, location: Any
) -> None:
    program = f"""
{STORES[face]}
keep.raises = {raises}
logging.raiseExceptions = False
def use():
    if isinstance(store, ContextStore):
        logging.basicConfig(level=logging.DEBUG, handlers=[keep])
        logging.info("the flow begins")  # opens the store, in the handler
        store.put("run-1", "extract", 1)
        store.check()
        store.close()
    else:
        async def main():
            logging.basicConfig(level=logging.DEBUG, handlers=[keep])
            await store.put("run-1", "extract", 1)
            await store.check()
            await store.close()
        asyncio.run(main())
use()
say(keep.outcomes.get("put", 0) > 0 or isinstance(store, AsyncContextStore), set(keep.outcomes) - {{"put"}} <=
    {{"WrongLoopError", "StoreClosedError"}})
"""
    assert ended(program, location)[0] == ["True True"]


def test_in_debug_mode_of_the_programs_loop_it_does_not_hang_either(file_path: pathlib.Path) -> None:
    program = """
store = AsyncContextStore(sys.argv[1], timeout=5)
other = ContextStore(sys.argv[1], timeout=5)
keep = Keep(lambda node, text: other.put("log", node, text))
async def main():
    logging.basicConfig(level=logging.DEBUG, handlers=[keep])
    asyncio.get_running_loop().slow_callback_duration = 0  # so that asyncio has something to say of each
    await asyncio.gather(*(store.put("run", f"{i}", i) for i in range(20)))
    await store.close()
asyncio.run(main())
other.close()
say(keep.outcomes.get("put", 0) >= 20)
"""
    assert ended(program, file_path, environment={"PYTHONASYNCIODEBUG": "1"})[0] == ["True"]


@pytest.mark.parametrize("made", ["in the handler's constructor", "before"])
def test_a_handler_that_opens_its_store_while_logging_is_being_configured(made: str, location: Any) -> None:
    # dictConfig holds the lock of logging itself all through, which is also taken to look up a logger's level.
    program = f"""
store = ContextStore(sys.argv[1], timeout=5)
def make():
    {"store.open()" if made != "before" else "pass"}
    store.put("log", "made", 1)
    return keep
keep = Keep(lambda node, text: store.put("log", node, text))
{"store.open()" if made == "before" else ""}
logging.config.dictConfig({{
    "version": 1, "handlers": {{"store": {{"()": make}}}}, "root": {{"level": "DEBUG", "handlers": ["store"]}},
}})
logging.info("the flow begins")
store.close()
say(keep.outcomes.get("put", 0) > 0)
"""
    assert ended(program, location)[0] == ["True"]


def test_a_handler_on_the_drivers_loggers_alone(file_path: pathlib.Path) -> None:
    program = f"""
{STORES["sync"]}
for name in ("aiosqlite", "asyncio", "contextstore"):
    logging.getLogger(name).addHandler(keep)
    logging.getLogger(name).setLevel(logging.DEBUG)
for i in range(3):
    store.put("run", f"{{i}}", 1)
store.check()
store.close()
say(set(keep.outcomes))
"""
    (said,), _ = ended(program, file_path)
    assert {"WrongLoopError"} <= set(ast.literal_eval(said)) <= {"WrongLoopError", "StoreClosedError", "put"}


def test_a_finalizer_that_puts_never_hangs_while_stores_are_opened_and_closed(file_path: pathlib.Path) -> None:
    program = """
import gc
gc.set_threshold(5)  # so that finalizers run at any time, in any thread

class Last:
    def __init__(self):
        self.me = self  # a cycle: it goes when the collector comes, wherever that is
    def __del__(self):
        try:
            current[0].put("last", f"{next(numbers)}", 1)
            outcomes.add("put")
        except ContextStoreError as error:
            outcomes.add(type(error).__name__)

numbers = itertools.count()
outcomes = set()
for round in range(15):
    store = ContextStore(sys.argv[1], timeout=5)
    current = [store]
    for i in range(60): Last()
    store.put("run", f"{round}", 1)
    for i in range(60): Last()
    assert store.get("run", f"{round}") == 1
    assert store.get("run", "missing") is None
    store.close()
gc.set_threshold(0)
say(outcomes <= {"put", "WrongLoopError", "StoreClosedError"}, outcomes)
"""
    (said,), _ = ended(program, file_path)
    assert said.startswith("True"), said


def test_a_handler_is_called_in_no_thread_of_the_store(file_path: pathlib.Path) -> None:
    program = """
threads = set()
class Look(logging.Handler):
    def emit(self, record):
        threads.add(threading.current_thread().name)
        assert record.threadName  # that of whoever has logged it
logging.basicConfig(level=logging.DEBUG, handlers=[Look()])
with ContextStore(sys.argv[1]) as store:
    store.put("run", "node", 1)
    store.check()
for thread in threading.enumerate():
    if thread.name == "contextstore log":
        thread.join()
say(sorted(threads))
"""
    assert ended(program, file_path)[0] == ["['MainThread', 'contextstore log']"]  # the program's own, which opens it


def test_what_is_logged_at_the_end_is_handled_before_the_process_ends(file_path: pathlib.Path) -> None:
    program = """
store = ContextStore(sys.argv[1])
class Tell(logging.Handler):
    def emit(self, record):
        time.sleep(0.02)
        say(record.getMessage()[:20])
logging.basicConfig(level=logging.DEBUG, handlers=[Tell()])
store.put("run", "node", 1)
"""
    said, _ = ended(program, file_path)
    assert sum(line.startswith("Using selector") for line in said) == 1
    assert sum(line.startswith("executing") for line in said) == 8  # two connections: opened, used, closed, ended


@pytest.mark.parametrize("filters", ["default", "error::ResourceWarning"])
def test_warnings_that_are_logged_do_not_keep_a_forgotten_store_from_being_closed(
    filters: str, file_path: pathlib.Path
) -> None:
    program = f"""
{STORES["sync"]}
logging.basicConfig(level=logging.DEBUG, handlers=[keep])
logging.captureWarnings(True)
warnings.resetwarnings()
warnings.filterwarnings({filters.partition(":")[0]!r}, category=ResourceWarning)
import atexit
atexit.register(lambda: say("outcomes", sorted(keep.outcomes)))
keep.raises = True
logging.raiseExceptions = False
store.put("run", "node", 1)
"""
    said, _ = ended(program, file_path)
    assert said[0].startswith("outcomes")
    with contextlib.closing(sqlite3.connect(file_path)) as connection:
        assert connection.execute("SELECT value FROM outputs WHERE flow_run_id = 'run'").fetchall() == [("1",)]
    assert not pathlib.Path(f"{file_path}-wal").exists()


def test_a_handler_is_told_of_a_server_that_does_not_answer_and_nobody_hangs(proxy: Proxy, schema: str) -> None:
    program = f"""
{STORES["sync"]}
logging.basicConfig(level=logging.DEBUG, handlers=[keep])
store.put("run", "before", 1)
say("go")
sys.stdin.readline()
for i in range(20):
    store.put("run", f"{{i}}", i)
    logging.info("%s", i)
store.close()
say(set(keep.outcomes) <= {{"put", "WrongLoopError", "StoreClosedError"}}, keep.outcomes.get("put"))
"""
    with Child((HANDLER + program).strip(), proxy.url(schema=schema)) as child:
        assert child.hear() == "go"
        proxy.cut_all()
        child.tell()
        time.sleep(0.05)
        proxy.cut_all()
        status, said, err = child.end(GUARD)
    assert (status, said) == (0, ["True 21"]), err  # the opening, and each of its own


# ---------------------------------------------------------------------------------------- in the store's own threads


@contextlib.contextmanager
def filtered(name: str, function: Callable[[logging.LogRecord], Any]) -> Iterator[None]:
    """A filter of the program's, before ours: it is called in whichever thread logs."""

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            function(record)
            return True

    logger, own = logging.getLogger(name), Filter()
    level = logger.level
    logger.filters.insert(0, own)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeFilter(own)
        logger.setLevel(level)


def outcomes_of(call: Callable[[], Any], outcomes: dict[str, set[str]]) -> Callable[[logging.LogRecord], None]:
    def note(record: logging.LogRecord) -> None:
        try:
            call()
            outcome = "nothing"
        except Exception as error:
            outcome = type(error).__name__
        outcomes.setdefault(threading.current_thread().name.partition("-")[0], set()).add(outcome)

    return note


@pytest.mark.parametrize("name", ["aiosqlite", "asyncio"])
def test_a_call_from_a_thread_that_opens_or_closes_the_store_is_refused_at_once(
    name: str, file_path: pathlib.Path
) -> None:
    store = ContextStore(file_path)
    outcomes: dict[str, set[str]] = {}
    with filtered(name, outcomes_of(lambda: store.put("run", "late", 1), outcomes)):
        store.put("run", "node", 1)
        store.check()
        store.close()
    assert outcomes
    assert set.union(*outcomes.values()) == {"WrongLoopError"}


def test_a_call_from_a_thread_that_is_known_too_late_is_refused_then(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a finalizer which runs in the thread before it is registered."""
    store = ContextStore(file_path)
    refused = []
    start = _worker.ConnectionWorker._start

    def late(self: Any, connect: Any) -> Any:
        started = start(self, connect)
        threads, self._registered = self._registered, []
        for thread in threads:
            self._own_threads.discard(thread.ident)
            threading.Timer(0.3, self._own_threads.add, [thread.ident, thread]).start()
        return started

    def put(record: logging.LogRecord) -> None:
        if not refused:
            try:
                store.put("run", "late", 1)
            except WrongLoopError as error:
                refused.append(error)

    monkeypatch.setattr(_worker.ConnectionWorker, "_start", late)
    monkeypatch.setattr(_threads, "LOOK_AGAIN", 0.02)
    with filtered("aiosqlite", put):
        store.put("run", "node", 1)
    assert refused
    assert store.get("run", "late") is None
    store.close()
    core_of(store)._session.engine.own_threads.clear()


@pytest.mark.parametrize("is_locked", [True, False], ids=["within a commit", "between two"])
@pytest.mark.parametrize("other", ["at the same place", "elsewhere"])
def test_another_store_object_may_be_called_there_unless_it_would_wait_for_the_lock_that_is_held(
    other: str, is_locked: bool, file_path: pathlib.Path
) -> None:
    link = file_path.with_name("link.db")
    link.symlink_to(file_path)
    place = link if other == "at the same place" else file_path.with_name("elsewhere.db")
    with ContextStore(file_path) as store, ContextStore(place, timeout=20) as another:
        another.open()
        engine: Any = core_of(store)._session.engine
        outcomes: list[str] = []
        done = threading.Event()

        async def job() -> None:
            if is_locked:
                assert engine.own_threads.lock.acquire(lambda: False)
            try:
                another.put("direct", "node", 1)
                outcomes.append("put")
            except WrongLoopError:
                outcomes.append("refused")
            finally:
                engine.own_threads.lock.release()
            done.set()

        engine.post_write(job)
        assert done.wait(GUARD)
        assert outcomes == (["refused"] if is_locked and other == "at the same place" else ["put"])


@pytest.mark.parametrize("other", ["at the same place", "elsewhere"])
def test_a_handler_may_put_what_a_store_logs_to_another_object_whatever_lock_is_held(
    other: str, file_path: pathlib.Path
) -> None:
    place = file_path if other == "at the same place" else file_path.with_name("elsewhere.db")
    with ContextStore(file_path) as store, ContextStore(place, timeout=20) as another:
        outcomes: list[str] = []
        handled, done = threading.Event(), threading.Event()
        engine: Any = core_of(store)._session.engine

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                try:
                    another.put("log", record.getMessage(), 1)
                    outcomes.append("put")
                except WrongLoopError:
                    outcomes.append("refused")
                handled.set()

        logger, keep = logging.getLogger("contextstore"), Keep()
        logger.addHandler(keep)
        try:

            async def job() -> None:
                assert engine.own_threads.lock.acquire(lambda: False)
                logger.warning("something")  # waits a moment for the handler, and goes on
                engine.own_threads.lock.release()
                done.set()

            engine.post_write(job)
            assert done.wait(GUARD)
            assert handled.wait(GUARD)
        finally:
            logger.removeHandler(keep)
        assert outcomes == ["put"]
        assert another.get("log", "something") == 1


def test_stores_in_memory_are_places_of_their_own() -> None:
    with ContextStore(":memory:") as store, ContextStore(":memory:") as another:
        done = threading.Event()

        async def job() -> None:
            another.put("run", "node", 1)
            done.set()

        core_of(store)._session.engine.post_read(job)
        assert done.wait(GUARD)
        assert another.get("run", "node") == 1


def test_what_the_store_says_of_itself_is_handled_before_the_call_that_it_concerns_returns(
    file_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ContextStore(file_path) as store:
        for number in range(20):
            caplog.clear()

            async def bug(units: Any) -> Any:
                raise ZeroDivisionError

            core_of(store)._session.engine.commit = bug  # type: ignore[method-assign]
            with pytest.raises(Exception, match="ZeroDivisionError"):
                store.put("run", f"{number}", 1)
            assert "unforeseen" in caplog.text
            del core_of(store)._session.engine.commit


def test_a_handler_that_takes_its_time_keeps_nobody_from_the_file(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_free = []

    class Look(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "grow the WAL" not in record.getMessage():
                return
            descriptor = os.open(f"{file_path}-lock", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                was_free.append(True)
            except BlockingIOError:
                was_free.append(False)
            finally:
                os.close(descriptor)

    def no_room(path: Any) -> Any:
        raise OSError(5, "no such luck")

    logger, look = logging.getLogger("contextstore"), Look()
    logger.addHandler(look)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with ContextStore(file_path) as store:
            monkeypatch.setattr(os, "statvfs", no_room)
            store.put("run", "node", 1)
            store.put("run", "another", 1)
    finally:
        logger.removeHandler(look)
        logger.setLevel(level)
    assert was_free == [True]


def test_a_thread_that_has_the_number_of_one_that_was_the_stores_may_call() -> None:
    for _ in range(50):
        with ContextStore(":memory:") as store:
            store.put("run", "node", 1)
        outcomes: list[Any] = []

        def use(outcomes: list[Any] = outcomes) -> None:
            with ContextStore(":memory:") as mine:
                mine.put("run", "node", 1)
                outcomes.append(mine.get("run", "node"))

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [1, 1, 1]


def test_a_thread_may_call_that_got_the_number_of_one_whose_end_the_store_has_not_noted_yet() -> None:
    with ContextStore(":memory:") as store:
        store.put("run", "node", 1)
        own = core_of(store)._session.engine.own_threads
        ended = threading.Thread(target=int)
        ended.start()
        ended.join()
        own.add(
            threading.get_ident(), ended
        )  # as a worker does that has ended, until its starter has come to discard it
        assert store.get("run", "node") == 1
        store.put("run", "other", 2)
        own.discard(threading.get_ident(), threading.current_thread())  # of another thread of that number: it stays
        assert threading.get_ident() in own
        own.discard(threading.get_ident(), ended)
        assert threading.get_ident() not in own
