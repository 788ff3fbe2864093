"""What the tests of the contract share: a clock that a test sets, pairs of stores, and that nobody is left waiting."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from contextstore._core import retention as _deletion
from contextstore._postgres import engine as _postgres
from contextstore._sqlite import clock as _sqlite_clock
from contextstore._sqlite import lending as _sqlite_lending
from contextstore._sqlite import writes as _sqlite_writes
from contextstore._waiting import deadlock as _circles

from ..conftest import FACES, Target, new_location
from ..support.doubles import core_of
from .runs import Clock
from .steps import flights
from .waiting import TOLD, news, subscriptions


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_sqlite_clock, "time", clock)
    monkeypatch.setattr(_sqlite_writes, "time", clock)
    monkeypatch.setattr(_sqlite_lending, "time", clock)
    monkeypatch.setattr(_deletion, "time", clock)
    monkeypatch.setattr(_postgres, "time", clock)
    return clock


@pytest.fixture
def nobody_is_left_waiting(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of every test no store has a subscription, and none asks for news."""
    made: list[Any] = []
    for fixture in ("make_store", "pair", "tasks_store"):
        if fixture in request.fixturenames:
            value = request.getfixturevalue(fixture)
            made += value.made if isinstance(value, Target) else value if isinstance(value, tuple) else [value]
    yield
    for store in made:
        assert subscriptions(store) == []
        deadline = time.monotonic() + TOLD
        while news(store)._polling:
            assert time.monotonic() < deadline, "the poller goes on"
            time.sleep(0.001)


HOW = [("file", "same"), ("memory", "same"), ("file", "other"), ("postgres", "same"), ("postgres", "other")]
PAIRS = [(face, *how) for face in FACES for how in HOW]


@pytest.fixture(params=PAIRS, ids="-".join)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Any]]:
    """A store that waits and one that writes: the same object, or another one on the same place."""
    face, engine, writer = request.param
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(100))
    make_store = Target(face, engine, new_location(engine, request))
    async with make_store() as store:
        if writer == "same":
            yield store, store
        else:
            async with make_store() as other:
                yield store, other


@pytest.fixture
def nothing_is_left_in_the_air(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of every test no computation is on a store's list, and nobody is on record as waiting for one."""
    made: list[Any] = []
    for fixture in ("make_store", "make_tasks_store", "make_threads_store"):
        if fixture in request.fixturenames:
            made = request.getfixturevalue(fixture).made
    yield
    assert [flights(store) for store in made] == [{} for _ in made]
    assert [core_of(store)._core.backend.updates._queues for store in made] == [{} for _ in made]
    assert _circles._own.get() is None
