"""What is on its way to one browser, and the response that brings it there as events.

Rules of this module: it knows nothing of stores. What stands for the same is sent once, as it is by then; a browser is
sent something at most so often; and who has more for it than it takes waits, since nothing queues.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

_MOST = 200
_PAUSE = 0.05
"""Seconds between two swaps."""
_SEND_SECONDS = 30.0
"""After so long without taking anything a browser is taken to be gone."""
_SECONDS_TO_END = 1.0


class Outbox:
    """The parts of a page that have changed and are not sent yet, by the ids of their elements."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._place: str | None = None
        self._last: ServerSentEvent | None = None
        self._is_changed = anyio.Event()
        self._is_emptied = anyio.Event()

    async def put(self, name: str, html: str, place: str | None = None) -> None:
        """Have an element sent, in place of what it was before.

        Args:
            place: the cursor behind it. None: it has none.
        """
        while len(self._parts) >= _MOST and name not in self._parts:
            await self._is_emptied.wait()
        self._parts.pop(name, None)  # it comes behind all that was there before
        self._parts[name] = html
        self.move(place)
        self._is_changed.set()

    def move(self, place: str | None) -> None:
        """All up to this cursor is either sent, or of no concern to this browser."""
        if place is not None:
            self._place = place

    def end(self, event: str, sentence: str) -> None:
        """The last thing that is sent."""
        if self._last is None:
            self._last = ServerSentEvent(sentence, event=event)
            self._is_changed.set()

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """What is to be sent, as it comes."""
        yield ServerSentEvent(
            comment="here"
        )  # what is between may hold the head of an answer back until something comes
        while True:
            await self._is_changed.wait()
            self._is_changed = anyio.Event()
            for event in self._take():
                yield event
            if self._last is not None:
                yield self._last
                return
            await anyio.sleep(_PAUSE)

    def _take(self) -> list[ServerSentEvent]:
        parts, place = list(self._parts.values()), self._place
        self._parts.clear()
        emptied, self._is_emptied = self._is_emptied, anyio.Event()
        emptied.set()
        rows = [part for part in parts if _is_row(part)]  # a browser's parser takes rows and the rest apart
        rest = [part for part in parts if not _is_row(part)]
        groups = ["".join(group) for group in (rest, rows) if group]
        return [
            ServerSentEvent(html, id=place if number == len(groups) else None) for number, html in enumerate(groups, 1)
        ]


def _is_row(html: str) -> bool:
    return html.lstrip().startswith("<tr")


class Stream(EventSourceResponse):
    """The answer that goes on until the browser goes, the server stops, or there is no more to tell."""

    def __init__(self, outbox: Outbox, fill: Callable[[], Awaitable[None]]) -> None:
        """``fill`` puts into the outbox whatever there is to tell; it is cancelled when the browser goes."""

        async def filling() -> None:
            await fill()

        super().__init__(outbox.events(), data_sender_callable=filling, send_timeout=_SEND_SECONDS, sep="\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_over = False  # whoever asked has all of it, or has gone

        async def receiving() -> Message:
            nonlocal is_over
            message = await receive()
            is_over = is_over or message["type"] == "http.disconnect"
            return message

        async def sending(message: Message) -> None:
            nonlocal is_over
            await send(message)
            is_over = is_over or (message["type"] == "http.response.body" and not message.get("more_body", False))

        try:
            await super().__call__(scope, receiving, sending)
        except SendTimeoutError:
            return  # nobody is there to be told
        if not is_over:  # the server stops: it would log each answer without an end as a fault of the application
            with anyio.move_on_after(_SECONDS_TO_END):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
