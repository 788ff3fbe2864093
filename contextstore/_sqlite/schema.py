"""The SQLite file itself: where it may be, whether it is ours, its schema and its migrations.

Rules of this module: no descriptor of our own on the database file or the -shm, ever (closing one drops the process's
POSIX locks on them: https://sqlite.org/howtocorrupt.html, 2.2); what is not ours is refused as it was found. Errors are
decided by SQLite's codes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sqlite3
import stat
import urllib.parse
from collections.abc import Callable, Mapping
from typing import cast

from ..errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
    StoreFullError,
    StoreNotFoundError,
)

APPLICATION_ID = 0x43745374  # "CtSt"
SCHEMA_VERSION = 1

# The tables hold what the engine needs; the views are for people and their tools.
_SCHEMA = """
CREATE TABLE runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER                         -- not null: a tombstone
);
CREATE INDEX tombstones ON runs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE TABLE output_rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,      -- rises with each commit; never given twice
    run INTEGER NOT NULL,                      -- runs.serial
    node_id TEXT NOT NULL,
    codec INTEGER NOT NULL,                    -- 0: value is JSON text; 1: value is the bytes themselves
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, node_id, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER NOT NULL,                     -- bytes of value
    value NOT NULL,
    UNIQUE (run, node_id)
);
CREATE TABLE global_rows (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,                  -- stays when the global is deleted, and is counted on
    codec INTEGER,
    checksum INTEGER,                          -- CRC-32 over key, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER,                              -- bytes of value
    value                                      -- null: deleted
);
CREATE VIEW outputs AS
    SELECT runs.flow_run_id, output_rows.node_id, output_rows.value,
           strftime('%Y-%m-%dT%H:%M:%fZ', output_rows.written_at / 1e6, 'unixepoch') AS written_at
    FROM runs JOIN output_rows ON output_rows.run = runs.serial
    WHERE runs.deleted_at IS NULL;
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at
    FROM global_rows WHERE value IS NOT NULL;
"""

MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""From a schema version to the next: what is to be executed, within one transaction."""


_BY_CODE: dict[int, type[StorageError]] = {
    sqlite3.SQLITE_BUSY: StoreBusyError,
    sqlite3.SQLITE_LOCKED: StoreBusyError,
    sqlite3.SQLITE_FULL: StoreFullError,
    sqlite3.SQLITE_READONLY: ReadOnlyStoreError,
    sqlite3.SQLITE_PERM: ReadOnlyStoreError,
    sqlite3.SQLITE_CORRUPT: CorruptStoreError,
    sqlite3.SQLITE_NOTADB: IncompatibleStoreError,
    sqlite3.SQLITE_CANTOPEN: StorageError,
}
_ADVICE: dict[int, str] = {
    sqlite3.SQLITE_BUSY: "another program holds it; try again",
    sqlite3.SQLITE_FULL: "there is no room left; free some and try again",
    sqlite3.SQLITE_READONLY: "it cannot be written; check its permissions, or open it with read_only=True",
    sqlite3.SQLITE_CORRUPT: "the file is damaged (check() tells where); restore a backup",
    sqlite3.SQLITE_NOTADB: "this is not a SQLite database, or it is cut off; nothing was changed",
    sqlite3.SQLITE_CANTOPEN: "check that it is a file, and its permissions and those of its folder",
}


