"""Values on their way in and out: ``put``, ``get``, ``globals``."""

from __future__ import annotations

from typing import Any

import pytest

from contextstore import ContextStore

from .lines import ran, run


def value_of(place: str, node: str = "n") -> Any:
    with ContextStore(place, read_only=True) as store:
        return store.get("run", node)


@pytest.fixture
def empty(place: str) -> str:
    ContextStore(place).__enter__().close()
    return place


@pytest.fixture
def empty_file(file_path: Any) -> str:
    ContextStore(file_path).__enter__().close()
    return str(file_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0.5", -0.5), ('"a"', "a"), ("null", None), ('{"b": [1, "é"], "a": {}}', {"b": [1, "é"], "a": {}})],
)
def test_a_value_goes_in_and_comes_out_as_it_is(empty_file: str, text: str, value: Any) -> None:
    assert ran("put", empty_file, "run", "n", "--", text).out == ""
    assert value_of(empty_file) == value
    assert ran("get", empty_file, "run", "n").out == text + "\n"


def test_a_value_comes_from_the_standard_input_and_is_durable(empty: str) -> None:
    ran("put", empty, "run", "n", "-", stdin=b"[1,\n 2]\n")
    assert value_of(empty) == [1, 2]


def test_a_text_is_stored_as_a_string(empty_file: str) -> None:
    ran("put", empty_file, "run", "n", "looks good", "--text")
    ran("put", empty_file, "run", "m", "-", "--text", stdin=b"two\nlines\n")
    assert value_of(empty_file) == "looks good"
    assert value_of(empty_file, "m") == "two\nlines\n"


def test_bytes_are_stored_and_printed_as_they_are(empty: str) -> None:
    data = bytes(range(256)) * 10
    ran("put", empty, "run", "n", "--bytes", "-", stdin=data)
    assert value_of(empty) == data
    assert ran("get", empty, "run", "n").stdout == data


def test_text_and_bytes_exclude_each_other(empty_file: str) -> None:
    assert run("put", empty_file, "run", "n", "x", "--text", "--bytes").code == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a" 1}', "line 1, column 6"),
        (b"[1,\n x]", "line 2, column 2"),
        (b"", "line 1, column 1"),
        (b"\xff\xfe", "not UTF-8: byte 0 is 0xff"),
        (b'["a\xe9"]', "not UTF-8: byte 3 is 0xe9"),
        (b"\xef\xbb\xbf1", "line 1, column 1"),
        (b"NaN", "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "is not taken"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place_and_nothing_is_stored(
    empty_file: str, data: bytes, said: str
) -> None:
    done = run("put", empty_file, "run", "n", "-", stdin=data)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert run("get", empty_file, "run", "n").code == 1


@pytest.mark.parametrize("text", ["1e999", "123456789012345678901234567890", '"\\ud800"', "[" * 255 + "]" * 255])
def test_json_that_a_store_does_not_take_is_refused_as_it_would(empty_file: str, text: str) -> None:
    done = run("put", empty_file, "run", "n", text)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("contextstore: $")


def test_a_word_that_is_no_json_is_told_of_text(empty_file: str) -> None:
    assert "--text stores it as it is" in run("put", empty_file, "run", "n", "hello").err


def test_a_negative_number_goes_behind_two_dashes_as_the_error_says(empty_file: str) -> None:
    assert "behind a --" in run("put", empty_file, "run", "n", "-1").err
    ran("put", empty_file, "run", "n", "--", "-1")
    assert value_of(empty_file) == -1


def test_an_output_is_written_once(empty: str) -> None:
    ran("put", empty, "run", "n", "1")
    assert run("put", empty, "run", "n", "1").code == 3
    assert run("put", empty, "run", "n", "2", "--exist-ok").code == 3
    assert ran("put", empty, "run", "n", "1", "--exist-ok", "--json").json == {"flow_run_id": "run", "node_id": "n"}
    assert value_of(empty) == 1


def test_a_put_on_a_deleted_run_is_a_conflict(empty: str) -> None:
    with ContextStore(empty) as store:
        store.delete_run("run")
    assert run("put", empty, "run", "n", "1").code == 3


def test_a_default_is_printed_where_nothing_is_written(filled: str) -> None:
    assert ran("get", filled, "run-1", "nothing", "--default", '{"a": 1}').json == {"a": 1}
    assert ran("get", filled, "run-1", "extract", "--default", "0").json == {"rows": 3}
    assert ran("get", filled, "nobody", "nothing", "--default", "null").out == "null\n"
    assert run("get", filled, "run-1", "nothing", "--default", "no json").code == 2


def test_a_stored_null_is_no_default(empty_file: str) -> None:
    ran("put", empty_file, "run", "n", "null")
    assert ran("get", empty_file, "run", "n", "--default", "1").out == "null\n"


def test_globals_are_set_read_listed_and_deleted(empty: str) -> None:
    assert ran("globals", "set", empty, "k", "1").out == "1\n"
    assert ran("globals", "set", empty, "k", '{"a": 2}', "--json").json == {"key": "k", "version": 2}
    assert ran("globals", "get", empty, "k").json == {"a": 2}
    (entry,) = ran("globals", "list", empty, "--json").json
    assert (entry["key"], entry["value"], entry["version"]) == ("k", {"a": 2}, 2)
    assert ran("globals", "get", empty, "k", "--json").json == entry
    assert ran("globals", empty).lines[1].split()[:2] == ["k", "2"]
    assert ran("globals", "delete", empty, "k").out == ""
    assert run("globals", "delete", empty, "k").code == 1
    assert run("globals", "get", empty, "k").code == 1


def test_a_global_is_set_at_its_expected_version_alone(empty: str) -> None:
    assert run("globals", "set", empty, "k", "1", "--expected-version", 1).code == 3
    ran("globals", "set", empty, "k", "1", "--expected-version", 0)
    done = run("globals", "set", empty, "k", "2", "--expected-version", 0)
    assert (done.code, done.out) == (3, "")
    assert "is at version 1, not 0" in done.err


def test_a_global_is_set_once(empty: str) -> None:
    assert ran("globals", "set", empty, "k", "1", "--once").out == "1\n"
    assert run("globals", "set", empty, "k", "1", "--once").code == 3
    assert run("globals", "set", empty, "k", "1", "--once", "--expected-version", 0).code == 2


def test_pages_of_globals_follow_each_other(empty: str) -> None:
    with ContextStore(empty) as store:
        for key in ("", "a.1", "a.2", "b"):
            store.upsert_global(key, key)
    first = ran("globals", empty, "--limit", 2, "--output", "jsonl")
    assert [entry["key"] for entry in first.jsonl] == ["", "a.1"]
    assert "--after a.1" in first.err
    assert [entry["key"] for entry in ran("globals", empty, "--after", "a.1", "--json").json] == ["a.2", "b"]
    assert [entry["key"] for entry in ran("globals", empty, "--prefix", "a.", "--json").json] == ["a.1", "a.2"]
    assert ran("globals", "get", empty, "").out == '""\n'
