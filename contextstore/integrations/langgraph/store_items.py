"""The operations of LangGraph's store, on globals: items read, searched, written, and their namespaces listed.

Rules of this module: coroutines over ``store_access``, nothing of a face. An item is one global, read whole: its value
under ``value``, and beside it what a global does not have by itself: ``created_at`` once it was written over (before,
it is when the global was written), ``updated_at`` once it was kept longer by a read (likewise), ``ttl`` in minutes,
``namespace`` and ``key`` of short forms. A search holds a page and ``offset + limit`` items, a listing a page of keys.
"""

from __future__ import annotations

import contextlib
import datetime
import heapq
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple

from langgraph.store.base import Item, ListNamespacesOp, MatchCondition, PutOp, SearchItem, SearchOp

from ... import GlobalEntry, ReadOnlyStoreError, VersionConflictError
from .store_access import Access, Write
from .store_filters import check_filter, fits
from .store_keys import (
    Namespace,
    Place,
    behind_all_below,
    behind_items_of,
    check_namespace,
    item_of,
    place_of,
    prefix_of,
)

_PAGE = 1000
"""Items of a page of a search: each page is a trip to the engine."""
_PAGE_OF_KEYS = 1000


class Found(NamedTuple):
    """An item as it is stored."""

    namespace: Namespace
    key: str
    entry: GlobalEntry

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = self.entry.value["value"]
        return value

    @property
    def created_at(self) -> datetime.datetime:
        return _time(self.entry, "created_at")

    @property
    def updated_at(self) -> datetime.datetime:
        return _time(self.entry, "updated_at")

    def as_item(self) -> Item:
        return Item(
            value=self.value,
            key=self.key,
            namespace=self.namespace,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def as_search_item(self) -> SearchItem:
        return SearchItem(
            namespace=self.namespace,
            key=self.key,
            value=self.value,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


async def get(access: Access, places: Sequence[Place]) -> dict[str, Found]:
    """Those of these items that are there, by global key."""
    keys = list(dict.fromkeys(place.global_key for place in places))
    entries = await access.entries(keys) if keys else []
    return {entry.key: _found(entry) for entry in entries if entry is not None}


async def search(access: Access, op: SearchOp) -> list[Found]:
    """A page of the items there and below that fit, the latest update first; those of one commit by key."""
    prefix = check_namespace(op.namespace_prefix)
    wanted = check_filter(op.filter)
    offset, end = _slice(op.limit, op.offset)
    global_prefix, is_shared = prefix_of(prefix)
    newest: list[GlobalEntry] = []
    after: str | None = None
    while end > offset:
        page = await access.page(global_prefix, after, _PAGE)
        newest += [
            entry
            for entry in page
            if not (is_shared and _found(entry).namespace[: len(prefix)] != prefix)
            and (not wanted or fits(entry.value["value"], wanted))
        ]
        newest.sort(key=_updated_at, reverse=True)
        del newest[end:]
        if len(page) < _PAGE:
            break
        after = page[-1].key
    return [_found(entry) for entry in newest[offset:]]


async def keep_longer(access: Access, some: Sequence[Found]) -> None:
    """Let items that expire do so as long from now as from their last update; what others write meanwhile stands."""
    writes = {}
    for one in some:
        stored, ttl = one.entry.value, one.entry.value.get("ttl")
        if ttl is not None:
            times = {"created_at": one.created_at, "updated_at": one.updated_at}
            writes[one.entry.key] = Write(one.entry.key, {**stored, **times}, one.entry.version, ttl * 60)
    while writes:
        try:
            return await access.write(list(writes.values()))
        except VersionConflictError as conflict:
            del writes[conflict.key]
        except ReadOnlyStoreError:  # it may be read all the same
            return None
    return None


async def put(access: Access, ops: Sequence[PutOp]) -> None:
    """Write and delete items, in one commit. Of several operations on one item the last counts."""
    last = {place_of(check_namespace(op.namespace), op.key): op for op in ops}
    written = [place for place, op in last.items() if op.value is not None]
    while True:
        # Who writes an item over keeps when it was created, so it must be the one that was looked at.
        before = await get(access, written)
        try:
            return await access.write([_write(place, op, before.get(place.global_key)) for place, op in last.items()])
        except VersionConflictError:
            continue


async def list_namespaces(access: Access, op: ListNamespacesOp) -> list[Namespace]:
    """A page of the namespaces that have items, in the order of tuples."""
    conditions = [_checked(condition) for condition in op.match_conditions or ()]
    if op.max_depth is not None and op.max_depth < 1:
        raise ValueError(f"max_depth must be at least 1, not {op.max_depth}")
    offset, end = _slice(op.limit, op.offset)
    listed: list[Namespace] = []
    count = 0
    last: Namespace | None = None
    if end == offset:
        return listed
    async with contextlib.aclosing(_namespaces(access, _common_prefix(conditions), _depth(op, conditions))) as some:
        async for whole in some:
            namespace = whole[: op.max_depth]
            if namespace == last or not all(_does_match(whole, condition) for condition in conditions):
                continue
            last = namespace
            count += 1
            if count > offset:
                listed.append(namespace)
            if count == end:
                break
    return listed


async def _namespaces(access: Access, prefix: Namespace, depth: int | None) -> AsyncGenerator[Namespace, None]:
    """Namespaces with items there and below, in order, some more than once; of those cut at ``depth`` one each."""
    global_prefix, is_shared = prefix_of(prefix)
    # Global keys of short forms come before all others below the labels that they tell: too early, never too late.
    early: list[Namespace] = []
    after: str | None = None
    while True:
        keys = await access.page_keys(global_prefix, after, _PAGE_OF_KEYS)
        told = {key: item_of(key)[0] for key in keys}
        untold = [key for key, namespace in told.items() if namespace is None]
        real = {entry.key: _found(entry).namespace for entry in await access.entries(untold) if entry is not None}
        for key, namespace in told.items():
            if namespace is not None:
                while early and early[0] <= namespace:
                    yield heapq.heappop(early)
                yield namespace
            elif key in real and not (is_shared and real[key][: len(prefix)] != prefix):
                heapq.heappush(early, real[key])
        if len(keys) < _PAGE_OF_KEYS:
            break
        after, namespace = keys[-1], told[keys[-1]]
        if namespace is not None:  # a namespace of many items, or a branch of many namespaces, is passed over
            is_cut = depth is not None and len(namespace) >= depth
            after = behind_all_below(namespace[:depth]) if is_cut else behind_items_of(namespace)
    while early:
        yield heapq.heappop(early)


def _found(entry: GlobalEntry) -> Found:
    namespace, key = item_of(entry.key)
    if namespace is None or key is None:
        return Found(tuple(entry.value["namespace"]), entry.value["key"], entry)
    return Found(namespace, key, entry)


def _updated_at(entry: GlobalEntry) -> datetime.datetime:
    return _time(entry, "updated_at")


def _time(entry: GlobalEntry, name: str) -> datetime.datetime:
    told = entry.value.get(name)
    return entry.written_at if told is None else datetime.datetime.fromisoformat(told)


def _write(place: Place, op: PutOp, before: Found | None) -> Write:
    if op.value is None:
        return Write(place.global_key, None)
    stored: dict[str, Any] = {"value": dict(op.value)}
    if before is not None:
        stored["created_at"] = before.created_at
    if op.ttl is not None:
        stored["ttl"] = op.ttl
    if place.is_short:
        stored |= {"namespace": op.namespace, "key": op.key}
    version = 0 if before is None else before.entry.version
    return Write(place.global_key, stored, version, None if op.ttl is None else op.ttl * 60)


def _slice(limit: int, offset: int) -> tuple[int, int]:
    if limit < 0 or offset < 0:
        raise ValueError(f"limit and offset must not be negative: {limit}, {offset}")
    return offset, offset + limit


def _checked(condition: MatchCondition) -> MatchCondition:
    if condition.match_type not in _ENDS:
        raise ValueError(f"Unsupported match type: {condition.match_type}")
    return MatchCondition(condition.match_type, check_namespace(condition.path))


def _depth(op: ListNamespacesOp, conditions: Sequence[MatchCondition]) -> int | None:
    """The depth at which one namespace stands for all below it: none if a condition may tell them apart."""
    depth = op.max_depth
    if depth is not None and all(one.match_type == "prefix" and len(one.path) <= depth for one in conditions):
        return depth
    return None


def _common_prefix(conditions: Sequence[MatchCondition]) -> Namespace:
    """The longest labels that all namespaces begin with that match."""
    prefixes = [condition.path for condition in conditions if condition.match_type == "prefix"]
    literal = [path[: path.index("*")] if "*" in path else path for path in prefixes]
    return max(literal, key=len, default=())


def _prefix(namespace: Namespace, length: int) -> Namespace:
    return namespace[:length]


def _suffix(namespace: Namespace, length: int) -> Namespace:
    return namespace[len(namespace) - length :]


_ENDS: dict[str, Callable[[Namespace, int], Namespace]] = {"prefix": _prefix, "suffix": _suffix}


def _does_match(namespace: Namespace, condition: MatchCondition) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    labels = _ENDS[condition.match_type](namespace, len(path))
    return all(wanted in ("*", label) for label, wanted in zip(labels, path, strict=True))
