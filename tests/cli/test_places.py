"""Where two values differ, as the inspect layer tells it. No engine is asked."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from contextstore._inspect.differences import same_value
from contextstore._inspect.places import first_difference, marked, side_by_side

DIFFER = ("different", "only in the first", "only in the second")


def told(one: Any, other: Any, **bounds: int) -> list[tuple[str, str | None, str | None]]:
    return [(line.path, line.first, line.second) for line in side_by_side(one, other, **bounds).lines]


def test_each_place_that_differs_is_told_with_what_is_the_same_beside_it() -> None:
    one = {"a": 1, "b": [1, 2, {"c": "x"}], "d": None, "e": {}}
    other = {"e": {"f": 1}, "b": [1, 2, {"c": "y"}, 4], "a": 1}
    assert told(one, other) == [
        ("$.a", "1", "1"),
        ("$.b[0]", "1", "1"),
        ("$.b[1]", "2", "2"),
        ("$.b[2].c", '"x"', '"y"'),
        ("$.b[3]", None, "4"),
        ("$.d", "null", None),
        ("$.e.f", None, "1"),
    ]


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), (b"a", "a"), ({}, []), (None, 0), ("", b""), ([1], [1, 2])]
)
def test_what_is_not_the_same_json_differs(one: Any, other: Any) -> None:
    assert side_by_side(one, other).differences == 1
    assert side_by_side(one, one).lines == []


def test_many_places_that_are_the_same_are_told_as_one() -> None:
    lines = side_by_side([0] * 50 + [1], [0] * 50 + [2]).lines
    assert [(line.path, line.kind, line.count) for line in lines] == [("$[0]", "same", 50), ("$[50]", "different", 1)]


def test_keys_that_are_no_names_are_told_as_json() -> None:
    paths = [path for path, _, _ in told({"a b": 1, "x\n\u202e": 1, "": 1, "é": 1, "k" * 500: 1}, {})]
    assert paths[:4] == ['$["a b"]', r'$["x\n\u202e"]', '$[""]', '$["é"]']
    assert len(paths[4]) < 100


def test_texts_and_bytes_are_shown_from_where_they_part() -> None:
    same = "the same for a long time, " * 1000
    ((_, first, second),) = told(same + "until here", same + "up to now", most=60)
    assert first is not None
    assert second is not None
    assert first.startswith('"…')
    assert first.endswith('until here"')
    assert second.endswith('up to now"')
    ((_, first, second),) = told(b"\0" * 5000 + b"\1", b"\0" * 5000, most=60)
    assert (first, second) == ("5001 bytes, from 5000 on: 01", "5000 bytes, from 5000 on: none")


def test_what_two_texts_share_is_not_marked() -> None:
    assert marked('"a red fox"', '"a blue fox"') == (('"a ', "red", ' fox"'), ('"a ', "blue", ' fox"'))
    assert marked('"aa"', '"aaa"') == (('"aa', "", '"'), ('"aa', "a", '"'))
    assert marked("10", "100") == (("", "10", ""), ("", "100", ""))


def test_no_more_is_looked_at_or_told_than_it_may() -> None:
    many = side_by_side(list(range(500)), [-1] * 500)
    assert (len(many.lines), many.differences, many.is_cut) == (100, 100, True)
    late = side_by_side([0] * 1000 + [1], [0] * 1000 + [2], looks=500)
    assert (late.lines, late.is_cut) == ([], True)
    assert first_difference([0] * 5000 + [1], [0] * 5000 + [2]) is None
    deep: Any = {"x" * 100: 1}
    for _ in range(240):
        deep = [deep]
    changed = json.loads(json.dumps(deep).replace(": 1", ": 2"))
    assert side_by_side(deep, changed).differences == 1


def test_a_change_at_random_is_told_at_its_place() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        one = _value(chance, 4)
        other = copy.deepcopy(one)
        path = _change(chance, other)
        found = side_by_side(one, other)
        places = [line.path for line in found.lines if line.kind in DIFFER]
        assert bool(places) == (not same_value(one, other))
        assert all(place.startswith(path) for place in places), (path, places)


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.choice("dldlnsfb") if depth else chance.choice("nsfb")
    if kind == "d":
        return {chance.choice("abcdef"): _value(chance, depth - 1) for _ in range(chance.randrange(5))}
    if kind == "l":
        return [_value(chance, depth - 1) for _ in range(chance.randrange(5))]
    return {"n": chance.randrange(3), "s": chance.choice(["", "x"]), "f": chance.choice([0.0, 1.0]), "b": None}[kind]


def _change(chance: random.Random, value: Any) -> str:
    """Change something in a container that is not empty; returns its path."""
    if not isinstance(value, dict | list) or not value:
        return "$"
    path = "$"
    while True:
        step: Any = chance.choice([*value]) if isinstance(value, dict) else chance.randrange(len(value))
        path += f".{step}" if isinstance(step, str) else f"[{step}]"
        within = value[step]
        if not isinstance(within, dict | list) or not within:
            value[step] = _value(chance, 2)
            return path
        value = within
