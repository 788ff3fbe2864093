"""Lists at a million runs: they cost what they show, and not what there is."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._inspect.runs import run_page, was_deleted
from contextstore._inspect.timeline import time_line

RUNS = 1_000_000
ROUNDS = 30

LOOKS: dict[str, Callable[[ContextStore, int], Any]] = {
    "the newest": lambda store, count: run_page(store),
    "a page in the middle": lambda store, count: run_page(store, after=f"run-{count // 2:07}"),
    "a prefix of many": lambda store, count: run_page(store, prefix="run-0"),
    "a prefix of one": lambda store, count: run_page(store, prefix=f"run-{count // 2:07}"),
    "a prefix of none": lambda store, count: run_page(store, prefix="other"),
    "one run": lambda store, count: time_line(store, f"run-{count // 2:07}"),
    "whether it was deleted": lambda store, count: was_deleted(store, f"run-{count // 2:07}"),
}


def fill(path: pathlib.Path, count: int) -> None:
    with ContextStore(path, durability="normal") as store:
        for first in range(0, count, 10_000):
            with store.batch() as batch:
                for number in range(first, min(first + 10_000, count)):
                    batch.put(f"run-{number:07}", "node", number)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, pathlib.Path]]:
    folder = tmp_path_factory.mktemp("scale")
    paths = {count: folder / f"{count}.db" for count in (1000, RUNS)}
    for count, path in paths.items():
        fill(path, count)
    yield paths
    for path in paths.values():  # they are large, and may lie in memory
        path.unlink()


@pytest.fixture
def stores(paths: dict[int, pathlib.Path]) -> Iterator[list[tuple[ContextStore, int]]]:
    with contextlib.ExitStack() as stack:
        open_one = functools.partial(ContextStore, read_only=True, cache_bytes=0)
        yield [(stack.enter_context(open_one(path)), count) for count, path in paths.items()]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_a_million_runs_takes_about_as_long_as_at_a_thousand(
    look: str, stores: list[tuple[ContextStore, int]]
) -> None:
    taken: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for times, (store, count) in zip(taken, stores, strict=True):
            begun = time.perf_counter()
            LOOKS[look](store, count)
            times.append(time.perf_counter() - begun)
    few, many = map(statistics.median, taken)
    assert many < few * 20, (few, many)  # a thousand times as much, if all were looked at
