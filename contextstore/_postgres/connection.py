"""A connection to PostgreSQL that mends itself, and what its errors mean.

Rules of this module: asyncpg is imported here alone, when there is a store that needs it; no SQL but what is passed in.
Every answer of the server is waited for until a deadline and no longer: then the socket is closed. The server is never
asked to cancel anything: under synchronous replication a cancelled commit is visible, and lost at the next fail-over.
Rejected: asyncpg.Pool, which waits without end for a host that has fallen silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..errors import CorruptStoreError, ReadOnlyStoreError, StorageError, StoreBusyError, StoreFullError
from .statements import STILL_BUSY
from .url import Address

T = TypeVar("T")

Deadline = float
"""By time.monotonic()."""


class ConnectionLostError(Exception):
    """The connection is gone, or no longer to be trusted. What the server made of the last statement is not known.

    ``is_refusal``: unless the server itself has said that it did nothing, as one that is starting or a standby does.
    """

    def __init__(self, message: str, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


class TryAgainError(Exception):
    """The server has undone the statement, or its transaction, and says that it may succeed if it is tried again."""


_LOST = frozenset(["40003", "57P01", "57P02", "57P03", "25006", "53300"])
"""Beside class 08. 57P: the server ends or begins; 25006: it has become a standby; 53300: it has no connection left."""
_REFUSALS = frozenset(["57P03", "25006", "53300"])
"""Those of the above after which nothing was done."""
_AGAIN = frozenset(["40001", "40P01", "57014"])
"""Undone for the sake of others, or since somebody's limit was reached."""
_LEFT_BEHIND = 3
"""How many connections that never answered a server may still be busy with before it gets no further one."""
_BY_STATE: dict[str, type[StorageError]] = {
    "53100": StoreFullError,
    "55P03": StoreBusyError,
    "42501": ReadOnlyStoreError,
    "XX001": CorruptStoreError,
    "XX002": CorruptStoreError,
}
_ADVICE = {
    "28P01": "check the user's name and password",
    "28000": "check the user's name and the server's pg_hba.conf",
    "3D000": "there is no such database: create it, or name another one in the URL",
    "42501": "the role lacks a right; grant it, or open the store with read_only=True",
    "55P03": "somebody else holds a lock there; nothing was stored: try again",
    "53100": "the server's disk is full; free some room and try again",
}


def import_driver() -> None:
    """In the thread that makes the store, and not in the store's own, which would have to wait for the locks of the
    import and of ``logging`` that somebody may hold who waits for that thread, or who has been left behind by a fork.
    If there is none, who opens the store is told.
    """
    with contextlib.suppress(ModuleNotFoundError):
        import asyncpg  # noqa: F401


class Connection:
    """One connection, made when it is needed, made anew when it was lost."""

    def __init__(self, address: Address, settings: dict[str, str]) -> None:
        self._address = address
        self._settings = settings
        self._driver: Any = None
        self._host = 0  # where it was connected last
        self._left_behind: list[int] = []
        self.is_in_transaction = False
        """Then it is not made anew by itself: the rest would run without the beginning."""

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
        if self.is_in_transaction:
            raise ConnectionLostError("the connection was lost within a transaction", is_refusal=True)
        hosts = len(self._address.urls)
        failure: Exception | None = None
        for attempt in range(hosts):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            host = (self._host + attempt) % hosts
            try:
                # A host that is silent gets its share and no more: a second at least, and all of it if it is the last.
                await self._connect_to(self._address.urls[host], min(left, max(1.0, left / (hosts - attempt))))
            except (ConnectionLostError, TryAgainError) as error:
                failure = error
            else:
                self._host = host
                return
        raise failure or ConnectionLostError("there was no time left to connect", is_refusal=True)

    async def _connect_to(self, url: str, seconds: float) -> None:
        import asyncpg

        options: dict[str, Any] = {"statement_cache_size": 0} if self._address.has_pooler else {}
        settings = {} if self._address.has_pooler else self._settings
        settings = {"application_name": self._address.application_name} | settings
        try:
            async with asyncio.timeout(seconds):
                self._driver = await asyncpg.connect(url, server_settings=settings, **options)
                await self._refuse_if_many_are_left_behind()
        except Exception as error:
            self.terminate()
            if isinstance(error, ConnectionLostError):
                raise
            if isinstance(error, ValueError):  # of the driver's, about the URL
                raise self._final(str(error), "could not connect to", "22023") from self._told(error)
            if getattr(error, "sqlstate", None) == "08P01":  # an unsupported startup parameter
                raise self._final(
                    f"{error}; if a pooler is in between, add ?pooler=transaction", "could not connect to", "08P01"
                ) from self._told(error)
            meaning = self._meaning_of(error, "could not connect to")
            if isinstance(meaning, ConnectionLostError):
                meaning.is_refusal = True  # what was to be sent has not been
            raise meaning from self._told(error)

    async def _refuse_if_many_are_left_behind(self) -> None:
        """A server that waits for its standby goes on with what nobody listens to any more, and each further connection
        would come to the same end, until it takes none from anybody.
        """
        if len(self._left_behind) >= _LEFT_BEHIND and not self._address.has_pooler:
            self._left_behind = [pid for (pid,) in await self._driver.fetch(STILL_BUSY, self._left_behind)]
            if len(self._left_behind) >= _LEFT_BEHIND:
                raise ConnectionLostError(
                    f"the server is still busy with {len(self._left_behind)} earlier writes of this store",
                    is_refusal=True,
                )

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

        def give_up() -> None:
            self._left_behind.append(driver.get_server_pid())
            driver.terminate()

        timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), give_up)
        try:
            return await call()
        except Exception as error:  # noqa: BLE001 - raised anew as what it means
            meaning = self._meaning_of(error, "could not use")
            if isinstance(meaning, ConnectionLostError):
                self.terminate()
            raise meaning from self._told(error)
        finally:
            timer.cancel()

    def _meaning_of(self, error: Exception, doing: str) -> Exception:
        state = getattr(error, "sqlstate", None)
        text = self._address.hide(str(error) or type(error).__name__)
        if not isinstance(state, str):
            # The driver's own errors, the socket's, and what else may come: after none of them is the connection known
            # to be sound.
            return ConnectionLostError(f"{text} ({type(error).__name__})")
        if state in _AGAIN:
            return TryAgainError(f"{text} ({state})")
        if state in _LOST or state.startswith("08"):
            return ConnectionLostError(f"{text} ({state})", is_refusal=state in _REFUSALS)
        return self._final(text, doing, state)

    def _final(self, text: str, doing: str, state: str) -> StorageError:
        advice = _ADVICE.get(state)
        text = self._address.hide(text)
        message = f"{doing} {self._address.location}: {text} ({state})" + (f": {advice}" if advice else "")
        final = _BY_STATE.get(state, StorageError)(message)
        final.state = state  # type: ignore[attr-defined]  # for the engine, which decides by it
        return final

    def _told(self, error: BaseException) -> BaseException | None:
        """The error as a cause that may be shown; None if what somebody says in it shows a password."""
        chain: BaseException | None = error
        while chain is not None:
            if self._address.hide(f"{chain} {chain!r}") != f"{chain} {chain!r}":
                return None
            chain = chain.__cause__ or chain.__context__
        return error


def state_of(error: StorageError) -> str:
    """The SQLSTATE of what the server has refused for good."""
    return str(getattr(error, "state", ""))


def state_of_cause(error: BaseException | None) -> str:
    """The SQLSTATE of the server's answer that led to a lost connection; "" if it gave none."""
    return str(getattr(error.__cause__ if error is not None else None, "sqlstate", None) or "")
