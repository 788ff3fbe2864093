"""Outputs as they are written, by whichever process: from a place in the store's history on.

Rules of this module: no SQL, no threads. What is told, and in which order, the engine alone decides; news only say when
to look. Between two looks a watcher keeps its place and no more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from .._dispatch.subscriptions import ClosedWith
from .._engine.cursors import cursor_text, read_cursor
from .._engine.records import CursorFields, NewsPage, Watched
from .._results import Output
from .._values.keys import Id, flow_run_key, node_key, prefix_key
from ..errors import OutputDeletedError, RunDeletedError
from .answers import output_of
from .arguments import one_of
from .lives import Life, Lives
from .outputs import PAGE_BYTES, PAGE_ROWS
from .session import Session


class WatchService:
    """What ``watch`` and ``cursor`` do: the async face has their documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    async def watch(
        self,
        flow_run_id: Id | None,
        prefix: str,
        after: str | None,
        until: Id | None,
        type: Any,
        life: Life | None = None,
    ) -> AsyncGenerator[Output, None]:
        """``life``: of the id that is watched; None: the one that it has at the first look."""
        session = self._session
        await session.ready()
        if life is None and flow_run_id is not None:
            life = Life(flow_run_key(flow_run_id))
        elif life is not None:
            await self._lives.serial(life)
        watched = _watched(flow_run_id, prefix, until)
        cursor = cursor_of(after, "an output")
        subscription = session.subscriptions.subscription(watched.flow_run_id, None)
        frame = ClosedWith(subscription)
        try:
            await subscription.begin(session.host, session.callers)
            start = await session.read(session.engine.watch_from, watched, cursor)
            if start.place is None:
                raise ValueError(
                    "after is no cursor of this store as it is now: it is of another, or of before a restore"
                )
            place = start.place
            while True:
                page = await session.read(session.engine.page_since, watched, place, PAGE_ROWS, PAGE_BYTES)
                _refuse_other_life(page, life)
                if start.is_past_until:
                    return
                for flow_run, node_id, outcome, fields in page.news:
                    if outcome is None:
                        raise OutputDeletedError(flow_run, node_id)
                    yield output_of(flow_run, outcome.unwrap(), type, cursor_text(start.history, fields))
                    if node_id == watched.until:
                        return
                    # A closed store answers nothing more, not even with what was fetched ahead.
                    await session.ready()
                place = page.place
                if not page.is_last:
                    continue
                if life is not None and subscription.run != life.serial:
                    subscription.run = life.serial
                    continue  # it may have been deleted since that look, and told of to those who wait for its serial
                await subscription.next(None)
        finally:
            del frame
            subscription.close()

    async def newest_cursor(self, of: str) -> str:
        session = self._session
        await session.ready()
        engine, is_of_runs = session.engine, one_of("of", of, ("outputs", "runs")) == "runs"
        return cursor_text(*await session.read(engine.newest_run_cursor if is_of_runs else engine.newest_cursor))


def _watched(flow_run_id: Id | None, prefix: str, until: Id | None) -> Watched:
    if flow_run_id is None and until is not None:
        raise ValueError("until is a node of the run that is watched: pass flow_run_id with it")
    flow_run = None if flow_run_id is None else flow_run_key(flow_run_id)
    return Watched(flow_run, prefix_key(prefix), None if until is None else node_key(until, "until"))


def cursor_of(after: str | None, what: str) -> tuple[str, CursorFields] | None:
    """The cursor that a caller has passed, by what it must be of; None: it begins at the beginning."""
    if after is None:
        return None
    if not isinstance(after, str):
        raise TypeError(f"after must be a cursor, which is a str, not {type(after).__name__}")
    if not after:
        return None
    try:
        return read_cursor(after)
    except ValueError as error:
        raise ValueError(f"after must be the cursor of {what}: {error}") from error


def _refuse_other_life(page: NewsPage, life: Life | None) -> None:
    """Raise RunDeletedError if the run that is watched is over."""
    if life is None:
        return
    is_gone = page.run is None and life.serial is not None
    if page.is_deleted or life.is_over or is_gone or (page.run is not None and not life.owns(page.run)):
        raise RunDeletedError(life.flow_run_id)
