"""The command line as such: its version, its help, what it says where it cannot go on."""

from __future__ import annotations

import subprocess
import sys

import contextstore

from .lines import environment, ran, run, run_process


def test_it_tells_its_version() -> None:
    assert run_process("--version").out == f"contextstore {contextstore.__version__}\n"


def test_stats_are_the_same_as_those_of_the_call(filled: str) -> None:
    shown = ran("stats", filled, "--json").json
    with contextstore.ContextStore(filled, read_only=True) as store:
        stats = store.stats()
    assert {name: shown[name] for name in ("location", "runs", "outputs", "globals", "value_bytes", "engine")} == {
        "location": stats.location,
        "runs": 2,
        "outputs": 3,
        "globals": 1,
        "value_bytes": stats.value_bytes,
        "engine": stats.engine,
    }


def test_stats_as_text_have_no_figure_of_the_commands_own_process(filled: str) -> None:
    names = [line.split()[0] for line in ran("stats", filled).lines]
    fields = list(ran("stats", filled, "--json").json)
    of_the_process = {"commits", "writes", "largest_group", "queued_writes", "checkpoint_pinned"}
    assert names == [name for name in fields if name not in of_the_process and not name.startswith("cache")]


def test_a_form_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = run("stats", "a.db", "--output", "xml")
    assert done.code == 2
    assert "'--output': 'xml' is not one of 'text', 'json', 'jsonl'" in done.err


def test_without_its_extra_it_says_how_to_get_it() -> None:
    program = "import sys; sys.modules['typer'] = None; from contextstore import cli; sys.exit(cli.main(['stats']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment({}))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "contextstore: the command line needs typer and rich: pip install 'contextstore[cli]'\n"


def test_a_store_that_is_not_there_is_no_traceback(tmp_path: object) -> None:
    done = run("stats", f"{tmp_path}/none.db")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("contextstore: there is no store at ")
    assert len(done.err.splitlines()) == 1
