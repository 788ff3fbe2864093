"""Ids and values that someone hostile has written: on the screen they are text, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._display.text import escaped, shown_id

from ..support.portions import first_of
from .lines import ran, run, run_process

HOSTILE = {
    "an escape sequence": "run\x1b[2J\x1b[31mred",
    "another introducer": "run\x9b31m",
    "an operating system command": "\x1b]0;title\x07run",
    "a new line": "run\nnode  5 min ago",
    "a carriage return": "run\rgone",
    "a backspace": "run\b\b\b",
    "a mark for right to left": "run\u202egnp.exe",
    "an isolate": "run\u2066x",
    "a separator of lines": "run\u2028x",
    "delete": "run\x7f",
    "a dash": "-rf",
    "two dashes": "--help",
    "quotes": '"run"',
    "spaces around": " run ",
    "an emoji": "run 🎉 日本語",
    "what looks like a store": "/etc/x.db",
    "markup": "[bold red]run[/]",
    "very long": "r" * 500,
    "a tab": "a\tb",
}
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(params=HOSTILE.values(), ids=list(HOSTILE))
def hostile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_id_moves_no_cursor_and_comes_through_json_as_it_is(hostile: str, file_path: Any) -> None:
    with ContextStore(file_path) as store:
        store.put(hostile, hostile, {hostile: hostile})
        store.upsert_global(hostile, hostile)
    for words in ([], ["--", hostile], ["--", hostile, hostile]):
        for form in ("text", "json", "jsonl"):
            done = ran("show", "--store", file_path, "--output", form, *words)
            assert not CONTROLS.search(done.out), (words, form)
    assert len(ran(file_path).lines) == 2
    assert len(ran("show", "--store", file_path, "--", hostile).lines) == 2
    assert ran(file_path, "--json").json[0]["flow_run_id"] == hostile
    assert ran("get", "--store", file_path, "--", hostile, hostile).json == {hostile: hostile}
    watched = ran("watch", "--store", file_path, f"--until={hostile}", "--", hostile)
    assert len(watched.lines) == 1
    assert not CONTROLS.search(watched.out)
    assert ran("globals", "--store", file_path, "--json").json[0]["key"] == hostile
    assert not CONTROLS.search(ran("globals", "--store", file_path).out)


def test_an_id_in_an_error_is_escaped(hostile: str, filled_file: str) -> None:
    done = run("show", "--store", filled_file, "--", hostile + "?")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert not CONTROLS.search(done.err)


def test_an_id_is_shown_so_that_no_two_look_the_same() -> None:
    shown = {shown_id(text) for text in HOSTILE.values()}
    assert len(shown) == len(HOSTILE)
    assert shown_id("a\nb") == '"a\\nb"'
    assert shown_id("a\\nb") == "a\\nb"
    assert shown_id('"a\\nb"') == '"\\"a\\\\nb\\""'


def test_text_without_what_is_hidden_stays() -> None:
    assert escaped("aé日🎉 ") == "aé日🎉 "


def test_nothing_is_cut_through_a_pipe(file_path: Any) -> None:
    run_id, node = "r" * 1024, "n" * 1024
    with ContextStore(file_path) as store:
        store.put(run_id, node, 1)
    assert ran(file_path, COLUMNS="20").lines[1].split()[0] == run_id
    assert ran(file_path, run_id, COLUMNS="20").lines[1].split()[0] == node


@pytest.mark.parametrize("encoding", first_of(["ascii", "latin-1", "utf-8"], 1))
def test_no_encoding_of_the_terminal_makes_a_traceback(encoding: str, file_path: Any) -> None:
    with ContextStore(file_path) as store:
        store.put("日本語🎉", "é", {"ü": "…"})
    for words in (["show"], ["show", "日本語🎉"], ["show", "日本語🎉", "é"], ["get", "日本語🎉", "é"]):
        done = run_process(*words, "--store", file_path, PYTHONIOENCODING=encoding, LANG="C", LC_ALL="C")
        assert done.code == 0, done
        assert done.err == ""
        done.stdout.decode(encoding)
    assert run_process("get", file_path, "日本語🎉", "é", PYTHONIOENCODING=encoding).json == {"ü": "…"}
