"""What is said of runs goes along with them: by ``copy``, an export and import, a backup. A check finds its damage."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import sqlite3
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    CorruptStoreError,
    ExportedRun,
    RunAlreadyExistsError,
    RunInfo,
    copy,
    export_records,
    import_records,
    restore,
)
from contextstore.cli.ndjson import Reader, Selection, Writer

from ..conftest import new_location

PLACES = [("file", "file"), ("file", "postgres"), ("postgres", "file"), ("postgres", "postgres")]


@pytest.fixture(params=PLACES, ids="-to-".join)
def places(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> list[Any]:
    """Two places of stores."""
    found: list[Any] = []
    for number, engine in enumerate(request.param):
        where = tmp_path / f"{number}.db" if engine == "file" else new_location(engine, request)
        found.append(where)
    return found


def filled(store: ContextStore) -> None:
    begun = store.run("begun")
    begun.begin(attributes={"a": 1, "b": 1.0, "c": True, "d": "x\u2028é", "e": -0.0, "f": 2**64 - 1}, parent="nobody")
    begun.update(state="failed", error="it broke\nonce more", attributes={"a": None, "g": "new"})
    store.run("only updated").update(attributes={"k": "v"})
    store.run("with outputs").begin()
    store.put("with outputs", "node", 1)
    store.run("nothing said").put("node", 1)
    store.run("made").update()
    store.run("gone").begin()
    store.delete_run("gone")


def infos(store: ContextStore) -> list[RunInfo]:
    return store.list_runs()


def texts(store: ContextStore) -> list[str]:
    return [repr(info.attributes) for info in infos(store)]


def test_copy_takes_it_along(places: list[Any]) -> None:
    with ContextStore(places[0]) as source, ContextStore(places[1]) as target:
        filled(source)
        report = copy(source, target)
        assert (report.runs, report.tombstones) == (5, 1)
        assert infos(target) == infos(source)
        assert texts(target) == texts(source)
        assert copy(source, target) == report
        assert target.check().problems == ()
        target.run("begun").begin(attributes={"a": 1, "b": 1.0, "c": True, "d": "x\u2028é", "e": -0.0, "f": 2**64 - 1})
        with pytest.raises(RunAlreadyExistsError):
            target.run("begun").begin(attributes={"a": 1})


def test_a_copy_that_is_made_again_takes_what_was_said_since(places: list[Any]) -> None:
    with ContextStore(places[0]) as source, ContextStore(places[1]) as target:
        filled(source)
        copy(source, target)
        source.run("begun").update(state="completed", error="", attributes={"h": 1, "g": None})
        copy(source, target)
        assert infos(target) == infos(source)
        assert target.check().problems == ()


def test_an_import_takes_it_along_through_lines(places: list[Any]) -> None:
    with ContextStore(places[0]) as source, ContextStore(places[1]) as target:
        filled(source)
        file = io.BytesIO()
        writer = Writer(file.write, "here", "0", Selection(None, "", True))
        for record in export_records(source):
            writer.add(record)
        totals = writer.finish()
        for _ in range(2):
            file.seek(0)
            reader = Reader(file)
            report = import_records(target, reader)
            assert (report.runs, report.tombstones, report.conflicts) == (5, 1, 0)
            assert reader.totals == totals
        assert infos(target) == infos(source)
        assert texts(target) == texts(source)
        assert list(export_records(target)) == list(export_records(source))
        assert target.check().problems == ()


def test_an_import_replaces_nothing_that_was_said_here(places: list[Any]) -> None:
    with ContextStore(places[0]) as source, ContextStore(places[1]) as target:
        filled(source)
        target.run("begun").begin(attributes={"other": 1})
        target.put("nothing said", "other", 2)
        with pytest.raises(RunAlreadyExistsError):
            import_records(target, export_records(source))
        problems: list[Any] = []
        report = import_records(target, export_records(source), on_conflict=problems.append)
        assert report.conflicts == 1
        assert [(problem.kind, problem.key) for problem in problems] == [("run", ("begun",))]
        info = target.get_run_info("begun")
        assert info is not None
        assert info.attributes == {"other": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"state": "done"}, "state"),
        ({"attributes": {"a": None}}, "attributes"),
        ({"attributes": {str(number): number for number in range(65)}}, "attributes"),
        ({"parent": ""}, "parent"),
        ({"begun_attributes": "0" * 64}, "begun_attributes"),
        ({"begun_attributes": "x"}, "begun_attributes"),
        ({"failures": -1}, "failures"),
        ({"deleted_at": "then", "state": "failed"}, "deleted"),
    ],
    ids=repr,
)
def test_a_record_of_what_nobody_can_have_said_is_refused(wrong: dict[str, Any], message: str) -> None:
    with ContextStore(":memory:") as store:
        store.put("run", "node", 1)
        (run, *_) = export_records(store)
        assert isinstance(run, ExportedRun)
        if "deleted_at" in wrong:
            wrong = {**wrong, "deleted_at": run.created_at}
        with pytest.raises((ValueError, TypeError), match=message):
            import_records(store, [dataclasses.replace(run, **wrong)])


def test_a_backup_has_it(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "one.db") as store:
        filled(store)
        store.backup(tmp_path / "backup.db")
        before = infos(store)
    restore(tmp_path / "backup.db", tmp_path / "two.db")
    with ContextStore(tmp_path / "two.db") as restored:
        assert infos(restored) == before
        assert restored.check().problems == ()


DAMAGE = [
    "state = 2",
    "error = 'other'",
    "attributes = '{}'",
    "parent = 'p'",
    "begun_at = begun_at + 1",
    "checksum = 1",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_changed_by_another_hand_is_told_and_never_given(tmp_path: pathlib.Path, damage: str) -> None:
    with ContextStore(tmp_path / "a.db") as store:
        store.run("run").begin(attributes={"a": 1})
        store.run("other").begin()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute(f"UPDATE flow_runs SET {damage} WHERE flow_run_id = 'run'")
    connection.close()
    with ContextStore(tmp_path / "a.db") as store, ContextStore(tmp_path / "b.db") as target:
        for call in (
            lambda: store.get_run_info("run"),
            store.list_runs,
            store.run("run").begin,
            lambda: store.run("run").update(state="failed"),
            lambda: copy(store, target),
        ):
            with pytest.raises(CorruptStoreError) as caught:
                call()
            assert caught.value.flow_run_id == "run"
        assert ("run", ("run",)) in {(problem.kind, problem.key) for problem in store.check().problems}
        assert store.get_run_info("other") is not None
        assert copy(store, target, damaged="skip").skipped[0].key == ("run",)
        store.delete_run("run")
        assert store.check().problems == ()


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM run_attributes", "UPDATE run_attributes SET value = '2'", "UPDATE run_attributes SET run = 99"],
)
def test_a_check_tells_if_attributes_cannot_be_found_by_their_rows(tmp_path: pathlib.Path, damage: str) -> None:
    with ContextStore(tmp_path / "a.db") as store:
        store.run("run").begin(attributes={"a": 1})
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute(damage)
    connection.close()
    with ContextStore(tmp_path / "a.db") as store:
        problems = store.check().problems
        assert ("run", ("run",)) in {(problem.kind, problem.key) for problem in problems}
        assert (len(problems) > 1) == ("DELETE" not in damage)
