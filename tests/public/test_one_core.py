"""What stands on a store keeps it alive, as the store does, and is no more to be copied than it is."""

from __future__ import annotations

import copy
import gc
import pathlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import AsyncContextStore, AtomicWriter, ContextStore

HELD: dict[str, Callable[[Any], Any]] = {
    "run": lambda store: store.run("run"),
    "batch": lambda store: store.batch(),
    "writer": AtomicWriter,
}


@pytest.mark.parametrize("what", HELD)
@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy], ids=["pickled", "copied"])
@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
def test_what_stands_on_a_store_cannot_be_copied_either(face: type, copied: Callable[[Any], Any], what: str) -> None:
    with pytest.raises(TypeError, match=r"the store :memory: cannot be copied .*: make a store object there"):
        copied(HELD[what](face(":memory:")))


@pytest.mark.parametrize("what", [*HELD, "iterator"])
def test_a_store_that_something_stands_on_is_not_forgotten(file_path: pathlib.Path, what: str) -> None:
    store = ContextStore(file_path)
    store.run("run").put("a", 1)
    held = store.iter_outputs("run") if what == "iterator" else HELD[what](store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del store
        gc.collect()
        assert use(held) == "done"
    with pytest.warns(ResourceWarning, match="was not closed") as caught:  # noqa: PT031
        del held
        gc.collect()
    assert len(caught) == 1


def use(held: Any) -> str:
    if isinstance(held, AtomicWriter):
        return str(held.write_and_complete("run", "b", 2, lambda: "done"))
    if hasattr(held, "put_global"):
        with held as batch:
            batch.put("run", "b", 2)
    elif hasattr(held, "step"):
        assert held.step("b", lambda: 2) == 2
    else:
        assert next(held).value == 1
    return "done"
