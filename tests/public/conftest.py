"""What several of these tests are given."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from ..conftest import new_location

Location = Callable[[str], Any]


@pytest.fixture
def location(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Location:
    """A new place for a store of an engine."""
    numbers = itertools.count()

    def make(engine: str) -> Any:
        return tmp_path / f"{next(numbers)}.db" if engine == "file" else new_location(engine, request)

    return make
