"""The outputs of a run in the order in which they were written: when, how large, and what in short.

Rules of this module: public calls of the store alone; a value is let go of as soon as it is known in short, so that a
run is looked at in bounded memory for each output.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .. import ContextStore, CorruptStoreError, Output
from .._display.brief import brief


@dataclass(frozen=True, slots=True)
class Damaged:
    """An output that is there and cannot be read; ``damaged`` says why."""

    flow_run_id: str
    node_id: str
    damaged: str


class Mark(NamedTuple):
    """An output on a time line.

    Attributes:
        node_id, written_at, size: of the output; None where it is damaged.
        value: its value in short, or what is wrong with it.
        gap: seconds since the one before; 0.0 for the first.
        position: where it is between the first (0.0) and the last (1.0).
    """

    node_id: str
    written_at: datetime.datetime | None
    size: int | None
    value: str
    gap: float
    position: float


class TimeLine(NamedTuple):
    """The outputs of a run, or of a page of it.

    Attributes:
        marks: by the time of their writing; damaged ones last.
        next_after: the node id behind which the next page begins; None if this is the last one.
    """

    marks: list[Mark]
    next_after: str | None


def outputs(
    store: ContextStore, flow_run_id: str, *, prefix: str = "", after: str | None = None, reverse: bool = False
) -> Iterator[Output | Damaged]:
    """The outputs of a run by node id, and in the place of each that is damaged what is wrong with it."""
    while True:
        try:
            for output in store.iter_outputs(flow_run_id, prefix=prefix, after=after, reverse=reverse):
                after = output.node_id
                yield output
        except CorruptStoreError as error:
            if error.node_id is None or error.node_id == after:
                raise  # there is no way round it
            after = error.node_id
            yield Damaged(flow_run_id, after, str(error))
        else:
            return


def time_line(
    store: ContextStore,
    flow_run_id: str,
    *,
    prefix: str = "",
    after: str | None = None,
    limit: int = 1000,
    reverse: bool = False,
    most: int = 60,
) -> TimeLine:
    """The time line of a run.

    Args:
        limit: how many outputs at most, by node id.
        reverse: those with the last node ids.
        most: how long a value in short may be.
    """
    rows: list[tuple[str, datetime.datetime | None, int | None, str]] = []
    next_after = None
    for output in outputs(store, flow_run_id, prefix=prefix, after=after, reverse=reverse):
        if len(rows) == limit:
            next_after = rows[-1][0]
            break
        if isinstance(output, Damaged):
            rows.append((output.node_id, None, None, f"damaged: {output.damaged}"))
        else:
            rows.append((output.node_id, output.written_at, output.size, brief(output.value, most)))
    return TimeLine(list(_marks(rows)), next_after)


def _marks(rows: Iterable[tuple[str, datetime.datetime | None, int | None, str]]) -> Iterator[Mark]:
    last = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    ordered = sorted(rows, key=lambda row: (row[1] or last, row[0]))
    times = [written_at for _, written_at, _, _ in ordered if written_at is not None]
    whole = (times[-1] - times[0]).total_seconds() if times else 0.0
    before = times[0] if times else None
    for node_id, written_at, size, value in ordered:
        if written_at is None or before is None:
            yield Mark(node_id, written_at, size, value, 0.0, 1.0)
            continue
        gap, since = (written_at - before).total_seconds(), (written_at - times[0]).total_seconds()
        yield Mark(node_id, written_at, size, value, gap, since / whole if whole else 0.0)
        before = written_at
