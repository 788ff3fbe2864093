"""What examples/web_service.py works on, in each of its processes: runs, of which each worker claims some.

A run writes a report: it makes an outline and a draft, asks a person what to change, and mends the draft. The model
that does so is a stand-in. What has an output is not computed again, whichever worker dies: who goes on finds it there.

Who works on what is in the globals that begin with OPEN, one for each run that is not complete: READY, ASLEEP (a person
is asked), or the name of the worker that has it. A worker claims a run on condition that the global is as it was read,
and writes its name anew while it works. A claim that is older than CLAIM_LASTS is a dead worker's: others take it over.
Should that worker have been slow, not dead, both compute, and the first output of a node stands for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import socket
from collections.abc import AsyncIterator

from pydantic import BaseModel, Field

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    AsyncFlowRun,
    GlobalEntry,
    RunDeletedError,
    StorageError,
    VersionConflictError,
    new_flow_run_id,
)

CLAIM_LASTS = float(os.environ.get("CLAIM_LASTS", "30"))  # seconds; it is renewed four times as often
# Since the last output, or of an idempotency key the first use. More than 0, if keys are to be taken at all.
KEEP = datetime.timedelta(days=float(os.environ.get("KEEP_DAYS", "30")))
MODEL_TAKES = float(os.environ.get("MODEL_TAKES", "0.5"))  # seconds
AT_ONCE = 100  # runs that one worker works on; the rest is left to others

# Nodes are named so that they sort as they are written: to a client that has seen one, only those above it are news.
REQUEST, OUTLINE, DRAFT, ANSWER, REPORT, FAILED = (
    "1-request",
    "2-outline",
    "3-draft",
    "4-answer",
    "5-report",
    "6-failed",
)
LAST = (REPORT, FAILED)
OPEN, KEYS, RETENTION = "open/", "idempotency/", "retention"  # globals: what they begin with, and one
READY, ASLEEP = "ready", "asleep"
log = logging.getLogger("uvicorn.error")


class NewRun(BaseModel):
    topic: str = Field(min_length=1, max_length=10_000)


class Answer(BaseModel):
    text: str = Field(max_length=10_000)


async def ask_model(run: AsyncFlowRun, node_id: str, prompt: str) -> str:
    log.info("computing %s of %s", node_id, run.flow_run_id)
    await asyncio.sleep(MODEL_TAKES)
    return f"{node_id.partition('-')[2]} of {prompt}"


async def write_report(run: AsyncFlowRun) -> bool:
    """The flow: brings a run as far as it goes, and returns whether that is its end."""
    request = await run.get(REQUEST, type=NewRun)
    if request is None:  # deleted, and perhaps forgotten since
        return True
    outline = await run.step(OUTLINE, ask_model, run, OUTLINE, request.topic)
    draft = await run.step(DRAFT, ask_model, run, DRAFT, outline)
    answer = await run.get(ANSWER, type=Answer)
    if answer is None:  # nobody waits for it: whoever answers has the run gone on with
        return False
    await run.step(REPORT, ask_model, run, REPORT, f"{draft}, with {answer.text}")
    await run.update(state="completed")
    return True


class Worker:
    """What one process does beside answering requests."""

    def __init__(self, store: AsyncContextStore) -> None:
        self.store = store
        self.name = f"{socket.gethostname()} {os.getpid()} {new_flow_run_id()}"
        self.stopping = asyncio.Event()
        self.has_work = asyncio.Event()
        self.flows: dict[str, asyncio.Task[None]] = {}

    async def work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.prune_once_a_day())
            while True:
                self.has_work.clear()
                try:
                    async for entry in all_globals(self.store, OPEN):
                        await self.look_at(entry, tasks)
                except StorageError as error:
                    log.warning("no work can be looked for: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.has_work.wait(), CLAIM_LASTS / 4)

    async def look_at(self, entry: GlobalEntry, tasks: asyncio.TaskGroup) -> None:
        flow = self.flows.get(entry.key)
        is_left = entry.value != ASLEEP and age_of(entry).total_seconds() > CLAIM_LASTS
        is_free = (entry.value == READY or is_left) and (flow is not None or len(self.flows) < AT_ONCE)
        if is_free or entry.value == self.name:
            if await replace(self.store, entry.key, self.name, entry.version) and flow is None:
                self.flows[entry.key] = tasks.create_task(self.run_flow(entry.key))
        elif flow is not None:
            flow.cancel()  # it was too slow, and another worker has taken it over

    async def run_flow(self, key: str) -> None:
        run = self.store.run(key.removeprefix(OPEN))
        try:
            if await self.is_complete(run):
                await self.store.delete_global(key)
            else:
                await self.leave(key, ASLEEP)
        except StorageError as error:  # the claim is still there, and so the run is looked at again soon
            log.warning("%s goes on later: %s", run.flow_run_id, error)
        except asyncio.CancelledError:
            with contextlib.suppress(StorageError):  # then it runs out
                await self.leave(key, READY)
            raise
        finally:
            del self.flows[key]

    async def is_complete(self, run: AsyncFlowRun) -> bool:
        try:
            return await write_report(run)
        except RunDeletedError:
            return True
        except StorageError:  # which says nothing of the run
            raise
        except Exception as error:  # whatever goes wrong in the flow is what became of the run
            log.exception("%s has failed", run.flow_run_id)
            with contextlib.suppress(AlreadyExistsError, RunDeletedError):
                await run.update(state="failed", error=type(error).__name__)
                await run.put(FAILED, type(error).__name__)  # which ends the streams
            return True

    async def leave(self, key: str, state: str) -> None:
        """Give a run up, unless it is another's by now, or a person has answered."""
        await self.store.update_global(key, lambda value: state if value == self.name else value, default=READY)

    async def prune_once_a_day(self) -> None:
        """Retention. Of the workers that find it due one gets the global, and does it.

        Idempotency keys pass by themselves (``KEEP``), and are freed by the way.
        """
        while True:
            try:
                last = await self.store.get_global_entry(RETENTION)
                is_due = last is None or age_of(last) > datetime.timedelta(days=1)
                if is_due and await replace(self.store, RETENTION, self.name, 0 if last is None else last.version):
                    log.info("pruned: %s", await self.store.prune(older_than=KEEP))
            except StorageError as error:
                log.warning("retention is left for later: %s", error)
            await asyncio.sleep(3600)


def age_of(entry: GlobalEntry) -> datetime.timedelta:
    return datetime.datetime.now(datetime.UTC) - entry.written_at


async def all_globals(store: AsyncContextStore, prefix: str) -> AsyncIterator[GlobalEntry]:
    after = None
    while page := await store.list_globals(prefix, after=after):
        for entry in page:
            yield entry
        after = page[-1].key


async def replace(store: AsyncContextStore, key: str, value: str, version: int) -> bool:
    """Write on condition that the key is as it was read; returns whether it was."""
    try:
        await store.upsert_global(key, value, expected_version=version)
    except VersionConflictError:
        return False
    return True
