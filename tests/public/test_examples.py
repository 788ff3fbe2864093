"""The demonstration: it runs, it says what is so, and it would not say it if it were otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from contextstore._postgres.url import parse_url
from demo.findings import import_cycles
from demo.measure import Module, Ranked, measure, standard_library
from demo.proof import Place, Snapshot, compare
from demo.screen import folded

from ..support.portions import WHOLE
from ..support.servers import Server

ROOT = pathlib.Path(__file__).parent.parent.parent
DEMO = ROOT / "demo"

# Eight nodes at a time that rest a fifth of a second each: over a second is left in which to be killed.
SMALL = ["--limit", "40", "--pace", "0.2", "--kill-at", "0.4"]


class Demonstration:
    """A run of the survey, as somebody without a terminal sees it."""

    def __init__(self, *arguments: Any, columns: int = 100, folder: pathlib.Path = ROOT) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "demo", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "COLUMNS": str(columns)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.status = done.returncode
        self.text = done.stdout
        self.errors = done.stderr

    @property
    def figures(self) -> list[tuple[str, int]]:
        """The closing table: what was measured, in its order."""
        return [(label, int(figure.replace(",", ""))) for label, figure, _ in self.table]

    @property
    def table(self) -> list[tuple[str, str, str]]:
        """Its rows: what was measured, how much it is, what is expected with the verdict."""
        table = self.text.partition("expected")[2].partition("What the survey found")[0]
        return re.findall(r"^ +(\S.*?) {2,}([\d,]+) +(\S.*?)? *$", table, re.MULTILINE)

    @property
    def flow_run_id(self) -> str:
        found = re.search(r"^flow run  (\S+)$", self.text, re.MULTILINE)
        assert found is not None, self.text
        return found[1]


def rows_of(store: pathlib.Path, flow_run_id: str) -> list[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        sql = "SELECT node_id, value, written_at FROM outputs WHERE flow_run_id = ? ORDER BY node_id"
        return connection.execute(sql, (flow_run_id,)).fetchall()


# ---------------------------------------------------------------------------------------------------- it runs and tells


@pytest.mark.slow
def test_a_killed_survey_goes_on_and_its_table_says_what_became_of_every_node(tmp_path: pathlib.Path) -> None:
    store = tmp_path / "flows.db"
    shown = Demonstration(*SMALL, "--store", store)

    assert (shown.status, shown.errors) == (0, ""), shown.text
    assert "killed by SIGKILL" in shown.text
    assert "Every claim holds." in shown.text
    assert "\x1b" not in shown.text, "colours and bars are for a terminal"
    labels = [label for label, _ in shown.figures]
    assert labels == [
        "nodes of the flow",
        "processes killed by SIGKILL",
        "processes that came to the end",
        "completed before the kill",
        "whose output was lost",
        "computed again",
        "written at the kill, not completed",
        "computed again",
        "being computed at the kill",
        "computed again",
        "outputs unchanged since the kill",
        "outputs at the end, each once",
        "computations in all",
        "runs that are completed, by their state",
        "processes that the run has counted",
        "attempts that made an output",
        "attempts that failed",
    ]
    (
        nodes, killed, ended, completed, lost, completed_again, untold, untold_again, in_flight, in_flight_again,
        unchanged, outputs, computations, completed_runs, processes, successes, failures,
    ) = (figure for _, figure in shown.figures)  # fmt: skip
    assert (killed, ended) == (1, 1)
    assert completed + untold >= 0.4 * nodes
    assert (lost, completed_again, untold_again) == (0, 0, 0)
    assert 0 <= in_flight <= 8  # none, if the kill comes just after a commit that took all eight
    assert in_flight_again == in_flight
    assert unchanged == completed + untold
    assert outputs == nodes == len(rows_of(store, shown.flow_run_id))
    assert computations == nodes + in_flight
    assert (completed_runs, processes, successes, failures) == (1, 2, nodes, 0)
    assert [expected for _, _, expected in shown.table] == [
        "", "1 ✓", "1 ✓", "", "0 ✓", "0 ✓", "", "0 ✓", "at most 8 ✓", f"{in_flight} ✓",
        f"{unchanged} ✓", f"{nodes} ✓", f"{nodes} + {in_flight} ✓", "1 ✓", "2 ✓", f"{nodes} ✓", "0 ✓",
    ]  # fmt: skip
    assert "written once its output is in the store" in shown.text


@pytest.mark.slow
def test_a_second_survey_in_the_same_store_leaves_the_first_as_it_was(tmp_path: pathlib.Path) -> None:
    store = tmp_path / "flows.db"
    first = Demonstration("--limit", 20, "--no-kill", "--store", store)
    rows = rows_of(store, first.flow_run_id)
    second = Demonstration(*SMALL, "--store", store)

    assert (first.status, second.status) == (0, 0), first.text + second.text
    assert first.flow_run_id != second.flow_run_id
    assert rows_of(store, first.flow_run_id) == rows
    assert dict(first.figures)["nodes of the flow"] == len(rows)
    assert dict(second.figures)["nodes of the flow"] == len(rows_of(store, second.flow_run_id)) > len(rows)


def test_a_survey_that_is_not_killed_computes_each_node_once(tmp_path: pathlib.Path) -> None:
    store = tmp_path / "flows.db"
    shown = Demonstration("--limit", 20, "--no-kill", "--store", store)

    assert (shown.status, shown.errors) == (0, ""), shown.text
    figures = dict(shown.figures)
    assert figures["computations in all"] == figures["nodes of the flow"] == len(rows_of(store, shown.flow_run_id))
    assert "completed before the kill" not in figures
    assert "The kill may come" not in shown.text


@pytest.mark.parametrize("target", ["{0}/a file [of mine].db", "sqlite:///{0}/a%20file%20[of%20mine].db", "mine.db"])
def test_the_query_that_is_shown_in_the_end_finds_the_report(tmp_path: pathlib.Path, target: str) -> None:
    shown = Demonstration("--limit", 5, "--no-kill", "--store", target.format(tmp_path), folder=tmp_path)

    command = re.search(r"Look for yourself:\n  (sqlite3 .*)$", shown.text, re.MULTILINE)
    assert command is not None
    _, store, sql = shlex.split(command[1])
    assert pathlib.Path(store).is_absolute()
    assert f"store     {store}\n" in shown.text
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        ((report,),) = connection.execute(sql).fetchall()
    assert json.loads(report)["totals"]["modules"] == 5


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("{0}/missing/flows.db", "there is no folder {0}/missing"),
        ("{0}", "{0} is a folder"),
        ("", "target must not be empty"),
        ("file:flows.db", "is a SQLite URI"),
        ("mysql://host/flows", "'mysql' is not known"),
        (":memory:", "a store in memory ends with its process"),
        ("sqlite:///:memory:", "a store in memory ends with its process"),
        ("postgresql://me:s3cr3t@127.0.0.1:1/flows", "could not connect to postgresql://me@127.0.0.1:1/flows"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(tmp_path: pathlib.Path, target: str, complaint: str) -> None:
    refused = Demonstration("--store", target.format(tmp_path))
    assert (refused.status, refused.text) == (2, "")
    assert complaint.format(tmp_path) in refused.errors
    assert len(refused.errors.splitlines()) == 1


def test_on_a_server_the_query_is_for_psql_which_knows_neither_our_options_nor_the_password() -> None:
    target = "postgresql://me:s3cr3t@a:1,b:2/flows?schema=nights&pooler=transaction&target_session_attrs=read-write"
    location = parse_url(target).location
    assert Place(target, location).query("true") == (
        "psql 'postgresql://me@a:1,b:2/flows?target_session_attrs=read-write' "
        '-c "SELECT value FROM nights.outputs WHERE true"'
    )
    plain = Place("postgres://me@a/flows", parse_url("postgres://me@a/flows").location)
    assert plain.query("true") == 'psql postgresql://me@a/flows -c "SELECT value FROM contextstore.outputs WHERE true"'


@pytest.mark.parametrize("columns", [60, pytest.param(80, marks=pytest.mark.thorough)])
def test_in_a_narrow_terminal_names_are_broken_after_a_dot(columns: int) -> None:
    shown = Demonstration("--no-kill", *([] if WHOLE else ["--limit", 120]), columns=columns)
    assert max(map(len, shown.text.partition("What became")[2].splitlines())) <= columns
    found = shown.text.partition("longest functions")[2].partition("deepest nesting")[0]
    lines = [line.strip() for line in found.splitlines() if line.strip()]
    assert len(lines) >= 5
    for line, follower in zip(lines, [*lines[1:], "x 1 lines"], strict=True):
        name = line.split()[0]
        assert name.endswith(".") == ("lines" not in follower), (line, follower)


def test_a_name_is_folded_after_dots_and_commas() -> None:
    assert folded("os", 20) == "  os"
    assert folded("package.module.Class.method", 20) == "  package.module.\n    Class.method"
    assert folded("codecs, encodings, os", 14) == "  codecs,\n    encodings,\n    os"
    assert folded("a_name_without_any_dot", 10) == "  a_name_without_any_dot"


def test_a_temporary_store_is_gone_in_the_end() -> None:
    shown = Demonstration("--limit", 5, "--no-kill")
    store = re.search(r"^store     (\S+) \(temporary\)$", shown.text, re.MULTILINE)
    assert store is not None
    assert not pathlib.Path(store[1]).parent.exists()


@pytest.mark.parametrize("arguments", [("--kill-at", "1.5"), ("--kill-at", "0"), ("--limit", "0"), ("--limit", "some")])
def test_an_option_that_cannot_be_meant_is_refused(arguments: tuple[str, str]) -> None:
    refused = Demonstration(*arguments)
    assert refused.status == 2
    assert arguments[0] in refused.errors


# --------------------------------------------------------------------------------- it would notice if it were otherwise


@pytest.mark.slow
def test_a_flow_that_computes_what_is_recorded_fails_the_demonstration(tmp_path: pathlib.Path) -> None:
    text = (DEMO / "flow.py").read_text()
    asks = "await run.step(node_id, compute, node_id)"
    computes = 'await run.put(node_id, await compute(node_id), exist_ok="keep")'
    assert text.count(asks) == 1
    shutil.copytree(DEMO, tmp_path / "demo")  # python -m takes what is in its folder first
    (tmp_path / "demo" / "flow.py").write_text(text.replace(asks, computes))

    shown = Demonstration(*SMALL, folder=tmp_path)
    assert shown.status == 1, shown.text
    assert "A claim does not hold." in shown.text


def test_what_must_not_have_happened_to_a_node_fails_a_check() -> None:
    row = [("1", "2025-01-01T00:00:00.000Z")]
    later = [("1", "2025-01-01T00:00:01.000Z")]

    def failures(killed: tuple[Any, Any, Any], end: tuple[Any, Any, Any]) -> list[str]:
        moments = [Snapshot(rows, Counter(began), Counter(done)) for rows, began, done in (killed, end)]
        return [check.label.strip() for check in compare(["a", "b"], *moments) if check.holds is False]

    # "a" was completed before the kill, "b" was being computed and is computed again: all is well.
    killed = ({"a": row}, ["a", "b"], ["a"])
    assert failures(killed, ({"a": row, "b": row}, ["a", "b", "b"], ["a", "b"])) == []

    lost = failures(({}, ["a", "b"], ["a"]), ({"a": row, "b": row}, ["a", "a", "b", "b"], ["a", "a", "b"]))
    assert "whose output was lost" in lost
    again = failures(killed, ({"a": row, "b": row}, ["a", "a", "b", "b"], ["a", "b"]))
    assert again == ["computed again", "computations in all"]
    overwritten = failures(killed, ({"a": later, "b": row}, ["a", "b", "b"], ["a", "b"]))
    assert overwritten == ["outputs unchanged since the kill"]
    twice = failures(killed, ({"a": row, "b": [*row, *later]}, ["a", "b", "b"], ["a", "b"]))
    assert twice == ["outputs at the end, each once"]
    foreign = failures(killed, ({"a": row, "b": row, "c": row}, ["a", "b", "b"], ["a", "b"]))
    assert foreign == ["outputs at the end, each once"]
    missing = failures(killed, ({"a": row}, ["a", "b", "b"], ["a"]))
    assert missing == ["outputs at the end, each once"]


# ----------------------------------------------------------------------------------------------- what it measures is so


def test_a_module_is_measured_as_it_is(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "zoo"
    folder.mkdir()
    path = folder / "keeper.py"
    path.write_text(
        '''"""Keepers."""
import os.path, sys
from . import cage
from .cage import Lock
from ..zoo.food import *

if TYPE_CHECKING:
    import typing

class Keeper:
    """Keeps."""

    def feed(self, animal):
        import time
        for meal in animal:
            if meal:
                pass
            elif animal:
                pass
            else:
                with meal:
                    pass

    def _count(self):
        def add(): ...
''',
        encoding="utf-8",
    )
    library = {"os", "zoo", "zoo.cage", "zoo.food", "zoo.keeper", "time", "typing"}
    assert measure("zoo.keeper", path, library) == Module(
        lines=25,
        functions=3,
        classes=1,
        public=3,  # the module, Keeper, feed
        documented=2,
        nesting=5,  # class, def, for, else, with
        imports=["os", "sys", "zoo.cage", "zoo.food"],
        late_imports=["time", "typing"],
        longest=[
            Ranked("zoo.keeper.Keeper.feed", 10),
            Ranked("zoo.keeper.Keeper._count", 2),
            Ranked("zoo.keeper.Keeper._count.add", 1),
        ],
    )


def test_import_cycles_are_the_sets_of_modules_that_lead_to_each_other() -> None:
    def importing(*imports: str, late: tuple[str, ...] = ()) -> Any:
        return Module(0, 0, 0, 0, 0, 0, list(imports), list(late), [])

    modules = {
        "a": importing("b"),
        "b": importing("c", "x"),
        "c": importing("a"),
        "x": importing("y", "sys"),
        "y": importing("z"),
        "z": importing("y"),
        "late": importing("x", late=("lately",)),
        "lately": importing("late"),
    }
    assert import_cycles(modules) == [["a", "b", "c"], ["y", "z"]]


def test_the_survey_takes_the_standard_library_without_tests_and_without_what_was_installed() -> None:
    library = standard_library()
    assert {"os", "json", "json.decoder", "asyncio.tasks", "__future__"} <= library.keys()
    assert not [name for name in library if {"test", "tests", "idle_test", "pytest"} & set(name.split("."))]
    assert library["json"].name == "__init__.py"


def test_it_runs_on_postgresql(postgres: Server) -> None:
    shown = Demonstration(*SMALL, "--store", postgres.url(schema="survey"))
    assert shown.status == 0
    assert "Every claim holds." in shown.text
    command = re.search(r"Look for yourself:\n  (psql .*)$", shown.text, re.MULTILINE)
    assert command is not None
    psql, *arguments = shlex.split(command[1])
    found = shutil.which(psql, path=f"{postgres.binaries}:{os.environ.get('PATH', '')}")
    if found is not None:  # the server's programs may come without it
        done = subprocess.run([found, *arguments, "-tA"], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["totals"]["modules"] == 40
