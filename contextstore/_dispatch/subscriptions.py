"""Waiting for outputs: waiters learn of this store's commits at once, and of other processes' within milliseconds.

Rules of this module: no SQL, no values. One poller per store object asks the engine for news, only while a caller
waits, and only where another process could write at all. No wake-up is lost: a caller subscribes first, and looks then
whether the output is there. What is committed after that look is news to the poller, which took its place in the
store's history before. The lock is never held while anything waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeAlias

from .._engine.contract import Engine, Feed
from .._engine.failures import error_for_caller
from .._engine.operations import LoadOutput, Operation, PutOutput, runs_deleted_by
from .._engine.records import OutputKey
from .._waiting.callers import Callers
from .._waiting.deadline import Deadline
from .._waiting.future import SharedFuture
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import ContextStoreError, StoreClosedError
from .host import EngineHost

# To look takes at most a tenth of the time: a fifteenth for outputs, a thirtieth for deleted runs.
_REST_AFTER_POLL, _REST_AFTER_DELETIONS = 14, 29
_MOST_REST = 5.0
"""Seconds between two looks at most, however long they take."""
_DELETIONS_SECONDS = 0.1
"""Seconds between two looks for the runs that are waited for among the deleted ones, at least."""
_SURE_SECONDS = 5.0
"""Seconds after which these are looked for all the same where no deletion is known of: by a program, say, that does not
know this store's ways.
"""
_LOST_SECONDS = 5.0
"""Seconds between two looks for those whose loops have ended, at least: it asks each loop."""

_Polling: TypeAlias = SharedFuture[bool]
"""A poller: true once it has taken its place, false if the call that was to start it was interrupted."""


class Subscription:
    """What one waiter is told: node ids of its run that have an output now, or why it will wait in vain.

    It is made first, begun within a ``try`` and closed in its ``finally``: an interrupt may come between any two steps.
    """

    def __init__(self, subscriptions: Subscriptions, flow_run_id: str, node_id: str | None) -> None:
        self._subscriptions = subscriptions
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        # Under the lock of the subscriptions:
        self.nodes: list[str] = []
        self.maybe_deleted = False
        self.error: ContextStoreError | None = None
        self.waiter: Waiter[Outcome[None]] | None = None

    async def begin(self, host: EngineHost) -> None:
        """Be told of what is committed from when this returns."""
        await self._subscriptions.subscribe(self, host)

    async def next(self, timeout: float | None) -> list[str]:
        """The node ids reported since the last call; waits for one. Raises the builtin TimeoutError.

        None at all: look whether the run is deleted.
        """
        deadline, callers = Deadline(timeout), self._subscriptions.callers
        while True:
            with self._subscriptions.lock:
                if self.error is not None:
                    raise self.error
                if self.nodes:
                    nodes, self.nodes = self.nodes, []
                    return nodes
                if self.maybe_deleted:
                    self.maybe_deleted = False
                    return []
                waiter: Waiter[Outcome[None]] = callers.waiter()
                self.waiter = waiter
            left = None if timeout is None else deadline.left
            (await callers.wait_until(waiter, left, _time_is_up)).unwrap()

    def close(self) -> None:
        self._subscriptions.unsubscribe(self)


class ClosedWith:
    """Closes a subscription when the frame that holds this goes.

    A ``finally`` alone does not: that of an async generator which is collected after its loop was closed never runs.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __del__(self) -> None:
        self._subscription.close()


def _time_is_up() -> Outcome[None]:
    return Outcome.failure(TimeoutError())


