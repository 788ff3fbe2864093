"""Statements that are put together by the filters of a listing: of what these are given, nothing is in a text.

What ``test_sources`` cannot follow by reading is run here, on each engine.
"""

from __future__ import annotations

import ast
import datetime
import itertools
import sys
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._core import run_listing
from contextstore._postgres.pool import ReadPool
from contextstore._sqlite import worker

from ..conftest import new_location
from .test_architecture import MODULES, tree_of
from .test_sources import MADE_BY_FILTERS, SQLRule

pytestmark = pytest.mark.one_python

GIVEN = "given'\"--"
LONG_AGO, LATER = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2101, 1, 1, tzinfo=datetime.UTC)
FILTERS: dict[str, Any] = {
    "prefix": GIVEN,
    "state": "completed",
    "attributes": {f"{GIVEN}name": f"{GIVEN}value", f"{GIVEN}other": f"{GIVEN}value"},
    "parent": f"{GIVEN}parent",
    "since": LONG_AGO,
    "until": LATER,
    "after": f"{GIVEN}run-5",
    "oldest_first": True,
}
ENGINES = {"memory": "_sqlite.run_listing", "postgres": "_postgres.run_listing"}


def unfollowed(module: str) -> set[str]:
    """The functions of the module that make a statement which the rule cannot follow."""
    rule = SQLRule({one: tree_of(one) for one in MODULES})
    functions = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if rule.breaches_in(module, function)}


def test_each_module_that_is_held_by_running_it_is_run() -> None:
    assert set(ENGINES.values()) == MADE_BY_FILTERS
    assert all(unfollowed(module) for module in MADE_BY_FILTERS), "to be held by the rule again"


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_that_a_listing_is_given_gets_into_the_text_of_a_statement(
    engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    run: set[str] = set()

    def note(text: str) -> None:
        frame = sys._getframe(2)
        if frame.f_globals["__name__"] == f"contextstore.{ENGINES[engine]}":
            texts.append(text)
            run.add(frame.f_code.co_name)

    def execute(connection: Any, text: str, *parameters: Any) -> Any:
        note(text)
        return super(worker._JobConnection, connection).execute(text, *parameters)

    def fetch(pool: Any, text: str, *parameters: Any) -> Any:
        note(text)
        return fetched(pool, text, *parameters)

    fetched = ReadPool.fetch
    monkeypatch.setattr(ReadPool, "fetch", fetch)
    monkeypatch.setattr(worker._JobConnection, "execute", execute, raising=False)
    # So that few runs are more than one look.
    monkeypatch.setattr(run_listing, "_FIRST_LOOK", 1)
    monkeypatch.setattr(run_listing, "_MOST_LOOKS", 2)
    with ContextStore(new_location(engine, request)) as store:
        for number in range(10):
            mine = store.run(f"{GIVEN}run-{number}")
            mine.begin(attributes=FILTERS["attributes"], parent=FILTERS["parent"])
            mine.update(state="completed")
            store.run(f"other-{number}").begin()
        for count in range(len(FILTERS) + 1):
            for names in itertools.combinations(FILTERS, count):
                given = {name: FILTERS[name] for name in names}
                assert len(store.list_runs(**given, limit=3)) == 3
                # Few fit, so that other indexes are tried.
                store.list_runs(**{**given, "attributes": {f"{GIVEN}name": f"{GIVEN}none"}}, limit=3)
    assert run >= unfollowed(ENGINES[engine])
    assert [text for text in texts if "given" in text] == []
