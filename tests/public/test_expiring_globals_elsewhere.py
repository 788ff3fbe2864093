"""Expiries, and how far the versions of freed globals have come, in copies, backups and exports."""

from __future__ import annotations

import datetime
import io
import pathlib
from collections.abc import Iterable

import pytest

from contextstore import (
    ContextStore,
    ExportedFreedVersion,
    ExportedGlobal,
    VersionConflictError,
    copy,
    export_records,
    import_records,
    restore,
)
from contextstore.cli.ndjson import ExchangeError, Reader, Selection, Writer

from .conftest import Location
from .test_transfer import ENGINES

THEN = datetime.datetime(2026, 3, 1, 5, 0, 0, 123456, tzinfo=datetime.UTC)
LATER = THEN + datetime.timedelta(days=3650)
GONE = ExportedGlobal("gone", "json", b"1", 3, THEN, THEN + datetime.timedelta(seconds=1))
STAYS = ExportedGlobal("stays", "json", b"1", 2, THEN, LATER)
FREED = ExportedFreedVersion(41)


def fill(store: ContextStore) -> None:
    import_records(store, [GONE, STAYS, FREED])


def assert_is_as_filled(store: ContextStore) -> None:
    assert list(export_records(store)) == [GONE, STAYS, FREED]
    entry = store.get_global_entry("stays")
    assert entry is not None
    assert (entry.expires_at, store.list_global_keys()) == (LATER, ["stays"])
    assert store.upsert_global("new", 1) == 42
    assert store.upsert_global("gone", 1, expected_version=0) == 4


@pytest.mark.parametrize("one", ENGINES)
@pytest.mark.parametrize("other", ENGINES)
def test_a_copy_has_them_and_is_proved_equal_again(location: Location, one: str, other: str) -> None:
    with ContextStore(location(one)) as source, ContextStore(location(other)) as target:
        fill(source)
        report = copy(source, target)
        assert report == copy(source, target)
        assert report.globals == 2
        assert_is_as_filled(target)


def test_a_copy_without_how_far_versions_had_come_would_not_be_equal(location: Location) -> None:
    with ContextStore(location("file")) as source, ContextStore(location("memory")) as target:
        fill(source)
        digest = copy(source, target).digest
        import_records(source, [ExportedFreedVersion(42)])
        assert copy(source, target).digest != digest
        assert target.upsert_global("new", 1) == 43


def test_a_backup_has_them(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "store.db") as source:
        fill(source)
        source.backup(tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "restored.db")
    with ContextStore(tmp_path / "restored.db") as target:
        assert_is_as_filled(target)


def written(records: Iterable[ExportedGlobal | ExportedFreedVersion]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file.write, "store", "0", Selection(None, "", True))
    for record in records:
        writer.add(record)
    writer.finish()
    return file.getvalue()


class TestLines:
    def test_have_them(self) -> None:
        text = written([GONE, STAYS, FREED])
        assert b'"expires_at":"2026-03-01T05:00:01.123456Z","value":1' in text
        assert b'{"type":"freed","version":41,' in text
        assert list(Reader(io.BytesIO(text))) == [GONE, STAYS, FREED]

    def test_of_globals_that_stay_are_what_they_were(self) -> None:
        assert b"expires_at" not in written([ExportedGlobal("stays", "json", b"1", 2, THEN)])

    def test_of_what_is_deleted_do_not_expire(self) -> None:
        text = written([ExportedGlobal("gone", None, None, 2, THEN, LATER)])
        with pytest.raises(ExchangeError, match="what is deleted has no value, and does not expire"):
            list(Reader(io.BytesIO(text)))


class TestAnImport:
    def test_twice_changes_nothing_also_of_what_has_expired(self, location: Location) -> None:
        with ContextStore(location("file")) as store:
            fill(store)
            fill(store)
            assert_is_as_filled(store)

    def test_of_another_expiry_is_a_conflict(self, location: Location) -> None:
        with ContextStore(location("file")) as store:
            fill(store)
            with pytest.raises(VersionConflictError):
                import_records(store, [ExportedGlobal("stays", "json", b"1", 2, THEN)])

    def test_replaces_what_has_expired_here_by_a_later_version(self, location: Location) -> None:
        with ContextStore(location("file")) as store:
            fill(store)
            import_records(store, [ExportedGlobal("gone", "json", b"2", 4, THEN)])
            assert store.get_global("gone") == 2

    @pytest.mark.parametrize(
        "record",
        [
            ExportedGlobal("key", None, None, 1, THEN, LATER),
            ExportedGlobal("key", "json", b"1", 1, THEN, LATER.replace(tzinfo=None)),
            ExportedFreedVersion(0),
            ExportedFreedVersion(2**63),
        ],
    )
    def test_of_what_no_store_could_have_given_is_refused(
        self, location: Location, record: ExportedGlobal | ExportedFreedVersion
    ) -> None:
        with ContextStore(location("file")) as store:
            with pytest.raises(ValueError, match=r"expires_at|version"):
                import_records(store, [record])
            assert list(export_records(store)) == []
