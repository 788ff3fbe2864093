"""The proof: what was in the store and in the journal at the kill and in the end, and whether all went as it must.

Rules of this module: it reads and compares, and changes nothing. It reads a file by Python's own ``sqlite3``, not
through the library whose word is to be proved.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from contextstore import ContextStore

from .flow import CONCURRENCY, PROCESSES, Journal


class Place(NamedTuple):
    """Where the store is: for the library, and for people and their tools."""

    target: str  # what the library is given; a URL may have a password in it
    location: str  # the path or the URL, without one

    @property
    def is_file(self) -> bool:
        return "://" not in self.location

    def query(self, condition: str) -> str:
        """The command that shows the values of the outputs for which this SQL holds."""
        if self.is_file:
            return f'sqlite3 {shlex.quote(self.location)} "SELECT value FROM outputs WHERE {condition}"'
        parts = urllib.parse.urlsplit(self.location)
        options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        schema = options.pop("schema", "contextstore")  # this library's own option, unknown to psql
        url = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(options)))
        return f'psql {shlex.quote(url)} -c "SELECT value FROM {schema}.outputs WHERE {condition}"'


class Check(NamedTuple):
    """A line of the closing table. ``holds`` is None where a figure is told and nothing is claimed of it."""

    label: str
    figure: int
    expected: str = ""
    holds: bool | None = None


class Snapshot(NamedTuple):
    """All there is to know at one time: the rows of this flow run in the view ``outputs``, and the journal."""

    rows: Mapping[str, Sequence[tuple[str, str]]]  # (value, written_at) by node; more than one row would be an error
    began: Counter[str]
    completed: Counter[str]

    @classmethod
    def of(cls, place: Place, flow_run_id: str, journal: Journal) -> Snapshot:
        """Read by Python's own sqlite3, if it is a file: what is in the store is no secret of the library."""
        rows = defaultdict(list)
        if not place.is_file:
            with ContextStore(place.target, read_only=True) as store:
                for output in store.iter_outputs(flow_run_id):
                    rows[output.node_id].append((repr(output.value), output.written_at.isoformat()))
            return cls(rows, journal.counts("began"), journal.counts("completed"))
        uri = f"file:{urllib.parse.quote(place.location)}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            query = "SELECT node_id, value, written_at FROM outputs WHERE flow_run_id = ?"
            for node_id, value, written_at in connection.execute(query, (flow_run_id,)):
                rows[node_id].append((value, written_at))
        return cls(rows, journal.counts("began"), journal.counts("completed"))


def compare(nodes: Collection[str], killed: Snapshot, end: Snapshot) -> list[Check]:
    """What was there at the kill, and what became of it."""
    checks = []
    begun_again = {node_id for node_id in killed.began if end.began[node_id] > killed.began[node_id]}
    in_flight = killed.began.keys() - killed.rows.keys()
    if killed.began:
        acknowledged = killed.completed.keys()
        told_nobody = killed.rows.keys() - acknowledged
        lost = acknowledged - killed.rows.keys()
        unchanged = [node_id for node_id, rows in killed.rows.items() if end.rows.get(node_id) == rows]
        at_most = f"at most {CONCURRENCY}"
        checks += [
            Check("completed before the kill", len(acknowledged)),
            Check("  whose output was lost", len(lost), "0", not lost),
            Check("  computed again", len(acknowledged & begun_again), "0", not acknowledged & begun_again),
            Check("written at the kill, not completed", len(told_nobody)),
            Check("  computed again", len(told_nobody & begun_again), "0", not told_nobody & begun_again),
            Check("being computed at the kill", len(in_flight), at_most, len(in_flight) <= CONCURRENCY),
            Check("  computed again", len(in_flight & begun_again), f"{len(in_flight)}", in_flight <= begun_again),
            Check(
                "outputs unchanged since the kill",
                len(unchanged),
                f"{len(killed.rows):,}",
                len(unchanged) == len(killed.rows),
            ),
        ]
    once = [node_id for node_id in nodes if len(end.rows.get(node_id, [])) == 1]
    foreign = end.rows.keys() - set(nodes)
    is_all = len(once) == len(nodes) and not foreign
    computed = end.began.total()
    expected = f"{len(nodes):,}" + (f" + {len(in_flight)}" if killed.began else "")
    return [
        *checks,
        Check("outputs at the end, each once", len(once), f"{len(nodes):,}", is_all),
        Check("computations in all", computed, expected, computed == len(nodes) + len(in_flight)),
    ]


def recorded(place: Place, flow_run_id: str, nodes: Collection[str], processes: int) -> list[Check]:
    """What the run itself says: its state, the attempts of its steps, and who has worked at it."""
    with ContextStore(place.target, read_only=True) as store:
        run = store.run(flow_run_id)
        info, attempts, pids = run.info(), run.attempts(), run.get_state(PROCESSES, [])
    is_completed = info is not None and info.state == "completed"
    succeeded = {attempt.node_id for attempt in attempts if attempt.error is None}
    failures = len(attempts) - len(succeeded)
    return [
        Check("runs that are completed, by their state", int(is_completed), "1", is_completed),
        Check("processes that the run has counted", len(pids), f"{processes}", len(set(pids)) == processes),
        Check("attempts that made an output", len(succeeded), f"{len(nodes):,}", succeeded == set(nodes)),
        Check("attempts that failed", failures, "0", not failures),
    ]
