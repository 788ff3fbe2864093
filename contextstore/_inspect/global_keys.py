"""Globals as a list that is leafed through, whatever the size of their values.

Rules of this module: public calls of the store alone; values are read one at a time, so that one that is damaged, or
huge, does not keep the others from being seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import ContextStore, CorruptStoreError, GlobalEntry


@dataclass(frozen=True, slots=True)
class DamagedGlobal:
    """A global that is there and cannot be read; ``damaged`` says why."""

    key: str
    damaged: str


class GlobalPage(NamedTuple):
    """A page of globals.

    Attributes:
        entries: by key.
        next_after: what the page behind it begins after; None if this is the last one.
    """

    entries: list[GlobalEntry | DamagedGlobal]
    next_after: str | None


def global_page(
    store: ContextStore,
    *,
    prefix: str = "",
    after: str | None = None,
    limit: int = 50,
    most_bytes: int = 2**23,
) -> GlobalPage:
    """A page of the globals of a store, by key.

    Args:
        prefix: only keys that begin with it.
        limit: how many at most.
        most_bytes: behind about so many bytes of values the page ends; one global is always on it.
    """
    keys = store.list_global_keys(prefix, after=after or None, limit=limit + 1)
    entries: list[GlobalEntry | DamagedGlobal] = []
    size = 0
    for key in keys[:limit]:
        if entries and size > most_bytes and entries[-1].key:  # no page can begin behind the empty key
            return GlobalPage(entries, entries[-1].key)
        entry = global_entry(store, key)
        if entry is not None:  # else it has gone meanwhile
            entries.append(entry)
            size += value_size(entry.value) if isinstance(entry, GlobalEntry) else 0
    return GlobalPage(entries, keys[limit - 1] if len(keys) > limit else None)


def global_entry(store: ContextStore, key: str) -> GlobalEntry | DamagedGlobal | None:
    """A global, or what is wrong with it. None: it is not there."""
    try:
        return store.get_global_entry(key)
    except CorruptStoreError as error:
        if error.key is None:
            raise  # it is more than this one
        return DamagedGlobal(key, str(error))


def value_size(value: Any) -> int:
    """How many bytes a stored value has, as compact JSON in UTF-8, or as it is."""
    if isinstance(value, bytes):
        return len(value)
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
