"""The view of a run: what is known of it, the time line of its nodes, its state values.

Rules of this module: public calls of the store alone; values are shown in short. Places on the time line are
milliseconds since the run's first moment: pages, and rows that arrive later, count from the same.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import ContextStore, CorruptStoreError, Lease, RunInfo, StateEntry
from .._display.brief import brief
from .._display.text import shown_id
from .._inspect.runs import RunPage, run_page, was_deleted
from .._inspect.timeline import MOST_OUTPUTS_OF_FAILURES, Node, NodePage, node_page
from .look import Answer, Look, Refusal

PER_PAGE = 250
PAGE_BYTES = 32 * 2**20
"""A page ends early once its values are that large: they are read whole, to be shown in short."""

CHILDREN = 20
STATES = 100
LONGEST_VALUE = 160
LONGEST_ERROR = 300


class Span(NamedTuple):
    """From when to when a time line goes, in milliseconds since the run's first moment."""

    first: float
    last: float

    @property
    def length(self) -> float:
        return max(self.last - self.first, 1.0)

    def percent(self, at: float) -> float:
        return round((at - self.first) / self.length * 100, 3)


class Failure(NamedTuple):
    """A failed attempt on a time line.

    Attributes:
        began, ended: milliseconds since the run's first moment.
    """

    number: int
    error: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node on a time line.

    Attributes:
        start: the run's first moment.
        began, ended: milliseconds since then: when the output's attempt was begun, and when it was written; of a node
            without an output when the last attempt had failed. None: it is not known.
        took: seconds that the attempt took. None: it is not known.
    """

    node: Node
    start: datetime.datetime
    began: float | None
    ended: float | None
    took: float | None
    failures: list[Failure]

    @property
    def span(self) -> Span:
        """That of a line which it has to itself: the page that it arrives at draws it anew on its own."""
        return Span(min(self.first or 0.0, 0.0), self.ended or 0.0)

    @property
    def first(self) -> float | None:
        """Its first moment that is known."""
        known = [self.began, *(failure.began for failure in self.failures), self.ended]
        return min((at for at in known if at is not None), default=None)


@dataclass(frozen=True, slots=True)
class RunHead:
    """What is known of a run beside its nodes.

    Attributes:
        children: the newest of them, and whether there are more.
        lease: that with the run's name. None: nobody holds it.
        start: its first moment.
        took: seconds from its first moment to its end, or until now while it goes on; None: nothing has happened yet.
        is_running: whether its time line ends now.
    """

    info: RunInfo
    children: RunPage
    lease: Lease | None
    start: datetime.datetime
    took: float | None
    is_running: bool


class States(NamedTuple):
    """A page of a run's state values, in short."""

    entries: list[dict[str, Any]]
    next_after: str | None
    damaged: str | None


def run(look: Look) -> Answer:
    """A run, and a page of its nodes."""
    run_id = look.required("id")
    cursor = look.store.cursor()
    info = look.store.get_run_info(run_id)
    if info is None:
        raise _not_there(look.store, run_id)
    head = run_head(look, info)
    order, only_failed = _order_asked(look), look.text("failed") == "1"
    page = _nodes_asked(look, info, only_failed)
    rows = [node_row(node, head.start) for node in page.nodes]
    states = run_states(look.store, run_id, after=look.text("state_after"))
    is_followed = order == "time" and not only_failed
    context = {
        "head": head,
        "rows": sorted(rows, key=_ORDERS[order]),
        "page": page,
        "span": _span(rows, head),
        "states": states,
        "order": order,
        "only_failed": only_failed,
        "is_filtered": bool(only_failed or look.text("prefix") or look.text("after")),
        "live": live_address(look, run_id, cursor, head.start, page.next_after) if is_followed else None,
    }
    return Answer("run.html", context, _data(head, page.nodes, states, page.next_after))


def _order_asked(look: Look) -> str:
    order = look.text("order", "time")
    if order not in _ORDERS:
        raise Refusal(f"order is none of {', '.join(_ORDERS)}: {order[:40]!r}", 400)
    return order


def _nodes_asked(look: Look, info: RunInfo, only_failed: bool) -> NodePage:
    if only_failed and info.outputs > MOST_OUTPUTS_OF_FAILURES:
        raise Refusal(f"failures are not looked for in a run of more than {MOST_OUTPUTS_OF_FAILURES} outputs", 400)
    return node_page(
        look.store,
        info.flow_run_id,
        prefix=look.text("prefix"),
        after=look.text("after"),
        limit=look.number("limit", PER_PAGE, most=PER_PAGE),
        most=LONGEST_VALUE,
        most_bytes=PAGE_BYTES,
        only_failed=only_failed,
    )


def live_address(look: Look, run_id: str, cursor: str, start: datetime.datetime, last: str | None) -> str:
    """Where what becomes of a run is told, from a cursor on. Its rows are those of the page that asks for them.

    Its parameters: ``start``, the first moment that the page counts from; ``prefix``, ``from`` and ``to``, the ids that
    the page shows: those with the prefix, behind ``from``, up to ``to``.
    """
    return look.href(
        "/run/live",
        id=run_id,
        after=cursor,
        start=start.isoformat(),
        prefix=look.text("prefix"),
        state_after=look.text("state_after"),
        **{"from": look.text("after"), "to": last},
    )


