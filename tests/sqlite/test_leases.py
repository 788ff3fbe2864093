"""Leases in a file: their clock, and what a copy of the file has of them."""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import Iterator

import pytest

from contextstore import ContextStore, LeaseHeldError, LeaseLostError, copy, export_records, restore
from contextstore._process import boot_clock
from contextstore._sqlite import clock as sqlite_clock
from contextstore._sqlite import leases as sqlite_leases

from ..support.forked import run

HOUR = 3_600_000_000


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "store.db"


@pytest.fixture
def stores(path: pathlib.Path) -> Iterator[tuple[ContextStore, ContextStore]]:
    with ContextStore(path) as store, ContextStore(path) as other:
        yield store, other


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["ahead", "back"])
def test_no_setting_of_the_time_moves_a_lease(
    stores: tuple[ContextStore, ContextStore], by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores
    with store.lease("name", ttl=60) as lease:
        real = sqlite_clock.now
        monkeypatch.setattr(sqlite_leases, "now", lambda: real() + by)
        monkeypatch.setattr(sqlite_clock, "now", lambda: real() + by)
        with pytest.raises(LeaseHeldError), other.lease("name", wait=0.2):
            pytest.fail("held twice")
        assert [one.token for one in other.list_leases()] == [lease.token]
    with other.lease("name", wait=0) as next_one:
        assert next_one.token == 2


def test_after_a_start_of_the_machine_every_lease_is_free(
    stores: tuple[ContextStore, ContextStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores
    with store.lease("name", ttl=3600) as lease:
        monkeypatch.setattr(boot_clock, "boot", lambda: "another start")
        assert other.list_leases() == []
        with other.lease("name", wait=0) as next_one:
            assert next_one.token == 2
            with pytest.raises(LeaseLostError):
                store.run("run", lease=lease).put("node", 1)


def test_two_starts_of_one_machine_are_told_apart_and_one_is_not() -> None:
    program = """
        from contextstore._process import boot_clock
        say(boot_clock.boot(), boot_clock.now())
    """
    (said,) = run(program)
    boot, now = said.split()
    assert boot == boot_clock.boot() != ""
    assert 0 < int(now) <= boot_clock.now()


def test_a_backup_carries_the_counter_and_not_the_leases(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        with store.lease("a"):
            pass
        with store.lease("name", ttl=3600) as lease:
            store.backup(tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "restored.db")
    for copied in ("backup.db", "restored.db"):
        with ContextStore(tmp_path / copied) as other:
            assert other.list_leases() == []
            with other.lease("name", wait=0) as next_one:
                assert next_one.token == lease.token + 1


def test_a_copy_carries_the_counter_and_not_the_leases(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with ContextStore(path) as store, ContextStore(tmp_path / "copy.db") as target:
        store.put("run", "node", 1)
        for _ in range(3):
            with store.lease("a"):
                pass
        with store.lease("name", ttl=3600):
            copy(store, target)
            assert target.list_leases() == []
        with target.lease("name", wait=0) as lease:
            assert lease.token == 5


def test_an_export_says_nothing_of_leases(path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        store.put("run", "node", 1)
        with store.lease("name"):
            kinds = {type(record).__name__ for record in export_records(store)}
    assert kinds == {"ExportedRun", "ExportedOutput"}


def test_leases_that_were_given_back_leave_no_row(path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        for number in range(20):
            with store.lease(f"{number}"):
                pass
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM leases").fetchall() == [(0,)]
        assert connection.execute("SELECT value FROM store_facts WHERE name = 'last_token'").fetchall() == [(20,)]
    connection.close()
