"""One iterator of the store for all browsers that follow the same, and for each of them a place in what it tells.

Rules of this module: nothing runs by itself: whoever waits for news fetches them for all, so that there is no task to
end when a browser goes, on whichever loop. Nothing queues for who is slow: what it has not seen stands in a ring of the
newest items, and one whose cursor is not there any more goes on by an iterator of its own, until it comes upon a cursor
that is.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

RING = 1_000
"""How many of the newest items are kept: no values are among them."""


class Told(Protocol):
    """What a feed tells of: it knows the place behind itself."""

    @property
    def cursor(self) -> str | None: ...


T = TypeVar("T", bound=Told)

Source = Callable[[str | None], AsyncGenerator[T, None]]
"""Begins to iterate behind a cursor."""


class SharedFeed(Generic[T]):
    """What several followers are told by one iterator, which there is while one of them is there."""

    def __init__(self, source: Source[T], ring: int = RING) -> None:
        self._source, self._most = source, ring
        self._followers = 0
        self._iterator: AsyncGenerator[T, None] | None = None
        self._is_fetching = False
        self._news = anyio.Event()
        self._error: Exception | None = None
        self._ring: deque[T] = deque()
        self._places: dict[str | None, int] = {}
        """By cursor, the places that a follower may be at: that before the ring, and one behind each item in it."""
        self._start: str | None = None
        self._end = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody follows any more, or nobody can."""
        return not self._followers or self._error is not None

    @contextlib.asynccontextmanager
    async def follow(self, after: str | None) -> AsyncIterator[Follower[T]]:
        """Follow from a cursor on."""
        if not self._followers:
            self._start, self._end, self._places = after, 0, {after: 0}
        self._followers += 1
        follower = Follower(self, after)
        try:
            yield follower
        finally:
            self._followers -= 1
            await follower.leave_own()
            if not self._followers:
                await self._stop()

    def place_of(self, cursor: str | None) -> int | None:
        return self._places.get(cursor)

    def own(self, after: str | None) -> AsyncGenerator[T, None]:
        """An iterator for one follower alone."""
        return self._source(after)

    async def wait_beyond(self, place: int) -> None:
        """Wait until there is something behind a place; fetch it, if nobody else does."""
        while self._end == place:
            if self._error is not None:
                raise self._error
            if self._is_fetching:
                await self._news.wait()
            else:
                await self._fetch()

    def beyond(self, place: int) -> list[T] | None:
        """What is there behind a place. None: that is not in the ring any more."""
        count = self._end - place
        if count > len(self._ring):
            return None
        return [self._ring[index] for index in range(len(self._ring) - count, len(self._ring))]

    async def _fetch(self) -> None:
        self._is_fetching = True
        try:
            if self._iterator is None:
                newest = self._ring[-1].cursor if self._ring else self._start
                self._iterator = self._source(newest)
            self._append(await anext(self._iterator))
        except BaseException as error:
            # The iterator has ended with this, a cancellation too: who fetches next begins another where it was.
            self._iterator = None
            if not isinstance(error, Exception):
                raise
            self._error = error
        finally:
            self._is_fetching = False
            news, self._news = self._news, anyio.Event()
            news.set()

    def _append(self, item: T) -> None:
        self._ring.append(item)
        self._end += 1
        self._places[item.cursor] = self._end
        if len(self._ring) > self._most:
            self._forget(self._start, self._end - len(self._ring))
            self._start = self._ring.popleft().cursor

    def _forget(self, cursor: str | None, place: int) -> None:
        if self._places.get(cursor) == place:  # else it was told once more, and stands further on now
            del self._places[cursor]

    async def _stop(self) -> None:
        iterator, self._iterator = self._iterator, None
        self._ring.clear()
        self._places.clear()
        if iterator is not None:
            await iterator.aclose()


class Follower(Generic[T]):
    """Somebody who follows, and how far it has come.

    Attributes:
        cursor: the place behind the last item that it was given.
    """

    def __init__(self, feed: SharedFeed[T], after: str | None) -> None:
        self._feed = feed
        self._place = feed.place_of(after)
        self._own: AsyncGenerator[T, None] | None = None
        self.cursor = after

    @property
    def is_on_its_own(self) -> bool:
        """Whether an iterator is there for this one alone."""
        return self._own is not None

    async def next(self) -> list[T]:
        """What comes next, at least one item: waits for it."""
        while True:
            if self._place is None:
                return [await self._next_own()]
            await self._feed.wait_beyond(self._place)
            items = self._feed.beyond(self._place)
            if items is None:
                self._place = None
                continue
            self._place += len(items)
            self.cursor = items[-1].cursor
            return items

    async def _next_own(self) -> T:
        if self._own is None:
            self._own = self._feed.own(self.cursor)
        item = await anext(self._own)
        self.cursor = item.cursor
        self._place = self._feed.place_of(item.cursor)
        if self._place is not None:
            await self.leave_own()
        return item

    async def leave_own(self) -> None:
        """End the iterator that is there for this one alone."""
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()


class Feeds:
    """The feeds that are followed just now: of the loop that serves the application, or of each that does."""

    def __init__(self) -> None:
        self._feeds: dict[Hashable, SharedFeed[Any]] = {}

    @property
    def count(self) -> int:
        """How many there are: none where nobody follows anything."""
        return len(self._feeds)

    @contextlib.asynccontextmanager
    async def follow(self, name: Hashable, source: Source[T], after: str | None) -> AsyncIterator[Follower[T]]:
        """Follow what has this name, with all others who do."""
        place = (anyio.lowlevel.current_token(), name)
        feed: SharedFeed[T] | None = self._feeds.get(place)
        if feed is None or feed.is_over:
            feed = self._feeds[place] = SharedFeed(source)
        try:
            async with feed.follow(after) as follower:
                yield follower
        finally:
            if feed.is_over and self._feeds.get(place) is feed:
                del self._feeds[place]
