"""Uses that a type checker must refuse: each line is marked, and a mark that nothing deserves is itself an error."""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

import datetime

from contextstore import AsyncContextStore, AsyncFlowRun, AtomicWriter, ContextStore, FlowRun, Output


def opening() -> None:
    ContextStore()  # type: ignore[call-arg]
    ContextStore(b"flows.db")  # type: ignore[arg-type]
    ContextStore("flows.db", durability="none")  # type: ignore[arg-type]
    ContextStore("flows.db", "full")  # type: ignore[call-arg]
    ContextStore("flows.db", timeout="30")  # type: ignore[arg-type]
    ContextStore("flows.db", timeout=None)  # type: ignore[arg-type]
    ContextStore("flows.db", isolation="none")  # type: ignore[call-arg]
    AsyncContextStore("flows.db", durability="none")  # type: ignore[arg-type]
    with AsyncContextStore("flows.db"):  # type: ignore[attr-defined]
        pass


async def the_other_face(blocking: ContextStore, awaited: AsyncContextStore) -> None:
    await blocking.put("run", "node", 1)  # type: ignore[misc]
    async with ContextStore("flows.db"):  # type: ignore[attr-defined]
        pass
    for output in awaited.iter_outputs("run"):  # type: ignore[attr-defined]
        print(output)
    with awaited.batch():  # type: ignore[attr-defined]
        pass


def blocking(store: ContextStore) -> None:
    store.put("run", "node")  # type: ignore[call-arg]
    store.put(1, "node", 1)  # type: ignore[arg-type]
    store.put("run", "node", 1, True)  # type: ignore[call-arg]
    store.get("run", "node", type=int) + 1  # type: ignore[operator]
    number: int = store.get("run", "node", type=int)  # type: ignore[assignment]
    text: str = store.get("run", "node", 0, type=int)  # type: ignore[assignment]
    store.list_keys("run", "prefix")  # type: ignore[call-arg]
    store.put_many("run", ["node"])  # type: ignore[arg-type]
    version: str = store.upsert_global("key", 1)  # type: ignore[assignment]
    store.upsert_global("key", 1, expected_version="1")  # type: ignore[arg-type]
    store.prune(older_than=30)  # type: ignore[arg-type]
    store.prune(datetime.timedelta(days=30))  # type: ignore[call-arg]
    store.wait_for("run", "node", 5)  # type: ignore[call-overload]
    awaited: str = store.wait_for("run", "node", type=int)  # type: ignore[assignment]
    store.get_or_put("run", "node", 5)  # type: ignore[call-overload]
    store.get_or_put("run", "node", int, int)  # type: ignore[call-overload]
    store.get_or_put("run", "node", lambda argument: argument, type=int)  # type: ignore[arg-type, misc]
    computed: str = store.get_or_put("run", "node", int, type=int)  # type: ignore[assignment]
    with store.batch() as batch:
        batch.get("run", "node")  # type: ignore[attr-defined]
    print(number, text, version, awaited, computed)


async def awaited(store: AsyncContextStore) -> None:
    store.put_nowait("run", "node", 1)  # type: ignore[attr-defined]
    number: int = await store.get("run", "node", type=int)  # type: ignore[assignment]
    await store.put(1, "node", 1)  # type: ignore[arg-type]
    exists: bool = store.exists("run", "node")  # type: ignore[assignment]
    async with store.batch() as batch:
        await batch.put("run", "node", 1)  # type: ignore[func-returns-value, misc]
    print(number, exists)


async def one_run(blocking: FlowRun, awaited: AsyncFlowRun) -> None:
    computed: str = blocking.get_or_put("node", int, type=int)  # type: ignore[assignment]
    waited_for: str = blocking.wait_for("node", type=int)  # type: ignore[assignment]
    (await awaited.get_or_put("node", int, type=int)).upper()  # type: ignore[attr-defined]
    (await awaited.wait_for("node", type=int)).upper()  # type: ignore[attr-defined]
    blocking.get_or_put("node")  # type: ignore[call-overload]
    await awaited.wait_for("node", 5)  # type: ignore[call-overload]
    awaited.get_or_put("node", int, type=int) + 1  # type: ignore[operator]
    print(computed, waited_for)


def take(number: int, *, type: str = "") -> int:
    return number


async def take_awaited(number: int) -> int:
    return number


async def steps(blocking: FlowRun, awaited: AsyncFlowRun) -> None:
    blocking.step("node")  # type: ignore[call-arg]
    blocking.step("node", 5)  # type: ignore[arg-type]
    blocking.step(5, take, 1)  # type: ignore[arg-type]
    blocking.step("node", take)  # type: ignore[call-arg]
    blocking.step("node", take, "text")  # type: ignore[arg-type]
    blocking.step("node", take, 1, 2)  # type: ignore[arg-type, call-arg]
    blocking.step("node", take, 1, unknown=2)  # type: ignore[call-arg]
    blocking.step("node", take, 1, type=int)  # type: ignore[arg-type]
    blocking.step(node_id="node", fn=take, number=1)  # type: ignore[call-arg]
    blocking.step("node", take_awaited, 1) + 1  # type: ignore[operator]
    text: str = blocking.step("node", take, 1)  # type: ignore[assignment]
    await awaited.step("node", take)  # type: ignore[call-overload]
    await awaited.step("node", take_awaited, "text")  # type: ignore[call-overload]
    await awaited.step("node", take_awaited, 1, type=int)  # type: ignore[call-arg]
    awaited.step("node", take_awaited, 1) + 1  # type: ignore[operator]
    text = await awaited.step("node", take_awaited, 1)  # type: ignore[call-overload]
    text = await awaited.step("node", take, 1)  # type: ignore[call-overload]
    print(text)


def results(output: Output) -> None:
    output.value = 1  # type: ignore[misc]
    output.created_at  # type: ignore[attr-defined]  # noqa: B018


def write_before_complete(store: ContextStore, path: str) -> None:
    AtomicWriter(path)  # type: ignore[type-var]
    number: int = AtomicWriter(store).write_and_complete("run", "node", 1, lambda: "text")  # type: ignore[assignment]
    AtomicWriter(store).write_and_complete("run", "node", 1)  # type: ignore[call-arg]
    print(number)
