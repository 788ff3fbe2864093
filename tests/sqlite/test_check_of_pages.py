"""Care: damaged pages and flipped bits: a check finds them, or all values are right.

Damage is done in plain files.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import ContextStore, ContextStoreError

from .care import EVERYTHING, checked, sql

pytestmark = pytest.mark.usefixtures("embedded")  # a server is looked after in test_care_postgres


def pages_of(path: pathlib.Path, name: str) -> list[int]:
    """The numbers of the leaf pages of a table or index."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno"
        try:
            return [number for (number,) in connection.execute(query, (name,))]
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no dbstat")


def wipe(path: pathlib.Path, page: int, byte: bytes = b"\xff") -> None:
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(byte * 4096)


@pytest.fixture(scope="module")
def large_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("large") / "store.db"
    with ContextStore(path) as store, store.batch() as batch:
        for run in range(5):
            for i in range(400):
                batch.put(f"run-{run}", f"{i:03}", "x" * 100)
        for i in range(300):
            batch.upsert_global(f"key-{i:03}", "y" * 50)
    return path.read_bytes()


@pytest.fixture
def large(file_path: pathlib.Path, large_template: bytes) -> pathlib.Path:
    file_path.write_bytes(large_template)
    return file_path


class TestADamagedPage:
    @pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"\x0d"])
    def test_in_the_middle_of_the_outputs_it_hides_no_others(self, large: pathlib.Path, byte: bytes) -> None:
        pages = pages_of(large, "node_outputs")
        wipe(large, pages[len(pages) // 2], byte)
        sql(large, "UPDATE node_outputs SET value = '1' WHERE id IN (1, 2000)")
        with ContextStore(large, cache_bytes=0) as store:
            report = store.check()
            named = {problem.key for problem in report.problems if problem.kind == "output"}
            assert {("run-0", "000"), ("run-4", "399")} <= named
            # Those on the page are named by their keys, and no others are.
            for run in range(5):
                for i in range(400):
                    key = (f"run-{run}", f"{i:03}")
                    try:
                        assert store.get(*key) == "x" * 100
                    except ContextStoreError:
                        assert key in named
                    else:
                        assert key not in named
        assert 10 < len(named) < 100
        assert report.outputs + len(named) == 2000 + 2

    def test_of_the_globals_it_hides_no_others(self, large: pathlib.Path) -> None:
        pages = pages_of(large, "global_values")
        wipe(large, pages[len(pages) // 2])
        report = checked(large)
        named = {problem.key for problem in report.problems if problem.kind == "global"}
        assert 10 < len(named) < 100
        assert report.globals + len(named) == 300

    def test_of_the_index_is_found_and_hides_no_output(self, large: pathlib.Path) -> None:
        pages = pages_of(large, "sqlite_autoindex_node_outputs_1")
        wipe(large, pages[len(pages) // 2])
        report = checked(large)
        assert ("file", ()) in {(problem.kind, problem.key) for problem in report.problems}
        assert report.outputs == 2000

    def test_of_the_table_and_one_of_its_index_hide_no_others(self, large: pathlib.Path) -> None:
        for name in ("node_outputs", "sqlite_autoindex_node_outputs_1"):
            pages = pages_of(large, name)
            wipe(large, pages[len(pages) // 2])
        report = checked(large)
        assert 1900 < report.outputs < 2000
        rows = [problem for problem in report.problems if problem.message.startswith("row ")]
        assert report.outputs + len(rows) == 2000

    def test_of_the_runs_is_found_and_hides_no_global(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            for i in range(300):
                store.put(f"another-run-{i:03}", "a", 1)
        wipe(large, pages_of(large, "flow_runs")[-1])
        report = checked(large)
        assert not report.ok
        assert report.globals == 300
        assert 2000 < report.outputs < 2300

    def test_a_gap_in_the_numbers_of_the_rows_does_not_hold_it_up(self, large: pathlib.Path) -> None:
        """After many a prune there may be billions of numbers without a row."""
        sql(large, "UPDATE node_outputs SET id = id + (1 << 50) WHERE id > 1000")
        wipe(large, pages_of(large, "node_outputs")[-2])
        report = checked(large)
        named = [problem for problem in report.problems if problem.kind == "output"]
        assert named
        assert report.outputs + len(named) == 2000

    def test_a_page_that_is_damaged_while_the_store_is_open_is_found(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            store.list_runs()
            wipe(large, pages_of(large, "node_outputs")[3])
            assert not store.check().ok

    def test_so_is_the_first_page(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            store.list_runs()
            with open(large, "r+b") as file:
                file.write(b"\x00" * 4096)
            report = store.check()
            assert ("file", ()) in {(problem.kind, problem.key) for problem in report.problems}

    @pytest.mark.parametrize("pages", [1, 3, 20])
    def test_a_file_that_was_cut_off_is_found_or_refused(self, large: pathlib.Path, pages: int) -> None:
        os.truncate(large, large.stat().st_size - pages * 4096)
        try:
            report = checked(large)
        except ContextStoreError:
            return
        assert not report.ok

    def test_so_is_one_that_is_cut_off_while_the_store_is_open(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            store.list_runs()
            os.truncate(large, large.stat().st_size - 20 * 4096)
            assert not store.check().ok


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 5])
def test_after_a_flipped_bit_anywhere_a_check_finds_it_or_all_values_are_right(
    bits: int, path: pathlib.Path, template: bytes
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    told = {"refused": 0, "found": 0, "right": 0}
    for _ in range(50):
        content = bytearray(template)
        offsets = []
        for _ in range(bits):
            # Half of them where pages keep their accounts.
            within = chosen.randrange(100) if chosen.random() < 0.5 else chosen.randrange(4096)
            offset = chosen.randrange(len(content) // 4096) * 4096 + within
            content[offset] ^= 1 << chosen.randrange(8)
            offsets.append(offset)
        for leftover in path.parent.glob("store.db*"):
            leftover.unlink()
        path.write_bytes(content)
        context = f"seed {seed}, offsets {offsets}"
        try:
            with ContextStore(path, cache_bytes=0) as store:
                try:
                    report = store.check()
                except ContextStoreError:
                    told["found"] += 1
                    continue
                wrong = [key for key, value in everything(store) if value == "wrong"]
                assert wrong == [] or not report.ok, context
                told["right" if report.ok else "found"] += 1
        except ContextStoreError:
            told["refused"] += 1
    print(told)
    assert told["found"] > 5


def everything(store: ContextStore) -> Iterator[tuple[Any, str]]:
    """Every way to read everything: what was read is right, wrong (or missing), or refused as it should be."""

    def read(key: Any, call: Callable[[], Any], expected: Any) -> tuple[Any, str]:
        try:
            return key, "right" if call() == expected else "wrong"
        except ContextStoreError:
            return key, "wrong"

    for run, outputs in EVERYTHING.items():
        for node, value in outputs.items():
            yield read((run, node), lambda run=run, node=node: store.get(run, node, "missing"), value)
            yield read((run, node), lambda run=run, node=node: store.exists(run, node), True)
            yield read((run, node), lambda run=run, node=node: getattr(store.get_entry(run, node), "value", ()), value)
        yield read(run, lambda run=run: store.list_keys(run), sorted(outputs))
        yield read(run, lambda run=run: store.get_run(run), dict(sorted(outputs.items())))
    for i in range(19):
        yield read(i, lambda i=i: store.get_global(f"key-{i:02}"), {"i": i})
    yield read("globals", lambda: [entry.value["i"] for entry in store.list_globals()], list(range(19)))
    yield read("runs", lambda: [run.flow_run_id for run in store.list_runs()], ["run-2", "run-1"])
    yield read("deleted", lambda: store.list_keys("deleted"), [])
