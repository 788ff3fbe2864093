"""ContextStore: interrupted at any instruction of a call, it stays usable."""

from __future__ import annotations

import dis
import gc
import itertools
import os
import pathlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import ContextStore, StoreClosedError

from ..support.doubles import core_of, queued
from ..support.portions import steps
from .threads import in_thread, open_files, own_threads

_CHECKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"} | {
    f"POP_JUMP_BACKWARD_IF_{what}" for what in ("TRUE", "FALSE", "NONE", "NOT_NONE")
}
"""After these the interpreter looks whether there was a signal (after a call only if it was of a function in C)."""


def at_every_instruction(test: Any) -> Any:
    # From 3.12 on, tracing passes over instructions, differently from run to run.
    skip = pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python does not trace every instruction")
    return pytest.mark.one_python(skip(test))


class Interrupt:
    """Raises KeyboardInterrupt at one of the places where a signal could: the n-th that the thread comes by."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._before: dict[types.FrameType, str | None] = {}
        self.where: str | None = None
        self.raised: BaseException | None = None

    def run(self, call: Callable[[], Any]) -> Any:
        gc.collect()  # and not meanwhile: what a collected store does would be traced, and what it raises is swallowed
        gc.disable()
        try:
            sys.settrace(self._enter)
            try:
                return call()
            finally:
                sys.settrace(None)
                self._before.clear()
                gc.enable()
        except KeyboardInterrupt as error:
            self.raised = error  # kept, with its traceback and frames, as an interactive session keeps it

    def _enter(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename.endswith(
            "_weakrefset.py"
        ):  # called by the collector, which swallows what is raised
            return None
        caller = frame.f_back
        if caller in self._before:
            self._before[caller] = None
        self._before[frame] = None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            before, self._before[frame] = self._before[frame], _names(frame.f_code)[frame.f_lasti]
            if before in _CHECKS:
                self._left -= 1
                if self._left < 0:
                    sys.settrace(None)
                    self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                    self.strike()
        return self._step

    def strike(self) -> None:
        raise KeyboardInterrupt


def _names(code: types.CodeType, cache: dict[types.CodeType, dict[int, str]] = {}) -> dict[int, str]:  # noqa: B006
    if code not in cache:
        cache[code] = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    return cache[code]


def interruptions(call: Callable[[int], Any], more_than: int = 5) -> Iterator[tuple[int, str]]:
    """Make the call again and again, interrupted one place later each time; yields the place. It has so many."""
    for at in places():
        interrupt = Interrupt(at)
        with warnings.catch_warnings():
            # Between the making of a coroutine and its first step: it is dropped.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            interrupt.run(lambda at=at: call(at))
            if interrupt.where is None:
                assert at > more_than
                return
            yield at, interrupt.where


def places() -> Iterator[int]:
    """The places to interrupt at: all of them in the whole suite."""
    gc.collect()
    gc.freeze()  # or each collection before a place would walk over what the tests before this one have left
    return itertools.count(*steps(5))


def works_on(store: ContextStore) -> bool:
    node = os.urandom(8).hex()
    # Two: one would be committed by its own thread, and the writer would not come to tidy its queue.
    both = [node, f"{node} too"]
    assert in_thread(lambda: store.put_many("after", dict.fromkeys(both, 1)), daemon=True) == both
    core: Any = core_of(store)
    core._session.cache.clear()
    assert in_thread(lambda: store.get("after", node), daemon=True) == 1
    return (core._session.writer.queued_bytes, queued(store)) == (0, 0)


def _put_two(store: ContextStore, at: int) -> None:
    with store.batch() as batch:
        batch.put(f"batch {at}", "one", 1)
        batch.put(f"batch {at}", "two", 2)


INTERRUPTED: dict[str, Callable[[ContextStore, int], Any]] = {
    "put": lambda store, at: store.put("run", f"{at}", "x" * 2000),
    "get": lambda store, at: store.get("run", f"missing {at}"),
    "get, cached": lambda store, at: store.get("run", "there"),
    "list_keys": lambda store, at: store.list_keys("run"),
    "upsert_global": lambda store, at: store.upsert_global("key", at),
    "get_global": lambda store, at: store.get_global("key"),
    "update_global": lambda store, at: store.update_global("count", lambda n: (n or 0) + 1),
    "get_or_put": lambda store, at: store.get_or_put("run", "computed" if at % 2 else f"computed {at}", lambda: at),
    "batch": _put_two,
    "wait_for": lambda store, at: store.wait_for("run", "there"),
    "stats": lambda store, at: store.stats(),
    "ping": lambda store, at: store.ping(),
}


@at_every_instruction
@pytest.mark.parametrize("call", INTERRUPTED)
def test_an_interrupt_at_any_instruction_of_a_call_leaves_the_store_usable(call: str, store: ContextStore) -> None:
    store.put("run", "there", 1)
    is_cached = call == "get, cached"
    for at, where in interruptions(lambda at: INTERRUPTED[call](store, at), 1 if is_cached else 5):
        assert works_on(store), (at, where)
        if call in ("update_global", "get_or_put"):  # what waits for its turn, or for another's result
            assert in_thread(lambda at=at: INTERRUPTED[call](store, at), daemon=True) is not None, (at, where)
        if call == "batch":
            assert len(store.list_keys(f"batch {at}")) in (0, 2), (at, where)
        if is_cached:
            assert store.get("run", "there") == 1
    core_of(store)._session.cache.clear()


@at_every_instruction
def test_an_interrupt_at_any_instruction_of_open_leaves_a_store_that_opens_at_the_next_call(
    file_path: pathlib.Path,
) -> None:
    for at in places():
        store = ContextStore(file_path)
        interrupt = Interrupt(at)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            interrupt.run(store.open)
        assert works_on(store), interrupt.where
        store.close()
        if interrupt.where is None:
            break


@at_every_instruction
def test_an_interrupt_at_any_instruction_of_close_leaves_a_store_that_the_next_close_ends(
    file_path: pathlib.Path,
) -> None:
    put = 0
    for at in places():
        store = ContextStore(file_path)
        store.put("run", f"{at}", 1)
        put += 1
        interrupt = Interrupt(at)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            interrupt.run(store.close)
        in_thread(store.close, daemon=True)
        with pytest.raises(StoreClosedError):
            store.get("run", f"{at}")
        assert (own_threads(file_path), open_files(file_path)) == ([], []), interrupt.where
        if interrupt.where is None:
            break
    with ContextStore(file_path) as again:
        assert len(again.list_keys("run")) == put
