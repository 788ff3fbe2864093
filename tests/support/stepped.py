"""Calls that a test takes up to their waiting, and on, in its own thread: so it chooses what comes in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

from contextstore._waiting.threads import ThreadCallers

from .fake_engine import FakeEngine, bound

T = TypeVar("T")


class _Loop:
    """Where a call waits whose waiter is answered on the spot, by whichever thread has the answer."""

    def is_closed(self) -> bool:
        return False

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        callback(*args)


_loop = _Loop()


class _Waiter:
    def __init__(self) -> None:
        self.answers: list[Any] = []

    def done(self) -> bool:
        return bool(self.answers)

    def set_result(self, result: Any, /) -> None:
        self.answers.append(result)

    def get_loop(self) -> Any:
        return _loop

    def __await__(self) -> Generator[Any, Any, Any]:
        while not self.answers:
            yield self
        return self.answers[0]


class SteppedCallers(ThreadCallers):
    """Callers whose calls stand still where they wait."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(bound(engine))

    def waiter(self) -> Any:
        return _Waiter()

    def wait_until(self, waiter: Any, timeout: float | None, expire: Callable[[], Any]) -> Awaitable[Any]:  # type: ignore[override]
        return waiter  # type: ignore[no-any-return]


class SteppedCall:
    """A call of a store, from its beginning to its waiting."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._results: list[Any] = []
        self._go_on()

    def _go_on(self) -> None:
        try:
            self._coroutine.send(None)
        except StopIteration as stop:
            self._results.append(stop.value)

    def interrupt(self) -> None:
        self._coroutine.throw(KeyboardInterrupt())

    def result(self) -> Any:
        """What it has come to. An AssertionError if it waits still."""
        if not self._results:
            self._go_on()
        assert self._results, "it still waits"
        return self._results[0]
