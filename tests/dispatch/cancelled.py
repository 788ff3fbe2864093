"""The public calls that tests cancel, and what must hold behind each of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import random
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from contextstore import AsyncContextStore

from ..support.doubles import core_of, queued

VALUE = {"text": "x" * 500, "numbers": list(range(50))}


class Operation(NamedTuple):
    """A public call to be cancelled. Each is run on names of its own, with an output and a global there already."""

    call: Callable[[AsyncContextStore, str], Awaitable[Any]]
    written: Callable[[AsyncContextStore, str], Awaitable[list[bool]]] | None = None
    """Whether each part of what it writes is there, as it should be. All of them, or none."""


async def _batch(store: AsyncContextStore, name: str) -> None:
    async with store.batch() as batch:
        batch.put(name, "one", VALUE)
        batch.put(name, "two", VALUE)
        batch.upsert_global(name, VALUE)


async def _iterate(store: AsyncContextStore, name: str) -> None:
    async for _ in store.iter_outputs("run"):
        pass


async def _watch_one(store: AsyncContextStore, name: str) -> None:
    async with contextlib.aclosing(store.watch("run")) as outputs:
        async for _ in outputs:
            return


async def _watch_one_run(store: AsyncContextStore, name: str) -> None:
    async with contextlib.aclosing(store.watch_runs()) as runs:
        async for _ in runs:
            return


async def _compute() -> Any:
    await asyncio.sleep(0)
    return VALUE


async def _outputs(store: AsyncContextStore, name: str, *nodes: str) -> list[bool]:
    return [await store.get(name, node) == VALUE for node in nodes]


async def _output(store: AsyncContextStore, name: str) -> list[bool]:
    return await _outputs(store, name, "one")


async def _entry(store: AsyncContextStore, name: str) -> list[bool]:
    """One entry, under the first number: or nothing at all, which leaves the number to the next one."""
    return [await store.get_run(name) == {"log/000000000001": VALUE}]


async def _delete_outputs(store: AsyncContextStore, name: str) -> None:
    await store.put_many(name, {"one": VALUE, "two": VALUE})
    await store.delete_outputs(name, prefix="")


async def _both_deleted(store: AsyncContextStore, name: str) -> list[bool]:
    return [not await store.exists(name, node) for node in ("one", "two")]


async def _delete_globals(store: AsyncContextStore, name: str) -> None:
    async with store.batch() as batch:
        batch.put_global(f"{name}/one", VALUE)
        batch.put_global(f"{name}/two", VALUE)
    await store.delete_globals(prefix=f"{name}/")


async def _both_globals_deleted(store: AsyncContextStore, name: str) -> list[bool]:
    return [await store.get_global(f"{name}/{key}") is None for key in ("one", "two")]


async def _global(store: AsyncContextStore, name: str) -> list[bool]:
    return [await store.get_global(name) == VALUE]


async def _state(store: AsyncContextStore, name: str) -> list[bool]:
    return [await store.run(name).get_state("key") == VALUE]


async def _both(store: AsyncContextStore, name: str) -> list[bool]:
    return await _outputs(store, name, "one", "two")


async def _both_and_global(store: AsyncContextStore, name: str) -> list[bool]:
    return await _both(store, name) + await _global(store, name)


async def _lease(store: AsyncContextStore, name: str) -> None:
    async with store.lease(name) as lease:
        await store.run(name, lease=lease).put("one", VALUE)


async def _begun(store: AsyncContextStore, name: str) -> list[bool]:
    """All that a begin says, the row of the attribute included: else the check would tell."""
    info = await store.get_run_info(name)
    return [info is not None and info.attributes == {"a": name} and info.parent == "run"]


async def _updated(store: AsyncContextStore, name: str) -> list[bool]:
    info = await store.get_run_info(name)
    return [info is not None and (info.state, info.attributes, info.error) == ("failed", {"a": 1}, "it broke")]


OPERATIONS = {
    "begin": Operation(lambda store, name: store.run(name).begin(attributes={"a": name}, parent="run"), _begun),
    "update": Operation(
        lambda store, name: store.run(name).update(state="failed", attributes={"a": 1}, error="it broke"), _updated
    ),
    "get_run_info": Operation(lambda store, name: store.get_run_info("run")),
    "info": Operation(lambda store, name: store.run("run").info()),
    "put": Operation(lambda store, name: store.put(name, "one", VALUE), _output),
    "put exist_ok": Operation(lambda store, name: store.put("run", "there", VALUE, exist_ok=True)),
    "put_global": Operation(lambda store, name: store.put_global(name, VALUE), _global),
    "upsert_global": Operation(lambda store, name: store.upsert_global(name, VALUE), _global),
    "update_global": Operation(lambda store, name: store.update_global(name, lambda _: VALUE), _global),
    "update_global with a coroutine function": Operation(
        lambda store, name: store.update_global(name, lambda _: _compute()), _global
    ),
    "put_many": Operation(lambda store, name: store.put_many(name, {"one": VALUE, "two": VALUE}), _both),
    "append": Operation(lambda store, name: store.append(name, "log/", VALUE), _entry),
    "append with a key": Operation(lambda store, name: store.append(name, "log/", VALUE, key="k"), _entry),
    "batch": Operation(_batch, _both_and_global),
    "upsert_state": Operation(lambda store, name: store.run(name).upsert_state("key", VALUE), _state),
    "update_state": Operation(lambda store, name: store.run(name).update_state("key", lambda _: VALUE), _state),
    "update_state with a coroutine function": Operation(
        lambda store, name: store.run(name).update_state("key", lambda _: _compute()), _state
    ),
    "get_state": Operation(lambda store, name: store.run("run").get_state("there")),
    "list_state": Operation(lambda store, name: store.run("run").list_state()),
    "lease": Operation(_lease, _output),
    "list_leases": Operation(lambda store, name: store.list_leases()),
    "get_or_put": Operation(lambda store, name: store.get_or_put(name, "one", _compute), _output),
    "step": Operation(lambda store, name: store.run(name).step("one", _compute), _output),
    "fork_run": Operation(lambda store, name: store.fork_run("run", new_flow_run_id=name)),
    "delete_outputs": Operation(_delete_outputs, _both_deleted),
    "delete_run": Operation(lambda store, name: store.delete_run(name)),
    "delete_global": Operation(lambda store, name: store.delete_global(name)),
    "delete_globals": Operation(_delete_globals, _both_globals_deleted),
    "prune": Operation(lambda store, name: store.prune(older_than=datetime.timedelta(days=1))),
    "get, cold": Operation(lambda store, name: store.get("run", "there")),
    "get, missing": Operation(lambda store, name: store.get(name, "missing")),
    "get_global": Operation(lambda store, name: store.get_global("there")),
    "get_global_entry": Operation(lambda store, name: store.get_global_entry("there")),
    "get_globals": Operation(lambda store, name: store.get_globals(["there", "missing"])),
    "list_global_keys": Operation(lambda store, name: store.list_global_keys()),
    "list_globals": Operation(lambda store, name: store.list_globals()),
    "list_keys": Operation(lambda store, name: store.list_keys("run")),
    "exists": Operation(lambda store, name: store.exists("run", "there")),
    "get_entry": Operation(lambda store, name: store.get_entry("run", "there")),
    "get_many": Operation(lambda store, name: store.get_many("run", ["there", "missing"])),
    "get_outputs": Operation(lambda store, name: store.get_outputs([("run", "there"), (name, "missing")])),
    "list_outputs": Operation(lambda store, name: store.list_outputs("run")),
    "get_run": Operation(lambda store, name: store.get_run("run")),
    "iter_outputs": Operation(_iterate),
    "attempts": Operation(lambda store, name: store.run("run").attempts()),
    "list_runs": Operation(lambda store, name: store.list_runs(limit=3)),
    "wait_for": Operation(lambda store, name: store.wait_for("run", "there")),
    "wait_for_global": Operation(lambda store, name: store.wait_for_global("there")),
    "watch": Operation(_watch_one),
    "wait_for_run": Operation(lambda store, name: store.wait_for_run("run", state="open")),
    "watch_runs": Operation(_watch_one_run),
    "cursor": Operation(lambda store, name: store.cursor()),
    "cursor of runs": Operation(lambda store, name: store.cursor("runs")),
    "stats": Operation(lambda store, name: store.stats()),
    "ping": Operation(lambda store, name: store.ping()),
    "check": Operation(lambda store, name: store.check()),
    "check with progress": Operation(lambda store, name: store.check(progress=lambda done, total: None)),
}
WRITES = [name for name, operation in OPERATIONS.items() if operation.written is not None]

TURNS = [*range(12), *(int(12 * 1.5**i) for i in range(1, 12))]
"""After how many turns of the loop an operation is cancelled. Most have ended by themselves long before the last."""


async def cancel_after(turns: int, call: Awaitable[Any]) -> Any:
    """What became of a call that was cancelled after so many turns of the loop."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def check_nothing_is_held(store: AsyncContextStore, path: pathlib.Path) -> None:
    """The store works on, for this process and others, and has forgotten nobody."""
    core: Any = core_of(store)
    fresh = f"{random.getrandbits(64)}"
    await store.put("after", fresh, 1)  # behind whatever is still being finished in the background
    assert await store.get("after", fresh) == 1
    assert (queued(store), core._session.writer.queued_bytes) == (0, 0)
    assert not core._session.reader._wanted
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
