"""Errors from the disk: each call of a small program fails in turn, once or from then on; and a disk that is full.

What must hold: whatever was acknowledged is there afterwards; whatever was refused for certain is not; every error is
the library's own; only a write or sync of the WAL leaves an outcome unknown; nobody waits for ever; and once the fault
is over the same object goes on.

Run as a program this is the child, with the shim under it: it prints a line of JSON before and after each case.
"""

from __future__ import annotations

import dataclasses
import errno
import faulthandler
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from contextstore import ContextStore, ContextStoreError, StorageError, StoreFullError
from contextstore._sqlite import wal as _wal

from . import shim
from .facts import Facts, global_value_of, value_of
from .shim import ROOT, Shim
from .workload import ALL_PLANTS

GUARD_SECONDS = 30

KINDS = {"open": shim.OPEN, "write": shim.WRITE, "ftruncate": shim.TRUNCATE, "sync": shim.SYNC, "unlink": shim.UNLINK}


@dataclasses.dataclass(frozen=True)
class Fault:
    call: str
    error: int
    ever: bool
    half: bool = False

    def __str__(self) -> str:
        after = " after half of it" if self.half else ""
        return f"{self.call} fails with {errno.errorcode[self.error]}{after}, {'for good' if self.ever else 'once'}"


FAULTS = [
    *(Fault(call, error, ever) for call in KINDS for error in (errno.EIO, errno.ENOSPC) for ever in (False, True)),
    *(Fault("write", error, ever=False, half=True) for error in (errno.EIO, errno.ENOSPC)),
]


SHOWS = ["swallows errors"]
"""Which planted faults it shows."""

FULL = "a file system is full, then has room"


@dataclasses.dataclass(frozen=True)
class Result:
    fault: str
    number: int
    struck: str
    problems: list[str]

    def __str__(self) -> str:
        place = f"{self.fault}, call {self.number}, struck {self.struck!r}"
        return "\n  ".join([place, *self.problems[:6]])


# -- in the test -------------------------------------------------------------------------------------------------------


def run(
    library: pathlib.Path, folder: pathlib.Path, faults: list[tuple[Fault, int, int]], plant: str = ""
) -> Iterator[Result]:
    """For each fault: the small program with its first, and then every stride-th, call of that kind failing."""
    given = json.dumps([(dataclasses.asdict(fault), first, stride) for fault, first, stride in faults])
    process = shim.start(library, "tests.torture.errors", "faults", folder, given, plant)
    yield from _results(process)


