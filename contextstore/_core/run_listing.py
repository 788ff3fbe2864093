"""Pages of runs, by whatever filters, in steps that let other reads through.

Rules of this module: operations and records; no SQL, no threads. Each step is a trip of its own, and looks at so many
runs at most. Which index is walked is decided by what has been found so far: the first one goes on while it fills the
page; where it does not, the filters are counted as far as it has come, and the first that has fewer runs is walked
instead. So a page costs a few times the cheaper of the two at most.
"""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from .._engine.records import RUN_STATES, RunRecord
from .._engine.run_query import RunIndex, RunPlace, RunQuery, RunRange, as_json
from .._results import RunInfo
from .._values.keys import Id, flow_run_key, prefix_key
from .._values.run_facts import checked_attributes
from ..errors import InvalidKeyError
from .answers import run_info_of
from .arguments import behind, page_size
from .run_watching import states_of
from .session import Session

_FIRST_LOOK = 2000
"""How many runs are looked at before the filters are counted."""
_MOST_LOOKS = 10_000
"""How many one trip looks at at most."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class RunListingService:
    """What ``list_runs`` does: the async face has its documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def page(
        self,
        prefix: str,
        after: Id | None,
        limit: int,
        oldest_first: bool,
        state: str | Iterable[str] | None,
        attributes: Mapping[str, Any] | None,
        parent: Id | None,
        since: datetime.datetime | None,
        until: datetime.datetime | None,
    ) -> list[RunInfo]:
        await self._session.ready()
        states = [None] if state is None else sorted(map(RUN_STATES.index, states_of(state, RUN_STATES)))
        query = RunQuery(
            prefix_key(prefix),
            None,
            () if attributes is None else _attributes(attributes),
            None if parent is None else flow_run_key(parent, "parent"),
            _microseconds("since", since),
            _microseconds("until", until),
            bool(oldest_first),
        )
        last, most = behind(after), page_size(limit)
        place = None if last is None else await self._place_of(flow_run_key(last, "after"), query)
        found = [await self._page(query._replace(state=one), place, most) for one in states]
        records = found[0] if len(found) == 1 else _merged(found, query)[:most]
        return [run_info_of(record) for record in records]

    async def _place_of(self, flow_run_id: str, query: RunQuery) -> RunPlace:
        place: RunPlace | None = await self._session.scan(self._session.engine.find_run_place, flow_run_id)
        if place is None:
            problem = f"{flow_run_id!r} is no run that this store has a trace of: begin anew"
            raise InvalidKeyError("after", problem)
        if query.is_by_begin and place.begun_at is None:
            raise InvalidKeyError("after", f"{flow_run_id!r} was never begun, so it is in no list by since or until")
        return place

    async def _page(self, query: RunQuery, place: RunPlace | None, limit: int) -> list[RunRecord]:
        engine, filters = self._session.engine, query.filters
        index = next((one for one in filters if query.is_in_order(one)), query.order)
        others = [one for one in filters if one != index]
        found: list[RunRecord] = []
        looks, looked, next_count = _FIRST_LOOK, 0, _FIRST_LOOK
        while True:
            step = await self._session.scan(engine.list_runs, query, index, place, looks, limit - len(found))
            found += step.runs
            place = step.after
            if place is None or len(found) >= limit:
                return found
            looked += looks
            if others and looked >= next_count:
                next_count = 4 * looked
                rarest = await self._rarest(query, filters, place, looked)
                if rarest is not None and not query.is_in_order(rarest):
                    return found + await self._gathered(query, rarest, place, limit - len(found))
                if rarest is not None:
                    index, others = rarest, []
            looks = min(4 * looks, _MOST_LOOKS)

    async def _rarest(self, query: RunQuery, filters: list[RunIndex], place: RunPlace, most: int) -> RunIndex | None:
        """The filter that has the fewest runs, if one of them has fewer than so many."""
        rarest, fewest = None, most
        for index in filters:
            count = await self._session.scan(self._session.engine.count_index, query, index, place, fewest)
            if count < fewest:
                rarest, fewest = index, count
        return rarest

    async def _gathered(self, query: RunQuery, index: RunIndex, place: RunPlace | None, limit: int) -> list[RunRecord]:
        """Those behind the place, by an index that has them in another order: all of its runs are looked at."""
        engine = self._session.engine
        best = heapq.nsmallest if query.oldest_first else heapq.nlargest
        while True:
            first: list[RunPlace] = []
            after: str | int | None = None
            while True:
                within = RunRange(place, first[-1] if len(first) == limit else None)
                part = await self._session.scan(engine.gather_runs, query, index, within, after, _MOST_LOOKS, limit)
                first = best(limit, [*first, *part.places], key=_in_order)
                after = part.after
                if after is None:
                    break
            records = await self._session.scan(engine.describe_runs, query, [one.serial for one in first])
            if records or len(first) < limit:
                return records
            place = first[-1]  # all of them were deleted, or changed, since they were found


def _merged(pages: Iterable[list[RunRecord]], query: RunQuery) -> list[RunRecord]:
    """The runs of several pages, each once, in the order of the listing: one whose state has changed may be in two."""
    runs = {record.serial: record for page in pages for record in page}

    def order(record: RunRecord) -> tuple[int, int]:
        begun_at = record.facts.begun_at if query.is_by_begin else None
        return begun_at or 0, record.serial

    return sorted(runs.values(), key=order, reverse=not query.oldest_first)


def _in_order(place: RunPlace) -> tuple[int, int]:
    return place.begun_at or 0, place.serial


def _attributes(attributes: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, as_json(value)) for name, value in checked_attributes(attributes).items())


def _microseconds(name: str, time: datetime.datetime | None) -> int | None:
    if time is None:
        return None
    if not isinstance(time, datetime.datetime):
        raise TypeError(f"{name} must be a datetime.datetime or None, not {type(time).__name__}")
    if time.utcoffset() is None:
        raise ValueError(f"{name} must be aware, and {time!r} has no time zone: pass datetime.now(UTC), say")
    return (time - _EPOCH) // datetime.timedelta(microseconds=1)
