"""What several calls are given, checked in one way.

Rules of this module: pure functions; the ids themselves are checked by ``_values/keys``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from .._values.arguments import check_count
from .._values.keys import Id

_MOST = 2**31 - 1  # what every engine takes for a limit


def several(node_ids: Iterable[Id]) -> Iterable[Id]:
    """What was passed for several ids, refused where it is one."""
    if isinstance(node_ids, str | uuid.UUID):  # a str would be taken for its letters, and find nothing
        raise TypeError(f"node_ids must be several ids, not one: pass [{node_ids!r}]")
    if not isinstance(node_ids, Iterable):
        raise TypeError(f"node_ids must be several ids, not {type(node_ids).__name__}")
    return node_ids


def page_size(limit: int) -> int:
    """How many a call with this ``limit`` asks an engine for."""
    return min(check_count("limit", limit, 1), _MOST)
