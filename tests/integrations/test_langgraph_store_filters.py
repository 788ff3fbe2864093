"""What ContextStoreStore finds: by filters, and in all whatever LangGraph's InMemoryStore would have answered."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, Op, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from contextstore import ContextStore
from contextstore.integrations.langgraph import ContextStoreStore

SPACE = ("docs",)
DOCUMENTS: dict[str, dict[str, Any]] = {
    "figs": {"kind": "fruit", "price": 3, "tags": ["sweet"], "of": {"land": "Greece", "rank": 1}, "new": True},
    "leeks": {"kind": "plant", "price": 1.5, "tags": [], "of": {"land": "Wales"}, "new": False},
    "nothing": {"kind": None, "price": "12", "day": "2026-03-01", "of.land": "dotted", "access-level": "low"},
}


@pytest.fixture(scope="module")
def documents() -> Iterator[ContextStoreStore]:
    with ContextStoreStore.from_conn_string(":memory:") as store:
        for key, value in DOCUMENTS.items():
            store.put(SPACE, key, value)
        yield store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "figs leeks nothing"),
        ({"kind": "fruit"}, "figs"),
        ({"kind": "fruit", "price": 1.5}, ""),
        ({"kind": None}, "nothing"),
        ({"day": None}, "figs leeks"),
        ({"new": True}, "figs"),
        ({"tags": ["sweet"]}, "figs"),
        ({"tags": ("sweet",)}, "figs"),
        ({"tags": []}, "leeks"),
        ({"of": {"land": "Greece"}}, "figs"),
        ({"of": {"rank": {"$lt": 2}}}, "figs"),
        ({"of.land": "Wales"}, "leeks"),
        ({"of.land": "dotted"}, "nothing"),
        ({"of.land.farther": None}, "figs leeks nothing"),
        ({"access-level": "low"}, "nothing"),
        ({"kind": {"$eq": "fruit"}}, "figs"),
        ({"kind": {"$ne": "fruit"}}, "leeks nothing"),
        ({"of": {"$eq": {"land": "Wales"}}}, "leeks"),
        ({"price": {"$gt": 2}}, "figs nothing"),
        ({"price": {"$gt": 1.5, "$lt": 4}}, "figs"),
        ({"price": {"$gte": 1.5}}, "figs leeks nothing"),
        ({"price": {"$lte": "3"}}, "figs leeks nothing"),
        ({"price": {"$lt": float("inf")}}, "figs leeks nothing"),
        ({"price": {"$lt": 10**400}}, "figs leeks nothing"),
        ({"price": {"$eq": float("nan")}}, ""),
        ({"day": {"$gte": "2026-01-01"}}, "nothing"),
        ({"day": {"$gte": "2026-04-01"}}, ""),
        ({"kind": {"$gt": 1}}, ""),
        ({"tags": {"$gt": 1}}, ""),
        ({"absent": {"$gt": 1}}, ""),
    ],
)
def test_a_filter_finds_what_fits(documents: ContextStoreStore, wanted: dict[str, Any], found: str) -> None:
    assert sorted(item.key for item in documents.search(SPACE, filter=wanted)) == found.split()


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"price": {"$near": 3}}, ValueError, "Unsupported operator"),
        ({"price": {"$gt": 3, "plain": 1}}, ValueError, "Unsupported operator"),
        ({"of": {"rank": {"$near": 3}}}, ValueError, "Unsupported operator"),
        ({"price": {"$gt": None}}, TypeError, "number or a text"),
        ({"price": {"$gt": [1]}}, TypeError, "number or a text"),
        ({"day": datetime.date(2026, 3, 1)}, TypeError, "date"),
        ({"day": {"$eq": datetime.date(2026, 3, 1)}}, TypeError, "date"),
        ({3: 1}, TypeError, "texts"),
        (["kind"], TypeError, "mapping"),
    ],
)
def test_what_is_no_filter_is_refused_even_where_nothing_is_stored(
    documents: ContextStoreStore, wanted: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        documents.search(("empty",), filter=wanted)


labels = st.sampled_from(["a", "b", "a!", 'a"', " ", "*b", "é", "a" * 900])
namespaces = st.lists(labels, min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["", "k", "l", "k!", " ", "n" * 1100])
scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0]), st.sampled_from("ab"))
fields = st.sampled_from("xyz")
values = st.dictionaries(fields, st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(fields, scalars)))
equalities = st.fixed_dictionaries({}, optional={"$eq": scalars, "$ne": scalars})
filters = st.dictionaries(
    fields, st.one_of(scalars, st.lists(scalars, max_size=2), equalities, st.dictionaries(fields, scalars)), max_size=2
)
paths = st.lists(st.one_of(labels, st.just("*")), min_size=1, max_size=2).map(tuple)
puts = st.tuples(namespaces, keys, st.one_of(st.none(), values, values)).map(lambda parts: PutOp(*parts))
gets = st.tuples(namespaces, keys).map(lambda parts: GetOp(*parts))
prefixes = st.one_of(st.just(()), namespaces)
searches = st.tuples(prefixes, st.one_of(st.none(), filters)).map(lambda parts: SearchOp(*parts, limit=1000))
conditions = st.lists(
    st.tuples(st.sampled_from(["prefix", "suffix"]), paths).map(lambda parts: MatchCondition(*parts)), max_size=2
).map(tuple)
listings = st.tuples(conditions, st.one_of(st.none(), st.integers(1, 3)), st.integers(1, 9), st.integers(0, 2)).map(
    lambda parts: ListNamespacesOp(*parts)
)


def seen(op: Op, result: Any) -> Any:
    """What two stores must have in common in an answer: not times, nor the order of a search, ours being by time."""
    if isinstance(op, SearchOp):
        return sorted((item.namespace, item.key, repr(item.value)) for item in result)
    if isinstance(op, GetOp):
        return result and (result.namespace, result.key, result.value)
    return result


def answers_of_memory(store: InMemoryStore, batch: list[Op]) -> list[Any]:
    """What the store in memory answers; its listings as if it had nothing but items.

    It lists what was but looked at, or is empty, as well.
    """
    filled = InMemoryStore()
    filled.batch([PutOp(item.namespace, item.key, item.value) for item in store.search((), limit=10_000)])
    results = store.batch(batch)
    return [
        filled.batch([op])[0] if isinstance(op, ListNamespacesOp) else result
        for op, result in zip(batch, results, strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.one_of(puts, puts, gets, searches, listings), max_size=6), max_size=6))
def test_random_batches_are_answered_as_by_the_store_in_memory(batches: list[list[Op]]) -> None:
    everything: list[Op] = [SearchOp((), limit=1000), ListNamespacesOp(limit=1000)]
    with ContextStore(":memory:") as opened:
        ours, theirs = ContextStoreStore(opened), InMemoryStore()
        for batch in [*batches, everything]:
            answers, expected = ours.batch(batch), answers_of_memory(theirs, batch)
            for op, answer, other in zip(batch, answers, expected, strict=True):
                assert seen(op, answer) == seen(op, other)
