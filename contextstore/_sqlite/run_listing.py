"""Which runs there are, in SQLite: by filters, each of which has an index, and with how many outputs each run has.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection that reads, each within a
snapshot. What a caller gives goes in as a parameter. An index is walked by its name, against any advice of old
statistics, and no further than it is told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from .._engine.fact_rules import with_facts
from .._engine.records import RunRecord, after_prefix
from .._engine.rules import run_record
from .._engine.run_query import RunGathering, RunIndex, RunPlace, RunQuery, RunRange, RunStep
from .counting import Tail, tail_of
from .deletion import json_array
from .reads import counted_record, snapshot, times_of_all
from .run_facts import FACT_COLUMNS

_INDEXES = {
    "runs": "flow_runs AS r NOT INDEXED",
    "begin": "flow_runs AS r INDEXED BY runs_by_begin",
    "state": "flow_runs AS r INDEXED BY runs_by_state",
    "parent": "flow_runs AS r INDEXED BY runs_by_parent",
    "prefix": "flow_runs AS r INDEXED BY sqlite_autoindex_flow_runs_1",
}
_CONDITIONS = {
    "runs": "true",
    "begin": "r.begun_at IS NOT NULL AND r.begun_at >= :since AND r.begun_at < :until",
    "state": "r.state = :state",
    "parent": "r.parent IS NOT NULL AND r.parent = :parent",
    "prefix": "r.flow_run_id >= :low AND r.flow_run_id < :high",
}
_ALIVE = "r.deleted_at IS NULL"
_PARTIAL = ("begin", "state", "parent")
"""Indexes of runs that are not deleted."""
_PROBED = {"state": "s", "parent": "p"}
"""Those that tell of one run, by its serial, whether it is in them: the names under which they do."""
_END_OF_TIME = 2**63 - 1
_COLUMNS = f"""
    serial, flow_run_id, outputs, marks, first_written_at, last_written_at, touched_at, {FACT_COLUMNS}
"""


class _Walk:
    """The words in which an index is walked for a query, and what they refer to."""

    def __init__(self, query: RunQuery, index: RunIndex, place: RunPlace | None) -> None:
        self._query = query
        self._index = index
        self._has_place = place is not None
        rest = [one for one in query.filters if one != index]
        self.has_rest = bool(rest) or index.name == "runs"
        """Whether there is more to be asked of a run than what its place in the index says."""
        is_attribute = index.name == "attribute"
        self._has_row = self._needs_row(rest)
        """Whether the run's row is looked at. Else other filters are asked of their own indexes, which are small."""
        self.serial = "a.run" if is_attribute else "r.serial"
        self.key = f"r.begun_at, {self.serial}" if query.is_by_begin else self.serial
        self.source = "run_attributes AS a" if is_attribute else _INDEXES[index.name]
        row = " CROSS JOIN flow_runs AS r ON r.serial = a.run" if is_attribute and self._has_row else ""
        probed = [one for one in rest if self._is_probed(one)]
        self.joined = self.source + row + self._probes(probed, self.serial)
        self.own = self._own()
        self.rest = [_CONDITIONS[one.name] for one in rest if not self._is_probed(one)]
        self.rest += [_ALIVE] if self._has_row else []
        self.is_behind, self.direction = ("{} > {}", "ASC") if query.oldest_first else ("{} < {}", "DESC")
        self.before = "<" if query.oldest_first else ">"
        self.up_to = "<=" if query.oldest_first else ">="
        self.parameters = self._parameters(place)
        marks = "(:place_begun_at, :place)" if query.is_by_begin else ":place"
        self.behind_place = [] if place is None else [self.is_behind.format(f"({self.key})", marks)]

    def _needs_row(self, rest: Sequence[RunIndex]) -> bool:
        begins_elsewhere = self._query.is_by_begin and self._index.name != "begin"
        return self._index.name == "runs" or begins_elsewhere or any(one.name == "prefix" for one in rest)

    def _is_probed(self, index: RunIndex) -> bool:
        return index.name == "attribute" or (index.name in _PROBED and not self._has_row)

    def _probe(self, index: RunIndex, serial: str) -> str:
        if index.name != "attribute":
            alias = _PROBED[index.name]
            condition = _CONDITIONS[index.name].replace("r.", f"{alias}.")
            source = _INDEXES[index.name].replace(" AS r ", f" AS {alias} ")
            return f" CROSS JOIN {source} ON {condition} AND {alias}.deleted_at IS NULL AND {alias}.serial = {serial}"
        nth = index.attribute
        of_it = f"a{nth}.name = :name{nth} AND a{nth}.value = :value{nth} AND a{nth}.run = {serial}"
        return f" CROSS JOIN run_attributes AS a{nth} ON {of_it}"

    def _probes(self, probed: Sequence[RunIndex], serial: str) -> str:
        """The cheap ones first: an attribute is found by comparing texts."""
        cheap_first = sorted(probed, key=lambda one: one.name == "attribute")
        return "".join(self._probe(one, serial) for one in cheap_first)

    def probes_of(self, serial: str) -> str:
        """Whether a run fits the other filters, and is not deleted, where none of its columns is at hand."""
        probes = self._probes([one for one in self._query.filters if one != self._index], serial)
        return f"{probes} CROSS JOIN flow_runs AS w ON w.serial = {serial} AND w.deleted_at IS NULL"

    def _own(self) -> list[str]:
        if self._index.name == "attribute":
            number = self._index.attribute
            return [f"a.name = :name{number} AND a.value = :value{number}"]
        condition = _CONDITIONS[self._index.name]
        if self._index.name == "begin" and self._has_place:
            condition = self._without_bound(condition, 0)
        return [condition] + ([_ALIVE] if self._index.name in _PARTIAL else [])

    def up_to_end(self) -> list[str]:
        """What the index is walked by as far as the place ``:end``: not by NOT, which would bound no index."""
        if self._index.name != "begin":
            return [*self.own, f"{self.key} {self.up_to} :end"]
        first, *alive = self.own
        return [self._without_bound(first, 1), *alive, f"({self.key}) {self.up_to} (:end_begun_at, :end)"]

    def _without_bound(self, condition: str, side: int) -> str:
        """Of two bounds on one side SQLite takes one, and it is to be the place, not this one."""
        bounds = ("r.begun_at >= :since", "r.begun_at < :until")
        bound = bounds[side if self._query.oldest_first else 1 - side]
        return condition.replace(bound, f"+{bound}")

    def _parameters(self, place: RunPlace | None) -> dict[str, Any]:
        query = self._query
        parameters: dict[str, Any] = {
            "since": 0 if query.since is None else query.since,
            "until": _END_OF_TIME if query.until is None else query.until,
            "state": query.state,
            "parent": query.parent,
            "low": query.prefix,
            "high": after_prefix(query.prefix) or b"",
        }
        for number, (name, value) in enumerate(query.attributes):
            parameters |= {f"name{number}": name, f"value{number}": value}
        if place is not None:
            parameters |= {"place": place.serial, "place_begun_at": place.begun_at}
        return parameters

    def place_of(self, row: Sequence[Any]) -> RunPlace:
        return RunPlace(row[1], row[0]) if self._query.is_by_begin else RunPlace(row[0])

    def sorted_by(self, key: str) -> str:
        return ", ".join(f"{column} {self.direction}" for column in key.split(", "))


