"""What a flow runner does with a store besides writing outputs: share work, re-run from a node, keep what is needed.

    python examples/retention.py [FILE]      # a file of its own: whatever is older in it is pruned

Three workers share the flow runs of a night. Beside its outputs each run has a key that says what became of it, and a
worker claims a run by writing its name there, on condition that the key is still as it was read: of two that try, one
has the run. A worker that dies leaves its claims behind. Once they are older than CLAIM_LASTS, whoever passes takes
them over in the same way. Should the worker have been slow, not dead, both compute; the first output of a node stands
for both, and the slow one is told in the end that it has lost the run.

Then a mistake is found in one node of one run; the run is forked with the outputs before that node, and goes on from
there with the node mended. In the end one of the workers, and only one, prunes what is older than tonight.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import pathlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from contextstore import AsyncContextStore, GlobalEntry, RunDeletedError, VersionConflictError, new_flow_run_id

Flow = Mapping[str, Callable[[Mapping[str, Any]], Any]]
"""Nodes in the order of their work: each is called with the outputs of those before."""

NIGHTLY: Flow = {
    "extract": lambda _: [{"item": number, "price": f"{number}.50"} for number in range(1, 2001)],
    "clean": lambda outputs: [float(row["price"]) for row in outputs["extract"]],
    "total": lambda outputs: max(outputs["clean"]),
    "report": lambda outputs: f"sold for {outputs['total']:,.2f}",
}
MENDED: Flow = {**NIGHTLY, "total": lambda outputs: sum(outputs["clean"])}

RUNS = "runs/"  # globals, one a run: what became of it, or whose it is
LAST_PRUNE = "last-prune"  # a global: when the night began for which the retention was done
WORKERS = ("ada", "grace", "edsger")
CLAIM_LASTS = datetime.timedelta(minutes=15)  # longer than a run takes; whoever needs more is taken for dead


async def run_flow(store: AsyncContextStore, flow_run_id: str, flow: Flow) -> None:
    """Compute what has no output yet. Each output is in the store before the next node begins."""
    outputs = await store.get_run(flow_run_id)
    for node_id, compute in flow.items():
        if node_id not in outputs:
            outputs[node_id] = await store.get_or_put(flow_run_id, node_id, functools.partial(compute, outputs))


def is_free(run: GlobalEntry) -> bool:
    age = datetime.datetime.now(datetime.UTC) - run.written_at
    return run.value == "waiting" or (run.value.startswith("with ") and age > CLAIM_LASTS)


async def replace(store: AsyncContextStore, key: str, value: str, version: int) -> int | None:
    """Write on condition that the key is as it was read: its new version, or None where another was quicker."""
    try:
        return await store.upsert_global(key, value, expected_version=version)
    except VersionConflictError:
        return None


async def work(path: pathlib.Path, worker: str) -> int:
    """Work off what is free; returns how many runs it was. A worker has a store of its own, as a process would."""
    done = 0
    async with AsyncContextStore(path) as store:
        async for run in all_globals(store, RUNS):
            if is_free(run) and (claim := await replace(store, run.key, f"with {worker}", run.version)) is not None:
                try:
                    await run_flow(store, run.key.removeprefix(RUNS), NIGHTLY)
                    # None, if the claim was too old, and another has taken the run over.
                    done += await replace(store, run.key, "done", claim) is not None
                except RunDeletedError:  # half-done and left for so long that it was pruned
                    await store.delete_global(run.key)
    return done


async def all_globals(store: AsyncContextStore, prefix: str) -> AsyncIterator[GlobalEntry]:
    """Every global whose key begins so, a page at a time: a claim costs the same among a hundred runs and a million."""
    after = None
    while page := await store.list_globals(prefix, after=after, limit=100):
        for entry in page:
            yield entry
        after = page[-1].key


async def one_night(store: AsyncContextStore, path: pathlib.Path, night: str, count: int) -> list[str]:
    flow_run_ids = [f"{night}/{new_flow_run_id()}" for _ in range(count)]
    async with store.batch() as batch:
        for flow_run_id in flow_run_ids:
            batch.put_global(RUNS + flow_run_id, "waiting")
    done = await asyncio.gather(*(work(path, worker) for worker in WORKERS))
    shares = ", ".join(f"{worker} {share}" for worker, share in zip(WORKERS, done, strict=True))
    print(f"{night}: {sum(done)} runs done ({shares})")
    return flow_run_ids


async def rerun_from(store: AsyncContextStore, flow_run_id: str, node_id: str, flow: Flow) -> str:
    """A new run with the outputs before a node, brought to its end. The old one stays as it is."""
    before = list(flow)[: list(flow).index(node_id)]
    forked = f"{flow_run_id.split('/')[0]}/{new_flow_run_id()}"
    await store.fork_run(flow_run_id, new_flow_run_id=forked, node_ids=before)
    await run_flow(store, forked, flow)
    async with store.batch() as batch:
        batch.put_global(RUNS + forked, "done")
        batch.upsert_global(RUNS + flow_run_id, f"replaced by {forked}")
    return forked


async def is_mine_to_prune(store: AsyncContextStore, night: str) -> bool:
    """Whether this worker is the one that does the retention of the night: compare-and-set has one winner."""
    last = await store.get_global_entry(LAST_PRUNE)
    if last is not None and last.value == night:
        return False
    return await replace(store, LAST_PRUNE, night, 0 if last is None else last.version) is not None


async def keep_since(store: AsyncContextStore, began: datetime.datetime) -> None:
    def age() -> datetime.timedelta:  # reckoned anew for each call: it grows
        return datetime.datetime.now(datetime.UTC) - began

    plan = await store.prune(older_than=age(), dry_run=True)
    print(f"to prune: {plan.runs} runs with {plan.outputs} outputs, {plan.bytes:,} bytes")
    before = (await store.stats()).value_bytes
    await store.prune(older_than=age(), progress=lambda done, total: print(f"  {done} of {total} runs looked at"))
    print(f"pruned: {before:,} bytes of values before, {(await store.stats()).value_bytes:,} after")
    # What is said of the runs is ours to keep: without those that are done and gone. Deletions at once share a commit.
    over = [run.key async for run in all_globals(store, RUNS) if run.value.startswith(("done", "replaced"))]
    kept, after = set[str](), None
    while page := await store.list_runs(after=after):
        kept.update(run.flow_run_id for run in page)
        after = page[-1].flow_run_id
    await asyncio.gather(*(store.delete_global(key) for key in over if key.removeprefix(RUNS) not in kept))


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

        states = [run.value async for run in all_globals(store, RUNS)]
        print(f"left: {len(states)} runs, {states.count('done')} of them in force")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/flows.db")))
