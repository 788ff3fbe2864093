"""From the target that a caller names, a path or a URL, to the engine for it.

Rules of this module: no I/O, except that the operating system is asked for the current folder. This module alone knows
which engines there are. A target that cannot be meant is a ``TypeError`` or a ``ValueError`` that names known forms.
The error never shows a target that may hold a password.
"""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import urllib.parse
from typing import NamedTuple

from .._engine.contract import Engine
from .._sqlite.engine import SQLiteEngine
from .._sqlite.file import FileDatabase
from .._sqlite.memory import MemoryDatabase
from .._sqlite.read_only import ReadOnlyDatabase
from .options import Options

Target = str | os.PathLike[str]

_KNOWN = "a path, ':memory:', 'sqlite:///relative.db', 'sqlite:////absolute.db' or 'postgresql://user@host/database'"
_SCHEMES = ("postgresql", "postgres", "sqlite")
_NEW_FILE = re.compile(r"\.(db3?|sqlite3?)$", re.IGNORECASE)
"""The ending of a file name. A target that ends so is a path, even with the marks of a connection string in it."""

# Names in the connection strings of other libraries. Not any name with a "=": "runs/date=2024-01-01/flows.db" must stay
# a path.
_WORDS = (
    *("host", "hostaddr", "port", "dbname", "database", "user", "password", "passwd", "passfile", "service", "sslmode"),
    *("server", "data source", "address", "initial catalog", "user id", "user name", "username", "uid", "pwd", "dsn"),
    *("driver", "integrated security", "trusted_connection", "application_name", "connect_timeout", "options"),
)
_ALL_WORDS = "|".join(word.replace(" ", "[ _]?") for word in _WORDS)
_ASSIGNED = re.compile(rf"(?:^|[\s;,&?'\"])({_ALL_WORDS})\s*=", re.IGNORECASE)
_PASSWORD = re.compile(r"(?:^|[\s;,&?'\"])(?:password|passwd|pwd)\s*=", re.IGNORECASE)
_ALONE = re.compile(rf"\s*(?:{_ALL_WORDS})\s*=\s*(?:/.*|[^/]*)", re.IGNORECASE | re.DOTALL)
_CREDENTIALS = re.compile(r"(?:^|/)[^/:@]+:[^@]*@[^/@\s]+(?:/|$)|@[^/@\s:]+:\d{3,5}(?:/|$)")
_WITHOUT_SLASHES = re.compile(
    r"\s*['\"]?(?:jdbc:|(?P<scheme>postgresql|postgres|sqlite)(?:\+\w+)?(?::|(?<!sqlite)(?:[^\w\s./+:-]|//)))",
    re.IGNORECASE,
)
"""A known scheme that lacks a part of the '://' after it."""


def engine_for(target: Target, options: Options) -> Engine:
    """The engine for what a user names. It is not opened."""
    if isinstance(target, str) and _is_on_a_server(target):
        return _postgres_engine(target, options)
    path = _file_named_by(target)
    if path is None:
        return _memory_engine(options)
    timeout = float(options.timeout)
    if options.read_only:
        return SQLiteEngine(ReadOnlyDatabase(path, timeout))
    return SQLiteEngine(FileDatabase(path, timeout=timeout, durability=options.durability, create=options.create))


class Place(NamedTuple):
    """Where a store is, however a target says it."""

    key: tuple[str, ...]
    """The same for the same file, or the same server, port, database and schema."""
    access: tuple[str, ...]
    """What else the target says: as whom, and how. There may be a password in it."""
    target: Target
    """What names it from any folder."""

    def __repr__(self) -> str:  # also in a traceback that shows variables
        return f"<Place {self.key}>"


def place_of(target: Target) -> Place:
    """Where the store is that a user names. The file system is asked for links, and no name of a host is looked up."""
    if isinstance(target, str) and _is_on_a_server(target):
        from .._postgres.url import parse_url

        address = parse_url(target)
        return Place(("postgresql", *address.place), address.access, target)
    path = _file_named_by(target)
    if path is None:
        raise ValueError("a store in memory is private to its object, and cannot be shared: name a file or a server")
    return Place(("sqlite", os.path.realpath(path)), (), pathlib.Path(path))


