"""Killed while it makes its file or while it checkpoints, or forked: the file opens with all that was acknowledged."""

from __future__ import annotations

import fcntl
import functools
import os
import pathlib
import resource
import shutil
import signal
import struct
import threading
from collections.abc import Callable

import pytest

from contextstore import ContextStore
from contextstore._sqlite import schema as _schema

from ..support.forked import run
from ..support.portions import some
from .files import Make, _open, make_sample, names_in, plain, run_in_child

pytestmark = pytest.mark.disk


def _limit_file_size(limit: int) -> None:
    """The kernel kills this process at the first byte that it writes beyond this length of any file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _works(make: Make, path: pathlib.Path) -> None:
    with make(path) as store:
        store.put("run", "node", {"a": 1})
        assert store.get("run", "node") == {"a": 1}
        assert store.list_keys("run") == ["node"]
    with plain(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA application_id").fetchall() == [(_schema.APPLICATION_ID,)]
        assert connection.execute("SELECT value FROM outputs").fetchall() == [('{"a":1}',)]
    assert names_in(path.parent) == [path.name, f"{path.name}-lock"]


def _header_alone(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.executescript("CREATE TABLE t (a); DROP TABLE t; VACUUM")
    assert path.stat().st_size == 4096


def _header_alone_in_wal_mode(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size == 4096


class TestKilledWhileCreating:
    @pytest.mark.parametrize("write", [_header_alone, _header_alone_in_wal_mode])
    def test_a_header_without_a_table_opens(
        self, make_either: Make, file_path: pathlib.Path, write: Callable[[pathlib.Path], None]
    ) -> None:
        write(file_path)
        _works(make_either, file_path)

    def test_a_killed_creator_leaves_what_opens(self, make: Make, tmp_path: pathlib.Path) -> None:
        kills = 0
        for limit in [0, 1, 28, 511, 512, 4095, 4096, 4097, *range(6000, 60_000, 6000)]:
            path = tmp_path / str(limit) / "store.db"
            path.parent.mkdir()
            before = functools.partial(_limit_file_size, limit)
            kills += run_in_child(functools.partial(_open, path), before) == -signal.SIGXFSZ
            _works(make, path)
        assert kills > 8

    def test_a_hot_journal_of_a_killed_creator_opens(self, make: Make, tmp_path: pathlib.Path) -> None:
        """Whatever a power cut has left of the pages that were to be written."""
        whole = tmp_path / "whole.db"
        with plain(whole) as connection:
            connection.executescript("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA cache_size = 1; BEGIN")
            for statement in _schema._SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_schema.APPLICATION_ID}")
            journal = (tmp_path / "whole.db-journal").read_bytes()
            connection.execute("COMMIT")
        pages = whole.read_bytes()
        half_pages = bytearray(pages)
        half_pages[4096:8192] = bytes(4096)
        assert journal
        states = [b"", pages[:1], pages[:512], pages[:4096], pages[:5000], bytes(4096), bytes(half_pages), pages]
        for number, state in enumerate(states):
            path = tmp_path / str(number) / "store.db"
            path.parent.mkdir()
            path.write_bytes(state)
            path.with_name("store.db-journal").write_bytes(journal)
            _works(make, path)

    def test_many_that_open_a_new_file_at_once_all_get_it(self, tmp_path: pathlib.Path) -> None:
        """They look at the file while one of them is creating it, and at each stage of that."""
        for round_number in range(some(6, 2)):
            path = tmp_path / str(round_number) / "store.db"
            path.parent.mkdir()
            children = [_opening_child(path, delay) for delay in range(0, 4000, 500)]
            failures = [os.read(pipe, 1000).decode() for _, pipe in children]
            for child, pipe in children:
                os.close(pipe)
                os.waitpid(child, 0)
            assert failures == [""] * len(children)


def _opening_child(path: pathlib.Path, delay: int) -> tuple[int, int]:
    """A child, and the pipe in which it says what was wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            threading.Event().wait(0.005 + delay / 1e6)
            with ContextStore(path) as store:
                store.put("run", str(delay), delay)
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    return child, reading


