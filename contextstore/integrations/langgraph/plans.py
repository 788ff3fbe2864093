"""How a plan is carried out: calls of a store, one after the other, by either of its faces.

Rules of this module: a plan is a generator that yields calls and is sent their results. It does no I/O and never asks
which face carries it out, so that what it says is said once for both.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, NamedTuple, TypeAlias, TypeVar

from contextstore import Lease

T = TypeVar("T")


class Faces(NamedTuple):
    """One object of the store's, such as a run, as both faces have it."""

    blocking: Any
    awaitable: Any


class Call(NamedTuple):
    """A call that a plan asks for: by its name, which is the same on both faces."""

    on: Faces
    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]


Plan: TypeAlias = Generator[Call, Any, T]


def call(on: Faces, name: str, *args: Any, **options: Any) -> Call:
    return Call(on, name, args, options)


def carry_out(plan: Plan[T]) -> T:
    """By the blocking face, in the calling thread."""
    try:
        wanted = next(plan)
        while True:
            try:
                answer = getattr(wanted.on.blocking, wanted.name)(*wanted.args, **wanted.options)
            except BaseException as error:  # noqa: BLE001  # the plan raises what it does not know
                wanted = plan.throw(error)
            else:
                wanted = plan.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def carry_out_awaiting(plan: Plan[T]) -> T:
    """By the awaitable face, in the calling task."""
    try:
        wanted = next(plan)
        while True:
            try:
                answer = await getattr(wanted.on.awaitable, wanted.name)(*wanted.args, **wanted.options)
            except BaseException as error:  # noqa: BLE001  # the plan raises what it does not know
                wanted = plan.throw(error)
            else:
                wanted = plan.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def under_lease(store: Faces, name: str, plan: Plan[T]) -> Plan[T]:
    """The plan, while nobody else carries out one under a lease of this name: in any process, on any machine."""
    lease = Faces(_Lease(store.blocking.lease(name)), _AwaitedLease(store.awaitable.lease(name)))
    yield call(lease, "take")
    try:
        return (yield from plan)
    finally:
        yield call(lease, "give_back")


class _Lease:
    """The block of a lease, as two calls."""

    def __init__(self, block: AbstractContextManager[Lease]) -> None:
        self._block = block

    def take(self) -> None:
        self._block.__enter__()

    def give_back(self) -> None:
        self._block.__exit__(None, None, None)


class _AwaitedLease:
    """The block of a lease, as two awaited calls."""

    def __init__(self, block: AbstractAsyncContextManager[Lease]) -> None:
        self._block = block

    async def take(self) -> None:
        await self._block.__aenter__()

    async def give_back(self) -> None:
        await self._block.__aexit__(None, None, None)
