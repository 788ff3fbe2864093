"""What differs between two runs: the first question when one of them has gone wrong.

Rules of this module: public calls of the store alone; the runs are walked through side by side: of each an output is in
memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from .. import ContextStore, Output
from .._display.brief import brief
from .timeline import Damaged, outputs

Kind = Literal["only in the first", "only in the second", "different", "damaged"]


class Difference(NamedTuple):
    """A node whose outputs are not the same in two runs.

    Attributes:
        first, second: the value in each run in short; None where it has none.
    """

    node_id: str
    kind: Kind
    first: str | None
    second: str | None


def differences(store: ContextStore, first: str, second: str, *, most: int = 60) -> Iterator[Difference]:
    """The nodes, by id, whose outputs differ. Values are the same if their JSON is, whatever the order of keys."""
    for node_id, one, other in _side_by_side(outputs(store, first), outputs(store, second)):
        if other is None:
            kind: Kind | None = "only in the first"
        elif one is None:
            kind = "only in the second"
        elif isinstance(one, Damaged) or isinstance(other, Damaged):
            kind = "damaged"
        else:
            kind = None if same_value(one.value, other.value) else "different"
        if kind is not None:
            yield Difference(node_id, kind, _shown(one, most), _shown(other, most))


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


def same_value(one: Any, other: Any) -> bool:
    """Whether two stored values are the same to ``exist_ok``: ``1``, ``1.0`` and ``true`` are not."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return isinstance(one, bytes) and isinstance(other, bytes) and one == other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _shown(output: Output | Damaged | None, most: int) -> str | None:
    if output is None:
        return None
    return "damaged" if isinstance(output, Damaged) else brief(output.value, most)
