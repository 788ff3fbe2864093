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
from .outputs import PAGE_BYTES, PAGE_ROWS
from .session import Session


class WatchService:
    """What ``watch`` does: the async face has its documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def watch(
        self,
        flow_run_id: Id | None,
        prefix: str,
        after: str | None,
        until: Id | None,
        type: Any,
        run: int | None = None,
    ) -> AsyncGenerator[Output, None]:
        """``run``: the serial of the life of the id that is watched; None: the one that it has at the first look."""
        session = self._session
        await session.ready()
        watched = _watched(flow_run_id, prefix, until)
        cursor = _cursor(after)
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
                run = _life(watched, page, run)
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
                if page.is_last:
                    await subscription.next(None)
        finally:
            del frame
            subscription.close()


def _watched(flow_run_id: Id | None, prefix: str, until: Id | None) -> Watched:
    if flow_run_id is None and until is not None:
        raise ValueError("until is a node of the run that is watched: pass flow_run_id with it")
    flow_run = None if flow_run_id is None else flow_run_key(flow_run_id)
    return Watched(flow_run, prefix_key(prefix), None if until is None else node_key(until, "until"))


def _cursor(after: str | None) -> tuple[str, CursorFields] | None:
    if after is None:
        return None
    if not isinstance(after, str):
        raise TypeError(f"after must be a cursor, which is a str, not {type(after).__name__}")
    if not after:
        return None
    try:
        return read_cursor(after)
    except ValueError as error:
        raise ValueError(f"after must be the cursor of an output: {error}") from error


def _life(watched: Watched, page: NewsPage, run: int | None) -> int | None:
    """The serial of the run that is watched. Raises RunDeletedError if it is over."""
    flow_run = watched.flow_run_id
    if flow_run is not None and (page.is_deleted or page.run != (page.run if run is None else run)):
        raise RunDeletedError(flow_run)
    return page.run if run is None else run
