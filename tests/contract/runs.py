"""Runs for the tests that list, fork, delete and prune them: a clock that a test sets, and what is there."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import sqlite3
import time
import uuid
from collections.abc import Callable
from typing import Any

from ..conftest import Target
from ..support.doubles import core_of

RUN = uuid.UUID("018f3a00-0000-7000-8000-00000000000f")
DAY = datetime.timedelta(days=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Clock:
    """The time module, with a wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def time_ns(self) -> int:
        return (self.now - EPOCH) // datetime.timedelta(microseconds=1) * 1000

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


async def runs_of(store: Any, **options: Any) -> list[str]:
    return [run.flow_run_id for run in await store.list_runs(**options)]


def before_each_commit(store: Any, act: Callable[[], Any]) -> None:
    """Have something awaited in the calling task, or thread, before each commit that a call of the store makes."""
    core: Any = core_of(store)
    commit = core._session.commit

    async def acting(operations: Any) -> Any:
        await act()
        return await commit(operations)

    core._session.commit = acting


def marks(store: Any) -> int:
    """How many commits a deletion takes before the first that removes outputs."""
    return 0 if core_of(store)._session.engine.deletes_at_once else 1


def rows_of(target: Target | pathlib.Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(getattr(target, "location", target))) as connection:
        return connection.execute(query).fetchall()


KILLED_AT_ITS_NTH_COMMIT = """
    from tests.support.doubles import core_of

    engine = core_of(store)._session.engine
    commit, left = engine.commit, [number]

    async def counted(units):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return await commit(units)

    engine.commit = counted
"""
