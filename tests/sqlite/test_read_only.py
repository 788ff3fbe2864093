"""A file that is opened to be read only: it is read, whoever wrote it last, and left as it was."""

from __future__ import annotations

import os
import pathlib
import shutil
import threading
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreNotFoundError,
)

from ..conftest import FACES
from ..support.forked import Child
from .files import (
    ALL_FILES,
    Make,
    _closing_all,
    as_nobody,
    left_as_it_was,
    make_sample,
    mode_of,
    names_in,
    refused,
    seen_in,
)

pytestmark = pytest.mark.disk


def _reads_all(path: pathlib.Path, face: str) -> dict[str, Any]:
    with _closing_all(face) as make_one:
        store = make_one(path, read_only=True)
        return {node: store.get("run", node) for node in store.list_keys("run")}


def left_by_a_killed_writer(make: Make, folder: pathlib.Path, *side_files: str) -> pathlib.Path:
    path = folder / "left" / "store.db"
    path.parent.mkdir()
    with make(folder / "store.db") as store:
        store.put("run", "in the WAL", 1)
        for suffix in ("", *side_files):
            shutil.copy(f"{folder / 'store.db'}{suffix}", f"{path}{suffix}")
            os.chmod(f"{path}{suffix}", 0o644)
    return path


class TestReadOnly:
    def test_reads_work_and_writes_are_refused(self, make_either: Make, file_path: pathlib.Path) -> None:
        expected = make_sample(file_path)
        with make_either(file_path, read_only=True) as store:
            for write in [
                lambda: store.put("run", "new", 1),
                lambda: store.put("run", "node-000", expected["node-000"], exist_ok=True),
                lambda: store.put_global("new", 1),
                lambda: store.upsert_global("key", 1),
                lambda: store.upsert_global("key", 1, expected_version=1),
            ]:
                with pytest.raises(ReadOnlyStoreError, match="read_only=True"):
                    write()
            assert {node: store.get("run", node) for node in store.list_keys("run")} == expected
            assert store.get("run", "new", "default") == "default"
            assert store.get_global("key") == {"global": True}
        with pytest.raises(StoreClosedError):
            store.put("run", "new", 1)

    def test_nothing_is_written(self, make_either: Make, file_path: pathlib.Path) -> None:
        make_sample(file_path)
        (file_path.parent / "store.db-lock").unlink()
        before = seen_in(file_path.parent)
        with make_either(file_path, read_only=True) as store:
            store.get("run", "node-000")
            assert seen_in(file_path.parent) == before
        assert seen_in(file_path.parent) == before

    def test_what_is_in_the_wal_alone_is_read(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "copy.db"
        with make_either(tmp_path / "store.db") as store:
            store.put("run", "node", "in the WAL")
            for suffix in ("", "-wal"):
                shutil.copy(f"{tmp_path / 'store.db'}{suffix}", f"{path}{suffix}")
        before = [path.read_bytes(), path.with_name("copy.db-wal").read_bytes()]
        with make_either(path, read_only=True) as store:
            assert store.get("run", "node") == "in the WAL"
        assert [path.read_bytes(), path.with_name("copy.db-wal").read_bytes()] == before

    def test_a_reader_sees_every_write_of_a_writer_at_once(self, make_either: Make, file_path: pathlib.Path) -> None:
        with make_either(file_path) as writer, make_either(file_path, read_only=True) as reader:
            for i in range(30):
                writer.put("run", f"{i:02}", i)
                writer.upsert_global("key", i)
                assert reader.get("run", f"{i:02}") == i
                assert reader.get_global("key") == i
                assert len(reader.list_keys("run")) == i + 1

    def test_a_reader_that_came_before_the_writer_sees_its_writes(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        make_sample(file_path, 1)
        with make_either(file_path, read_only=True) as reader:
            assert reader.get("run", "later", "nothing") == "nothing"
            with make_either(file_path) as writer:
                writer.put("run", "later", 1)
                assert reader.get("run", "later") == 1
            assert reader.get("run", "later") == 1

    def test_an_empty_file_is_no_store_to_read(self, make_either: Make, file_path: pathlib.Path) -> None:
        file_path.touch()
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, StoreNotFoundError, "empty", read_only=True)

    def test_what_is_no_store_any_more_is_refused_by_each_call(
        self, make_either: Make, file_path: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        make_sample(file_path, 1)
        store = make_either(file_path, read_only=True)
        assert store.list_keys("run")
        with open(file_path, "r+b") as file:
            file.write(b"something else  ")
        for call in (store.check, lambda: store.backup(tmp_path / "backup.db"), lambda: store.get("run", "new")):
            with pytest.raises(IncompatibleStoreError, match="not a SQLite database"):
                call()

    def test_a_store_in_memory_cannot_be_only_read(self, make_either: Make) -> None:
        with pytest.raises(ValueError, match="read_only"):
            make_either(":memory:", read_only=True)

    @pytest.mark.parametrize("face", FACES)
    def test_a_store_in_a_folder_that_cannot_be_written_is_read(self, public_folder: pathlib.Path, face: str) -> None:
        path = public_folder / "store.db"
        expected = make_sample(path)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o444), mode_of(public_folder, 0o555), left_as_it_was(public_folder):
            assert as_nobody(lambda: _reads_all(path, face)) == expected

    @pytest.mark.parametrize("face", FACES)
    def test_a_store_that_another_has_open_in_such_a_folder_is_read(
        self, public_folder: pathlib.Path, face: str
    ) -> None:
        path = public_folder / "store.db"
        path.touch()
        path.chmod(0o644)
        expected = make_sample(path)
        writer = """
            with ContextStore(sys.argv[1]) as store:
                store.put("run", "in the WAL", 1)
                say("written")
                sys.stdin.readline()
        """
        with mode_of(public_folder, 0o755), Child(writer, path) as child:
            assert child.hear() == "written"
            assert as_nobody(lambda: _reads_all(path, face)) == expected | {"in the WAL": 1}
            assert names_in(public_folder) == ALL_FILES
            child.tell()
            assert child.end()[0] == 0

    @pytest.mark.parametrize("face", FACES)
    def test_what_a_killed_writer_left_in_such_a_folder_is_read(
        self, make: Make, public_folder: pathlib.Path, face: str
    ) -> None:
        path = left_by_a_killed_writer(make, public_folder, "-wal", "-shm")
        with mode_of(path.parent, 0o555), left_as_it_was(path.parent):
            assert as_nobody(lambda: _reads_all(path, face)) == {"in the WAL": 1}

    @pytest.mark.parametrize("face", FACES)
    def test_a_wal_without_a_shm_is_read_in_such_a_folder_too(
        self, make: Make, public_folder: pathlib.Path, face: str
    ) -> None:
        path = left_by_a_killed_writer(make, public_folder, "-wal")
        with mode_of(path.parent, 0o555), left_as_it_was(path.parent):
            assert as_nobody(lambda: _reads_all(path, face)) == {"in the WAL": 1}

    @pytest.mark.skipif(os.getuid() != 0, reason="needs somebody who may write in the folder, and somebody who may not")
    @pytest.mark.parametrize("face", FACES)
    def test_in_such_a_folder_a_reader_never_misses_what_a_writer_has_written_meanwhile(
        self, make: Make, public_folder: pathlib.Path, face: str
    ) -> None:
        path = public_folder / "store.db"
        path.touch()
        path.chmod(0o644)
        make_sample(path, 1)
        public_folder.chmod(0o755)
        is_read, is_written = os.pipe(), os.pipe()

        def read_before_and_after() -> list[Any]:
            with _closing_all(face) as make_one:
                reader = make_one(path, read_only=True)
                answers = [reader.list_keys("run"), reader.get("run", "later")]
                os.write(is_read[1], b"x")
                os.read(is_written[0], 1)
                return [*answers, reader.list_keys("run"), reader.get("run", "later")]

        def write() -> None:
            os.read(is_read[0], 1)
            try:
                with ContextStore(path) as writer:
                    writer.put("run", "later", 1)
            finally:
                os.write(is_written[1], b"x")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            answers = as_nobody(read_before_and_after)
        finally:
            os.write(is_read[1], b"x")
            thread.join()
            for end in (*is_read, *is_written):
                os.close(end)
        assert answers == [["bytes", "node-000"], None, ["bytes", "later", "node-000"], 1]
