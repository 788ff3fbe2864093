"""The SQL for PostgreSQL that lists runs by filters, and says how many outputs each run has.

Rules of this module: text only, as ``statements`` has it. A listing's text is put together from what stands here, by
which filters there are; what a caller gives goes in as a parameter. Candidates come from one index in its order, so
many at most; each is then looked up by itself, whatever the planner takes the filters for.
"""

from __future__ import annotations

import dataclasses

from .._engine.records import after_prefix
from .._engine.run_query import RunIndex, RunPlace, RunQuery

FACT_COLUMNS = "state, state_changed_at, begun_at, begun_attributes, parent, attributes, error, checksum, failures"
"""As ``with_facts`` takes them."""
_END = "\U0010ffff" * 300
_MIN, _MAX = -(2**63), 2**63 - 1
_ALIVE = "deleted_at IS NULL"
_PARTIAL = ("begin", "state", "parent")

# What is not counted yet, found by its own index: OFFSET 0 keeps the planner from going through the runs for it.
_TAIL = """
    SELECT run, count(*) AS rows, min(written_at) FILTER (WHERE codec >= 0) AS first,
        max(written_at) FILTER (WHERE codec >= 0) AS last
    FROM (
        SELECT run, codec, written_at FROM {schema}.node_outputs
        WHERE xact >= (SELECT before FROM {schema}.counted_outputs) OFFSET 0
    ) AS late WHERE run IN (SELECT serial FROM page) GROUP BY run
"""
_COUNTED = """
    SELECT count(*) AS rows, min(written_at) FILTER (WHERE codec >= 0) AS first,
        max(written_at) FILTER (WHERE codec >= 0) AS last
    FROM {schema}.node_outputs WHERE run = r.serial
"""
_DESCRIBED = f"""
    SELECT page.nth, r.serial, r.flow_run_id, coalesce(r.outputs + coalesce(tail.rows, 0), counted.rows) AS rows,
        r.marks, least(r.first_written_at, tail.first, counted.first) AS first,
        greatest(r.last_written_at, tail.last, counted.last) AS last, r.touched_at, {FACT_COLUMNS}
    FROM page JOIN {{schema}}.flow_runs AS r ON r.serial = page.serial AND r.deleted_at IS NULL
    LEFT JOIN ({_TAIL}) AS tail ON tail.run = r.serial
    LEFT JOIN LATERAL ({_COUNTED}) AS counted ON r.outputs IS NULL
"""  # noqa: S608 - no input in it
DESCRIBE_RUN = f"""
    WITH page AS MATERIALIZED (SELECT serial, 1 AS nth FROM {{schema}}.flow_runs WHERE flow_run_id = $1)
    {_DESCRIBED} WHERE {{is_known}}
"""  # noqa: S608 - no input in it
"""One run, by its id."""


