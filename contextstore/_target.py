"""Where a store is: from what the user names to the engine for it.

Rules of this room: no I/O, but for asking for the current folder. What cannot be meant is a TypeError or a ValueError
that names what is known.
"""

from __future__ import annotations

import os
import urllib.parse
from typing import Literal

from ._engine import Engine
from ._sqlite import FileEngine, MemoryEngine, ReadOnlyFileEngine

Durability = Literal["full", "normal"]
Target = str | os.PathLike[str]

_KNOWN = "a path, ':memory:', 'sqlite:///relative.db', 'sqlite:////absolute.db' or 'postgresql://user@host/database'"
_POSTGRES = ("postgresql", "postgres")


def engine_for(target: Target, durability: Durability, timeout: float, read_only: bool, create: bool) -> Engine:
    if isinstance(target, os.PathLike):
        path = os.fspath(target)
        if not isinstance(path, str):
            raise TypeError(f"target must be a str or a Path, not a path of {type(path).__name__}")
    elif not isinstance(target, str):
        raise TypeError(f"target must be a str or a Path, not {type(target).__name__}")
    elif target == ":memory:":
        return _memory_engine(timeout, read_only)
    elif target.partition("://")[0].lower() in _POSTGRES and "://" in target:
        from . import _postgres
        from ._postgres_lane import address_of

        address = address_of(target)
        return _postgres.PostgresEngine(
            address, timeout=timeout, durability=durability, read_only=read_only, create=create
        )
    elif "://" in target:
        path = _path_of_url(target)
        if path == ":memory:":
            return _memory_engine(timeout, read_only)
    else:
        path = target
        if path.startswith("file:"):
            raise ValueError(f"target {target!r} is a SQLite URI, which is not taken; known are {_KNOWN}")
    if not path:
        raise ValueError(f"target must not be empty; known are {_KNOWN}")
    if "\0" in path:
        raise ValueError(f"target {target!r} has a NUL character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"target {target!r} has a lone surrogate, which no file name can have") from None
    path = os.path.abspath(path)  # now, so that a later chdir does not move the store
    if read_only:
        return ReadOnlyFileEngine(path, timeout=timeout)
    return FileEngine(path, timeout=timeout, durability=durability, create=create)


def _memory_engine(timeout: float, read_only: bool) -> Engine:
    if read_only:
        raise ValueError("a store in memory is new and empty: read_only=True makes no sense for it")
    return MemoryEngine(timeout)


def _path_of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme.lower() != "sqlite":
        raise ValueError(f"the scheme {scheme!r} is not known; known are {_KNOWN}")
    if not rest.startswith("/"):
        raise ValueError(f"{url!r} has no path after 'sqlite:///'; known are {_KNOWN}")
    path, mark, _ = rest[1:].partition("?")
    if mark:
        raise ValueError(f"{url!r} has options after '?', of which none is known: pass them as keywords")
    return urllib.parse.unquote(path, errors="surrogateescape")
