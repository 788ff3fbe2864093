"""A web service: runs are begun, followed, answered and deleted over HTTP, by any number of worker processes.

    pip install '.[web]'
    CONTEXTSTORE_URL=flows.db uvicorn --app-dir examples --workers 3 web_service:app

Each worker process has one store object, and all of them the same store. What a run is, and which worker does what, is
in web_worker.py beside this file; docs/web-service.md says why each is as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Annotated, Any, Literal

import anyio
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from web_worker import ANSWER, DRAFT, KEEP, KEYS, LAST, OPEN, READY, REQUEST, Answer, NewRun, Worker

import contextstore
from contextstore import AsyncContextStore, AsyncFlowRun, Output

STORE = os.environ.get("CONTEXTSTORE_URL", "flows.db")
TIMEOUT = float(os.environ.get("STORE_TIMEOUT", "5"))  # seconds until a client is told that the store is busy
log = logging.getLogger("uvicorn.error")


# ------------------------------------------------------------------------------------------------------ the application


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with AsyncContextStore(STORE, timeout=TIMEOUT) as store:
        worker = Worker(store)
        working = asyncio.create_task(worker.work())
        with told_to_stop(worker.stopping):
            yield {"worker": worker, "working": working}
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


@contextlib.contextmanager
def told_to_stop(stopping: asyncio.Event) -> Iterator[None]:
    """Sets the event at the signal. The lifespan is told only when all connections are closed, which streams keep open.

    The server's own handler is called as well. In another thread than the main one, as in tests, nobody is told.
    """
    loop = asyncio.get_running_loop()
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)
        handlers[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, handle)
    yield
    for known, handler in handlers.items():
        signal.signal(known, handler)


app = FastAPI(title="Reports", lifespan=lifespan, max_body_size=2**20)


def worker_of(request: Request) -> Worker:
    worker: Worker = request.state.worker
    return worker


ThisWorker = Annotated[Worker, Depends(worker_of)]


async def existing_run(worker: ThisWorker, flow_run_id: str) -> AsyncFlowRun:
    """404 for a run that never was, and 410 (``RunDeletedError``) for one that was deleted."""
    run = worker.store.run(flow_run_id)
    try:
        await run.wait_for(REQUEST, timeout=0)
    except TimeoutError:
        raise HTTPException(404, "there is no such run") from None
    return run


ExistingRun = Annotated[AsyncFlowRun, Depends(existing_run)]


@app.post("/runs", status_code=202)
async def begin_run(
    worker: ThisWorker,
    new: NewRun,
    idempotency_key: Annotated[str, Header(min_length=1, max_length=200)],
    response: Response,
) -> dict[str, str]:
    """The same key again is the same run, whichever worker is asked: a client that got no answer may send it again."""
    flow_run_id, key = contextstore.new_flow_run_id(), KEYS + idempotency_key
    try:
        async with worker.store.batch() as batch:  # one commit: no key without its run, no run that is nobody's
            batch.put_global(key, flow_run_id, ttl=KEEP)
            batch.put(flow_run_id, REQUEST, new)
            batch.put_global(OPEN + flow_run_id, READY)
    except contextstore.GlobalAlreadyExistsError:
        flow_run_id = await worker.store.get_global(key, "", type=str)
        if await (await existing_run(worker, flow_run_id)).get(REQUEST, type=NewRun) != new:
            raise HTTPException(422, "this idempotency key was sent with another request") from None
    worker.has_work.set()
    response.headers["Location"] = f"/runs/{flow_run_id}"
    return {"flow_run_id": flow_run_id}


@app.get("/runs")
async def list_runs(
    worker: ThisWorker,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    state: Literal["open", "completed", "failed"] | None = None,
) -> dict[str, Any]:
    """A page, newest first. The next one: ``after`` the last run of this one; an empty page is the last."""
    return {"runs": await worker.store.list_runs(after=after, limit=limit, state=state)}


@app.get("/runs/{flow_run_id}")
async def show_run(run: ExistingRun, worker: ThisWorker) -> dict[str, Any]:
    """All of a run: it has six outputs at most. Of a flow with more, ``iter_outputs`` gives a page at a time."""
    return await worker.store.get_run(run.flow_run_id)


@app.get("/runs/{flow_run_id}/attempts")
async def show_attempts(run: ExistingRun) -> dict[str, Any]:
    """How a run stands, and what was tried for it. Of an error only its class: the rest is for the log."""
    attempts = [
        {
            "node": attempt.node_id,
            "number": attempt.number,
            "seconds": (attempt.ended_at - attempt.started_at).total_seconds(),
            "error": attempt.error and attempt.error.partition(":")[0],
        }
        for attempt in await run.attempts()
    ]
    return {"run": await run.info(), "attempts": attempts}


def news_only(last_event_id: Annotated[str, Header()] = "") -> str:
    """What the client has seen last. If that was the end, 204: a browser stops asking then."""
    if last_event_id in LAST:
        raise HTTPException(204)
    return last_event_id


@app.get("/runs/{flow_run_id}/events", response_class=EventSourceResponse)
async def follow_run(
    run: ExistingRun, worker: ThisWorker, seen: Annotated[str, Depends(news_only)]
) -> AsyncIterator[ServerSentEvent]:
    """Each output as it is written, until the run is complete or the server stops: the browser then asks another."""
    yield ServerSentEvent(comment="following", retry=1000)
    try:
        async with contextlib.aclosing(until(worker.stopping, run.watch())) as outputs:
            async for output in outputs:
                if output.node_id > seen:
                    yield ServerSentEvent(id=output.node_id, data={"node": output.node_id, "value": output.value})
                if output.node_id in LAST:
                    break
    except contextstore.RunDeletedError:
        yield ServerSentEvent(event="deleted", data=run.flow_run_id)
    except contextstore.ContextStoreError as error:  # the status is sent already; the browser will ask again
        log.warning("a stream ends early: %s", error)


async def until(stopping: asyncio.Event, outputs: AsyncIterator[Output]) -> AsyncGenerator[Output, None]:
    """The outputs, until the event is set."""
    stop = asyncio.create_task(stopping.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(outputs))
            await asyncio.wait({stop, following}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                break
            yield following.result()
    finally:
        stop.cancel()
        following.cancel()
        with anyio.CancelScope(shield=True):  # the client may have gone: the watch is ended all the same
            await asyncio.gather(stop, following, return_exceptions=True)


@app.post("/runs/{flow_run_id}/answers", status_code=204)
async def answer(run: ExistingRun, worker: ThisWorker, given: Answer) -> None:
    """What a person says to the draft. The first answer stands; the same again is a retry, another one a conflict."""
    if not await run.exists(DRAFT):
        raise HTTPException(409, "nothing was asked yet")
    if await run.get(ANSWER, type=Answer) != given:
        async with worker.store.batch() as batch:
            batch.put(run.flow_run_id, ANSWER, given)
            batch.upsert_global(OPEN + run.flow_run_id, READY)
    worker.has_work.set()


@app.delete("/runs/{flow_run_id}", status_code=204)
async def delete_run(run: ExistingRun, worker: ThisWorker) -> None:
    await run.delete()
    await worker.store.delete_global(OPEN + run.flow_run_id)


@app.get("/health/live")
async def live(request: Request, worker: ThisWorker) -> dict[str, int]:
    """Whether this process should go on. The store's health is none of it: a restart mends no database."""
    if request.state.working.done():
        raise HTTPException(500, "this worker no longer works on runs")
    return {"process": os.getpid(), "runs": len(worker.flows)}


