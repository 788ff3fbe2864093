"""``globals`` for keys that expire, keys alone, many at once, and waiting."""

from __future__ import annotations

import datetime
import pathlib

import pytest

from contextstore import ContextStore

from .lines import ran, run


@pytest.fixture
def empty(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "store.db"
    with ContextStore(path) as store:
        store.put("run", "node", 1)
    return str(path)


class TestTtl:
    def test_is_given_as_a_span_and_shown_where_a_key_has_one(self, empty: str) -> None:
        ran("globals", "set", empty, "stays", "1")
        assert "EXPIRES" not in ran("globals", empty).out
        ran("globals", "set", empty, "k", "1", "--ttl", "1d12h")
        entry = ran("globals", "get", empty, "k", "--json").json
        expires_at, written_at = (datetime.datetime.fromisoformat(entry[name]) for name in ("expires_at", "written_at"))
        assert abs(expires_at - written_at - datetime.timedelta(hours=36)) < datetime.timedelta(minutes=10)
        titles, *lines = ran("globals", empty).lines
        assert titles.split() == ["KEY", "VERSION", "WRITTEN", "EXPIRES", "VALUE"]
        assert "in 1 d" in lines[0]
        assert ran("globals", "get", empty, "stays", "--json").json["expires_at"] is None

    def test_is_set_anew_by_each_write(self, empty: str) -> None:
        ran("globals", "set", empty, "k", "1", "--ttl", "1d", "--once")
        ran("globals", "set", empty, "k", "2")
        assert ran("globals", "get", empty, "k", "--json").json["expires_at"] is None

    @pytest.mark.parametrize("ttl", ["soon", "0s", "3654d", ""])
    def test_that_cannot_be_meant_is_wrong_use(self, empty: str, ttl: str) -> None:
        done = run("globals", "set", empty, "k", "1", "--ttl", ttl)
        assert done.code == 2
        assert "--ttl" in done.err


def test_keys_alone_are_listed_by_page(empty: str) -> None:
    for key in ("a", "b", "c"):
        ran("globals", "set", empty, key, '"no value is shown"')
    done = ran("globals", empty, "--keys", "--limit", 2)
    assert done.lines == ["a", "b"]
    assert "--after b" in done.err
    assert ran("globals", empty, "--keys", "--after", "b", "--json").json == [{"key": "c"}]


def test_all_with_a_prefix_are_deleted_at_once(empty: str) -> None:
    for key in ("a.1", "a.2", "b"):
        ran("globals", "set", empty, key, "1")
    assert run("globals", "delete", empty, "--prefix", "a.").code == 2  # nobody is there to be asked
    assert ran("globals", "delete", empty, "--prefix", "a.", "--yes").out == "deleted 2 globals\n"
    assert ran("globals", empty, "--keys").lines == ["b"]
    assert ran("globals", "delete", empty, "--prefix", "a.", "--yes", "--json").json == {"prefix": "a.", "globals": 0}


@pytest.mark.parametrize("words", [[], ["key", "--prefix", "k"]])
def test_either_a_key_or_a_prefix_is_deleted(empty: str, words: list[str]) -> None:
    done = run("globals", "delete", "--store", empty, *words)
    assert (done.code, "either" in done.err) == (2, True)


class TestWait:
    def test_prints_what_is_there_and_its_version_as_json(self, empty: str) -> None:
        ran("globals", "set", empty, "k", '{"a": 1}')
        assert ran("globals", "wait", empty, "k").json == {"a": 1}
        assert ran("globals", "wait", empty, "k", "--json").json["version"] == 1

    def test_gives_up_in_the_end(self, empty: str) -> None:
        done = run("globals", "wait", empty, "k", "--within", "0s")
        assert (done.code, "'k' was not there" in done.err) == (1, True)
        ran("globals", "set", empty, "k", "1")
        assert run("globals", "wait", empty, "k", "--after-version", 1, "--within", "0s").code == 1


def test_prune_says_how_many_were_freed(empty: str) -> None:
    for key in ("a", "b"):
        ran("globals", "set", empty, key, "1")
    ran("globals", "delete", empty, "--prefix", "", "--yes")
    done = ran("prune", empty, "--older-than", "1d", "--dry-run")
    assert done.out.endswith("; 2 deleted or expired globals freed\n")
    assert ran("prune", empty, "--older-than", "1d", "--yes", "--json").json["globals"] == 2
