"""Waiting for outputs: whoever waits is told within a loop turn of this object's commits, and soon of others'.

Rules of this room: no SQL, no values. One poller per store object asks the engine for news, only while somebody waits,
and only where somebody else could write at all. No wake-up is lost: a caller subscribes first, and looks then whether
the output is there; what is committed after that look is news to the poller, whose place in the store's history was
taken before it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from ._callers import Callers, Ticket
from ._engine import DeleteRun, Engine, Operation, OutputKey, PutOutput, own_error
from ._room import EngineRoom
from .errors import ContextStoreError, RunDeletedError, StoreClosedError

_DELETIONS_SECONDS = 0.1  # how often the runs that are waited for are looked up among the deleted ones


class Subscription:
    """What one waiter is told: node ids of its run that have an output now, or why it will wait in vain."""

    def __init__(self, news: News, flow_run_id: str, node_id: str | None) -> None:
        self._news = news
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.nodes: list[str] = []
        self.error: ContextStoreError | None = None
        self.ticket: Ticket = None

    async def next(self, timeout: float | None) -> list[str]:
        """The node ids reported since the last call; waits for one. Raises the builtin TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._news.lock:
                if self.error is not None:
                    raise self.error
                if self.nodes:
                    nodes, self.nodes = self.nodes, []
                    return nodes
                ticket = self.ticket = self._news.callers.ticket()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            answer = await self._news.callers.wait(ticket, left, _time_is_up)
            if answer is not None:
                raise TimeoutError

    def close(self) -> None:
        self._news.unsubscribe(self)


def _time_is_up() -> object:
    return TimeoutError


class News:
    """Who waits for what, and the poller that asks for it."""

    def __init__(self, engine: Engine, callers: Callers) -> None:
        self._engine = engine
        self.callers = callers
        self.lock = threading.Lock()
        self._by_output: dict[OutputKey, list[Subscription]] = {}
        self._by_run: dict[str, list[Subscription]] = {}
        self._closed = False
        self._polling: concurrent.futures.Future[None] | None = None

    async def subscribe(self, room: EngineRoom, flow_run_id: str, node_id: str | None) -> Subscription:
        """Be told of an output, or of all outputs of a run, from now on. To be closed."""
        subscription = Subscription(self, flow_run_id, node_id)
        with self.lock:
            if self._closed:
                raise StoreClosedError(self._engine.location)
            if node_id is None:
                self._by_run.setdefault(flow_run_id, []).append(subscription)
            else:
                self._by_output.setdefault((flow_run_id, node_id), []).append(subscription)
            polling = self._polling
            if polling is None and self._engine.poll_seconds is not None:
                polling = self._polling = concurrent.futures.Future()
                room.call(lambda: self._poll(polling))
        try:
            if polling is not None and not polling.done():
                await self.callers.join(polling)
        except BaseException:
            subscription.close()
            raise
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        with self.lock:
            if subscription.node_id is None:
                _remove(self._by_run, subscription.flow_run_id, subscription)
            else:
                _remove(self._by_output, (subscription.flow_run_id, subscription.node_id), subscription)

    def note_committed(self, operations: Iterable[Operation]) -> None:
        """Where the engine writes: this object has committed these."""
        if not self._by_output and not self._by_run:
            return
        for operation in operations:
            if type(operation) is PutOutput:
                self._tell([(operation.flow_run_id, operation.node_id)])
            elif type(operation) is DeleteRun:
                self._tell_deleted(operation.flow_run_id)

    def close(self) -> None:
        """End all waiting."""
        with self.lock:
            self._closed = True
        self._fail(lambda _: StoreClosedError(self._engine.location))

    # -- in the engine room -------------------------------------------------------------------------------------------

    async def _poll(self, ready: concurrent.futures.Future[None]) -> None:
        try:
            await self._poll_until_nobody_waits(ready)
        except Exception as raised:  # noqa: BLE001 - handed over to all who wait
            error = raised
            with self.lock:
                self._polling = None
            self._fail(lambda _: own_error(error, self._engine))
        finally:
            if not ready.done():
                ready.set_result(None)

    async def _poll_until_nobody_waits(self, ready: concurrent.futures.Future[None]) -> None:
        assert self._engine.poll_seconds is not None
        pause, longest = self._engine.poll_seconds
        place, _ = await self._engine.poll(None)
        ready.set_result(None)
        looked_for_deletions = time.monotonic()
        something_changed = True
        while True:
            await asyncio.sleep(pause)
            with self.lock:
                if self._closed or not (self._by_output or self._by_run):
                    self._polling = None
                    return
            new_place, found = await self._engine.poll(place)
            self._tell(found)
            changed, place = new_place != place, new_place
            something_changed = something_changed or changed
            pause = self._engine.poll_seconds[0] if found else min(pause * 1.05, longest)
            if something_changed and time.monotonic() - looked_for_deletions > _DELETIONS_SECONDS:
                looked_for_deletions, something_changed = time.monotonic(), False
                for flow_run_id in await self._engine.deleted_among(self._runs_waited_for()):
                    self._tell_deleted(flow_run_id)

    def _runs_waited_for(self) -> list[str]:
        with self.lock:
            return list({flow_run_id for flow_run_id, _ in self._by_output} | self._by_run.keys())

    # -- in any thread ------------------------------------------------------------------------------------------------

    def _tell(self, found: Iterable[OutputKey]) -> None:
        tickets: list[Ticket] = []
        with self.lock:
            for key in found:
                for subscription in (*self._by_output.get(key, ()), *self._by_run.get(key[0], ())):
                    subscription.nodes.append(key[1])
                    self._take_ticket(subscription, tickets)
        self._wake(tickets)

    def _tell_deleted(self, flow_run_id: str) -> None:
        self._fail(
            lambda subscription: RunDeletedError(flow_run_id) if subscription.flow_run_id == flow_run_id else None
        )

    def _fail(self, error_for: Callable[[Subscription], ContextStoreError | None]) -> None:
        tickets: list[Ticket] = []
        with self.lock:
            everybody: list[list[Subscription]] = [*self._by_output.values(), *self._by_run.values()]
            for subscription in (one for some in everybody for one in some):
                error = error_for(subscription)
                if error is not None:
                    subscription.error = error
                    self._take_ticket(subscription, tickets)
        self._wake(tickets)

    def _take_ticket(self, subscription: Subscription, tickets: list[Ticket]) -> None:
        if subscription.ticket is not None:
            tickets.append(subscription.ticket)
            subscription.ticket = None

    def _wake(self, tickets: list[Ticket]) -> None:
        if tickets:
            self.callers.answer([(ticket, None) for ticket in tickets])


def _remove(subscriptions: dict[Any, list[Subscription]], key: object, subscription: Subscription) -> None:
    some = subscriptions.get(key, [])
    if subscription in some:
        some.remove(subscription)
    if not some:
        subscriptions.pop(key, None)
