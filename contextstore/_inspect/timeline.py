"""The outputs of a run in the order in which they were written, and its failures: when, how large, what in short.

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
    """An output on a time line, or a failed attempt of a step.

    Attributes:
        node_id, written_at, size: of the output; None where it is damaged. Of an attempt its end, and no size.
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
    failed: bool = False


class _Row(NamedTuple):
    """What a mark is made of."""

    node_id: str
    at: datetime.datetime | None
    size: int | None
    value: str
    failed: bool = False


MOST_OUTPUTS_WITH_FAILURES = 10_000
"""Of a run with more outputs the failures are not on its time line: its attempts come with those of all outputs."""


class TimeLine(NamedTuple):
    """The outputs of a run and its failures, or those of a page of it.

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
    rows: list[_Row] = []
    next_after = None
    for output in outputs(store, flow_run_id, prefix=prefix, after=after, reverse=reverse):
        if len(rows) == limit:
            next_after = rows[-1].node_id
            break
        if isinstance(output, Damaged):
            rows.append(_Row(output.node_id, None, None, f"damaged: {output.damaged}"))
        else:
            rows.append(_Row(output.node_id, output.written_at, output.size, brief(output.value, most)))
    failed = [row for row in _failures(store, flow_run_id, most) if row.node_id.startswith(prefix)]
    rows.extend(row for row in failed if _is_on_page(row.node_id, after, next_after, reverse=reverse))
    return TimeLine(list(_marks(rows)), next_after)


def _is_on_page(node_id: str, after: str | None, last: str | None, *, reverse: bool) -> bool:
    if reverse:
        return (not after or node_id < after) and (last is None or node_id >= last)
    return (not after or node_id > after) and (last is None or node_id <= last)


def _failures(store: ContextStore, flow_run_id: str, most: int) -> Iterator[_Row]:
    info = store.get_run_info(flow_run_id)
    if info is None or not info.failures or info.outputs > MOST_OUTPUTS_WITH_FAILURES:
        return
    for attempt in store.run(flow_run_id).attempts():
        if attempt.error is not None:
            text = f"attempt {attempt.number}: {attempt.error}"
            shown = text if len(text) <= most else text[: most - 1] + "…"
            yield _Row(attempt.node_id, attempt.ended_at, None, shown, failed=True)


def _marks(rows: Iterable[_Row]) -> Iterator[Mark]:
    last = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    ordered = sorted(rows, key=lambda row: (row.at or last, row.node_id))
    times = [row.at for row in ordered if row.at is not None]
    whole = (times[-1] - times[0]).total_seconds() if times else 0.0
    before = times[0] if times else None
    for row in ordered:
        if row.at is None or before is None:
            yield Mark(row.node_id, row.at, row.size, row.value, 0.0, 1.0)
            continue
        gap, since = (row.at - before).total_seconds(), (row.at - times[0]).total_seconds()
        position = since / whole if whole else 0.0
        yield Mark(row.node_id, row.at, row.size, row.value, gap, position, row.failed)
        before = row.at
