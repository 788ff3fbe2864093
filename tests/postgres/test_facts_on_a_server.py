"""What is said of runs on a server: what becomes of it if the answer to a commit is lost, and of clients at once."""

from __future__ import annotations

import pytest

from contextstore import ContextStore, RunAlreadyExistsError, RunStateConflictError, StorageError

from ..support.proxy import Proxy
from .test_marks import before_connecting_anew


def test_a_begin_whose_answer_is_lost_is_made_once(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.open()
        proxy.lose_answer_to("COMMIT")
        info = store.run("run").begin(attributes={"a": 1}, parent="p")
        assert proxy.cuts == 1
        assert info == store.get_run_info("run")
        assert store.check().ok


def test_an_update_that_expects_a_state_does_not_conflict_with_itself(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        run = store.run("run")
        run.begin()
        proxy.lose_answer_to("COMMIT")
        info = run.update(state="completed", expected_state="open")
        assert proxy.cuts == 1
        assert info.state == "completed"
        assert info == run.info()


def test_one_that_another_client_has_followed_is_not_known_and_not_made_again(
    proxy: Proxy, schema: str, url: str
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        run = store.run("run")
        run.begin()
        before_connecting_anew(store, proxy, lambda: other.run("run").update(state="failed", attributes={"b": 2}))
        proxy.lose_answer_to("COMMIT")
        with pytest.raises(StorageError) as caught:
            run.update(state="completed", attributes={"a": 1})
        assert caught.value.outcome_unknown
        info = other.get_run_info("run")
        assert info is not None
        assert (info.state, info.attributes) == ("failed", {"a": 1, "b": 2})


def test_a_begin_that_another_client_has_followed_is_the_first_all_the_same(
    proxy: Proxy, schema: str, url: str
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        store.open()
        before_connecting_anew(store, proxy, lambda: other.run("run").update(attributes={"a": 2}))
        proxy.lose_answer_to("COMMIT")
        info = store.run("run").begin(attributes={"a": 1})
        assert info.attributes == {"a": 2}
        with pytest.raises(RunAlreadyExistsError):
            other.run("run").begin(attributes={"a": 2})


def test_a_conflict_with_another_client_is_told_though_an_answer_was_lost_before_it(
    proxy: Proxy, schema: str, url: str
) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, ContextStore(url) as other:
        run = store.run("run")
        run.begin()
        other.run("run").update(state="failed")
        proxy.lose_answer_to("flow_runs")
        with pytest.raises(RunStateConflictError) as caught:
            run.update(state="completed", expected_state="open")
        assert caught.value.actual == "failed"
