"""The serials of runs that a store object has seen, so that a put of a known run asks for none.

Rules of this module: a serial is forgotten with its run, and all of them when another client may have deleted one. What
is kept is bounded: with very many runs it begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable

_MOST = 10_000


class Serials:
    """By the ids of runs that are not deleted."""

    def __init__(self) -> None:
        self._serials: dict[str, int] = {}

    def get(self, flow_run_id: str) -> int | None:
        return self._serials.get(flow_run_id)

    def add(self, flow_run_id: str, serial: int) -> None:
        self._serials[flow_run_id] = serial

    def forget(self, flow_run_ids: Iterable[str]) -> None:
        for flow_run_id in flow_run_ids:
            self._serials.pop(flow_run_id, None)

    def bound(self) -> None:
        """Begin anew if there are too many: what is forgotten is looked up again."""
        if len(self._serials) > _MOST:
            self._serials.clear()

    def clear(self) -> None:
        self._serials.clear()
