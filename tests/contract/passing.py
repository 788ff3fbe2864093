"""Time that passes for the globals of a store, without anybody waiting for it.

On SQLite the clock that the store asks is set. On a server, whose clock no test sets, the expiries come nearer instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ..conftest import Target
from ..support.nodes import execute
from .runs import Clock


class Passing:
    def __init__(self, target: Target, clock: Clock, request: pytest.FixtureRequest) -> None:
        self._target = target
        self._clock = clock
        self._request = request

    async def by(self, seconds: float) -> None:
        """So many seconds pass."""
        if self._target.engine != "postgres":
            self._clock.now += datetime.timedelta(seconds=seconds)
            return
        (schema,) = urllib.parse.parse_qs(urllib.parse.urlsplit(self._target.location).query)["schema"]
        server = self._request.getfixturevalue("postgres")
        sooner = f"UPDATE {schema}.global_values SET expires_at = expires_at - {round(seconds * 1_000_000)}"
        await asyncio.to_thread(execute, server, sooner)


@contextlib.asynccontextmanager
async def batch_of(store: Any) -> AsyncIterator[Any]:
    """The block of either face, awaited."""
    batch = getattr(store, "plain", store).batch()
    if hasattr(batch, "__aenter__"):
        async with batch as begun:
            yield begun
        return
    begun = await asyncio.to_thread(batch.__enter__)
    try:
        yield begun
    except BaseException as error:
        await asyncio.to_thread(batch.__exit__, type(error), error, None)
        raise
    await asyncio.to_thread(batch.__exit__, None, None, None)
