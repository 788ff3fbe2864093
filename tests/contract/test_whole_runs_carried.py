"""Runs with all that a run can have, made at random: what a copy, an import and a fork have of it."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import random
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import (
    Attempt,
    ContextStore,
    FlowRun,
    Output,
    OutputDeletedError,
    RunInfo,
    StateEntry,
    copy,
    export_records,
    import_records,
)
from contextstore._waiting.threads import run_now

from ..conftest import new_location
from ..support.doubles import core_of
from .attempts import failure

ENGINES = ["file", "postgres"]
RUNS = [f"run {number}" for number in range(12)]
NODES = ["a", "b", "c"]
MANY = 105
"""More failures than are kept of a node."""

Told = tuple[RunInfo | None, list[Attempt], list[StateEntry], list[Output]]


def fail(*_: Any) -> Any:
    raise ValueError("no")


def same(value: Any) -> Any:
    return value


def one_thing(store: ContextStore, name: str, chance: random.Random) -> None:
    """Something that can be done to a run, whatever has been done before."""
    node, number = chance.choice(NODES), chance.randrange(5)
    run: FlowRun = store.run(name, check_inputs=chance.random() < 0.5)
    match chance.randrange(10):
        case 0:
            run.begin()
        case 1:
            run.update(
                state=chance.choice(["open", "completed", "failed", "cancelled"]), error=chance.choice(["", "é"])
            )
        case 2:
            run.update(attributes={chance.choice("xyz"): chance.choice([None, 1, 1.0, True, "1"])})
        case 3:
            with contextlib.suppress(OutputDeletedError):
                run.put(node, [number], exist_ok="keep", tag=chance.choice([None, "text"]))
        case 4:
            run.append("log/", b"\0%d" % number, key=chance.choice([None, "key"]))
        case 5:
            with contextlib.suppress(OutputDeletedError):
                store.run(name).step(node, same, number)
        case 6:
            with contextlib.suppress(OutputDeletedError, ValueError):
                run.step(f"{node} fails", fail, number)
        case 7:
            run.upsert_state(chance.choice(["", "key", "k/ä"]), chance.choice([None, {"n": number}, b"\0"]))
        case 8:
            run.delete_outputs([chance.choice([node, "log/000000000001"])])
        case _:
            with contextlib.suppress(OutputDeletedError, ValueError):
                run.step(node, fail, number)


def fill(store: ContextStore, seed: int) -> None:
    chance = random.Random(seed)
    store.run(RUNS[0]).begin(attributes={"team": "a", "n": 2**63}, parent=RUNS[1])
    store.run(RUNS[2]).upsert_state("alone", 1)
    with pytest.raises(ValueError, match="no"):
        store.run(RUNS[3]).step("alone", fail)
    run_now(core_of(store)._session.commit([failure("often", run=RUNS[4]) for _ in range(MANY)]))
    for _ in range(150):
        one_thing(store, chance.choice(RUNS[:8]), chance)
    store.fork_run(RUNS[0], new_flow_run_id=RUNS[8])
    one_thing(store, RUNS[8], chance)
    store.fork_run(RUNS[4], new_flow_run_id=RUNS[9], node_ids=["a"])
    store.run(RUNS[10]).begin(attributes={"gone": True})
    store.delete_run(RUNS[10])
    store.delete_run(RUNS[7])


def told(store: ContextStore) -> dict[str, Told]:
    """All that the calls of runs tell. When deleted outputs were written is known where they were deleted alone."""
    answers = {}
    for name in RUNS:
        run = store.run(name)
        info = run.info()
        if info is not None:
            info = dataclasses.replace(info, first_written_at=None, last_written_at=None)
        answers[name] = (info, run.attempts(), run.list_state(), list(run.iter_outputs()))
    return answers


@pytest.fixture
def seed() -> int:
    made = random.randrange(2**32)
    print(f"seed {made}")
    return made


@pytest.fixture(params=ENGINES)
def source(request: pytest.FixtureRequest, seed: int) -> Iterator[ContextStore]:
    with ContextStore(new_location(request.param, request)) as store:
        fill(store, seed)
        yield store


@pytest.fixture(params=ENGINES)
def target(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[ContextStore]:
    place = tmp_path / "target.db" if request.param == "file" else new_location("postgres", request)
    with ContextStore(place) as store:
        yield store


def test_a_copy_tells_of_each_run_what_the_original_does(source: ContextStore, target: ContextStore) -> None:
    before = told(source)
    report = copy(source, target)
    assert told(target) == told(source) == before
    assert [run.flow_run_id for run in target.list_runs()] == [run.flow_run_id for run in source.list_runs()]
    failed = before[RUNS[4]][0]
    assert failed is not None
    assert failed.failures >= MANY
    assert copy(source, target) == report
    assert target.check().problems == ()
    assert list(export_records(target)) == list(export_records(source))


def test_a_copy_goes_on_where_the_original_was(source: ContextStore, target: ContextStore) -> None:
    copy(source, target)
    for name in (name for name in RUNS if source.get_run_info(name) is not None):
        ends = []
        for store in (source, target):
            run = store.run(name)
            with pytest.raises(ValueError, match="no"):
                run.step("a new one", fail)
            ends.append(
                (
                    run.append("log/", 1),
                    run.upsert_state("key", 1),
                    run.update(state="completed").failures,
                    [(attempt.node_id, attempt.number) for attempt in run.attempts()],
                )
            )
        assert ends[0] == ends[1]


def test_an_import_of_an_export_tells_the_same(source: ContextStore, target: ContextStore) -> None:
    records = list(export_records(source))
    for _ in range(2):
        import_records(target, records)
        assert told(target) == told(source)
        assert list(export_records(target)) == records
    assert target.check().problems == ()


def test_a_fork_has_outputs_their_attempts_and_state_and_nothing_that_was_said(source: ContextStore) -> None:
    for name, (info, attempts, states, outputs) in told(source).items():
        if info is None:
            continue
        fork = source.run(source.fork_run(name))
        assert [(one.node_id, one.value, one.tag) for one in fork.iter_outputs()] == [
            (one.node_id, one.value, one.tag) for one in outputs
        ]
        assert fork.attempts() == [attempt for attempt in attempts if attempt.error is None]
        assert fork.list_state() == states
        forked = fork.info()
        if outputs or states:
            assert forked is not None
        if forked is not None:
            assert (forked.state, forked.attributes, forked.parent, forked.error) == ("open", {}, None, None)
            assert (forked.begun_at, forked.failures, forked.outputs) == (None, 0, info.outputs)
        number = int(source.run(name).append("log/", 1).removeprefix("log/"))
        assert int(fork.append("log/", 1).removeprefix("log/")) == number
    assert source.check().problems == ()


def test_a_run_whose_facts_are_damaged_is_copied_with_all_else(
    target: ContextStore, tmp_path: pathlib.Path, seed: int
) -> None:
    with ContextStore(tmp_path / "damaged.db") as store:
        fill(store, seed)
        before = told(store)
    with contextlib.closing(sqlite3.connect(tmp_path / "damaged.db")) as connection, connection:
        connection.execute("UPDATE flow_runs SET checksum = 1 WHERE deleted_at IS NULL")
    with ContextStore(tmp_path / "damaged.db") as store:
        report = copy(store, target, damaged="skip")
    assert {problem.kind for problem in report.skipped} == {"run"}
    after = told(target)
    for name, (info, *rest) in before.items():
        there, *others = after[name]
        assert others == rest
        assert (there is None) == (info is None)
        if there is not None and info is not None:
            assert (there.outputs, there.failures, there.state) == (info.outputs, info.failures, "open")
