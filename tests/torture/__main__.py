"""``python -m tests.torture --minutes N --seed S``: everything, again with other dice each time; a table at the end."""

from __future__ import annotations

import argparse
import errno
import os
import pathlib
import random
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from . import damage, errors, kills, leases, machine, parts, power, said, shim
from .workload import OTHER_PLANTS, PLANTS

CASES = 60
ROUNDS = 10
EXAMPLES, STEPS = 30, 40


ENOUGH = 60
"""Cases after which a fault that was planted must have been found: the rarest shows in one of twelve."""


class Table:
    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.others: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, kind: str, story: str | None, other: str = "") -> None:
        """A case; with its story if something was lost, wrong, refused that should not be, or never ended."""
        self.cases[kind] += 1
        self.others[kind][other] += bool(other)
        if story is not None:
            self.losses[kind] += 1
            if not kind.startswith("planted") and self.losses[kind] <= 5:
                print(f"{kind}: {story}\n", flush=True)

    def __str__(self) -> str:
        lines = [f"{'fault':72} {'cases':>7} {'losses':>7}"]
        for kind, cases in self.cases.items():
            others = ", ".join(f"{count} {other}" for other, count in self.others[kind].items() if count)
            lines.append(f"{kind:72} {cases:7} {self.losses[kind]:7}  {others}".rstrip())
        return "\n".join(lines)


Rounds = Iterator[None]
"""One part of the work: each step of it takes some seconds."""


