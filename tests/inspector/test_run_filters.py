"""Whether a run fits a search, decided without the store: as the store decides it."""

from __future__ import annotations

import datetime
import random
import time
from typing import Any

import pytest

from contextstore import ContextStore, RunInfo
from contextstore._inspect.runs import RunFilters, error_line
from contextstore._inspect.typed import attribute_word, attributes_of

VALUES: list[Any] = [1, 1.0, True, "1", "", "é", False, 0, -0.0, 0.0, 2**63, "null", '"', "a=b", "[1", " x", 0.1]


def test_it_fits_if_the_store_lists_it() -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    with ContextStore(":memory:") as store:
        for number in range(60):
            run = store.run(chance.choice("ab") + str(number))
            if chance.random() < 0.8:
                attributes = {name: chance.choice(VALUES) for name in chance.sample("xyz", 2)}
                run.begin(attributes=attributes, parent=chance.choice([None, "p", "q"]))
            run.update(state=chance.choice(["open", "completed", "failed", "cancelled"]))
        everything = store.list_runs(limit=1000)
        for _ in range(200):
            filters = chosen(chance, everything)
            listed = [run.flow_run_id for run in filters.page(store, limit=1000).runs]
            assert sorted(listed) == sorted(run.flow_run_id for run in everything if filters.fits(run)), (seed, filters)


def chosen(chance: random.Random, runs: list[RunInfo]) -> RunFilters:
    times = [run.begun_at for run in runs if run.begun_at is not None]
    options: dict[str, Any] = {
        "prefix": chance.choice("ab"),
        "states": tuple(chance.sample(["open", "completed", "failed", "cancelled"], chance.randint(1, 4))),
        "attributes": {chance.choice("xyz"): chance.choice(VALUES)},
        "parent": chance.choice("pqr"),
        "since": chance.choice(times),
        "until": chance.choice(times) + datetime.timedelta(microseconds=chance.randint(0, 1)),
    }
    return RunFilters(**{name: option for name, option in options.items() if chance.random() < 0.4})


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_an_attribute_is_typed_so_that_it_is_read_as_itself(value: Any) -> None:
    word = attribute_word("name", value)
    assert word is not None
    read = attributes_of([word])["name"]
    assert (type(read), read) == (type(value), value)


def test_an_attribute_whose_name_would_end_too_soon_cannot_be_typed() -> None:
    assert attribute_word("a=b", 1) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("KeyError: 'a'", "KeyError: 'a'"),
        ("\n  one\ntwo", "one"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'a'\n\n", "KeyError: 'a'"),
        ("", ""),
    ],
)
def test_an_error_in_a_line_is_what_says_most(error: str, line: str) -> None:
    assert error_line(error) == line
