"""Writing: one put after the other, many at once, by threads, of large values, beside a busy loop.

Rules of this module: a function is a measurement. It opens whom it compares, lets them take turns, and returns the
times by the names that the goals and the page know.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable

import orjson

from . import contestants
from .contestants import (
    INSERT,
    RUN,
    AiosqliteExplicit,
    Awaited,
    Contestant,
    Ours,
    OursBlocking,
    RawSQLite,
    RawSQLiteTogether,
)
from .rounds import Size, Times, Work, bare_tasks, blocking, groups_of, groups_of_puts, keys, opened, puts

SYNC_MAIN, SYNC_THREAD, AWAITED = "contextstore, sync", "contextstore, sync, in a thread", "contextstore, awaited"
RAW_MAIN, RAW_THREAD, AIOSQLITE = "sqlite3", "sqlite3, in a thread", "aiosqlite, three awaits"
GROUP_OF_OURS, TRANSACTION, TASKS = "contextstore, 64 at once", "sqlite3, a transaction of 64", "64 bare tasks"
EIGHT_THREADS = "contextstore, eight threads"
AT_ONCE = 64


def in_a_thread(work: Callable[[], float]) -> Work:
    """A turn in a new thread, while the main thread waits for it."""

    def turn() -> float:
        results: list[float] = []
        thread = threading.Thread(target=lambda: results.append(work()))
        thread.start()
        thread.join()
        return results[0]

    return turn


def single(size: Size, durability: str) -> Times:
    """One put after the other: ours by each face and from each kind of thread, and what is under it."""
    count = size.operations // 2
    sync, face, raw, aio = OursBlocking(), Ours(), RawSQLite(), AiosqliteExplicit()
    names = lambda: keys(8 + count)  # noqa: E731
    with opened([sync, face, raw, aio], durability) as turns:
        return turns.take(
            {
                SYNC_MAIN: blocking(sync.put, names, 8),
                RAW_MAIN: blocking(raw.put, names, 8),
                AWAITED: puts(face, count),
                AIOSQLITE: puts(aio, count),
                SYNC_THREAD: in_a_thread(blocking(sync.put, names, 8)),
                RAW_THREAD: in_a_thread(blocking(raw.put, names, 8)),
            },
            size,
        )  # fmt: skip


def at_once(size: Size) -> Times:
    """64 tasks that put, and what they are made of: a transaction of 64 rows, and 64 tasks that only wait."""
    ours, raw = Ours(), RawSQLiteTogether()
    groups = max(1, size.operations // AT_ONCE)
    with opened([ours, raw], "full") as turns:
        return turns.take(
            {
                GROUP_OF_OURS: groups_of_puts(ours, AT_ONCE, groups),
                TRANSACTION: groups_of_puts(raw, AT_ONCE, groups),
                TASKS: groups_of(bare_tasks, lambda: keys(AT_ONCE), groups),
            },
            size,
        )


def by_threads(size: Size) -> Times:
    """Eight threads with the blocking face, and one thread that puts the same number with sqlite3."""
    sync, raw = OursBlocking(), RawSQLite()
    each = max(1, size.operations // 8)

    def eight() -> float:
        names = [keys(each) for _ in range(8)]
        start = threading.Barrier(9)

        def put(some: list[str]) -> None:
            start.wait()
            for name in some:
                sync.put(name)

        threads = [threading.Thread(target=put, args=(some,)) for some in names]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - began) / (8 * each)

    with opened([sync, raw], "full") as turns:
        return turns.take({EIGHT_THREADS: eight, RAW_MAIN: blocking(raw.put, lambda: keys(8 + 8 * each), 8)}, size)


# ------------------------------------------------------------------------------------------------------ all the peers


def competing(durability: str) -> list[Contestant]:
    return [one for one in contestants.available()[0] if durability in one.durabilities]


def peers_one_by_one(size: Size, durability: str) -> Times:
    chosen = [one for one in competing(durability) if not isinstance(one, RawSQLiteTogether)]
    with opened(chosen, durability) as turns:
        return turns.take({one.name: puts(one, max(1, size.operations // 4)) for one in chosen}, size)


def peers_at_once(size: Size, durability: str, at_once: int) -> Times:
    """Who blocks does more than 64 as it does 64, and is not asked again."""
    chosen = [one for one in competing(durability) if not isinstance(one, OursBlocking)]
    if at_once > AT_ONCE:
        chosen = [one for one in chosen if isinstance(one, Awaited | RawSQLite)]
    groups = max(1, size.operations // at_once)
    with opened(chosen, durability) as turns:
        return turns.take({one.name: groups_of_puts(one, at_once, groups) for one in chosen}, size)


# --------------------------------------------------------------------------------------------------- beside, and large


def on_a_busy_loop(size: Size) -> Times:
    """One put after the other, while another task works for a millisecond at each turn of the loop.

    Not aiosqlite: its thread gets the GIL about once a second then, and a single put took up to 32 seconds.
    """
    ours, raw = Ours(), RawSQLite()
    count = max(1, size.operations // 4)

    async def work_on() -> None:
        while True:
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    def beside(put: Callable[[str], Awaitable[None]]) -> Work:
        async def turn() -> float:
            other = asyncio.ensure_future(work_on())
            names = keys(count)
            began = time.perf_counter()
            try:
                for name in names:
                    await put(name)
                return (time.perf_counter() - began) / count
            finally:
                other.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await other

        return turn

    async def raw_put(name: str) -> None:
        raw.put(name)
        await asyncio.sleep(0)  # it would leave the loop no turn

    with opened([ours, raw], "full") as turns:
        return turns.take({ours.name: beside(ours.put), raw.name: beside(raw_put)}, size)


def of_large_values(size: Size, value_bytes: int) -> Times:
    """Durable puts of one large value at a time."""
    value = "x" * (value_bytes - 2)
    face, raw = Ours(cache_bytes=0), RawSQLite()

    async def ours() -> float:
        names = keys(8)
        began = time.perf_counter()
        for name in names:
            await face.store.put(RUN, name, value)
        return (time.perf_counter() - began) / 8

    def theirs(name: str) -> None:
        raw.connection.execute(INSERT, (RUN, name, orjson.dumps(value).decode()))

    with opened([face, raw], "full") as turns:
        return turns.take({face.name: ours, raw.name: blocking(theirs, lambda: keys(8))}, size)
