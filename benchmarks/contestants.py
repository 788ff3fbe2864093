"""Who is measured: this library's two faces, and its peers, each as its own documentation has it used.

Rules of this module: all are set to the same durability, "full" (what was acknowledged survives a power cut) or
"normal" (it survives the death of the process). A contestant's put is whatever makes one output durable by itself. Who
blocks is called from plain code, and who is awaited from a running loop: nobody pays for the other's way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import pathlib
import sqlite3
from collections.abc import Iterable
from typing import Any, ClassVar

import orjson

from contextstore import AsyncContextStore, ContextStore

VALUE = {"rows": 1234, "ok": True, "name": "extract", "items": list(range(20)), "note": "x" * 90}  # 200 bytes of JSON
RUN = "018f3a00-0000-7000-8000-000000000001"


class Contestant:
    """One way to keep outputs in a folder."""

    name = ""
    needs: str | None = None
    is_atomic = True
    """Whether each of many concurrent puts stands or falls for itself."""
    durabilities: tuple[str, ...] = ("full", "normal")
    has_get = True


class Blocking(Contestant):
    """Its calls block; on an event loop it can only put one output after the other."""

    def open(self, folder: pathlib.Path, durability: str) -> None:
        raise NotImplementedError

    def put(self, key: str) -> None:
        raise NotImplementedError

    def put_all(self, keys: Iterable[str]) -> None:
        """Many at once, as a program with as many tasks would have them."""
        for key in keys:
            self.put(key)

    def get(self, key: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Awaited(Contestant):
    """Its calls are awaited; many at once are as many tasks."""

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        raise NotImplementedError

    async def put(self, key: str) -> None:
        raise NotImplementedError

    async def put_all(self, keys: Iterable[str]) -> None:
        await asyncio.gather(*(self.put(key) for key in keys))

    async def get(self, key: str) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Ours(Awaited):
    name = "contextstore"

    def __init__(self, **options: Any) -> None:
        self._options = options

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        self.store = AsyncContextStore(folder / "store.db", durability=durability, **self._options)  # type: ignore[arg-type]
        await self.store.open()

    async def put(self, key: str) -> None:
        await self.store.put(RUN, key, VALUE)

    async def get(self, key: str) -> Any:
        return await self.store.get(RUN, key)

    async def close(self) -> None:
        await self.store.close()


class OursBlocking(Blocking):
    name = "contextstore (sync)"

    def __init__(self, **options: Any) -> None:
        self._options = options

    def open(self, folder: pathlib.Path, durability: str) -> None:
        self.store = ContextStore(folder / "store.db", durability=durability, **self._options)  # type: ignore[arg-type]
        self.store.open()

    def put(self, key: str) -> None:
        self.store.put(RUN, key, VALUE)

    def get(self, key: str) -> Any:
        return self.store.get(RUN, key)

    def close(self) -> None:
        self.store.close()


CREATE = "CREATE TABLE outputs (run TEXT, node TEXT, value TEXT, PRIMARY KEY (run, node))"
INSERT = "INSERT INTO outputs VALUES (?, ?, ?)"
SELECT = "SELECT value FROM outputs WHERE run = ? AND node = ?"
SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}


class RawSQLite(Blocking):
    """The standard library: one connection, opened once; a put is one INSERT that commits by itself."""

    name = "sqlite3"

    def open(self, folder: pathlib.Path, durability: str) -> None:
        self.path = folder / "raw.db"
        self.connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        self.connection.execute(CREATE)

    def put(self, key: str) -> None:
        self.connection.execute(INSERT, (RUN, key, orjson.dumps(VALUE).decode()))

    def get(self, key: str) -> Any:
        return orjson.loads(self.connection.execute(SELECT, (RUN, key)).fetchone()[0])

    def close(self) -> None:
        self.connection.close()


class RawSQLiteTogether(RawSQLite):
    """All in one transaction: the limit of what SQLite can do, and no longer each put for itself."""

    name = "sqlite3, one transaction"
    is_atomic = False
    has_get = False

    def put_all(self, keys: Iterable[str]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(INSERT, ((RUN, key, orjson.dumps(VALUE).decode()) for key in keys))
        self.connection.execute("COMMIT")


class Apsw(Blocking):
    name = "apsw"
    needs = "apsw"

    def open(self, folder: pathlib.Path, durability: str) -> None:
        self.connection = importlib.import_module("apsw").Connection(str(folder / "apsw.db"))
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        self.connection.execute(CREATE)

    def put(self, key: str) -> None:
        self.connection.execute(INSERT, (RUN, key, orjson.dumps(VALUE).decode()))

    def get(self, key: str) -> Any:
        return orjson.loads(self.connection.execute(SELECT, (RUN, key)).fetchone()[0])

    def close(self) -> None:
        self.connection.close()


class Aiosqlite(Awaited):
    """As people write it: one connection for all tasks, execute, then commit. One task's commit commits another's."""

    name = "aiosqlite"
    is_atomic = False
    options: ClassVar[dict[str, Any]] = {}

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        self.connection = await importlib.import_module("aiosqlite").connect(folder / "aio.db", **self.options)
        await self.connection.execute("PRAGMA journal_mode = WAL")
        await self.connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        await self.connection.execute(CREATE)

    async def put(self, key: str) -> None:
        await self.connection.execute(INSERT, (RUN, key, orjson.dumps(VALUE).decode()))
        await self.connection.commit()

    async def get(self, key: str) -> Any:
        async with self.connection.execute(SELECT, (RUN, key)) as cursor:
            return orjson.loads((await cursor.fetchone())[0])

    async def close(self) -> None:
        await self.connection.close()


class AiosqliteExplicit(Aiosqlite):
    """A transaction a put: BEGIN, execute and commit, three awaits; a get is execute and fetchone, two."""

    name = "aiosqlite, BEGIN"
    options: ClassVar[dict[str, Any]] = {"isolation_level": None}

    async def put(self, key: str) -> None:
        await self.connection.execute("BEGIN")
        await self.connection.execute(INSERT, (RUN, key, orjson.dumps(VALUE).decode()))
        await self.connection.commit()

    async def put_all(self, keys: Iterable[str]) -> None:
        """One after the other: a connection has one transaction at a time."""
        for key in keys:
            await self.put(key)

    async def get(self, key: str) -> Any:
        cursor = await self.connection.execute(SELECT, (RUN, key))
        return orjson.loads((await cursor.fetchone())[0])


class LangGraphSaver(Awaited):
    name = "langgraph saver"
    needs = "langgraph.checkpoint.sqlite.aio"

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        kind = importlib.import_module(self.needs or "").AsyncSqliteSaver
        self.stack = contextlib.AsyncExitStack()
        self.saver = await self.stack.enter_async_context(kind.from_conn_string(str(folder / "saver.db")))
        await self.saver.setup()
        await self.saver.conn.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")

    def _config(self, key: str) -> dict[str, Any]:
        return {"configurable": {"thread_id": key, "checkpoint_ns": ""}}

    async def put(self, key: str) -> None:
        checkpoint = {
            "v": 1, "ts": "2026-01-01T00:00:00+00:00", "id": key, "channel_values": VALUE, "channel_versions": {},
            "versions_seen": {},
        }  # fmt: skip
        await self.saver.aput(self._config(key), checkpoint, {}, {})

    async def get(self, key: str) -> Any:
        return await self.saver.aget_tuple(self._config(key))

    async def close(self) -> None:
        await self.stack.aclose()


class LangGraphStore(Awaited):
    """It gathers what comes within a loop turn into one transaction, which stands or falls as a whole."""

    name = "langgraph store"
    is_atomic = False
    needs = "langgraph.store.sqlite.aio"

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        kind = importlib.import_module(self.needs or "").AsyncSqliteStore
        self.stack = contextlib.AsyncExitStack()
        self.store = await self.stack.enter_async_context(kind.from_conn_string(str(folder / "lgstore.db")))
        await self.store.setup()
        await self.store.conn.execute("PRAGMA journal_mode = WAL")
        await self.store.conn.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")

    async def put(self, key: str) -> None:
        await self.store.aput((RUN,), key, VALUE)

    async def get(self, key: str) -> Any:
        return await self.store.aget((RUN,), key)

    async def close(self) -> None:
        await self.stack.aclose()


class DiskCache(Blocking):
    name = "diskcache"
    needs = "diskcache"

    def open(self, folder: pathlib.Path, durability: str) -> None:
        level = {"full": 2, "normal": 1}[durability]
        self.cache = importlib.import_module("diskcache").Cache(str(folder / "diskcache"), sqlite_synchronous=level)

    def put(self, key: str) -> None:
        self.cache.add((RUN, key), orjson.dumps(VALUE))

    def get(self, key: str) -> Any:
        return orjson.loads(self.cache[(RUN, key)])

    def close(self) -> None:
        self.cache.close()


class KeyValueDisk(Awaited):
    """py-key-value-aio's disk store, over diskcache."""

    name = "py-key-value disk"
    needs = "key_value.aio.stores.disk"

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        level = {"full": 2, "normal": 1}[durability]
        cache = importlib.import_module("diskcache").Cache(str(folder / "kv"), sqlite_synchronous=level)
        self.store = importlib.import_module(self.needs or "").DiskStore(disk_cache=cache)
        self.cache = cache

    async def put(self, key: str) -> None:
        await self.store.put(key, VALUE, collection=RUN)

    async def get(self, key: str) -> Any:
        return await self.store.get(key, collection=RUN)

    async def close(self) -> None:
        self.cache.close()


