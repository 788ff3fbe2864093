"""Single calls under pytest-benchmark: to compare one version of the library with another.

make bench-calls BENCH_ARGS="--benchmark-autosave --benchmark-compare"
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import ContextStore

from .contestants import RUN, VALUE


@pytest.fixture(params=["full", "normal"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(tmp_path / "store.db", durability=request.param) as opened:
        yield opened


def test_put(benchmark: Any, store: ContextStore) -> None:
    numbers = itertools.count()
    benchmark(lambda: store.put(RUN, f"{next(numbers)}", VALUE))


def test_put_many_of_100(benchmark: Any, store: ContextStore) -> None:
    numbers = itertools.count()
    benchmark(lambda: store.put_many(f"{next(numbers)}", {f"{i}": VALUE for i in range(100)}))


def test_repeated_get(benchmark: Any, store: ContextStore) -> None:
    store.put(RUN, "node", VALUE)
    assert benchmark(lambda: store.get(RUN, "node")) == VALUE


def test_list_keys_of_1000(benchmark: Any, store: ContextStore) -> None:
    store.put_many(RUN, {f"{i}": i for i in range(1000)})
    assert len(benchmark(lambda: store.list_keys(RUN))) == 1000


def test_upsert_global(benchmark: Any, store: ContextStore) -> None:
    assert benchmark(lambda: store.upsert_global("key", VALUE)) > 0
