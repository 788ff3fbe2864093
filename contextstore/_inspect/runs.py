"""Runs as a list that is leafed through, and what became of one that is not in it.

Rules of this module: public calls of the store alone; no values are loaded.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import ContextStore, InvalidKeyError, RunInfo
from .differences import same_value


class RunPage(NamedTuple):
    """A page of runs.

    Attributes:
        runs: newest first.
        next_after: what the page behind it begins after; None if this is the last one.
    """

    runs: list[RunInfo]
    next_after: str | None


def run_page(
    store: ContextStore, *, prefix: str = "", after: str | None = None, limit: int = 100, **filters: Any
) -> RunPage:
    """A page of the runs of a store, newest first; of those alone whose id begins with ``prefix``.

    Args:
        filters: further ones, and the order, as ``list_runs`` takes them.
    """
    runs = store.list_runs(prefix=prefix, after=after or None, limit=limit + 1, **filters)
    if len(runs) <= limit:
        return RunPage(runs, None)
    return RunPage(runs[:limit], runs[limit - 1].flow_run_id)


def was_deleted(store: ContextStore, flow_run_id: str) -> bool:
    """Whether a run that has no outputs was deleted, and has not been forgotten since."""
    try:
        store.list_runs(after=flow_run_id, limit=1)
    except InvalidKeyError:
        return False
    return True


@dataclass(frozen=True)
class RunFilters:
    """Which runs are looked for: those that fit all of it.

    Attributes:
        states: those in one of these; in any, if there are none.
        prefix, attributes, parent, since, until: as ``list_runs`` takes them.
    """

    prefix: str = ""
    states: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None

    def page(self, store: ContextStore, *, after: str | None = None, limit: int = 100) -> RunPage:
        """A page of the runs that fit, newest first."""
        return run_page(
            store,
            prefix=self.prefix,
            after=after,
            limit=limit,
            state=self.states or None,
            attributes=self.attributes or None,
            parent=self.parent,
            since=self.since,
            until=self.until,
        )

    def fits(self, run: RunInfo) -> bool:
        """Whether a run is one of those that are looked for, as the store would decide it."""
        return (
            run.flow_run_id.startswith(self.prefix)
            and (not self.states or run.state in self.states)
            and (self.parent is None or run.parent == self.parent)
            and self._was_begun_then(run.begun_at)
            and all(same_value(run.attributes.get(name), value) for name, value in self.attributes.items())
        )

    def _was_begun_then(self, begun_at: datetime.datetime | None) -> bool:
        if begun_at is None:
            return self.since is None and self.until is None
        return (self.since is None or begun_at >= self.since) and (self.until is None or begun_at < self.until)


EXPECTED = ("nodes", "expected_outputs")
"""The attributes in which a flow may say, as an int, how many outputs its run is going to have."""


def expected_outputs(run: RunInfo) -> int | None:
    """How many outputs a run is going to have; None where its attributes do not say."""
    return next(filter(None, (_count(run.attributes.get(name)) for name in EXPECTED)), None)


def other_attributes(run: RunInfo) -> list[tuple[str, str | int | float | bool]]:
    """The attributes of a run but for those that say how many outputs it is going to have."""
    return [(name, value) for name, value in run.attributes.items() if not (name in EXPECTED and _count(value))]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def error_line(error: str) -> str:
    """The line that says most of an error: the last one of a traceback, else the first."""
    lines = [line for line in error.splitlines() if line.strip()] or [""]
    return lines[-1 if lines[0].startswith("Traceback ") else 0].strip()
