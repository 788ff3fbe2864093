"""examples/workers.py does what it says, however its processes are killed and stopped.

The functions of the steps count their own calls, in a file that no death of a process takes back. Each returns a name
of its own for the call, so that the output tells which call has made it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import pathlib
import random
import signal
import time
from typing import NamedTuple

import pytest

from contextstore import AsyncContextStore, ContextStore, StoreBusyError

from ..conftest import new_location
from ..support.processes import ROOT, Child
from .test_flow_examples import run

STEPS = 4


def begin(place: str, count: int, name: str = "run") -> list[str]:
    ids = [f"{name}-{number:04}" for number in range(count)]

    async def begin_all(store: AsyncContextStore) -> None:
        await asyncio.gather(*(store.run(flow_run_id).begin() for flow_run_id in ids))

    with ContextStore(place) as store:
        asyncio.run(begin_all(store.awaitable))
    return ids


# ------------------------------------------------------------------------------------------------------ from a terminal


def test_the_example_is_short_enough_to_be_copied() -> None:
    assert len((ROOT / "examples" / "workers.py").read_text().splitlines()) < 120


def test_runs_are_begun_worked_off_redone_and_pruned_from_a_terminal(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"
    assert run("workers.py", path, "begin", 12) == (0, [])
    assert run("workers.py", path, "work") == (0, ["12 runs ended"])
    with ContextStore(path, create=False) as store:
        (old, *_) = ended = store.list_runs(state="completed", attributes={"flow": "nightly"})
        assert [run.outputs for run in ended] == [3] * 12
    code, (forked,) = run("workers.py", path, "redo", old.flow_run_id, "extract", "total")
    assert (code, run("workers.py", path, "work")) == (0, (0, ["1 runs ended"]))
    with ContextStore(path) as store:
        assert store.get_run(forked) == store.get_run(old.flow_run_id)
        assert [attempt.node_id for attempt in store.run(forked).attempts()] == ["extract", "report", "total"]
        store.run("half-done").put("extract", [1.0])
    code, (report,) = run("workers.py", path, "prune", 0)
    assert (code, report.startswith("PruneReport(runs=13, outputs=39,")) == (0, True)
    with ContextStore(path) as store:
        assert [left.flow_run_id for left in store.list_runs()] == ["half-done"]


# ------------------------------------------------------------------------------------------------- workers as processes

WORKER = """
    import random
    sys.path.insert(0, "examples")
    import workers

    place, journal, ttl, steps, longest, hold_at, failing = sys.argv[1:]
    workers.TTL = float(ttl)
    opened = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    calls = 0

    def note(*words):
        os.write(opened, (" ".join(map(str, words)) + "\\n").encode())

    async def node(flow_run_id, node_id, call) -> str:
        note("began", call)
        if node_id == hold_at:
            say("in", flow_run_id)
            await asyncio.to_thread(sys.stdin.readline)
        if flow_run_id == failing and node_id == "n1":
            raise RuntimeError("it always does")
        await asyncio.sleep(random.random() * float(longest))
        note("ended", call)
        return call

    async def flow(run):
        global calls
        for number in range(int(steps)):
            calls += 1
            call = f"{os.getpid()}/{calls}"
            note("asked", call, run.flow_run_id, f"n{number}")
            if hold_at == f"before n{number}":
                say("in", run.flow_run_id)
                sys.stdin.readline()  # the whole process is held: as good as stopped
            await run.step(f"n{number}", node, run.flow_run_id, f"n{number}", call)

    async def main():
        async with AsyncContextStore(place) as store:
            say("ready")
            say("done", await workers.work(store, flow))

    asyncio.run(main())
