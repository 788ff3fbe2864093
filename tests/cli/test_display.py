"""Values, sizes, ages in words: short, and safe at any size and depth."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from contextstore._display.amounts import age_words, duration_words, iso, size_words
from contextstore._display.brief import brief, brief_repr
from contextstore.cli.columns import Column, laid_out

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1, "1"),
        (-1.5, "-1.5"),
        ("a\nb", '"a\\nb"'),
        ({}, "{}"),
        ([], "[]"),
        ({"a": [1, {"b": None}]}, '{"a": [1, {"b": null}]}'),
        (b"", "0 bytes"),
        (b"\x00\xff", "2 bytes: 00 ff"),
        (bytes(100), "100 bytes: " + "00 " * 16 + "…"),
        ("\x1b[31m\u202e", '"\\u001b[31m\\u202e"'),
        (object(), "<object>"),
        (10**100, "<int>"),
    ],
)
def test_a_value_in_short_is_its_json(value: Any, text: str) -> None:
    assert brief(value) == text


def test_a_value_in_short_is_never_longer_than_was_asked_for() -> None:
    values = ["x" * 10**6, list(range(10**5)), {str(n): n for n in range(10**5)}, [["x" * 100] * 100] * 100]
    for value in values:
        for most in (1, 2, 10, 60, 1000):
            text = brief(value, most)
            assert len(text) == most
            assert text.endswith("…")


def test_no_more_of_a_value_is_looked_at_than_is_shown() -> None:
    looked_at = 0

    class Item:
        def __repr__(self) -> str:
            nonlocal looked_at
            looked_at += 1
            return "item"

    brief_repr([Item() for _ in range(10_000)], 60)
    assert looked_at < 20


def test_a_value_may_be_as_deep_as_it_likes_or_contain_itself() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert brief(deep).startswith("[[[")
    circle: list[Any] = []
    circle.append(circle)
    assert len(brief(circle, 1000)) < 100


def test_a_repr_that_raises_is_shown_by_its_class() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert brief_repr(Broken()) == "<Broken>"


def test_a_repr_in_short_is_what_python_writes() -> None:
    for value in ({"a": [1, None, True, 2.5], "b": ("x",)}, "é\n", b"abc", (1, 2), ()):
        assert brief_repr(value) == repr(value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**4, "5.0 TiB"),
    ],
)
def test_sizes_have_three_or_four_figures(count: int, text: str) -> None:
    assert size_words(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (1, "1.0 s"),
        (59, "59 s"),
        (90, "1 min"),
        (7200, "2 h"),
        (86400 * 45, "1 mo"),
        (-2, "-2.0 s"),
    ],
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration_words(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (-0.5, "now"),
        (5, "5 s ago"),
        (59.9, "59 s ago"),
        (3600, "1 h ago"),
        (86400 * 400, "1 y ago"),
        (-7, "in 7 s"),
    ],
)
def test_ages_are_told_from_now(seconds: float, text: str) -> None:
    assert age_words(NOW - datetime.timedelta(seconds=seconds), NOW) == text


def test_a_time_that_is_not_known_is_told_so() -> None:
    assert age_words(None, NOW) == iso(None) == "?"
    assert iso(NOW) == "2026-01-01T12:00:00.000+00:00"


COLUMNS = [Column("ID"), Column("N", to_the_right=True), Column("TEXT", least=4)]


def test_columns_stand_below_each_other_also_with_wide_characters() -> None:
    assert laid_out(COLUMNS, [("a", "1", "x"), ("日本", "100", "y")], None) == [
        "ID      N  TEXT",
        "a       1  x",
        "日本  100  y",
    ]


def test_what_may_shrink_is_cut_first_and_then_left_out() -> None:
    rows = [("i" * 20, "1", "text " * 20)]
    assert laid_out(COLUMNS, rows, 40)[1] == "i" * 20 + "  1  text text text…"
    assert laid_out(COLUMNS, rows, 24)[1] == "i" * 20 + "  1"
    assert laid_out(COLUMNS, rows, 20)[1].startswith("iiii")