def find_run_place(connection: sqlite3.Connection, flow_run_id: str) -> RunPlace | None:
    query = "SELECT serial, begun_at FROM flow_runs WHERE flow_run_id = ?"
    row = connection.execute(query, (flow_run_id,)).fetchone()
    return None if row is None else RunPlace(*row)


def list_runs(
    connection: sqlite3.Connection,
    location: str,
    query: RunQuery,
    index: RunIndex,
    place: RunPlace | None,
    most: int,
    limit: int,
) -> RunStep:
    walk = _Walk(query, index, place)
    with snapshot(connection):
        end = _end_of(connection, walk, most) if walk.has_rest else None
        own = walk.own
        if end is not None:
            own = walk.up_to_end()
            walk.parameters |= {"end": end.serial, "end_begun_at": end.begun_at}
        conditions = [*own, *walk.behind_place, *walk.rest]
        text = f"""
            SELECT {walk.key} FROM {walk.joined} WHERE {" AND ".join(conditions)}
            ORDER BY {walk.sorted_by(walk.key)} LIMIT :limit
        """  # noqa: S608 - no input in it
        rows = connection.execute(text, walk.parameters | {"limit": limit}).fetchall()
        places = [walk.place_of(row) for row in rows]
        after = places[-1] if len(places) == limit else end
        return RunStep(described(connection, location, [one.serial for one in places]), after)


def _end_of(connection: sqlite3.Connection, walk: _Walk, most: int) -> RunPlace | None:
    """The last of so many entries of the index; None: there are fewer."""
    text = f"""
        SELECT {walk.key} FROM {walk.source} WHERE {" AND ".join([*walk.own, *walk.behind_place])}
        ORDER BY {walk.sorted_by(walk.key)} LIMIT 1 OFFSET :most
    """  # noqa: S608 - no input in it
    row = connection.execute(text, walk.parameters | {"most": most - 1}).fetchone()
    return None if row is None else walk.place_of(row)


