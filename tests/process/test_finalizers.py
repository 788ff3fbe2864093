"""ContextStore: a finalizer may call it wherever the collector comes, and no call waits for ever."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from contextstore import ContextStore, WrongLoopError

from ..support.portions import some
from .threads import HANG, run_threads


class Cycle:
    """Garbage that puts and gets when it is collected."""

    refused: ClassVar[list[str]] = []

    def __init__(self, store: ContextStore, name: str) -> None:
        self._self = self
        self._store = store
        self._name = name

    def __del__(self) -> None:
        try:
            self._store.put("finalized", self._name, self._name)
        except WrongLoopError:  # its thread commits just now
            self.refused.append(self._name)
            return
        assert self._store.get("finalized", self._name) == self._name
        assert self._store.get("finalized", f"missing {self._name}") is None


@pytest.fixture
def collector_at_every_step() -> Iterator[None]:
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # or each of very many collections would walk over what the tests before this one have left
    gc.set_threshold(3, 1000, 1000)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector_at_every_step")
def test_finalizers_that_put_and_get_in_the_middle_of_other_calls_are_served(store: ContextStore) -> None:
    rounds = some(400, 60)
    Cycle.refused.clear()

    def work(number: int) -> None:
        for at in range(rounds):
            Cycle(store, f"{number} {at}")
            store.put("run", f"{number} {at}", at)
            assert store.get("run", f"{number} {at}") == at
            assert store.get("run", f"missing {at}") is None

    outcomes: list[object] = []
    beside = threading.Thread(target=lambda: outcomes.extend(run_threads(work, 2)), daemon=True)
    beside.start()
    work(2)
    beside.join(2 * HANG)
    assert outcomes == [None, None]
    gc.collect()
    assert len(store.list_keys("run")) == 3 * rounds
    # Each call is served, or is refused and stores nothing.
    assert sorted([*store.list_keys("finalized"), *Cycle.refused]) == sorted(
        f"{number} {at}" for number in range(3) for at in range(rounds)
    )
