"""How far a check has come is told some times a second, rises, and ends at what was counted at the beginning."""

from __future__ import annotations

import time

import pytest

from contextstore._engine.check_progress import SECONDS, CheckProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_it_is_told_by_the_clock_and_not_by_each_row(clock: list[float]) -> None:
    told: list[tuple[int, int]] = []
    progress = CheckProgress(lambda *event: told.append(event), 1000)
    for _ in range(300):
        progress.add()
    assert told == [(0, 1000)]
    clock[0] += SECONDS
    progress.add()
    progress.add(100)
    assert told == [(0, 1000), (301, 1000)]
    progress.end()
    assert told[-1] == (1000, 1000)


def test_what_comes_on_top_of_what_was_counted_is_not_told(clock: list[float]) -> None:
    told: list[tuple[int, int]] = []
    progress = CheckProgress(lambda *event: told.append(event), 10)
    for _ in range(30):
        clock[0] += SECONDS
        progress.add()
    progress.end()
    assert max(told) == told[-1] == (10, 10)
