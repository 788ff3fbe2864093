"""Every example of every ``--help`` is run, against a real store, as it stands there."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from contextstore import ContextStore

from ..conftest import new_location
from .commands import commands, examples_of
from .lines import Done, environment, interrupted_after_a_line, run, words_of

SHELL = re.compile(r"[|<>]")
"""What a shell is needed for."""


def make_flows(place: str) -> None:
    """The store that the examples are about."""
    with ContextStore(place) as store:
        nightly = store.run("nightly-1")
        nightly.begin(attributes={"flow": "nightly", "tries": 3})
        nightly.put("extract", {"rows": 3})
        nightly.put("report", b"%PDF-1.7")
        nightly.upsert_state("position", {"page": 2})
        nightly.update(state="open")
        store.put("nightly-1", "step-1", "done")
        store.put("nightly-2", "extract", {"rows": 5})
        store.upsert_global("feature.fast", False)
        store.upsert_global("obsolete", 1)


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where the examples are typed: with a program ``contextstore`` and the files that they name."""
    program = tmp_path / "bin" / "contextstore"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m contextstore "$@"\n')
    program.chmod(0o755)
    (tmp_path / "page.html").write_text("<p>page</p>")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OF_FILES = {"backup", "restore"}
"""Commands that are about stores in files."""

BEFORE = {"restore": ["backup flows.db flows-2026-03-01.db"], "import": ["export flows.db -o flows.ndjson.gz"]}
"""What makes the files that the examples of a command are about."""


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in commands() for engine in (["file"] if name in OF_FILES else ["file", "postgres"])],
)
def test_every_example_of_a_command_runs(
    name: str, engine: str, folder: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    places = {"flows.db": "flows.db", "new.db": "new.db"}
    if engine == "postgres":
        places = {file: str(new_location("postgres", request)) for file in places}
    make_flows(places["flows.db"])
    examples = examples_of(name)
    assert examples
    for example in [*(f"contextstore {line}" for line in BEFORE.get(name, [])), *examples]:
        line, _, end = example.partition("  # ")
        line = re.sub(r"\b(flows|new)\.db\b", lambda match: shlex.quote(places[match[0]]), line)
        if end == "until Ctrl-C":
            line = re.sub(r"\bCURSOR\b", lambda _: first_cursor(places["flows.db"]), line)
            done = interrupted_after_a_line(*words_of(line))
            assert (done.code, bool(done.lines)) == (0 if name == "ui" else 130, True), (example, done)
            continue
        done = run_as_typed(line, folder)
        assert done.code == int(end.removeprefix("exit ") or 0), (example, done)


def first_cursor(place: str) -> str:
    with ContextStore(place, read_only=True) as store, contextlib.closing(store.watch()) as outputs:
        return str(next(outputs).cursor)


def run_as_typed(line: str, folder: pathlib.Path) -> Done:
    if not SHELL.search(line):
        return run(*words_of(line))
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done: Any = subprocess.run(["sh", "-c", line], capture_output=True, env=environment({"PATH": path}), timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


def test_every_command_is_among_its_own_examples() -> None:
    """``show`` is also what is meant where none is named."""
    without = [
        (name, example)
        for name in commands()
        for example in examples_of(name)
        if f"contextstore {name.removesuffix(' list')} " not in example and name != "show"
    ]
    assert without == []
