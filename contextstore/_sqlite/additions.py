"""What other programs have added to a store's schema: what may stay, and what could change or refuse what is stored.

Rules of this module: it only looks. A refusal names each thing and the remedy. What may stay is not forbidden by being
unwise: an index costs each put some time, and that is its maker's to decide.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import IncompatibleStoreError
from .errors import code_of
from .schema import APPLICATION_ID, KNOWN_SCHEMAS, SCHEMA_VERSION, own_schema, schema_in

_SAFE_COLLATIONS = ("BINARY", "NOCASE", "RTRIM")  # those that every SQLite has

# What a partial index may compare with what. No functions, LIKE among them, no arithmetic, no text in double quotes,
# which SQLite may take for a name or for a string: none of this can fail for any row.
_TOKEN = re.compile(
    r"\s+|-?\d+(\.\d+)?|'([^']|'')*'|<=|>=|<>|!=|==|[<>=(),]|(?P<word>[a-z_][a-z_0-9]*)(?P<call>\s*\()?", re.IGNORECASE
)
_WORDS = frozenset(["and", "or", "not", "null", "is", "isnull", "notnull", "in", "between", "true", "false"])


class Addition(NamedTuple):
    """Something in the schema that is not the store's."""

    kind: str
    name: str
    table: str
    danger: str
    """Why it cannot stay; "" if it can."""

    @property
    def remedy(self) -> str:
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", self.name)
        return f"DROP {self.kind.upper()} {self.name if plain else _quoted(self.name)}"

    def __str__(self) -> str:
        on = f" on {self.table}" if self.table != self.name else ""
        return f"the {self.kind} {self.name!r}{on}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def missing_or_altered(connection: sqlite3.Connection, version: int = SCHEMA_VERSION) -> list[tuple[str, str]]:
    """Kind and name of what is not as this library made it, in a store of that schema."""
    return sorted((kind, name) for kind, name, _, _ in own_schema(version) - schema_in(connection))


def additions_in(connection: sqlite3.Connection, version: int = SCHEMA_VERSION) -> list[Addition]:
    """What is there besides, but for what SQLite itself makes: indexes of others' keys, statistics of ANALYZE."""
    own = {(kind, name) for kind, name, _, _ in own_schema(version)}
    names = {name.lower() for kind, name in own if kind in ("table", "view")}
    found = sorted(schema_in(connection), key=repr)
    return [
        Addition(
            kind,
            str(name),
            str(table),
            # A trigger has its table as its maker wrote it.
            _danger(connection, kind, str(name), str(table), str(sql)) if str(table).lower() in names else "",
        )
        for kind, name, table, sql in found
        if (kind, name) not in own and not str(name).startswith("sqlite_")
    ]


def check_schema_untouched(connection: sqlite3.Connection, location: str, version: int = SCHEMA_VERSION) -> None:
    """Raise if what our statements run on is not what we made: a trigger may undo a put, or never end.

    trusted_schema=0 does not keep triggers and views from running. Tables of others are no concern of ours: tools that
    replicate a file keep such in it.
    """
    if schema_in(connection) == own_schema(version):
        return
    altered = [name for _, name in missing_or_altered(connection, version)]
    if altered:
        raise IncompatibleStoreError(
            f"{location} has the marks of a store, but somebody has altered its schema ({', '.join(altered)}): it was "
            "left as it is; undo that, or restore a backup"
        )
    dangerous = [addition for addition in additions_in(connection, version) if addition.danger]
    if dangerous:
        named = ", ".join(f"{addition}, which {addition.danger}" for addition in dangerous)
        remedies = "; ".join(addition.remedy for addition in dangerous)
        raise IncompatibleStoreError(
            f"{location} has the marks of a store, but somebody has altered its schema and added {named}: it was left "
            f"as it is; to use it again, execute in it '{remedies};'"
        )


def refuse_unreadable_schema(uri: str, location: str, error: sqlite3.Error) -> None:
    """Raise, with the remedy, if that error comes from an addition, and not from damage.

    Before 3.41 SQLite trusts no schema in which an index has a function of JSON, and reads none of it.
    """
    if code_of(error) & 0xFF != sqlite3.SQLITE_CORRUPT:
        return
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        try:
            (marks,) = connection.execute("SELECT * FROM pragma_application_id, pragma_user_version").fetchall()
            if marks[0] == APPLICATION_ID and marks[1] in KNOWN_SCHEMAS:
                check_schema_untouched(connection, location, marks[1])
        finally:
            connection.close()


@contextlib.contextmanager
def trusting(connection: sqlite3.Connection) -> Iterator[None]:
    """To look at a schema that is not to be used. Nothing in it runs by that."""
    connection.execute("PRAGMA trusted_schema = 1").close()
    try:
        yield
    finally:
        connection.execute("PRAGMA trusted_schema = 0").close()


def _danger(connection: sqlite3.Connection, kind: str, name: str, table: str, sql: str) -> str:
    if kind == "trigger":
        return "can change or refuse what is stored"
    return _danger_of_index(connection, name, table, sql) if kind == "index" else "is none of the store's"


def _danger_of_index(connection: sqlite3.Connection, name: str, table: str, sql: str) -> str:
    indexes = connection.execute("SELECT * FROM pragma_index_list(?)", (table,)).fetchall()
    is_unique, is_partial = next(((bool(row[2]), bool(row[4])) for row in indexes if row[1] == name), (True, True))
    if is_unique:
        return "can refuse what is put, being UNIQUE"
    danger = _danger_of_columns(connection, name)
    if not danger and is_partial and not _is_plain(connection, table, sql):
        return "can refuse what is put, having a condition that may fail"
    return danger


def _danger_of_columns(connection: sqlite3.Connection, index: str) -> str:
    columns = [row for row in connection.execute("SELECT * FROM pragma_index_xinfo(?)", (index,)).fetchall() if row[5]]
    if any(row[1] == -2 for row in columns):
        return "can refuse what is put, being on an expression that may fail"
    if any(str(row[4]).upper() not in _SAFE_COLLATIONS for row in columns):
        return "can refuse what is put, where its collation is not known"
    if [row[2] for row in columns].count("value") > 1:
        return "can refuse what is put, holding a value more than once"
    return ""


def _is_plain(connection: sqlite3.Connection, table: str, sql: str) -> bool:
    """Whether a partial index has nothing in its condition but comparisons of columns and constants."""
    columns = {
        str(row[1]).lower() for row in connection.execute("SELECT * FROM pragma_table_info(?)", (table,)).fetchall()
    }
    condition = re.split(r"\bWHERE\b", sql, maxsplit=1, flags=re.IGNORECASE)[-1]
    position = 0
    while position < len(condition):
        token = _TOKEN.match(condition, position)
        if token is None:
            return False
        word = (token["word"] or "").lower()
        if word and word not in _WORDS and (word not in columns or token["call"]):
            return False
        position = token.end()
    return True
