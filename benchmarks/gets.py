"""Reading: from memory, from the file, many at once, and beside writers.

Rules of this module: as of ``puts``. "Cold" is with ``cache_bytes=0``: each get asks SQLite, whose pages are in memory
on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable

import orjson

from . import contestants
from .contestants import (
    INSERT,
    RUN,
    SYNCHRONOUS,
    VALUE,
    Aiosqlite,
    AiosqliteExplicit,
    Awaited,
    Contestant,
    Lmdb,
    Ours,
    OursBlocking,
    RawSQLite,
)  # fmt: skip
from .rounds import Size, Times, Turns, Work, awaited, bare_tasks, blocking, gets, groups_of, keys, opened

SYNC, AWAITED, GROUP = "contextstore, sync", "contextstore, awaited", "contextstore, 64 at once"
RAW, AIOSQLITE, TASKS = "sqlite3", "aiosqlite, execute and fetchone", "64 bare tasks"
AT_ONCE = 64
HOT_GETS = 3_000
OUTPUTS = 1_000


def filled(turns: Turns, chosen: list[Contestant], count: int) -> list[str]:
    """Ids of outputs that each of them has, in no order."""
    names = keys(count)
    for one in chosen:
        turns.call(one.put_all, names)  # type: ignore[attr-defined]
    return random.Random(count).sample(names, count)


def some_of(names: list[str], count: int) -> Callable[[], list[str]]:
    """At each call the next ones, round and round."""
    place = 0

    def some() -> list[str]:
        nonlocal place
        place += count
        return [names[(place + number) % len(names)] for number in range(count)]

    return some


def cold(size: Size) -> Times:
    """Gets that ask SQLite: ours by each face, and 64 at once; and what they are made of."""
    sync, face, raw, aio = OursBlocking(cache_bytes=0), Ours(cache_bytes=0), RawSQLite(), AiosqliteExplicit()
    chosen: list[Contestant] = [sync, face, raw, aio]
    count, groups = size.operations * 2, max(1, size.operations * 4 // AT_ONCE)
    with opened(chosen, "normal") as turns:
        names = filled(turns, chosen, OUTPUTS if size.operations > AT_ONCE // 2 else AT_ONCE)

        async def group(some: list[str]) -> None:
            await asyncio.gather(*map(face.get, some))

        return turns.take(
            {
                SYNC: blocking(sync.get, some_of(names, 8 + count), 8),
                RAW: blocking(raw.get, some_of(names, 8 + count), 8),
                AWAITED: awaited(face.get, some_of(names, 8 + count), 8),
                AIOSQLITE: awaited(aio.get, some_of(names, 8 + count), 8),
                GROUP: groups_of(group, some_of(names, AT_ONCE), groups),
                TASKS: groups_of(bare_tasks, some_of(names, AT_ONCE), groups),
            },
            size,
        )  # fmt: skip


def hot(size: Size) -> Times:
    """Gets of the same 64 outputs, from memory, in turns of 3,000, against LMDB's, decoded by orjson."""
    sync, face, lmdb = OursBlocking(), Ours(), Lmdb()
    is_there = any(isinstance(one, Lmdb) for one in contestants.available()[0])
    chosen: list[Contestant] = [sync, face, *([lmdb] if is_there else [])]
    with opened(chosen, "normal") as turns:
        names = filled(turns, chosen, AT_ONCE)
        some = some_of(names, HOT_GETS if size.operations > AT_ONCE // 2 else AT_ONCE)

        async def awaited_gets() -> float:
            store, wanted = face.store, some()
            began = time.perf_counter()
            for name in wanted:
                await store.get(RUN, name)
            return (time.perf_counter() - began) / len(wanted)

        def sync_gets() -> float:
            store, wanted = sync.store, some()
            began = time.perf_counter()
            for name in wanted:
                store.get(RUN, name)
            return (time.perf_counter() - began) / len(wanted)

        works: dict[str, Work] = {AWAITED: awaited_gets, SYNC: sync_gets}
        if is_there:
            works[lmdb.name] = blocking(lmdb.get, some)
        return turns.take(works, size)


def peers(size: Size) -> Times:
    """The same 64 outputs, again and again; and ours without its memory."""
    uncached, uncached_sync = Ours(cache_bytes=0), OursBlocking(cache_bytes=0)
    uncached.name, uncached_sync.name = "contextstore, no cache", "contextstore (sync), no cache"
    chosen = [*(one for one in contestants.available()[0] if one.has_get), uncached, uncached_sync]
    with opened(chosen, "normal") as turns:
        names = filled(turns, chosen, AT_ONCE) * max(1, size.operations * 4 // AT_ONCE)
        return turns.take({one.name: gets(one, names) for one in chosen}, size)


def beside_writers(size: Size) -> Times:
    """One cold get after the other, while eight others write durably all the time."""
    face, raw, aio = Ours(cache_bytes=0), RawSQLite(), Aiosqlite()

    def beside(
        writers: Callable[[asyncio.Event], Awaitable[object]], get: Callable[[str], Awaitable[object]], names: list[str]
    ) -> Work:
        async def turn() -> float:
            stopped = asyncio.Event()
            writing = asyncio.ensure_future(writers(stopped))
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            try:
                for name in names:
                    await get(name)
                return (time.perf_counter() - began) / len(names)
            finally:
                stopped.set()
                await writing

        return turn

    def tasks(one: Awaited) -> Callable[[asyncio.Event], Awaitable[object]]:
        async def put(stopped: asyncio.Event) -> None:
            while not stopped.is_set():
                await one.put(keys(1)[0])

        return lambda stopped: asyncio.gather(*(put(stopped) for _ in range(8)))

    async def thread(stopped: asyncio.Event) -> None:
        """Eight tasks cannot block one loop: one thread, with a connection of its own, writes as fast as it can."""

        def write() -> None:
            with contextlib.closing(sqlite3.connect(raw.path, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS['full']}")
                while not stopped.is_set():
                    connection.execute(INSERT, (RUN, keys(1)[0], orjson.dumps(VALUE).decode()))

        await asyncio.to_thread(write)

    async def raw_get(name: str) -> object:
        return raw.get(name)

    chosen: list[Contestant] = [face, raw, aio]
    with opened(chosen, "full") as turns:
        names = filled(turns, chosen, AT_ONCE)[: size.operations]
        return turns.take(
            {
                face.name: beside(tasks(face), face.get, names),
                raw.name: beside(thread, raw_get, names),
                aio.name: beside(tasks(aio), aio.get, names),
            },
            size,
        )
