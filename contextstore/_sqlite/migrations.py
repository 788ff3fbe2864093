"""From the schema of an older version to the present one, in steps from each number to the next.

Rules of this module: all steps are one transaction: after a kill at any moment the file is of the old schema or of the
new one. A step takes as long with a million outputs as with one. What it meets was compared before with what its
version made; what others have added stays, and what could not be understood is refused before anything is changed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from ..errors import IncompatibleStoreError
from .additions import check_schema_untouched
from .former_schemas import FORMER_SCHEMAS, HIGHEST_ID
from .schema import FACTS_OF_3, FACTS_OF_4, SCHEMA_VERSION, create_schema, own_schema, schema_in, schema_version


def migrate(
    connection: sqlite3.Connection,
    location: str,
    committing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int | None:
    """Make a store of an empty database; bring one of an older schema up to the present one.

    Returns the schema that it was brought up from; None: it was new, or of the present one.

    Args:
        committing: around the commit that ends a migration: whoever has the store open is to look at it anew.
    """
    version = schema_version(connection, location)
    if version == 0 and not schema_in(connection):
        create_schema(connection)
        return None
    steps = range(version, SCHEMA_VERSION)
    if not all(step in MIGRATIONS for step in steps):
        raise IncompatibleStoreError(f"{location} has schema {version}, from which there is no way to a newer one")
    if not steps:
        return None
    with _writable_schema(connection, location, version):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version in FORMER_SCHEMAS:
                _refuse_unforeseen(connection, location, version)
            for step in steps:
                MIGRATIONS[step](connection)
            if version in FORMER_SCHEMAS:
                # Behind all steps: SQLite alters the text that it has read, and would not read this one before.
                _say_as_new(connection, SCHEMA_VERSION)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
            with committing():
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    return version


def _refuse_unforeseen(connection: sqlite3.Connection, location: str, version: int) -> None:
    """Raise if what is there is not what that version made, or has others' things under names that are needed."""
    check_schema_untouched(connection, location, version)
    needed = {name.lower() for _, name, _, _ in own_schema() - own_schema(version)}
    others = {(kind, name) for kind, name, _, _ in schema_in(connection) - own_schema(version)}
    taken = sorted(f"the {kind} {name!r}" for kind, name in others if str(name).lower() in needed)
    if taken:
        raise IncompatibleStoreError(
            f"{location} has schema {version}, and somebody has added {', '.join(taken)} to it: schema "
            f"{SCHEMA_VERSION} needs the name; it was left as it is: rename or drop what was added, then open it again"
        )


@contextlib.contextmanager
def _writable_schema(connection: sqlite3.Connection, location: str, version: int) -> Iterator[None]:
    """Within it sqlite_schema can be written; after it SQLite reads the schema anew."""
    defensive = getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE", None)  # from Python 3.12 on
    if defensive is not None:  # the default of some builds, as macOS has one
        connection.setconfig(defensive, False)  # type: ignore[attr-defined]  # 3.12 has it, the types of 3.11 have not
    connection.execute("PRAGMA writable_schema = 1").close()
    try:
        if connection.execute("PRAGMA writable_schema").fetchall() != [(1,)]:
            raise IncompatibleStoreError(
                f"{location} has schema {version}, and this build of SQLite ({sqlite3.sqlite_version}) does not let it "
                f"be brought up to {SCHEMA_VERSION}, since it refuses PRAGMA writable_schema (DEFENSIVE): open the "
                "store once by Python 3.12 or newer, or by a Python with another SQLite; it was left as it is"
            )
        yield
    finally:
        connection.execute("PRAGMA writable_schema = RESET").close()


# -- the steps ---------------------------------------------------------------------------------------------------------


def _from_1_to_2(connection: sqlite3.Connection) -> None:
    """Tables get other names, so that versions before have nothing to write to; ids are given without AUTOINCREMENT.

    The rows stay where they are. SQLite renames, also in what others have added (views, foreign keys). AUTOINCREMENT
    goes with the text of a new store's parts, which is written in the end.
    """
    connection.execute("PRAGMA legacy_alter_table = 0").close()  # else others' views keep the old names
    connection.execute("ALTER TABLE runs RENAME TO flow_runs")
    connection.execute("ALTER TABLE output_rows RENAME TO node_outputs")
    connection.execute("ALTER TABLE global_rows RENAME TO global_values")
    _mark_highest_id(connection)
    connection.execute(HIGHEST_ID)


def _mark_highest_id(connection: sqlite3.Connection) -> None:
    """What AUTOINCREMENT knew, and the rows that are left do not tell."""
    query = """
        SELECT min(max(seq), 9223372036854775806) FROM sqlite_sequence
        WHERE name = 'node_outputs' AND typeof(seq) = 'integer'
    """
    ((highest,),) = connection.execute(query).fetchall()
    connection.execute(
        """
        INSERT INTO node_outputs (id, run, node_id, codec, checksum, written_at, size, value)
        SELECT ?, 0, '', 0, 0, 0, 0, '' WHERE ? > (SELECT coalesce(max(id), 0) FROM node_outputs)
        """,
        (highest, highest),
    )
    # Last, since this connection reads the new schema only after the commit.
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'node_outputs'")


def _from_2_to_3(connection: sqlite3.Connection) -> None:
    """Further columns, which no row has yet and SQLite reads as null or 0 all the same; further tables.

    No table gets another name: processes of version 2 look at the format's number within each commit.
    """
    connection.execute("ALTER TABLE flow_runs ADD COLUMN marks INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE node_outputs ADD COLUMN tag TEXT")
    connection.execute("ALTER TABLE global_values ADD COLUMN expires_at INTEGER")
    _add_parts(connection, 2, 3)
    connection.execute(FACTS_OF_3)


def _from_3_to_4(connection: sqlite3.Connection) -> None:
    """Likewise. Of all runs an index is made, by their states: 0.4 s for a million of them."""
    for column in _COLUMNS_OF_4:
        connection.execute(f"ALTER TABLE flow_runs ADD COLUMN {column}")
    connection.execute("ALTER TABLE node_outputs ADD COLUMN attempt TEXT")
    _add_parts(connection, 3, 4)
    connection.execute(FACTS_OF_4)


_COLUMNS_OF_4 = (
    "outputs INTEGER",
    "first_written_at INTEGER",
    "last_written_at INTEGER",
    "state INTEGER NOT NULL DEFAULT 0",
    "state_changed_at INTEGER",
    "begun_at INTEGER",
    "touched_at INTEGER",
    "change INTEGER",
    "failures INTEGER NOT NULL DEFAULT 0",
    "checksum INTEGER",
    "begun_attributes TEXT",
    "parent TEXT",
    "attributes TEXT",
    "error TEXT",
)


def _add_parts(connection: sqlite3.Connection, before: int, version: int) -> None:
    """The tables, and then the indexes and views, that a store has since the version."""
    there = {(kind, name) for kind, name, _, _ in own_schema(before)}
    for kind, name, _, sql in sorted(own_schema(version), key=lambda part: part[0] != "table"):
        if sql is not None and (kind, name) not in there:
            connection.execute(sql)


def _say_as_new(connection: sqlite3.Connection, version: int) -> None:
    """Have the text of each part of the schema be that of a new store of the version, which says the same."""
    for kind, name, _, sql in own_schema(version):
        if sql is not None:
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE type = ? AND name = ?", (sql, kind, name))


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {
    1: _from_1_to_2,
    2: _from_2_to_3,
    3: _from_3_to_4,
}
"""From a schema's number to the next: what is to be executed."""