def _is_on_a_server(target: str) -> bool:
    return "://" in target and _scheme_of(target) != "sqlite"


def _file_named_by(target: Target) -> str | None:
    """The path of the file, from any folder. None: it is in memory."""
    if isinstance(target, os.PathLike):
        path = _path_of(target)
    elif not isinstance(target, str):
        raise TypeError(f"target must be a str or a Path, not {type(target).__name__}")
    else:
        path = _path_named_by(target)
        if path == ":memory:":
            return None
    _check_path(path)
    return os.path.abspath(path)  # now, so that a later chdir does not move the store


def _path_of(target: os.PathLike[str]) -> str:
    path = os.fspath(target)
    if not isinstance(path, str):
        raise TypeError(f"target must be a str or a Path, not a path of {type(path).__name__}")
    return path


def _path_named_by(target: str) -> str:
    """The path that a str names, as it is or in a URL; ``:memory:`` for a store without a file."""
    if "://" in target:
        path = _path_of_url(target)
    else:
        path = target
        _refuse_connection_string(path)
    if path.endswith("/"):
        raise ValueError("target ends in a slash, as the name of a folder does: name a file in it")
    return path


def _check_path(path: str) -> None:
    if not path:
        raise ValueError(f"target must not be empty; known are {_KNOWN}")
    if "\0" in path:
        raise ValueError("target has a NUL character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("target has a lone surrogate, which no file name can have") from None


def _memory_engine(options: Options) -> Engine:
    if options.read_only:
        raise ValueError("a store in memory is new and empty: read_only=True makes no sense for it")
    return SQLiteEngine(MemoryDatabase(float(options.timeout)))


def _postgres_engine(url: str, options: Options) -> Engine:
    from .._postgres import engine as _postgres
    from .._postgres.url import parse_url

    return _postgres.PostgresEngine(
        parse_url(url),
        timeout=float(options.timeout),
        durability=options.durability,
        read_only=options.read_only,
        create=options.create,
        max_connections=options.max_connections,
    )


def _scheme_of(url: str) -> str:
    """The scheme, if it is a known one. The error shows nothing else of the URL: there may be a password in it."""
    scheme = url.partition("://")[0].lower()
    if scheme in _SCHEMES:
        return scheme
    if not re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}(:[a-z]{1,20})?", scheme):
        raise ValueError(f"target has '://' in it and does not begin with a scheme; known are {_KNOWN}")
    plain = scheme.removeprefix("jdbc:").partition("+")[0]
    close = difflib.get_close_matches(plain, _SCHEMES, 1)
    hint = f"did you mean '{close[0]}://'? " if close else ""
    raise ValueError(f"the scheme {scheme!r} is not known; {hint}known are {_KNOWN}")


def _refuse_connection_string(path: str) -> None:
    """Raise for a connection string of another form. The error does not show it: it may have a password."""
    if path.lower().startswith("file:"):
        raise ValueError(f"target is a SQLite URI ('file:…'), which is not taken; known are {_KNOWN}")
    form = _form_of(path)
    if form:
        raise ValueError(f"target is a connection string ({form}), which is not taken; known are {_KNOWN}")


def _form_of(path: str) -> str:
    if match := _WITHOUT_SLASHES.match(path):
        return f"did you mean '{(match['scheme'] or 'postgresql').lower()}://'?"
    assigned = {word.lower() for word in _ASSIGNED.findall(path)}
    if len(assigned) > 1 or _PASSWORD.search(path):
        return "'name=value …'"
    if _NEW_FILE.search(path.rstrip()) and ";" not in path:
        return ""
    if assigned and (";" in path or _ALONE.fullmatch(path)):
        return "'name=value'"
    if _CREDENTIALS.search(path):
        return "'user:password@host'"
    return ""


def _path_of_url(url: str) -> str:
    rest = url.partition("://")[2]
    if not rest.startswith("/"):
        raise ValueError(f"target has no path after 'sqlite:///'; known are {_KNOWN}")
    path, mark, _ = rest[1:].partition("?")
    if mark:
        raise ValueError("target has options after '?', of which none is known for 'sqlite:///': pass them as keywords")
    return urllib.parse.unquote(path, errors="surrogateescape")
