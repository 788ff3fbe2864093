"""Samples as small plots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextstore.inspector.plots import HEIGHT, WIDTH, plot, round_up


def test_the_newest_value_stands_at_the_right_edge() -> None:
    drawn = plot("x", "X", [("", [0.0, 1.0])], str, points=120)
    (piece,) = drawn.lines[0].pieces
    assert piece.split(" ")[-1] == f"{WIDTH:.1f},1.0"
    assert drawn.latest == "1.0"


def test_a_hole_parts_a_line() -> None:
    drawn = plot("x", "X", [("", [1.0, None, 1.0, 1.0])], str, points=4)
    assert len(drawn.lines[0].pieces) == 2
    assert drawn.area.count("Z") == 2


def test_nothing_yet_is_said_and_draws_nothing() -> None:
    drawn = plot("x", "X", [("", [])], str, points=4)
    assert drawn.is_empty
    assert drawn.latest == "—"
    assert "—" in drawn.words


@pytest.mark.parametrize(
    ("value", "least", "top"),
    [
        (0, 1, 1),
        (1, 1, 1),
        (1.2, 1, 2),
        (2.1, 1, 5),
        (5.1, 1, 10),
        (99, 1, 100),
        (0.0004, 0.001, 0.001),
        (3000, 1, 5000),
    ],
)
def test_the_upper_edge_is_one_two_or_five_times_a_power_of_ten(value: float, least: float, top: float) -> None:
    assert round_up(value, least) == pytest.approx(top)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), max_size=120))
def test_no_value_leaves_the_plot(series: list[float | None]) -> None:
    drawn = plot("x", "X", [("", series)], str, points=120)
    for piece in drawn.lines[0].pieces:
        for point in piece.split(" "):
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
