"""What the tests of the modules between the core and its engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contextstore._dispatch import deletion_looks
from contextstore._dispatch import subscriptions as subscriptions_module

from ..support.clock import Clock
from ..support.desk import Desk
from ..support.fake_engine import FakeEngine
from ..support.waiting import Waiting


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def desk(engine: FakeEngine) -> AsyncIterator[Desk]:
    desk = Desk(engine)
    yield desk
    engine.release()
    engine.run_writes()
    assert desk.writer.queued == 0
    assert not engine.is_locked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(deletion_looks, "_MOST_REST", 0.0)  # a look takes as long as the test lets it wait
    return Clock(monkeypatch, subscriptions_module, deletion_looks)


@pytest.fixture
async def waiting(clock: Clock) -> AsyncIterator[Waiting]:
    waiting = Waiting(clock)
    yield waiting
    await waiting.end()
