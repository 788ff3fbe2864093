"""The suite looks after itself: what a portion leaves out, and that a test which leaves something behind fails."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from ..support import portions
from ..support.processes import ROOT

pytestmark = pytest.mark.one_python

LEAVING = """
import asyncio, threading, time
import pytest
from tests import conftest

conftest.PATIENCE = 0.3

async def forever():
    await asyncio.Event().wait()

async def test_leaves_a_task():
    leaving.append(asyncio.ensure_future(forever()))

leaving = []

def test_leaves_a_task_on_a_loop_that_it_closes():
    loop = asyncio.new_event_loop()
    leaving.append(loop.create_task(forever()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

def test_leaves_a_task_to_the_collector():
    loop = asyncio.new_event_loop()
    task = loop.create_task(forever())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

async def test_leaves_an_exception_that_nobody_looks_at():
    async def failing():
        raise ZeroDivisionError
    task = asyncio.ensure_future(failing())
    await asyncio.sleep(0.01)
    del task

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(3,), name="contextstore left", daemon=True).start()

async def test_leaves_nothing_when_its_tasks_have_been_cancelled():
    task = asyncio.ensure_future(forever())
    await asyncio.sleep(0)
    task.cancel()
"""


def run_tests(folder: pathlib.Path, program: str, *options: str, **environment: str) -> str:
    """What pytest says of these tests, run as those of this folder are."""
    (folder / "test_it.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-rA", *options, folder / "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.thorough
def test_a_test_that_leaves_a_task_or_a_thread_or_an_error_behind_fails(tmp_path: pathlib.Path) -> None:
    said = run_tests(tmp_path, LEAVING)
    failed = set(re.findall(r"^ERROR \S+::test_(\w+)", said, re.MULTILINE))
    assert failed == set(re.findall(r"^(?:async )?def test_(leaves_an?_\w+)", LEAVING, re.MULTILINE)), said
    assert len(failed) == 5


REPEATING = """
import pytest

@pytest.mark.each_input_once
@pytest.mark.parametrize(("words", "number"), [("a", 1), ("b", 1), ("c", 2)])
@pytest.mark.parametrize("face", ["async", "sync"])
def test_more_inputs_than_faces(face, words, number): ...

@pytest.mark.each_input_once
@pytest.mark.parametrize("words", ["a", "b"])
async def test_more_stores_than_inputs(make_store, words): ...

@pytest.mark.each_input_once
@pytest.mark.parametrize("words", ["a", "b", "c"])
@pytest.mark.parametrize("place", ["file", "postgres"])
def test_of_a_place(place, words): ...

async def test_unmarked(store): ...

@pytest.mark.parametrize("words", ["a", "b", "c"])
async def test_of_files(make_store, shared_target, words): ...

async def test_of_one_engine(make_store, shared_target, embedded): ...

@pytest.mark.each_pair
async def test_each_pair(store): ...

@pytest.mark.parametrize("words", ["a", "b"])
@pytest.mark.parametrize("face", ["async", "sync"])
def test_without_a_store(face, words): ...
"""


@pytest.mark.thorough
def test_of_what_repeats_each_input_and_each_engine_and_each_face_is_left(tmp_path: pathlib.Path) -> None:
    said = run_tests(tmp_path, REPEATING, "-m", "not thorough", "--collect-only", "-q")
    tests = re.findall(r"::(test_\w+)\[(.*)\]", said)
    left = {name: {ids for test, ids in tests if test == name} for name, _ in tests}
    assert left["test_more_inputs_than_faces"] == {"async-a-1", "sync-b-1", "async-c-2"}
    stores = {ids.removesuffix("-a").removesuffix("-b") for ids in left["test_more_stores_than_inputs"]}
    assert len(stores) == len(left["test_more_stores_than_inputs"]) == 6
    assert {ids[-1] for ids in left["test_more_stores_than_inputs"]} == {"a", "b"}
    assert left["test_unmarked"] in (
        {"async-file", "sync-memory", "async-postgres"},
        {"sync-file", "async-memory", "sync-postgres"},
    )
    for words in "abc":
        asked = {ids.removesuffix(f"-{words}") for ids in left["test_of_files"] if ids.endswith(words)}
        assert asked in ({"async-file", "sync-postgres"}, {"sync-file", "async-postgres"})
    assert left["test_of_one_engine"] == {"async-file", "sync-file"}
    assert left["test_of_a_place"] == {"file-a", "postgres-b", "file-c"}
    assert len(left["test_each_pair"]) == 6
    assert len(left["test_without_a_store"]) == 4


def marks_of(cases: list[Any]) -> dict[tuple[Any, ...], list[str]]:
    return {case.values: [mark.name for mark in case.marks] for case in cases}


def test_the_whole_takes_every_place_and_a_portion_some_of_them_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "WHOLE", False)
    assert {portions.steps(3) for _ in range(100)} == {(0, 3), (1, 3), (2, 3)}
    assert portions.some(6, 2) == 2
    assert marks_of(portions.first_of("abc", 1)) == {("a",): [], ("b",): ["thorough"], ("c",): ["thorough"]}
    assert marks_of(portions.first_of([("a", 1), ("b", 2)], 1)) == {("a", 1): [], ("b", 2): ["thorough"]}
    monkeypatch.setattr(portions, "WHOLE", True)
    assert portions.steps(3) == (0, 1)
    assert portions.some(6, 2) == 6
    assert portions.folder_in_memory() is None
