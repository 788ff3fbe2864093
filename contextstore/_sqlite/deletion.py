"""The SQL that deletes runs: marking them, removing outputs, giving space back.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. What is
done within a commit is bounded by what it deletes, and a look by what it looks at, however large the store is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from .._engine.operations import (
    DeleteIdleRuns,
    ForgetRun,
    ForgetRuns,
    Forgetting,
    GiveBackSpace,
    IdleDeletion,
    Removal,
    RemoveOutputs,
)
from .._engine.portions import Portion
from .._engine.records import Extent
from . import remains
from .history import forgetting
from .idle_runs import idle_but_for_outputs
from .remains import HAS_REMAINS
from .run_facts import stamp_deletion

_RUNS_A_PAGE = 20_000
"""How many tombstones are looked at by one call at most."""
_DELETED = """
    SELECT flow_run_id, serial FROM flow_runs
    WHERE flow_run_id IN (SELECT value FROM json_each(?)) AND deleted_at IS NOT NULL
"""
_OUTPUTS_OF = """
    SELECT node_outputs.run, node_outputs.id, CAST(node_outputs.size AS INTEGER),
        node_outputs.written_at NOT BETWEEN 0 AND ? - 1, node_outputs.codec >= 0
    FROM json_each(?) AS wanted CROSS JOIN node_outputs ON node_outputs.run = wanted.value LIMIT ?
"""
# By id, in the order of commits: what came after the cursor.
_SINCE = """
    SELECT 1 FROM node_outputs NOT INDEXED WHERE id > ? AND run = ? AND written_at NOT BETWEEN 0 AND ? - 1 LIMIT 1
"""
_HAS_OUTPUTS = "EXISTS (SELECT 1 FROM node_outputs WHERE run = flow_runs.serial)"
_HAS_REST = f"({_HAS_OUTPUTS} OR {HAS_REMAINS})"
"""Of a deleted run: whether anything of it is left beside its tombstone."""
_WITH_REST = f"""
    SELECT flow_run_id FROM flow_runs
    WHERE flow_run_id IN (SELECT value FROM json_each(?)) AND deleted_at IS NOT NULL AND {_HAS_REST}
