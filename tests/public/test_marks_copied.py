"""Marks of deleted outputs, and tags, go along wherever a store goes: copied, exported, backed up, restored."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    ExportedOutput,
    OutputDeletedError,
    Problem,
    copy,
    export_records,
    import_records,
    restore,
)

from .conftest import Location
from .test_transfer import ENGINES

WAYS = [("file", "postgres"), ("postgres", "file"), ("memory", "memory")]


def fill(store: ContextStore) -> None:
    store.put_many("run", {f"{number:04}": number for number in range(700)})
    store.put("run", "tagged", b"abc", tag="image/png")
    store.put("marks alone", "a", 1)
    assert store.delete_outputs("run", [f"{number:04}" for number in range(0, 700, 2)]) == 350
    assert store.delete_outputs("marks alone", prefix="") == 1


def is_as_it_was(store: ContextStore) -> None:
    assert store.list_keys("run") == [*[f"{number:04}" for number in range(1, 700, 2)], "tagged"]
    assert [run.outputs for run in store.list_runs()] == [0, 351]
    entry = store.get_entry("run", "tagged")
    assert entry is not None
    assert entry.tag == "image/png"
    for run, node in [("run", "0000"), ("run", "0698"), ("marks alone", "a")]:
        with pytest.raises(OutputDeletedError):
            store.put(run, node, 1, exist_ok="keep")
    report = store.check()
    assert report.ok, report.problems


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_a_copy_has_them(location: Location, one: str, other: str) -> None:
    with ContextStore(location(one)) as source, ContextStore(location(other)) as target:
        fill(source)
        first = copy(source, target)
        assert first.outputs == 351
        is_as_it_was(target)
        assert copy(source, target) == first


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_copy_deletes_what_was_deleted_since(location: Location, engine: str) -> None:
    with ContextStore(location("file")) as source, ContextStore(location(engine)) as target:
        source.put_many("run", {"a": 1, "b": 2})
        copy(source, target)
        assert target.get("run", "a") == 1
        source.delete_outputs("run", ["a"])
        copy(source, target)
        assert target.get("run", "a") is None
        assert target.get_run("run") == {"b": 2}
        assert target.check().ok


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_deleted_in_the_target_alone_is_not_brought_back(location: Location, engine: str) -> None:
    with ContextStore(location("file")) as source, ContextStore(location(engine)) as target:
        source.put("run", "a", 1)
        copy(source, target)
        target.delete_outputs("run", ["a"])
        with pytest.raises(OutputDeletedError):
            copy(source, target)
        assert not target.exists("run", "a")


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_an_export_has_them(location: Location, one: str, other: str) -> None:
    with ContextStore(location(one)) as source, ContextStore(location(other)) as target:
        fill(source)
        records = list(export_records(source))
        report = import_records(target, records)
        assert (report.runs, report.outputs) == (2, 351)
        is_as_it_was(target)
        assert import_records(target, records) == report
        copy(source, target)  # which proves the two equal


def test_the_record_of_a_mark_has_no_value(location: Location) -> None:
    with ContextStore(location("memory")) as store:
        store.put("run", "a", 1, tag="x")
        store.delete_outputs("run", ["a"])
        _, record = export_records(store)
        assert isinstance(record, ExportedOutput)
        assert (record.node_id, record.encoding, record.data, record.tag) == ("a", None, None, None)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_import_deletes_nothing_that_is_here(location: Location, engine: str) -> None:
    with ContextStore(location("memory")) as source, ContextStore(location(engine)) as target:
        source.put_many("run", {"a": 1, "b": 2})
        source.delete_outputs("run", ["a"])
        target.put("run", "a", 1)
        with pytest.raises(AlreadyExistsError):
            import_records(target, export_records(source))
        conflicts: list[Problem] = []
        report = import_records(target, export_records(source), on_conflict=conflicts.append)
        assert [problem.key for problem in conflicts] == [("run", "a")]
        assert report.conflicts == 1
        assert target.get_run("run") == {"a": 1, "b": 2}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_import_does_not_bring_back_what_was_deleted_here(location: Location, engine: str) -> None:
    with ContextStore(location("memory")) as source, ContextStore(location(engine)) as target:
        source.put_many("run", {"a": 1, "b": 2})
        target.put("run", "a", 1)
        target.delete_outputs("run", ["a"])
        conflicts: list[Problem] = []
        import_records(target, export_records(source), on_conflict=conflicts.append)
        assert [problem.key for problem in conflicts] == [("run", "a")]
        assert target.get_run("run") == {"b": 2}


def test_a_backup_and_what_is_restored_of_it_have_them(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "store.db") as store:
        fill(store)
        store.backup(tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "restored.db")
    with ContextStore(tmp_path / "restored.db") as restored:
        is_as_it_was(restored)


@pytest.mark.parametrize("tag", ["", "é", "x" * 65, 1])
def test_a_record_with_what_can_be_no_tag_is_refused(location: Location, tag: Any) -> None:
    with ContextStore(location("memory")) as source, ContextStore(location("memory")) as target:
        source.put("run", "a", 1)
        run, output = export_records(source)
        assert isinstance(output, ExportedOutput)
        broken = ExportedOutput(output.flow_run_id, "a", "json", b"1", output.written_at, tag)
        with pytest.raises((TypeError, ValueError), match="tag must be"):
            import_records(target, [run, broken])
        assert target.list_runs() == []
