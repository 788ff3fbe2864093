"""The whole public API, used as it is meant to be, through both faces: read by type checkers, never run.

What stands in ``assert_type`` is what a user's editor shows. ``misuses.py`` has the uses that must be refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import pathlib
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, assert_type

import contextstore
from contextstore import (
    KEEP,
    AsyncContextStore,
    AsyncFlowRun,
    AtomicWriter,
    Attempt,
    CheckReport,
    ContextStore,
    CopyReport,
    Counters,
    ExportedAppendCounter,
    ExportedAppendKey,
    ExportedFailure,
    ExportedFreedVersion,
    ExportedGlobal,
    ExportedOutput,
    ExportedRun,
    ExportedState,
    FlowRun,
    GlobalEntry,
    ImportReport,
    Lease,
    Output,
    PruneReport,
    RunInfo,
    StateEntry,
    StoreStats,
    copy,
    export_records,
    import_records,
    new_flow_run_id,
    restore,
    shared,
)

assert_type(contextstore.__version__, str)
assert_type(new_flow_run_id(), str)


@dataclasses.dataclass
class Rows:
    count: int


def ask_for_progress(done: int, total: int) -> None: ...


async def ask_for_progress_async(done: int, total: int) -> None: ...


def targets() -> None:
    AsyncContextStore("flows.db")
    AsyncContextStore(pathlib.Path("flows.db"), durability="full", timeout=5, cache_bytes=0)
    AsyncContextStore("sqlite:///flows.db", durability="normal", max_value_bytes=1000, read_only=True, create=False)
    ContextStore(":memory:")
    ContextStore(pathlib.Path("flows.db"), durability="full", timeout=0.5, cache_bytes=2**20)
    ContextStore("sqlite:////flows.db", durability="normal", max_value_bytes=None, read_only=True, create=False)


# ---------------------------------------------------------------------------------------------------------- awaited


async def opening() -> None:
    async with AsyncContextStore("flows.db") as store:
        assert_type(store, AsyncContextStore)
    assert_type(await store.open(), None)
    assert_type(await store.close(), None)


async def outputs(store: AsyncContextStore, run_id: uuid.UUID, by_node: dict[str, int]) -> None:
    assert_type(await store.put("run", "node", {"a": [1, None]}), None)
    assert_type(await store.put(run_id, run_id, b"bytes", exist_ok=True), None)
    assert_type(await store.get("run", "node"), Any)
    assert_type(await store.get("run", "node", "default"), Any)
    assert_type(await store.get("run", "node", type=int), int | None)
    assert_type(await store.get("run", "node", None, type=Rows), Rows | None)
    assert_type(await store.get("run", "node", 0, type=int), int)
    assert_type(await store.get("run", "node", "", type=Rows), Rows | str)
    assert_type(await store.get(run_id, run_id, default=[], type=list[int]), list[int])
    assert_type(await store.get("run", "node", type=list[Rows]), list[Rows] | None)
    either: int | str | None = await store.get("run", "node", type=int | str)
    assert_type(await store.exists("run", run_id), bool)
    assert_type(await store.get_entry(run_id, "node"), Output | None)
    assert_type(await store.list_keys("run"), list[str])
    assert_type(await store.list_keys(run_id, prefix="a"), list[str])
    assert_type(await store.append("run", "log/", 1, key=run_id, tag="text/plain"), str)
    assert_type(await store.put_many("run", {"a": 1, "b": "x"}), list[str])
    assert_type(await store.put_many("run", {run_id: 1}, exist_ok=True), list[str])
    assert_type(await store.put_many("run", by_node), list[str])
    assert_type(await store.delete_outputs("run", ["a", run_id]), int)
    assert_type(await store.delete_outputs(run_id, prefix="a"), int)
    assert_type(await store.get_many("run", ["a", run_id]), dict[str, Any])
    assert_type(await store.get_many("run", by_node), dict[str, Any])
    assert_type(await store.get_many("run", by_node, type=Rows), dict[str, Rows])
    assert_type(await store.get_outputs([("run", run_id)]), dict[tuple[str, str], Any])
    assert_type(await store.get_outputs([("run", "node")], type=Rows), dict[tuple[str, str], Rows])
    assert_type(await store.get_run("run"), dict[str, Any])
    assert_type(await store.get_run("run", prefix="a", type=list[int]), dict[str, list[int]])
    assert_type(await store.list_keys("run", after=run_id, limit=1, reverse=True), list[str])
    assert_type(await store.list_outputs("run", after="a", limit=1, reverse=True, type=int | str), list[Output])
    async for output in store.iter_outputs(run_id, prefix="a", reverse=True, type=Rows):
        assert_type(output, Output)
    print(either)


async def global_keys(store: AsyncContextStore, key: uuid.UUID) -> None:
    assert_type(await store.put_global("", {"a": 1}), None)
    assert_type(await store.put_global(key, 1, exist_ok=True), None)
    assert_type(await store.upsert_global("key", 1), int)
    assert_type(await store.upsert_global("key", 1, expected_version=2), int)
    assert_type(await store.get_global("key"), Any)
    assert_type(await store.get_global("key", 0), Any)
    assert_type(await store.get_global("key", type=int), int | None)
    assert_type(await store.get_global("key", 0, type=int), int)
    assert_type(await store.get_global_entry(key), GlobalEntry | None)
    assert_type(await store.list_globals(), list[GlobalEntry])
    assert_type(await store.list_globals("a", after="ab", limit=10), list[GlobalEntry])
    assert_type(await store.put_global("key", 1, ttl=datetime.timedelta(days=1)), None)
    assert_type(await store.upsert_global("key", 1, ttl=1.5), int)
    assert_type(await store.update_global("key", len, ttl=KEEP), Any)
    assert_type(await store.list_global_keys("a", after="ab", limit=10), list[str])
    assert_type(await store.get_globals(["key", key], type=int), dict[str, Any])
    assert_type(await store.delete_globals([key]) + await store.delete_globals(prefix="a"), int)
    assert_type(await store.wait_for_global(key, after_version=1, timeout=1, type=int), GlobalEntry)
    assert_type(await store.delete_global(key), bool)
    assert_type(await store.update_global("key", lambda count: count + 1, 0), Any)

    async def add_one(count: int) -> int:
        return count + 1

    assert_type(await store.update_global("key", add_one, default=0), Any)


async def leases(store: AsyncContextStore, run_id: uuid.UUID) -> None:
    async with store.lease(run_id, ttl=datetime.timedelta(minutes=1), wait=0.5) as lease:
        assert_type(lease, Lease)
        assert_type((lease.name, lease.token, lease.holder), tuple[str, int, str])
        assert_type(lease.expires_at, datetime.datetime)
        assert_type(lease.lost, bool)
        assert_type(store.run("run", lease=lease), AsyncFlowRun)
        async with store.batch(lease=lease) as batch:
            batch.put("run", "node", 1)
    assert_type(await store.list_leases("nightly-"), list[Lease])


async def batches(store: AsyncContextStore, run_id: uuid.UUID) -> None:
    async with store.batch() as batch:
        assert_type(batch.put("run", run_id, 1, exist_ok=True), None)
        assert_type(batch.append("run", "log/", 1, key="first", tag="text/plain"), None)
        assert_type(batch.put_global("key", 1, exist_ok=True), None)
        assert_type(batch.upsert_global("key", 2, expected_version=1, ttl=60), None)
        assert_type(batch.upsert_state(run_id, "key", 2, expected_version=1), None)
        assert_type(batch.delete_global("key"), None)
        assert_type(batch.expect_global("key", 1), None)


async def steps_and_waiting(store: AsyncContextStore, run_id: uuid.UUID) -> None:
    async def compute() -> int:
        return 1

    assert_type(await store.get_or_put("run", "node", compute), Any)
    assert_type(await store.get_or_put("run", "node", lambda: 1, type=None), Any)
    assert_type(await store.get_or_put("run", "node", compute, type=Rows), Rows)
    assert_type(await store.get_or_put(run_id, run_id, lambda: 1, type=int), int)
    assert_type(await store.get_or_put(run_id, run_id, factory=compute, type=list[Rows]), list[Rows])
    either: int | str = await store.get_or_put("run", "node", compute, type=int | str)
    assert_type(await store.wait_for("run", "node"), Any)
    assert_type(await store.wait_for("run", "node", timeout=None, type=None), Any)
    assert_type(await store.wait_for(run_id, "node", timeout=1, type=Rows), Rows)
    assert_type(await store.wait_for(run_id, "node", type=dict[str, Rows]), dict[str, Rows])
    either = await store.wait_for("run", "node", type=int | str)
    several: Sequence[Rows] = await store.get_or_put("run", "node", compute, type=Sequence[Rows])
    assert_type(await store.wait_for_run(run_id), RunInfo)
    assert_type(await store.wait_for_run("run", state=("open", "failed"), timeout=1), RunInfo)
    assert_type(await store.run("run").wait_for_run(state="completed", timeout=None), RunInfo)
    async for info in store.watch_runs():
        assert_type(info, RunInfo)
    async with contextlib.aclosing(
        store.watch_runs(after="a cursor", state=["open", "deleted"], attributes={"team": "a", "n": 1}, parent=run_id)
    ) as infos:
        assert_type(await anext(infos), RunInfo)
    async for output in store.watch("run"):
        assert_type(output, Output)
    assert_type(await store.cursor(), str)
    async with contextlib.aclosing(store.watch(prefix="a", after=await store.cursor("outputs"), type=Rows)) as outputs:
        assert_type(await anext(outputs), Output)
    async with contextlib.aclosing(store.run(run_id).watch(until=run_id, after=None)) as outputs:
        assert_type(await anext(outputs), Output)
    print(either, several)


async def runs(store: AsyncContextStore, run_id: uuid.UUID) -> None:
    assert_type(await store.list_runs(), list[RunInfo])
    assert_type(await store.list_runs(prefix="a", after=run_id, limit=5), list[RunInfo])
    assert_type(await store.get_run_info(run_id), RunInfo | None)
    assert_type(await store.fork_run("run"), str)
    assert_type(await store.fork_run(run_id, new_flow_run_id="new", node_ids=["a", run_id]), str)
    assert_type(await store.delete_run(run_id), int)
    age = datetime.timedelta(days=30)
    assert_type(await store.prune(older_than=age), PruneReport)
    assert_type(await store.prune(older_than=age, state=["completed", "cancelled"]), PruneReport)
    assert_type(await store.prune(older_than=age, dry_run=True, progress=ask_for_progress_async), PruneReport)


async def care(store: AsyncContextStore) -> None:
    assert_type(await store.stats(), StoreStats)
    assert_type(await store.check(), CheckReport)
    assert_type(await store.check(progress=ask_for_progress_async), CheckReport)
    assert_type(store.counters(), Counters)
    assert_type(await store.ping(), float)
    assert_type(store.location, str)
    assert_type(await store.backup("copy.db", check=False, overwrite=True), None)
    assert_type(await store.backup(pathlib.Path("copy.db"), progress=ask_for_progress), None)


async def one_run(store: AsyncContextStore, node: uuid.UUID, by_node: Mapping[str, Any]) -> None:
    run = store.run(node)
    assert_type(run, AsyncFlowRun)
    assert_type(await run.get_state("key"), Any)
    assert_type(await run.get_state(node, 0, type=int), int)
    assert_type(await run.get_state("key", type=int), int | None)
    assert_type(await run.upsert_state("key", {"a": 1}, expected_version=0), int)
    assert_type(await run.update_state("key", lambda count: count + 1, 0), Any)
    assert_type(await run.list_state("k"), list[StateEntry])
    assert_type(run.flow_run_id, str)
    assert_type(await run.put("node", 1, exist_ok=True), None)
    assert_type(await run.get("node"), Any)
    assert_type(await run.get(node, 1, type=int), int)
    assert_type(await run.get(node, type=int), int | None)
    assert_type(await run.exists(node), bool)
    assert_type(await run.list_keys(prefix="a"), list[str])
    assert_type(await run.append("log/", 1, key="first", tag="text/plain"), str)
    assert_type(await run.attempts(node), list[Attempt])
    assert_type(await run.put_many(by_node, exist_ok=True), list[str])
    assert_type(await run.get_many(["node", node]), dict[str, Any])
    assert_type(await run.get_many(["node", node], type=Rows), dict[str, Rows])
    assert_type(await run.get_run(type=Rows), dict[str, Rows])
    assert_type(await run.list_outputs(limit=1), list[Output])
    assert_type(await run.get_entry(node, type=Rows), Output | None)
    assert_type(await run.delete(), int)
    numbers: dict[str, int] = {"year": 2026}
    assert_type(await run.begin(attributes=numbers, parent=node), RunInfo)
    assert_type(await run.begin(attributes={"kind": "report", "share": 0.5, "last": True}), RunInfo)
    assert_type(await run.update(state="failed", attributes={"kind": None}, error="", expected_state="open"), RunInfo)
    assert_type(await run.info(), RunInfo | None)
    assert_type(await run.fork(new_flow_run_id="new", node_ids=[node]), str)
    assert_type(await run.get_or_put("node", run.list_keys), Any)
    assert_type(await run.get_or_put("node", run.list_keys, type=list[str]), list[str])
    assert_type(await run.get_or_put(node, lambda: 1, type=Rows), Rows)
    computed: int = await run.step("node", asyncio.sleep, 1, result=5)
    computed = await run.step("node", pow, 2, 3)
    assert_type(await run.wait_for("node"), Any)
    assert_type(await run.wait_for("node", timeout=None, type=int), int)
    either: int | str = await run.get_or_put("node", lambda: 1, type=int | str)
    either = await run.wait_for("node", type=int | str)
    async for output in run.iter_outputs():
        assert_type(output, Output)
    async for output in run.watch():
        assert_type(output, Output)
    iterator: AsyncIterator[Output] = run.watch()
    print(computed, either, iterator)


async def write_before_complete(store: AsyncContextStore, run_id: uuid.UUID) -> None:
    async def complete() -> int:
        return 1

    writer = AtomicWriter(store)
    assert_type(writer, AtomicWriter[AsyncContextStore])
    assert_type(await writer.write_and_complete("run", "node", 1, complete), int)
    assert_type(await writer.write_and_complete(run_id, run_id, 1, lambda: "done"), str)


# --------------------------------------------------------------------------------------------------------- blocking


def opening_blocking() -> None:
    with ContextStore("flows.db") as store:
        assert_type(store, ContextStore)
    assert_type(store.open(), None)
    assert_type(store.close(), None)


def outputs_blocking(store: ContextStore, run_id: uuid.UUID, by_node: dict[str, int]) -> None:
    assert_type(store.put("run", "node", {"a": [1, None]}), None)
    assert_type(store.put(run_id, run_id, b"bytes", exist_ok=True), None)
    assert_type(store.get("run", "node"), Any)
    assert_type(store.get("run", "node", "default"), Any)
    assert_type(store.get("run", "node", type=int), int | None)
    assert_type(store.get("run", "node", None, type=Rows), Rows | None)
    assert_type(store.get("run", "node", 0, type=int), int)
    assert_type(store.get("run", "node", "", type=Rows), Rows | str)
    assert_type(store.get(run_id, run_id, default=[], type=list[int]), list[int])
    assert_type(store.get("run", "node", type=list[Rows]), list[Rows] | None)
    either: int | str | None = store.get("run", "node", type=int | str)
    assert_type(store.exists("run", run_id), bool)
    assert_type(store.get_entry(run_id, "node"), Output | None)
    assert_type(store.list_keys("run"), list[str])
    assert_type(store.list_keys(run_id, prefix="a"), list[str])
    assert_type(store.append("run", "log/", 1, key=run_id, tag="text/plain"), str)
    assert_type(store.put_many("run", {"a": 1, "b": "x"}), list[str])
    assert_type(store.put_many("run", {run_id: 1}, exist_ok=True), list[str])
    assert_type(store.put_many("run", by_node), list[str])
    assert_type(store.delete_outputs("run", ["a", run_id]), int)
    assert_type(store.delete_outputs(run_id, prefix="a"), int)
    assert_type(store.get_many("run", ["a", run_id]), dict[str, Any])
    assert_type(store.get_many("run", by_node), dict[str, Any])
    assert_type(store.get_many("run", by_node, type=Rows), dict[str, Rows])
    assert_type(store.get_outputs([("run", run_id)]), dict[tuple[str, str], Any])
    assert_type(store.get_outputs([("run", "node")], type=Rows), dict[tuple[str, str], Rows])
    assert_type(store.get_run("run"), dict[str, Any])
    assert_type(store.get_run("run", prefix="a", type=list[int]), dict[str, list[int]])
    assert_type(store.list_keys("run", after=run_id, limit=1, reverse=True), list[str])
    assert_type(store.list_outputs("run", after="a", limit=1, reverse=True, type=int | str), list[Output])
    for output in store.iter_outputs(run_id, prefix="a", reverse=True, type=Rows):
        assert_type(output, Output)
    print(either)


def global_keys_blocking(store: ContextStore, key: uuid.UUID) -> None:
    assert_type(store.put_global("", {"a": 1}), None)
    assert_type(store.put_global(key, 1, exist_ok=True), None)
    assert_type(store.upsert_global("key", 1), int)
    assert_type(store.upsert_global("key", 1, expected_version=2), int)
    assert_type(store.get_global("key"), Any)
    assert_type(store.get_global("key", 0), Any)
    assert_type(store.get_global("key", type=int), int | None)
    assert_type(store.get_global("key", 0, type=int), int)
    assert_type(store.get_global_entry(key), GlobalEntry | None)
    assert_type(store.list_globals(), list[GlobalEntry])
    assert_type(store.list_globals("a", after="ab", limit=10), list[GlobalEntry])
    assert_type(store.put_global("key", 1, ttl=datetime.timedelta(days=1)), None)
    assert_type(store.upsert_global("key", 1, ttl=1.5), int)
    assert_type(store.update_global("key", len, ttl=KEEP), Any)
    assert_type(store.list_global_keys("a", after="ab", limit=10), list[str])
    assert_type(store.get_globals(["key", key], type=int), dict[str, Any])
    assert_type(store.delete_globals([key]) + store.delete_globals(prefix="a"), int)
    assert_type(store.wait_for_global(key, after_version=1, timeout=1, type=int), GlobalEntry)
    assert_type(store.delete_global(key), bool)
    assert_type(store.update_global("key", lambda count: count + 1, 0), Any)


def leases_blocking(store: ContextStore) -> None:
    with store.lease("nightly", ttl=5) as lease:
        assert_type(lease, Lease)
        assert_type(store.run("run", lease=lease), FlowRun)
        with store.batch(lease=lease) as batch:
            batch.put("run", "node", 1)
    assert_type(store.list_leases(prefix="nightly-"), list[Lease])


def batches_blocking(store: ContextStore, run_id: uuid.UUID) -> None:
    with store.batch() as batch:
        assert_type(batch.put("run", run_id, 1, exist_ok=True), None)
        assert_type(batch.append("run", "log/", 1, key="first", tag="text/plain"), None)
        assert_type(batch.put_global("key", 1, exist_ok=True), None)
        assert_type(batch.upsert_global("key", 2, expected_version=1, ttl=60), None)
        assert_type(batch.upsert_state(run_id, "key", 2, expected_version=1), None)
        assert_type(batch.delete_global("key"), None)
        assert_type(batch.expect_global("key", 1), None)


def steps_and_waiting_blocking(store: ContextStore, run_id: uuid.UUID) -> None:
    assert_type(store.get_or_put("run", "node", lambda: 1), Any)
    assert_type(store.get_or_put("run", "node", lambda: 1, type=None), Any)
    assert_type(store.get_or_put("run", "node", dict, type=Rows), Rows)
    assert_type(store.get_or_put(run_id, run_id, lambda: 1, type=int), int)
    assert_type(store.get_or_put(run_id, run_id, factory=list, type=list[Rows]), list[Rows])
    either: int | str = store.get_or_put("run", "node", lambda: 1, type=int | str)
    assert_type(store.wait_for("run", "node"), Any)
    assert_type(store.wait_for("run", "node", timeout=None, type=None), Any)
    assert_type(store.wait_for(run_id, "node", timeout=1, type=Rows), Rows)
    assert_type(store.wait_for(run_id, "node", type=dict[str, Rows]), dict[str, Rows])
    either = store.wait_for("run", "node", type=int | str)
    several: Sequence[Rows] = store.get_or_put("run", "node", list, type=Sequence[Rows])
    assert_type(store.wait_for_run(run_id), RunInfo)
    assert_type(store.wait_for_run("run", state=("open", "failed"), timeout=1), RunInfo)
    assert_type(store.run("run").wait_for_run(state="completed", timeout=None), RunInfo)
    for info in store.watch_runs():
        assert_type(info, RunInfo)
    with contextlib.closing(
        store.watch_runs(after="a cursor", state=["open", "deleted"], attributes={"team": "a", "n": 1}, parent=run_id)
    ) as infos:
        assert_type(next(infos), RunInfo)
    for output in store.watch("run"):
        assert_type(output, Output)
    assert_type(store.cursor(of="runs"), str)
    with contextlib.closing(store.watch(prefix="a", after=store.cursor(), type=Rows)) as outputs:
        assert_type(next(outputs), Output)
    with contextlib.closing(store.run(run_id).watch(until=run_id, after=None)) as outputs:
        assert_type(next(outputs), Output)
    print(either, several)


def runs_blocking(store: ContextStore, run_id: uuid.UUID) -> None:
    assert_type(store.list_runs(), list[RunInfo])
    assert_type(store.list_runs(prefix="a", after=run_id, limit=5), list[RunInfo])
    assert_type(store.get_run_info(run_id), RunInfo | None)
    assert_type(store.fork_run("run"), str)
    assert_type(store.fork_run(run_id, new_flow_run_id="new", node_ids=["a", run_id]), str)
    assert_type(store.delete_run(run_id), int)
    age = datetime.timedelta(days=30)
    assert_type(store.prune(older_than=age), PruneReport)
    assert_type(store.prune(older_than=age, state="completed"), PruneReport)
    assert_type(store.prune(older_than=age, dry_run=True, progress=ask_for_progress), PruneReport)


def care_blocking(store: ContextStore) -> None:
    assert_type(store.stats(), StoreStats)
    assert_type(store.check(progress=ask_for_progress), CheckReport)
    assert_type(store.counters(), Counters)
    assert_type(store.ping(), float)
    assert_type(store.location, str)
    assert_type(store.backup("copy.db", check=False, overwrite=True), None)
    assert_type(store.backup(pathlib.Path("copy.db"), progress=ask_for_progress), None)


def one_run_blocking(store: ContextStore, node: uuid.UUID, by_node: Mapping[str, Any]) -> None:
    run = store.run(node)
    assert_type(run, FlowRun)
    assert_type(run.get_state("key"), Any)
    assert_type(run.get_state(node, 0, type=int), int)
    assert_type(run.get_state("key", type=int), int | None)
    assert_type(run.upsert_state("key", {"a": 1}, expected_version=0), int)
    assert_type(run.update_state("key", lambda count: count + 1, 0), Any)
    assert_type(run.list_state("k"), list[StateEntry])
    assert_type(run.flow_run_id, str)
    assert_type(run.put("node", 1, exist_ok=True), None)
    assert_type(run.get("node"), Any)
    assert_type(run.get(node, 1, type=int), int)
    assert_type(run.get(node, type=int), int | None)
    assert_type(run.exists(node), bool)
    assert_type(run.list_keys(prefix="a"), list[str])
    assert_type(run.append("log/", 1, key="first", tag="text/plain"), str)
    assert_type(run.attempts(node), list[Attempt])
    assert_type(run.put_many(by_node, exist_ok=True), list[str])
    assert_type(run.get_many(["node", node]), dict[str, Any])
    assert_type(run.get_many(["node", node], type=Rows), dict[str, Rows])
    assert_type(run.get_run(type=Rows), dict[str, Rows])
    assert_type(run.list_outputs(limit=1), list[Output])
    assert_type(run.get_entry(node, type=Rows), Output | None)
    assert_type(run.delete(), int)
    numbers: dict[str, int] = {"year": 2026}
    assert_type(run.begin(attributes=numbers, parent=node), RunInfo)
    assert_type(run.begin(attributes={"kind": "report", "share": 0.5, "last": True}), RunInfo)
    assert_type(run.update(state="failed", attributes={"kind": None}, error="", expected_state="open"), RunInfo)
    assert_type(run.info(), RunInfo | None)
    assert_type(run.fork(new_flow_run_id="new", node_ids=[node]), str)
    assert_type(run.get_or_put("node", run.list_keys), Any)
    assert_type(run.get_or_put("node", run.list_keys, type=list[str]), list[str])
    assert_type(run.get_or_put(node, lambda: 1, type=Rows), Rows)
    computed: int = run.step("node", pow, 2, 3)
    assert_type(run.wait_for("node"), Any)
    assert_type(run.wait_for("node", timeout=None, type=int), int)
    either: int | str = run.get_or_put("node", lambda: 1, type=int | str)
    either = run.wait_for("node", type=int | str)
    for output in run.iter_outputs():
        assert_type(output, Output)
    for output in run.watch():
        assert_type(output, Output)
    iterator: Iterator[Output] = run.watch()
    print(computed, either, iterator)


def write_before_complete_blocking(store: ContextStore, run_id: uuid.UUID) -> None:
    writer = AtomicWriter(store)
    assert_type(writer, AtomicWriter[ContextStore])
    assert_type(writer.write_and_complete("run", "node", 1, lambda: 1), int)
    assert_type(writer.write_and_complete(run_id, run_id, 1, lambda: None), None)


# ------------------------------------------------------------------------------------------------- results and errors


def faces(store: AsyncContextStore) -> None:
    assert_type(store.blocking, ContextStore)
    assert_type(store.blocking.awaitable, AsyncContextStore)
    assert_type(shared("flows.db", durability="normal", timeout=1, observers=[]), ContextStore)


def copies(one: ContextStore, other: ContextStore) -> None:
    restore("copy.db", pathlib.Path("flows.db"), overwrite=True, progress=lambda done, total: print(done, total))
    report = copy(one, other, progress=lambda done, total: print(done, total))
    assert_type(report, CopyReport)
    assert_type((report.runs, report.outputs, report.digest), tuple[int, int, str])


def exchanged(one: ContextStore, other: ContextStore) -> None:
    for record in export_records(one, runs=["run-1"], prefix="run-", globals=True, on_damaged=print):
        match record:
            case ExportedRun():
                assert_type((record.created_at, record.deleted_at), tuple[datetime.datetime, datetime.datetime | None])
            case ExportedOutput():
                assert_type((record.flow_run_id, record.node_id, record.data), tuple[str, str, bytes | None])
                assert_type(record.attempt, Attempt | None)
            case ExportedAppendCounter():
                assert_type((record.flow_run_id, record.prefix, record.last), tuple[str, str, int])
            case ExportedAppendKey():
                assert_type((record.prefix, record.key, record.node_id), tuple[str, str, str])
            case ExportedState():
                assert_type(record.data, bytes)
            case ExportedFailure():
                assert_type((record.flow_run_id, record.attempt), tuple[str, Attempt])
            case ExportedGlobal():
                assert_type((record.key, record.version, record.data), tuple[str, int, bytes | None])
            case ExportedFreedVersion():
                assert_type(record.version, int)
    report = import_records(other, export_records(one), on_conflict=lambda problem: print(problem.key))
    assert_type(report, ImportReport)
    assert_type((report.outputs, report.conflicts), tuple[int, int])


async def awaited_copies(one: ContextStore, other: AsyncContextStore) -> None:
    assert_type(await copy(one, other), CopyReport)
    assert_type(await copy(other, one), CopyReport)
