"""The file: what other tools see in it, and whose it and its side files are.

Results are read back through plain ``sqlite3`` and plain files. Tests are written in blocking form and run on both
faces where a face could matter.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import shutil
import stat
import struct
from typing import Any

import pytest

from contextstore import ContextStore, ContextStoreError, ReadOnlyStoreError, StorageError, StoreNotFoundError
from contextstore._sqlite import schema as _schema

from ..conftest import FACES
from .files import (
    ALL_FILES,
    NOBODY,
    Make,
    _closing_all,
    as_nobody,
    left_as_it_was,
    make_sample,
    mode_of,
    names_in,
    plain,
    refused,
)

pytestmark = pytest.mark.disk


class TestWhatOtherToolsSee:
    def test_json_is_text_and_bytes_are_a_blob(self, make_either: Make, file_path: pathlib.Path) -> None:
        values = {"dict": {"a": [1, None, "é"]}, "null": None, "text": "x", "float": 1.0, "bytes": b"\x00\xff"}
        with make_either(file_path) as store:
            for node, value in values.items():
                store.put("run", node, value)
                store.put_global(node, value)
        with plain(file_path) as connection:
            for node, value in values.items():
                for query, parameters in [
                    ("SELECT value, typeof(value) FROM outputs WHERE flow_run_id = ? AND node_id = ?", ("run", node)),
                    ("SELECT value, typeof(value) FROM globals WHERE key = ?", (node,)),
                ]:
                    ((stored, kind),) = connection.execute(query, parameters).fetchall()
                    if isinstance(value, bytes):
                        assert (stored, kind) == (value, "blob")
                    else:
                        assert (json.loads(stored), kind) == (value, "text")

    def test_sqls_own_json_functions_work_on_the_values(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store:
            store.put("run", "node", {"a": [1, {"b": "é"}]})
        with plain(file_path) as connection:
            assert connection.execute("SELECT json_extract(value, '$.a[1].b') FROM outputs").fetchall() == [("é",)]

    def test_the_views_have_the_columns_of_the_contract(self, make: Make, file_path: pathlib.Path) -> None:
        make(file_path).open()
        with plain(file_path) as connection:
            columns = [row[0] for row in connection.execute("SELECT * FROM outputs").description]
            assert columns[:4] == ["flow_run_id", "node_id", "value", "written_at"]
            columns = [row[0] for row in connection.execute("SELECT * FROM globals").description]
            assert set(columns) >= {"key", "value", "version", "written_at"}

    def test_written_at_is_iso_text_in_utc(self, make: Make, file_path: pathlib.Path) -> None:
        begin = datetime.datetime.now(datetime.UTC)
        with make(file_path) as store:
            store.put("run", "node", 1)
            store.upsert_global("key", 1)
        end = datetime.datetime.now(datetime.UTC)
        with plain(file_path) as connection:
            for view in ("outputs", "globals"):
                ((text, kind),) = connection.execute(f"SELECT written_at, typeof(written_at) FROM {view}").fetchall()
                assert kind == "text"
                assert text.endswith("Z")
                written_at = datetime.datetime.fromisoformat(text)
                assert written_at.utcoffset() == datetime.timedelta(0)
                millisecond = datetime.timedelta(milliseconds=1)
                assert begin - millisecond <= written_at <= end + millisecond

    def test_the_version_of_a_global_is_seen(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store:
            store.upsert_global("key", 1)
            store.upsert_global("key", 2)
        with plain(file_path) as connection:
            assert connection.execute("SELECT key, value, version FROM globals").fetchall() == [("key", "2", 2)]

    def test_another_program_reads_while_the_store_is_open(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store, plain(file_path) as connection:
            for i in range(20):
                store.put("run", str(i), i)
                count = "SELECT count(*), max(CAST(value AS INTEGER)) FROM outputs"
                assert connection.execute(count).fetchall() == [(i + 1, i)]

    def test_the_file_says_whose_it_is(self, make: Make, file_path: pathlib.Path) -> None:
        make(file_path).open()
        header = file_path.read_bytes()[:100]
        assert header[68:72] == b"CtSt"
        assert struct.unpack(">I", header[60:64]) == (_schema.SCHEMA_VERSION,)
        with plain(file_path) as connection:
            assert connection.execute("PRAGMA application_id").fetchall() == [(0x43745374,)]
            assert connection.execute("PRAGMA user_version").fetchall() == [(_schema.SCHEMA_VERSION,)]
            assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_after_close_all_is_in_the_one_file(self, make_either: Make, file_path: pathlib.Path) -> None:
        with make_either(file_path) as store:
            store.put("run", "node", "value")
            assert (file_path.parent / "store.db-wal").exists()
        assert names_in(file_path.parent) == ["store.db", "store.db-lock"]
        alone = file_path.with_name("alone.db")
        shutil.copy(file_path, alone)
        assert make_either(alone).get("run", "node") == "value"


def modes_in(folder: pathlib.Path) -> dict[str, str]:
    return {name: oct(stat.S_IMODE((folder / name).stat().st_mode)) for name in names_in(folder)}


class TestModes:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)
    def test_a_new_file_and_its_side_files_are_their_owners_only(
        self, make: Make, file_path: pathlib.Path, umask: int
    ) -> None:
        before = os.umask(umask)
        try:
            with make(file_path) as store:
                store.put("run", "node", 1)
                modes = modes_in(file_path.parent)
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(ALL_FILES, "0o600")

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
    def test_an_empty_file_becomes_a_store_and_keeps_its_mode(
        self, make_either: Make, file_path: pathlib.Path, mode: int
    ) -> None:
        file_path.touch()
        file_path.chmod(mode)
        inode = file_path.stat().st_ino
        with make_either(file_path) as store:
            store.put("run", "node", 1)
            assert modes_in(file_path.parent) == dict.fromkeys(ALL_FILES, oct(mode))
        assert file_path.stat().st_ino == inode
        assert make_either(file_path).get("run", "node") == 1

    def test_an_empty_file_is_no_store_without_create(self, make: Make, file_path: pathlib.Path) -> None:
        file_path.touch()
        with left_as_it_was(file_path.parent):
            refused(make, file_path, StoreNotFoundError, "which is empty", create=False)

    def test_a_store_whose_mode_was_changed_keeps_it(self, make: Make, file_path: pathlib.Path) -> None:
        make_sample(file_path, 1)
        file_path.chmod(0o660)
        (file_path.parent / "store.db-lock").unlink()
        with make(file_path) as store:
            store.put("run", "another", 1)
            assert modes_in(file_path.parent) == dict.fromkeys(ALL_FILES, "0o660")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
    def test_the_side_files_belong_to_the_owner_of_the_file(self, make: Make, public_folder: pathlib.Path) -> None:
        path = public_folder / "store.db"
        path.touch(0o600)
        os.chown(path, NOBODY, NOBODY)
        with make(path) as store:
            store.put("run", "node", 1)
            owners = {name: (public_folder / name).stat().st_uid for name in names_in(public_folder)}
            assert owners == dict.fromkeys(ALL_FILES, NOBODY)

        def put_as_owner() -> None:
            with ContextStore(path) as mine:
                mine.put("run", "mine", 2)

        as_nobody(put_as_owner)
        assert make(path).get("run", "mine") == 2


def refused_to_nobody(target: Any, face: str, **options: Any) -> ContextStoreError:
    """How opening is refused to somebody without rights; nothing in the folder changes."""

    def try_to_open() -> None:
        with _closing_all(face) as make_one:
            make_one(target, **options).open()

    with left_as_it_was(pathlib.Path(target).parent), pytest.raises(StorageError) as caught:
        as_nobody(try_to_open)
    assert str(target) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("face", FACES)
class TestPermissions:
    def test_a_file_that_cannot_be_written_is_refused(self, public_folder: pathlib.Path, face: str) -> None:
        path = public_folder / "store.db"
        make_sample(path, 1)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o444):
            error = refused_to_nobody(path, face)
        assert type(error) is ReadOnlyStoreError
        assert "read_only=True" in str(error)

    def test_an_empty_file_that_cannot_be_written_is_refused(self, public_folder: pathlib.Path, face: str) -> None:
        path = public_folder / "store.db"
        path.touch()
        with mode_of(path, 0o444):
            assert type(refused_to_nobody(path, face)) is ReadOnlyStoreError

    def test_a_new_file_in_a_folder_that_cannot_be_written_is_refused(
        self, public_folder: pathlib.Path, face: str
    ) -> None:
        with mode_of(public_folder, 0o555):
            error = refused_to_nobody(public_folder / "store.db", face)
        assert type(error) is ReadOnlyStoreError
        assert "permission" in str(error).lower()

    def test_a_store_in_a_folder_that_cannot_be_written_is_refused(
        self, public_folder: pathlib.Path, face: str
    ) -> None:
        path = public_folder / "store.db"
        make_sample(path, 1)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o666), mode_of(public_folder, 0o555):
            error = refused_to_nobody(path, face)
        assert type(error) is ReadOnlyStoreError
        assert "read_only=True" in str(error)

    @pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=str)
    def test_a_file_that_cannot_be_read_is_refused(
        self, public_folder: pathlib.Path, face: str, options: dict[str, Any]
    ) -> None:
        path = public_folder / "store.db"
        make_sample(path, 1)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o000):
            assert "permission" in str(refused_to_nobody(path, face, **options)).lower()

    @pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=str)
    def test_a_folder_that_cannot_be_entered_is_refused(
        self, public_folder: pathlib.Path, face: str, options: dict[str, Any]
    ) -> None:
        make_sample(public_folder / "store.db", 1)
        with mode_of(public_folder, 0o600):
            assert "permission" in str(refused_to_nobody(public_folder / "store.db", face, **options)).lower()