def power_rounds(table: Table, lab: power.Lab, seed: int) -> Rounds:
    for turn in range(10**9):
        order = random.Random(f"{seed}/{turn}").sample(power.SCENARIOS, len(power.SCENARIOS))
        for scenario in order:
            dice = random.Random(f"{seed}/{turn}/{scenario}")
            recording = lab.record(scenario, power.lives_of(scenario, dice), dice.randrange(2**32))
            for finding in lab.cut(recording, power.choose_cases(recording, CASES, dice)):
                table.add(f"power cut: {scenario}", str(finding) if finding.problems else None)
            yield
            again = lab.go_on(recording, power.lives_of("killed, then resumed", dice), dice)
            for finding in lab.cut(again, power.choose_cases(again, CASES // 2, dice)):
                table.add("power cut: after a power cut, killed, resumed", str(finding) if finding.problems else None)
            yield


def kill_rounds(table: Table, fresh: Callable[[], pathlib.Path], seed: int) -> Rounds:
    for turn in range(10**9):
        with kills.Kills(fresh(), seed + turn) as processes:
            for result in processes.rounds(ROUNDS):
                kind = "SIGKILL: four processes, both faces, one file (rounds)"
                table.add(kind, str(result) if result.problems else None)
                table.others[kind]["killed"] += result.killed
                table.others[kind]["acknowledged"] += result.acknowledged
        yield


MODELS = {
    "model": machine.Machine,
    "model of parts of runs": parts.Machine,
    "model of what is said of runs": said.Machine,
}


def machine_rounds(table: Table, fresh: Callable[[], pathlib.Path], seed: int) -> Rounds:
    for turn in range(10**9):
        models = {
            "model": machine.Machine,
            "model of parts of runs": parts.Machine,
            "model of what is said": said.Machine,
        }
        for kind, model in models.items():
            name = f"{kind}: four stores, three processes (sequences of {STEPS} steps)"
            story = None
            try:
                machine.run(fresh(), seed + turn, examples=EXAMPLES, steps=STEPS, machine=model)
            except Exception:  # whatever the model found, and what it stumbled over: both are losses of the table
                story = f"seed {seed + turn}: {traceback.format_exc()}"
            table.add(name, story)
            table.cases[name] += EXAMPLES - 1
            yield


def other_planted_rounds(table: Table, library: pathlib.Path, fresh: Callable[[], pathlib.Path], seed: int) -> Rounds:
    fault = errors.Fault("sync", errno.EIO, ever=False)
    for turn in range(10**9):
        for name in OTHER_PLANTS:
            if name in kills.SHOWS:
                with kills.Kills(fresh(), seed + turn, name, guard_seconds=2) as processes:
                    for result in processes.rounds(2):
                        table.add(f"planted: {name} (rounds of SIGKILL)", str(result) if result.problems else None)
            if name in machine.SHOWS:
                story = None
                try:
                    machine.run(fresh(), seed + turn, examples=EXAMPLES, steps=STEPS, plant=name)
                except Exception as error:  # of whatever kind: that the plant was found is all that counts
                    story = repr(error)
                table.add(f"planted: {name} (model)", story)
            if name in errors.SHOWS:
                for struck in errors.run(library, fresh(), [(fault, 1, 7)], name):
                    table.add(f"planted: {name} (a sync fails)", str(struck) if struck.problems else None)
            yield


def planted_rounds(table: Table, lab: power.Lab, seed: int) -> Rounds:
    planted = [('durability="normal"', ["puts", "threads"], ["--durability", "normal"])]
    planted += [(name, power.SCENARIOS_OF_PLANTS[name], ["--plant", name]) for name in PLANTS]
    for turn in range(10**9):
        for name, scenarios, options in planted:
            for scenario in scenarios:
                dice = random.Random(f"{seed}/{turn}/{name}/{scenario}")
                recording = lab.record(scenario, power.lives_of(scenario, dice), dice.randrange(2**32), *options)
                cases = power.choose_cases(recording, CASES // 2, dice)
                for finding in lab.cut(recording, cases, sqlite_syncs_folders=name != "folder not synced"):
                    table.add(f"planted: {name}", str(finding) if finding.problems else None)
                yield


def error_rounds(table: Table, library: pathlib.Path, fresh: Callable[[], pathlib.Path], seed: int) -> Rounds:
    dice = random.Random(seed)
    for turn in range(10**9):
        for fault in errors.FAULTS:
            stride = {"write": 6, "sync": 3}.get(fault.call, 2)  # so many turns, and each call has failed
            for result in errors.run(library, fresh(), [(fault, 1 + turn % stride, stride)]):
                table.add(result.fault, str(result) if result.problems else None)
            yield
        try:
            for result in errors.run_full(fresh(), dice.randrange(2**32), 6):
                table.add(result.fault, str(result) if result.problems else None)
        except shim.Unavailable as reason:
            print(f"left out: {reason}")
        yield


def damage_rounds(table: Table, fresh: Callable[[], pathlib.Path], seed: int) -> Rounds:
    crafted = list(damage.CRAFTED)
    for turn in range(10**9):
        for flipped in damage.run(fresh(), "flips", seed + turn, 4):
            story = f"seed {seed + turn}: {flipped}" if flipped.outcome in ("broken", "unnoticed") else None
            table.add("a flipped bit", story, flipped.outcome)
        yield
        for name in crafted[turn * 4 : turn * 4 + 4]:
            for result in damage.run(fresh(), "crafted", name):
                table.add("a crafted file", str(result) if result.outcome == "broken" else None, result.outcome)
        yield


def lease_rounds(table: Table, fresh: Callable[[], pathlib.Path], seed: int, take_overs: int, seconds: float) -> Rounds:
    for turn in range(10**9):
        report = leases.torture(str(fresh() / "store.db"), seed + turn, take_overs, seconds)
        kind = f"{leases.NAMES} leases, {leases.WORKERS} processes, stopped and killed (take-overs)"
        table.add(kind, f"seed {seed + turn}: {report.problems}" if report.problems else None)
        table.cases[kind] += report.take_overs - 1
        table.others[kind]["killed"] += report.killed
        table.others[kind]["written"] += report.writes
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--take-overs", type=int, help="of leases: nothing else is done but so many")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    end = time.monotonic() + given.minutes * 60
    table = Table()
    with shim.scratch() as scratch:
        folder = pathlib.Path(scratch)
        numbers = iter(range(10**9))

        def fresh() -> pathlib.Path:
            place = folder / f"place-{next(numbers)}"
            place.mkdir()
            return place

        if given.take_overs:
            next(lease_rounds(table, fresh, given.seed, given.take_overs, given.minutes * 60))
            print(table)
            return int(any(table.losses.values()))
        try:
            lab = power.Lab(folder)
        except shim.Unavailable as reason:
            print(f"nothing was tried: {reason}")
            return 2
        parts = [
            power_rounds(table, lab, given.seed),
            power_rounds(table, lab, given.seed + 1),  # it is what matters most
            kill_rounds(table, fresh, given.seed),
            machine_rounds(table, fresh, given.seed),
            planted_rounds(table, lab, given.seed),
            other_planted_rounds(table, folder / "shim.so", fresh, given.seed),
            error_rounds(table, folder / "shim.so", fresh, given.seed),
            damage_rounds(table, fresh, given.seed),
            lease_rounds(table, fresh, given.seed, 60, 15),
        ]
        while time.monotonic() < end and parts:
            for part in parts.copy():
                try:
                    next(part)
                except Exception as error:  # the others go on, and the table is shown
                    traceback.print_exc()
                    table.add("the tool itself", repr(error))
                    parts.remove(part)
    print(table)
    unfound = [kind for kind, cases in table.cases.items() if cases >= ENOUGH and not table.losses[kind]]
    blind = [kind for kind in unfound if kind.startswith("planted")]
    for kind in blind:
        print(f"{kind}: {ENOUGH} cases and more did not find it; the other figures prove little")
    return int(bool(blind) or any(losses for kind, losses in table.losses.items() if not kind.startswith("planted")))


if __name__ == "__main__":
    sys.exit(main())
