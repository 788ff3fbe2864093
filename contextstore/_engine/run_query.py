"""Which runs a listing asks for, and by which indexes an engine finds them.

Rules of this module: records and pure functions. Each filter has an index of its own, which has all that fit it; which
of them is walked is decided by the caller, one for each step.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import orjson

from .records import RunRecord

IndexName: TypeAlias = Literal["runs", "begin", "state", "parent", "attribute", "prefix"]


class RunIndex(NamedTuple):
    """What leads to runs: all of them by serial, or those that fit one filter."""

    name: IndexName
    attribute: int = 0
    """Which one of the query's."""


class RunQuery(NamedTuple):
    """What a run must be to be listed, and in which order."""

    prefix: str = ""
    state: int | None = None
    """Its number, as it is stored."""
    attributes: tuple[tuple[str, str], ...] = ()
    """Names and values, these as JSON."""
    parent: str | None = None
    since: int | None = None
    """Begun then or later, in microseconds since 1970, UTC."""
    until: int | None = None
    """Begun before."""
    oldest_first: bool = False

    @property
    def is_by_begin(self) -> bool:
        """Whether the order is that of the begins, and the serial behind it. Else it is the serial alone."""
        return self.since is not None or self.until is not None

    @property
    def order(self) -> RunIndex:
        """That which has its runs in the order of the listing, whatever the filters are."""
        return RunIndex("begin" if self.is_by_begin else "runs")

    @property
    def filters(self) -> list[RunIndex]:
        """Those of its filters, the one first of which a step costs least."""
        found = [RunIndex("attribute", number) for number in range(len(self.attributes))]
        found += [RunIndex("begin")] if self.is_by_begin else []
        found += [RunIndex("parent")] if self.parent is not None else []
        found += [RunIndex("state")] if self.state is not None else []
        found += [RunIndex("prefix")] if self.prefix else []
        return found

    def is_in_order(self, index: RunIndex) -> bool:
        """Whether it has its runs in the order of the listing."""
        return index == self.order if self.is_by_begin else index.name != "prefix"

    def fits(self, record: RunRecord) -> bool:
        """Whether a run that was found a while ago is still one of these: what may have changed since."""
        facts = record.facts
        if self.state not in (None, facts.state):
            return False
        if not self.attributes:
            return True
        given = {name: as_json(value) for name, value in orjson.loads(facts.attributes or "{}").items()}
        return all(given.get(name) == value for name, value in self.attributes)


def as_json(value: object) -> str:
    """An attribute's value, as it is compared and stored."""
    return orjson.dumps(value).decode()


class RunPlace(NamedTuple):
    """A place in a listing: behind, or before, this run."""

    serial: int
    begun_at: int | None = None


class RunRange(NamedTuple):
    """A part of a listing: behind one place, and before another."""

    place: RunPlace | None = None
    before: RunPlace | None = None


class RunStep(NamedTuple):
    """What a step along an index that is in the listing's order has found."""

    runs: list[RunRecord]
    after: RunPlace | None
    """Where the next one goes on; None: that was all."""


class RunGathering(NamedTuple):
    """The same along any other index."""

    places: list[RunPlace]
    after: str | int | None
    """The id, or the serial, behind which the next one goes on; None: that was all."""
