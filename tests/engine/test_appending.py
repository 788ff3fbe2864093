"""Which id comes next, past those that are taken."""

from __future__ import annotations

import bisect
import random

import pytest

from contextstore import InvalidKeyError
from contextstore._engine.appending import LAST_NUMBER, PAGE_ROWS, NextIds, appended_id, end_of_ids


def given(ids: NextIds, taken: set[str], count: int) -> list[str]:
    """The next ids, where these are taken: looked up as an engine does."""
    everything = sorted(taken)
    some = []
    for _ in range(count):
        while (first := ids.unseen()) is not None:
            start = bisect.bisect_left(everything, first)
            below = [one for one in everything[start : start + PAGE_ROWS] if one < end_of_ids(ids.prefix)]
            ids.see(first, below)
        some.append(ids.give())
    return some


def test_ids_that_are_taken_are_passed_over_however_many_and_whatever_lies_between() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        last = chance.choice([0, 5, 10**12 - 300, 10**13 - 5])
        numbers = [last + 1 + chance.randrange(500) for _ in range(chance.choice([0, 3, 400]))]
        taken = {appended_id("p", number) for number in numbers}
        noise = {f"p{chance.randrange(10**4)}" for _ in range(300)} | {one + "x" for one in taken}
        expected = [n for n in range(last + 1, last + 700) if appended_id("p", n) not in taken][:40]
        assert given(NextIds("p", last), taken | noise, 40) == [appended_id("p", number) for number in expected]


def test_ids_that_the_same_write_takes_are_passed_over() -> None:
    assert given(NextIds("p", 0, {"p000000000002"}), set(), 2) == ["p000000000001", "p000000000003"]


def test_there_is_no_id_behind_the_last_number_nor_one_longer_than_an_id_may_be() -> None:
    ids = NextIds("p", LAST_NUMBER)
    with pytest.raises(InvalidKeyError, match="prefix"):
        ids.unseen()
    with pytest.raises(InvalidKeyError, match="prefix"):
        appended_id("p" * 2000, 1)
