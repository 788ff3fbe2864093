"""What docs/operating.md says of a store's threads, descriptors and memory, and by what one sees that it is unwell."""

from __future__ import annotations

import contextlib
import inspect
import os
import pathlib
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, StoreBusyError, StoreClosedError, StoreNotFoundError, new_flow_run_id

from ..support.processes import Child, run
from ..support.servers import Server
from .pages import fences, rows, section

PAGE = "operating.md"

# --------------------------------------------------------------------------------------------------- what to alert on

HOLDER = """
    import fcntl
    lock = os.open(sys.argv[1], os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    say("held")
    sys.stdin.readline()
"""


def probe() -> Callable[[ContextStore], bool]:
    """``is_ready`` of the page."""
    (snippet,) = fences(PAGE, "Probes", "python")
    names: dict[str, Any] = {}
    exec(snippet.text.partition("with ContextStore")[0], names)
    return names["is_ready"]


class TestWhatToAlertOn:
    def test_there_are_five_rows_whose_signs_exist(self, tmp_path: pathlib.Path) -> None:
        assert len(rows(PAGE, "What to alert on")) == 5
        with ContextStore(tmp_path / "flows.db") as store:
            found = [store.counters(), store.stats()]
        for name in ("busy_timeouts", "errors", "troubles", "file_bytes", "wal_bytes", "checkpoint_pinned"):
            assert any(hasattr(one, name) for one in found), name
            assert name in section(PAGE, "What to alert on")

    def test_a_neighbour_that_holds_the_lock_is_counted(self, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "flows.db", timeout=1) as store:
            store.put("run", "before", 1)
            with Child(HOLDER, tmp_path / "flows.db-lock") as neighbour:
                assert neighbour.hear() == "held"
                with pytest.raises(StoreBusyError):
                    store.put("run", "node", 1)
            assert sum(store.counters().busy_timeouts.values()) >= 1
            assert store.counters().errors == {"StoreBusyError": 1}

    def test_a_reader_of_an_old_snapshot_shows_in_the_stats(self, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "flows.db", max_value_bytes=2**27) as store:
            store.put("run", "before", 1)
            with contextlib.closing(sqlite3.connect(tmp_path / "flows.db")) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM outputs").fetchall()
                self.put_until(store, lambda: store.stats().checkpoint_pinned)
                assert store.stats().wal_bytes > 2**22
            self.put_until(store, lambda: not store.stats().checkpoint_pinned)

    def put_until(self, store: ContextStore, is_so: Callable[[], bool]) -> None:
        """A checkpoint is made behind the answer to a put."""
        for _ in range(50):
            store.put("run", new_flow_run_id(), bytes(2**22))
            if is_so():
                return
        raise AssertionError("it never came")

    def test_a_store_that_is_gone_is_not_ready(self, tmp_path: pathlib.Path) -> None:
        is_ready = probe()
        with ContextStore(tmp_path / "flows.db", cache_bytes=0) as store:
            assert is_ready(store)
            (tmp_path / "flows.db").unlink()
            with pytest.raises(StoreNotFoundError):
                store.ping()
            assert not is_ready(store)
        with pytest.raises(StoreClosedError):
            store.ping()
        assert not is_ready(store)

    def test_a_server_that_does_not_answer_is_not_ready(self) -> None:
        is_ready = probe()
        store = ContextStore("postgresql://127.0.0.1:1/db")
        assert not is_ready(store)
        store.close()


# -------------------------------------------------------------------------------------------------- what a store takes

TAKES = """
    import concurrent.futures, contextlib

    def takes():
        descriptors = []
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                descriptors.append(os.readlink(f"/proc/self/fd/{number}"))
        threads = [thread for thread in threading.enumerate() if "exit watcher" not in thread.name]
        return len(threads), len(descriptors)

    face, target, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
    before = None

    def tell():
        say(*(now - then for now, then in zip(takes(), before)))

    async def awaited():
        global before
        before = takes()
        async with AsyncContextStore(target, **options) as store:
            if "read_only" not in options:
                await asyncio.gather(*(store.put("run", f"{number}", 1) for number in range(1000)))
            await asyncio.gather(*(store.get("none", f"{number}") for number in range(1000)))
            await asyncio.gather(*(store.list_runs() for _ in range(20)), *(store.stats() for _ in range(20)))
            tell()
        tell()

    def called():
        global before
        before = takes()
        with ContextStore(target, **options) as store:
            def use(number):
                if "read_only" not in options:
                    store.put("run", f"{number}", 1)
                store.get("none", f"{number}")
                if number % 100 == 0:
                    store.list_runs()
                    store.stats()
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                list(pool.map(use, range(2000)))
            tell()
        tell()

    asyncio.run(awaited()) if face == "awaited" else called()
"""


