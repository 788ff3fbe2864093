"""What is left of a deleted run: a tombstone, and of a forgotten one nothing, in any table."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location
from ..postgres.test_care_postgres import execute as execute_on_server
from ..support.remains import ATTRIBUTES, remains, rows_left

MANY = 700
"""More than one commit removes."""


class Place:
    """A store, and another program's statements to it."""

    def __init__(self, engine: str, request: pytest.FixtureRequest) -> None:
        self.is_server = engine == "postgres"
        self.location = new_location(engine, request)

    def execute(self, statement: str) -> Any:
        if self.is_server:
            return execute_on_server(str(self.location), statement.replace("{schema}", "{schema}."))
        with contextlib.closing(sqlite3.connect(pathlib.Path(self.location), isolation_level=None)) as connection:
            return connection.execute(statement.replace("{schema}", "")).fetchall()

    def give(self, run: str, rows: int, size: int = 1) -> None:
        """All that a run may have beside its outputs."""
        for statement in remains(run, rows, with_writer=self.is_server, size=size):
            self.execute(statement)


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    return Place(request.param, request)


def test_a_run_has_all_that_is_given_to_it(place: Place) -> None:
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        place.give("run", 3)
        assert rows_left(place.execute) == {
            "flow_runs": 1,
            "node_outputs": 1,
            "run_states": 3,
            "failed_attempts": 3,
            "run_attributes": len(ATTRIBUTES),
        }


@pytest.mark.parametrize("rows", [1, MANY])
def test_of_a_deleted_run_a_tombstone_is_left_and_its_place_in_lists(place: Place, rows: int) -> None:
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        place.give("run", rows)
        assert store.delete_run("run") == 1
        assert rows_left(place.execute) == {"flow_runs": 1}
        facts = place.execute("SELECT state, parent, attributes, error, checksum FROM {schema}flow_runs")
        assert [tuple(row) for row in facts] == [(0, None, None, None, None)]
        assert [tuple(row) for row in place.execute("SELECT begun_at FROM {schema}flow_runs")] == [(1,)]


@pytest.mark.parametrize("rows", [1, MANY])
def test_of_a_forgotten_run_nothing_is_left(place: Place, rows: int) -> None:
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        store.put("other", "node", 1)
        place.give("run", rows)
        place.give("other", 2)
        store.delete_run("run", forget=True)
        assert rows_left(place.execute) == {
            "flow_runs": 1,
            "node_outputs": 1,
            "run_states": 2,
            "failed_attempts": 2,
            "run_attributes": len(ATTRIBUTES),
        }


def test_prune_leaves_nothing_of_old_runs(place: Place) -> None:
    with ContextStore(place.location) as store:
        for run in ("a", "b"):
            store.put(run, "node", 1)
            place.give(run, MANY)
        for _ in range(2):  # the tombstones of the first are forgotten by the second
            time.sleep(0.002)
            store.prune(older_than=datetime.timedelta(0))
        assert rows_left(place.execute) == {}


def test_prune_finishes_a_deletion_of_which_state_values_are_left(place: Place) -> None:
    with ContextStore(place.location) as store:
        store.delete_run("run")
        place.give("run", 2)
        store.prune(older_than=None)
        assert rows_left(place.execute) == {"flow_runs": 1}


def test_a_tombstone_is_not_forgotten_while_something_of_the_run_is_left(place: Place) -> None:
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        place.give("run", 3 * MANY)
        store.delete_run("run", forget=True)
        assert rows_left(place.execute) == {}
        store.put("run", "node", 2)
        assert store.get("run", "node") == 2


def test_attributes_are_removed_also_where_they_cannot_be_read(place: Place) -> None:
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        place.give("run", 1)
        place.execute("UPDATE {schema}flow_runs SET attributes = '{\"a'")
        store.delete_run("run", forget=True)
        assert rows_left(place.execute) == {}


def test_large_state_values_are_removed_in_several_commits(place: Place) -> None:
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        place.give("run", 10, size=2**20)
        before = store.stats().commits
        store.delete_run("run", forget=True)
        assert store.stats().commits - before >= 3
        assert rows_left(place.execute) == {}
