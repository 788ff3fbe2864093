"""What the streams of all pages have in common: how one is answered, and where it begins.

Rules of this module: an event's id is the cursor behind it. What goes wrong is told as an event: ``reload`` where the
page has to begin anew, ``gone`` where there is nothing to follow any more, ``lost`` where it may be tried again later.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import errors
from .._results import RunInfo
from .feed import Feeds, Follower
from .look import Look, Refusal
from .outbox import Outbox, Stream
from .pages import render

Fill = Callable[[Look, Outbox], Awaitable[None]]
"""Puts into the outbox whatever there is to tell, until it is cancelled."""


def stream(fill: Fill) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a stream."""

    @functools.wraps(fill)
    async def endpoint(request: Request) -> Response:
        look, outbox = Look(request.app.state.inspector, request), Outbox()

        async def filling() -> None:
            with ended_with(outbox):
                await fill(look, outbox)

        return Stream(outbox, filling)

    return endpoint


@contextlib.contextmanager
def ended_with(outbox: Outbox) -> Iterator[None]:
    """Tells the browser why there is nothing more to come."""
    try:
        yield
    except (Refusal, errors.RunDeletedError, errors.StoreClosedError) as error:
        outbox.end("gone", str(error))
    except (errors.CorruptStoreError, ValueError) as error:  # a place that is none, or that lies before what is damaged
        outbox.end("reload", str(error))
    except errors.ContextStoreError as error:
        outbox.end("lost", str(error))


def place_of(look: Look) -> str | None:
    """The cursor behind which a stream begins: where a browser was before it asked again, or where its page was."""
    return look.request.headers.get("last-event-id") or look.text("after") or None


def feeds_of(look: Look) -> Feeds:
    feeds: Feeds = look.request.app.state.feeds
    return feeds


def follow_runs(look: Look, after: str | None) -> AbstractAsyncContextManager[Follower[RunInfo]]:
    """All runs: whoever shows some of them takes these."""
    return feeds_of(look).follow("runs", lambda place: look.inspector.awaitable.watch_runs(after=place), after)


def rendered(look: Look, template: str, **context: Any) -> str:
    """A part of a page, as the page has it."""
    look.now = datetime.datetime.now(datetime.UTC)  # a stream goes on for longer than a look
    return render(look, template, **context)