class SqliteDict(Blocking):
    """It commits in a thread of its own; a put waits for that with commit(blocking=True)."""

    name = "sqlitedict"
    needs = "sqlitedict"

    def open(self, folder: pathlib.Path, durability: str) -> None:
        kind = importlib.import_module("sqlitedict").SqliteDict
        self.dict = kind(str(folder / "dict.db"), journal_mode="WAL", encode=lambda v: orjson.dumps(v).decode(),
                         decode=orjson.loads)  # fmt: skip
        self.dict.conn.select_one(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")

    def put(self, key: str) -> None:
        self.dict[key] = VALUE
        self.dict.commit(blocking=True)

    def get(self, key: str) -> Any:
        return self.dict[key]

    def close(self) -> None:
        self.dict.close()


class Lmdb(Blocking):
    name = "lmdb"
    needs = "lmdb"

    def open(self, folder: pathlib.Path, durability: str) -> None:
        sync = durability == "full"
        self.env = importlib.import_module("lmdb").open(str(folder / "lmdb"), map_size=2**32, sync=sync, metasync=sync)

    def put(self, key: str) -> None:
        with self.env.begin(write=True) as transaction:
            transaction.put(f"{RUN}/{key}".encode(), orjson.dumps(VALUE), overwrite=False)

    def get(self, key: str) -> Any:
        with self.env.begin() as transaction:
            return orjson.loads(transaction.get(f"{RUN}/{key}".encode()))

    def close(self) -> None:
        self.env.close()


class RocksDict(Blocking):
    name = "rocksdict"
    needs = "rocksdict"

    def open(self, folder: pathlib.Path, durability: str) -> None:
        module = importlib.import_module("rocksdict")
        self.db = module.Rdict(str(folder / "rocks"), module.Options(raw_mode=True))
        options = module.WriteOptions()
        options.sync = durability == "full"
        self.db.set_write_options(options)

    def put(self, key: str) -> None:
        self.db[f"{RUN}/{key}".encode()] = orjson.dumps(VALUE)

    def get(self, key: str) -> Any:
        return orjson.loads(self.db[f"{RUN}/{key}".encode()])

    def close(self) -> None:
        self.db.close()


class Dbos(Awaited):
    """It records the steps of a workflow: one workflow runs a step for each put, and for many at once as many tasks.

    Its SQLite keeps a rollback journal and syncs at each commit; it has no call that reads a step's output alone.
    """

    name = "dbos step"
    needs = "dbos"
    durabilities = ("full",)
    has_get = False

    async def open(self, folder: pathlib.Path, durability: str) -> None:
        module = importlib.import_module("dbos")
        self.module, self.wanted = module, asyncio.Queue[tuple[int, asyncio.Future[None]] | None]()
        module.DBOS(config={
            "name": "benchmark", "system_database_url": f"sqlite:///{folder}/dbos.db", "run_admin_server": False,
            "log_level": "ERROR",
        })  # fmt: skip

        async def step() -> Any:
            return VALUE

        async def flow() -> None:
            while (wanted := await self.wanted.get()) is not None:
                count, done = wanted
                await asyncio.gather(*(module.DBOS.run_step_async(None, step) for _ in range(count)))
                done.set_result(None)

        workflow = module.DBOS.workflow()(flow)
        module.DBOS.launch()
        self.running = asyncio.ensure_future(workflow())

    async def put(self, key: str) -> None:
        await self.put_all([key])

    async def put_all(self, keys: Iterable[str]) -> None:
        done = asyncio.get_running_loop().create_future()
        self.wanted.put_nowait((len(list(keys)), done))
        await done

    async def close(self) -> None:
        self.wanted.put_nowait(None)
        await self.running
        self.module.DBOS.destroy(destroy_registry=True)
        # It had made its own executor the loop's, and has shut it down.
        asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor())


PEERS: list[type[Contestant]] = [
    RawSQLite, RawSQLiteTogether, Apsw, Aiosqlite, LangGraphSaver, LangGraphStore, DiskCache, KeyValueDisk, SqliteDict,
    Lmdb, RocksDict, Dbos,
]  # fmt: skip


def available() -> tuple[list[Contestant], list[str]]:
    """Our two faces and the peers that are installed; and the names of those that are not."""
    found: list[Contestant] = [Ours(), OursBlocking()]
    missing = []
    for kind in PEERS:
        try:
            if kind.needs:
                importlib.import_module(kind.needs)
            found.append(kind())
        except ImportError:
            missing.append(kind.name)
    return found, missing
