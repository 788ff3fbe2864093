"""ContextStoreStore as the long-term memory of a real graph: what a node puts, a later run on another thread has."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from contextstore import AsyncContextStore, ContextStore
from contextstore.integrations.langgraph import ContextStoreStore


class Talk(TypedDict, total=False):
    user: str
    said: str
    remembered: list[str]


def remember(talk: Talk) -> Talk:
    """A plain node: it calls the store that ``get_store`` gives."""
    get_store().put(("users", talk["user"]), talk["said"], {"text": talk["said"]})
    return {}


async def aremember(talk: Talk) -> Talk:
    await get_store().aput(("users", talk["user"]), talk["said"], {"text": talk["said"]})
    return {}


def recall(talk: Talk, runtime: Runtime[Any]) -> Talk:
    """A plain node: it calls the store of its runtime."""
    assert runtime.store is not None
    return {"remembered": [item.value["text"] for item in runtime.store.search(("users", talk["user"]))]}


async def arecall(talk: Talk, runtime: Runtime[Any]) -> Talk:
    assert runtime.store is not None
    return {"remembered": [item.value["text"] for item in await runtime.store.asearch(("users", talk["user"]))]}


def graph_of(first: Any, then: Any, store: ContextStoreStore) -> Any:
    builder = StateGraph(Talk)
    builder.add_node("remember", first)
    builder.add_node("recall", then)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", "recall")
    builder.add_edge("recall", END)
    return builder.compile(store=store)


def test_a_graph_that_is_invoked_remembers_what_runs_before_it_have_put(target: str) -> None:
    for said, remembered in [("figs", ["figs"]), ("leeks", ["leeks", "figs"])]:
        with ContextStore(target) as store:  # opened anew: nothing is in memory alone
            graph = graph_of(remember, recall, ContextStoreStore(store))
            assert graph.invoke({"user": "alice", "said": said})["remembered"] == remembered
            assert graph.invoke({"user": "bob", "said": said})["remembered"][0] == said


async def test_a_graph_that_is_awaited_remembers_with_nodes_of_either_kind(target: str) -> None:
    async with AsyncContextStore(target) as store:
        for nodes in [(aremember, arecall), (remember, recall), (aremember, recall)]:
            graph = graph_of(*nodes, ContextStoreStore(store))
            said = " ".join(node.__name__ for node in nodes)
            talk = await graph.ainvoke({"user": "alice", "said": said})
            assert talk["remembered"][0] == said


async def test_many_runs_at_once_keep_their_users_apart(target: str) -> None:
    async with ContextStoreStore.from_conn_string(target) as store:
        graph = graph_of(aremember, arecall, store)
        talks = await asyncio.gather(*(graph.ainvoke({"user": f"u{n}", "said": f"s{n}"}) for n in range(16)))
        assert [talk["remembered"] for talk in talks] == [[f"s{n}"] for n in range(16)]
        assert len(await store.alist_namespaces(prefix=("users",))) == 16


async def test_a_graph_that_is_invoked_in_a_notebook_may_use_the_blocking_face(target: str) -> None:
    with ContextStore(target) as store:  # this thread runs a loop, as that of a notebook does
        graph = graph_of(remember, recall, ContextStoreStore(store))
        assert graph.invoke({"user": "alice", "said": "figs"})["remembered"] == ["figs"]
