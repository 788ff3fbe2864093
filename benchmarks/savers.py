"""Our saver for LangGraph beside LangGraph's own: what a graph does at each step, and how it is read back.

Rules of this module: both are set to the same durability, a sync each commit, and given the very same checkpoints,
made as LangGraph makes them. A step is ``aput`` of a checkpoint, then ``aput_writes`` of what a node wrote on it; many
threads of conversation at once are as many tasks, and no thread begins a step before its last one is done. On
PostgreSQL both use one server, a schema each, and LangGraph's saver has a pool, as its documentation would have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import pathlib
import random
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from contextstore import AsyncContextStore

from .contestants import SYNCHRONOUS, VALUE, Awaited
from .rounds import Size, Times, Work, opened

OURS, THEIRS = "contextstore", "langgraph"
AT_ONCE, LENGTH, PAGE = 64, 1000, 100
SMALL = "state of 200 bytes"
LARGE, ALL_OF_LARGE = "10 channels of 1 KB, one changes", "10 channels of 1 KB, all change"
STEPS = f"{AT_ONCE} threads, {SMALL}"
LARGE_STEPS, ALL_LARGE_STEPS = f"{AT_ONCE} threads, {LARGE}", f"{AT_ONCE} threads, {ALL_OF_LARGE}"
ALONE = f"one thread, {SMALL}"
NEWEST, LISTED = f"newest checkpoint of {LENGTH:,}", f"newest {PAGE} checkpoints of {LENGTH:,}"
COLD = ", no cache"
COLD_NEWEST, COLD_LISTED = f"{NEWEST}{COLD}", f"{LISTED}{COLD}"
FILE = f"bytes of a thread of {LENGTH:,} steps, {LARGE}"

_SQLITE, _POSTGRES = "langgraph.checkpoint.sqlite.aio", "langgraph.checkpoint.postgres.aio"
_numbers = itertools.count()


def of(who: str, what: str) -> str:
    """The name of a figure."""
    return f"{who}, {what}"


# ------------------------------------------------------------------------------------------------------------- threads


class Thread:
    """A thread of conversation: its checkpoints one after the other, as a graph makes them."""

    def __init__(self, saver: Any, channels: int, changing: int) -> None:
        base = importlib.import_module("langgraph.checkpoint.base")
        self._saver, self._new_id = saver, base.id.uuid6
        self._changing, self._step = changing, -1
        self._names = [f"channel_{number}" for number in range(channels)]
        self._values: dict[str, Any] = {}
        self._versions: dict[str, str] = {}
        self._is_small = channels == 1
        self._id = f"thread-{next(_numbers)}"
        self.config: dict[str, Any] = {"configurable": {"thread_id": self._id, "checkpoint_ns": ""}}

    def _value(self) -> Any:
        """Of the smaller state always the same; else bytes that no compression makes less of."""
        return VALUE if self._is_small else random.randbytes(1000)

    async def step(self) -> None:
        self._step += 1
        count = len(self._names)
        first = self._step * self._changing
        names = self._names if self._step == 0 else [self._names[(first + i) % count] for i in range(self._changing)]
        changed = {name: self._saver.get_next_version(self._versions.get(name), None) for name in names}
        self._values |= {name: self._value() for name in names}
        self._versions |= changed
        checkpoint = {
            "v": 4,
            "ts": "2026-01-01T00:00:00.000000+00:00",
            "id": str(self._new_id(clock_seq=self._step)),
            "channel_values": dict(self._values),
            "channel_versions": dict(self._versions),
            "versions_seen": {"__input__": {}, "agent": dict(self._versions)},
            "updated_channels": names,
        }
        metadata = {"source": "loop", "step": self._step, "parents": {}}
        self.config = await self._saver.aput(self.config, checkpoint, metadata, changed)
        writes, task_id = [(names[0], self._values[names[0]])], str(uuid.UUID(int=random.getrandbits(128)))
        await self._saver.aput_writes(self.config, writes, task_id, "~__pregel_pull, agent")

    def newest(self) -> Awaitable[Any]:
        return self._saver.aget_tuple({"configurable": {"thread_id": self._id, "checkpoint_ns": ""}})

    async def listed(self, limit: int) -> None:
        config = {"configurable": {"thread_id": self._id, "checkpoint_ns": ""}}
        found = [one async for one in self._saver.alist(config, limit=limit)]
        assert len(found) == limit


def _steps(saver: Any, at_once: int, channels: int, changing: int, groups: int) -> Work:
    """A step of each of some threads at once, again and again; seconds for each step of each. One is not counted."""
    threads: list[Thread] = []

    async def together() -> None:
        if at_once == 1:
            await threads[0].step()
        else:
            await asyncio.gather(*(thread.step() for thread in threads))

    async def work() -> float:
        if not threads:
            threads.extend(Thread(saver, channels, changing) for _ in range(at_once))
        await together()
        began = time.perf_counter()
        for _ in range(groups):
            await together()
        return (time.perf_counter() - began) / (groups * at_once)

    return work


def _again(call: Callable[[], Awaitable[Any]], count: int) -> Work:
    async def work() -> float:
        await call()
        began = time.perf_counter()
        for _ in range(count):
            await call()
        return (time.perf_counter() - began) / count

    return work


# -------------------------------------------------------------------------------------------------------------- savers


class Ours(Awaited):
    """The store is opened apart, since its options are the store's."""

    name = OURS

    def __init__(self, target: str | None = None, **options: Any) -> None:
        self._target, self._options = target, options

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        kind = importlib.import_module("contextstore.integrations.langgraph").AsyncContextStoreSaver
        target = self._target or folder / "store.db"
        options: dict[str, Any] = {"durability": durability, **self._options}
        self._store = AsyncContextStore(target, **options)
        await self._store.open()
        self.saver = kind(self._store)

    async def close(self) -> None:
        await self._store.close()