class Subscriptions:
    """Which caller waits for what, and the poller that asks for it."""

    def __init__(self, engine: Engine, callers: Callers) -> None:
        self._engine = engine
        self.callers = callers
        # No thread that commits to a file waits for it: a finalizer that runs while a caller holds it may wait for that
        # thread. Reentrant, since a finalizer may also subscribe.
        self.lock = threading.RLock()
        self._host: EngineHost | None = None
        self._news: deque[tuple[list[OutputKey], list[str]]] = deque()
        """What was committed and is told by the host, in this order."""
        # Dicts where sets would do but for the order: the first to come is told first.
        self._by_output: dict[OutputKey, dict[Subscription, None]] = {}
        self._by_run: dict[str, dict[Subscription, None]] = {}
        self._of_run: dict[str, dict[Subscription, None]] = {}  # both, by their run
        self._departed: deque[Subscription] = deque()
        self._look_for_lost_at = 0.0
        self._closed = False
        self._polling: _Polling | None = None

    def subscription(self, flow_run_id: str, node_id: str | None) -> Subscription:
        """To be told of an output, or of all outputs of a run."""
        return Subscription(self, flow_run_id, node_id)

    async def subscribe(self, subscription: Subscription, host: EngineHost) -> None:
        self._host = host
        with self.lock:
            if self._closed:
                raise StoreClosedError(self._engine.location)
            self._of_run.setdefault(subscription.flow_run_id, {})[subscription] = None
            if subscription.node_id is None:
                self._by_run.setdefault(subscription.flow_run_id, {})[subscription] = None
            else:
                key = (subscription.flow_run_id, subscription.node_id)
                self._by_output.setdefault(key, {})[subscription] = None
        feed = self._engine.feed
        if feed is not None:
            while not await self._is_polled(host, feed):
                pass

    async def _is_polled(self, host: EngineHost, feed: Feed) -> bool:
        """Start the poller unless one is there, and wait until it has taken its place."""
        started: _Polling | None = None
        try:
            with self.lock:
                if self._polling is None:
                    self._polling = started = SharedFuture()
                polling = self._polling
            if started is not None:
                host.call(lambda: self._poll(polling, feed))
        except BaseException:
            if started is not None:  # if it runs all the same, it and another one do each other no harm
                self._end_polling(started, False)
            raise
        return polling.result() if polling.done() else await self.callers.join(polling)

    def _end_polling(self, polling: _Polling, has_begun: bool) -> None:
        with self.lock:
            if self._polling is polling:
                self._polling = None
        polling.set_result(has_begun)

    def unsubscribe(self, subscription: Subscription) -> None:
        # Without waiting for the lock: an iterator may be collected, and so closed, by a thread that holds it.
        self._departed.append(subscription)
        lost: list[Waiter[Outcome[None]]] = []
        if self.lock.acquire(blocking=False):
            try:
                self._remove_those_who_left(lost)
            finally:
                self.lock.release()

    def _remove_those_who_left(self, lost: list[Waiter[Outcome[None]]]) -> None:
        """Called with the lock held; also removes those that could not get the lock when they closed.

        Now and then also those whose loops were closed under them. Their waiters keep them from being collected, and
        so from closing. These go to ``lost``, to be let go of without the lock: at the end of a task asyncio logs.
        """
        now = time.monotonic()
        if now >= self._look_for_lost_at:
            self._look_for_lost_at = now + _LOST_SECONDS
            for subscription in self._lost():
                _take_waiter(subscription, lost)
                self._departed.append(subscription)
        while self._departed:
            subscription = self._departed.popleft()
            _remove(self._of_run, subscription.flow_run_id, subscription)
            if subscription.node_id is None:
                _remove(self._by_run, subscription.flow_run_id, subscription)
            else:
                _remove(self._by_output, (subscription.flow_run_id, subscription.node_id), subscription)

    def _lost(self) -> list[Subscription]:
        waiting = [(one, one.waiter.get_loop()) for one in self._all() if one.waiter is not None]
        closed = {loop for loop in {loop for _, loop in waiting} if loop is not None and loop.is_closed()}
        return [one for one, loop in waiting if loop in closed]

    def committed(self, operations: Collection[Operation]) -> None:
        """Where the engine writes: this object has committed these."""
        if not self._of_run:
            return
        found = [
            (operation.flow_run_id, operation.node_id)
            for operation in operations
            if isinstance(operation, PutOutput | LoadOutput)
        ]
        # Perhaps deleted: prune leaves a run alone that has been written to since.
        deleted = [flow_run_id for operation in operations for flow_run_id in runs_deleted_by(operation)]
        if self._news or not self.lock.acquire(blocking=False):
            self._tell_later(found, deleted)
            return
        try:
            self._tell(found, deleted)
        finally:
            self.lock.release()

    def committed_inline(self, put: PutOutput) -> None:
        """In a thread of the caller's, where an interrupt may come between two steps: this object has committed it."""
        if self._of_run:
            self._tell_later([(put.flow_run_id, put.node_id)], [])

    def _tell_later(self, found: list[OutputKey], deleted: list[str]) -> None:
        self._news.append((found, deleted))
        if self._host is not None:
            # At its end it tells all who wait of that. The put that brings these news is stored all the same.
            with contextlib.suppress(StoreClosedError):
                self._host.call(self._tell_news)

    def close(self) -> None:
        """End all waiting."""
        with self.lock:
            self._closed = True
        self._fail(StoreClosedError(self._engine.location))

    # -- in the engine host -------------------------------------------------------------------------------------------

    async def _poll(self, polling: _Polling, feed: Feed) -> None:
        try:
            await self._poll_while_callers_wait(polling, feed)
        except BaseException as error:  # the waiting callers are told of any error
            told = error if isinstance(error, Exception) else StoreClosedError(self._engine.location)
            self._fail(error_for_caller(told, self._engine.location), polling)
            if not isinstance(error, Exception):
                raise
        finally:
            self._end_polling(polling, True)

    async def _poll_while_callers_wait(self, polling: _Polling, feed: Feed) -> None:
        shortest, longest = feed.poll_seconds
        cursor, _ = await feed.poll(None, self._waited_for)
        polling.set_result(True)
        pause = shortest
        rest, deletions = _Rest(_REST_AFTER_POLL), _Deletions(feed)
        while True:
            await asyncio.sleep(pause)
            if not self._is_wanted(polling):
                return
            began = time.monotonic()
            new_cursor, found = await feed.poll(cursor, self._waited_for)
            # News that no caller here waits for are no reason to look more often.
            pause = shortest if self._tell(found) else min(pause * 1.05, longest)
            pause = max(pause, rest.after(time.monotonic() - began))
            something_changed, cursor = new_cursor != cursor, new_cursor
            if deletions.may_be_news(something_changed):
                self._tell((), await deletions.among(self._runs_waited_for()))

    async def _tell_news(self) -> None:
        while self._news:
            self._tell(*self._news[0])
            self._news.popleft()

    def _is_wanted(self, polling: _Polling) -> bool:
        lost: list[Waiter[Outcome[None]]] = []
        with self.lock:
            self._remove_those_who_left(lost)
            if not self._closed and self._of_run:
                return True
            if self._polling is polling:  # in the same breath, so that the next call starts another
                self._polling = None
            return False

    def _waited_for(self) -> tuple[list[OutputKey], list[str]]:
        with self.lock:
            return list(self._by_output), list(self._by_run)

    def _runs_waited_for(self) -> list[str]:
        with self.lock:
            return list(self._of_run)

    # -- in any thread ------------------------------------------------------------------------------------------------

    def _tell(self, found: Iterable[OutputKey], deleted: Iterable[str] = ()) -> bool:
        """Report outputs, and runs that may be deleted. Returns whether a caller waits for one of them."""
        waiters: list[Waiter[Outcome[None]]] = []
        is_waited_for = False
        with self.lock:
            self._remove_those_who_left(waiters)
            for key in found:
                for subscription in (*self._by_output.get(key, ()), *self._by_run.get(key[0], ())):
                    is_waited_for = True
                    subscription.nodes.append(key[1])
                    _take_waiter(subscription, waiters)
            for flow_run_id in deleted:
                for subscription in self._of_run.get(flow_run_id, ()):
                    is_waited_for = subscription.maybe_deleted = True
                    _take_waiter(subscription, waiters)
        self._wake(waiters)
        return is_waited_for

    def _fail(self, error: ContextStoreError, ended: _Polling | None = None) -> None:
        waiters: list[Waiter[Outcome[None]]] = []
        with self.lock:
            if ended is not None and self._polling is ended:
                self._polling = None
            for subscription in self._all():
                subscription.error = error_for_caller(error, self._engine.location)
                _take_waiter(subscription, waiters)
        self._wake(waiters)

    def _all(self) -> list[Subscription]:
        return [one for some in self._of_run.values() for one in some]

    def _wake(self, waiters: list[Waiter[Outcome[None]]]) -> None:
        resolve([(waiter, Outcome(None)) for waiter in waiters])


