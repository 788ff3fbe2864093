"""A model of what is within runs: parts read and deleted, appends, lives of an id, globals in bulk, and cursors.

As in ``machine`` four stores are open on one file, of both faces, two of them in processes of their own which are
killed, also in the middle of a write. Whatever is done, the answers are those of the model, and each store's watch goes
on from its cursor with what was committed since, in the order of commits, whoever wrote it.

Run as a program this is the nursery of the processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from contextstore import (
    AlreadyExistsError,
    ContextStoreError,
    OutputDeletedError,
    RunDeletedError,
    VersionConflictError,
)

from . import machine
from .machine import MISSING, MOMENTS, PROCESSES, STORES, FourDoors, keep_nursery, same

RUNS = st.sampled_from(["a", "é"])
NODES = st.sampled_from(["x", "xy", "log/000000000002", "\U0001f600"])
PREFIXES = st.sampled_from(["", "x", "log/"])
KEYS = st.sampled_from(["k", "k/1", "l"])
VALUES = st.one_of(st.integers(0, 2), st.sampled_from(["", b"", {"a": 1}]), st.integers(0, 9000).map(lambda n: "v" * n))
TAGS = st.sampled_from([None, "text/plain"])
REFUSALS = (AlreadyExistsError, OutputDeletedError, RunDeletedError, VersionConflictError)


# -- doors to a store --------------------------------------------------------------------------------------------------


class Here(machine.Here):
    """A store of this process, with run objects that it keeps by a handle."""

    def __init__(self, face: str, path: pathlib.Path, **options: Any) -> None:
        super().__init__(face, path, **options)
        self._objects: dict[str, Any] = {}

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        match name:
            case "take":
                return self._take(*args)
            case "on_object":
                return self._on_object(*args, **kwargs)
            case "together":
                return self._together(*args)
        return super().call(name, *args, **kwargs)

    def _on_object(self, handle: str, run: str, call: str, *args: Any, **kwargs: Any) -> Any:
        run_object = self._objects.setdefault(handle, self._store.run(run))
        result = getattr(run_object, call)(*args, **kwargs)
        return self._runner.run(result) if self._runner else result

    def _together(self, operations: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """A batch of these calls."""

        def fill(batch: Any) -> None:
            for name, args in operations:
                assert getattr(batch, name)(*args) is None

        async def fill_async() -> None:
            async with self._store.batch() as batch:
                fill(batch)

        if self._runner:
            self._runner.run(fill_async())
        else:
            with self._store.batch() as batch:
                fill(batch)

    def _take(self, run: str | None, after: str | None, count: int) -> list[tuple[str, str, Any, str]]:
        """The next outputs that a watch gives."""

        async def take() -> list[Any]:
            async with contextlib.aclosing(self._store.watch(run, after=after)) as watch:
                return [await anext(watch) for _ in range(count)]

        if self._runner:
            found = self._runner.run(take())
        else:
            with contextlib.closing(self._store.watch(run, after=after)) as watch:
                found = [next(watch) for _ in range(count)]
        return [(one.flow_run_id, one.node_id, one.value, one.cursor) for one in found]


# -- the model ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Life:
    """A run, from its first output to when it is deleted and forgotten."""

    number: int
    outputs: dict[str, tuple[Any, str | None]] = dataclasses.field(default_factory=dict)
    marks: set[str] = dataclasses.field(default_factory=set)
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    keys: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        return self.outputs.keys() | self.marks

    def next_id(self, prefix: str) -> tuple[int, str]:
        number = self.counters.get(prefix, 0) + 1
        while f"{prefix}{number:012}" in self.used:
            number += 1
        return number, f"{prefix}{number:012}"


@dataclasses.dataclass
class Tail:
    """How far a store has watched: the cursor, and the number of commits before it."""

    cursor: str | None = None
    place: int = 0


class Machine(FourDoors):
    here = Here

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, Life] = {}
        self.deleted: dict[str, Life | None] = {}
        self.numbers = 0
        self.log: list[tuple[str, int, str]] = []
        """What was written, in the order of commits: run, life, node."""
        self.tails = [Tail() for _ in range(4)]
        self.objects: dict[tuple[int, str, int], tuple[str, int | None]] = {}
        """Run objects by store and handle: their run, and the life that they belong to; None: they know none yet."""
        self.versions: dict[str, int] = {}
        self.freed = 0
        self.globals: dict[str, Any] = {}

    # -- what is expected ----------------------------------------------------------------------------------------------

    def life(self, run: str) -> Life:
        """The one that the id has now, which begins with this if there is none."""
        if run not in self.lives:
            self.numbers += 1
            self.lives[run] = Life(self.numbers)
        return self.lives[run]

    def write(self, run: str, node: str, value: Any, tag: str | None = None) -> None:
        life = self.life(run)
        life.outputs[node] = (value, tag)
        self.log.append((run, life.number, node))

    def refusal_of_put(self, run: str, node: str, value: Any, tag: str | None, exist_ok: Any) -> type[Exception] | None:
        if run in self.deleted:
            return RunDeletedError
        life = self.lives.get(run, Life(0))
        if node in life.marks:
            return OutputDeletedError
        if node not in life.outputs or exist_ok == "keep":
            return None
        stored = life.outputs[node]
        return None if exist_ok is True and same(stored[0], value) and stored[1] == tag else AlreadyExistsError

    def outcome(self, store: int, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.doors[store].call(name, *args, **kwargs)
        except REFUSALS as error:
            return error

    def agrees(self, outcome: Any, expected: type[Exception] | None) -> bool:
        assert (type(outcome) if isinstance(outcome, ContextStoreError) else None) is expected, repr(outcome)
        return expected is None

    # -- writing -------------------------------------------------------------------------------------------------------

    @rule(
        store=STORES,
        run=RUNS,
        node=NODES,
        value=VALUES,
        tag=TAGS,
        exist_ok=st.sampled_from([False, True, "keep"]),
    )
    def put(self, store: int, run: str, node: str, value: Any, tag: str | None, exist_ok: Any) -> None:
        expected = self.refusal_of_put(run, node, value, tag, exist_ok)
        outcome = self.outcome(store, "put", run, node, value, tag=tag, exist_ok=exist_ok)
        if self.agrees(outcome, expected) and node not in self.life(run).outputs:
            self.write(run, node, value, tag)

    @rule(store=STORES, run=RUNS, outputs=st.dictionaries(NODES, VALUES, min_size=1, max_size=3))
    def keep_many(self, store: int, run: str, outputs: dict[str, Any]) -> None:
        refusals = [self.refusal_of_put(run, node, value, None, "keep") for node, value in outputs.items()]
        expected = next((refusal for refusal in refusals if refusal), None)
        outcome = self.outcome(store, "put_many", run, outputs, exist_ok="keep")
        if self.agrees(outcome, expected):
            missing = [node for node in outputs if node not in self.life(run).outputs]
            assert outcome == missing
            for node in sorted(missing):
                self.write(run, node, outputs[node])

    @rule(store=STORES, run=RUNS, prefix=PREFIXES, value=VALUES, key=st.sampled_from([None, "once", "twice"]))
    def append(self, store: int, run: str, prefix: str, value: Any, key: str | None) -> None:
        outcome = self.outcome(store, "append", run, prefix, value, key=key)
        if self.agrees(outcome, RunDeletedError if run in self.deleted else None):
            self.note_append(run, prefix, value, key, outcome)

    def note_append(self, run: str, prefix: str, value: Any, key: str | None, given: str) -> None:
        life = self.life(run)
        if key is not None and (prefix, key) in life.keys:
            assert given == life.keys[prefix, key]
            return
        number, node = life.next_id(prefix)
        assert given == node
        life.counters[prefix] = number
        if key is not None:
            life.keys[prefix, key] = node
        self.write(run, node, value)

    @rule(store=STORES, run=RUNS, nodes=st.lists(NODES, max_size=3) | st.none(), prefix=PREFIXES)
    def delete_outputs(self, store: int, run: str, nodes: list[str] | None, prefix: str) -> None:
        life = self.lives.get(run)
        there = life.outputs.keys() if life else set()
        meant = {node for node in there if (node in nodes if nodes is not None else node.startswith(prefix))}
        which = {"prefix": prefix} if nodes is None else {"node_ids": nodes}
        assert self.doors[store].call("delete_outputs", run, **which) == len(meant)
        self.note_marked(run, meant)

    def note_marked(self, run: str, nodes: set[str]) -> None:
        for node in nodes:
            del self.lives[run].outputs[node]
            self.lives[run].marks.add(node)

    @rule(store=STORES, run=RUNS, forget=st.booleans())
    def delete_run(self, store: int, run: str, forget: bool) -> None:
        life = self.lives.get(run)
        assert self.doors[store].call("delete_run", run, forget=forget) == len(life.outputs if life else ())
        self.note_deleted(run, forget)

    def note_deleted(self, run: str, is_forgotten: bool) -> None:
        life = self.lives.pop(run, None)
        if is_forgotten:
            self.deleted.pop(run, None)
        else:
            self.deleted.setdefault(run, life)

    @rule(
        store=STORES,
        run=RUNS,
        put=st.tuples(NODES, VALUES),
        gone=st.lists(NODES, max_size=2),
        key=KEYS,
        version=st.integers(0, 2),
        deletes=st.booleans(),
    )
    def batch(
        self, store: int, run: str, put: tuple[str, Any], gone: list[str], key: str, version: int, deletes: bool
    ) -> None:
        """An append, a put, outputs and a global that are deleted or written, and an expectation."""
        operations: list[tuple[str, tuple[Any, ...]]] = [
            ("append", (run, "log/", "appended")),
            ("put", (run, *put)),
            ("delete_outputs", (run, gone)),
            ("delete_global", (key,)) if deletes else ("upsert_global", (key, "batch")),
            ("expect_global", (key, version)),
        ]
        life = self.lives.get(run, Life(0))
        number, appended = life.next_id("log/")
        actual = self.versions.get(key, 0) if key in self.globals else 0
        expected = {
            RunDeletedError: run in self.deleted,
            AlreadyExistsError: put[0] in life.outputs or put[0] == appended,
            OutputDeletedError: put[0] in life.marks,
            VersionConflictError: actual != version,
        }
        outcome = self.outcome(store, "together", operations)
        if not any(expected.values()):
            assert outcome is None, repr(outcome)
            self.life(run).counters["log/"] = number
            for node, value in sorted([(appended, "appended"), put]):
                self.write(run, node, value)
            self.note_marked(run, set(gone) & self.lives[run].outputs.keys())
            if deletes:
                self.globals.pop(key, None)
            else:
                self.note_global(key, "batch")
        else:
            assert expected.get(type(outcome)), repr(outcome)

    # -- run objects ---------------------------------------------------------------------------------------------------

    @rule(store=STORES, run=RUNS, handle=st.integers(0, 1), node=NODES, value=VALUES)
    def put_by_object(self, store: int, run: str, handle: int, node: str, value: Any) -> None:
        life = self.object_life(store, run, handle)
        is_over = life is not None and life != getattr(self.lives.get(run), "number", None)
        expected = RunDeletedError if is_over else self.refusal_of_put(run, node, value, None, exist_ok=False)
        outcome = self.outcome(store, "on_object", self.handle(run, handle), run, "put", node, value)
        if self.agrees(outcome, expected):
            self.write(run, node, value)
        self.bind(store, run, handle)

    @rule(store=STORES, run=RUNS, handle=st.integers(0, 1), node=NODES)
    def get_by_object(self, store: int, run: str, handle: int, node: str) -> None:
        life = self.object_life(store, run, handle)
        is_over = life is not None and life != getattr(self.lives.get(run), "number", None)
        stored = {} if is_over or run not in self.lives else self.lives[run].outputs
        found = self.doors[store].call("on_object", self.handle(run, handle), run, "get", node, MISSING)
        assert same(found, stored.get(node, (MISSING, None))[0])
        self.bind(store, run, handle)

    @staticmethod
    def handle(run: str, handle: int) -> str:
        return f"{run}{handle}"

    def object_life(self, store: int, run: str, handle: int) -> int | None:
        return self.objects.get((store, run, handle), (run, None))[1]

    def bind(self, store: int, run: str, handle: int) -> None:
        """A run object belongs to the first life that a call of it has found, or made."""
        if self.object_life(store, run, handle) is None and run in self.lives:
            self.objects[store, run, handle] = (run, self.lives[run].number)

    # -- reading -------------------------------------------------------------------------------------------------------

    @rule(
        store=STORES,
        run=RUNS,
        prefix=PREFIXES,
        after=st.none() | NODES,
        limit=st.none() | st.integers(1, 3),
        reverse=st.booleans(),
    )
    def read_parts(
        self, store: int, run: str, prefix: str, after: str | None, limit: int | None, reverse: bool
    ) -> None:
        door, outputs = self.doors[store], self.lives[run].outputs if run in self.lives else {}
        expected = sorted((node for node in outputs if node.startswith(prefix)), reverse=reverse)
        if after is not None:
            expected = [node for node in expected if (node < after if reverse else node > after)]
        page = expected[:limit]
        options = {"prefix": prefix, "after": after, "reverse": reverse}
        assert door.call("list_keys", run, limit=limit, **options) == page
        found = door.call("list_outputs", run, limit=limit or 100, **options)
        assert [(one.node_id, one.tag) for one in found] == [(node, outputs[node][1]) for node in page]
        assert all(same(one.value, outputs[one.node_id][0]) for one in found)
        whole = door.call("get_run", run, prefix=prefix)
        assert list(whole) == sorted(node for node in outputs if node.startswith(prefix))

    @rule(store=STORES, pairs=st.lists(st.tuples(RUNS, NODES), max_size=5, unique=True))
    def get_outputs(self, store: int, pairs: list[tuple[str, str]]) -> None:
        found = self.doors[store].call("get_outputs", pairs)
        there = [(run, node) for run, node in pairs if run in self.lives and node in self.lives[run].outputs]
        assert list(found) == there
        assert all(same(value, self.lives[run].outputs[node][0]) for (run, node), value in found.items())

    @rule(store=STORES)
    def list_runs(self, store: int) -> None:
        found = {info.flow_run_id: info.outputs for info in self.doors[store].call("list_runs")}
        assert {run: count for run, count in found.items() if count} == {
            run: len(life.outputs) for run, life in self.lives.items() if life.outputs
        }

    @rule(store=STORES)
    def watch_on(self, store: int) -> None:
        """Each store goes on from its own cursor: what is there of what was written since, and nothing else."""
        tail = self.tails[store]
        expected = [
            (run, node)
            for run, number, node in self.log[tail.place :]
            if run in self.lives and self.lives[run].number == number and node in self.lives[run].outputs
        ]
        tail.place = len(self.log)
        if expected:
            found = self.doors[store].call("take", None, tail.cursor, len(expected))
            assert [(run, node) for run, node, _, _ in found] == expected
            assert all(same(value, self.lives[run].outputs[node][0]) for run, node, value, _ in found)
            tail.cursor = found[-1][3]

    @rule(store=STORES, run=RUNS)
    def watch_from_the_first(self, store: int, run: str) -> None:
        if run in self.lives and (outputs := self.lives[run].outputs):
            number = self.lives[run].number
            expected = [node for of, life, node in self.log if (of, life) == (run, number) and node in outputs]
            assert [node for _, node, _, _ in self.doors[store].call("take", run, None, len(expected))] == expected

    @rule(store=STORES)
    def check(self, store: int) -> None:
        assert self.doors[store].call("check").problems == ()

    # -- globals -------------------------------------------------------------------------------------------------------

    def note_global(self, key: str, value: Any) -> None:
        self.versions[key] = self.versions.get(key, self.freed) + 1
        self.globals[key] = value

    @rule(store=STORES, key=KEYS, value=VALUES, expected=st.none() | st.integers(0, 3))
    def upsert_global(self, store: int, key: str, value: Any, expected: int | None) -> None:
        actual = self.versions[key] if key in self.globals else 0
        outcome = self.outcome(store, "upsert_global", key, value, expected_version=expected, ttl=10**6)
        if self.agrees(outcome, VersionConflictError if expected not in (None, actual) else None):
            self.note_global(key, value)
            assert outcome == self.versions[key]

    @rule(store=STORES, keys=st.lists(KEYS, max_size=3) | st.none(), prefix=st.sampled_from(["", "k"]))
    def delete_globals(self, store: int, keys: list[str] | None, prefix: str) -> None:
        meant = {key for key in self.globals if (key in keys if keys is not None else key.startswith(prefix))}
        which = {"prefix": prefix} if keys is None else {"keys": keys}
        assert self.doors[store].call("delete_globals", **which) == len(meant)
        for key in meant:
            del self.globals[key]

    @rule(store=STORES, keys=st.lists(KEYS, max_size=3, unique=True))
    def get_globals(self, store: int, keys: list[str]) -> None:
        found = self.doors[store].call("get_globals", keys)
        assert list(found) == [key for key in keys if key in self.globals]
        assert all(same(value, self.globals[key]) for key, value in found.items())
        assert self.doors[store].call("list_global_keys", "k") == sorted(k for k in self.globals if k.startswith("k"))

    @rule(store=STORES)
    def prune(self, store: int) -> None:
        """Of globals alone: their versions go on above all that were ever given."""
        report = self.doors[store].call("prune", older_than=None)
        assert (report.runs, report.globals) == (0, len(self.versions.keys() - self.globals.keys()))
        for key in self.versions.keys() - self.globals.keys():
            self.freed = max(self.freed, self.versions.pop(key))

    @rule(store=STORES)
    def prune_everything(self, store: int) -> None:
        report = self.doors[store].call("prune", older_than=datetime.timedelta(0))
        assert report.runs == len(self.lives)
        for run in self.lives.keys() | self.deleted.keys():
            self.note_deleted(run, is_forgotten=True)
        for key in self.versions.keys() - self.globals.keys():
            self.freed = max(self.freed, self.versions.pop(key))
        # What was deleted by this stays deleted until the next one; so that the model need not know, that is now.
        self.doors[store].call("prune", older_than=datetime.timedelta(0))

    # -- ends ----------------------------------------------------------------------------------------------------------

    @rule(store=STORES)
    def reopen(self, store: int) -> None:
        self.doors[store].close()
        self.doors[store] = self.door(store)
        self.forget_objects(store)

    def forget_objects(self, store: int) -> None:
        self.objects = {key: life for key, life in self.objects.items() if key[0] != store}

    def kill_in(self, store: int, microseconds: int, name: str, *args: Any, **kwargs: Any) -> bool:
        """Whether it had answered before."""
        self.doors[store].begin(name, *args, **kwargs)
        time.sleep(microseconds / 1e6)
        self.doors[store].kill()
        self.forget_objects(store)
        return self.reopen_killed(store)

    @rule(
        store=PROCESSES,
        other=STORES,
        run=RUNS,
        prefix=PREFIXES,
        key=st.sampled_from([None, "once", "thrice"]),
        microseconds=MOMENTS,
    )
    def kill_in_append(self, store: int, other: int, run: str, prefix: str, key: str | None, microseconds: int) -> None:
        answered = self.kill_in(store, microseconds, "append", run, prefix, "killed", key=key)
        if run in self.deleted:
            return
        life = self.lives.get(run, Life(0))
        is_retry = key is not None and (prefix, key) in life.keys
        _, node = life.next_id(prefix)
        is_there = self.doors[other].call("exists", run, node)
        assert not (is_retry and is_there), "it was appended twice"
        assert is_retry or is_there or not answered, "it was answered and is not there"
        if is_there:
            self.note_append(run, prefix, "killed", key, node)
        if key is not None:  # so a retry is safe
            self.append(other, run, prefix, "killed", key)

    @rule(store=PROCESSES, other=STORES, run=RUNS, prefix=PREFIXES, microseconds=MOMENTS)
    def kill_in_delete_outputs(self, store: int, other: int, run: str, prefix: str, microseconds: int) -> None:
        answered = self.kill_in(store, microseconds, "delete_outputs", run, prefix=prefix)
        life = self.lives.get(run, Life(0))
        meant = {node for node in life.outputs if node.startswith(prefix)}
        left = set(self.doors[other].call("list_keys", run, prefix=prefix))
        assert left in (set(), meant), "half of a commit is there"
        assert not (answered and left), "it was answered, and they are there"
        if not left:
            self.note_marked(run, meant)

    @rule(store=PROCESSES, other=STORES, run=RUNS, microseconds=MOMENTS)
    def kill_in_forget(self, store: int, other: int, run: str, microseconds: int) -> None:
        self.kill_in(store, microseconds, "delete_run", run, forget=True)
        # Done again it is final, whatever became of the first.
        self.doors[other].call("delete_run", run, forget=True)
        self.note_deleted(run, is_forgotten=True)
        assert self.doors[other].call("get_run", run) == {}


if __name__ == "__main__":
    keep_nursery(Here)
