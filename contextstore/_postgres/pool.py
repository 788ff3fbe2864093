"""The connections that read: made when they are needed, kept, and at most so many at a time.

Rules of this module: a read is begun anew until the store's timeout if its connection is lost, since nothing depends on
how often it was begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from .._engine.reports import Reports
from .._waiting.deadline import Deadline
from .connection import Connection
from .errors import TransientError
from .retry import Retry, deadline_of_call
from .url import Address

T = TypeVar("T")


class ReadPool:
    """The connections of a store object that read."""

    def __init__(self, address: Address, settings: dict[str, str], reports: Reports, timeout: float, most: int) -> None:
        self._address = address
        self._settings = settings
        self._reports = reports
        self._timeout = timeout
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(most)
        self.scans = asyncio.Semaphore(max(1, most - 1))
        """To be held by what may read for long: so that a get finds a connection that is free."""

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """The rows of a statement that only reads."""
        return await self.run(lambda connection, deadline: connection.fetch(deadline, statement, *arguments))

    async def run(self, work: Callable[[Connection, Deadline], Awaitable[T]]) -> T:
        """What the work comes to, which only reads, with a connection of its own."""
        retry = Retry(self._address.location, deadline_of_call(self._timeout))
        while True:
            try:
                async with self._connection() as connection:
                    return await work(connection, retry.deadline)
            except TransientError as error:
                if not await retry.may_go_on(error):
                    raise retry.failure(in_doubt=False) from error

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        await self._wait_until_free()
        connection = self._idle.pop() if self._idle else Connection(self._address, self._settings, self._reports)
        try:
            yield connection
        finally:
            self._idle.append(connection)
            self._free.release()

    async def _wait_until_free(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # at once
            return
        began = time.monotonic()
        await self._free.acquire()
        self._reports.waited("connection", time.monotonic() - began)

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()
        self._idle.clear()
