"""Names of files: what cannot be a store's, and what is somebody else's, is left as it is."""

from __future__ import annotations

import os
import pathlib

import pytest

from contextstore import ContextStore, IncompatibleStoreError

pytestmark = pytest.mark.disk


def test_a_file_with_two_names_is_refused_by_both_until_one_is_gone(tmp_path: pathlib.Path) -> None:
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    with ContextStore(one) as store:
        store.put("run", "node", 1)
        os.link(one, other)
        store.put("run", "late", 2)  # who has it open under its first name is not disturbed
    for name in (one, other):
        for read_only in (False, True):
            with pytest.raises(IncompatibleStoreError, match="hard links"):
                ContextStore(name, read_only=read_only).open()
    other.unlink()
    with ContextStore(one) as store:
        assert store.get_run("run") == {"node": 1, "late": 2}


@pytest.mark.parametrize("content", [b"text of another program\n", b"1 2 x\n", b"SQLite format 3\0"])
def test_a_lock_file_that_is_something_else_is_left_as_it_is(tmp_path: pathlib.Path, content: bytes) -> None:
    other = tmp_path / "app.db-lock"
    other.write_bytes(content)
    with pytest.raises(IncompatibleStoreError, match="choose another name"):
        ContextStore(tmp_path / "app.db").open()
    assert other.read_bytes() == content
    assert os.listdir(tmp_path) == ["app.db-lock"]


@pytest.mark.parametrize("suffix", ["-lock", "-wal", "-shm"])
def test_a_store_with_the_name_of_a_side_file_survives_a_store_beside_it(tmp_path: pathlib.Path, suffix: str) -> None:
    odd = tmp_path / f"door{suffix}"
    with ContextStore(odd) as store:
        store.put("run", "node", 1)
    with pytest.raises(IncompatibleStoreError, match="choose another name"):
        ContextStore(tmp_path / "door").open()
    with ContextStore(odd) as store:
        assert store.get("run", "node") == 1