@dataclasses.dataclass(frozen=True)
class RunListingStatements:
    """What is said of runs, and of the counts of their outputs."""

    find_run_place: str = "SELECT serial, begun_at FROM {schema}.flow_runs WHERE {is_known} AND flow_run_id = $1"
    describe_runs: str = f"""
        WITH page AS MATERIALIZED (SELECT * FROM unnest($1::bigint[]) WITH ORDINALITY AS page (serial, nth))
        {_DESCRIBED} WHERE {{is_known}} ORDER BY page.nth
    """  # noqa: S608 - no input in it
    # One row at least: with the serial behind which to go on.
    check_counts: str = """
        WITH page AS MATERIALIZED (
            SELECT serial, flow_run_id, outputs FROM {schema}.flow_runs
            WHERE serial > $1 AND deleted_at IS NULL ORDER BY serial LIMIT $2
        )
        SELECT (SELECT max(serial) FROM page), wrong.* FROM (SELECT 1) AS one LEFT JOIN (
            SELECT flow_run_id, outputs, found FROM page CROSS JOIN LATERAL (
                SELECT count(*) AS found FROM {schema}.node_outputs
                WHERE run = serial AND xact < (SELECT before FROM {schema}.counted_outputs)
            ) AS counted WHERE outputs IS NOT NULL AND outputs <> found
        ) AS wrong ON true WHERE {is_known}
    """
    list_runs_by: str = f"""
        WITH page AS MATERIALIZED (
            SELECT serial, begun_at AS begun, row_number() OVER () AS nth FROM (
                SELECT r.serial, r.begun_at FROM ([candidates]) AS c CROSS JOIN LATERAL ([row]) AS r
                ORDER BY [key] LIMIT [limit]
            ) AS first
        ), described AS ({_DESCRIBED})
        SELECT e.serial, e.begun_at, p.serial, p.begun, p.nth, d.*
        FROM (SELECT 1) AS one LEFT JOIN ([end]) AS e ON true
        LEFT JOIN (SELECT * FROM page ORDER BY nth DESC LIMIT 1) AS p ON true LEFT JOIN described AS d ON true
        WHERE {{is_known}} ORDER BY d.nth
    """  # noqa: S608 - no input in it
    count_index: str = """
        SELECT count(*) FROM (SELECT FROM [source] WHERE [own] LIMIT [most]) AS several WHERE {is_known}
    """
    gather_runs: str = """
        SELECT e.after, found.serial, found.begun_at FROM (SELECT 1) AS one LEFT JOIN ([end]) AS e ON true
        LEFT JOIN (
            SELECT r.serial, r.begun_at FROM ([candidates]) AS c CROSS JOIN LATERAL ([row]) AS r
            WHERE [own] ORDER BY [key] LIMIT [limit]
        ) AS found ON true WHERE {is_known}
    """
    flow_runs: str = "{schema}.flow_runs"
    run_attributes: str = "{schema}.run_attributes"


