"""What a flow runner does with a store besides writing outputs: share work, re-run from a node, keep what is needed.

    python examples/retention.py [FILE]      # a file of its own: whatever is older in it is pruned

Three workers share the flow runs of a night by a map that is kept in the store: whoever claims a run has it alone. Then
a mistake is found in one node of one run; the run is forked with the outputs before that node, and goes on from there
with the node mended. In the end one of the workers, and only one, prunes what is older than tonight.
"""

from __future__ import annotations

import asyncio
import datetime
import pathlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from contextstore import AsyncContextStore, RunInfo, VersionConflictError, new_flow_run_id

Flow = Mapping[str, Callable[[Mapping[str, Any]], Any]]
"""Nodes in the order of their work: each is called with the outputs of those before."""

NIGHTLY: Flow = {
    "extract": lambda _: [{"item": number, "price": f"{number}.50"} for number in range(1, 2001)],
    "clean": lambda outputs: [float(row["price"]) for row in outputs["extract"]],
    "total": lambda outputs: max(outputs["clean"]),
    "report": lambda outputs: f"sold for {outputs['total']:,.2f}",
}
MENDED: Flow = {**NIGHTLY, "total": lambda outputs: sum(outputs["clean"])}

RUNS = "runs"  # a global: what became of each run, or whose it is
LAST_PRUNE = "last-prune"  # a global: when the night began for which the retention was done
WORKERS = ("ada", "grace", "edsger")


async def run_flow(store: AsyncContextStore, flow_run_id: str, flow: Flow) -> None:
    """Compute what has no output yet. Each output is in the store before the next node begins."""
    outputs = await store.get_run(flow_run_id)
    for node_id, compute in flow.items():
        if node_id not in outputs:
            outputs[node_id] = compute(outputs)
            await store.put(flow_run_id, node_id, outputs[node_id])


# ------------------------------------------------------------------------------------------------------ sharing work


async def claim(store: AsyncContextStore, worker: str) -> str | None:
    """A run that nobody has yet, for this worker alone."""
    claimed: str | None = None

    def take(runs: dict[str, str]) -> dict[str, str]:  # may run more than once, whenever another worker was quicker
        nonlocal claimed
        claimed = next((flow_run_id for flow_run_id, state in runs.items() if state == "waiting"), None)
        return runs if claimed is None else {**runs, claimed: f"with {worker}"}

    await store.update_global(RUNS, take, {})
    return claimed


async def note(store: AsyncContextStore, states: Mapping[str, str]) -> None:
    await store.update_global(RUNS, lambda runs: {**runs, **states}, {})


async def work(path: pathlib.Path, worker: str) -> int:
    """Work off what waits; returns how many runs it was. A worker has a store object of its own, as a process would."""
    done = 0
    async with AsyncContextStore(path) as store:
        while (flow_run_id := await claim(store, worker)) is not None:
            await run_flow(store, flow_run_id, NIGHTLY)
            await note(store, {flow_run_id: "done"})
            done += 1
    return done


async def one_night(store: AsyncContextStore, path: pathlib.Path, night: str, count: int) -> list[str]:
    flow_run_ids = [f"{night}/{new_flow_run_id()}" for _ in range(count)]
    await note(store, dict.fromkeys(flow_run_ids, "waiting"))
    done = await asyncio.gather(*(work(path, worker) for worker in WORKERS))
    shares = ", ".join(f"{worker} {share}" for worker, share in zip(WORKERS, done, strict=True))
    print(f"{night}: {sum(done)} runs done ({shares})")
    return flow_run_ids


# --------------------------------------------------------------------------------------------- re-running from a node


async def rerun_from(store: AsyncContextStore, flow_run_id: str, node_id: str, flow: Flow) -> str:
    """A new run with the outputs before a node, brought to its end. The old one stays as it is."""
    before = list(flow)[: list(flow).index(node_id)]
    forked = await store.fork_run(
        flow_run_id, new_flow_run_id=f"{flow_run_id.split('/')[0]}/{new_flow_run_id()}", node_ids=before
    )
    await run_flow(store, forked, flow)
    await note(store, {forked: "done", flow_run_id: f"replaced by {forked}"})
    return forked


# --------------------------------------------------------------------------------------------------------- retention


async def is_mine_to_prune(store: AsyncContextStore, night: str) -> bool:
    """Whether this worker is the one that does the retention of the night: compare-and-set has one winner."""
    last = await store.get_global_entry(LAST_PRUNE)
    if last is not None and last.value == night:
        return False
    try:
        await store.upsert_global(LAST_PRUNE, night, expected_version=0 if last is None else last.version)
    except VersionConflictError:
        return False
    return True


async def keep_since(store: AsyncContextStore, began: datetime.datetime) -> None:
    def age() -> datetime.timedelta:  # reckoned anew for each call: it grows
        return datetime.datetime.now(datetime.UTC) - began

    plan = await store.prune(older_than=age(), dry_run=True)
    print(f"to prune: {plan.runs} runs with {plan.outputs} outputs, {plan.bytes:,} bytes")
    before = (await store.stats()).value_bytes
    await store.prune(older_than=age(), progress=lambda done, total: print(f"  {done} of {total} runs looked at"))
    print(f"pruned: {before:,} bytes of values before, {(await store.stats()).value_bytes:,} after")
    # The map is ours to keep: without the runs that are gone.
    kept = {run.flow_run_id async for run in all_runs(store)}
    await store.update_global(RUNS, lambda runs: {run: state for run, state in runs.items() if run in kept})


async def all_runs(store: AsyncContextStore) -> AsyncIterator[RunInfo]:
    """Every run, newest first, a page at a time."""
    after = None
    while page := await store.list_runs(after=after):
        for run in page:
            yield run
        after = page[-1].flow_run_id


async def main(path: pathlib.Path) -> None:
    async with AsyncContextStore(path) as store:
        await one_night(store, path, "monday", 12)
        tonight = datetime.datetime.now(datetime.UTC)
        tuesday = await one_night(store, path, "tuesday", 8)

        print(f"{tuesday[0]}: {await store.get(tuesday[0], 'report')}, which cannot be")
        forked = await rerun_from(store, tuesday[0], "total", MENDED)
        print(f"{forked}: {await store.get(forked, 'report')}, re-run from 'total'")

        # By date and time: "tuesday" alone would be the tuesday of last week, too.
        mine = await asyncio.gather(*(is_mine_to_prune(store, tonight.isoformat()) for _ in WORKERS))
        (worker,) = [worker for worker, is_mine in zip(WORKERS, mine, strict=True) if is_mine]
        print(f"{worker} does the retention")
        await keep_since(store, tonight)

        states = await store.get_global(RUNS)
        print(f"left: {len(states)} runs, {sum(state == 'done' for state in states.values())} of them in force")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(pathlib.Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(pathlib.Path(folder) / "flows.db"))