def taken(face: str, target: Any, **options: Any) -> tuple[int, int]:
    """Threads and descriptors of a store at work; it gives all back when it is closed."""
    at_work, closed = run(TAKES, face, target, options, timeout=120)
    assert closed == "0 0"
    threads, descriptors = map(int, at_work.split())
    return threads, descriptors


def row_of(start: str) -> list[str]:
    (found,) = (row for row in rows(PAGE, "What a store takes") if row[0].startswith(start))
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")
class TestWhatAStoreTakes:
    def test_a_file_that_is_awaited(self, tmp_path: pathlib.Path) -> None:
        _, threads, descriptors, _ = row_of("a file, awaited")
        assert taken("awaited", tmp_path / "flows.db") == (int(threads), int(descriptors))

    def test_a_file_that_is_called_from_many_threads(self, tmp_path: pathlib.Path) -> None:
        _, threads, descriptors, _ = row_of("a file, called")
        least, most = map(int, descriptors.split(" to "))
        found = taken("called", tmp_path / "flows.db")
        assert found[0] == int(threads)
        assert least < found[1] <= most

    @pytest.mark.parametrize("face", ["awaited", "called"])
    def test_a_file_that_is_read_beside_a_writer(self, tmp_path: pathlib.Path, face: str) -> None:
        _, threads, descriptors, _ = row_of("a file, `read_only=True`")
        with ContextStore(tmp_path / "flows.db") as writer:
            writer.put("run", "node", 1)
            assert taken(face, tmp_path / "flows.db", read_only=True) == (int(threads), int(descriptors))

    def test_beside_another_object_of_the_process_descriptors_of_the_file_stay_until_that_is_closed(
        self, tmp_path: pathlib.Path
    ) -> None:
        def of_the_file() -> int:
            open_ = []
            for number in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    open_.append(os.readlink(f"/proc/self/fd/{number}"))
            return open_.count(str(tmp_path / "flows.db"))

        with ContextStore(tmp_path / "flows.db") as writer:
            writer.put("run", "node", 1)
            before = of_the_file()
            with ContextStore(tmp_path / "flows.db", read_only=True) as reader:
                reader.get("run", "node")
            assert of_the_file() > before
        assert of_the_file() == 0

    @pytest.mark.parametrize("face", ["awaited", "called"])
    def test_memory(self, face: str) -> None:
        _, threads, descriptors, _ = row_of('`":memory:"`')
        assert taken(face, ":memory:") == (int(threads), int(descriptors))

    @pytest.mark.parametrize("most", [2, 4])
    @pytest.mark.parametrize("face", ["awaited", "called"])
    def test_a_server(self, url: str, postgres: Server, face: str, most: int) -> None:
        _, threads, descriptors, connections = row_of("a server")
        assert (descriptors, connections) == ("3, and one for each connection", "2 to `max_connections` (4)")
        found = taken(face, url, max_connections=most)
        assert found[0] == int(threads)
        assert 3 + 2 <= found[1] <= 3 + most


def test_the_defaults_are_those_of_the_page() -> None:
    from contextstore._core.outputs import PAGE_BYTES
    from contextstore._dispatch.writer import QUEUE_BYTES
    from contextstore._sqlite.lending import _MOST

    cache = inspect.signature(ContextStore).parameters["cache_bytes"].default
    shown = [row[1] for row in rows(PAGE, "What a store takes", 1)]
    assert shown == [f"{cache >> 20} MiB", f"{QUEUE_BYTES >> 20} MiB", f"{PAGE_BYTES >> 20} MiB, or one value"]
    assert f"borrow up to {_MOST} connections that read and {_MOST} that write" in section(
        PAGE, "What a store takes"
    ).replace("\n", " ")
