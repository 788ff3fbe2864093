"""What may come between any two instructions of a thread: a finalizer, a signal, an exception from another thread."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from .portions import steps


class AtInstruction:
    """Has something done before the n-th instruction that a call runs in the modules of some folders.

    Not before the first of a function, nor in a generator that is closed: what is raised there is raised by its caller.

    Args:
        act: may raise.
    """

    def __init__(self, at: int, act: Callable[[], Any], *folders: str) -> None:
        self._left = at
        self._act = act
        self._folders = folders
        self.where: str | None = None
        """The place; None: the call has fewer instructions."""

    def run(self, call: Callable[[], Any]) -> Any:
        """What the call comes to: its result, or the exception that it raises."""
        gc.collect()
        gc.disable()  # or what the collector does would be counted in
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return call()
        except BaseException as error:
            return error
        finally:
            sys.settrace(before)
            gc.enable()

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if not any(folder in frame.f_code.co_filename for folder in self._folders):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and self.where is None:
            self._left -= 1
            if self._left < 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self._act()
        return self._step


def at_each_instruction(
    call: Callable[[int], Any], act: Callable[[int], Any], *folders: str
) -> Iterator[tuple[int, str, Any]]:
    """Make the call again and again, and have ``act`` done one instruction later each time.

    Yields the number, the place, and what the call came to.
    """
    gc.collect()
    gc.freeze()  # or each of hundreds of collections would go through all that the tests before this one have left
    for at in itertools.count(*steps(7)):
        instruction = AtInstruction(at, lambda at=at: act(at), *folders)  # type: ignore[misc]
        outcome = instruction.run(lambda at=at: call(at))  # type: ignore[misc]
        if instruction.where is None:
            assert at > 7
            return
        yield at, instruction.where, outcome
