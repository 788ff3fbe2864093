"""What is told to whoever follows runs: which runs are asked for, and what became of them.

Rules of this module: records, and pure functions on them; no SQL. A run is told where its newest change lies: those
before it are told with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from .fact_rules import attribute_rows
from .records import RUN_STATES, CursorFields, Place, RunFacts, RunRecord

DELETED: Final = "deleted"
"""What a watcher is told as the state of a run that was deleted."""
RUNS = "runs"
"""The first field of the cursors of runs, by which they are told from those of outputs."""


class RunFilter(NamedTuple):
    """Which runs are asked for: as they are now. Of a deleted one nothing is left that could be asked for but that."""

    states: frozenset[str] | None
    """Names of states, ``DELETED`` perhaps among them. None: any."""
    attributes: Mapping[str, str]
    """By name, as JSON: each of these, with this value."""
    parent: str | None
    """None: any, or none."""

    def fits(self, facts: RunFacts, is_deleted: bool) -> bool:
        if is_deleted:
            is_wanted = self.states is None or DELETED in self.states
            return is_wanted and self.parent is None and not self.attributes
        if self.states is not None and RUN_STATES[facts.state] not in self.states:
            return False
        if self.parent is not None and facts.parent != self.parent:
            return False
        return not self.attributes or self.attributes.items() <= attribute_rows(facts.attributes).items()


class RunNews(NamedTuple):
    """A run that has changed."""

    record: RunRecord
    """As it is now."""
    is_deleted: bool
    """Then it has no outputs, and no facts."""
    cursor: CursorFields
    """Of the place behind it."""


class RunNewsPage(NamedTuple):
    """Some of the runs that have changed behind a place."""

    news: list[RunNews]
    place: Place
    """Behind which to go on."""
    is_last: bool
    """Whether nothing more was there, just now."""


class Changes(NamedTuple):
    """Changes of runs, each run by its newest one: where that lies, and the run's serial."""

    newest: list[tuple[int, int]]
    end: tuple[int, int] | None
    """How far they reach. None: these are all."""


def changes_of(parts: Sequence[Sequence[tuple[int, int]]], most: int) -> Changes:
    """From the next changes of several kinds, each in its order and at most so many."""
    end = min((part[-1] for part in parts if len(part) >= most), default=None)
    newest: dict[int, int] = {}
    for part in parts:
        for place, run in part:
            if end is None or (place, run) <= end:
                newest[run] = max(place, newest.get(run, place))
    return Changes(sorted((place, run) for run, place in newest.items()), end)
