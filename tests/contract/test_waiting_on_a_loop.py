"""Blocking calls that wait without end, on the thread of a running event loop: they say so, at the caller's line."""

from __future__ import annotations

import asyncio
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore

CALLS: dict[str, Callable[[ContextStore], Any]] = {
    "wait_for": lambda store: store.wait_for("run", "node"),
    "wait_for of a run": lambda store: store.run("run").wait_for("node"),
}
BOUNDED: dict[str, Callable[[ContextStore], Any]] = {
    "wait_for": lambda store: store.wait_for("run", "node", timeout=30),
    "wait_for of a run": lambda store: store.run("run").wait_for("node", timeout=30),
    "get": lambda store: store.get("run", "node"),
    "watch": lambda store: next(store.watch("run")).value,  # which gives what is there, and then waits
}


def warnings_of(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert call() == 1
    return caught


@pytest.mark.parametrize("name", CALLS)
async def test_it_warns_there_by_the_callers_line(name: str, file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        (warning,) = warnings_of(lambda: CALLS[name](store))
        assert warning.category is RuntimeWarning
        assert warning.filename == __file__
        first = list(CALLS).index(name)
        lines = pathlib.Path(__file__).read_text().splitlines()
        assert f'"{list(CALLS)[first]}": lambda' in lines[warning.lineno - 1]
        assert "AsyncContextStore" in str(warning.message)
        assert "blocks the event loop" in str(warning.message)


@pytest.mark.parametrize("name", BOUNDED)
async def test_what_ends_by_itself_does_not(name: str, file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        assert warnings_of(lambda: BOUNDED[name](store)) == []


@pytest.mark.parametrize("name", [*CALLS, *BOUNDED])
async def test_in_other_threads_nothing_does(name: str, file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        call = {**CALLS, **BOUNDED}[name]
        caught = await asyncio.to_thread(warnings_of, lambda: call(store))
        assert caught == []


def test_without_a_loop_nothing_does(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        for call in CALLS.values():
            assert warnings_of(lambda call=call: call(store)) == []  # type: ignore[misc]


async def test_the_warning_as_an_error_leaves_a_store_that_works(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        for call in CALLS.values():
            with pytest.raises(RuntimeWarning):
                call(store)
        store.put("run", "node", 1)
        assert store.wait_for("run", "node", timeout=5) == 1
