"""What the commits of a store were like, as its observer tells it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._inspect.figures import MOST_COMMITS, NO_COMMITS
from contextstore.inspector import CommitFigures


def test_commits_are_counted_with_how_long_they_took(tmp_path: Any) -> None:
    figures, began = CommitFigures(), time.monotonic()
    with ContextStore(tmp_path / "store.db", observers=[figures]) as store:
        for number in range(5):
            store.put("run", f"node-{number}", number)
    told = figures.since(began)
    assert told.commits == 5
    assert told.failed == 0
    assert told.units == 1
    assert told.median_seconds is not None
    assert told.slow_seconds is not None
    assert 0 < told.median_seconds <= told.slow_seconds


def test_only_those_since_then_are_told(tmp_path: Any) -> None:
    figures = CommitFigures()
    with ContextStore(tmp_path / "store.db", observers=[figures]) as store:
        store.put("run", "node", 1)
        assert figures.since(time.monotonic()) == NO_COMMITS


def test_a_batch_is_one_of_those_that_share_a_commit(tmp_path: Any) -> None:
    figures, began = CommitFigures(), time.monotonic()
    with ContextStore(tmp_path / "store.db", observers=[figures]) as store, store.batch() as batch:
        batch.put("run", "a", 1)
        batch.put("run", "b", 2)
    assert figures.since(began).units == 1


@pytest.mark.parametrize("count", [1, 99, 100, 101])
def test_the_slow_one_is_not_exceeded_by_99_of_100(count: int) -> None:
    figures = CommitFigures()
    for number in range(1, count + 1):
        figures.on_commit(_commit(number / 1000))
    slow = figures.since(0.0).slow_seconds
    assert slow is not None
    beyond = sum(number / 1000 > slow for number in range(1, count + 1))
    assert beyond <= count / 100


def test_what_is_kept_is_bounded() -> None:
    figures = CommitFigures()
    for _ in range(MOST_COMMITS + 10):
        figures.on_commit(_commit(0.001))
    assert figures.since(0.0).commits == MOST_COMMITS


def _commit(seconds: float) -> Any:
    from contextstore.observers import CommitEvent

    return CommitEvent(
        location="x",
        engine="sqlite",
        units=1,
        operations=1,
        size=1,
        seconds=seconds,
        queued_seconds=0.0,
        error=None,
        code=None,
        outcome_unknown=False,
    )
