"""A connection to PostgreSQL that mends itself, and what its errors mean.

Rules of this room: asyncpg is imported here alone, when a store is opened; no SQL but what is passed in. Every answer
of the server is waited for until a deadline and no longer: then the socket is closed. The server is never asked to
cancel anything: under synchronous replication a cancelled commit is visible, and lost at the next fail-over. Rejected:
asyncpg.Pool, which waits without end for a host that has fallen silent.
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from .errors import CorruptStoreError, ReadOnlyStoreError, StorageError, StoreFullError

T = TypeVar("T")

Deadline = float
"""By time.monotonic()."""


class ConnectionLostError(Exception):
    """The connection is gone, or no longer to be trusted. What the server made of the last statement is not known."""


class TryAgainError(Exception):
    """The server has undone the statement, or its transaction, and says that it may succeed if it is tried again."""


class Address(NamedTuple):
    """Where the server is, and what the store asks of it."""

    url: str
    """For the driver, with its password."""
    location: str
    """For people, without it."""
    password: str
    schema: str
    has_pooler: bool
    """Behind a pooler that hands out connections by transaction: nothing may be kept in a session."""


def address_of(url: str) -> Address:
    """Take a URL apart. Raises ValueError, which names no password."""
    parts = urllib.parse.urlsplit(url)
    options = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    schema, pooler, password = "contextstore", "", ""
    passed_on, shown = [], []
    for name, value in options:
        if name == "schema":
            schema = value
            shown.append((name, value))
        elif name == "pooler":
            pooler = value
        else:
            passed_on.append((name, value))
            if name == "password":
                password = value
            else:
                shown.append((name, value))
    if not (schema.isascii() and schema.isidentifier() and schema.islower() and len(schema) <= 63):
        raise ValueError(f"schema={schema!r} must be a lower-case name of letters, digits and underscores")
    if pooler not in ("", "transaction"):
        raise ValueError(f"pooler={pooler!r} is not known; known is pooler=transaction")
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, _, secret = credentials.partition(":")
    location = f"postgresql://{user}{at}{hosts}{parts.path}" + ("?" + urllib.parse.urlencode(shown) if shown else "")
    return Address(
        urllib.parse.urlunsplit(("postgresql", parts.netloc, parts.path, urllib.parse.urlencode(passed_on), "")),
        location,
        urllib.parse.unquote(secret) or password,
        schema,
        pooler == "transaction",
    )


_LOST = frozenset(["40003", "57P01", "57P02", "57P03", "25006", "53300"])
"""Beside class 08. 57P: the server ends or begins; 25006: it has become a standby; 53300: it has no connection left."""
_AGAIN = frozenset(["40001", "40P01"])
_BY_STATE: dict[str, type[StorageError]] = {
    "53100": StoreFullError,
    "42501": ReadOnlyStoreError,
    "XX001": CorruptStoreError,
    "XX002": CorruptStoreError,
}
_ADVICE = {
    "28P01": "check the user's name and password",
    "28000": "check the user's name and the server's pg_hba.conf",
    "3D000": "there is no such database: create it, or name another one in the URL",
    "42501": "the role lacks a right; grant it, or open the store with read_only=True",
    "53100": "the server's disk is full; free some room and try again",
}


class Connection:
    """One connection, made when it is needed, made anew when it was lost."""

    def __init__(self, address: Address, settings: dict[str, str]) -> None:
        self._address = address
        self._settings = settings
        self._driver: Any = None

    async def fetch(self, deadline: Deadline, query: str, *arguments: Any) -> list[Any]:
        """The rows of one statement."""
        await self.connect(deadline)
        return await self._call(deadline, lambda: self._driver.fetch(query, *arguments))

    async def execute(self, deadline: Deadline, query: str, *arguments: Any) -> int:
        """How many rows one statement wrote."""
        await self.connect(deadline)
        tag: str = await self._call(deadline, lambda: self._driver.execute(query, *arguments))
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    @property
    def is_connected(self) -> bool:
        return self._driver is not None and not self._driver.is_closed()

    async def connect(self, deadline: Deadline) -> None:
        if self.is_connected:
            return
        import asyncpg

        left = deadline - time.monotonic()
        if left <= 0:
            raise ConnectionLostError("there was no time left to connect")
        options: dict[str, Any] = {"statement_cache_size": 0} if self._address.has_pooler else {}
        settings = {"application_name": "contextstore"} | ({} if self._address.has_pooler else self._settings)
        try:
            async with asyncio.timeout(left):
                self._driver = await asyncpg.connect(self._address.url, server_settings=settings, **options)
        except Exception as error:
            raise self._meaning_of(error, "could not connect to") from error

    def terminate(self) -> None:
        """Close the socket, now, without a word to the server."""
        if self._driver is not None:
            self._driver.terminate()
            self._driver = None

    async def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None and not driver.is_closed():
            try:
                await driver.close(timeout=2)
            except Exception:  # noqa: BLE001 - it is gone either way
                driver.terminate()

    async def _call(self, deadline: Deadline, call: Callable[[], Awaitable[T]]) -> T:
        # Not asyncio.timeout(): it would cancel the call, and asyncpg would then ask the server to cancel, too.
        driver = self._driver
        timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), driver.terminate)
        try:
            return await call()
        except Exception as error:
            meaning = self._meaning_of(error, "could not use")
            if isinstance(meaning, ConnectionLostError):
                self.terminate()
            raise meaning from error
        finally:
            timer.cancel()

    def _meaning_of(self, error: Exception, doing: str) -> Exception:
        state = getattr(error, "sqlstate", None)
        text = str(error) or type(error).__name__
        if self._address.password:
            text = text.replace(self._address.password, "***")
        if not isinstance(state, str):
            # The driver's own errors, the socket's, and what else may come: after none of them is the connection known
            # to be sound.
            return ConnectionLostError(f"{text} ({type(error).__name__})")
        if state in _AGAIN:
            return TryAgainError(f"{text} ({state})")
        if state in _LOST or state.startswith("08"):
            return ConnectionLostError(f"{text} ({state})")
        advice = _ADVICE.get(state)
        message = f"{doing} {self._address.location}: {text} ({state})" + (f": {advice}" if advice else "")
        final = _BY_STATE.get(state, StorageError)(message)
        final.state = state  # type: ignore[attr-defined]  # for the engine, which decides by it
        return final


def state_of(error: StorageError) -> str:
    """The SQLSTATE of what the server has refused for good."""
    return str(getattr(error, "state", ""))
