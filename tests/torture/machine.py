"""A model: whatever is done, by whichever store object of whichever process, the answers are those of a dict.

Four stores are open on one file, one of each face in this process and one of each in a process of its own. They are
used in turn, closed and opened anew, and the processes are killed, also in the middle of a write; then the write is
there whole or not at all, and whichever it is stays so. Hypothesis chooses what is done, and makes a failure short.

Run as a program this is the nursery of the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

import hypothesis
import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    ContextStoreError,
    RunDeletedError,
    VersionConflictError,
)

from . import nursery
from .workload import ALL_PLANTS, STORE

GUARD_SECONDS = 20.0
NOW = datetime.timedelta(0)
MISSING = "there is nothing"

# Which planted faults it shows.
SHOWS = ["replaces instead of refusing", "leaves a thread behind"]

STORES = st.integers(0, 3)
PROCESSES = st.integers(2, 3)
RUNS = st.sampled_from(["a", "b", "é'%s"])
NODES = st.sampled_from(["x", "y", "xy", "{0}", "\U0001f600"])
KEYS = st.sampled_from(["", "k"])
# A write takes about half a millisecond, and the opening before it, if it is the first one, some more.
MOMENTS = st.one_of(st.integers(0, 1500), st.integers(0, 15_000))
VALUES = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, "", "null", b"", b"null", [], {"a": 1, "b": 2}, {"b": 2, "a": 1}]),
    st.integers(0, 20_000).map(lambda size: "v" * size),
    st.binary(max_size=50),
)


def text_of(value: Any) -> Any:
    return value if isinstance(value, bytes) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def same(one: Any, other: Any) -> bool:
    return isinstance(one, bytes) == isinstance(other, bytes) and text_of(one) == text_of(other)


# -- doors to a store --------------------------------------------------------------------------------------------------


class Door(Protocol):
    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any: ...

    def close(self) -> None: ...


class Here:
    """A store of this process."""

    def __init__(self, face: str, path: pathlib.Path, **options: Any) -> None:
        self._runner = asyncio.Runner() if face == "async" else None
        self._store: Any = AsyncContextStore(path, **options) if self._runner else ContextStore(path, **options)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        if name == "batch":
            return self._batch(*args)
        result = getattr(self._store, name)(*args, **kwargs)
        return self._runner.run(result) if self._runner else result

    def _batch(self, run: str, outputs: Mapping[str, Any], key: str, value: Any) -> None:
        def fill(batch: Any) -> None:
            for node, output in outputs.items():
                batch.put(run, node, output)
            batch.upsert_global(key, value)

        async def fill_async() -> None:
            async with self._store.batch() as batch:
                fill(batch)

        if self._runner:
            self._runner.run(fill_async())
        else:
            with self._store.batch() as batch:
                fill(batch)

    def close(self) -> None:
        self.call("close")
        if self._runner:
            self._runner.close()


class There:
    """A store of another process."""

    def __init__(self, home: nursery.Nursery, face: str, path: pathlib.Path, guard_seconds: float) -> None:
        self._guard_seconds = guard_seconds
        self._child = home.child()
        self._child.tell(face, str(path))

    def begin(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        self._child.tell(name, args, kwargs)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        self.begin(name, *args, **kwargs)
        return self.end()

    def end(self) -> Any:
        result = self._child.hear(self._guard_seconds)
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        try:
            if self._child.alive:
                left = self.call("leave")
                assert left == [], "close() left threads"
        finally:
            self._child.kill()
            self._child.close()


def serve(here: type[Here], connection: Connection) -> None:
    face, path = connection.recv()
    store = here(face, pathlib.Path(path), cache_bytes=0)
    while True:
        try:
            name, args, kwargs = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        result: Any
        try:
            if name == "leave":
                store.close()
                result = nursery.own_threads_left()
            else:
                result = store.call(name, *args, **kwargs)
        except Exception as error:
            result = error
        connection.send(result)


# -- the machine -------------------------------------------------------------------------------------------------------


class FourDoors(RuleBasedStateMachine):
    """A machine whose stores are open on one file, two of them in processes of their own."""

    home: nursery.Nursery
    scratch: pathlib.Path
    guard_seconds: float
    here: type[Here] = Here

    def __init__(self) -> None:
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        self.doors: list[Any] = []

    @initialize()
    def open_all(self) -> None:
        self.doors = [self.door(store) for store in range(4)]

    def door(self, store: int) -> Door:
        path, face = self.folder / STORE, ["sync", "async"][store % 2]
        if store < 2:
            return self.here(face, path, cache_bytes=50_000 if store == 0 else 0)
        return There(self.home, face, path, self.guard_seconds)

    def teardown(self) -> None:
        with contextlib.ExitStack() as stack:  # all of them, also if one of them fails
            stack.callback(shutil.rmtree, self.folder)
            for door in self.doors:
                stack.callback(door.close)

    def reopen_killed(self, store: int) -> bool:
        """Whether it had answered before."""
        answered = True
        try:
            with contextlib.suppress(ContextStoreError):
                self.doors[store].end()
        except EOFError:
            answered = False
        if answered:  # the end comes behind the answer
            with contextlib.suppress(EOFError):
                self.doors[store].end()
        self.doors[store].close()
        self.doors[store] = self.door(store)
        return answered


class Machine(FourDoors):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, dict[str, Any]] = {}
        self.tombstones: set[str] = set()
        self.versions: dict[str, int] = {}
        self.freed = 0
        """The highest version of a global that was deleted and then freed: others begin above it."""
        self.globals: dict[str, Any] = {}
        self.former: dict[tuple[str, str], list[Any]] = {}
        """What was once there, in a run that was deleted: a cache may still have it."""

    def put_expected(self, run: str, outputs: Mapping[str, Any], exist_ok: bool) -> type[Exception] | None:
        if run in self.tombstones:
            return RunDeletedError
        stored = self.outputs.get(run, {})
        refused = (node in stored and not (exist_ok and same(stored[node], outputs[node])) for node in outputs)
        return AlreadyExistsError if any(refused) else None

    def note_put(self, run: str, outputs: Mapping[str, Any]) -> None:
        for node, value in outputs.items():
            self.outputs.setdefault(run, {}).setdefault(node, value)

    def note_deleted(self, run: str) -> None:
        for node, value in self.outputs.pop(run, {}).items():
            self.former.setdefault((run, node), []).append(value)
        self.tombstones.add(run)

    def outcome(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (AlreadyExistsError, RunDeletedError, VersionConflictError) as error:
            return error

    def agrees(self, outcome: Any, expected: type[Exception] | None) -> bool:
        assert (type(outcome) if isinstance(outcome, Exception) else None) is expected, repr(outcome)
        return expected is None

    @rule(store=STORES, run=RUNS, node=NODES, value=VALUES, exist_ok=st.booleans())
    def put(self, store: int, run: str, node: str, value: Any, exist_ok: bool) -> None:
        expected = self.put_expected(run, {node: value}, exist_ok)
        outcome = self.outcome(lambda: self.doors[store].call("put", run, node, value, exist_ok=exist_ok))
        if self.agrees(outcome, expected):
            self.note_put(run, {node: value})
        elif isinstance(outcome, AlreadyExistsError):
            assert outcome.same_value == same(self.outputs[run][node], value)

    @rule(store=STORES, run=RUNS, outputs=st.dictionaries(NODES, VALUES, max_size=4), exist_ok=st.booleans())
    def put_many(self, store: int, run: str, outputs: dict[str, Any], exist_ok: bool) -> None:
        expected = self.put_expected(run, outputs, exist_ok) if outputs else None
        outcome = self.outcome(lambda: self.doors[store].call("put_many", run, outputs, exist_ok=exist_ok))
        if self.agrees(outcome, expected):
            self.note_put(run, outputs)

    @rule(store=STORES, run=RUNS, outputs=st.dictionaries(NODES, VALUES, max_size=3), key=KEYS, value=VALUES)
    def batch(self, store: int, run: str, outputs: dict[str, Any], key: str, value: Any) -> None:
        expected = self.put_expected(run, outputs, exist_ok=False) if outputs else None
        if self.agrees(self.outcome(lambda: self.doors[store].call("batch", run, outputs, key, value)), expected):
            self.note_put(run, outputs)
            self.note_global(key, value)

    @rule(store=STORES, run=RUNS, node=NODES)
    def get(self, store: int, run: str, node: str) -> None:
        self.compare_output(store, run, node, self.doors[store].call("get", run, node, MISSING))

    def compare_output(self, store: int, run: str, node: str, found: Any) -> None:
        possible = [self.outputs.get(run, {}).get(node, MISSING)]
        if store == 0:
            possible += self.former.get((run, node), [])
        assert any(same(found, value) for value in possible), f"{found!r:.80} is none of {possible!r:.200}"

    @rule(store=STORES, run=RUNS, prefix=st.sampled_from(["", "x", "{", "z"]))
    def list_keys(self, store: int, run: str, prefix: str) -> None:
        expected = sorted(node for node in self.outputs.get(run, {}) if node.startswith(prefix))
        assert self.doors[store].call("list_keys", run, prefix=prefix) == expected

    @rule(store=STORES, run=RUNS)
    def get_run(self, store: int, run: str) -> None:
        found = self.doors[store].call("get_run", run)
        assert list(found) == sorted(self.outputs.get(run, {}))
        for node, value in found.items():
            self.compare_output(store, run, node, value)

    @rule(store=STORES)
    def list_runs(self, store: int) -> None:
        found = {info.flow_run_id: info.outputs for info in self.doors[store].call("list_runs")}
        assert found == {run: len(outputs) for run, outputs in self.outputs.items()}

    @rule(store=STORES, run=RUNS)
    def delete_run(self, store: int, run: str) -> None:
        assert self.doors[store].call("delete_run", run) == len(self.outputs.get(run, {}))
        self.note_deleted(run)

    @rule(store=STORES, dry_run=st.booleans())
    def prune(self, store: int, dry_run: bool) -> None:
        report = self.doors[store].call("prune", older_than=NOW, dry_run=dry_run)
        assert (report.runs, report.tombstones) == (len(self.outputs), len(self.tombstones))
        assert report.outputs == sum(len(outputs) for outputs in self.outputs.values())
        if not dry_run:
            self.note_pruned()

    def note_pruned(self) -> None:
        for key in self.versions.keys() - self.globals.keys():
            self.freed = max(self.freed, self.versions.pop(key))
        self.tombstones.clear()
        for run in list(self.outputs):
            self.note_deleted(run)

    @rule(store=STORES, key=KEYS, value=VALUES, expected=st.none() | st.integers(0, 3))
    def upsert_global(self, store: int, key: str, value: Any, expected: int | None) -> None:
        actual = self.versions[key] if key in self.globals else 0
        wrong = expected not in (None, actual)
        outcome = self.outcome(lambda: self.doors[store].call("upsert_global", key, value, expected_version=expected))
        if self.agrees(outcome, VersionConflictError if wrong else None):
            self.note_global(key, value)
            assert outcome == self.versions[key]
        else:
            assert outcome.actual == actual

    def note_global(self, key: str, value: Any) -> None:
        self.versions[key] = self.versions.get(key, self.freed) + 1
        self.globals[key] = value

    @rule(store=STORES, key=KEYS)
    def delete_global(self, store: int, key: str) -> None:
        assert self.doors[store].call("delete_global", key) == (key in self.globals)
        self.globals.pop(key, None)

    @rule(store=STORES)
    def list_globals(self, store: int) -> None:
        found = {entry.key: (text_of(entry.value), entry.version) for entry in self.doors[store].call("list_globals")}
        assert found == {key: (text_of(value), self.versions[key]) for key, value in self.globals.items()}

    @rule(store=STORES)
    def reopen(self, store: int) -> None:
        self.doors[store].close()
        self.doors[store] = self.door(store)

    @rule(store=STORES)
    def check(self, store: int) -> None:
        assert self.doors[store].call("check").problems == ()

    @rule(store=PROCESSES)
    def kill(self, store: int) -> None:
        self.doors[store].kill()
        self.reopen_killed(store)

    @rule(
        store=PROCESSES,
        other=STORES,
        run=RUNS,
        outputs=st.dictionaries(NODES, VALUES, min_size=1, max_size=5),
        microseconds=MOMENTS,
    )
    def kill_in_put_many(self, store: int, other: int, run: str, outputs: dict[str, Any], microseconds: int) -> None:
        expected = self.put_expected(run, outputs, exist_ok=False)
        self.doors[store].begin("put_many", run, outputs)
        time.sleep(microseconds / 1e6)
        self.doors[store].kill()
        answered = self.reopen_killed(store)
        if expected is None:
            there = self.doors[other].call("list_keys", run)
            missing = outputs.keys() - set(there)
            assert not missing or missing == outputs.keys(), "half of a put_many is there"
            assert not (answered and missing), "it was answered and is not there"
            if not missing:
                self.note_put(run, outputs)

    @rule(store=PROCESSES, other=STORES, key=KEYS, value=VALUES, microseconds=MOMENTS)
    def kill_in_upsert(self, store: int, other: int, key: str, value: Any, microseconds: int) -> None:
        self.doors[store].begin("upsert_global", key, value)
        time.sleep(microseconds / 1e6)
        self.doors[store].kill()
        answered = self.reopen_killed(store)
        entry = self.doors[other].call("get_global_entry", key)
        version = entry.version if entry else 0
        before = self.versions[key] if key in self.globals else 0
        if version == self.versions.get(key, self.freed) + 1:
            self.note_global(key, value)
        else:
            assert version == before
            assert not answered, "it was answered and is not there"
        if entry is not None:
            assert same(entry.value, self.globals[key])

    @rule(store=PROCESSES, other=STORES, run=RUNS, microseconds=MOMENTS)
    def kill_in_delete_run(self, store: int, other: int, run: str, microseconds: int) -> None:
        there = sorted(self.outputs.get(run, {}))
        self.doors[store].begin("delete_run", run)
        time.sleep(microseconds / 1e6)
        self.doors[store].kill()
        answered = self.reopen_killed(store)
        left = self.doors[other].call("list_keys", run)
        assert left in ([], there), "half of a run is there"
        assert not (answered and left), "it was answered and is there"
        # Done again it is final, whatever became of the first.
        self.doors[other].call("delete_run", run)
        self.note_deleted(run)

    @rule(store=PROCESSES, other=STORES, microseconds=MOMENTS)
    def kill_in_prune(self, store: int, other: int, microseconds: int) -> None:
        self.doors[store].begin("prune", older_than=NOW)
        time.sleep(microseconds / 1e6)
        self.doors[store].kill()
        self.reopen_killed(store)
        left = {info.flow_run_id for info in self.doors[other].call("list_runs")}
        assert left <= self.outputs.keys()
        for run in left:
            assert self.doors[other].call("list_keys", run) == sorted(self.outputs[run]), "half of a run is there"
        # Twice: what the first marks the second forgets. Then nothing is left, and every name is free.
        for _ in range(2):
            self.doors[other].call("prune", older_than=NOW)
        self.note_pruned()
        self.tombstones.clear()


def run(
    scratch: pathlib.Path,
    seed: int,
    *,
    examples: int,
    steps: int,
    machine: type[FourDoors] = Machine,
    plant: str = "",
    guard_seconds: float = GUARD_SECONDS,
) -> None:
    """Raises AssertionError, or HungError, with the shortest way there that was found. A fault is planted in the
    other processes alone, whose nursery is the module of the machine."""
    with nursery.Nursery(machine.__module__, plant) as home:
        kind = type("Machine", (machine,), {"home": home, "scratch": scratch, "guard_seconds": guard_seconds})
        run_state_machine_as_test(
            hypothesis.seed(seed)(kind),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                print_blob=False,
                phases=[hypothesis.Phase.generate] if plant else list(hypothesis.Phase),
                suppress_health_check=list(HealthCheck),
            ),
        )


def keep_nursery(here: type[Here]) -> None:
    _, _, control, plant = sys.argv
    if plant:
        ALL_PLANTS[plant]()
    nursery.keep(int(control), partial(serve, here))


if __name__ == "__main__":
    keep_nursery(Here)