@app.get("/health/ready")
async def ready(worker: ThisWorker) -> dict[str, float]:
    """Whether this process can serve: one trip to the store."""
    return {"seconds": await worker.store.ping()}


# --------------------------------------------------------------------------------------------------------------- errors

TOLD: dict[type[Exception], tuple[int, str]] = {
    contextstore.RunDeletedError: (410, "the run was deleted"),
    contextstore.InvalidKeyError: (422, "there can be no such id"),
    contextstore.SerializationError: (422, "this cannot be stored"),
    contextstore.AlreadyExistsError: (409, "something else was written before"),
    contextstore.StoreFullError: (507, "there is no room left"),
    contextstore.CorruptStoreError: (500, "something in the store is damaged"),
    contextstore.StorageError: (503, "the store cannot be used now"),
    contextstore.StoreClosedError: (503, "the service is stopping"),
    contextstore.ContextStoreError: (500, "this should not have happened"),
}
"""The first that fits. The sentences are ours: an error's own names keys and places, and is for the log."""


@app.exception_handler(contextstore.ContextStoreError)
async def tell(request: Request, error: Exception) -> JSONResponse:
    status, sentence = next(told for kind, told in TOLD.items() if isinstance(error, kind))
    if status >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse({"detail": sentence}, status, {"Retry-After": "1"} if status == 503 else None)
