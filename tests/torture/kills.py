"""SIGKILL at any moment: four processes at work on one file, of both faces, some of them killed; again and again.

What each process tries and is told it writes, line by line and unbuffered, to a log of its own. After each round a copy
of what lies on the disk is opened and compared with the logs: what was acknowledged is there with its value, of those
who put to one key one has won, a batch is there whole or not at all, nothing is there that nobody has put, and the file
is sound. Who was not killed must have come to his end, in his right mind and with no thread left behind.

Run as a program this is the nursery of the processes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import pathlib
import random
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Self

from contextstore import AsyncContextStore, ContextStore
from contextstore._sqlite import wal as _wal

from . import nursery
from .facts import Facts
from .workload import ALL_PLANTS, STORE, Teller, perform, perform_async, plan

FACES = ["async", "sync", "async", "sync"]
ROUNDS_A_FILE = 5
CONTESTED = "contested"

# Which planted faults it shows.
SHOWS = ["replaces instead of refusing", "forgets a caller", "leaves a thread behind"]


@dataclasses.dataclass(frozen=True)
class Round:
    seed: int
    number: int
    killed: int
    """How many of the processes were still at work when they were killed."""
    acknowledged: int
    problems: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"seed {self.seed}, round {self.number}", *self.problems[:6]])


class Kills:
    """Rounds without end. ``folder`` is empty; what is planted, if anything, is named in ``workload``."""

    def __init__(self, folder: pathlib.Path, seed: int, plant: str = "", guard_seconds: float = 30) -> None:
        self._folder = folder
        self._seed = seed
        self._guard_seconds = guard_seconds
        self._nursery = nursery.Nursery("tests.torture.kills", plant, errors=folder / "errors")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._nursery.close()

    def rounds(self, count: int) -> Iterator[Round]:
        facts, place = Facts(), self._folder
        for number in range(count):
            if number % ROUNDS_A_FILE == 0:
                facts, place = Facts(), self._folder / f"file-{number}"
                place.mkdir()
            dice = random.Random(f"{self._seed}/{number}")
            before = len(facts)
            killed, problems = self._round(place, number, dice)
            # What one has tried must be known before what another was told of it.
            marks = [mark for log in sorted(place.glob(f"{number}-*.log")) for mark in log.read_bytes().splitlines()]
            for mark in sorted(marks, key=lambda mark: not mark.startswith(b'["try"')):
                facts.hear(mark)
            copied = place / "copy"
            copied.mkdir()
            for name in (STORE, f"{STORE}-wal"):
                if (place / name).exists():
                    shutil.copy(place / name, copied)
            problems += map(str, facts.disputes(copied / STORE, dice.randrange(2**32)))
            shutil.rmtree(copied)
            yield Round(self._seed, number, killed, len(facts) - before, problems)
            if number % ROUNDS_A_FILE == ROUNDS_A_FILE - 1:
                shutil.rmtree(place)

    def _round(self, place: pathlib.Path, number: int, dice: random.Random) -> tuple[int, list[str]]:
        problems: list[str] = []
        seconds = dice.uniform(0.05, 0.4)
        children = [self._nursery.child() for _ in FACES]
        for worker, (child, face) in enumerate(zip(children, FACES, strict=True)):
            child.tell(str(place), face, f"{number}-{worker}", dice.randrange(2**32), seconds)
        # Some at the same moment, as when the machine runs out of memory; some one after the other.
        doomed = dice.sample(children, dice.randint(1, len(children)))
        moments = [dice.uniform(0, seconds)] * len(doomed)
        if dice.random() < 0.6:
            moments = sorted(dice.uniform(0, seconds) for _ in doomed)
        started = time.monotonic()
        for child, moment in zip(doomed, moments, strict=True):
            time.sleep(max(0.0, started + moment - time.monotonic()))
            child.kill()
        killed = 0
        end = started + seconds + self._guard_seconds
        for worker, child in enumerate(children):
            try:
                problems += [f"worker {worker}: {problem}" for problem in child.hear(max(0.0, end - time.monotonic()))]
            except EOFError:
                killed += 1
                if child not in doomed:
                    problems.append(f"worker {worker} died: {(self._folder / 'errors').read_text()[-1500:]}")
            except nursery.HungError as error:
                problems.append(f"worker {worker} hangs in round {number}: {error}")
                child.kill()
            child.close()
        return killed, problems


# -- in a process ------------------------------------------------------------------------------------------------------


class _Log:
    def __init__(self, path: pathlib.Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def mark(self, *words: Any) -> None:
        os.write(self._descriptor, json.dumps(words).encode() + b"\n")


def _words(dice: random.Random, name: str, round_name: str, end: float) -> Iterator[list[Any]]:
    """What one task or thread does until the end: its own plan, and in between what all try to put."""
    contests = itertools.count()
    while time.monotonic() < end:
        for words in plan(dice, name, 10**9):
            if time.monotonic() > end:
                return
            yield words
            if dice.random() < 0.4:
                yield ["contest", CONTESTED, f"{round_name}/{next(contests)}"]


def _work(folder: pathlib.Path, face: str, name: str, seed: int, seconds: float) -> list[str]:
    """Problems, of which there should be none."""
    teller = Teller(_Log(folder / f"{name}.log"), folder)
    round_name = name.partition("-")[0]

    def words_of(task: int) -> Iterator[list[Any]]:
        end = time.monotonic() + seconds  # from here on: on a busy machine the opening alone takes longer
        return _words(random.Random(f"{seed}/{task}"), f"{name}-{task}", round_name, end)

    async def work_async() -> None:
        async def work(store: AsyncContextStore, task: int) -> None:
            for words in words_of(task):
                await perform_async(store, teller, words)

        async with AsyncContextStore(folder / STORE) as store:
            await asyncio.gather(*(work(store, task) for task in range(4)))

    def work_sync() -> None:
        failures: list[BaseException] = []

        def work(store: ContextStore, task: int) -> None:
            try:
                for words in words_of(task):
                    perform(store, teller, words)
            except BaseException as error:
                failures.append(error)

        with ContextStore(folder / STORE) as store:
            threads = [threading.Thread(target=work, args=(store, task)) for task in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]

    try:
        if face == "async":
            asyncio.run(work_async())
        else:
            work_sync()
    except BaseException:
        return [traceback.format_exc()]
    return [f"close() left a thread: {thread}" for thread in nursery.own_threads_left()]


def _serve(connection: Connection) -> None:
    folder, face, name, seed, seconds = connection.recv()
    connection.send(_work(pathlib.Path(folder), face, name, seed, seconds))
    nursery.wait_for_end(connection)


def main() -> None:
    _, _, control, plant = sys.argv
    _wal._CHECKPOINT_FRAMES = 60  # some in each round
    if plant:
        ALL_PLANTS[plant]()
    nursery.keep(int(control), _serve)


if __name__ == "__main__":
    main()