def code_of(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def translated(error: sqlite3.Error, location: str, doing: str, outcome_unknown: bool = False) -> StorageError:
    code = code_of(error)
    # A -shm file that cannot grow: there is no room, whatever the system called it.
    primary = sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else code & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    advice = _ADVICE.get(primary)
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        advice = side_file_in_the_way(os.path.realpath(location)) or advice
    message = f"{doing} {location}: {error} ({name})" + (f": {advice}" if advice else "")
    translated = _BY_CODE.get(primary, StorageError)(message, outcome_unknown)
    translated.__cause__ = error
    return translated


def translated_os(error: OSError, location: str, doing: str) -> StorageError:
    kind: type[StorageError] = StorageError
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind = StoreFullError
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind = ReadOnlyStoreError
    elif error.errno == errno.ENOENT:
        kind = StoreNotFoundError
    message = f"{doing} {location}: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = side_file_in_the_way(os.path.realpath(location))
        message += f": {advice}" if advice else ""
    translated = kind(message)
    translated.__cause__ = error
    return translated


def uri_of(path: str, mode: str) -> str:
    return f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"


def identity_of(path: str) -> tuple[int, int]:
    there = os.stat(path)
    return there.st_dev, there.st_ino


def size_of(path: str) -> int:
    """In bytes; 0 if it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def check_identity(path: str, identity: tuple[int, int], location: str) -> None:
    """Raise unless the file that was opened is still the one under its name."""
    try:
        there = identity_of(path)
    except FileNotFoundError:
        raise StoreNotFoundError(
            f"{location} was deleted while it was open, and takes and gives nothing more: make a new store object"
        ) from None
    except OSError as error:
        raise translated_os(error, location, "could not find") from error
    if there != identity:
        raise StorageError(
            f"{location} was replaced by another file while it was open, and takes and gives nothing more: make a new "
            "store object"
        )


def check_side_files(path: str, location: str, last_opened: int | None) -> None:
    """Raise if the WAL beside the file is that of another one, which was here before it.

    SQLite cannot tell: it would take the former file's pages for this one's, and mix the two for good.
    """
    if last_opened in (None, os.stat(path).st_ino):
        return
    if has_content(path + "-wal") or os.path.exists(path + "-shm"):
        raise IncompatibleStoreError(
            f"{location} has been replaced by another file, and beside it there are still the -wal and -shm of the "
            "former one: end the programs that have that one open, remove the two, and try again "
            f"(if they belong to the new file, remove {path}-lock instead)"
        )


def create_file(path: str) -> None:
    """An empty file, readable by its owner only; SQLite gives its side files the same mode.

    Side files without a file are those of one that was deleted, perhaps while other processes have it open. SQLite
    would join these on their -shm, and look for its pages in a WAL that it does not have.
    """
    for side_file in (path + "-wal", path + "-shm"):
        with contextlib.suppress(FileNotFoundError):
            refuse_database(side_file)
            os.unlink(side_file)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # again, since the umask took its part
    finally:
        os.close(descriptor)


def refuse_database(side_file: str) -> None:
    """Raise if what has the name of a side file is something else."""
    with open(side_file, "rb") as file:
        if file.read(16) == b"SQLite format 3\0":
            raise IncompatibleStoreError(
                f"{side_file} is a database, whose name a store beside it would need for its own: choose another name"
            )


def has_content(path: str) -> bool:
    return size_of(path) > 0


def check_place(path: str, location: str, why_not_create: str = "") -> bool:
    """Whether the file exists. Raises if it cannot be a store, or is missing and not to be created, for that reason."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            hint = "; ~ is not expanded: use Path.expanduser()" if "/~" in folder else "; create it first"
            raise StoreNotFoundError(f"could not open {location}: there is no folder {folder}{hint}") from None
        if why_not_create:
            raise StoreNotFoundError(f"there is no store at {location}; {why_not_create}") from None
        _refuse_long_name(path, location)
        _refuse_network_file_system(folder, location)
        return False
    except NotADirectoryError:
        raise StoreNotFoundError(f"could not open {location}: a part of its path is a file, not a folder") from None
    if stat.S_ISDIR(there.st_mode):
        raise IncompatibleStoreError(f"{location} is a folder; name a file in it")
    _refuse_long_name(path, location)
    if not stat.S_ISREG(there.st_mode):
        raise IncompatibleStoreError(f"{location} is not a regular file")
    if there.st_nlink > 1:  # https://sqlite.org/howtocorrupt.html, 2.5
        raise IncompatibleStoreError(
            f"{location} has {there.st_nlink} names (hard links), and beside each there would be another -wal, which "
            "destroys it: remove all names but one, or make the others symbolic links"
        )
    _refuse_network_file_system(path, location)
    return True


_LONGEST_SIDE_NAME = "-journal"
_LONGEST_PATH = 512 - len(_LONGEST_SIDE_NAME)  # MAX_PATHNAME in SQLite's os_unix.c, which cannot be configured


def _refuse_long_name(path: str, location: str) -> None:
    name, folder = os.fsencode(os.path.basename(path)), os.path.dirname(path)
    longest = os.pathconf(folder, "PC_NAME_MAX") - len(_LONGEST_SIDE_NAME)
    if len(name) > longest or len(os.fsencode(path)) > _LONGEST_PATH:
        raise StorageError(
            f"could not open {location}: its name is too long for SQLite and its side files, which take names of "
            f"{longest} bytes and paths of {_LONGEST_PATH}"
        )


def check_rights(path: str, location: str) -> None:
    """Raise unless whoever asks may write the file and, for its side files, the folder."""
    effective = os.access in os.supports_effective_ids
    for place, what in ((os.path.dirname(path), "its folder"), (path, "it")):
        if os.path.exists(place) and not os.access(place, os.W_OK, effective_ids=effective):
            raise ReadOnlyStoreError(
                f"could not open {location}: {what} cannot be written; check its permissions, or open the store "
                "with read_only=True"
            )
    advice = side_file_in_the_way(path)
    if advice:
        raise ReadOnlyStoreError(f"could not open {location}: {advice}")


def side_file_in_the_way(path: str) -> str:
    """Which of the files beside the store's keeps whoever asks from reading or writing it, and what to do; or ""."""
    may = functools.partial(os.access, effective_ids=os.access in os.supports_effective_ids)
    for name in (path + "-lock", path + "-shm", path + "-wal", path + "-journal"):
        try:
            there = os.stat(name)
        except OSError:
            continue
        if not may(name, os.R_OK):
            kept_from = "read"
        elif may(path, os.W_OK) and not may(name, os.W_OK):
            kept_from = "written"
        else:
            continue
        advice = (
            f"{name} (mode {stat.S_IMODE(there.st_mode):04o}, uid {there.st_uid}) cannot be {kept_from} by uid "
            f"{os.geteuid()}: give it the mode and the owner of the store file (chmod, chown)"
        )
        # The two in which no commit can be.
        if name.endswith("-shm") or (name.endswith("-wal") and not there.st_size):
            advice += ", or remove it while no process has the store open"
        return advice
    return ""


_NETWORK_FILE_SYSTEMS = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gfs2", "ocfs2", "beegfs", "fuse.sshfs"]
)


