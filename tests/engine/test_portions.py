"""Portions: so many and about so many bytes, and the first always fits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextstore._engine.portions import Portion, portions


class TestAPortion:
    def test_takes_items_up_to_both_limits_and_no_further(self) -> None:
        portion = Portion(3, 100)
        assert [portion.takes(40), portion.takes(40), portion.takes(40), portion.takes(20)] == [True, True, False, True]
        assert not portion.takes(0)

    def test_does_not_count_what_it_did_not_take(self) -> None:
        portion = Portion(3, 100)
        assert portion.takes(60)
        for _ in range(5):
            assert not portion.takes(41)
        assert portion.takes(40)

    def test_counts_several_items_at_once(self) -> None:
        portion = Portion(10, 100)
        assert [portion.takes(1, 6), portion.takes(1, 5), portion.takes(1, 4)] == [True, False, True]

    @pytest.mark.parametrize(("size", "items"), [(10**9, 1), (1, 10**9), (0, 0)])
    def test_takes_the_first_however_large_and_then_goes_by_the_limits(self, size: int, items: int) -> None:
        portion = Portion(10, 100)
        assert portion.takes(size, items)
        assert not portion.takes(101)

    @pytest.mark.parametrize(
        ("taken", "is_full"),
        [
            ([], False),
            ([(99, 2)], False),
            ([(100, 1)], True),
            ([(500, 1)], True),
            ([(0, 3)], True),
            ([(0, 1), (0, 1), (0, 1)], True),
            ([(0, 9)], True),
        ],
    )
    def test_is_full_once_either_limit_is_reached(self, taken: list[tuple[int, int]], is_full: bool) -> None:
        portion = Portion(3, 100)
        assert all(portion.takes(size, items) for size, items in taken)
        assert portion.is_full is is_full


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 6), st.integers(1, 60))
def test_all_go_into_portions_in_order_which_keep_to_the_limits_and_are_as_large_as_they_can(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    parts = list(portions(sizes, lambda size: size, most, most_bytes))
    assert [size for part in parts for size in part] == sizes
    for part in parts:
        assert part
        assert len(part) == 1 or (len(part) <= most and sum(part) <= most_bytes)
    for part, after in itertools.pairwise(parts):
        assert len(part) == most or sum(part) + after[0] > most_bytes


def test_nothing_makes_no_portion() -> None:
    assert list(portions([], len, 10, 100)) == []


def test_portions_are_made_as_they_are_asked_for() -> None:
    asked: list[int] = []

    def size_of(item: int) -> int:
        asked.append(item)
        return 1

    parts = portions(iter(range(10)), size_of, 2, 100)
    assert next(parts) == [0, 1]
    assert asked == [0, 1, 2]