class _Rest:
    """How long to leave others the time, after looks that took so long."""

    def __init__(self, times: int) -> None:
        self._times = times
        self._last = 0.0

    def after(self, seconds: float) -> float:
        # The shorter one of two: once in a while a look takes long, for no reason of its own.
        least, self._last = min(seconds, self._last), seconds
        return min(self._times * least, _MOST_REST)


class _Deletions:
    """When to look for deleted runs, and which they are."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._rest = _Rest(_REST_AFTER_DELETIONS)
        self._may_be_some = True
        self._epoch: int | None = None
        self._next_at = time.monotonic() + _DELETIONS_SECONDS
        self._sure_at = self._next_at

    def may_be_news(self, something_changed: bool) -> bool:
        self._may_be_some = self._may_be_some or something_changed
        now = time.monotonic()
        if not self._may_be_some or now < self._next_at:
            return False
        epoch = self._feed.deletion_epoch()
        return epoch is None or epoch != self._epoch or now >= self._sure_at

    async def among(self, flow_run_ids: Sequence[str]) -> list[str]:
        began = time.monotonic()
        self._epoch, self._may_be_some = self._feed.deletion_epoch(), False  # before the look, not after it
        deleted = await self._feed.deleted_among(flow_run_ids)
        now = time.monotonic()
        self._next_at = now + max(_DELETIONS_SECONDS, self._rest.after(now - began))
        self._sure_at = now + _SURE_SECONDS
        return deleted


def _take_waiter(subscription: Subscription, waiters: list[Waiter[Outcome[None]]]) -> None:
    if subscription.waiter is not None:
        waiters.append(subscription.waiter)
        subscription.waiter = None


def _remove(subscriptions: dict[Any, dict[Subscription, None]], key: object, subscription: Subscription) -> None:
    some = subscriptions.get(key, {})
    some.pop(subscription, None)
    if not some:
        subscriptions.pop(key, None)
