"""The ids of outputs rise with each commit and are never given twice, whoever deletes rows."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import random
import sqlite3

import pytest

from contextstore import ContextStore, StorageError
from contextstore._sqlite.deletion import json_array

from .files import plain

pytestmark = pytest.mark.disk

DELETIONS = {
    "all rows": "DELETE FROM node_outputs",
    "all rows, from the last on": "DELETE FROM node_outputs WHERE id IN (SELECT id FROM node_outputs ORDER BY id DESC)",
    "the last one": "DELETE FROM node_outputs WHERE id = (SELECT max(id) FROM node_outputs)",
    "the last ones": "DELETE FROM node_outputs WHERE id > (SELECT max(id) FROM node_outputs) - 3",
    "the rows of a run": "DELETE FROM node_outputs WHERE run = (SELECT max(run) FROM node_outputs)",
    "the mark": "DELETE FROM node_outputs WHERE run = 0",
    "all rows, where triggers may fire triggers": "PRAGMA recursive_triggers = 1; DELETE FROM node_outputs",
}


def ids(path: pathlib.Path, where: str = "run > 0") -> list[int]:
    with plain(path) as connection:
        query = f"SELECT id FROM node_outputs WHERE {where} ORDER BY id"
        return [one for (one,) in connection.execute(query).fetchall()]


def put_some(path: pathlib.Path, number: int) -> list[int]:
    """The ids that new outputs get: of a put, and of a group."""
    before = set(ids(path)) if path.exists() else set()
    with ContextStore(path) as store:
        store.put(f"run-{number}", "first", 1)
        store.put_many(f"run-{number}", {"second": 2, "third": 3})
    return sorted(set(ids(path)) - before)


@pytest.mark.parametrize("statements", DELETIONS.values(), ids=DELETIONS)
def test_a_shell_that_deletes_rows_brings_no_id_back(file_path: pathlib.Path, statements: str) -> None:
    given = put_some(file_path, 0)
    for number in range(1, 4):
        with plain(file_path) as connection:
            connection.executescript(statements)
        new = put_some(file_path, number)
        assert new == list(range(given[-1] + 1, given[-1] + 4))
        given += new
    with ContextStore(file_path) as store:
        assert {problem.kind for problem in store.check().problems} <= {"run"}  # one that has lost its outputs


def test_no_deletion_in_any_order_brings_an_id_back(file_path: pathlib.Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    given: list[int] = []
    with ContextStore(file_path) as store, plain(file_path) as shell:
        for number in range(200):
            store.put_many(f"run-{number}", {str(n): n for n in range(chance.randrange(1, 4))})
            serial = f"(SELECT serial FROM flow_runs WHERE flow_run_id = 'run-{number}')"
            new = ids(file_path, f"run = {serial}")
            assert min(new) == max(given, default=0) + 1
            given += new
            there = ids(file_path, "1")
            some = chance.sample(there, chance.randrange(len(there) + 1))
            if chance.random() < 0.5:
                some += there[-2:]
            shell.execute("DELETE FROM node_outputs WHERE id IN (SELECT value FROM json_each(?))", (json_array(some),))
            assert ids(file_path, "1")[-1] == given[-1]
            assert len(ids(file_path, "run = 0")) <= 1


def test_runs_that_are_deleted_and_forgotten_leave_an_id_above_their_own(file_path: pathlib.Path) -> None:
    given = put_some(file_path, 0)
    with ContextStore(file_path) as store:
        store.delete_run("run-0")
        store.prune(older_than=datetime.timedelta(0))
        assert store.stats().outputs == 0
        assert store.check().problems == ()
        assert store.check().outputs == 0
        assert ids(file_path, "1") == [given[-1] + 1]  # the deletion lay behind the highest id, and below this one
        assert store.list_runs() == []
    assert put_some(file_path, 0)[0] == given[-1] + 2


def test_the_highest_id_outlasts_a_vacuum_a_dump_and_a_backup(file_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    given = put_some(file_path, 0)
    with plain(file_path) as connection:
        connection.execute("DELETE FROM node_outputs")
        connection.execute("VACUUM")
        marks = connection.execute("SELECT * FROM pragma_application_id, pragma_user_version").fetchall()[0]
        with contextlib.closing(sqlite3.connect(tmp_path / "dumped.db", isolation_level=None)) as dumped:
            dumped.executescript("\n".join(connection.iterdump()))
            dumped.executescript("PRAGMA application_id = {}; PRAGMA user_version = {}".format(*marks))
    with ContextStore(file_path) as store:
        store.backup(tmp_path / "backup.db", check=False)
    for path in (file_path, tmp_path / "dumped.db", tmp_path / "backup.db"):
        assert put_some(path, 1)[0] == given[-1] + 1


def test_where_no_higher_id_is_left_nothing_is_stored_and_it_says_so(file_path: pathlib.Path) -> None:
    put_some(file_path, 0)
    with plain(file_path) as connection:
        connection.execute("UPDATE node_outputs SET id = 9223372036854775806 WHERE node_id = 'third'")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("UPDATE node_outputs SET id = 9223372036854775807 WHERE node_id = 'third'")
    with ContextStore(file_path) as store:
        for call in (lambda: store.put("run-0", "new", 1), lambda: store.put_many("run-0", {"new": 1, "newer": 2})):
            with pytest.raises(StorageError, match="CHECK constraint") as caught:
                call()
            assert not caught.value.outcome_unknown
        assert store.list_keys("run-0") == ["first", "second", "third"]
