"""Power loss: record what programs ask of the disk, cut at some point of it, open what is found, and compare.

A case is (log, cut, fate, seed): with the log kept, it can be looked at again as often as needed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pathlib
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from . import shim
from .disk import FATES, Disk, Fate
from .facts import Facts, Problem
from .shim import MARK, Record
from .workload import STORE

GUARD_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Life:
    """One run of a program. ``kill`` is what --kill takes; lives with ``beside`` run beside the one before."""

    program: str
    options: tuple[str, ...] = ()
    kill: tuple[int, ...] = ()
    beside: bool = False


@dataclasses.dataclass(frozen=True)
class Recording:
    scenario: str
    seed: int
    records: Sequence[Record]
    content: dict[str, bytes]
    """What the folder held before."""
    facts: Facts
    """What was known before."""


@dataclasses.dataclass(frozen=True)
class Finding:
    recording: Recording
    cut: int
    """How many records of the log had come to pass."""
    fate: Fate
    seed: int
    known: int
    """How many facts had been told by then."""
    problems: list[Problem]

    def __str__(self) -> str:
        place = f"{self.recording.scenario} seed {self.recording.seed}, cut {self.cut}, {self.fate}, dice {self.seed}"
        return "\n  ".join([place, *self.problems[:6]])


class Lab:
    """Where programs are recorded and cuts are made."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._library = shim.build(folder)
        self._numbers = itertools.count()

    def _fresh(self, content: dict[str, bytes] | None = None) -> pathlib.Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        for name, data in (content or {}).items():
            (folder / name).write_bytes(data)
        return folder

    def record(
        self,
        scenario: str,
        lives: Sequence[Life],
        seed: int,
        *options: str,
        content: dict[str, bytes] | None = None,
        facts: Facts | None = None,
    ) -> Recording:
        folder = self._fresh(content)
        log = folder.with_suffix(".log")
        log.touch()
        running: list[tuple[Life, subprocess.Popen[str]]] = []
        for number, life in enumerate(lives):
            if not life.beside:
                _finish(running)
            arguments: list[Any] = [life.program, folder, log, seed, *options, *life.options]
            # A later life does again what an earlier one did, unless both run at the same time.
            arguments += ["--name", f"p{number}-"] if life.beside else []
            arguments += ["--kill", *life.kill] if life.kill else []
            running.append((life, shim.start(self._library, "tests.torture.workload", *arguments)))
        _finish(running)
        records = list(shim.read_log(log))
        shutil.rmtree(folder)
        log.unlink()
        return Recording(scenario, seed, records, dict(content or {}), Facts() if facts is None else facts)

    def cut(
        self, recording: Recording, cases: Sequence[tuple[int, Fate, int]], sqlite_syncs_folders: bool = True
    ) -> Iterator[Finding]:
        """Each case in turn, by rising cuts: how many records had come to pass, what then, and the dice's seed."""
        for cut, fate, seed, content, facts in self._states(recording, cases, sqlite_syncs_folders):
            folder = self._fresh(content)
            problems = facts.disputes(folder / STORE, seed)
            shutil.rmtree(folder)
            yield Finding(recording, cut, fate, seed, len(facts), problems)

    def _states(
        self, recording: Recording, cases: Sequence[tuple[int, Fate, int]], sqlite_syncs_folders: bool = True
    ) -> Iterator[tuple[int, Fate, int, dict[str, bytes], Facts]]:
        disk = Disk(recording.content, sqlite_syncs_folders)
        facts = copy.deepcopy(recording.facts)
        done = 0
        for cut, fate, seed in sorted(cases):
            for record in recording.records[done:cut]:
                if record.kind == MARK:
                    facts.hear(record.data)
                else:
                    disk.do(record)
            done = cut
            yield cut, fate, seed, disk.found(fate, random.Random(seed)), facts

    def go_on(self, recording: Recording, lives: Sequence[Life], dice: random.Random, *options: str) -> Recording:
        """A power cut somewhere in the recording, and then the lives, recorded on what was found."""
        cut = dice.randint(1, len(recording.records))
        ((_, _, _, content, facts),) = self._states(recording, [(cut, dice.choice(FATES), dice.randrange(2**32))])
        name = f"{recording.scenario}, cut, {lives[0].program}"
        return self.record(name, lives, recording.seed, *options, content=content, facts=copy.deepcopy(facts))