def run_full(folder: pathlib.Path, seed: int, rounds: int) -> Iterator[Result]:
    """A file system of 2 MB that fills up, in a name space of its own. Raises shim.Unavailable."""
    mount = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"',
        "sh",
        str(folder),
    ]
    try:
        tried = subprocess.run([*mount, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        raise shim.Unavailable("there is no unshare(1) to mount a small file system with") from None
    if tried.returncode:
        raise shim.Unavailable(f"a small file system cannot be mounted here: {tried.stderr.strip()}")
    program = [sys.executable, "-m", "tests.torture.errors", "full", str(folder), str(seed), str(rounds)]
    process = subprocess.Popen(
        [*mount, *program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield from _results(process)


def _results(process: subprocess.Popen[str]) -> Iterator[Result]:
    assert process.stdout is not None
    assert process.stderr is not None
    fault, number = "?", 0
    for line in process.stdout:
        match json.loads(line):
            case ["begin", fault, number]:
                pass
            case ["end", fault, number, struck, problems]:
                yield Result(fault, number, struck, problems)
    err = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    if process.wait():
        yield Result(fault, number, "?", [f"crash or hang: ended with {process.returncode}: {err[-3000:]}"])


# -- in the child ------------------------------------------------------------------------------------------------------


class _Case:
    """The small program, and what became of each of its calls."""

    def __init__(self, path: pathlib.Path) -> None:
        self._store = ContextStore(path, timeout=5)
        self.path = path
        self.facts = Facts()
        self.problems: list[str] = []
        self.errors: list[ContextStoreError] = []
        self._refused: list[list[Any]] = []
        self._unknown: list[list[Any]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def _call(self, function: Callable[[], Any]) -> tuple[bool, Any]:
        try:
            return True, function()
        except StorageError as error:
            self.errors.append(error)
            return False, error
        except BaseException as error:
            self.problems.append(f"not an error of the library: {type(error).__name__}: {error}")
            return False, StorageError("?", True)

    def open(self) -> bool:
        return self._call(self._store.open)[0]

    def close(self) -> bool:
        return self._call(self._store.close)[0]

    def write(self, words: list[Any]) -> bool:
        with self._lock:
            attempt = f"a{next(self._numbers)}"
            self._tell("try", attempt, *words)
        done, result = self._call(lambda: _perform(self._store, attempt, words))
        with self._lock:
            if done:
                self._tell("ack", attempt, result)
            else:
                (self._unknown if result.outcome_unknown else self._refused).append(words)
        return done

    def _tell(self, *words: Any) -> None:
        self.facts.hear(json.dumps(words).encode())

    def sequence(self, part: str) -> None:
        self.write(["put", f"run-{part}", "1"])
        self.write(["upsert", "key"])
        self.write(["many", f"run-{part}", [f"many-{number}" for number in range(12)]])
        self.write(["batch", f"other-{part}", ["2", "3"], [f"batch-{part}"]])
        self.write(["delete", f"other-{part}"])
        self.write(["upsert", "key"])

    def crowd(self) -> None:
        def work(worker: int) -> None:
            for step in range(3):
                self.write(["put", f"crowd-{worker}", f"{step}"])

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def settle(self) -> None:
        """The fault is over: the same object goes on, and a retry settles what was not known."""
        before = len(self.errors)
        for words in self._unknown:
            if words[0] == "put":
                attempt = f"a{next(self._numbers)}"
                self._tell("try", attempt, *words)
                retry = lambda: self._store.put(*words[1:], value_of(*words[1:]), exist_ok=True)  # noqa: B023, E731
                if self._call(retry)[0]:
                    self._tell("ack", attempt, None)
        self.sequence("after")
        self.problems += [f"after the fault was over: {error!r}" for error in self.errors[before:]]
        del self.errors[before:]

    def judge(self, unknown_is_possible: bool) -> None:
        """Whether a store newly opened agrees with what was said."""
        self.problems += self.facts.disputes(self.path)
        if not unknown_is_possible:
            self.problems += [
                f"why unknown? {error}" for error in self.errors if getattr(error, "outcome_unknown", False)
            ]
        with ContextStore(self.path) as store:
            for words in self._refused:
                match words:
                    case ["put", run, node] if store.exists(run, node):
                        self.problems.append(f"{words} was refused for certain and is there")
                    case ["many", run, nodes] if store.get_many(run, nodes):
                        self.problems.append(f"{words} was refused for certain and is there")
                    case ["batch", run, nodes, keys] if store.get_many(run, nodes) or store.get_global(keys[0]):
                        self.problems.append(f"{words} was refused for certain and is there")


def _perform(store: ContextStore, attempt: str, words: list[Any]) -> Any:
    match words:
        case ["put", run, node]:
            return store.put(run, node, value_of(run, node))
        case ["many", run, nodes]:
            return store.put_many(run, {node: value_of(run, node) for node in nodes})
        case ["upsert", key]:
            return store.upsert_global(key, global_value_of(key, attempt))
        case ["delete", run]:
            return store.delete_run(run)
        case ["batch", run, nodes, keys]:
            with store.batch() as batch:
                for node in nodes:
                    batch.put(run, node, value_of(run, node))
                for key in keys:
                    batch.upsert_global(key, global_value_of(key, attempt))
            return None
    raise AssertionError(words)


def _faults(folder: pathlib.Path, fault: Fault, first: int, stride: int) -> None:
    _wal._CHECKPOINT_FRAMES = 12
    _wal._WAL_HEAD_START_BYTES = 2**17
    layer = Shim()
    for number in itertools.count(first, stride):
        _say("begin", str(fault), number)
        faulthandler.dump_traceback_later(GUARD_SECONDS, exit=True)
        place = folder / f"case-{number}"
        place.mkdir()
        layer.watch(place)
        layer.fail([KINDS[fault.call]], number, fault.error, ever=fault.ever, half=fault.half)
        case = _Case(pathlib.Path(os.path.realpath(place)) / "store.db")
        opened = case.open()
        if not opened:
            if fault.ever:
                layer.heal()
            opened = case.open()
            if not opened:
                case.problems.append(f"opened no second time: {case.errors[-1]!r}")
        if opened:
            case.sequence("before")
            case.crowd()
            alone = len([error for error in case.errors if not getattr(error, "outcome_unknown", False)])
            if not fault.ever and alone > 1:
                case.problems.append(f"{alone} callers were refused for one fault: {case.errors!r:.500}")
            if fault.ever and number % 2:
                case.close()  # while nothing works: it may fail, but not wait, and not with an error of others
                layer.heal()
            else:
                layer.heal()
                case.settle()
                if not case.close():
                    case.problems.append(f"close: {case.errors[-1]!r}")
            # What the WAL should have taken may be there or not; without room it is not, unless a sync found that out.
            hit_wal = fault.call in ("write", "sync") and (fault.ever or layer.struck.endswith("-wal"))
            case.judge(hit_wal and not (fault.call == "write" and fault.error == errno.ENOSPC))
        fired, struck = layer.fired, layer.struck
        layer.watch("")
        shutil.rmtree(place)
        faulthandler.cancel_dump_traceback_later()
        if not fired:
            return
        _say("end", str(fault), number, struck, [str(problem) for problem in case.problems])


def _full(folder: pathlib.Path, seed: int, rounds: int) -> None:
    for number in range(rounds):
        dice = random.Random(f"{seed}/{number}")
        _say("begin", FULL, number)
        faulthandler.dump_traceback_later(GUARD_SECONDS, exit=True)
        place = folder / f"round-{number}"
        place.mkdir()
        filler = folder / "filler"
        case = _Case(place / "store.db")
        # Full before the store is opened, or some time later.
        room = dice.choice([0, dice.randrange(100_000), dice.randrange(1_500_000)])
        _fill(filler, folder, room)
        opened = case.open()
        if not opened:
            _fill(filler, folder, 2**19)
            opened = case.open()
        if opened:
            for step in range(200):
                if not case.write(["many", f"run-{step}", [f"{part}" for part in range(10)]]):
                    break
            case.crowd()
            if not all(isinstance(error, StoreFullError) for error in case.errors):
                case.problems.append(f"other errors than that it is full: {case.errors!r:.500}")
            os.truncate(filler, 0)
            case.settle()
            case.close()
            case.judge(unknown_is_possible=False)
        else:
            case.problems.append(f"not opened, with room again: {case.errors!r:.500}")
        shutil.rmtree(place)
        faulthandler.cancel_dump_traceback_later()
        _say("end", FULL, number, f"{room} bytes left", [str(problem) for problem in case.problems])


def _fill(filler: pathlib.Path, folder: pathlib.Path, room: int) -> None:
    with open(filler, "wb") as file:
        there = os.statvfs(folder)
        file.write(bytes(max(0, there.f_bavail * there.f_frsize - room)))


def _say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["faults", folder, faults, plant]:
            if plant:
                ALL_PLANTS[plant]()
            for fault, first, stride in json.loads(faults):
                _faults(pathlib.Path(folder), Fault(**fault), first, stride)
        case ["full", folder, seed, rounds]:
            _full(pathlib.Path(folder), int(seed), int(rounds))
