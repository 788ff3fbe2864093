"""The examples of flows do what they say, and a DAG that is killed at any moment comes to the same end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore

from ..support.processes import ROOT

EXAMPLES = ROOT / "examples"


def start(example: str, *arguments: Any, stdout: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", EXAMPLES / example, *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        # Buffered: two processes say their lines, and each line at once.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": ""},
        text=True,
    )


def run(example: str, *arguments: Any) -> tuple[int, list[str]]:
    process = start(example, *arguments)
    said, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode, said.splitlines()


def outputs_in(path: pathlib.Path, flow_run_id: str) -> dict[str, Any]:
    """What is recorded, read back as any SQLite tool would; nothing is changed by looking."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT node_id, value FROM outputs WHERE flow_run_id = ?", (flow_run_id,))
        return {node_id: json.loads(value) for node_id, value in rows}


@pytest.fixture(scope="module")
def dag_runner() -> ModuleType:
    specification = importlib.util.spec_from_file_location("dag_runner", EXAMPLES / "dag_runner.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("dag_runner.py", []),
        ("dag_runner.py", ["flows.db"]),
        ("agent_loop.py", []),
        ("two_processes.py", []),
        ("two_processes.py", ["flows.db", "flow", "more"]),
        ("workers.py", ["flows.db"]),
        ("workers.py", ["flows.db", "rest"]),
    ],
)
def test_without_its_arguments_an_example_says_what_they_are(example: str, arguments: list[str]) -> None:
    process = start(example, *arguments)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "")
    (usage,) = errors.splitlines()
    assert usage.startswith(f"usage: {example} FILE")


class TestDagRunner:
    def test_it_has_fewer_than_sixty_lines(self) -> None:
        assert len((EXAMPLES / "dag_runner.py").read_text().splitlines()) < 60

    def test_it_computes_each_node_once_and_a_second_start_computes_none(self, tmp_path: pathlib.Path) -> None:
        store = tmp_path / "flows.db"
        status, said = run("dag_runner.py", store, "flow")
        *computed, outputs = said
        assert status == 0
        assert len(computed) == len(set(computed)) == 28
        for place, value in enumerate([1, 6, 15, 20, 15, 6, 1]):
            assert f"'6/{place}': {value}" in outputs
        assert len(outputs_in(store, "flow")) == 28
        assert run("dag_runner.py", store, "flow") == (0, [outputs])
        assert len(run("dag_runner.py", store, "another flow")[1]) == 29

    async def test_nodes_begin_as_soon_as_what_they_need_is_there(
        self, dag_runner: ModuleType, file_path: pathlib.Path
    ) -> None:
        events = []

        async def slow() -> str:
            await asyncio.wait_for(quick_is_done.wait(), 30)
            events.append("slow")
            return "slow"

        async def quick() -> str:
            events.append("quick")
            return "quick"

        async def after_quick(quick: str) -> list[str]:
            events.append("after quick")
            quick_is_done.set()
            return [quick]

        quick_is_done = asyncio.Event()
        node = dag_runner.Node
        dag = {"slow": node(slow), "after quick": node(after_quick, ("quick",)), "quick": node(quick)}
        async with AsyncContextStore(file_path) as store:
            outputs = await dag_runner.run_dag(store, "flow", dag)
        assert outputs == {"slow": "slow", "after quick": ["quick"], "quick": "quick"}
        assert events == ["quick", "after quick", "slow"]

    async def test_a_node_that_fails_ends_the_run_and_what_was_recorded_is_kept(
        self, dag_runner: ModuleType, file_path: pathlib.Path
    ) -> None:
        mended = False
        computed = []

        async def first() -> int:
            computed.append("first")
            return 1

        async def second(before: int) -> int:
            computed.append("second")
            if not mended:
                raise ValueError("not yet")
            return before + 1

        dag = {"first": dag_runner.Node(first), "second": dag_runner.Node(second, ("first",))}
        async with AsyncContextStore(file_path) as store:
            with pytest.raises(ExceptionGroup) as caught:
                await dag_runner.run_dag(store, "flow", dag)
            assert caught.group_contains(ValueError, match="not yet")
            mended = True
            assert await dag_runner.run_dag(store, "flow", dag) == {"first": 1, "second": 2}
        assert computed == ["first", "second", "second"]

    async def test_a_circle_is_refused_before_anything_is_computed(
        self, dag_runner: ModuleType, file_path: pathlib.Path
    ) -> None:
        dag = {"a": dag_runner.Node(pytest.fail, ("b",)), "b": dag_runner.Node(pytest.fail, ("a",))}
        async with AsyncContextStore(file_path) as store:
            with pytest.raises(ExceptionGroup) as caught:
                await dag_runner.run_dag(store, "flow", dag)
            assert caught.group_contains(ValueError, match="cycle")
            assert await store.list_keys("flow") == []


