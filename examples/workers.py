"""Workers that share flow runs: any number of processes, each of them started, stopped and killed whenever you like.

    python examples/workers.py flows.db begin 100         # have runs there that nobody works on yet
    python examples/workers.py flows.db work              # ends once no run is open; start several of it
    python examples/workers.py flows.db redo RUN extract  # a new run, which begins with these outputs of another
    python examples/workers.py flows.db prune 30          # delete what was completed, and that many days ago

A worker takes open runs, the oldest first, and works on a run only while it holds its lease. The lease of a worker that
dies is free again TTL seconds later, and whoever gets it goes on behind the last step that was recorded. A worker that
was stopped for that long, and wakes up, has lost its leases: it leaves these runs to others. A run is tried again after
a failure, until MOST_FAILURES of its attempts have failed. `contextstore runs flows.db` shows what became of each.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterator

import contextstore
from contextstore import AsyncContextStore, AsyncFlowRun, RunInfo

TTL = 10.0  # seconds until the runs of a dead worker are free
AT_ONCE = 8  # runs that one worker works on; what they write at the same time shares a commit
MOST_FAILURES = 3
NOT_OURS = (contextstore.LeaseLostError, contextstore.RunDeletedError)  # any more
Flow = Callable[[AsyncFlowRun], Awaitable[None]]
log = logging.getLogger("workers")


def extract(run: str) -> list[float]:
    return [number + len(run) / 100 for number in range(200)]


async def write_report(total: float) -> str:
    return await asyncio.sleep(0.01, f"sold for {total:,.2f}")  # stands for the work


async def nightly(run: AsyncFlowRun) -> None:
    """A flow. What has an output is not called again."""
    prices = await run.step("extract", extract, run.flow_run_id)
    total = await run.step("total", sum, prices)
    await run.step("report", write_report, total)


async def work(store: AsyncContextStore, flow: Flow = nightly) -> int:
    """Work until no run is open; returns how many runs this worker has ended."""

    async def work_through(runs: Iterator[RunInfo]) -> int:
        return sum([await take(store, run.flow_run_id, flow) for run in runs])

    ended = 0
    while page := await store.list_runs(state="open", oldest_first=True, limit=100):
        random.shuffle(page)  # workers that have the same page seldom ask for the same lease
        runs = iter(page)
        some = sum(await asyncio.gather(*(work_through(runs) for _ in range(AT_ONCE))))
        ended += some
        if not some:  # what is open is with others
            await asyncio.sleep(TTL / 10)
    return ended


async def take(store: AsyncContextStore, flow_run_id: str, flow: Flow) -> bool:
    """Work on a run, if nobody else does; returns whether it was brought to its end."""
    if not is_open(await store.get_run_info(flow_run_id)):  # not worth a lease
        return False
    try:
        async with store.lease(flow_run_id, ttl=TTL, wait=0) as lease:
            run = store.run(flow_run_id, lease=lease)
            # Asked again: only under the lease nobody else can have ended it meanwhile.
            return is_open(await run.info()) and await bring_to_its_end(run, flow)
    except contextstore.LeaseHeldError:
        return False
    except NOT_OURS as error:
        log.warning("%s is left to others: %s", flow_run_id, error)
        return False


def is_open(run: RunInfo | None) -> bool:
    return run is not None and run.state == "open"


async def bring_to_its_end(run: AsyncFlowRun, flow: Flow) -> bool:
    try:
        await flow(run)
    except (*NOT_OURS, contextstore.StorageError):
        raise  # it says nothing of the flow
    except Exception as error:  # noqa: BLE001 - whatever a step raises: it is recorded already, as an attempt
        info = await run.info()
        if info is not None and info.failures < MOST_FAILURES:
            return False  # it stays open: whoever takes it tries again
        await run.update(state="failed", error=f"{type(error).__name__}: {error}")
    else:
        await run.update(state="completed")
    return True


async def main(path: str, command: str, *words: str) -> None:
    async with AsyncContextStore(path) as store:
        match command, *words:
            case "begin", count:
                runs = [store.run(contextstore.new_flow_run_id()) for _ in range(int(count))]
                await asyncio.gather(*(run.begin(attributes={"flow": "nightly"}) for run in runs))
            case ("work",):
                print(await work(store), "runs ended")
            case "redo", flow_run_id, *node_ids:
                print(await store.fork_run(flow_run_id, node_ids=node_ids))
            case "prune", days:
                print(await store.prune(older_than=datetime.timedelta(float(days)), state=("completed", "cancelled")))


if __name__ == "__main__":
    if sys.argv[2:3] not in (["begin"], ["work"], ["redo"], ["prune"]):
        print("usage: workers.py FILE begin COUNT | work | redo RUN NODE... | prune DAYS", file=sys.stderr)
        sys.exit(2)
    asyncio.run(main(*sys.argv[1:]))
