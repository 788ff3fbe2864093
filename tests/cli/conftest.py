"""What the tests of the command line share: a place for a store on each engine."""

from __future__ import annotations

from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest) -> str:
    """Where nobody has been yet, as it is named on a command line."""
    return str(new_location(request.param, request))


@pytest.fixture
def filled(place: str) -> str:
    """A store with two runs and a global."""
    fill(place)
    return place


@pytest.fixture
def filled_file(file_path: Any) -> str:
    """The same in a file, for tests that the engine makes no difference to."""
    fill(str(file_path))
    return str(file_path)


def fill(place: str) -> None:
    with ContextStore(place) as store:
        store.put("run-1", "extract", {"rows": 3})
        store.put("run-1", "report", b"\x00\xff")
        store.put("run-2", "extract", [1, 2.5, None])
        store.upsert_global("latest", "run-2")
