"""A result, or the error in its place: how both travel from the thread that does the work to the call that asked.

Rules of this module: an error is carried as a value, and raised by ``unwrap`` in the thread that asks for the result.
Rejected: the union of a result and an exception, since a result may be an exception object; and trio's ``outcome``, a
dependency for 20 lines.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """What became of a call: its result, or the error that it raised. ``result`` is None where there is an error."""

    __slots__ = ("error", "result")

    def __init__(self, result: T, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error

    @staticmethod
    def failure(error: BaseException) -> Outcome[Any]:
        outcome: Outcome[Any] = Outcome(None, error)
        return outcome

    def unwrap(self) -> T:
        """The result. Raises the error, if it came to one."""
        if self.error is not None:
            raise self.error
        return self.result

    def __repr__(self) -> str:
        return f"Outcome({self.result!r})" if self.error is None else f"Outcome.failure({self.error!r})"


async def outcome_of(awaitable: Awaitable[T]) -> Outcome[T]:
    """What the awaitable comes to; an ``Exception`` of it is kept, anything else of its kind is raised.

    Errors are carried out of a ``with`` like this. What contextlib makes managers of sets the traceback of an exception
    that passes, and one of a frozen class would become a FrozenInstanceError.
    """
    try:
        return Outcome(await awaitable)
    except Exception as error:  # noqa: BLE001 - any error is raised by the call that asked
        return Outcome.failure(error)