def count_index(
    connection: sqlite3.Connection, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int
) -> int:
    """How many runs it has, behind the place if it has them in the order of the listing; so many at most."""
    walk = _Walk(query, index, place)
    conditions = [*walk.own, *(walk.behind_place if query.is_in_order(index) else ())]
    text = f"""
        SELECT count(*) FROM (SELECT 1 FROM {walk.source} WHERE {" AND ".join(conditions)} LIMIT :most)
    """  # noqa: S608 - no input in it
    ((count,),) = connection.execute(text, walk.parameters | {"most": most}).fetchall()
    return int(count)


def gather_runs(
    connection: sqlite3.Connection,
    query: RunQuery,
    index: RunIndex,
    within: RunRange,
    after: str | int | None,
    most: int,
    limit: int,
) -> RunGathering:
    walk = _Walk(query, index, within.place)
    column = "r.flow_run_id" if index.name == "prefix" else walk.serial
    own = [*walk.own, *([] if after is None else [f"{column} > :after"])]
    parameters = walk.parameters | {"after": after, "most": most, "limit": limit}
    with snapshot(connection):
        text = f"""
            SELECT {column} FROM {walk.source} WHERE {" AND ".join(own)} ORDER BY {column} LIMIT 1 OFFSET :most - 1
        """  # noqa: S608 - no input in it
        (end,) = connection.execute(text, parameters).fetchone() or (None,)
        own += walk.behind_place + ([] if end is None else [f"{column} <= :end"])
        if within.before is not None:
            marks = "(:before_begun_at, :before)" if query.is_by_begin else ":before"
            own.append(f"({walk.key}) {walk.before} {marks}")
            parameters |= {"before": within.before.serial, "before_begun_at": within.before.begun_at}
        rows = connection.execute(_gathering(walk, query, own), parameters | {"end": end}).fetchall()
    return RunGathering([walk.place_of(row) for row in rows], end)


def _gathering(walk: _Walk, query: RunQuery, own: list[str]) -> str:
    if query.is_by_begin:
        return f"""
            SELECT {walk.key} FROM {walk.joined} WHERE {" AND ".join([*own, *walk.rest])}
            ORDER BY {walk.sorted_by(walk.key)} LIMIT :limit
        """  # noqa: S608 - no input in it
    # The first ones are found by the index alone: LIMIT keeps the order of the inner one.
    return f"""
        SELECT c.serial FROM (
            SELECT {walk.serial} AS serial FROM {walk.source} WHERE {" AND ".join(own)}
            ORDER BY {walk.sorted_by(walk.serial)} LIMIT :most
        ) AS c {walk.probes_of("c.serial")} LIMIT :limit
    """  # noqa: S608 - no input in it


# -- what a run has ----------------------------------------------------------------------------------------------------


def describe_runs(
    connection: sqlite3.Connection, location: str, query: RunQuery, serials: Sequence[int]
) -> list[RunRecord]:
    """Those of the runs that are there and fit, in this order."""
    with snapshot(connection):
        return [record for record in described(connection, location, serials) if query.fits(record)]


def fetch_run(connection: sqlite3.Connection, location: str, flow_run_id: str) -> RunRecord | None:
    """One run; None: it is not there. Within a transaction."""
    place = find_run_place(connection, flow_run_id)
    return next(iter(described(connection, location, [] if place is None else [place.serial])), None)


def described(connection: sqlite3.Connection, location: str, serials: Sequence[int]) -> list[RunRecord]:
    """Of runs that are not deleted. One without any trace but its row is left out: no write to it has come so far."""
    text = f"""
        SELECT {_COLUMNS} FROM flow_runs
        WHERE serial IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL
    """  # noqa: S608 - no input in it
    if not serials:
        return []
    rows = {row[0]: row for row in connection.execute(text, (json_array(serials),)).fetchall()}
    tail = tail_of(connection)
    found = [_record(connection, location, rows[serial], tail) for serial in serials if serial in rows]
    return [record for record in found if record is not None]


def _record(connection: sqlite3.Connection, location: str, row: Sequence[Any], tail: Tail | None) -> RunRecord | None:
    serial, flow_run_id, outputs, marks, first, last, touched_at, *facts = row
    if tail is None or not (_is_count(outputs) and _is_count(marks)):
        counted = counted_record(connection, serial, flow_run_id, (first, last))
        is_there = touched_at is not None or counted.outputs or marks
        return with_facts(location, counted, facts) if is_there else None
    rows, *times = tail.get(serial, (0, None, None))
    if not outputs + rows and touched_at is None:
        return None
    first, last = times_of_all((first, last), times)
    return with_facts(location, run_record(serial, flow_run_id, outputs + rows - marks, 0, (first, last)), facts)


def _is_count(number: object) -> bool:
    """What else stands there is damaged, or of an earlier schema: then outputs are counted."""
    return type(number) is int and number >= 0
