"""The view of two runs side by side: which of their nodes differ, and where in its two values a node does.

Rules of this module: public calls of the store alone; what there is to look at is bounded by ``_inspect/differences``
and ``_inspect/places``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import ContextStore, CorruptStoreError, Output, RunInfo
from .._display.text import shown_id
from .._inspect.differences import DIFFERENT, Kind, difference_page
from .._inspect.places import marked, side_by_side
from .._inspect.runs import run_page, was_deleted
from .look import Answer, Look, Refusal

PER_PAGE = 100

_SUGGESTED = 50

SHOWN: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "": ("All differences", DIFFERENT),
    "a": ("Only in A", ("only in the first",)),
    "b": ("Only in B", ("only in the second",)),
    "different": ("Different", ("different",)),
    "damaged": ("Damaged", ("damaged",)),
    "same": ("The same", ("same",)),
}
"""What can be looked at, by the parameter ``show``."""


class Side(NamedTuple):
    """One of the two runs.

    Attributes:
        id: as it was asked for; "" if it was not.
        run: None: it is not there.
        trouble: why it is not; None if it is, or was not asked for.
    """

    id: str
    run: RunInfo | None
    trouble: str | None


class Fact(NamedTuple):
    """What is said of both runs, and is not the same; ``kind`` is how it is shown."""

    name: str
    kind: str
    first: Any
    second: Any


def compare(look: Look) -> Answer:
    """Two runs, or one node of both."""
    a, b = _side(look.store, look.text("a")), _side(look.store, look.text("b"))
    if a.run is None or b.run is None or a.id == b.id:
        return _choice(look, a, b)
    node = look.text("node")
    return _node(look, a.run, b.run, node) if node else _runs(look, a, b)


def _side(store: ContextStore, given: str) -> Side:
    if not given:
        return Side("", None, None)
    run = store.get_run_info(given)
    if run is None and (meant := _as_shown(given)):  # an id that a page has shown, put into the form
        run = store.get_run_info(meant)
    if run is not None:
        return Side(run.flow_run_id, run, None)
    return Side(given, None, "was deleted" if was_deleted(store, given) else "is not there")


def _as_shown(text: str) -> Any:
    """The id of which ``shown_id`` makes this."""
    try:
        return json.loads(text) if text.startswith('"') else None
    except ValueError:
        return None


def _choice(look: Look, a: Side, b: Side) -> Answer:
    """No two runs: what is there to choose from."""
    trouble = [side for side in ((a,) if a.id == b.id else (a, b)) if side.trouble]
    near = {side.id: run_page(look.store, prefix=side.id, limit=5).runs for side in trouble}
    context = {"a": a, "b": b, "newest": _newest(look.store), "trouble": trouble, "near": near}
    data = {"first": a.run, "second": b.run, "trouble": {side.id: side.trouble for side in trouble}}
    return Answer("compare_choice.html", context, data, status=404 if trouble else 200)


def _newest(store: ContextStore) -> list[RunInfo]:
    return run_page(store, limit=_SUGGESTED).runs


def _runs(look: Look, a: Side, b: Side) -> Answer:
    show = look.text("show")
    if show not in SHOWN:
        raise Refusal(f"show is one of {', '.join(filter(None, SHOWN))}, not {show[:40]!r}", 400)
    kinds = SHOWN[show][1]
    page = difference_page(look.store, a.id, b.id, kinds=kinds, after=look.text("after") or None, limit=PER_PAGE)
    counts = {name: sum(page.counts.get(kind, 0) for kind in of) for name, (_, of) in SHOWN.items()}
    facts = list(_facts(a.run, b.run)) if a.run and b.run else []
    context = {"a": a, "b": b, "newest": _newest(look.store), "facts": facts, "page": page, "counts": counts}
    data = {
        "first": a.run,
        "second": b.run,
        "counts": page.counts,
        "looked_at": page.looked_at,
        "nodes": page.found,
        "next_after": page.next_after,
    }
    return Answer("compare.html", {**context, "show": show, "shown": SHOWN}, data)


def _facts(a: RunInfo, b: RunInfo) -> Iterator[Fact]:
    """What differs between two runs, beside their outputs."""
    yield from _different(
        Fact("state", "state", a.state, b.state),
        Fact("error", "text", a.error, b.error),
        Fact("parent", "run", a.parent, b.parent),
        Fact("outputs", "number", a.outputs, b.outputs),
        Fact("failed attempts", "number", a.failures, b.failures),
    )
    for name in dict.fromkeys((*a.attributes, *b.attributes)):
        yield from _different(Fact(name, "attribute", a.attributes.get(name), b.attributes.get(name)))
    yield from _different(
        Fact("begun", "time", a.begun_at, b.begun_at),
        Fact("state since", "time", a.state_changed_at, b.state_changed_at),
        Fact("first output", "time", a.first_written_at, b.first_written_at),
        Fact("last output", "time", a.last_written_at, b.last_written_at),
    )


def _different(*facts: Fact) -> Iterator[Fact]:
    """Those of which the two runs tell differently: ``1`` is not ``1.0``."""
    for fact in facts:
        if type(fact.first) is not type(fact.second) or fact.first != fact.second:
            yield fact


# -- one node ----------------------------------------------------------------------------------------------------------


class Value(NamedTuple):
    """The output of a node in one of the runs: it is there, or damaged, or not there."""

    run: str
    output: Output | None
    damaged: str | None


def _node(look: Look, a: RunInfo, b: RunInfo, node: str) -> Answer:
    first, second = (_value(look.store, run.flow_run_id, node) for run in (a, b))
    if not any(one.output or one.damaged for one in (first, second)):
        raise Refusal(f"neither of the two runs has an output of node {shown_id(node)}")
    sides = None
    if first.output and second.output:
        sides = side_by_side(first.output.value, second.output.value)
    context = {"a": a.flow_run_id, "b": b.flow_run_id, "node": node, "values": (first, second), "sides": sides}
    data = {
        "first": first.output,
        "second": second.output,
        "damaged": [one.damaged for one in (first, second)],
        "places": None if sides is None else [line for line in sides.lines if line.kind != "same"],
        "is_cut": None if sides is None else sides.is_cut,
    }
    return Answer("compare_node.html", {**context, "marked": marked}, data)


def _value(store: ContextStore, run: str, node: str) -> Value:
    try:
        return Value(run, store.get_entry(run, node), None)
    except CorruptStoreError as error:
        return Value(run, None, str(error))