def _finish(running: list[tuple[Life, subprocess.Popen[str]]]) -> None:
    """Wait for these programs. One that was to be killed may also have come to its end before that."""
    while running:
        life, process = running.pop()
        try:
            _, err = process.communicate(timeout=GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"{life} hung") from None
        if process.returncode != 0 and not (life.kill and process.returncode == -9):
            raise AssertionError(f"{life} ended with {process.returncode}:\n{err}")


def choose_cases(recording: Recording, count: int, dice: random.Random) -> list[tuple[int, Fate, int]]:
    """A third of the cuts anywhere, a third just after an acknowledgement, a third just after something was seen."""
    places: list[Sequence[int]] = [range(1, len(recording.records) + 1)]
    for word in (b'["ack"', b'["saw"'):
        places.append([number + 1 for number, record in enumerate(recording.records) if record.data.startswith(word)])
    return [
        (dice.choice(dice.choice([place for place in places if place])), dice.choice(FATES), dice.randrange(2**32))
        for _ in range(count)
    ]


# -- what is tried -----------------------------------------------------------------------------------------------------


def _killed(program: str, dice: random.Random) -> Life:
    kills: list[tuple[int, ...]] = [
        # In the place of a sync: what was committed stands in the WAL then, and was not synced.
        (dice.randint(14, 40), shim.SYNC),
        # In the place of the first syncs of a new WAL, and of the folder that it is in.
        (dice.randint(12, 17), shim.SYNC),
        (dice.randint(5, 250), *shim.DISK_CALLS),
    ]
    return Life(program, kill=dice.choice(kills))


def _killed_at_sync(dice: random.Random) -> Life:
    # Without checkpoints each sync is that of a commit.
    return Life("puts", ("--checkpoint-frames", "1000"), (dice.randint(17, 30), shim.SYNC))


def lives_of(scenario: str, dice: random.Random) -> list[Life]:
    match scenario:
        case "killed at a sync, then resumed":
            return [_killed_at_sync(dice), Life("resume")]
        case "killed at a sync, then read":
            return [_killed_at_sync(dice), Life("glance")]
        case "killed, then resumed":
            return [_killed("resume", dice), Life("resume")]
        case "killed twice, then resumed":
            return [_killed("resume", dice), _killed("resume", dice), Life("resume")]
        case "killed, then read":
            return [_killed("resume", dice), Life("glance")]
        case "two processes":
            return [Life("threads"), Life("threads", beside=True)]
        case "two processes, one killed":
            return [Life("threads"), dataclasses.replace(_killed("threads", dice), beside=True), Life("resume")]
        case "a sync fails":
            return [Life("resume", ("--fail-sync", str(dice.randint(1, 40))))]
        case "killed, then a sync fails":
            return [_killed("resume", dice), Life("resume", ("--fail-sync", str(dice.randint(1, 6))))]
        case "killed while it prunes, then prunes":
            return [_killed("prunes", dice), Life("prunes", ("--name", "again-"))]
        case "small WAL":
            return [Life("threads", ("--truncate-bytes", "40000"))]
        case "as shipped":
            return [Life("threads", ("--checkpoint-frames", "1000", "--head-start-bytes", str(4 * 2**20)))]
        case program:
            return [Life(program)]


SCENARIOS = [
    "create",
    "puts",
    "tasks",
    "threads",
    "reopen",
    "backup",
    "prunes",
    "killed while it prunes, then prunes",
    "small WAL",
    "two processes",
    "two processes, one killed",
    "killed, then resumed",
    "killed twice, then resumed",
    "killed, then read",
    "a sync fails",
    "killed, then a sync fails",
    "as shipped",
]

# Where each planted fault can do harm at all: frames are adopted only after a kill. The folder's sync matters only
# where SQLite was built to leave its own out.
SCENARIOS_OF_PLANTS = {
    "synchronous=OFF": ["puts", "threads"],
    "acknowledged before COMMIT": ["puts", "threads"],
    "adopted frames not synced": ["killed at a sync, then read", "killed at a sync, then resumed"],
    "folder not synced": ["killed at a sync, then resumed"],
}
