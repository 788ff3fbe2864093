"""``append`` on the command line."""

from __future__ import annotations

import pathlib

import pytest

from contextstore import ContextStore

from .lines import ran, run


@pytest.fixture
def empty(place: str) -> str:
    ContextStore(place).__enter__().close()
    return place


def test_it_prints_the_id_under_which_the_value_is(empty: str) -> None:
    assert ran("append", empty, "run", "log/", '{"a": 1}').out == "log/000000000001\n"
    assert ran("append", empty, "run", "log/", "text", "--text").out == "log/000000000002\n"
    with ContextStore(empty) as store:
        assert store.get_run("run") == {"log/000000000001": {"a": 1}, "log/000000000002": "text"}


def test_a_key_makes_it_safe_to_say_it_again(empty: str) -> None:
    words = ("append", empty, "run", "log/", "-", "--key", "begun", "--json")
    first = ran(*words, stdin=b"1")
    assert ran(*words, stdin=b"2").json == first.json == {"flow_run_id": "run", "node_id": "log/000000000001"}
    assert ran("get", empty, "run", "log/000000000001").out == "1\n"


def test_the_prefix_may_be_empty_and_the_value_bytes_with_a_tag(empty: str) -> None:
    assert ran("append", empty, "run", "", "-", "--bytes", "--tag", "text/html", stdin=b"<p>").out == "000000000001\n"
    with ContextStore(empty) as store:
        assert store.get("run", "000000000001") == b"<p>"


def test_a_bad_tag_and_a_missing_store_are_told_by_their_codes(empty: str, tmp_path: pathlib.Path) -> None:
    assert run("append", empty, "run", "log/", "1", "--tag", "é").code == 2
    assert run("append", tmp_path / "none.db", "run", "log/", "1").code == 4
    assert ran("append", tmp_path / "new.db", "run", "log/", "1", "--create").out == "log/000000000001\n"