class Flows:
    """Flow runs of the DAG runner, of which every attempt but the last is killed; and the book about them."""

    def __init__(self, folder: pathlib.Path, chance: random.Random) -> None:
        self.store = folder / "flows.db"
        self.log = folder / "log"
        self.log.touch()
        self.chance = chance
        self.kills = 0
        self.computed = 0
        self.recorded = 0

    def attempt(self, flow_run_id: str, undisturbed: dict[str, Any], may_kill: bool) -> bool:
        """Start the runner, and kill it at some moment. Returns whether it came to its end before."""
        before, place = self._recorded(flow_run_id), self.log.stat().st_size
        # Opened for appending: a line is in the file before the node's function returns, whatever happens then.
        with self.log.open("a") as log:
            process = start("dag_runner.py", self.store, flow_run_id, stdout=log)
        if may_kill:
            self._let_it_run(process, place)
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert errors == ""
        assert process.returncode in (0, -signal.SIGKILL)
        self.kills += process.returncode != 0
        lines = self.log.read_bytes()[place:].decode().splitlines()
        computed = [line.removeprefix("computed ") for line in lines if line.startswith("computed ")]
        after = self._recorded(flow_run_id)
        assert len(computed) == len(set(computed)), "a node was computed twice in one attempt"
        assert not before.keys() & set(computed), "a node whose output was recorded was computed again"
        assert after.keys() - before.keys() <= set(computed), "an output was recorded that nobody computed"
        assert before.items() <= after.items() <= undisturbed.items(), "an output was lost, or has changed"
        self.computed += len(computed)
        self.recorded += len(after) - len(before)
        return process.returncode == 0

    def _let_it_run(self, process: subprocess.Popen[str], place: int) -> None:
        kind = self.chance.choice(["early", "computed", "computed", "any", "any"])
        if kind == "early":  # while Python starts, or while the store is made or opened
            time.sleep(self.chance.uniform(0, 0.4))
            return
        # At once after some node was computed, when its output is not recorded yet; or at any moment after the first.
        nodes = self.chance.randint(1, 28) if kind == "computed" else 1
        while self.log.read_bytes()[place:].count(b"\n") < nodes and process.poll() is None:
            time.sleep(0.0002)
        if kind == "any":
            time.sleep(self.chance.uniform(0, 0.3))

    def _recorded(self, flow_run_id: str) -> dict[str, Any]:
        try:
            return outputs_in(self.store, flow_run_id)
        except sqlite3.OperationalError:  # it was killed before there was a store
            with ContextStore(self.store) as store:
                assert store.list_runs() == []
            return {}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_dag_that_is_killed_at_any_moment_computes_each_recorded_node_exactly_once(
    tmp_path: pathlib.Path, kills: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    assert run("dag_runner.py", tmp_path / "undisturbed.db", "flow")[0] == 0
    undisturbed = outputs_in(tmp_path / "undisturbed.db", "flow")
    assert len(undisturbed) == 28
    flows = Flows(tmp_path, random.Random(seed))
    for number in itertools.count(1):
        while not flows.attempt(f"flow {number}", undisturbed, may_kill=flows.kills < kills):
            pass
        assert outputs_in(flows.store, f"flow {number}") == undisturbed
        if flows.kills >= kills:
            break
    assert flows.recorded == 28 * number
    with ContextStore(flows.store) as store:
        assert store.check().ok
    print(f"{flows.kills} kills, {number} flow runs, {flows.recorded} outputs recorded, {flows.computed} computed")


class TestAgentLoop:
    def test_a_restart_replays_what_was_called_and_goes_on(self, tmp_path: pathlib.Path) -> None:
        store = tmp_path / "flows.db"
        assert run("agent_loop.py", store) == (
            -signal.SIGKILL,
            ["calling the model", "calling look_up", "calling the model", "calling calculate"],
        )
        recorded = outputs_in(store, "agent-1")
        assert len(recorded) == 3
        answer = "Three lamps cost 71.40."
        assert run("agent_loop.py", store) == (0, ["calling calculate", "calling the model", answer])
        assert recorded.items() < outputs_in(store, "agent-1").items()
        assert run("agent_loop.py", store) == (0, [answer])


class TestTwoProcesses:
    DEAL = (
        "the buyer was offered 60.00 in 2 days and says yes",
        "the seller was asked for 3 of lamp and told yes",
    )
    OUTPUTS = MappingProxyType(
        {
            "order": {"item": "lamp", "count": 3},
            "offer": {"price": 60.0, "days": 2},
            "decision": "yes",
        }
    )

    def test_each_waits_for_what_the_other_one_writes(self, tmp_path: pathlib.Path) -> None:
        status, (told, *said) = run("two_processes.py", tmp_path / "flows.db")
        assert status == 0
        assert sorted(said) == [*self.DEAL]
        with ContextStore(tmp_path / "flows.db", create=False) as store:
            (info,) = store.list_runs()
            assert told == f"flow run {info.flow_run_id}"
            assert store.get_run(info.flow_run_id) == self.OUTPUTS

    @pytest.mark.parametrize("written", [[], ["order"], ["order", "offer"], ["order", "offer", "decision"]])
    def test_a_run_that_was_killed_goes_on_by_its_id(self, tmp_path: pathlib.Path, written: list[str]) -> None:
        with ContextStore(tmp_path / "flows.db") as store:
            store.put_many("flow", {node_id: self.OUTPUTS[node_id] for node_id in written})
            before = [store.get_entry("flow", node_id) for node_id in written]
        status, (told, *said) = run("two_processes.py", tmp_path / "flows.db", "flow")
        assert (status, told) == (0, "flow run flow")
        assert sorted(said) == [*self.DEAL]
        with ContextStore(tmp_path / "flows.db", create=False) as store:
            assert store.get_run("flow") == self.OUTPUTS
            assert [store.get_entry("flow", node_id) for node_id in written] == before
