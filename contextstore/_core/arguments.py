"""What several calls are given, checked in one way.

Rules of this module: pure functions; the ids themselves are checked by ``_values/keys``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from .._engine.pages import Part
from .._engine.records import OutputKey
from .._values.arguments import check_count
from .._values.keys import Id, global_key, node_key, output_key, prefix_key

_MOST = 2**31 - 1  # what every engine takes for a limit


def several(ids: Iterable[Id], name: str = "node_ids") -> Iterable[Id]:
    """What was passed for several ids, refused where it is one."""
    if isinstance(ids, str | uuid.UUID):  # a str would be taken for its letters, and find nothing
        raise TypeError(f"{name} must be several ids, not one: pass [{ids!r}]")
    if not isinstance(ids, Iterable):
        raise TypeError(f"{name} must be several ids, not {type(ids).__name__}")
    return ids


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """What was passed for one of several names."""
    names = tuple(known)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, names))}, not {type(value).__name__}")
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, not {value!r}")
    return str.__str__(value)


def output_keys(pairs: object) -> list[OutputKey]:
    """The keys of several outputs, of any runs."""
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise TypeError(f"pairs must be several pairs of ids, not {type(pairs).__name__}")
    return [_output_key(pair) for pair in pairs]


def _output_key(pair: object) -> OutputKey:
    if not isinstance(pair, tuple | list) or len(pair) != 2:  # a str of two would be taken for its letters
        raise TypeError(f"pairs must be pairs (flow_run_id, node_id), and one is {pair!r}")
    return output_key(*pair)


def part_of(prefix: str, after: Id | None, reverse: bool) -> Part:
    """Which part of a run a call asks for."""
    literal, last = prefix_key(prefix), behind(after)
    return Part(literal, "" if last is None else node_key(last, "after"), bool(reverse))


def behind(after: Id | None) -> Id | None:
    """What a page comes behind; None: it is the first, since nothing is named, or nothing but the empty text."""
    return None if after == "" else after


def several_keys(keys: Iterable[Id]) -> list[str]:
    """The same for the keys of globals."""
    if isinstance(keys, str | uuid.UUID):
        raise TypeError(f"keys must be several keys, not one: pass [{keys!r}]")
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be several keys, not {type(keys).__name__}")
    return [global_key(key, "keys") for key in keys]


def page_size(limit: int) -> int:
    """How many a call with this ``limit`` asks an engine for."""
    return min(check_count("limit", limit, 1), _MOST)
