"""ContextStore: a finalizer may call it wherever the collector comes, and no call waits for ever."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from contextstore import ContextStore, StoreClosedError, WrongLoopError

from ..conftest import ENGINES, new_location
from ..support.doubles import core_of
from ..support.instructions import at_each_instruction
from ..support.portions import some
from .threads import HANG, in_thread, run_threads


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
def quick_collector() -> Iterator[None]:
    """Or each of very many collections would walk over what the tests before this one have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def collector_at_every_step(quick_collector: None) -> Iterator[None]:
    before = gc.get_threshold()
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


@pytest.mark.usefixtures("quick_collector")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_finalizer_that_puts_where_a_caller_begins_to_wait_or_ends_is_served(
    engine: str, request: pytest.FixtureRequest
) -> None:
    """At each instruction in turn, while the store asks for news all the time, since another thread waits."""
    store = ContextStore(new_location(engine, request))
    store.open()
    feed: Any = core_of(store)._session.engine.feed
    if feed is not None:
        feed.poll_seconds = (0.001, 0.001)

    def wait(node: str, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError, StoreClosedError):
            store.wait_for("run", node, timeout=timeout)

    def finalize(at: int) -> None:
        time.sleep(0.003)  # a look for news comes meanwhile
        store.put("finalized", f"{at}", at)
        assert store.stats().outputs > 0

    def work() -> list[str]:
        places = at_each_instruction(lambda at: wait(f"missing {at}", 0.0), finalize, "_dispatch/subscriptions")
        return [f"{at}" for at, _, outcome in places if outcome is None]

    other = threading.Thread(target=wait, args=("never", None), daemon=True)
    other.start()
    finalized = in_thread(work, daemon=True)
    assert len(finalized) > 20
    assert sorted(store.list_keys("finalized")) == sorted(finalized)
    store.close()
    other.join(HANG)
    assert not other.is_alive()
