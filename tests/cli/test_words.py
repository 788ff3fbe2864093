"""Which word of a line is the command, which the store, and which the rest."""

from __future__ import annotations

import pathlib

import pytest

from contextstore import ContextStore
from contextstore.cli.errors import WrongUse
from contextstore.cli.words import VARIABLE, Place, filled, looks_like_a_store, place_of, with_command

from .lines import ran, run

COMMANDS = {"show", "get", "stats", "globals"}
GROUPS = {"globals": ({"list", "get"}, "list")}


@pytest.mark.parametrize(
    "word",
    [
        "a.db",
        "a.DB3",
        "x.sqlite",
        "x.sqlite3",
        "./run",
        "../run",
        "/run",
        "~/run",
        "postgresql://h/d",
        "sqlite:///x",
        "a\nb.db",
    ],
)
def test_paths_and_urls_look_like_a_store(word: str) -> None:
    assert looks_like_a_store(word)


@pytest.mark.parametrize(
    "word", ["run-1", "flows", "tenant/run-1", "a.db.bak", "", "-", "~user", ".hidden", "a.dbx", "db"]
)
def test_ids_do_not_look_like_a_store(word: str) -> None:
    assert not looks_like_a_store(word)


@pytest.mark.parametrize(
    ("words", "option", "variable", "expected"),
    [
        (["a", "b"], None, "", Place("a", "the first word", ["b"])),
        (["a.db", "b"], None, "env", Place("a.db", "the first word", ["b"])),
        (["a", "b"], None, "env", Place("env", VARIABLE, ["a", "b"])),
        (["a.db", "b"], "opt", "env", Place("opt", "--store", ["a.db", "b"])),
        (["a", "b"], "opt", "", Place("opt", "--store", ["a", "b"])),
        ([], None, "env", Place("env", VARIABLE, [])),
    ],
)
def test_the_store_is_that_of_the_option_else_the_first_word_else_the_environments(
    words: list[str], option: str | None, variable: str, expected: Place
) -> None:
    assert place_of(words, option, {VARIABLE: variable}) == expected


def test_where_nothing_names_a_store_it_is_said_what_would() -> None:
    with pytest.raises(WrongUse, match="--store, or in CONTEXTSTORE_URL"):
        place_of([], None, {})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["show"]),
        (["a.db"], ["show", "a.db"]),
        (["stats", "a.db"], ["stats", "a.db"]),
        (["./stats"], ["show", "./stats"]),
        (["a.db", "stats"], ["show", "a.db", "stats"]),
        (["--json", "stats", "a.db"], ["stats", "--json", "a.db"]),
        (["--output", "json", "--store=x", "get", "r"], ["get", "--output", "json", "--store=x", "r"]),
        (["--store", "stats"], ["show", "--store", "stats"]),
        (["--", "-x"], ["show", "--", "-x"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["globals", "a.db"], ["globals", "list", "a.db"]),
        (["globals", "get", "a.db", "k"], ["globals", "get", "a.db", "k"]),
        (["globals", "--json", "get", "a.db"], ["globals", "get", "--json", "a.db"]),
        (["--json", "globals"], ["globals", "list", "--json"]),
        (["globals", "--help"], ["globals", "--help"]),
    ],
)
def test_the_command_is_the_first_word_that_is_one_else_show(words: list[str], expected: list[str]) -> None:
    assert with_command(words, COMMANDS, GROUPS) == expected


def test_words_that_may_be_left_out_are_none() -> None:
    assert filled(["a"], ["RUN", "[NODE]"], Place("s", "--store", [])) == (["a"], [None])


def test_a_word_that_is_missing_is_named() -> None:
    with pytest.raises(WrongUse, match=r"^NODE is missing; understood was: the store by --store, RUN 'a'$"):
        filled(["a"], ["RUN", "NODE"], Place("s", "--store", []))


def test_words_that_are_missing_are_named() -> None:
    with pytest.raises(WrongUse, match=r"^RUN and NODE are missing; "):
        filled([], ["RUN", "NODE"], Place("s", "--store", []))


def test_a_run_that_was_taken_for_the_store_is_seen_in_what_is_understood() -> None:
    with pytest.raises(WrongUse, match=r"understood was: the store 'run-1' by the first word, RUN 'a'$"):
        filled(["a"], ["RUN", "NODE"], place_of(["run-1", "a"], None, {}))


def test_a_url_is_not_shown_in_what_is_understood() -> None:
    with pytest.raises(WrongUse, match=r"understood was: the store by the first word$"):
        filled([], ["RUN"], place_of(["postgresql://me:secret@host/db"], None, {}))


def test_too_many_words_are_told_with_what_each_was_taken_for() -> None:
    with pytest.raises(WrongUse, match=r"RUN 'a', \? 'b'$"):
        filled(["a", "b"], ["RUN"], Place("s", "--store", []))


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (["get", "{}", "run-1", "extract"], ""),
        (["get", "run-1", "extract"], "{}"),
        (["get", "--store", "{}", "run-1", "extract"], "none.db"),
        (["get", "run-1", "extract", "--store={}"], ""),
        (["get", "{}", "run-1", "extract"], "none.db"),
        (["--store", "{}", "get", "run-1", "extract"], ""),
    ],
)
def test_each_way_to_name_the_store_leads_to_it(filled: str, words: list[str], variable: str) -> None:
    done = ran(*(word.format(filled) for word in words), CONTEXTSTORE_URL=variable.format(filled))
    assert done.json == {"rows": 3}


def test_with_the_variable_alone_the_runs_are_shown(filled_file: str) -> None:
    assert [run["flow_run_id"] for run in ran("--output", "jsonl", CONTEXTSTORE_URL=filled_file).jsonl] == [
        "run-2",
        "run-1",
    ]


def test_without_a_word_and_without_the_variable_help_is_shown() -> None:
    assert ran().out == ran("--help").out


def test_a_store_has_the_name_of_a_command(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    with ContextStore("stats") as store:
        store.put("r", "n", 1)
    for words in (["./stats"], ["--store", "stats"], ["show", "stats"]):
        assert ran(*words, "--json").json[0]["flow_run_id"] == "r"
    assert ran("stats", "stats", "--json").json["runs"] == 1


def test_a_command_behind_the_store_is_told_to_come_first(filled_file: str) -> None:
    done = run(filled_file, "stats")
    assert done.code == 1
    assert done.err == "contextstore: there is no run 'stats' (a command comes first: contextstore stats …)\n"
    assert "comes first" not in run("show", filled_file, "stats").err


def test_a_store_that_is_missing_is_made_as_the_error_says(tmp_path: pathlib.Path) -> None:
    line = ["put", tmp_path / "new.db", "run", "node", "1"]
    assert run(*line).err.endswith(" (--create makes one)\n")
    ran(*line, "--create")
    ran("get", tmp_path / "new.db", "run", "node")


def test_what_is_neither_a_command_nor_a_store_is_told_so(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    done = run("list-runs")
    assert done.code == 4
    assert "('list-runs' was taken for one; contextstore --help lists the commands)" in done.err
