"""The serials that a store object has seen: forgotten with their runs, and bounded."""

from __future__ import annotations

import pytest

from contextstore._engine import serials
from contextstore._engine.serials import Serials


@pytest.fixture
def known() -> Serials:
    known = Serials()
    known.add("a", 1)
    known.add("b", 2)
    return known


def test_a_serial_is_known_from_when_it_is_added(known: Serials) -> None:
    assert (known.get("a"), known.get("b"), known.get("c")) == (1, 2, None)


def test_the_last_serial_of_an_id_that_was_used_anew_stands(known: Serials) -> None:
    known.add("a", 7)
    assert known.get("a") == 7


def test_those_of_deleted_runs_are_forgotten_and_no_others(known: Serials) -> None:
    known.forget(["a", "never seen"])
    assert (known.get("a"), known.get("b")) == (None, 2)


def test_all_are_forgotten_when_another_client_may_have_deleted_one(known: Serials) -> None:
    known.clear()
    assert (known.get("a"), known.get("b")) == (None, None)


def test_they_begin_anew_only_beyond_the_bound_and_only_when_asked(
    known: Serials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serials, "_MOST", 2)
    known.bound()
    assert known.get("a") == 1
    known.add("c", 3)
    assert known.get("a") == 1  # within a commit they stay
    known.bound()
    assert [known.get(run) for run in ("a", "b", "c")] == [None] * 3
