"""Power cuts, kills, disk errors and damage, a little of each: ``make torture`` does it for as long as you like."""

from __future__ import annotations

import errno
import os
import pathlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis.errors import Flaky

from ..support.portions import some
from . import damage, errors, kills, machine, parts, power, said, shim
from .workload import OTHER_PLANTS, PLANTS

pytestmark = pytest.mark.one_python

QUICK = ["puts", "prunes", "two processes, one killed"]


def slow_but(quick: Sequence[str], names: Sequence[str]) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def scratch() -> Iterator[pathlib.Path]:
    with shim.scratch() as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="module")
def lab(scratch: pathlib.Path) -> power.Lab:
    try:
        return power.Lab(scratch)
    except shim.Unavailable as reason:
        unavailable(str(reason))


def unavailable(reason: str) -> None:
    """On a developer's machine a fault tool may be missing; where it is relied upon it may not."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("TORTURE_SEED", random.randrange(2**32)))
    print(f"TORTURE_SEED={seed}")
    return seed


@pytest.fixture
def folder(scratch: pathlib.Path, request: pytest.FixtureRequest) -> pathlib.Path:
    place = scratch / f"test-{abs(hash(request.node.nodeid))}"
    place.mkdir()
    return place


def cut(
    lab: power.Lab, scenario: str, seed: int, cases: int, *options: str, sqlite_syncs_folders: bool = True
) -> list[power.Finding]:
    dice = random.Random(f"{seed}/{scenario}")
    recording = lab.record(scenario, power.lives_of(scenario, dice), seed, *options)
    chosen = power.choose_cases(recording, cases, dice)
    return list(lab.cut(recording, chosen, sqlite_syncs_folders))


def lossy(findings: list[power.Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.problems]


# -- power cuts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", slow_but(QUICK, power.SCENARIOS))
def test_after_a_power_cut_all_that_was_told_holds(lab: power.Lab, scenario: str, seed: int) -> None:
    assert lossy(cut(lab, scenario, seed, 12)) == []


@pytest.mark.slow
def test_after_two_power_cuts_all_that_was_told_holds(lab: power.Lab, seed: int) -> None:
    dice = random.Random(seed)
    first = lab.record("threads", [power.Life("threads")], seed)
    second = lab.go_on(first, power.lives_of("killed, then resumed", dice), dice)
    assert lossy(list(lab.cut(second, power.choose_cases(second, 20, dice)))) == []


@pytest.mark.slow
def test_with_relaxed_durability_a_power_cut_loses_acknowledged_writes(lab: power.Lab, seed: int) -> None:
    assert lossy(cut(lab, "puts", seed, 20, "--durability", "normal"))


@pytest.mark.parametrize("plant", slow_but(["acknowledged before COMMIT"], list(PLANTS)))
def test_without_one_of_its_cures_the_store_is_found_to_lose(lab: power.Lab, plant: str, seed: int) -> None:
    scenario, *_ = power.SCENARIOS_OF_PLANTS[plant]
    for attempt in range(12):
        # SQLite syncs the folder of each new file itself, unless it was built not to.
        sqlite_syncs_folders = plant != "folder not synced"
        options = ("--plant", plant)
        if lossy(cut(lab, scenario, seed + attempt, 12, *options, sqlite_syncs_folders=sqlite_syncs_folders)):
            return
    pytest.fail(f"nothing was lost with {plant}")


# -- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [some(5, 2), pytest.param(50, marks=pytest.mark.slow)])
def test_whoever_is_killed_what_was_acknowledged_is_there(folder: pathlib.Path, seed: int, rounds: int) -> None:
    with kills.Kills(folder, seed) as processes:
        results = list(processes.rounds(rounds))
    assert [str(result) for result in results if result.problems] == []
    assert sum(result.killed for result in results) >= rounds / 2
    assert sum(result.acknowledged for result in results) > rounds


# -- a model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [some(8, 3), pytest.param(100, marks=pytest.mark.slow)])
def test_stores_of_several_processes_answer_as_a_dict_does(folder: pathlib.Path, seed: int, examples: int) -> None:
    machine.run(folder, seed, examples=examples, steps=30)


@pytest.mark.parametrize("examples", [some(8, 3), pytest.param(100, marks=pytest.mark.slow)])
def test_they_answer_as_a_model_of_the_parts_of_runs_does(folder: pathlib.Path, seed: int, examples: int) -> None:
    machine.run(folder, seed, examples=examples, steps=30, machine=parts.Machine)


@pytest.mark.parametrize(
    "examples", [pytest.param(8, marks=pytest.mark.thorough), pytest.param(100, marks=pytest.mark.slow)]
)
def test_they_answer_as_a_model_of_what_is_said_of_runs_does(folder: pathlib.Path, seed: int, examples: int) -> None:
    machine.run(folder, seed, examples=examples, steps=40, machine=said.Machine)


# -- faults that no power cut shows -----------------------------------------------------------------------------------


def test_every_planted_fault_is_looked_for_somewhere() -> None:
    assert set(kills.SHOWS + machine.SHOWS + errors.SHOWS) == set(OTHER_PLANTS)
    assert power.SCENARIOS_OF_PLANTS.keys() == PLANTS.keys()


@pytest.mark.parametrize("plant", slow_but(["replaces instead of refusing"], kills.SHOWS))
def test_a_planted_fault_is_found_by_the_kills(folder: pathlib.Path, seed: int, plant: str) -> None:
    with kills.Kills(folder, seed, plant, guard_seconds=3) as processes:
        for result in processes.rounds(20):
            if result.problems:
                word = {"forgets a caller": "hangs", "leaves a thread behind": "left a thread"}.get(plant, "were told")
                assert any(word in problem for problem in result.problems), result
                return
    pytest.fail(f"nothing was found of a store that {plant}")


@pytest.mark.slow
@pytest.mark.parametrize("plant", machine.SHOWS)
def test_a_planted_fault_is_found_by_the_model(folder: pathlib.Path, seed: int, plant: str) -> None:
    # A kill comes at a moment of its own, and what it has shown may not show again: hypothesis calls that flaky.
    with pytest.raises((AssertionError, Flaky)):
        machine.run(folder, seed, examples=100, steps=30, plant=plant)


@pytest.mark.slow
@pytest.mark.parametrize("plant", errors.SHOWS)
def test_a_planted_fault_is_found_by_the_errors_of_the_disk(
    lab: power.Lab, scratch: pathlib.Path, folder: pathlib.Path, plant: str
) -> None:
    fault = errors.Fault("sync", errno.EIO, ever=False)
    assert [result for result in errors.run(scratch / "shim.so", folder, [(fault, 1, 3)], plant) if result.problems]


# -- errors from the disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", slow_but(["ftruncate"], list(errors.KINDS)))
def test_an_error_of_the_disk_is_told_truly_and_passes(
    lab: power.Lab, scratch: pathlib.Path, folder: pathlib.Path, call: str, seed: int
) -> None:
    stride = {"write": 61, "sync": 7}.get(call, 5)
    first = random.Random(seed).randint(1, stride if call in ("write", "sync") else 1)
    faults = [fault for fault in errors.FAULTS if fault.call == call]
    results = list(errors.run(scratch / "shim.so", folder, [(fault, first, stride) for fault in faults]))
    assert {result.fault for result in results} == {str(fault) for fault in faults}, "one struck nothing"
    assert [str(result) for result in results if result.problems] == []


@pytest.mark.slow
def test_a_full_disk_refuses_writes_until_there_is_room_again(folder: pathlib.Path, seed: int) -> None:
    try:
        results = list(errors.run_full(folder, seed, 3))
    except shim.Unavailable as reason:
        pytest.skip(str(reason))
    assert len(results) == 3
    assert [str(result) for result in results if result.problems] == []


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_never_changes_a_value(folder: pathlib.Path, seed: int) -> None:
    results = list(damage.run(folder, "flips", seed, 2))
    outcomes = Counter(result.outcome for result in results)
    print(outcomes)
    assert outcomes["refused"]
    assert outcomes["right"]
    assert [result for result in results if result.outcome in ("broken", "unnoticed")] == []


@pytest.mark.slow
def test_crafted_files_do_no_harm(folder: pathlib.Path) -> None:
    results = list(damage.run(folder, "crafted", *damage.CRAFTED))
    assert [result.case for result in results] == list(damage.CRAFTED)
    assert [result for result in results if result.outcome not in ("right", "refused")] == []
