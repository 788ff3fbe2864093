"""Waiting for outputs: waiters learn of this store's commits at once, and of other processes' within milliseconds.

Rules of this module: no SQL, no values. One poller per store object asks the engine for news, only while a caller
waits, and only where another process could write at all. No wake-up is lost: a caller subscribes first, and looks then
whether the output is there. What is committed after that look is news to the poller, which took its place in the
store's history before.

No thread waits for a lock here: between any two steps of a caller there may run a finalizer that calls the store.
Callers put down that they have come or gone, in single steps, which are atomic in CPython, under the GIL. What is found
by run or by output is of the store's own threads alone, of which one at a time brings it up to date and tells. One that
finds another at it goes its way: that one looks again before it ends. Of a caller that waits, and whoever has news for
it, each writes first and looks then.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .._engine.contract import Engine, Feed
from .._engine.failures import error_for_caller
from .._engine.operations import LoadMark, LoadOutput, Operation, PutOutput, globals_written_by, runs_deleted_by
from .._engine.records import OutputKey
from .._engine.run_operations import runs_changed_by
from .._waiting.callers import Callers
from .._waiting.deadline import Deadline
from .._waiting.future import SharedFuture
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import ContextStoreError, StoreClosedError
from .commits import Commit, CommitQueue
from .deletion_looks import DeletionLooks, Rest
from .global_looks import GlobalLooks
from .host import EngineHost
from .run_looks import RunLooks

_REST_AFTER_POLL = 14
"""To look takes at most a tenth of the time: a fifteenth for outputs, a thirtieth for deleted runs."""
_LOST_SECONDS = 5.0
"""Seconds between two looks for those whose loops have ended, at least: it asks each loop."""


class _Poller:
    """What asks for news, from when a caller made it to when no one waits any more."""

    def __init__(self) -> None:
        self.is_posted = False
        """Whether it will run. Not yet so: whoever finds it may have to post it, since its maker was interrupted."""
        self.is_begun = False
        self.has_its_place: SharedFuture[None] = SharedFuture()


class Subscription:
    """What one waiter is told: that something of its run, or of any run, is there now, or why it will wait in vain.

    It is made first, begun within a ``try`` and closed in its ``finally``: an interrupt may come between any two steps.
    """

    def __init__(self, subscriptions: Subscriptions, flow_run_id: str | None, node_id: str | None) -> None:
        self._subscriptions = subscriptions
        self.flow_run_id = flow_run_id
        self.node_id = node_id
        self.run: int | None = None
        """The serial of the run that is waited for, once its caller knows it: another may have the id from then on."""
        self.key: str | None = None
        """Of a global, which is waited for with a version above ``after_version``. None: it is about outputs."""
        self.after_version = 0
        self.is_of_facts = False
        """Whether it is about what becomes of a run, or of any, beside its outputs; of any run, about these as well."""
        self.nodes: deque[str] = deque(maxlen=1)  # the last one: who is slow has to look, and not to remember
        self.maybe_deleted = False
        self.error: ContextStoreError | None = None
        self._callers: Callers | None = None
        self.waiting: list[Waiter[Outcome[None]]] = []
        """Where the caller waits. To pop it is atomic: whoever has popped it answers it."""

    async def begin(self, host: EngineHost, callers: Callers) -> None:
        """Be told of what is committed from when this returns. These callers are those that wait for it."""
        self._callers = callers
        await self._subscriptions.subscribe(self, host, callers)

    async def next(self, timeout: float | None) -> list[str]:
        """The node reported last since the last call; waits for one. Raises the builtin TimeoutError.

        None at all: look whether the run is deleted, or what has become of the global.
        """
        deadline, callers = Deadline(timeout), self._callers
        assert callers is not None, "it was not begun"
        waiter: Waiter[Outcome[None]] | None = None
        while True:
            if self.error is not None:
                raise self.error
            if self.nodes:
                return self._take_nodes()
            if self.maybe_deleted:
                self.maybe_deleted = False
                return []
            if waiter is None:
                waiter = callers.waiter()
                self.waiting = [waiter]  # and look again: who had news before this has not seen it
            else:
                left = None if timeout is None else deadline.left
                (await callers.wait_until(waiter, left, _time_is_up)).unwrap()
                waiter = None

    def _take_nodes(self) -> list[str]:
        nodes = []
        while self.nodes:  # others append
            nodes.append(self.nodes.popleft())
        return nodes

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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._host: EngineHost | None = None
        self._closed = False
        self._commits = CommitQueue()
        # What callers write, in single steps. Dicts where sets would do but for the order: the first to come is told
        # first.
        self._everyone: dict[Subscription, None] = {}
        """All who have come and not gone."""
        self._arrived: dict[Subscription, bool] = {}
        """Those of them who are not in the indexes yet. Who has popped one sees to it: its caller, who goes, or the
        thread that brings the indexes up to date."""
        self._departed: deque[Subscription] = deque()
        """Those who have gone, and may be in the indexes still."""
        self._polling: dict[None, _Poller] = {}
        """The place of the poller."""
        # Of the store's own threads:
        self._telling = threading.Lock()  # nobody waits for it
        self._polled: deque[tuple[Collection[OutputKey], Collection[str]]] = deque()
        """What the poller has found."""
        self._polled_globals: deque[Sequence[tuple[str, float]]] = deque()
        """The same of globals: keys and versions."""
        self._polled_runs: deque[Collection[str] | None] = deque()
        """The same of runs that have changed otherwise than by outputs. None: all may have."""
        self._by_output: dict[OutputKey, dict[Subscription, None]] = {}
        self._by_run: dict[str | None, dict[Subscription, None]] = {}  # None: of any run
        self._of_run: dict[str, dict[Subscription, None]] = {}  # both, by their run
        self._by_global: dict[str, dict[Subscription, None]] = {}
        self._by_facts: dict[str | None, dict[Subscription, None]] = {}  # by run; None: of any
        self._look_for_lost_at = 0.0

    def subscription(self, flow_run_id: str | None, node_id: str | None) -> Subscription:
        """To be told of an output, of all outputs of a run, or of all there are."""
        return Subscription(self, flow_run_id, node_id)

    def subscription_to_global(self, key: str, after_version: int) -> Subscription:
        """To be told of a global."""
        subscription = Subscription(self, None, None)
        subscription.key, subscription.after_version = key, after_version
        return subscription

    def subscription_to_run(self, flow_run_id: str | None) -> Subscription:
        """To be told of what becomes of a run, or of all there are."""
        subscription = Subscription(self, flow_run_id, None)
        subscription.is_of_facts = True
        return subscription

    async def subscribe(self, subscription: Subscription, host: EngineHost, callers: Callers) -> None:
        self._host = host
        self._everyone[subscription] = None
        self._arrived[subscription] = True
        if self._closed:  # if it is closed from now on, this one is told with all others
            raise StoreClosedError(self._engine.location)
        feed = self._engine.feed
        if feed is not None:
            await self._be_polled(host, feed, callers)

    async def _be_polled(self, host: EngineHost, feed: Feed, callers: Callers) -> None:
        """Start the poller unless one is there, and wait until it has taken its place."""
        poller = self._polling.get(None) or self._polling.setdefault(None, _Poller())
        if not poller.is_posted:
            host.call(lambda: self._poll(poller, feed))
            poller.is_posted = True
        if not poller.has_its_place.done():
            await callers.join(poller.has_its_place)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Any number of times. An interrupted one that is called again leaves nothing."""
        if subscription in self._everyone:
            subscription.waiting.clear()  # it may be kept for a while, and its loop is not to be
            if not self._arrived.pop(subscription, False):
                self._departed.append(subscription)
            self._everyone.pop(subscription, None)
        self._let_go_of_the_lost()

    def _let_go_of_the_lost(self) -> None:
        """Now and then those whose loops were closed under them.

        Their waiters keep them from being collected, and so from closing.
        """
        now = time.monotonic()
        if now >= self._look_for_lost_at:
            self._look_for_lost_at = now + _LOST_SECONDS
            for subscription in self._lost():
                self.unsubscribe(subscription)

    def _lost(self) -> list[Subscription]:
        waiting = [(one, waiter.get_loop()) for one in self._all() for waiter in one.waiting.copy()]
        closed = {loop for loop in {loop for _, loop in waiting} if loop is not None and loop.is_closed()}
        return [one for one, loop in waiting if loop in closed]

    def _all(self) -> list[Subscription]:
        return list(self._everyone)

    def announce(self, commit: Commit) -> None:
        """Called with the right to commit, by a thread that is about to use it or has done so."""
        if not self._everyone:
            self._commits.clear()
        self._commits.append(commit)

    def announce_operations(self, operations: Collection[Operation]) -> Commit:
        """The same for operations that were committed."""
        commit = Commit()
        if self._everyone:
            commit.found = [
                (operation.flow_run_id, operation.node_id)
                for operation in operations
                if isinstance(operation, PutOutput | LoadOutput | LoadMark)  # of a mark, too, those learn who wait
            ]
            # Perhaps deleted: prune leaves a run alone that has been written to since.
            commit.deleted = [flow_run_id for operation in operations for flow_run_id in runs_deleted_by(operation)]
            commit.globals = [key for operation in operations for key in globals_written_by(operation)]
            changed = [flow_run_id for operation in operations for flow_run_id in runs_changed_by(operation)]
            commit.changed = [*commit.deleted, *changed]
        self.announce(commit)
        return commit

    def committed(self, commit: Commit) -> None:
        """Where the engine writes: what was announced is committed, and the right to commit given back."""
        commit.is_over = True
        if self._everyone or self._departed:
            self._tell_all()
            self._let_go_of_the_lost()

    def committed_inline(self, commit: Commit) -> None:
        """The same in a thread of the caller's, where an interrupt may come between two steps."""
        commit.is_over = True
        if self._everyone:
            self._have_told()

    def _have_told(self) -> None:
        if self._host is not None:
            # At its end it tells all who wait of that. The put that brings these news is stored all the same.
            with contextlib.suppress(StoreClosedError):
                self._host.call(self._tell_on_host)

    def close(self) -> None:
        """End all waiting."""
        self._closed = True
        self._fail(StoreClosedError(self._engine.location))

    # -- in the engine host -------------------------------------------------------------------------------------------

    async def _poll(self, poller: _Poller, feed: Feed) -> None:
        if poller.is_begun:  # two have posted it
            return
        poller.is_begun = True
        try:
            await self._poll_while_callers_wait(poller, feed)
        except BaseException as error:  # the waiting callers are told of any error
            self._end_polling(poller)  # before: who comes from now on starts another
            told = error if isinstance(error, Exception) else StoreClosedError(self._engine.location)
            self._engine.reports.trouble("poll", error)
            self._fail(error_for_caller(told, self._engine.location))
            if not isinstance(error, Exception):
                raise
        finally:
            self._end_polling(poller)

    def _end_polling(self, poller: _Poller) -> None:
        if self._polling.get(None) is poller:  # it is taken away here alone
            self._polling.pop(None, None)
        poller.has_its_place.set_result(None)

    async def _poll_while_callers_wait(self, poller: _Poller, feed: Feed) -> None:
        shortest, longest = feed.poll_seconds
        cursor, _ = await feed.poll(None, self._waited_for)
        poller.has_its_place.set_result(None)
        pause = shortest
        rest, deletions, of_globals = Rest(_REST_AFTER_POLL), DeletionLooks(feed), GlobalLooks(feed)
        of_runs = RunLooks(feed)
        while True:
            await asyncio.sleep(pause)
            if not self._is_wanted():
                self._end_polling(poller)
                if not self._is_wanted():
                    return
                # Who has come in between may have found this one, and relies on it. Of two pollers none does harm.
                self._polling.setdefault(None, poller)
            began = time.monotonic()
            new_cursor, found = await feed.poll(cursor, self._waited_for)
            # News that no caller here waits for are no reason to look more often.
            is_news = self._tell_polled(found)
            if of_globals.may_be_news(new_cursor != cursor):
                is_news |= self._tell_globals(await of_globals.beyond(self._globals_waited_for()))
            if of_runs.may_be_news(new_cursor != cursor, bool(self._by_facts)):
                is_news |= self._tell_runs(await of_runs.changed())
            pause = shortest if is_news else min(pause * 1.05, longest)
            pause = max(pause, rest.after(time.monotonic() - began))
            something_changed, cursor = new_cursor != cursor, new_cursor
            if deletions.may_be_news(something_changed):
                self._tell_polled((), await deletions.among(self._runs_waited_for()))

    def _is_wanted(self) -> bool:
        self._let_go_of_the_lost()
        self._tell_all()
        return bool(self._everyone) and not self._closed

    def _waited_for(self) -> tuple[list[OutputKey], list[str | None]]:
        self._tell_all()  # or those who have just come would not be among them
        return list(self._by_output), list(self._by_run)

    def _globals_waited_for(self) -> dict[str, int]:
        """By key, with the lowest version that someone knows."""
        self._tell_all()
        return {key: min(one.after_version for one in some) for key, some in self._by_global.items()}

    def _runs_waited_for(self) -> set[tuple[str, int | None]]:
        """With their serials, where these are known."""
        return {(run, subscription.run) for run, some in self._of_run.items() for subscription in list(some)}

    def _tell_polled(self, found: Collection[OutputKey], deleted: Collection[str] = ()) -> bool:
        """Returns whether a caller waits for one of the outputs."""
        self._polled.append((found, deleted))
        is_waited_for = any(key in self._by_output or key[0] in self._by_run or None in self._by_run for key in found)
        self._tell_all()
        return is_waited_for

    def _tell_globals(self, versions: Sequence[tuple[str, int]]) -> bool:
        """Returns whether a caller waits for one of these."""
        self._polled_globals.append(versions)
        self._tell_all()
        return bool(versions)  # what nobody waits for is not looked for

    def _tell_runs(self, changed: Collection[str] | None) -> bool:
        """Returns whether a caller waits for one of these."""
        self._polled_runs.append(changed)
        is_waited_for = changed is None or any(run in self._by_facts or None in self._by_facts for run in changed)
        self._tell_all()
        return is_waited_for

    async def _tell_on_host(self) -> None:
        self._tell_all()

    # -- in any of the store's own threads ----------------------------------------------------------------------------

    def _tell_all(self) -> None:
        """Tell what there is to tell, the commits in their order."""
        while self._telling.acquire(blocking=False):  # else another is at it
            try:
                self._keep_up()
                while self._polled:
                    self._tell(*self._polled.popleft())
                while self._polled_globals:
                    self._tell_of_globals(self._polled_globals.popleft())
                while self._polled_runs:
                    self._tell_of_runs(self._polled_runs.popleft())
                while (commit := self._commits.take()) is not None:
                    self._tell(commit.found, commit.deleted)
                    self._tell_of_globals([(key, math.inf) for key in commit.globals])
                    self._tell_of_runs(commit.changed)
            finally:
                self._telling.release()
            if not (self._commits.is_one_over or self._departed or self._has_polled):
                return

    @property
    def _has_polled(self) -> bool:
        return bool(self._polled or self._polled_globals or self._polled_runs)

    def _tell(self, found: Iterable[OutputKey], deleted: Iterable[str]) -> None:
        """Report outputs, and runs that may be deleted."""
        self._keep_up()  # after these were committed: who came before and did not find them is to be told
        waiters: list[Waiter[Outcome[None]]] = []
        for key in found:
            of_runs = *self._by_run.get(key[0], ()), *self._by_run.get(None, ())
            for subscription in (*self._by_output.get(key, ()), *of_runs):
                subscription.nodes.append(key[1])
                _take_waiter(subscription, waiters)
        for flow_run_id in deleted:
            for subscription in self._of_run.get(flow_run_id, ()):
                subscription.maybe_deleted = True
                _take_waiter(subscription, waiters)
        _wake(waiters)

    def _tell_of_globals(self, versions: Iterable[tuple[str, float]]) -> None:
        """Report globals that are there; of an infinite version, that they may be."""
        self._keep_up()
        waiters: list[Waiter[Outcome[None]]] = []
        for key, version in versions:
            for subscription in self._by_global.get(key, ()):
                if version > subscription.after_version:
                    subscription.maybe_deleted = True
                    _take_waiter(subscription, waiters)
        _wake(waiters)

    def _tell_of_runs(self, changed: Collection[str] | None) -> None:
        """Report runs that may have changed. None: all may have."""
        if changed is not None and not changed:
            return
        self._keep_up()
        waiters: list[Waiter[Outcome[None]]] = []
        for run in list(self._by_facts) if changed is None else [None, *changed]:
            for subscription in self._by_facts.get(run, ()):
                subscription.maybe_deleted = True
                _take_waiter(subscription, waiters)
        _wake(waiters)

    def _keep_up(self) -> None:
        """Bring the indexes up to date with who has come and gone."""
        for subscription in list(self._arrived):
            if self._arrived.pop(subscription, False):
                for index, key in self._places_of(subscription):
                    index.setdefault(key, {})[subscription] = None
        while self._departed:
            subscription = self._departed.popleft()
            for index, key in self._places_of(subscription):
                _remove(index, key, subscription)

    def _places_of(self, subscription: Subscription) -> list[tuple[dict[Any, dict[Subscription, None]], object]]:
        flow_run_id, node_id = subscription.flow_run_id, subscription.node_id
        if subscription.key is not None:
            return [(self._by_global, subscription.key)]
        if subscription.is_of_facts:
            if flow_run_id is None:
                return [(self._by_run, None), (self._by_facts, None)]
            return [(self._of_run, flow_run_id), (self._by_facts, flow_run_id)]
        if flow_run_id is None:
            return [(self._by_run, None)]  # which no deletion ends
        if node_id is None:
            return [(self._of_run, flow_run_id), (self._by_run, flow_run_id)]
        return [(self._of_run, flow_run_id), (self._by_output, (flow_run_id, node_id))]

    # -- in any thread ------------------------------------------------------------------------------------------------

    def _fail(self, error: ContextStoreError) -> None:
        waiters: list[Waiter[Outcome[None]]] = []
        for subscription in self._all():
            subscription.error = error_for_caller(error, self._engine.location)
            _take_waiter(subscription, waiters)
        _wake(waiters)


def _take_waiter(subscription: Subscription, waiters: list[Waiter[Outcome[None]]]) -> None:
    with contextlib.suppress(IndexError):
        waiters.append(subscription.waiting.pop())


def _wake(waiters: list[Waiter[Outcome[None]]]) -> None:
    resolve([(waiter, Outcome(None)) for waiter in waiters])


def _remove(subscriptions: dict[Any, dict[Subscription, None]], key: object, subscription: Subscription) -> None:
    some = subscriptions.get(key, {})
    some.pop(subscription, None)
    if not some:
        subscriptions.pop(key, None)
