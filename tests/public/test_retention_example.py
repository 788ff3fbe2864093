"""examples/retention.py does what it says, and the store that it leaves is what it says it is.

Its workers are processes here, which are killed, or are slow to come back.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from contextstore import ContextStore, GlobalEntry

from ..support.processes import ROOT, Child, complaints


def run(path: pathlib.Path) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", ROOT / "examples" / "retention.py", path],
        capture_output=True,
        text=True,
        cwd=path.parent,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize("earlier", [0, 1])
def test_it_runs_and_leaves_the_store_that_it_tells_of(tmp_path: pathlib.Path, earlier: int) -> None:
    path = tmp_path / "flows.db"
    for _ in range(earlier):
        run(path)
    told = run(path)
    pruned = 12 + 9 * earlier  # and what the nights before have left
    assert "monday: 12 runs done" in told
    assert "tuesday: 8 runs done" in told
    assert len(re.findall("does the retention", told)) == 1
    assert f"to prune: {pruned} runs with {4 * pruned} outputs" in told
    assert f"{pruned + 9} of {pruned + 9} runs looked at" in told
    assert "left: 9 runs, 8 of them in force" in told
    with ContextStore(path, create=False) as store:
        assert store.check().ok
        runs = store.list_runs()
        assert [run.outputs for run in runs] == [4] * 9
        assert {run.flow_run_id.split("/")[0] for run in runs} == {"tuesday"}
        states = states_in(store)
        assert set(states) == {run.flow_run_id for run in runs}
        forked, *_ = runs
        (replaced,) = [run for run, told in states.items() if told.value == f"replaced by {forked.flow_run_id}"]
        assert store.get(replaced, "report") == "sold for 2,000.50"
        assert store.get(forked.flow_run_id, "report") == "sold for 2,002,000.00"
        assert store.get(forked.flow_run_id, "clean") == store.get(replaced, "clean")
        assert store.get_global_entry("last-prune").version == earlier + 1  # type: ignore[union-attr]
        assert store.stats().tombstones == pruned


def states_in(store: ContextStore) -> dict[str, GlobalEntry]:
    return {entry.key.removeprefix("runs/"): entry for entry in store.list_globals("runs/")}


WORKER = """
    import datetime, pathlib
    sys.path.insert(0, "examples")
    import retention

    path, worker, claim_lasts, stop_at = sys.argv[1:]
    retention.CLAIM_LASTS = datetime.timedelta(seconds=float(claim_lasts))
    claimed = []

    def second(_):
        say(claimed[-1])
        if len(claimed) == int(stop_at):
            say("stopped")
            sys.stdin.readline()
        time.sleep(0.002)
        return worker

    async def run_flow(store, flow_run_id, flow, work_on=retention.run_flow):
        claimed.append(flow_run_id)
        await work_on(store, flow_run_id, {"first": lambda _: worker, "second": second})

    retention.run_flow = run_flow
    say("ready")
    sys.stdin.readline()
    say("done", asyncio.run(retention.work(pathlib.Path(path), worker)))
"""
DAY = 86_400


def worker(path: pathlib.Path, name: str, *, claim_lasts: float = DAY, stop_at: int = 0) -> Child:
    """Says which run it works on, in the middle of it, and in the end how many it has done."""
    return Child(WORKER, path, name, claim_lasts, stop_at)


def heard_until(child: Child, last: str) -> Iterator[str]:
    while (line := child.hear()) != last:
        assert line, child.end()
        yield line


def plan(path: pathlib.Path, count: int) -> None:
    with ContextStore(path) as store, store.batch() as batch:
        for number in range(count):
            batch.put_global(f"runs/{number:03}", "waiting")


class TestWorkersThatAreProcesses:
    def test_each_run_is_claimed_once_and_those_of_a_killed_worker_are_taken_over(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "flows.db"
        plan(path, 200)
        with worker(path, "ada", stop_at=10) as ada, worker(path, "grace") as grace:
            for child in (ada, grace):
                assert child.hear() == "ready"
            for child in (ada, grace):
                child.tell()
            of_ada = list(heard_until(ada, "stopped"))
            ada.kill()
            status, of_grace, err = grace.end()
            assert (status, err, of_grace.pop()) == (0, "", "done 190")
        assert sorted(of_ada + of_grace) == [f"{number:03}" for number in range(200)]
        left = of_ada[-1]
        with ContextStore(path) as store:
            states = states_in(store)
            assert states[left].value == "with ada"
            # Written as waiting, by a claim, and as done.
            assert {entry.version for run, entry in states.items() if run != left} == {3}
            assert {entry.value for run, entry in states.items() if run != left} == {"done"}

        with worker(path, "edsger") as edsger:  # the claim may be that of a worker who is slow
            edsger.tell()
            assert edsger.end() == (0, ["ready", "done 0"], "")
        with worker(path, "edsger", claim_lasts=0) as edsger:
            edsger.tell()
            assert edsger.end() == (0, ["ready", left, "done 1"], "")
        with ContextStore(path) as store:
            assert (states_in(store)[left].value, states_in(store)[left].version) == ("done", 4)
            assert store.get_run(left) == {"first": "ada", "second": "edsger"}
            assert store.check().ok

    def test_a_slow_worker_finds_that_its_run_was_taken_over(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "flows.db"
        plan(path, 1)
        with worker(path, "ada", stop_at=1) as ada, worker(path, "grace", claim_lasts=0) as grace:
            ada.tell()
            assert list(heard_until(ada, "stopped")) == ["ready", "000"]
            grace.tell()
            assert grace.end() == (0, ["ready", "000", "done 1"], "")
            ada.tell()
            assert ada.end() == (0, ["done 0"], "")
        with ContextStore(path) as store:
            assert (states_in(store)["000"].value, states_in(store)["000"].version) == ("done", 4)
            assert store.get_run("000") == {"first": "ada", "second": "grace"}

    def test_a_run_that_was_pruned_half_done_is_forgotten_by_who_takes_it_over(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "flows.db"
        plan(path, 2)
        with ContextStore(path) as store:
            store.upsert_global("runs/000", "with ada")
            store.put("000", "first", "ada")
            store.delete_run("000")
        with worker(path, "grace", claim_lasts=0) as grace:
            grace.tell()
            assert grace.end() == (0, ["ready", "001", "done 1"], "")
        with ContextStore(path) as store:
            assert {run: entry.value for run, entry in states_in(store).items()} == {"001": "done"}

    def test_what_is_still_to_be_done_is_kept_in_mind_when_old_runs_are_pruned(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "flows.db"
        with ContextStore(path) as store:
            store.put_global("runs/tuesday/later", "with ada")
        run(path)
        with ContextStore(path) as store:
            assert states_in(store)["tuesday/later"].value == "with ada"
