"""The cache, where a thread of the caller's fills it: a finalizer may come in the middle of that, or an interrupt."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from contextstore._dispatch.cache import OutputCache
from contextstore._engine.operations import DeleteRun
from contextstore._values.codec import JSON, Encoded

from .test_cache_epochs import Epochs, books_are_right

VALUE = Encoded(JSON, b"1")
KEYS = [("run", f"{n}") for n in range(5)]


def test_a_fill_in_the_middle_of_another_one_of_its_thread_changes_nothing_and_does_not_wait() -> None:
    cache = OutputCache(100_000, Epochs(2))

    def found() -> Iterator[tuple[tuple[str, str], Encoded]]:
        for key in KEYS:
            cache.fill([(("run", "of a finalizer"), VALUE)], 2)
            yield key, VALUE

    filling = threading.Thread(target=lambda: cache.fill(found(), 2), daemon=True)
    filling.start()
    filling.join(30)
    assert not filling.is_alive()
    assert [cache.get(key) for key in KEYS] == [VALUE] * len(KEYS)
    assert cache.get(("run", "of a finalizer")) is None
    assert books_are_right(cache)


@pytest.mark.parametrize("next_change", ["a fill", "a deletion"])
def test_what_an_interrupted_fill_has_left_goes_with_the_next_change(next_change: str) -> None:
    cache = OutputCache(100_000, Epochs(2))
    cache.fill([(("run", "before"), VALUE)], 2)

    def found() -> Iterator[tuple[tuple[str, str], Encoded]]:
        yield KEYS[0], VALUE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:  # with its frames, as an interactive session keeps it
        cache.fill(found(), 2)
    if next_change == "a fill":
        cache.fill([(KEYS[1], VALUE)], 2)
        assert cache.get(KEYS[1]) == VALUE
    else:
        cache.committed([DeleteRun("run")])
    assert [cache.get(key) for key in (KEYS[0], ("run", "before"))] == [None, None]
    assert books_are_right(cache)
    assert kept.tb is not None