def is_on_page(look: Look, node_id: str) -> bool:
    """Whether the page that asks by its ``live_address`` shows a node."""
    first, last = look.text("from"), look.text("to")
    return node_id.startswith(look.text("prefix")) and (not first or node_id > first) and (not last or node_id <= last)


def start_asked(look: Look) -> datetime.datetime:
    """The first moment that the page that asks by its ``live_address`` counts from."""
    try:
        start = datetime.datetime.fromisoformat(look.required("start"))
    except ValueError as error:
        raise Refusal("start is no time", 400) from error
    if start.tzinfo is None:
        raise Refusal("start lacks its offset", 400)
    return start


def run_head(look: Look, info: RunInfo) -> RunHead:
    """What ``_run_head.html`` shows, as ``head``."""
    children = run_page(look.store, parent=info.flow_run_id, limit=CHILDREN)
    held = (one for one in look.store.list_leases(info.flow_run_id) if one.name == info.flow_run_id)
    lease = next(held, None)
    known = [at for at in (info.begun_at, info.first_written_at) if at is not None]
    start = min(known, default=look.now)
    last = max((at for at in (*known, info.last_written_at) if at is not None), default=start)
    is_running = info.state == "open" and _is_going_on(look.now, start, last, lease)
    end = look.now if is_running else max(last, info.state_changed_at or last)
    took = (end - start).total_seconds() if is_running or end > start else None
    return RunHead(info, children, lease, start, took, is_running)


_PATIENCE = 60.0


def _is_going_on(
    now: datetime.datetime, start: datetime.datetime, last: datetime.datetime, lease: Lease | None
) -> bool:
    """Whether an open run is at work still, as far as one can tell: many are left open when they have ended."""
    quiet = (now - last).total_seconds()
    return lease is not None or quiet <= max(_PATIENCE, (last - start).total_seconds())


def _span(rows: list[NodeRow], head: RunHead) -> Span:
    ends = [row.ended for row in rows if row.ended is not None]
    if head.is_running and head.took is not None:
        ends.append(head.took * 1000)
    begins = [row.first for row in rows if row.first is not None]
    return Span(min([*begins, 0.0]), max(ends, default=0.0))


def node_row(node: Node, start: datetime.datetime) -> NodeRow:
    """What ``_node_row.html`` shows, as ``row`` on a ``span``: of an output, or of a node that has failed."""
    made_by = node.made_by
    began = None
    if made_by is not None and made_by.ended_at >= start:  # else it is that of the run that this one was forked from
        began = _since(start, made_by.started_at)
    failures = [
        Failure(one.number, _cut(one.error or ""), _since(start, one.started_at), _since(start, one.ended_at))
        for one in node.failures
    ]
    took = None if made_by is None else (made_by.ended_at - made_by.started_at).total_seconds()
    ended = None if node.at is None else _since(start, node.at)
    return NodeRow(node, start, began, ended, took, failures)


def _since(start: datetime.datetime, at: datetime.datetime) -> float:
    return round((at - start) / datetime.timedelta(milliseconds=1), 3)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 1] + "…"


def run_states(store: ContextStore, run_id: str, *, after: str = "") -> States:
    """What ``_state_rows.html`` shows, as ``states``."""
    try:
        found = store.run(run_id).list_state()
    except CorruptStoreError as error:
        return States([], None, str(error))
    entries = [_state(entry) for entry in found if not after or entry.key > after][: STATES + 1]
    if len(entries) <= STATES:
        return States(entries, None, None)
    return States(entries[:STATES], entries[STATES - 1]["key"], None)


def _state(entry: StateEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "brief": brief(entry.value, LONGEST_VALUE),
        "version": entry.version,
        "written_at": entry.written_at,
    }


_LAST = float("inf")
_ORDERS: dict[str, Any] = {
    "time": lambda row: (_LAST if row.ended is None else row.ended, row.node.node_id),
    "id": lambda row: row.node.node_id,
    "took": lambda row: (_LAST if row.took is None else -row.took, row.node.node_id),
    "size": lambda row: (1 if row.node.size is None else -row.node.size, row.node.node_id),
}


def _data(head: RunHead, nodes: list[Node], states: States, next_after: str | None) -> dict[str, Any]:
    lease = head.lease
    return {
        "run": head.info,
        "took": head.took,
        "nodes": nodes,
        "next_after": next_after,
        "state": states.entries,
        "state_next_after": states.next_after,
        "state_damaged": states.damaged,
        "children": head.children.runs,
        "children_next_after": head.children.next_after,
        "lease": lease
        and {"name": lease.name, "token": lease.token, "holder": lease.holder, "expires_at": lease.expires_at},
    }


def _not_there(store: ContextStore, run_id: str) -> Refusal:
    if was_deleted(store, run_id):
        return Refusal(f"Run {shown_id(run_id)} was deleted. Its id is used up, and takes no outputs any more.", 410)
    return Refusal(
        f"There is no run {shown_id(run_id)}. A run is there once its flow begins it, or writes its first output: "
        "then load this page again."
    )
