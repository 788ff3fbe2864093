"""Where a store may be: its folder, its name, links to it; and what cannot be meant is refused."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import socket
import sqlite3
import threading
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, IncompatibleStoreError, StorageError, StoreNotFoundError

from ..support.mounts import run_with_mounts
from .files import ALL_FILES, Make, left_as_it_was, make_sample, names_in, plain, refused

pytestmark = pytest.mark.disk

# --------------------------------------------------------------------------------------------------------------- places


class TestPlaces:
    def test_a_folder_is_refused(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        with left_as_it_was(tmp_path):
            refused(make_either, folder, IncompatibleStoreError, "is a folder; name a file in it")
            refused(make_either, f"{folder}", IncompatibleStoreError, "is a folder")
            refused(make_either, folder, IncompatibleStoreError, "is a folder", read_only=True)

    def test_a_fifo_is_refused_and_nobody_waits_for_its_other_end(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        os.mkfifo(file_path)
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, IncompatibleStoreError, "not a regular file")
            refused(make_either, file_path, IncompatibleStoreError, "not a regular file", read_only=True)

    def test_a_socket_is_refused(self, make: Make, public_folder: pathlib.Path) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(public_folder / "socket"))
            with left_as_it_was(public_folder):
                refused(make, public_folder / "socket", IncompatibleStoreError, "not a regular file")

    @pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
    def test_a_device_is_refused(self, make: Make, device: str) -> None:
        before = os.listdir("/dev")
        refused(make, device, IncompatibleStoreError, "not a regular file")
        assert os.listdir("/dev") == before

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_a_missing_folder_is_named_and_not_made(
        self, make_either: Make, tmp_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        with left_as_it_was(tmp_path):
            error = refused(
                make_either, tmp_path / "no" / "folder" / "store.db", StoreNotFoundError, "create it first", **options
            )
        assert isinstance(error, FileNotFoundError)
        assert f"no folder {tmp_path}/no/folder" in str(error)

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_a_file_on_the_way_is_refused(self, make: Make, tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
        (tmp_path / "file").write_text("text")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "file" / "store.db", StoreNotFoundError, "part of its path is a file", **options)
            refused(make, tmp_path / "file" / "a" / "store.db", StoreNotFoundError, "part of its path", **options)

    @pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}], ids=str)
    def test_a_missing_file_is_not_made_unless_it_may_be(
        self, make_either: Make, file_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        with left_as_it_was(file_path.parent):
            error = refused(make_either, file_path, StoreNotFoundError, "no store at", **options)
        assert isinstance(error, FileNotFoundError)

    def test_a_store_that_is_there_needs_no_create(self, make_either: Make, file_path: pathlib.Path) -> None:
        make_sample(file_path, 1)
        with make_either(file_path, create=False) as store:
            store.put("run", "new", 1)

    def test_a_failed_opening_is_tried_anew(self, make_either: Make, file_path: pathlib.Path) -> None:
        store = make_either(file_path, create=False)
        with pytest.raises(StoreNotFoundError):
            store.get("run", "node-000")
        expected = make_sample(file_path, 1)
        assert store.get("run", "node-000") == expected["node-000"]

    def test_a_link_in_place_of_the_lock_file_is_not_followed(self, make: Make, file_path: pathlib.Path) -> None:
        (file_path.parent / "store.db-lock").symlink_to(file_path.parent / "precious")
        with left_as_it_was(file_path.parent):
            refused(make, file_path, StorageError, "store.db-lock|ELOOP")


class TestMounts:
    @pytest.mark.parametrize("name", ["store.db", "with space and \\.db"])
    def test_a_file_that_is_mounted_by_itself_is_refused_and_its_folder_is_not(
        self, tmp_path: pathlib.Path, name: str
    ) -> None:
        program = """
            folder, other, name = sys.argv[1:]
            with ContextStore(f"{folder}/{name}") as store:
                store.put("run", "node", 1)
            open(f"{other}/{name}", "w").close()
            mount("--bind", f"{folder}/{name}", f"{other}/{name}")
            for options in ({}, {"read_only": True}):
                try:
                    ContextStore(f"{other}/{name}", **options).open()
                except IncompatibleStoreError as error:
                    say("mount its folder" in str(error), sorted(os.listdir(other)) == [name])
            subprocess.run(["umount", f"{other}/{name}"], check=True)
            mount("--bind", folder, other)
            with ContextStore(f"{other}/{name}") as store:
                say(store.get("run", "node"))
        """
        (tmp_path / "here").mkdir()
        (tmp_path / "there").mkdir()
        said = run_with_mounts(program, tmp_path / "here", tmp_path / "there", name)
        assert said == ["True True", "True True", "1"]


# ---------------------------------------------------------------------------------------------------------------- links


class TestLinks:
    def test_a_link_leads_to_the_one_store(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        real, links = tmp_path / "real", tmp_path / "links"
        real.mkdir()
        links.mkdir()
        make_either(real / "store.db").close()
        (links / "link.db").symlink_to(real / "store.db")
        with make_either(links / "link.db") as by_link, make_either(real / "store.db") as by_name:
            by_link.put("run", "by link", 1)
            by_name.put("run", "by name", 2)
            assert by_link.list_keys("run") == by_name.list_keys("run") == ["by link", "by name"]
            assert (by_link.get("run", "by name"), by_name.get("run", "by link")) == (2, 1)
            assert names_in(links) == ["link.db"]
            assert names_in(real) == ALL_FILES

    def test_both_names_share_the_lock(self, make: Make, tmp_path: pathlib.Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "link.db").symlink_to(tmp_path / "store.db")
        stores = [make(tmp_path / "store.db"), make(tmp_path / "other" / "link.db")]

        def put_many(store: Any) -> None:
            for i in range(50):
                store.put("run", f"{stores.index(store)}-{i}", i)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(put_many, stores))
        assert len(stores[0].list_keys("run")) == 100
        assert names_in(tmp_path / "other") == ["link.db"]

    def test_a_linked_folder_is_followed(self, make: Make, tmp_path: pathlib.Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        make(tmp_path / "link" / "store.db").put("run", "node", 1)
        assert make(tmp_path / "real" / "store.db").get("run", "node") == 1

    def test_a_dangling_link_makes_the_store_that_it_leads_to(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        real, links = tmp_path / "real", tmp_path / "links"
        real.mkdir()
        links.mkdir()
        (links / "link.db").symlink_to("../real/store.db")
        make_either(links / "link.db").put("run", "node", 1)
        assert make_either(real / "store.db").get("run", "node") == 1
        assert names_in(links) == ["link.db"]
        assert (links / "link.db").is_symlink()

    @pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}], ids=str)
    def test_a_dangling_link_is_a_missing_store(
        self, make: Make, tmp_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        (tmp_path / "link.db").symlink_to("store.db")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "link.db", StoreNotFoundError, "no store at", **options)

    def test_a_link_into_a_missing_folder_names_that_folder(self, make: Make, tmp_path: pathlib.Path) -> None:
        (tmp_path / "link.db").symlink_to("missing/store.db")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "link.db", StoreNotFoundError, f"no folder {tmp_path}/missing")

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_a_link_to_itself_is_refused(self, make: Make, tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
        (tmp_path / "link.db").symlink_to("link.db")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "link.db", StorageError, "ELOOP", **options)


# ---------------------------------------------------------------------------------------------------------------- names

NAMES = [
    "with space.db",
    "a?b.db",
    "a?mode=memory&cache=shared",
    "a?immutable=1",
    "a#b.db",
    "100%.db",
    "a%20b%2Fc%00.db",
    'it\'s "quoted" `so`.db',
    "new\nline\ttab.db",
    "\x01\x7f.db",
    "ü-雪-\U0001f600.db",
    "e\u0301 not composed.db",
    "back\\slash.db",
    "-dash.db",
    "~",
    "$HOME {0} %s",
    ".hidden",
    "no suffix",
    "store.db-wal",
    os.fsdecode(b"undecodable \xff\xfe.db"),
]


def path_of_length(folder: pathlib.Path, length: int) -> pathlib.Path:
    while (left := length - len(f"{folder}/store.db")) > 200:
        folder = folder / ("d" * 100)
    folder = folder / ("d" * (left - 1))
    folder.mkdir(parents=True)
    assert len(str(folder / "store.db")) == length
    return folder / "store.db"


@pytest.mark.each_input_once
class TestNames:
    @pytest.mark.parametrize("name", NAMES, ids=ascii)
    def test_any_name_is_that_of_the_file(self, make: Make, tmp_path: pathlib.Path, name: str) -> None:
        with make(tmp_path / name) as store:
            store.put("run", "node", "right")
        assert names_in(tmp_path) == sorted([name, f"{name}-lock"])
        for target in (tmp_path / name, str(tmp_path / name)):
            for options in ({"create": False}, {"read_only": True}):
                with make(target, **options) as store:
                    assert store.get("run", "node") == "right"
        with plain(os.fsencode(tmp_path / name)) as connection:
            assert connection.execute("SELECT value FROM outputs").fetchall() == [('"right"',)]

    @pytest.mark.parametrize("name", ["file:x.db", ":memory:", "file::memory:?cache=shared"])
    def test_a_path_is_always_a_path(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make_either(pathlib.Path(name)).put("run", "node", 1)
        assert name in names_in(tmp_path)
        assert make_either(pathlib.Path(name)).get("run", "node") == 1

    def test_a_name_may_be_as_long_as_its_side_files_allow(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        longest = 255 - len("-journal")
        with make_either(tmp_path / ("x" * longest)) as store:
            store.put("run", "node", 1)

    @pytest.mark.parametrize("length", [248, 251, 252, 255, 256, 5000])
    def test_a_longer_name_is_refused_and_nothing_is_left(
        self, make_either: Make, tmp_path: pathlib.Path, length: int
    ) -> None:
        with left_as_it_was(tmp_path):
            refused(make_either, tmp_path / ("x" * length), StorageError, "too long")

    def test_a_path_may_be_as_long_as_sqlite_takes(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        path = path_of_length(tmp_path, 504)
        with make_either(path) as store:
            store.put("run", "node", 1)
        with make_either(path, read_only=True) as store:
            assert store.get("run", "node") == 1

    @pytest.mark.parametrize("length", [505, 512, 600, 3000])
    def test_a_longer_path_is_refused_and_nothing_is_left(
        self, make_either: Make, tmp_path: pathlib.Path, length: int
    ) -> None:
        path = path_of_length(tmp_path, length)
        with contextlib.suppress(sqlite3.OperationalError), plain(path):
            pytest.skip(f"SQLite {sqlite3.sqlite_version} takes paths of {length} bytes")
        with left_as_it_was(tmp_path):
            refused(make_either, path, StorageError, "too long")

    def test_a_relative_path_is_taken_when_the_store_is_made(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        monkeypatch.chdir(tmp_path / "one")
        stores = [make_either("a.db"), make_either(pathlib.Path("b.db")), make_either("sqlite:///c.db")]
        stores.append(make_either("../one/./d.db"))
        monkeypatch.chdir(tmp_path / "two")
        for store in stores:
            store.put("run", "node", 1)
        assert names_in(tmp_path / "two") == []
        assert names_in(tmp_path / "one")[::4] == ["a.db", "b.db", "c.db", "d.db"]

    def test_urls_name_relative_and_absolute_paths(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make_either("sqlite:///relative.db").put("run", "node", 1)
        make_either(f"sqlite:///{tmp_path}/absolute.db").put("run", "node", 2)
        make_either("sqlite:///with%20space%23.db").put("run", "node", 3)
        make_either("sqlite:///%FF.db").put("run", "node", 4)
        assert f"sqlite:///{tmp_path}".startswith("sqlite:////")
        for name, value in [
            ("relative.db", 1),
            ("absolute.db", 2),
            ("with space#.db", 3),
            (os.fsdecode(b"\xff.db"), 4),
        ]:
            assert make_either(tmp_path / name, create=False).get("run", "node") == value

    def test_stores_in_memory_are_apart_and_leave_nothing(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        one, two = make_either(":memory:"), make_either("sqlite:///:memory:")
        one.put("run", "node", 1)
        assert two.get("run", "node") is None
        assert names_in(tmp_path) == []


class _PathOfBytes:
    def __fspath__(self) -> bytes:
        return b"store.db"


REFUSED_TARGETS: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "must not be empty"),
    ("sqlite://", ValueError, "sqlite:///"),
    ("sqlite:///", ValueError, "must not be empty"),
    ("sqlite://relative.db", ValueError, "no path after 'sqlite:///'"),
    ("sqlite://host/store.db", ValueError, "no path after 'sqlite:///'"),
    ("sqlite:///store.db?mode=ro", ValueError, "pass them as keywords"),
    ("sqlite:///a%00b.db", ValueError, "NUL"),
    ("file:store.db", ValueError, "known are"),
    ("file:///store.db", ValueError, "known are"),
    ("mysql://host/store", ValueError, "'mysql' is not known; known are a path"),
    ("://", ValueError, "known are"),
    ("a\0b", ValueError, "NUL"),
    (pathlib.Path("a\0b"), ValueError, "NUL"),
    ("lone \ud800 surrogate", ValueError, "surrogate"),
    (None, TypeError, "not NoneType"),
    (b"store.db", TypeError, "not bytes"),
    (5, TypeError, "not int"),
    (_PathOfBytes(), TypeError, "bytes"),
]
REFUSED_OPTIONS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"durability": "none"}, ValueError),
    ({"durability": None}, ValueError),
    ({"timeout": -1}, ValueError),
    ({"timeout": float("nan")}, ValueError),
    ({"timeout": float("inf")}, ValueError),
    ({"timeout": None}, TypeError),
    ({"timeout": "30"}, TypeError),
    ({"timeout": True}, TypeError),
    ({"cache_bytes": -1}, ValueError),
    ({"cache_bytes": 1.5}, TypeError),
    ({"cache_bytes": None}, TypeError),
    ({"max_value_bytes": 0}, ValueError),
    ({"max_value_bytes": "1"}, TypeError),
    ({"unknown": 1}, TypeError),
]


@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
class TestConstruction:
    @pytest.mark.parametrize(("target", "error", "match"), REFUSED_TARGETS, ids=lambda value: ascii(value)[:40])
    def test_a_target_that_cannot_be_meant_is_refused_at_construction(
        self,
        face: type,
        target: Any,
        error: type[Exception],
        match: str,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(error, match=match) as caught:
            face(target)
        assert not isinstance(caught.value, UnicodeError)
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize(("options", "error"), REFUSED_OPTIONS, ids=ascii)
    def test_an_option_that_cannot_be_meant_is_refused_by_name(
        self, face: type, options: dict[str, Any], error: type[Exception], file_path: pathlib.Path
    ) -> None:
        with pytest.raises(error, match=next(iter(options))):
            face(file_path, **options)
        assert not file_path.exists()

    def test_constructing_does_no_io(self, face: type, tmp_path: pathlib.Path) -> None:
        threads = threading.active_count()
        face(tmp_path / "store.db")
        face(tmp_path / "no" / "folder" / "store.db", create=False)
        face(tmp_path / "store.db", read_only=True)
        assert names_in(tmp_path) == []
        assert threading.active_count() == threads
