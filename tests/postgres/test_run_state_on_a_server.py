"""State values over a network: answers that are lost, and clients that race; on a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, RunDeletedError, StorageError

from ..support.proxy import Proxy
from .test_marks import before_connecting_anew

pytestmark = pytest.mark.one_python


def _batch(store: ContextStore) -> int:
    with store.batch() as batch:
        batch.put("run", "new", 1)
        batch.upsert_state("run", "key", "new")
        batch.upsert_global("key", 1)
    return 2


WRITES: dict[str, Callable[[ContextStore], int]] = {
    "upsert_state": lambda store: store.run("run").upsert_state("key", "new"),
    "with its version": lambda store: store.run("run").upsert_state("key", "new", expected_version=1),
    "update_state": lambda store: 2 * bool(store.run("run").update_state("key", lambda _: "new") == "new"),
    "batch": _batch,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("text", ["COMMIT", "INSERT INTO"])
def test_a_write_whose_answer_is_lost_is_done_once(
    proxy: Proxy, schema: str, text: str, write: Callable[[ContextStore], int]
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.run("run").upsert_state("key", "old")
        proxy.lose_answer_to(text if text == "COMMIT" else "new")
        assert write(store) == 2
        assert proxy.cuts == 1
        (entry,) = store.run("run").list_state()
        assert (entry.value, entry.version) == ("new", 2)
        assert store.check().ok


def test_the_first_of_a_run_is_done_once_though_its_answer_is_lost(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.open()
        proxy.lose_answer_to("COMMIT")
        assert store.run("run").upsert_state("key", "first", expected_version=0) == 1
        assert proxy.cuts == 1
        assert [entry.version for entry in store.run("run").list_state()] == [1]


LATE: dict[str, Callable[[ContextStore], Any]] = {
    "another has written it": lambda other: other.run("run").upsert_state("key", "theirs"),
    "the run is deleted": lambda other: other.delete_run("run"),
    "the run is forgotten": lambda other: other.delete_run("run", forget=True),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_if_others_have_come_since_its_outcome_is_unknown(
    proxy: Proxy, schema: str, url: str, late: Callable[[ContextStore], Any]
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        run = store.run("run")
        run.upsert_state("key", "old")
        before_connecting_anew(store, proxy, lambda: late(other))
        proxy.lose_answer_to("COMMIT")
        with pytest.raises(StorageError) as caught:
            run.upsert_state("key", "new")
        assert caught.value.outcome_unknown
        assert proxy.cuts == 1


def test_a_run_that_is_deleted_before_the_write_refuses_it_though_a_connection_was_lost(
    proxy: Proxy, schema: str, url: str
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        run = store.run("run")
        run.upsert_state("key", "old")
        other.delete_run("run")
        proxy.cut_all()
        with pytest.raises(RunDeletedError):
            run.upsert_state("key", "new")
