"""What the page of a value is made of: its tree within a budget, places in it, and where a text is in it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from contextstore._display.hexadecimal import hex_rows
from contextstore._inspect.finding import find
from contextstore._inspect.folding import Branch, folded
from contextstore._inspect.pointers import part_of, pointer_of

NAMES = ["a", "", "0", "01", "-", "a/b", "~", "~1", "~0/", '"', "<script>", "é", "\u202e", "a b"]


def a_value(chance: random.Random, depth: int) -> Any:
    if depth and chance.random() < 0.7:
        inside = [a_value(chance, depth - 1) for _ in range(chance.randrange(6))]
        return inside if chance.random() < 0.5 else dict(zip(chance.sample(NAMES, len(inside)), inside, strict=True))
    return chance.choice([None, True, 0, -1, 2**63, 0.1, "", "text", "Needle", "x" * 300])


def parts(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value), *(one for name, child in items for one in parts(child, (*path, name)))]


def all_branches(branch: Branch) -> list[Branch]:
    return [branch, *(one for child in branch.inside for one in all_branches(child))]


def test_a_pointer_leads_to_what_it_was_made_for_and_to_nothing_else() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    value = a_value(random.Random(seed), 5)
    everything = parts(value)
    pointers = [pointer_of(path) for path, _ in everything]
    assert len(set(pointers)) == len(pointers)
    for pointer, (path, part) in zip(pointers, everything, strict=True):
        found = part_of(value, pointer)
        assert found[0] == path
        assert found[1] is part


@pytest.mark.parametrize("pointer", ["a", "/b", "/a/01", "/a/-", "/a/2", "/a/-1", "/a/٣", "/~2", "/~", "/a/0/x", "/a/"])
def test_a_pointer_that_leads_nowhere_says_so(pointer: str) -> None:
    with pytest.raises(LookupError, match=r"JSON Pointer|there is no"):
        part_of({"a": [1, 2], "~": 1}, pointer)


def test_a_tree_keeps_to_its_budget_and_tells_what_it_leaves_out() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        value, budget = a_value(chance, 5), chance.randrange(1, 60)
        root = folded(value, depth=4, children=4, most=40, budget=budget)
        branches = all_branches(root)
        assert len(branches) - 1 <= max(budget, 1)
        for branch in branches:
            assert branch.value is part_of(value, pointer_of(branch.path))[1]
            assert branch.is_folded == (len(branch.inside) < branch.children)
            assert [child.name for child in branch.inside] == (
                list(branch.value) if isinstance(branch.value, dict) else list(range(branch.children))
            )[: len(branch.inside)]


def test_a_tree_with_room_enough_is_whole() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    value = a_value(random.Random(seed), 5)
    branches = all_branches(folded(value, depth=9, children=100, most=40, budget=10**6))
    assert sorted(pointer_of(one.path) for one in branches) == sorted(pointer_of(path) for path, _ in parts(value))


def test_siblings_are_unfolded_alike() -> None:
    value = {"rows": [{"a": 1, "b": 2}] * 50}
    whole = folded(value, depth=9, children=100, most=40, budget=200)
    assert {len(row.inside) for row in whole.inside[0].inside} == {2}
    short = folded(value, depth=9, children=100, most=40, budget=100)
    assert {len(row.inside) for row in short.inside[0].inside} == {0}
    few = folded({"small": [1, 2], "rows": [0] * 10**6}, depth=9, children=100, most=40, budget=50)
    assert [len(one.inside) for one in few.inside] == [2, 20]


def test_a_tree_begins_where_it_is_asked_to() -> None:
    root = folded(list(range(1000)), depth=2, children=100, most=40, offset=950)
    assert [one.name for one in root.inside] == list(range(950, 1000))
    assert root.shown == 1000
    assert folded([1, 2], depth=2, children=100, most=40, offset=7).inside == []


def test_a_text_is_found_in_keys_strings_and_numbers_whatever_its_case() -> None:
    value = {"Alpha": 1, "b": ["an ALPHA", {"c": 12.5, "d": None}], "alpha": {"beta": True}}
    found = find(value, "alpha")
    assert [(one.path, one.is_key, one.hit) for one in found.matches] == [
        (("Alpha",), True, "Alpha"),
        (("b", 0), False, "ALPHA"),
        (("alpha",), True, "alpha"),
    ]
    assert found.is_whole
    assert [one.path for one in find(value, "2.5").matches] == [("b", 1, "c")]
    assert [one.path for one in find(value, "tru").matches] == [("alpha", "beta")]
    assert [one.path for one in find(value, "NULL").matches] == [("b", 1, "d")]
    assert find(value, ".*").matches == []
    assert [one.path for one in find("only a text", "TEXT").matches] == [()]


def test_all_that_a_search_looks_at_is_all_of_the_value() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    value = a_value(random.Random(seed), 5)
    found = find(value, "needle", most=10**6)
    assert [one.path for one in found.matches] == [path for path, part in parts(value) if part == "Needle"]
    assert found.looked_at == len(parts(value))


def test_a_search_ends_after_so_many_matches_or_so_long() -> None:
    many = find(["x"] * 1000, "x", most=100)
    assert (len(many.matches), many.is_whole) == (100, False)
    late = find([0] * 100_000, "x", seconds=-1)
    assert (late.matches, late.is_whole) == ([], False)
    assert late.looked_at < 100_000
    exact = find(["x"] * 100, "x", most=100)
    assert (len(exact.matches), exact.is_whole) == (100, True)


def test_what_is_around_a_match_is_short() -> None:
    (match,) = find("y" * 10_000 + "needle" + "z" * 10_000, "needle").matches
    assert match.before == "…" + "y" * 60
    assert match.after == "z" * 60 + "…"
    (long,) = find("x" * 100_000, "x" * 50_000, most=1).matches
    assert len(long.hit) == 120


def test_rows_of_bytes_are_those_of_a_hex_dump() -> None:
    assert [str(row) for row in hex_rows(bytes(range(60, 80)))] == [
        "00000000  3c 3d 3e 3f 40 41 42 43 44 45 46 47 48 49 4a 4b  <=>?@ABCDEFGHIJK",
        f"00000010  {'4c 4d 4e 4f':<47}  LMNO",
    ]
    assert [row.offset for row in hex_rows(bytes(100), 32, 2)] == [32, 48]
    assert list(hex_rows(b"")) == []


@pytest.mark.parametrize("length", [1000, 60_000])
def test_a_search_ends_in_the_middle_of_a_text_when_its_time_is_up(length: int) -> None:
    found = find(["x" * 20_000_000], "x" * length + "y", seconds=0.2)
    assert not found.is_whole
    assert not found.matches


def test_in_a_long_text_a_hit_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextstore._inspect.finding._STEPS", 20)  # so that a text has many parts
    for place in range(60):
        (match,) = find("." * place + "NeeDle" + "." * 50, "needle").matches
        assert (match.hit, len(match.before)) == ("NeeDle", place)
