"""What the command line says where a store cannot be used, and that it says no password."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
from typing import Any

import pytest

from contextstore import ContextStore, StorageError, errors
from contextstore.cli import errors as cli_errors
from contextstore.cli.errors import exit_code_of, hide, sentence_of

from ..contract.test_damaged import damage, output
from ..sqlite.files import as_nobody
from ..support.portions import first_of
from .commands import commands, usage_of
from .lines import run

SECRETS = ["s3cret-Pa55", "p%40ss:w0rd", "hunter2"]


def one_sentence(err: str) -> bool:
    return err.startswith("contextstore: ") and len(err.splitlines()) == 1 and err.endswith("\n")


# ----------------------------------------------------------------------------------------------------------- the store


def line_for(name: str, place: str) -> list[str]:
    """A command with as many words as it needs."""
    wanted = [word for word in usage_of(name).split() if word.isupper() or "|" in word][:]
    needed = [word for word in wanted if not word.startswith("[") and word not in name.split()]
    return [*name.split(), "--store", place, *("1" for _ in needed), *OPTIONS.get(name, [])]


OPTIONS = {
    "prune": ["--older-than", "1d", "--yes"],
    "globals delete": ["key"],
    "update": ["--state", "failed"],
}
"""What a command needs beside its words."""

COMMANDS_ON_A_STORE = [
    name for name, command in commands().items() if command.options_metavar.startswith("[OPTIONS] [STORE]")
]
MAKES_ONE = {"import"}


@pytest.mark.parametrize("name", [name for name in COMMANDS_ON_A_STORE if name not in MAKES_ONE])
def test_without_a_store_a_command_is_4_and_makes_none(name: str, tmp_path: pathlib.Path) -> None:
    done = run(*line_for(name, str(tmp_path / "none.db")))
    assert (done.code, done.out) == (4, "")
    assert one_sentence(done.err)
    assert list(tmp_path.iterdir()) == []


def folder(path: pathlib.Path) -> None:
    path.mkdir()


def other_file(path: pathlib.Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def other_database(path: pathlib.Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")


def newer_store(path: pathlib.Path) -> None:
    ContextStore(path).__enter__().close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")


def cut_off(path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        store.put("run", "n", "x" * 100_000)
    os.truncate(path, 10_000)


@pytest.mark.parametrize("make", [folder, other_file, other_database, newer_store, cut_off])
@pytest.mark.parametrize("words", [["show"], ["stats"], ["get", "run", "n"], ["put", "run", "n", "1"]])
def test_what_is_no_usable_store_is_4_in_one_sentence(make: Any, words: list[str], file_path: pathlib.Path) -> None:
    make(file_path)
    done = run(words[0], "--store", file_path, *words[1:])
    assert (done.code, done.out) == (4, ""), done
    assert one_sentence(done.err)


def test_a_file_that_may_not_be_read_is_4(file_path: pathlib.Path) -> None:
    ContextStore(file_path).__enter__().close()
    file_path.chmod(0)
    done = as_nobody(lambda: run(file_path))
    assert (done.code, done.out) == (4, "")
    assert one_sentence(done.err)


def test_a_store_that_another_process_keeps_locked_is_4_once_the_time_is_over(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "n", 1)
        with contextlib.closing(sqlite3.connect(file_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            done = run("put", file_path, "run", "m", "1", "--timeout", "0.05")
            assert (done.code, done.out) == (4, "")
            assert one_sentence(done.err)
            assert run("get", file_path, "run", "n", "--timeout", "0.05").code == 0  # who looks needs no lock


def test_a_server_that_is_not_there_is_4() -> None:
    done = run("stats", "postgresql://me:s3cret-Pa55@127.0.0.1:1/none", "--timeout", "0.2")
    assert (done.code, done.out) == (4, "")
    assert one_sentence(done.err)
    assert "s3cret" not in done.err


def test_a_store_on_a_server_is_not_made_by_looking(url: str) -> None:
    assert run(url).code == 4
    assert run("put", url, "run", "n", "1").code == 4
    assert run("put", url, "run", "n", "1", "--create").code == 0
    assert run("get", url, "run", "n").json == 1


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_damaged_outputs_are_shown_as_such_and_the_others_are_shown(
    engine: str, request: pytest.FixtureRequest, file_path: pathlib.Path
) -> None:
    location: Any = file_path if engine == "file" else request.getfixturevalue("url")
    with ContextStore(location) as store:
        store.put_many("run", {name: name for name in "abc"})
    damage(location, request, "node_outputs", "checksum = checksum + 1", output("run", "b"))
    text = run(location, "run")
    assert text.code == 4
    assert [line.split()[0] for line in text.lines[1:]] == ["a", "c", "b"]
    assert "damaged: " in text.lines[3]
    assert text.err == "contextstore: 1 of these outputs are damaged: check tells more\n"
    shown = run(location, "run", "--output", "jsonl").jsonl
    assert [one.get("value", "damaged" in one) for one in shown] == ["a", True, "c"]
    assert run("get", location, "run", "b").code == 4
    assert run("get", location, "run", "a").code == 0


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_check_tells_each_problem_on_a_line_and_is_1(
    engine: str, request: pytest.FixtureRequest, file_path: pathlib.Path
) -> None:
    location: Any = file_path if engine == "file" else request.getfixturevalue("url")
    with ContextStore(location) as store:
        store.put_many("run", {name: name for name in "abc"})
    assert run("check", location).lines[-1] == "1 run, 3 outputs, 0 globals: ok"
    damage(location, request, "node_outputs", "checksum = checksum + 1", output("run", "a", "c"))
    done = run("check", location)
    assert (done.code, done.err) == (1, "contextstore: 2 problems were found\n")
    places = [line[: len("output: node '?' of run 'run'")] for line in done.lines if line.startswith("output")]
    assert places == ["output: node 'a' of run 'run'", "output: node 'c' of run 'run'"]
    assert [problem["key"] for problem in run("check", location, "--json").json["problems"]] == [
        ["run", "a"],
        ["run", "c"],
    ]


# ------------------------------------------------------------------------------------------------------ codes of errors


def test_every_error_of_the_package_has_a_code_that_is_no_bugs() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        error = kind.__new__(kind)
        assert exit_code_of(error) in (2, 3, 4), name


def test_what_is_raised_by_mistake_is_a_bug() -> None:
    assert exit_code_of(KeyError("x")) == cli_errors.BUG
    assert "this is a bug in contextstore" in sentence_of(KeyError("x"), [])


def test_an_unknown_outcome_is_said() -> None:
    assert "whether the write is stored is not known" in sentence_of(StorageError("the server is gone", True), [])


def test_an_error_of_several_lines_is_one() -> None:
    assert sentence_of(StorageError("one\ntwo\x1b[31m"), []) == "one two\\u001b[31m"


# ------------------------------------------------------------------------------------------------------------ passwords


def urls(secret: str) -> list[str]:
    return [
        f"postgresql://user:{secret}@127.0.0.1:1/d",
        f"postgres://user:{secret}@127.0.0.1:1/d?schema=UPPER",
        f"postgresql://user@127.0.0.1:1/d?password={secret}",
        f"postgresql://user@127.0.0.1:1/d?password={secret}&nonsense",
        f"mysql://user:{secret}@host/d",
        f"postgresql+asyncpg://user:{secret}@host/d",
        f"host=localhost password={secret}",
        f"user:{secret}@host",
        f"postgresql:/user:{secret}@host/d",
    ]


@pytest.mark.parametrize("secret", first_of(SECRETS, 1))
def test_no_line_shows_a_password_whatever_is_wrong_with_it(secret: str) -> None:
    for url in urls(secret):
        lines = [
            [url, "--timeout", "0.05"],
            ["stats", url, "--timeout", "0.05"],
            ["stats", url, "too", "many"],
            ["stats", "a.db", url],
            ["show", "a.db", "run", "node", url],
            ["stats", "--store", url, "--timeout", "0.05"],
            ["stats", f"--store={url}", "--timeout", "0.05"],
            ["stats", f"--stores={url}"],
            ["stats", "a.db", "--timeout", url],
            ["stats", "a.db", f"--output={url}"],
            ["show", "a.db", f"--limit={url}"],
            [f"--{url}"],
            ["globals", f"--json={url}"],
            ["put", "a.db", "run", "node", url],
            ["put", url, "run", "node", "{"],
            ["show", url, "run", "--after", url, "--timeout", "0.05"],
        ]
        for words in lines:
            done = run(*words)
            assert done.code in (2, 4), (words, done)
            assert secret not in done.out + done.err, words
        done = run("stats", "--timeout", "0.05", CONTEXTSTORE_URL=url)
        assert done.code in (2, 4)
        assert secret not in done.out + done.err
        assert secret not in run("stats", "--help", url, CONTEXTSTORE_URL=url).out


@pytest.mark.parametrize("secret", first_of(SECRETS, 1))
def test_no_path_that_is_made_of_a_word_shows_a_password(
    secret: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ContextStore("flows.db") as store:
        store.put("run", "node", 1)
    mistyped = [f"postgresql:/user:{secret}@h/d", f"postgresql//user:{secret}@h/d", f"user:{secret}@h/a/b/flows.db"]
    for url in [*urls(secret), *mistyped]:
        for words in (
            ["backup", "flows.db", url],
            ["backup", url, "b.db"],
            ["restore", "flows.db", url],
            ["restore", url, "new.db"],
            ["export", "flows.db", "-o", url],
            ["copy", url, "new.db", "--timeout", "0.05"],
            ["copy", "new.db", url, "--timeout", "0.05"],
        ):
            done = run(*words)
            assert done.code in (2, 4) or "://" not in url, (words, done)
            assert secret not in done.err + done.out, (words, done)


def test_the_rest_of_a_message_stays() -> None:
    url = "postgresql://user:hunter2@host/d"
    assert hide(f"cannot reach {url} on port 1", [url]) == "cannot reach *** on port 1"
    assert hide("cannot reach postgresql://user:hunter2@host/d", []) == "cannot reach postgresql://***@host/d"
    assert hide("there is no run 'a'", ["a", "flows.db"]) == "there is no run 'a'"
