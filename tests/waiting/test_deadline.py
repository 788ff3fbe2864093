"""Until when a call may go on, and how long it pauses: by a clock that the test moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextstore._waiting import deadline as deadline_module
from contextstore._waiting.deadline import Backoff, Deadline

from ..support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, deadline_module)


class TestADeadline:
    def test_has_what_is_left_of_its_seconds(self, clock: Clock) -> None:
        deadline = Deadline(2.0)
        assert (deadline.left, deadline.is_over) == (2.0, False)
        clock.advance(1.5)
        assert (deadline.left, deadline.is_over) == (0.5, False)

    def test_is_over_at_its_moment_and_has_nothing_left_ever_after(self, clock: Clock) -> None:
        deadline = Deadline(2.0)
        clock.advance(2.0)
        assert (deadline.left, deadline.is_over) == (0.0, True)
        clock.advance(100.0)
        assert (deadline.left, deadline.is_over) == (0.0, True)

    @pytest.mark.parametrize("seconds", [0, 0.0, -1, -math.inf])
    def test_of_no_seconds_is_over_from_the_beginning(self, clock: Clock, seconds: float) -> None:
        deadline = Deadline(seconds)
        assert (deadline.left, deadline.is_over) == (0.0, True)

    @pytest.mark.parametrize("seconds", [None, math.inf])
    def test_may_be_never(self, clock: Clock, seconds: float | None) -> None:
        deadline = Deadline(seconds)
        clock.advance(1e12)
        assert (deadline.left, deadline.is_over) == (math.inf, False)

    def test_is_a_moment_of_the_clock_that_can_be_compared(self, clock: Clock) -> None:
        assert Deadline(1.0).at < Deadline(2.0).at < Deadline(None).at


class TestABackoff:
    def test_pauses_longer_by_its_factor_up_to_the_longest(self) -> None:
        backoff = Backoff(1.0, 10.0, 2)
        assert [backoff.pause() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]

    def test_begins_anew_with_the_shortest_when_something_has_happened(self) -> None:
        backoff = Backoff(1.0, 10.0, 2)
        for _ in range(4):
            backoff.pause()
        backoff.reset()
        assert [backoff.pause() for _ in range(2)] == [1.0, 2.0]

    @given(st.floats(1e-6, 1.0), st.floats(1.0, 1e6), st.floats(1.0, 100.0))
    def test_never_pauses_shorter_than_before_nor_beyond_its_bounds(
        self, shortest: float, longest: float, factor: float
    ) -> None:
        backoff = Backoff(shortest, longest, factor)
        pauses = [backoff.pause() for _ in range(30)]
        assert pauses == sorted(pauses)
        assert (pauses[0], max(pauses) <= longest) == (shortest, True)
