"""Backups that are verified before they get their name, and may overwrite an earlier one."""

from __future__ import annotations

import asyncio
import pathlib
import pickle
import stat
import threading
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    CorruptStoreError,
    StoreBusyError,
    TargetExistsError,
)
from contextstore._sqlite.worker import connection_here

from ..conftest import Target
from ..support.forked import Child
from .test_restore import IDLE, SIDE_FILES, killed, made, names_in, whose


@pytest.mark.usefixtures("embedded")
class TestBackup:
    async def test_what_is_damaged_is_named_and_no_copy_is_left(
        self, make_store: Target, tmp_path: pathlib.Path
    ) -> None:
        async with make_store() as store:
            await store.put_many("run", {"a": 1, "b": 2})
            engine: Any = store.plain if hasattr(store, "plain") else store
            core = engine._core
            await asyncio.to_thread(self._spoil, core)
            with pytest.raises(CorruptStoreError, match=r"1 problems, the first: output 'run' 'b': its checksum"):
                await store.backup(tmp_path / "copy" / "copy.db") if (tmp_path / "copy").mkdir() is None else None
            assert names_in(tmp_path / "copy") == []
            await store.backup(tmp_path / "copy" / "copy.db", check=False)
        with ContextStore(tmp_path / "copy" / "copy.db") as copy:
            assert copy.get("run", "a") == 1
            assert not copy.check().ok

    @staticmethod
    def _spoil(core: Any) -> None:
        """By the connection that has the store, since one in memory has no other."""
        spoilt = threading.Event()

        async def spoil() -> None:
            connection_here().execute("UPDATE node_outputs SET value = '3' WHERE node_id = 'b'")
            spoilt.set()

        core.session.engine.post_write(spoil)
        assert spoilt.wait(60)

    async def test_an_existing_file_is_overwritten_only_when_asked_to(self, store: Any, tmp_path: pathlib.Path) -> None:
        copy = made(tmp_path / "copy.db", "another")
        copy.chmod(0o640)
        await store.put_global("of", "this")
        with pytest.raises(TargetExistsError, match="overwrite=True") as caught:
            await store.backup(copy)
        assert isinstance(caught.value, FileExistsError)
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), TargetExistsError)
        assert whose(copy) == "another"
        await store.backup(copy, overwrite=True)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o640
        assert whose(copy) == "this"

    async def test_a_damaged_store_overwrites_no_good_backup(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        copy = made(tmp_path / "copy.db", "good")
        async with make_store() as store:
            await store.put_many("run", {"a": 1, "b": 2})
            core = getattr(store, "plain", store)._core
            await asyncio.to_thread(self._spoil, core)
            with pytest.raises(CorruptStoreError):
                await store.backup(copy, overwrite=True)
        assert whose(copy) == "good"

    async def test_what_is_left_of_the_overwritten_one_does_not_get_into_it(
        self, store: Any, tmp_path: pathlib.Path
    ) -> None:
        await store.put_global("of", "this")
        copy = killed(tmp_path / "copy.db")
        await store.backup(copy, overwrite=True)
        assert [name for name in names_in(tmp_path) if name.startswith("copy.db") and name.endswith(SIDE_FILES)] == []
        assert whose(copy) == "this"

    async def test_nor_what_is_left_of_one_that_was_deleted(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_global("of", "this")
        copy = killed(tmp_path / "copy.db")
        copy.unlink()
        await store.backup(copy)
        assert whose(copy) == "this"

    async def test_nothing_but_a_regular_file_is_overwritten(self, store: Any, tmp_path: pathlib.Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for name in ("folder", "link"):
            with pytest.raises(TargetExistsError, match="no regular file"):
                await store.backup(tmp_path / name, overwrite=True)
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.usefixtures("shared_target")
    async def test_the_store_itself_is_not_overwritten(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("of", "this")
            with pytest.raises(StoreBusyError, match="in use"):
                await store.backup(make_store.location, overwrite=True)
            await store.put_global("more", 1)

    async def test_a_store_that_another_process_has_open_is_not_overwritten(
        self, store: Any, tmp_path: pathlib.Path
    ) -> None:
        copy = made(tmp_path / "copy.db", "another")
        with Child(IDLE, copy) as child:
            assert child.hear() == "open"
            with pytest.raises(StoreBusyError, match="in use"):
                await store.backup(copy, overwrite=True)
            child.tell()
            assert child.hear() == "another"
        await store.put_global("of", "this")
        await store.backup(copy, overwrite=True)
        assert whose(copy) == "this"

    async def test_without_check_each_page_counts_once(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("run", {str(number): "x" * 50_000 for number in range(50)})
        for check, rounds in ((False, 1), (True, 2)):
            told: list[tuple[int, int]] = []
            copy = tmp_path / f"{check}.db"
            await store.backup(copy, check=check, progress=lambda *event: told.append(event))  # noqa: B023
            assert told == sorted(set(told))
            assert told[-1] == (copy.stat().st_size // 4096 * rounds,) * 2