class OnSqlite(Awaited):
    """``AsyncSqliteSaver``. It sets WAL, and leaves ``synchronous`` as SQLite was built, mostly FULL: so it is set."""

    name = THEIRS
    needs = _SQLITE

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        kind = importlib.import_module(_SQLITE).AsyncSqliteSaver
        self._stack = contextlib.AsyncExitStack()
        self.saver = await self._stack.enter_async_context(kind.from_conn_string(str(folder / "saver.db")))
        await self.saver.setup()
        await self.saver.conn.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")

    async def close(self) -> None:
        await self._stack.aclose()


class OnPostgres(Awaited):
    """``AsyncPostgresSaver`` over a pool, with the options that its documentation asks for."""

    name = THEIRS
    needs = _POSTGRES

    def __init__(self, url: str, schema: str) -> None:
        self._url, self._schema = url, schema

    async def open(self, folder: object, durability: str) -> None:
        connection, rows = importlib.import_module("psycopg"), importlib.import_module("psycopg.rows")
        kind = importlib.import_module("psycopg_pool").AsyncConnectionPool
        async with await connection.AsyncConnection.connect(self._url, autocommit=True) as admin:
            await admin.execute(f"CREATE SCHEMA {self._schema}")
        options = {
            "autocommit": True,
            "prepare_threshold": 0,
            "row_factory": rows.dict_row,
            "options": f"-c search_path={self._schema}",
        }
        self._pool = kind(self._url, min_size=10, max_size=10, kwargs=options, open=False)
        await self._pool.open(wait=True)
        self.saver = importlib.import_module(_POSTGRES).AsyncPostgresSaver(self._pool)
        await self.saver.setup()

    async def close(self) -> None:
        await self._pool.close()


def _installed(*contestants: Awaited) -> list[Awaited]:
    found = []
    for one in contestants:
        with contextlib.suppress(ImportError):
            if one.needs:
                importlib.import_module(one.needs)
            found.append(one)
    return found


# -------------------------------------------------------------------------------------------------------- measurements


def _works(saver: Any, size: Size, what: Mapping[str, tuple[int, int, int]]) -> dict[str, Work]:
    groups = max(1, size.operations // 24)
    return {
        name: _steps(saver, at_once, channels, changing, groups * (AT_ONCE // 4 if at_once == 1 else 1))
        for name, (at_once, channels, changing) in what.items()
    }


_ON_SQLITE = {
    STEPS: (AT_ONCE, 1, 1),
    LARGE_STEPS: (AT_ONCE, 10, 1),
    ALL_LARGE_STEPS: (AT_ONCE, 10, 10),
    ALONE: (1, 1, 1),
}


def steps(size: Size) -> Times:
    """Each kind of step by both, before anybody does the next."""
    return _side_by_side(_installed(Ours(), OnSqlite()), size, _ON_SQLITE)


def _side_by_side(contestants: list[Any], size: Size, what: Mapping[str, tuple[int, int, int]]) -> Times:
    with opened(contestants, "full") as turns:
        by_who = {one.name: _works(one.saver, size, what) for one in contestants}
        return turns.take({of(who, name): works[name] for name in what for who, works in by_who.items()}, size)


def reads(size: Size) -> Times:
    """Of a thread of a thousand steps, each with a write; ours with its cache, and without."""
    length = max(PAGE, min(LENGTH, size.rows // 10))
    contestants: list[Any] = _installed(Ours(), Ours(cache_bytes=0), OnSqlite())
    labels = [(OURS, NEWEST, LISTED), (OURS, COLD_NEWEST, COLD_LISTED), (THEIRS, NEWEST, LISTED)]
    works: dict[str, Work] = {}
    with opened(contestants, "normal") as turns:
        for one, (who, newest, listed) in zip(contestants, labels, strict=False):
            thread = Thread(one.saver, 1, 1)
            turns.call(_filled, thread, length)
            works[of(who, newest)] = _again(thread.newest, size.operations)
            works[of(who, listed)] = _again(functools.partial(thread.listed, PAGE), max(1, size.operations // 8))
        return turns.take(works, size)


async def _filled(thread: Thread, length: int) -> None:
    for _ in range(length):
        await thread.step()


def file_bytes(size: Size) -> Times:
    """Of all that is left in the folder when everybody is closed."""
    length = max(PAGE, min(LENGTH, size.rows // 10))
    figures: Times = {}
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as name:
        for one in _installed(Ours(), OnSqlite()):
            folder = pathlib.Path(name) / one.name
            folder.mkdir()
            asyncio.run(_written(one, folder, length))
            figures[of(one.name, FILE)] = [float(sum(path.stat().st_size for path in folder.iterdir()))]
    return figures


async def _written(one: Any, folder: pathlib.Path, length: int) -> None:
    await one.open(folder, "normal")
    await _filled(Thread(one.saver, 10, 1), length)
    await one.close()


def on_postgres(url: str, size: Size) -> Times:
    schema = f"benchmark_{uuid.uuid4().hex[:8]}"
    ours = f"{url}{'&' if '?' in url else '?'}schema={schema}_ours"
    return _side_by_side(_installed(Ours(ours), OnPostgres(url, schema)), size, _ON_SQLITE)
