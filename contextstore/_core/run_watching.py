"""Runs as they change, by whichever process: waited for until one is in a state, or followed as they come.

Rules of this module: no SQL, no threads. It looks only once it will be told of what is committed after that look; news
only say when to look. Between two looks a follower keeps its place and no more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from .._dispatch.subscriptions import ClosedWith
from .._engine.cursors import cursor_text
from .._engine.fact_rules import attribute_rows, attributes_text
from .._engine.records import RUN_STATES, RunRecord
from .._engine.run_feeds import DELETED, RunFilter
from .._results import RunInfo
from .._values.arguments import check_seconds
from .._values.keys import Id, flow_run_key
from .._values.run_facts import checked_attributes
from .._waiting.deadline import Deadline
from .answers import run_info_of
from .arguments import one_of
from .lives import Life, Lives
from .outputs import PAGE_ROWS
from .session import Session
from .watching import cursor_of


class RunWatchService:
    """What ``wait_for_run`` and ``watch_runs`` do: the async face has their documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    # -- waited for ---------------------------------------------------------------------------------------------------

    async def wait_for(
        self, flow_run_id: Id, state: str | Iterable[str], timeout: float | None, life: Life | None = None
    ) -> RunInfo:
        await self._session.ready()
        name, states = flow_run_key(flow_run_id), states_of(state, RUN_STATES)
        if timeout is not None:
            check_seconds("timeout", timeout)
        try:
            # Whoever waits does so in one life: that of the run which has the id now, or comes to have it.
            here, deadline = life or Life(name), None if timeout is None else Deadline(timeout)
            return run_info_of(await self._wait_for(name, states, here, deadline))
        except TimeoutError:
            wanted = " or ".join(one for one in RUN_STATES if one in states)
            raise TimeoutError(f"flow run {name!r} was not {wanted} within {timeout:g} seconds") from None

    async def _wait_for(self, name: str, states: frozenset[str], life: Life, deadline: Deadline | None) -> RunRecord:
        session = self._session
        record = await self._find(name, states, life)
        if record is not None:  # and no poller need be started: that is half of the cost
            return record
        subscription = session.subscriptions.subscription_to_run(name)
        began, timed_out = time.monotonic(), False
        try:
            await subscription.begin(session.host, session.callers)
            while (record := await self._find(name, states, life)) is None:
                if subscription.run != life.serial:
                    subscription.run = life.serial
                    continue  # it may have been deleted since that look, and told of to those who wait for its serial
                await subscription.next(None if deadline is None else deadline.left)
            return record
        except TimeoutError:
            timed_out = True
            raise
        finally:
            subscription.close()
            session.engine.reports.waited("run", time.monotonic() - began, timed_out=timed_out)

    async def _find(self, name: str, states: frozenset[str], life: Life) -> RunRecord | None:
        """The run, if it is in one of the states. Raises RunDeletedError if the life is over."""
        life.refuse_if_over()
        record = await self._session.read(self._session.engine.fetch_run, name)
        if record is None or not life.owns(record.serial):
            await self._lives.refuse_if_over(life)
            return None
        return record if RUN_STATES[record.facts.state] in states else None

    # -- followed -----------------------------------------------------------------------------------------------------

    async def watch(
        self, after: str | None, state: str | Iterable[str] | None, attributes: Any, parent: Id | None
    ) -> AsyncGenerator[RunInfo, None]:
        session = self._session
        await session.ready()
        wanted, cursor = _filter_of(state, attributes, parent), cursor_of(after, "a run")
        subscription = session.subscriptions.subscription_to_run(None)
        frame = ClosedWith(subscription)
        try:
            await subscription.begin(session.host, session.callers)
            start = await session.read(session.engine.watch_runs_from, cursor)
            if start.place is None:
                raise ValueError(
                    "after is no cursor of the runs of this store as it is now: it is of another store, or of before a "
                    "restore, or of an output"
                )
            place = start.place
            while True:
                page = await session.read(session.engine.page_runs_since, wanted, place, PAGE_ROWS)
                for news in page.news:
                    told = dataclasses.replace(run_info_of(news.record), cursor=cursor_text(start.history, news.cursor))
                    yield dataclasses.replace(told, state=DELETED) if news.is_deleted else told
                    # A closed store answers nothing more, not even with what was fetched ahead.
                    await session.ready()
                place = page.place
                if page.is_last:
                    await subscription.next(None)
        finally:
            del frame
            subscription.close()


def states_of(state: str | Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The states that a caller has passed: one, or several."""
    names = [state] if isinstance(state, str) else state
    if not isinstance(names, Iterable):
        raise TypeError(f"state must be the name of a state, or several, not {type(state).__name__}")
    states = [one_of("state", name, known) for name in names]
    if not states:
        raise ValueError("state must be the name of a state, or several, and none was passed")
    return frozenset(states)


def _filter_of(state: str | Iterable[str] | None, attributes: Any, parent: Id | None) -> RunFilter:
    states = None if state is None else states_of(state, (*RUN_STATES, DELETED))
    wanted = {} if attributes is None else attribute_rows(attributes_text(checked_attributes(attributes)))
    return RunFilter(states, wanted, None if parent is None else flow_run_key(parent, "parent"))
