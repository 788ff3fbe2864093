"""A connection to PostgreSQL that mends itself.

Rules of this module: asyncpg is imported here alone, when there is a store that needs it; no SQL but what is passed in,
and what begins and ends a transaction. Every answer of the server is waited for until a deadline and no longer: then
the socket is closed. The server is never asked to cancel anything: under synchronous replication a cancelled commit is
visible, and lost at the next fail-over. Rejected: asyncpg.Pool, which waits without end for a host that has fallen
silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from .._engine.reports import Reports
from .._process.log import log
from .._waiting.deadline import Deadline
from ..errors import StorageError
from .errors import ConnectionLostError, TransientError, classify, code_of, permanent, shown_cause
from .retry import deadline_of_call
from .statements import STILL_BUSY
from .url import Address

T = TypeVar("T")

_MAX_ABANDONED = 3
"""How many connections that never answered a server may still be busy with before it gets no further one."""
_MIN_HOST_SECONDS = 1.0
"""Seconds that a host gets to answer, at least, if there are others to be tried behind it."""


def import_driver() -> None:
    """In the thread that makes the store, and not in the store's own.

    The store's thread would have to wait for the locks of the import and of ``logging``. A thread that waits for the
    store may hold them, or one that a fork has left behind. If there is no driver, the caller that opens the store is
    told.
    """
    with contextlib.suppress(ModuleNotFoundError):
        import asyncpg  # noqa: F401


class Connection:
    """One connection, made when it is needed, made anew when it was lost."""

    def __init__(self, address: Address, settings: dict[str, str], reports: Reports) -> None:
        self._address = address
        self._settings = settings
        self._reports = reports
        self._was_lost = False
        self._driver: Any = None
        self._host = 0  # where it was connected last
        self._abandoned: list[int] = []  # process ids at the server
        self._is_in_transaction = False  # then it is not made anew by itself: the rest would run without the beginning

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
        if self._is_in_transaction:
            raise ConnectionLostError("the connection was lost within a transaction", is_refusal=True)
        if self._driver is not None:  # the driver has seen its end between two calls
            self.terminate()
            self._note_loss(ConnectionLostError("the other side has closed it", is_refusal=True))
        hosts = len(self._address.urls)
        failure: Exception | None = None
        for attempt in range(hosts):
            left = deadline.left
            if not left:
                break
            host = (self._host + attempt) % hosts
            # A host that is silent gets its share and no more: a second at least, and all of it if it is the last.
            share = max(_MIN_HOST_SECONDS, left / (hosts - attempt))
            try:
                await self._connect_to(self._address.urls[host], min(left, share))
            except TransientError as error:
                failure = error
                self._reports.trouble("connection", error)
            else:
                self._host = host
                if self._was_lost:
                    self._was_lost = False
                    log(logging.INFO, "reconnected", self._address.location, "connected anew")
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
                await self._refuse_if_many_are_abandoned()
        except ConnectionLostError:
            self.terminate()
            raise
        except Exception as error:  # noqa: BLE001 - raised anew as what it means
            self.terminate()
            raise self._refusal_to_connect(error) from shown_cause(error, self._address)

    def _refusal_to_connect(self, error: Exception) -> Exception:
        doing, code = "could not connect to", code_of(error)
        if isinstance(error, ValueError):  # of the driver's, about the URL
            return permanent(str(error), doing, "22023", self._address)
        if code == "08P01":  # an unsupported startup parameter
            hint = f"{error}; if a pooler is in between, add ?pooler=transaction"
            return permanent(hint, doing, code, self._address)
        meaning = classify(error, doing, self._address)
        if isinstance(meaning, ConnectionLostError):
            meaning.is_refusal = True  # what was to be sent has not been
        return meaning

    async def _refuse_if_many_are_abandoned(self) -> None:
        """A server that waits for its standby goes on with writes that the store has given up.

        Each further connection would come to the same end, until the server takes none from any client.
        """
        if len(self._abandoned) >= _MAX_ABANDONED and not self._address.has_pooler:
            self._abandoned = [pid for (pid,) in await self._driver.fetch(STILL_BUSY, self._abandoned)]
            if len(self._abandoned) >= _MAX_ABANDONED:
                raise ConnectionLostError(
                    f"the server is still busy with {len(self._abandoned)} earlier writes of this store",
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
            self._abandoned.append(driver.get_server_pid())
            driver.terminate()

        timer = asyncio.get_running_loop().call_later(deadline.left, give_up)
        try:
            return await call()
        except Exception as error:  # noqa: BLE001 - raised anew as what it means
            meaning = classify(error, "could not use", self._address)
            if isinstance(meaning, ConnectionLostError):
                self.terminate()
                self._note_loss(meaning)
            raise meaning from shown_cause(error, self._address)
        finally:
            timer.cancel()

    def _note_loss(self, error: ConnectionLostError) -> None:
        self._was_lost = True
        self._reports.trouble("connection", error)
        log(
            logging.INFO, "connection_lost", self._address.location, "a connection was lost: %s", error, code=error.code
        )

    @contextlib.asynccontextmanager
    async def transaction(self, deadline: Deadline, *, snapshot: bool = False) -> AsyncIterator[None]:
        """Around statements that are committed together; with ``snapshot`` they only read, as of one moment."""
        await self.execute(deadline, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if snapshot else "BEGIN")
        self._is_in_transaction = True
        try:
            yield
            if snapshot:  # each of its statements may have had a deadline of its own, behind this one
                deadline = deadline_of_call(deadline.left)
            await self.execute(deadline, "COMMIT")
        except BaseException as error:
            if not isinstance(error, ConnectionLostError):  # also where COMMIT itself was refused
                with contextlib.suppress(TransientError, StorageError):
                    await self.execute(deadline, "ROLLBACK")
            raise
        finally:
            self._is_in_transaction = False
