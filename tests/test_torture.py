"""Power cuts, disk errors and damage, a little of each: ``make torture`` does the same for as long as you like."""

from __future__ import annotations

import os
import pathlib
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from .torture import damage, errors, power, shim
from .torture.workload import PLANTS

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


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


@pytest.mark.parametrize("scenario", power.SCENARIOS)
def test_after_a_power_cut_all_that_was_told_holds(lab: power.Lab, scenario: str, seed: int) -> None:
    assert lossy(cut(lab, scenario, seed, 12)) == []


def test_after_two_power_cuts_all_that_was_told_holds(lab: power.Lab, seed: int) -> None:
    dice = random.Random(seed)
    first = lab.record("threads", [power.Life("threads")], seed)
    second = lab.go_on(first, power.lives_of("killed, then resumed", dice), dice)
    assert lossy(list(lab.cut(second, power.choose_cases(second, 20, dice)))) == []


def test_with_relaxed_durability_a_power_cut_loses_acknowledged_writes(lab: power.Lab, seed: int) -> None:
    assert lossy(cut(lab, "puts", seed, 20, "--durability", "normal"))


@pytest.mark.parametrize("plant", PLANTS)
def test_without_one_of_its_cures_the_store_is_found_to_lose(lab: power.Lab, plant: str, seed: int) -> None:
    scenario, *_ = power.SCENARIOS_OF_PLANTS[plant]
    for attempt in range(12):
        # SQLite syncs the folder of each new file itself, unless it was built not to.
        sqlite_syncs_folders = plant != "folder not synced"
        options = ("--plant", plant)
        if lossy(cut(lab, scenario, seed + attempt, 12, *options, sqlite_syncs_folders=sqlite_syncs_folders)):
            return
    pytest.fail(f"nothing was lost with {plant}")


# -- errors from the disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", errors.KINDS)
def test_an_error_of_the_disk_is_told_truly_and_passes(
    lab: power.Lab, scratch: pathlib.Path, folder: pathlib.Path, call: str, seed: int
) -> None:
    stride = {"write": 61, "sync": 7}.get(call, 5)
    first = random.Random(seed).randint(1, stride if call in ("write", "sync") else 1)
    faults = [fault for fault in errors.FAULTS if fault.call == call]
    results = list(errors.run(scratch / "shim.so", folder, [(fault, first, stride) for fault in faults]))
    assert {result.fault for result in results} == {str(fault) for fault in faults}, "one struck nothing"
    assert [str(result) for result in results if result.problems] == []


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


def test_crafted_files_do_no_harm(folder: pathlib.Path) -> None:
    results = list(damage.run(folder, "crafted", *damage.CRAFTED))
    assert [result.case for result in results] == list(damage.CRAFTED)
    assert [result for result in results if result.outcome not in ("right", "refused")] == []
