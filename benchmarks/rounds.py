"""How anything is measured: everybody takes a turn in each round, on a WAL that has ceased to grow.

Rules of this module: times are seconds per operation, one for each round. The order of turns moves on by one each
round, so that nobody always comes after the same. What blocks is called while no event loop runs, as in a program
without one; what is awaited is awaited on one loop, which all of them share. What comes before a clock is started
(making keys, starting threads, a few operations that bring back the caches) is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .contestants import Awaited, Blocking, Contestant

Times = dict[str, list[float]]
"""A figure for each round, by who was measured: seconds per operation, where it is not said otherwise."""
Work = Callable[[], float] | Callable[[], Awaitable[float]]
"""A turn: some operations that are not counted, then some that are; seconds for each of these."""

_numbers = itertools.count()
_STEADY_TURNS = 2


class Size(NamedTuple):
    """How much is done."""

    rounds: int
    operations: int
    rows: int
    warm_up_turns: int
    """At most so many, until the WAL is as long as it will be."""


FULL = Size(21, 192, 1_000_000, 60)
QUICK = Size(5, 64, 100_000, 60)
TINY = Size(1, 4, 300, 1)  # to see that it works


def keys(count: int) -> list[str]:
    return [f"node-{next(_numbers):09}" for _ in range(count)]


class Turns:
    """The loop on which everybody awaited is awaited, and the folder in which everybody has one."""

    def __init__(self, runner: asyncio.Runner, folder: pathlib.Path) -> None:
        self._runner, self.folder = runner, folder

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Its result, awaited if it is to be."""
        result = function(*arguments)
        return self._runner.run(result) if isinstance(result, Coroutine) else result

    def open(self, one: Contestant, number: int, durability: str) -> None:
        folder = self.folder / str(number)
        folder.mkdir()
        self.call(one.open, folder, durability)  # type: ignore[attr-defined]

    def take(self, works: Mapping[str, Work], size: Size) -> Times:
        for work in works.values():
            self._warm_up(work, size)
        times: Times = {name: [] for name in works}
        for number in range(size.rounds):
            names = list(works)
            start = number % len(names)
            for name in names[start:] + names[:start]:
                times[name].append(self.call(works[name]))
        return times

    def _warm_up(self, work: Work, size: Size) -> None:
        """To overwrite a WAL takes half the time of growing it, and after its first minute a store overwrites it."""
        steady = 0
        for _ in range(size.warm_up_turns):
            length = self._wal_bytes()
            self.call(work)
            steady = steady + 1 if self._wal_bytes() == length else 0
            if steady == _STEADY_TURNS:
                break

    def _wal_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*-wal"))


@contextlib.contextmanager
def opened(contestants: Sequence[Contestant], durability: str) -> Iterator[Turns]:
    with (
        tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder,
        asyncio.Runner() as runner,
        contextlib.ExitStack() as stack,
    ):
        turns = Turns(runner, pathlib.Path(folder))
        for number, one in enumerate(contestants):
            turns.open(one, number, durability)
            stack.callback(turns.call, one.close)  # type: ignore[attr-defined]
        yield turns


# -------------------------------------------------------------------------------------------------------------- turns


def blocking(call: Callable[[str], Any], names: Callable[[], Sequence[str]], first: int = 0) -> Callable[[], float]:
    """One call after the other, for each of some names; the first ones are not counted."""

    def work() -> float:
        some = names()
        for name in some[:first]:
            call(name)
        counted = some[first:]
        began = time.perf_counter()
        for name in counted:
            call(name)
        return (time.perf_counter() - began) / len(counted)

    return work


def awaited(call: Callable[[str], Awaitable[Any]], names: Callable[[], Sequence[str]], first: int = 0) -> Work:
    """One await after the other, as ``blocking``."""

    async def work() -> float:
        some = names()
        for name in some[:first]:
            await call(name)
        counted = some[first:]
        began = time.perf_counter()
        for name in counted:
            await call(name)
        return (time.perf_counter() - began) / len(counted)

    return work


def puts(one: Contestant, count: int) -> Work:
    names = lambda: keys(8 + count)  # noqa: E731
    return awaited(one.put, names, 8) if isinstance(one, Awaited) else blocking(_of(one).put, names, 8)


def gets(one: Contestant, names: Sequence[str]) -> Work:
    return awaited(one.get, lambda: names) if isinstance(one, Awaited) else blocking(_of(one).get, lambda: names)


def _of(one: Contestant) -> Blocking:
    assert isinstance(one, Blocking)
    return one


def groups_of_puts(one: Contestant, at_once: int, groups: int) -> Work:
    """So many puts at once, again and again. Who blocks can only do them one after the other."""
    if isinstance(one, Awaited):
        return groups_of(one.put_all, lambda: keys(at_once), groups)
    put_all = _of(one).put_all

    def work() -> float:
        put_all(keys(at_once))
        names = [keys(at_once) for _ in range(groups)]
        began = time.perf_counter()
        for group in names:
            put_all(group)
        return (time.perf_counter() - began) / (groups * at_once)

    return work


def groups_of(call: Callable[[list[str]], Awaitable[Any]], names: Callable[[], list[str]], groups: int) -> Work:
    """A call with a group of names, again and again; seconds for each name. One call before is not counted."""

    async def work() -> float:
        await call(names())
        some = [names() for _ in range(groups)]
        began = time.perf_counter()
        for group in some:
            await call(group)
        return (time.perf_counter() - began) / sum(map(len, some))

    return work


async def bare_tasks(names: Sequence[str]) -> None:
    """A task for each name, which awaits one future: the least that an event loop takes for so many at once."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in names]

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    def resolve() -> None:
        for future in futures:
            future.set_result(None)

    tasks = asyncio.gather(*map(wait, futures))
    loop.call_soon(resolve)  # after the tasks' first steps, which are queued already
    await tasks
