"""Runs as a list that is leafed through, and what became of one that is not in it.

Rules of this module: public calls of the store alone; no values are loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import ContextStore, InvalidKeyError, RunInfo


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