def _refuse_network_file_system(path: str, location: str) -> None:
    """Locks and shared memory do not work across hosts. Linux tells what a path is mounted from; others don't."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return
    for line in lines:
        fields, _, source = line.partition(" - ")
        if fields.split()[2] == number and source.split()[0] in _NETWORK_FILE_SYSTEMS:
            raise IncompatibleStoreError(
                f"{location} is on a network file system ({source.split()[0]}), where its locks do not hold: "
                "put it on a local disk, or use PostgreSQL"
            )


def probe(path: str, location: str) -> None:
    """Raise unless the file is a store or may become one. Changes nothing, not even beside it."""
    pages_before = _pages_before(path + "-journal")
    if pages_before in (0, 1):
        return  # a store whose creation was cut off: SQLite will take it back to nothing, and we shall look again
    if size_of(path) == 1:  # SQLite would take it for an empty file, and overwrite it
        raise IncompatibleStoreError(f"{location} is not a SQLite database, or it is cut off; nothing was changed")
    has_wal = has_content(path + "-wal")
    try:
        connection = sqlite3.connect(uri_of(path, "ro") + "&immutable=1", uri=True, isolation_level=None)
        try:
            # A checkpoint that was cut off may leave a header that speaks of pages which only the WAL has yet. That is
            # sound, but here, where the WAL is not looked at, it would pass for damage.
            connection.execute(f"PRAGMA writable_schema = {int(has_wal)}").close()
            (application_id,) = connection.execute("PRAGMA application_id").fetchall()[0]
            if application_id == APPLICATION_ID:
                schema_version(connection, location)
                return
            if application_id == 0 and not has_wal and pages_before is None:
                (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0]
                if not objects:
                    return
            refuse_unmarked(connection, location)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, location, "could not open") from error
    raise IncompatibleStoreError(f"{location} is a database of another program; it was left as it is")


def _pages_before(journal: str) -> int | None:
    """How long a database was before the transaction that this journal undoes, in pages; None: it undoes none.

    https://sqlite.org/fileformat.html, 3.
    """
    try:
        with open(journal, "rb") as file:  # no process holds a lock on it
            header = file.read(20)
    except OSError:
        return None
    if len(header) < 20 or header[:8] != bytes.fromhex("d9d505f920a163d7"):
        return None
    return int.from_bytes(header[16:20])


def schema_version(connection: sqlite3.Connection, location: str) -> int:
    """The file's schema, 0 for an empty database. Raises for a database of others and for a newer schema."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchall()[0]
    (version,) = connection.execute("PRAGMA user_version").fetchall()[0]
    if application_id != APPLICATION_ID:
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0]
        if application_id != 0 or objects:
            refuse_unmarked(connection, location)
            raise IncompatibleStoreError(f"{location} is a database of another program; it was left as it is")
        return 0
    if version > SCHEMA_VERSION:
        raise IncompatibleStoreError(
            f"{location} has schema {version}, and this version of contextstore knows schemas up to {SCHEMA_VERSION}: "
            "upgrade contextstore; the file was left as it is"
        )
    (encoding,) = connection.execute("PRAGMA encoding").fetchall()[0]
    if encoding != "UTF-8":  # by some other program's dump: what is put there would not come back as it was
        raise IncompatibleStoreError(f"{location} holds its text as {encoding}, and a store holds UTF-8")
    return cast("int", version)


