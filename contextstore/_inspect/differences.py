"""What differs between two runs: the first question when one of them has gone wrong.

Rules of this module: public calls of the store alone; the runs are walked through side by side: of each an output is in
memory.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .. import ContextStore, Output
from .._display.brief import brief
from .places import first_difference
from .timeline import Damaged, outputs

Kind = Literal["only in the first", "only in the second", "different", "damaged", "same"]

DIFFERENT: tuple[Kind, ...] = ("only in the first", "only in the second", "different", "damaged")


@dataclass(frozen=True, slots=True)
class Difference:
    """A node of two runs.

    Attributes:
        kind: what its outputs are to each other. One of them that is damaged can be compared with none.
        first, second: the value in each run in short, at ``place``; None where it has none.
        place: where in the values they differ first: a path, or "tag". None: that is not told, or they do not.
    """

    node_id: str
    kind: Kind
    first: str | None
    second: str | None
    place: str | None = None


class DifferencePage(NamedTuple):
    """A page of the nodes of two runs.

    Attributes:
        found: those that were asked for, by node id.
        counts: how many of each kind are among the nodes that were looked at, on this page and beyond its last one.
        looked_at: how many that were.
        last: the last of these; None if there are no others behind it.
        next_after: what the next page begins after; None if this is the last one.
    """

    found: list[Difference]
    counts: dict[Kind, int]
    looked_at: int
    last: str | None
    next_after: str | None


def differences(store: ContextStore, first: str, second: str, *, most: int = 60) -> Iterator[Difference]:
    """The nodes, by id, whose outputs differ. Values are the same if their JSON is, whatever the order of keys."""
    for node_id, one, other in _side_by_side(outputs(store, first), outputs(store, second)):
        if (kind := _kind(one, other)) != "same":
            yield _difference(node_id, kind, one, other, most)


def difference_page(
    store: ContextStore,
    first: str,
    second: str,
    *,
    kinds: Collection[Kind] = DIFFERENT,
    after: str | None = None,
    limit: int = 100,
    most: int = 60,
    most_nodes: int = 5000,
    most_bytes: int = 2**25,
) -> DifferencePage:
    """A page of the nodes of two runs, which says how many there are of each kind.

    Args:
        kinds: the nodes that are asked for.
        after: only nodes above this one.
        limit: how many at most.
        most_nodes, most_bytes: behind so many, or about so many bytes of their values, no further ones are looked at.
    """
    found: list[Difference] = []
    counts: collections.Counter[Kind] = collections.Counter()
    size, last, next_after = 0, None, None
    walk = _side_by_side(outputs(store, first, after=after), outputs(store, second, after=after))
    for node_id, one, other in walk:
        if counts.total() >= most_nodes or size > most_bytes:
            return DifferencePage(found, dict(counts), counts.total(), last, next_after or last)
        kind, last = _kind(one, other), node_id
        counts[kind] += 1
        size += _size(one) + _size(other)
        if kind in kinds and len(found) < limit:
            found.append(_difference(node_id, kind, one, other, most))
        elif kind in kinds:
            next_after = found[-1].node_id
    return DifferencePage(found, dict(counts), counts.total(), None, next_after)


def _side_by_side(
    ones: Iterator[Output | Damaged], others: Iterator[Output | Damaged]
) -> Iterator[tuple[str, Output | Damaged | None, Output | Damaged | None]]:
    """Two runs by node id: the output of each, or None where it has none."""
    one, other = next(ones, None), next(others, None)
    while one is not None or other is not None:
        node_id = min(output.node_id for output in (one, other) if output is not None)
        in_one, in_other = (output is not None and output.node_id == node_id for output in (one, other))
        yield node_id, one if in_one else None, other if in_other else None
        one, other = next(ones, None) if in_one else one, next(others, None) if in_other else other


def _kind(one: Output | Damaged | None, other: Output | Damaged | None) -> Kind:
    if other is None:
        return "only in the first"
    if one is None:
        return "only in the second"
    if isinstance(one, Damaged) or isinstance(other, Damaged):
        return "damaged"
    return "same" if one.tag == other.tag and same_value(one.value, other.value) else "different"


def same_value(one: Any, other: Any) -> bool:
    """Whether two stored values are the same to ``exist_ok``: ``1``, ``1.0`` and ``true`` are not."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return isinstance(one, bytes) and isinstance(other, bytes) and one == other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _difference(
    node_id: str, kind: Kind, one: Output | Damaged | None, other: Output | Damaged | None, most: int
) -> Difference:
    if kind == "different" and isinstance(one, Output) and isinstance(other, Output):
        line = first_difference(one.value, other.value, most=most)
        if line is not None:
            return Difference(node_id, kind, line.first, line.second, line.path)
        if one.tag != other.tag:
            return Difference(node_id, kind, one.tag or "no tag", other.tag or "no tag", "tag")
    return Difference(node_id, kind, _shown(one, most), _shown(other, most))


def _shown(output: Output | Damaged | None, most: int) -> str | None:
    if output is None:
        return None
    return "damaged" if isinstance(output, Damaged) else brief(output.value, most)


def _size(output: Output | Damaged | None) -> int:
    return output.size if isinstance(output, Output) else 0