def _frames(wal: bytes) -> dict[int, bytes]:
    """The last content of each page in a WAL: https://sqlite.org/fileformat.html, 4."""
    (page_size,) = struct.unpack(">I", wal[8:12])
    pages = {}
    for start in range(32, len(wal) - page_size - 23, 24 + page_size):
        if wal[start + 8 : start + 16] != wal[16:24]:  # salt: a frame of an older round
            break
        (number,) = struct.unpack(">I", wal[start : start + 4])
        pages[number] = wal[start + 24 : start + 24 + page_size]
    return pages


class TestKilledWhileCheckpointing:
    @pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read_only"])
    @pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 1.0])
    def test_a_checkpoint_that_was_cut_off_loses_nothing(
        self, make: Make, tmp_path: pathlib.Path, part: float, read_only: bool
    ) -> None:
        """A checkpoint copies pages in ascending order: after the first, the file says it is longer than it is."""
        path = tmp_path / "killed.db"
        expected = {f"{i:03}": "x" * 2000 for i in range(150)}
        with make(tmp_path / "store.db") as store:
            store.put_many("run", expected)
            for suffix in ("", "-wal"):
                shutil.copy(f"{tmp_path / 'store.db'}{suffix}", f"{path}{suffix}")
        pages = _frames(path.with_name("killed.db-wal").read_bytes())
        assert len(pages) * 4096 > path.stat().st_size
        with open(path, "r+b") as file:
            for number in sorted(pages)[: max(1, int(part * len(pages)))]:
                file.seek((number - 1) * 4096)
                file.write(pages[number])
        with make(path, read_only=read_only) as store:
            assert {node: store.get("run", node) for node in store.list_keys("run")} == expected

    def test_an_opener_waits_for_a_checkpoint_to_come_to_its_end(
        self, make_either: Make, tmp_path: pathlib.Path
    ) -> None:
        whole, path = tmp_path / "whole.db", tmp_path / "store.db"
        expected = make_sample(whole)
        path.write_bytes(whole.read_bytes()[:4096])  # as somebody sees it who looks without the lock
        lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)

            def finish() -> None:
                shutil.copyfile(whole, path)
                fcntl.flock(lock, fcntl.LOCK_UN)

            timer = threading.Timer(0.2, finish)
            timer.start()
            store = make_either(path)
            try:
                assert {node: store.get("run", node) for node in store.list_keys("run")} == expected
            finally:
                timer.join()
        finally:
            os.close(lock)


class TestForks:
    def test_what_a_forked_child_is_told_is_stored_is_stored(self, file_path: pathlib.Path) -> None:
        """SQLite in the child believes that it holds the locks of the parent's connections."""
        program = """
            parent = ContextStore(sys.argv[1])
            parent.put("run", "parent", 1)
            to_parent, to_child = os.pipe(), os.pipe()
            if os.fork() == 0:
                try:
                    child = ContextStore(sys.argv[1], timeout=5)
                    child.put("run", "before", 1)
                    say("before")
                    os.write(to_parent[1], b"x")
                    os.read(to_child[0], 1)
                    child.put("run", "after", 1)  # the parent has closed its store meanwhile
                    say("after")
                    child.close()
                except ForkedProcessError:
                    os.write(to_parent[1], b"x")
                finally:
                    os._exit(0)
            os.read(to_parent[0], 1)
            parent.close()
            os.write(to_child[1], b"x")
            os.wait()
        """
        said = run(program, file_path)
        with plain(file_path) as connection:
            stored = {node for (node,) in connection.execute("SELECT node_id FROM outputs")}
        assert stored == {"parent", *said}

    def test_a_child_forked_after_the_store_was_closed_has_one_of_its_own(self, file_path: pathlib.Path) -> None:
        make_sample(file_path, 1)

        def put() -> list[str]:
            with ContextStore(file_path) as store:
                store.put("run", "child", 1)
                return store.list_keys("run")

        assert run_in_child(put) == ["bytes", "child", "node-000"]