"""  # noqa: S608 - no input in it


def json_array(some: Sequence[str | int]) -> str:
    """Many parameters as one, for ``json_each``."""
    return orjson.dumps(some).decode()


# -- within commits ----------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    id: int
    size: int
    is_young: int
    is_output: int
    """Else it is the mark of one that was deleted."""


class _Run(NamedTuple):
    """A run that may be idle, with what is known of its outputs."""

    flow_run_id: str
    serial: int
    outputs: list[_Row]
    is_cut_off: bool
    """Whether it may have more outputs than these; nothing is known of those of the runs behind it."""
    is_there: bool
    """Also if it has no outputs."""

    @property
    def size(self) -> int:
        return _size(self.outputs)

    def fills(self, max_bytes: int) -> bool:
        """Whether it alone has more outputs, or bytes, than one commit removes."""
        return self.is_cut_off or self.size > max_bytes

    @property
    def is_idle(self) -> bool:
        """As far as its outputs are known."""
        return (self.is_there or bool(self.outputs)) and not any(row.is_young for row in self.outputs)


def erase(connection: sqlite3.Connection, rows: Sequence[_Row]) -> int:
    """Remove outputs. Returns about how many pages were written for it."""
    ((before,),) = connection.execute("PRAGMA freelist_count").fetchall()
    ids = json_array([row.id for row in rows])
    connection.execute("DELETE FROM node_outputs WHERE id IN (SELECT value FROM json_each(?))", (ids,))
    ((after,),) = connection.execute("PRAGMA freelist_count").fetchall()
    # Where SQLite is built with secure_delete, as on Debian, each page that becomes free is overwritten.
    return len(rows) + max(0, int(after - before))


def delete_idle_runs(
    connection: sqlite3.Connection, delete: DeleteIdleRuns, now: int, max_bytes: int
) -> tuple[IdleDeletion, int]:
    """What became of it, and about how many pages were written."""
    marked: list[int] = []
    names: list[str] = []
    gone: list[_Row] = []
    left: tuple[str, ...] = ()
    done = size = 0
    for run in _runs_to_look_at(connection, delete):
        is_large = run.fills(max_bytes)
        if marked and (is_large or size + run.size > max_bytes):
            break  # in the next commit
        done += 1
        if _is_idle_now(connection, run, is_large, delete):
            marked.append(run.serial)
            some = _up_to(run.outputs[: delete.limit], max_bytes)
            gone += some
            size += run.size
            left = (run.flow_run_id,) if run.is_cut_off or len(some) < len(run.outputs) else ()
            names.append(run.flow_run_id)
        if is_large:
            break
    pages = 0
    if marked:
        mark = "UPDATE flow_runs SET deleted_at = ? WHERE serial IN (SELECT value FROM json_each(?))"
        connection.execute(mark, (now, json_array(marked)))
        stamp_deletion(connection, marked)
        pages = erase(connection, gone)
        if not remains.erase(connection, json_array(marked), delete.limit - len(gone), max_bytes):
            left = tuple(name for (name,) in connection.execute(_WITH_REST, (json_array(names),)).fetchall())
    return IdleDeletion(done, len(marked), _outputs(gone), _size(gone), left), pages


def _runs_to_look_at(connection: sqlite3.Connection, delete: DeleteIdleRuns) -> list[_Run]:
    """All of them, in their order; those that are not idle by their own rows have no outputs here."""
    names = delete.flow_run_ids
    idle = idle_but_for_outputs(connection, delete)
    outputs, cut_off = _outputs_of(
        connection, [idle[name][0] for name in names if name in idle], delete.limit, delete.idle_since
    )
    return [
        _Run(name, serial, outputs.get(serial, []), serial == cut_off, is_there)
        for name, (serial, is_there) in ((name, idle.get(name, (0, False))) for name in names)
    ]


def _outputs_of(
    connection: sqlite3.Connection, serials: Sequence[int], limit: int, idle_since: int
) -> tuple[dict[int, list[_Row]], int | None]:
    """Outputs by run, one more than so many at most, and the run at which that ended: it and those behind may have more
    than is found here. None: all is there.
    """
    found: dict[int, list[_Row]] = {}
    rows = connection.execute(_OUTPUTS_OF, (idle_since, json_array(serials), limit + 1)).fetchall()
    for serial, *row in rows:
        found.setdefault(serial, []).append(_Row(*row))
    return found, rows[-1][0] if len(rows) > limit else None


def _is_idle_now(connection: sqlite3.Connection, run: _Run, is_large: bool, delete: DeleteIdleRuns) -> bool:
    if not run.is_idle:
        return False
    # Of a large run not all outputs are known. Those that were written since it was looked at are behind the cursor.
    since = (delete.cursor or 0, run.serial, delete.idle_since)
    return not is_large or connection.execute(_SINCE, since).fetchone() is None


def _size(rows: Sequence[_Row]) -> int:
    return sum(row.size for row in rows)


def _outputs(rows: Sequence[_Row]) -> int:
    return sum(row.is_output for row in rows)


def _up_to(rows: Sequence[_Row], max_bytes: int) -> list[_Row]:
    """The first of them, up to the one with which they reach so many bytes."""
    some: list[_Row] = []
    portion = Portion(len(rows), max_bytes)
    for row in rows:
        some.append(row)
        if not portion.takes(row.size) or portion.is_full:
            break
    return some


def remove_outputs(connection: sqlite3.Connection, remove: RemoveOutputs, max_bytes: int) -> tuple[Removal, int]:
    """What became of it, and about how many pages were written."""
    names = json_array(remove.flow_run_ids)
    serials = [serial for _, serial in connection.execute(_DELETED, (names,)).fetchall()]
    found = connection.execute(_OUTPUTS_OF, (0, json_array(serials), remove.limit + 1)).fetchall()
    some = _up_to([_Row(*row) for _, *row in found[: remove.limit]], max_bytes)
    pages = erase(connection, some)
    left: list[str] = []
    most = remove.limit - len(some)
    if len(some) < len(found) or not remains.erase(connection, json_array(serials), most, max_bytes):
        left = [name for (name,) in connection.execute(_WITH_REST, (names,)).fetchall()]
    return Removal(_outputs(some), _size(some), tuple(left)), pages


def forget_run(connection: sqlite3.Connection, forget: ForgetRun, max_bytes: int) -> tuple[Forgetting, int]:
    """What became of it, and about how many pages were written."""
    query = "SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NOT NULL"
    (serial,) = connection.execute(query, (forget.flow_run_id,)).fetchone() or (None,)
    if serial is None or forget.run not in (None, serial):
        return Forgetting(0, True), 0
    removal, pages = remove_outputs(connection, RemoveOutputs((forget.flow_run_id,), forget.limit), max_bytes)
    if not removal.left:
        query = "DELETE FROM flow_runs WHERE serial = ?"
        forgetting(connection, lambda: connection.execute(query, (serial,)).rowcount)
    return Forgetting(removal.outputs, not removal.left), pages


def forget_runs(connection: sqlite3.Connection, forget: ForgetRuns) -> tuple[int, int | None]:
    query = f"""
        DELETE FROM flow_runs WHERE serial IN (
            SELECT serial FROM flow_runs WHERE deleted_at >= ? AND deleted_at < ? AND NOT {_HAS_REST} LIMIT ?
        )
    """  # noqa: S608 - no input in it
    forgotten = forgetting(connection, lambda: connection.execute(query, forget).rowcount)
    return forgotten, forget.deleted_from if forgotten == forget.limit else None


def give_back_space(connection: sqlite3.Connection, give_back: GiveBackSpace) -> int:
    ((before,),) = connection.execute("PRAGMA freelist_count").fetchall()
    for _ in range(min(before, give_back.pages)):
        # One by one, since the sqlite3 module ends this statement after its first step.
        connection.execute("PRAGMA incremental_vacuum(1)").fetchall()
    # Counted: it gives nothing back if another program has rebuilt the file without auto_vacuum.
    ((after,),) = connection.execute("PRAGMA freelist_count").fetchall()
    return int(before - after)


# -- looks -------------------------------------------------------------------------------------------------------------


def deleted_among(connection: sqlite3.Connection, flow_run_ids: Sequence[str]) -> list[str]:
    return [name for name, _ in connection.execute(_DELETED, (json_array(flow_run_ids),)).fetchall()]


def alive_among(connection: sqlite3.Connection, serials: Sequence[int]) -> list[int]:
    query = "SELECT serial FROM flow_runs WHERE serial IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL"
    return [serial for (serial,) in connection.execute(query, (json_array(serials),)).fetchall()]


def measure_runs(connection: sqlite3.Connection, flow_run_ids: Sequence[str]) -> Extent:
    query = """
        SELECT count(DISTINCT serial), coalesce(sum(codec >= 0), 0), coalesce(sum(CAST(size AS INTEGER)), 0)
        FROM flow_runs LEFT JOIN node_outputs ON node_outputs.run = flow_runs.serial
        WHERE flow_run_id IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL
    """
    return Extent(*connection.execute(query, (json_array(flow_run_ids),)).fetchone())


def page_unfinished_deletions(connection: sqlite3.Connection, after: int) -> tuple[list[str], Any]:
    query = """
        SELECT max(deleted_at) FROM (SELECT deleted_at FROM flow_runs WHERE deleted_at > ? ORDER BY deleted_at LIMIT ?)
    """
    ((last,),) = connection.execute(query, (after, _RUNS_A_PAGE)).fetchall()
    query = f"SELECT flow_run_id FROM flow_runs WHERE deleted_at > ? AND deleted_at <= ? AND {_HAS_REST}"  # noqa: S608 - no input in it
    rows: Iterable[tuple[str]] = connection.execute(query, (after, last)).fetchall()
    return [flow_run_id for (flow_run_id,) in rows], last
