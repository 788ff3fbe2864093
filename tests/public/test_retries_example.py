"""The example of retries: it is run, and what it says of its tries is what the store knows."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from contextstore import ContextStore

from ..support.processes import ROOT

EXAMPLE = ROOT / "examples" / "retries.py"


def run_example(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
    )


@pytest.fixture(autouse=True)
def _stamina() -> None:
    pytest.importorskip("stamina", reason="the example retries by stamina")


def test_it_tries_until_the_answer_is_there_and_then_replays(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"
    failure = "ConnectionError: no price of lamp: the service is busy"
    said = [f"1 {failure}", f"2 {failure}", "3 made the output", "the lamp costs 20.0"]
    for _ in range(2):
        done = run_example(path)
        assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr
    with ContextStore(path) as store:
        assert [attempt.number for attempt in store.run("order-1").attempts()] == [1, 2, 3]


def test_a_process_that_finds_all_tries_used_up_has_one_left(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"

    def fail(item: str) -> float:
        raise ConnectionError(item)

    with ContextStore(path) as store:
        run = store.run("order-1")
        run.put("other", 1)
        for _ in range(5):
            with pytest.raises(ConnectionError):
                run.step("price", fail, "lamp")
    done = run_example(path)
    assert done.stdout.splitlines()[-2:] == ["6 made the output", "the lamp costs 20.0"]


def test_without_a_file_it_says_what_it_takes() -> None:
    done = run_example()
    assert (done.returncode, done.stderr) == (2, "usage: retries.py FILE\n")
