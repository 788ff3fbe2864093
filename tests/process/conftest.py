"""What the tests of the blocking face share: a store of it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from contextstore import ContextStore


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(file_path) as store:
        yield store