def secure(connection: sqlite3.Connection) -> None:
    """Nothing in a file that somebody else made may run code or pass for sound: https://sqlite.org/security.html."""
    connection.execute("PRAGMA trusted_schema = 0").close()
    connection.execute("PRAGMA cell_size_check = 1").close()
    # The default, unless SQLite was built otherwise: nobody's table beside ours may refuse what is deleted.
    connection.execute("PRAGMA foreign_keys = 0").close()


def migrate(connection: sqlite3.Connection, location: str) -> None:
    version = schema_version(connection, location)
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]:
        create_schema(connection)
        return
    steps = range(version, SCHEMA_VERSION)
    if not all(step in MIGRATIONS for step in steps):
        raise IncompatibleStoreError(f"{location} has schema {version}, from which there is no way to a newer one")
    if not steps:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            MIGRATIONS[step](connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def create_schema(connection: sqlite3.Connection) -> None:
    # Before the first table, and in SQLite's first journal mode: with the mark of ours in the file itself and not in a
    # WAL beside it, a file is told from another program's by a look that changes nothing.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL").close()  # so that prune can give space back bit by bit
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").close()
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def sync_recovered_wal(path: str) -> None:
    """Make durable what a killed process has committed but not synced, before anybody is told that it exists.

    SQLite's recovery takes up frames that stand in the WAL whether or not they were synced. Of the -wal, unlike of the
    database and the -shm, a descriptor of our own may be opened and closed: no process holds a lock on it.
    """
    try:
        descriptor = os.open(path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(descriptor).st_size:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str) -> None:
    """A new file is found after a power cut only if its folder was synced, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SCHEMA_QUERY = "SELECT type, name, tbl_name, sql FROM sqlite_schema"


@functools.cache
def own_schema() -> frozenset[tuple[str, str, str, str | None]]:
    """What a store consists of: type, name, table and sql of each part."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_schema(connection)
        return schema_in(connection)
    finally:
        connection.close()


def schema_in(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str, str | None]]:
    return frozenset(connection.execute(_SCHEMA_QUERY).fetchall())


def refuse_unmarked(connection: sqlite3.Connection, location: str) -> None:
    """Raise, with the way out, if this is a store but for its marks: what a dump of one makes."""
    marks = [connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("application_id", "user_version")]
    if marks != [0, 0]:
        return
    try:
        found = schema_in(connection)
    except sqlite3.DatabaseError:  # damaged, and whose it is cannot be told
        return
    if own_schema() <= found:
        raise IncompatibleStoreError(
            f"{location} has the tables of a store, but not its marks, as after a dump (.dump) that was read into a "
            "new file; it was left as it is. To make it a store again, once all of the dump is in it, execute in it "
            f"'PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};', then open it and "
            "ask its check(). (That it has lost auto_vacuum is harmless: prune() frees room within it alone.)"
        )