class ListingText:
    """What stands in the brackets of these statements, for a query and one of its indexes, and the parameters."""

    def __init__(
        self, statements: RunListingStatements, query: RunQuery, index: RunIndex, place: RunPlace | None
    ) -> None:
        self._statements = statements
        self._query = query
        self._index = index
        self._place = place
        self.parameters: list[object] = []
        self._is_attribute = index.name == "attribute"
        self._source = statements.run_attributes if self._is_attribute else statements.flow_runs
        self._serial = "run" if self._is_attribute else "serial"
        self._key = f"begun_at, {self._serial}" if query.is_by_begin else self._serial
        self._direction, self._behind = ("ASC", ">") if query.oldest_first else ("DESC", "<")

    def listing(self, most: int, limit: int) -> tuple[str, list[object]]:
        own = [*self._own(), *self._behind_place(self._serial)]
        of_source = f"FROM {self._source} WHERE {_all(own)} ORDER BY {self._sorted(self._key)}"
        begun_at = "begun_at" if self._query.is_by_begin else "NULL::bigint AS begun_at"
        size = self._parameter(most, "bigint")
        text = self._filled(
            self._statements.list_runs_by,
            candidates=f"SELECT {self._serial} AS serial, {begun_at} {of_source} LIMIT {size}",
            row=self._row([]),
            key=self._sorted("c.begun_at, c.serial" if self._query.is_by_begin else "c.serial"),
            limit=self._parameter(limit, "bigint"),
            end=f"SELECT {self._serial} AS serial, {begun_at} {of_source} LIMIT 1 OFFSET {size} - 1",
        )
        return text, self.parameters

    def count(self, most: int) -> tuple[str, list[object]]:
        own = self._own()
        if self._query.is_in_order(self._index):
            own += self._behind_place(self._serial)
        size = self._parameter(most, "bigint")
        return self._filled(
            self._statements.count_index, source=self._source, own=_all(own), most=size
        ), self.parameters

    def gathering(
        self, before: RunPlace | None, after: str | int | None, most: int, limit: int
    ) -> tuple[str, list[object]]:
        column = "flow_run_id" if self._index.name == "prefix" else self._serial
        own = self._own()
        if after is not None:
            own.append(f"{column} > {self._parameter(after, 'text' if column == 'flow_run_id' else 'bigint')}")
        of_source = f"FROM {self._source} WHERE {_all(own)} ORDER BY {column}"
        size = self._parameter(most, "bigint")
        within = ["true", *self._behind_place("serial"), *self._before(before)]
        text = self._filled(
            self._statements.gather_runs,
            candidates=f"SELECT {self._serial} AS serial {of_source} LIMIT {size}",
            # By the serial alone before its row is looked up.
            row=self._row(within if self._query.is_by_begin else []),
            own="true" if self._query.is_by_begin else _all(within).replace("serial", "c.serial"),
            key=self._sorted("r.begun_at, r.serial" if self._query.is_by_begin else "r.serial"),
            limit=self._parameter(limit, "bigint"),
            end=f"SELECT {column} AS after {of_source} LIMIT 1 OFFSET {size} - 1",
        )
        return text, self.parameters

    def _filled(self, text: str, **parts: str) -> str:
        for name, part in parts.items():
            text = text.replace(f"[{name}]", part)
        return text

    def _parameter(self, value: object, kind: str) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}::{kind}"

    def _sorted(self, key: str) -> str:
        return ", ".join(f"{column} {self._direction}" for column in key.split(", "))

    def _own(self) -> list[str]:
        return [*self._conditions(self._index), *([_ALIVE] if self._index.name in _PARTIAL else [])]

    def _conditions(self, index: RunIndex) -> list[str]:
        query = self._query
        match index.name:
            case "begin":
                since = self._parameter(_MIN if query.since is None else query.since, "bigint")
                until = self._parameter(_MAX if query.until is None else query.until, "bigint")
                return ["begun_at IS NOT NULL", f"begun_at >= {since}", f"begun_at < {until}"]
            case "state":
                return [f"state = {self._parameter(query.state, 'smallint')}"]
            case "parent":
                return ["parent IS NOT NULL", f"parent = {self._parameter(query.parent, 'text')}"]
            case "prefix":
                low, high = query.prefix, after_prefix(query.prefix) or _END
                return [
                    f"flow_run_id >= {self._parameter(low, 'text')}",
                    f"flow_run_id < {self._parameter(high, 'text')}",
                ]
            case "attribute":
                name, value = query.attributes[index.attribute]
                return [f"name = {self._parameter(name, 'text')}", f"value = {self._parameter(value, 'text')}"]
            case _:
                return ["true"]

    def _behind_place(self, serial: str) -> list[str]:
        return self._beyond(self._place, self._behind, serial)

    def _before(self, place: RunPlace | None) -> list[str]:
        return self._beyond(place, "<" if self._query.oldest_first else ">", "serial")

    def _beyond(self, place: RunPlace | None, sign: str, serial: str) -> list[str]:
        if place is None:
            return []
        number = self._parameter(place.serial, "bigint")
        if not self._query.is_by_begin:
            return [f"{serial} {sign} {number}"]
        return [f"(begun_at, {serial}) {sign} ({self._parameter(place.begun_at, 'bigint')}, {number})"]

    def _row(self, conditions: list[str]) -> str:
        """A candidate that fits all filters. OFFSET 0: each is looked up by itself, and by its serial alone.

        Else the planner may go through all runs of a filter that it takes for rare, once for each candidate.
        """
        conditions = [_ALIVE, *conditions]
        for index in self._query.filters:
            if index != self._index and index.name == "attribute":
                of_it = _all(["run = c.serial", *self._conditions(index)])
                conditions.append(f"EXISTS (SELECT FROM {self._statements.run_attributes} WHERE {of_it} OFFSET 0)")
            elif index != self._index:
                conditions += self._conditions(index)
        by_serial = f"SELECT * FROM {self._statements.flow_runs} WHERE serial = c.serial OFFSET 0"  # noqa: S608 - no input in it
        return f"SELECT serial, begun_at FROM ({by_serial}) AS one WHERE {_all(conditions)} OFFSET 0"  # noqa: S608 - no input in it


def _all(conditions: list[str]) -> str:
    return " AND ".join(conditions)
