"""The nodes of a run, and the time line that their outputs and failures make: when, how large, what in short.

Rules of this module: public calls of the store alone; a value is let go of as soon as it is known in short, so that a
run is looked at in bounded memory for each output.
"""

from __future__ import annotations

import datetime
import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .. import Attempt, ContextStore, CorruptStoreError, Output
from .._display.brief import brief


@dataclass(frozen=True, slots=True)
class Damaged:
    """An output that is there and cannot be read; ``damaged`` says why."""

    flow_run_id: str
    node_id: str
    damaged: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a run: its output in short, and the attempts at it.

    Attributes:
        node_id: its id.
        written_at, size, tag, brief: of its output, ``brief`` being the value in short. None: there is no output, or
            it is damaged.
        damaged: what is wrong with its output. None: nothing.
        attempts: by their number; those of which the store keeps a record.
    """

    node_id: str
    written_at: datetime.datetime | None
    size: int | None
    tag: str | None
    brief: str | None
    damaged: str | None
    attempts: tuple[Attempt, ...]

    @property
    def made_by(self) -> Attempt | None:
        """The attempt that made the output. None: there is no record of one."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.error is None), None)

    @property
    def failures(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.error is not None]

    @property
    def at(self) -> datetime.datetime | None:
        """When it was written; of a node without an output when its last attempt had failed."""
        failed = self.attempts[-1].ended_at if self.attempts else None
        return failed if self.damaged is None and self.brief is None else self.written_at


class NodePage(NamedTuple):
    """Nodes of a run by their ids.

    Attributes:
        next_after: the node id behind which the next page begins; None if this is the last one.
    """

    nodes: list[Node]
    next_after: str | None


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


MOST_ATTEMPTS_AT_ONCE = 10_000
"""Of a run with more outputs the attempts are asked for node by node; one that only failed is then not found."""

MOST_OUTPUTS_OF_FAILURES = 100_000
"""A run with more outputs is not searched for its failures: all of its attempts would be in memory."""


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


def node_of(found: Output | Damaged | None, attempts: Iterable[Attempt], *, most: int = 60) -> Node:
    """A node, by its output and the attempts at it. Without an output there has to be an attempt."""
    tried = tuple(attempts)
    if isinstance(found, Output):
        value = brief(found.value, most)
        return Node(found.node_id, found.written_at, found.size, found.tag, value, None, tried)
    if found is not None:
        return Node(found.node_id, None, None, None, None, found.damaged, tried)
    return Node(tried[0].node_id, None, None, None, None, None, tried)


def node_page(
    store: ContextStore,
    flow_run_id: str,
    *,
    prefix: str = "",
    after: str | None = None,
    limit: int = 1000,
    reverse: bool = False,
    most: int = 60,
    most_bytes: int | None = None,
    only_failed: bool = False,
) -> NodePage:
    """A page of the nodes of a run: of those that have an output, and those that have failed and have none yet.

    Args:
        reverse: those with the last node ids, these first.
        most: how long a value in short may be.
        most_bytes: a page ends early once the values on it were that large together.
        only_failed: those of which an attempt has failed. They are looked for in runs of at most
            ``MOST_OUTPUTS_OF_FAILURES`` outputs.
    """
    attempts = _Attempts(store, flow_run_id, whole=only_failed)
    failed = [node_id for node_id in attempts.failed(prefix) if _is_behind(node_id, after, reverse=reverse)]
    failed.sort(reverse=reverse)
    found: Iterator[tuple[str, Output | Damaged | None]]
    if only_failed:
        found = ((node_id, _output(store, flow_run_id, node_id)) for node_id in failed)
    else:
        found = _merged(outputs(store, flow_run_id, prefix=prefix, after=after, reverse=reverse), failed, reverse)
    nodes: list[Node] = []
    size = 0
    for node_id, one in found:
        if len(nodes) == limit or (most_bytes is not None and size >= most_bytes):
            return NodePage(nodes, nodes[-1].node_id)
        nodes.append(node_of(one, attempts.of(node_id), most=most))
        size += nodes[-1].size or 0
    return NodePage(nodes, None)


def _is_behind(node_id: str, after: str | None, *, reverse: bool) -> bool:
    return not after or (node_id < after if reverse else node_id > after)


class _Attempts:
    """The attempts of a run by node: read at once, unless there may be too many."""

    def __init__(self, store: ContextStore, flow_run_id: str, *, whole: bool) -> None:
        self._run = store.run(flow_run_id)
        self._known: dict[str, list[Attempt]] | None = None
        info = self._run.info()
        if info is None:
            self._known = {}
        elif info.outputs <= MOST_ATTEMPTS_AT_ONCE or (whole and info.failures):
            by_node = itertools.groupby(self._run.attempts(), operator.attrgetter("node_id"))
            self._known = {node_id: list(attempts) for node_id, attempts in by_node}

    def of(self, node_id: str) -> list[Attempt]:
        return self._run.attempts(node_id) if self._known is None else self._known.get(node_id, [])

    def failed(self, prefix: str) -> Iterator[str]:
        for node_id, attempts in (self._known or {}).items():
            if node_id.startswith(prefix) and any(attempt.error is not None for attempt in attempts):
                yield node_id


def _output(store: ContextStore, flow_run_id: str, node_id: str) -> Output | Damaged | None:
    try:
        return store.get_entry(flow_run_id, node_id)
    except CorruptStoreError as error:
        return Damaged(flow_run_id, node_id, str(error))


def _merged(
    found: Iterator[Output | Damaged], failed: Iterable[str], reverse: bool
) -> Iterator[tuple[str, Output | Damaged | None]]:
    """Outputs, and the ids of nodes that may have none, as one list by id."""
    first = operator.itemgetter(0)
    both = heapq.merge(
        ((one.node_id, one) for one in found), ((one, None) for one in failed), key=first, reverse=reverse
    )
    for node_id, same in itertools.groupby(both, first):
        yield node_id, next((one for _, one in same if one is not None), None)


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
        limit: how many nodes at most, by node id.
        reverse: those with the last node ids.
        most: how long a value in short may be.
    """
    page = node_page(store, flow_run_id, prefix=prefix, after=after, limit=limit, reverse=reverse, most=most)
    rows = [row for node in page.nodes for row in _rows(node, most)]
    return TimeLine(list(_marks(rows)), page.next_after)


def _rows(node: Node, most: int) -> Iterator[_Row]:
    if node.damaged is not None:
        yield _Row(node.node_id, None, None, f"damaged: {node.damaged}")
    elif node.brief is not None:
        yield _Row(node.node_id, node.written_at, node.size, node.brief)
    for attempt in node.failures:
        text = f"attempt {attempt.number}: {attempt.error}"
        shown = text if len(text) <= most else text[: most - 1] + "…"
        yield _Row(node.node_id, attempt.ended_at, None, shown, failed=True)


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