"""


def worker(
    place: str, journal: pathlib.Path, *, ttl: float = 30, longest: float = 0.0, hold_at: str = "", failing: str = ""
) -> Child:
    return Child(WORKER, place, journal, ttl, STEPS, longest, hold_at, failing, PYTHONPATH=str(ROOT))


class Call(NamedTuple):
    """A step that was asked for, and what became of its function: places in the journal, None where it did not."""

    pid: int
    name: str
    step: tuple[str, str]
    asked: int
    began: int | None
    ended: int | None


def calls_in(journal: pathlib.Path) -> list[Call]:
    places: dict[str, dict[str, int]] = collections.defaultdict(dict)
    steps: dict[str, tuple[str, str]] = {}
    for place, line in enumerate(journal.read_text().splitlines()):
        happened, name, *step = line.split()
        places[name][happened] = place
        if step:
            steps[name] = (step[0], step[1])
    return [
        Call(int(name.partition("/")[0]), name, steps[name], at["asked"], at.get("began"), at.get("ended"))
        for name, at in places.items()
    ]


def called(journal: pathlib.Path) -> dict[tuple[str, str], list[Call]]:
    """The calls of the functions themselves, by their steps."""
    found: dict[tuple[str, str], list[Call]] = collections.defaultdict(list)
    for call in calls_in(journal):
        if call.began is not None:
            found[call.step].append(call)
    return found


def test_workers_share_the_runs_and_call_each_step_once(tmp_path: pathlib.Path) -> None:
    place, journal = str(tmp_path / "flows.db"), tmp_path / "journal"
    ids = begin(place, 60)
    with worker(place, journal) as one, worker(place, journal) as other:
        ended = [child.end() for child in (one, other)]
    assert [(code, err) for code, _, err in ended] == [(0, "")] * 2
    assert sum(int(said[-1].removeprefix("done ")) for _, said, _ in ended) == 60
    counts = {step: len(calls) for step, calls in called(journal).items()}
    assert counts == {(flow_run_id, f"n{number}"): 1 for flow_run_id in ids for number in range(STEPS)}
    with ContextStore(place) as store:
        assert {info.state for info in store.list_runs()} == {"completed"}
        assert store.list_leases() == []


def test_a_run_that_fails_is_tried_three_times_and_told_why_and_no_other_run_is_held_up(tmp_path: pathlib.Path) -> None:
    place, journal = str(tmp_path / "flows.db"), tmp_path / "journal"
    _, failing, _ = begin(place, 3)
    with worker(place, journal, failing=failing) as child:
        code, said, err = child.end()
    assert (code, said[-1], err) == (0, "done 3", "")
    with ContextStore(place) as store:
        (failed,) = store.list_runs(state="failed")
        assert (failed.flow_run_id, failed.outputs, failed.failures) == (failing, 1, 3)
        assert failed.error == "RuntimeError: it always does"
        attempts = store.run(failing).attempts()
        assert [(attempt.node_id, attempt.number, attempt.error) for attempt in attempts] == [
            ("n0", 1, None),
            *[("n1", number, "RuntimeError: it always does") for number in (1, 2, 3)],
        ]
        assert len(store.list_runs(state="completed")) == 2


def test_the_runs_of_a_killed_worker_are_gone_on_with_behind_what_was_recorded(tmp_path: pathlib.Path) -> None:
    place, journal = str(tmp_path / "flows.db"), tmp_path / "journal"
    (flow_run_id,) = begin(place, 1)
    with worker(place, journal, ttl=1, hold_at="n2") as held:
        assert (held.hear(), held.hear()) == ("ready", f"in {flow_run_id}")
        held.kill()
    with worker(place, journal, ttl=1) as other:
        assert other.end()[1][-1] == "done 1"
    assert {node: len(calls) for (_, node), calls in called(journal).items()} == {"n0": 1, "n1": 1, "n2": 2, "n3": 1}


def test_a_worker_that_overslept_its_lease_calls_nothing_more_of_that_run_and_goes_on(tmp_path: pathlib.Path) -> None:
    place, journal = str(tmp_path / "flows.db"), tmp_path / "journal"
    (flow_run_id,) = begin(place, 1)
    with worker(place, journal, ttl=1, hold_at="before n1") as slow:
        assert (slow.hear(), slow.hear()) == ("ready", f"in {flow_run_id}")
        slow.signal(signal.SIGSTOP)
        with worker(place, journal, ttl=1, hold_at="n1") as quick:
            assert (quick.hear(), quick.hear()) == ("ready", f"in {flow_run_id}")
            slow.signal(signal.SIGCONT)
            slow.tell()
            # It says on its standard error that the run is left to others, and waits for it to be ended.
            assert slow.process.stderr is not None
            assert f"{flow_run_id} is left to others" in slow.process.stderr.readline()
            quick.tell()
            assert quick.end()[1][-1] == "done 1"
        assert slow.end()[1][-1] == "done 0"
    assert {node: len(calls) for (_, node), calls in called(journal).items()} == {"n0": 1, "n1": 1, "n2": 1, "n3": 1}


# ------------------------------------------------------------------------------------------------------------ at random

TTL = 3.0
SHORT, LONG = TTL / 4, TTL * 1.5
"""Of stops: within the first a lease is renewed in time, behind the second it is lost for certain."""


class Stop(NamedTuple):
    """A kill, or a stop: of whom, when by the journal, and whether it held everybody up, with a commit in its hands."""

    pid: int
    began: int
    ended: int
    holds_all: bool

    def has_met(self, call: Call, recorded: int) -> bool:
        """Whether the call was running: asked for before the end of it, and not recorded yet at its beginning."""
        return (call.pid == self.pid or self.holds_all) and call.asked < self.ended and self.began <= recorded


class Stage:
    """Some workers, and who kills, stops and replaces them."""

    def __init__(self, place: str, journal: pathlib.Path, chance: random.Random, stack: contextlib.ExitStack) -> None:
        self.place, self.journal, self.chance, self.stack = place, journal, chance, stack
        self.working: list[Child] = []
        self.stopped: list[tuple[float, Child, int, bool]] = []
        self.stops: list[Stop] = []
        self.probe = stack.enter_context(ContextStore(place, timeout=TTL / 2))
        for _ in range(4):
            self.add()

    def add(self) -> None:
        # Not waited for: who is stopped now may have the lock with which it opens the store.
        self.working.append(self.stack.enter_context(worker(self.place, self.journal, ttl=TTL, longest=0.2)))

    def lines(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def at_work(self) -> list[Child]:
        """Those that have called a function: one that is still starting is not worth a kill."""
        told = self.journal.read_text() if self.journal.exists() else ""
        return [child for child in self.working if f"began {child.process.pid}/" in told]

    def disturb(self) -> None:
        child = self.chance.choice(self.at_work())
        self.working.remove(child)
        before = self.lines()
        if self.chance.random() < 0.5:
            child.kill()
            self.stops.append(Stop(child.process.pid, before, self.lines(), holds_all=False))
            self.add()
        else:
            child.signal(signal.SIGSTOP)
            length = self.chance.choice([self.chance.uniform(0, SHORT), LONG])
            until = time.monotonic() + length
            self.stopped.append((until, child, before, self.holds_all()))

    def holds_all(self) -> bool:
        try:
            self.probe.upsert_global("probe", 1)
        except StoreBusyError:
            return True
        return False

    def wake(self, *, all_of_them: bool = False) -> None:
        for one in list(self.stopped):
            until, child, began, holds_all = one
            if all_of_them or time.monotonic() >= until:
                self.stopped.remove(one)
                self.stops.append(Stop(child.process.pid, began, self.lines(), holds_all))
                child.signal(signal.SIGCONT)
                self.working.append(child)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_killed_and_stopped_at_fifty_random_moments_only_what_was_running_then_is_called_again(
    engine: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    place, journal = str(new_location(engine, request)), tmp_path / "journal"
    ids = begin(place, 800, "first")
    with contextlib.ExitStack() as stack:
        stage = Stage(place, journal, chance, stack)
        for moment in range(50):
            if len(stage.probe.list_runs(state="open", limit=400)) < 400:
                while stage.stopped:  # who may have the lock that this takes
                    stage.wake()
                    time.sleep(0.01)
                ids += begin(place, 400, f"more-{moment}")
            until = time.monotonic() + chance.uniform(0.05, 0.6)
            while time.monotonic() < until or not stage.at_work():
                stage.wake()
                time.sleep(0.01)
            stage.disturb()
        stage.wake(all_of_them=True)
        for child in stage.working:
            code, _, err = child.end(timeout=300)
            assert (code, "Traceback" in err) == (0, False), err
    again = called_again(place, journal, ids, stage.stops)
    print(f"{len(ids)} runs, {len(again)} calls again")
    assert again  # else no kill has met anything


def called_again(place: str, journal: pathlib.Path, ids: list[str], stops: list[Stop]) -> list[Call]:
    """The calls that have not made the output of their step: a stop must have met each of them."""
    made = {}
    with ContextStore(place) as store:
        for flow_run_id in ids:
            assert store.get_run_info(flow_run_id).state == "completed"  # type: ignore[union-attr]  # it is there
            made.update({(flow_run_id, node): call for node, call in store.get_run(flow_run_id).items()})
        assert store.list_leases() == []
    calls = called(journal)
    assert set(made) == set(calls) == {(run, f"n{number}") for run in ids for number in range(STEPS)}
    wasted = [call for step, those in calls.items() for call in those if call.name != made[step]]
    next_asked = next_of_each(calls_in(journal))
    for call in wasted:
        recorded = next_asked.get(call.name, 2**62)  # where the same worker went on to the next step
        assert any(stop.has_met(call, recorded) for stop in stops), (call, [s for s in stops if s.pid == call.pid])
    return wasted


def next_of_each(calls: list[Call]) -> dict[str, int]:
    """Where in the journal the same worker asked for its next step of the same run, by the name of the call."""
    found: dict[str, int] = {}
    last: dict[tuple[int, str], Call] = {}
    for call in calls:
        key = (call.pid, call.step[0])
        if key in last:
            found[last[key].name] = call.asked
        last[key] = call
    return found


@pytest.mark.alone
@pytest.mark.slow
def test_four_processes_share_three_thousand_runs_quickly(tmp_path: pathlib.Path) -> None:
    place, journal = str(tmp_path / "flows.db"), tmp_path / "journal"
    ids = begin(place, 3000)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(place, journal)) for _ in range(4)]
        for child in workers:
            assert child.hear() == "ready"
        began = time.monotonic()
        ended = [child.end(timeout=300) for child in workers]
        seconds = time.monotonic() - began
    print(f"3,000 runs of {STEPS} steps in {seconds:.1f} s")
    assert [(code, err) for code, _, err in ended] == [(0, "")] * 4
    assert sum(int(said[-1].removeprefix("done ")) for _, said, _ in ended) == 3000
    assert {len(calls) for calls in called(journal).values()} == {1}
    assert len(called(journal)) == STEPS * len(ids)
