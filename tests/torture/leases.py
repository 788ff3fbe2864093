"""Workers that share leases, stopped and killed at random: no stale write is stored, and tokens rise.

Each holder appends its token to its lease's run, under the lease, again and again. Appends stand in the order of the
commits. So a token behind a higher one would be a stale write; there is no other way to get one stored.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any, NamedTuple, Self

from contextstore import ContextStore, LeaseHeldError, LeaseLostError, StorageError
from contextstore._engine.lease_operations import ExpectLease
from contextstore._sqlite import leases

from .shim import ROOT

NAMES = 32
WORKERS = 4
TTLS = (0.05, 0.2)
_THREADS = 12
UNFENCED = "unfenced"
"""Planted: the engine does not look at the token."""


class Report(NamedTuple):
    """What has come of it."""

    take_overs: int
    """How many holders have found that another has taken their lease."""
    killed: int
    writes: int
    problems: list[str]


def work(place: str, seed: int, plant: str) -> None:
    """What a worker does, until it is killed: its threads take what lease they find, and write under it."""
    if plant == UNFENCED:
        apply = leases.apply
        leases.apply = lambda here, there, one: None if isinstance(one, ExpectLease) else apply(here, there, one)
    with ContextStore(place, durability="normal", timeout=60) as store:
        threads = [threading.Thread(target=_hold, args=(store, f"{seed}/{n}")) for n in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _hold(store: ContextStore, seed: str) -> None:
    dice = random.Random(seed)
    while True:
        name = f"lease-{dice.randrange(NAMES):02}"
        try:
            with store.lease(name, ttl=dice.uniform(*TTLS), wait=0.05) as lease:
                run = store.run(name, lease=lease)
                ends = time.monotonic() + dice.uniform(0.1, 1)
                while time.monotonic() < ends:
                    try:
                        run.append("token/", lease.token)
                    except LeaseLostError:
                        print("taken", flush=True)
                        break
                    time.sleep(dice.uniform(0, 0.02))
        except (LeaseHeldError, StorageError):
            continue


class Workers:
    """Those that are at it, and what they say."""

    def __init__(self, place: str, seed: int, plant: str) -> None:
        self._place = place
        self._plant = plant
        self._listeners: list[threading.Thread] = []
        self._seeds = itertools.count(seed)
        self.take_overs = 0
        self.killed = 0
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for _ in range(WORKERS):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self._listeners:
            thread.join()

    def _start(self) -> None:
        command = [sys.executable, "-m", __spec__.name, self._place, str(next(self._seeds)), self._plant]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        listener = threading.Thread(target=self._listen, args=(process,))
        self._listeners.append(listener)
        listener.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as said:
            for line in said:
                self.take_overs += line == "taken\n"

    def disturb(self, dice: random.Random) -> None:
        """Stop one for a while, or two; now and then kill it instead, and have another in its place."""
        victims = dice.sample(self._processes, dice.choice([1, 2, 2]))
        for victim in victims:
            victim.send_signal(signal.SIGSTOP)
        time.sleep(dice.uniform(0.05, 0.35))
        for victim in victims:
            if dice.random() < 0.03:
                victim.kill()
                victim.wait()
                self._processes.remove(victim)
                self.killed += 1
                self._start()
            else:
                victim.send_signal(signal.SIGCONT)
        time.sleep(dice.uniform(0, 0.05))


def torture(place: str, seed: int, take_overs: int, seconds: float, plant: str = "") -> Report:
    """Go on until so many leases were taken over, or so long."""
    dice = random.Random(seed)
    with ContextStore(place) as store:
        store.put("made", "node", 1)
    deadline = time.monotonic() + seconds
    with Workers(place, seed, plant) as workers:
        while workers.take_overs < take_overs and time.monotonic() < deadline:
            workers.disturb(dice)
    with ContextStore(place) as store:
        problems, writes = judged(store)
        return Report(workers.take_overs, workers.killed, writes, problems)


def judged(store: Any) -> tuple[list[str], int]:
    """Whatever is wrong with what was written, and how much that was."""
    problems: list[str] = []
    holders: Counter[int] = Counter()
    writes = 0
    for run in store.list_runs(prefix="lease-", limit=NAMES):
        last = 0
        for output in store.iter_outputs(run.flow_run_id):
            writes += 1
            if output.value < last:
                problems.append(f"{run.flow_run_id}: token {output.value} was written behind token {last}")
            elif output.value > last:
                holders[output.value] += 1
            last = max(last, output.value)
    problems += [f"token {token} was given {times} times" for token, times in holders.items() if times > 1]
    problems += [str(problem) for problem in store.check().problems]
    return problems, writes


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
