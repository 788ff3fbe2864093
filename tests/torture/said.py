"""A model of flow runs beside their outputs: what is said of them, their state values, steps and attempts, and forks.

It is that of ``parts`` with more that can be done, so each of these comes among outputs that are put, marked, appended
and deleted, lives of an id that end, prunes and kills. Each store follows the runs from a cursor of its own: no change
is passed over, also where it goes on from the middle of what it was told.

Run as a program this is the nursery of the processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from contextstore import (
    OutputDeletedError,
    RunAlreadyExistsError,
    RunDeletedError,
    RunStateConflictError,
    VersionConflictError,
)

from . import parts
from .machine import MISSING, MOMENTS, PROCESSES, STORES, keep_nursery, same
from .parts import NODES, REFUSALS, RUNS, VALUES, Life

STATES = ("open", "completed", "failed", "cancelled")
ATTRIBUTES = st.dictionaries(st.sampled_from(["flow", "n"]), st.sampled_from([1, 1.0, True, "1", "é"]), max_size=2)
CHANGES = st.dictionaries(st.sampled_from(["flow", "n"]), st.sampled_from([1, 1.0, True, "1", None]), max_size=2)
STATE_KEYS = st.sampled_from(["k", "k/1", "é"])
PARENTS = st.sampled_from([None, "a", "p"])
HANDLES = st.integers(0, 1)
MARKER = "~{}"
"""Runs, each a new one, by which a follower knows that it was told of all before.

As it comes to one it changes that: so it is told of it once more, behind all changes, also if the first time was among
the runs that are listed in the beginning.
"""


class StepFailedError(Exception):
    """What the function of a step raises."""


class Here(parts.Here):
    """A store of this process, with the calls of run objects."""

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        match name:
            case "of_run":
                return self._of_run(*args, **kwargs)
            case "step":
                return self._step(*args)
            case "add_to_state":
                return self._add_to_state(*args)
            case "follow":
                return self._follow(*args)
        return super().call(name, *args, **kwargs)

    def _awaited(self, result: Any) -> Any:
        return self._runner.run(result) if self._runner else result

    def _of_run(self, run: str, call: str, *args: Any, **kwargs: Any) -> Any:
        return self._awaited(getattr(self._store.run(run), call)(*args, **kwargs))

    def _step(self, run: str, node: str, value: Any, fails: bool) -> tuple[Any, int]:
        """What the step gave, or the notes of its function's error, and how often this was called."""
        calls: list[None] = []

        def fn() -> Any:
            calls.append(None)
            if fails:
                raise StepFailedError(node)
            return value

        try:
            return self._awaited(self._store.run(run).step(node, fn)), len(calls)
        except StepFailedError as error:
            return error.__notes__, len(calls)

    def _add_to_state(self, run: str, key: str) -> Any:
        def longer(old: list[Any]) -> list[Any]:
            return [*old, len(old)] if isinstance(old, list) else [old]

        return self._awaited(self._store.run(run).update_state(key, longer, []))

    def _follow(self, after: str | None, last: str) -> list[Any]:
        """What is told up to a marker that was begun last."""

        async def follow() -> list[Any]:
            told = []
            async with contextlib.aclosing(self._store.watch_runs(after=after)) as watch:
                async for info in watch:
                    told.append(info)
                    if info.flow_run_id == last and info.attributes:
                        break
                    if info.flow_run_id == last:
                        await self._store.run(last).update(attributes={"seen": True})
            return told

        if self._runner:
            return self._runner.run(follow())
        told = []
        with contextlib.closing(self._store.watch_runs(after=after)) as watch:
            for info in watch:
                told.append(info)
                if info.flow_run_id == last and info.attributes:
                    break
                if info.flow_run_id == last:
                    self._store.run(last).update(attributes={"seen": True})
        return told


# -- the model ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Said(Life):
    """A run with what is said of it."""

    state: str = "open"
    error: str | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    begun: tuple[dict[str, Any], str | None] | None = None
    """The attributes and the parent of its first begin."""
    values: dict[str, tuple[int, Any]] = dataclasses.field(default_factory=dict)
    """Its state values: version and value."""
    made: dict[str, int] = dataclasses.field(default_factory=dict)
    """The numbers of the attempts that made outputs."""
    failed: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    @property
    def failures(self) -> int:
        return sum(map(len, self.failed.values()))

    def next_attempt(self, node: str) -> int:
        return 1 + max([*self.failed.get(node, []), self.made.get(node, 0)])

    def contradicts(self, attributes: dict[str, Any] | None, parent: str | None) -> bool:
        """Whether a begin with these is refused."""
        if self.begun is None:
            return False
        return (attributes is not None and not same(attributes, self.begun[0])) or parent not in (None, self.begun[1])

    def begin(self, attributes: dict[str, Any] | None, parent: str | None) -> None:
        if self.begun is None:
            self.begun = attributes or {}, parent
            self.attributes |= self.begun[0]

    def update(self, state: str | None, changes: dict[str, Any] | None, error: str | None) -> None:
        self.state = state or self.state
        merged = self.attributes | (changes or {})
        self.attributes = {name: value for name, value in merged.items() if value is not None}
        self.error = self.error if error is None else error or None

    def agrees(self, info: Any) -> bool:
        parent = self.begun[1] if self.begun else None
        facts = info.state, info.error, info.parent, info.failures, info.outputs, info.begun_at is not None
        here = self.state, self.error, parent, self.failures, len(self.outputs), self.begun is not None
        return facts == here and same(info.attributes, self.attributes)


@dataclasses.dataclass
class Follower:
    """How far a store has followed the runs."""

    cursor: str | None = None
    due: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    """Runs, with the numbers of their lives, that have changed since."""


class Machine(parts.Machine):
    here = Here

    def __init__(self) -> None:
        super().__init__()
        self.followers = [Follower() for _ in range(4)]
        self.marked = 0

    # -- what is expected ----------------------------------------------------------------------------------------------

    def life(self, run: str) -> Said:
        if run not in self.lives:
            self.numbers += 1
            self.lives[run] = Said(self.numbers)
        return self.said(run)

    def said(self, run: str) -> Said:
        """The life that the id has, or one of which nothing is known."""
        life = self.lives.get(run, Said(0))
        assert isinstance(life, Said)
        return life

    def note_change(self, run: str) -> None:
        for follower in self.followers:
            follower.due.add((run, self.life(run).number))

    def write(self, run: str, node: str, value: Any, tag: str | None = None) -> None:
        super().write(run, node, value, tag)
        self.note_change(run)

    def note_deleted(self, run: str, is_forgotten: bool) -> None:
        life = self.lives.get(run)
        super().note_deleted(run, is_forgotten)
        if life is not None and not is_forgotten:
            for follower in self.followers:
                follower.due.add((run, life.number))

    def said_outcome(self, store: int, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.doors[store].call(name, *args, **kwargs)
        except (*REFUSALS, RunAlreadyExistsError, RunStateConflictError) as error:
            return error

    # -- said ----------------------------------------------------------------------------------------------------------

    @rule(store=STORES, run=RUNS, attributes=st.none() | ATTRIBUTES, parent=PARENTS)
    def begin(self, store: int, run: str, attributes: dict[str, Any] | None, parent: str | None) -> None:
        outcome = self.said_outcome(store, "of_run", run, "begin", attributes=attributes, parent=parent)
        self.note_begin(run, attributes, parent, outcome)

    def note_begin(self, run: str, attributes: dict[str, Any] | None, parent: str | None, outcome: Any) -> None:
        if run in self.deleted:
            assert isinstance(outcome, RunDeletedError), repr(outcome)
        elif self.said(run).contradicts(attributes, parent):
            assert isinstance(outcome, RunAlreadyExistsError), repr(outcome)
        else:
            self.life(run).begin(attributes, parent)
            assert self.life(run).agrees(outcome), repr(outcome)
            self.note_change(run)

    @rule(
        store=STORES,
        run=RUNS,
        state=st.none() | st.sampled_from(STATES),
        changes=st.none() | CHANGES,
        error=st.sampled_from([None, "", "it broke"]),
        expected=st.none() | st.sampled_from(STATES),
    )
    def update(
        self,
        store: int,
        run: str,
        state: str | None,
        changes: dict[str, Any] | None,
        error: str | None,
        expected: str | None,
    ) -> None:
        given = {"state": state, "attributes": changes, "error": error, "expected_state": expected}
        outcome = self.said_outcome(store, "of_run", run, "update", **given)
        if run in self.deleted:
            assert isinstance(outcome, RunDeletedError), repr(outcome)
        elif expected not in (None, self.said(run).state):
            assert isinstance(outcome, RunStateConflictError), repr(outcome)
            assert (outcome.expected, outcome.actual) == (expected, self.said(run).state)
        else:
            self.life(run).update(state, changes, error)
            assert self.life(run).agrees(outcome), repr(outcome)
            self.note_change(run)

    @rule(store=STORES, run=RUNS, handle=HANDLES, state=st.sampled_from(STATES))
    def update_by_object(self, store: int, run: str, handle: int, state: str) -> None:
        life = self.object_life(store, run, handle)
        is_over = life is not None and life != getattr(self.lives.get(run), "number", None)
        outcome = self.outcome(store, "on_object", self.handle(run, handle), run, "update", state=state)
        if self.agrees(outcome, RunDeletedError if is_over or run in self.deleted else None):
            self.life(run).update(state, None, None)
            assert self.life(run).agrees(outcome), repr(outcome)
            self.note_change(run)
        self.bind(store, run, handle)

    # -- state values --------------------------------------------------------------------------------------------------

    @rule(store=STORES, run=RUNS, key=STATE_KEYS, value=VALUES, expected=st.none() | st.integers(0, 3))
    def upsert_state(self, store: int, run: str, key: str, value: Any, expected: int | None) -> None:
        outcome = self.outcome(store, "of_run", run, "upsert_state", key, value, expected_version=expected)
        actual, _ = self.said(run).values.get(key, (0, None))
        refusal = VersionConflictError if expected not in (None, actual) else None
        if self.agrees(outcome, RunDeletedError if run in self.deleted else refusal):
            assert outcome == actual + 1
            self.life(run).values[key] = outcome, value

    @rule(store=STORES, run=RUNS, key=STATE_KEYS)
    def add_to_state(self, store: int, run: str, key: str) -> None:
        outcome = self.outcome(store, "add_to_state", run, key)
        if self.agrees(outcome, RunDeletedError if run in self.deleted else None):
            version, old = self.said(run).values.get(key, (0, []))
            assert same(outcome, [*old, len(old)] if isinstance(old, list) else [old])
            self.life(run).values[key] = version + 1, outcome

    @rule(store=STORES, run=RUNS, handle=HANDLES, key=STATE_KEYS)
    def get_state_by_object(self, store: int, run: str, handle: int, key: str) -> None:
        life = self.object_life(store, run, handle)
        is_over = life is not None and life != getattr(self.lives.get(run), "number", None)
        found = self.doors[store].call("on_object", self.handle(run, handle), run, "get_state", key, MISSING)
        assert same(found, MISSING if is_over else self.said(run).values.get(key, (0, MISSING))[1])
        self.bind(store, run, handle)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def refusal_of_step(self, run: str, node: str) -> type[Exception] | None:
        if run in self.deleted:
            return RunDeletedError
        return OutputDeletedError if node in self.said(run).marks else None

    @rule(store=STORES, run=RUNS, node=NODES, value=VALUES, fails=st.booleans())
    def step(self, store: int, run: str, node: str, value: Any, fails: bool) -> None:
        refusal, there = self.refusal_of_step(run, node), self.said(run).outputs.get(node)
        outcome = self.said_outcome(store, "step", run, node, value, fails)
        if refusal is RunDeletedError and isinstance(outcome, tuple):  # which nobody has asked for before the call
            assert fails
            assert outcome[0][0].startswith("this failed attempt could not be recorded: RunDeletedError")
        elif refusal is not None:
            assert type(outcome) is refusal, repr(outcome)
        elif there is not None:
            assert outcome[1] == 0, "the function was called, though its output is there"
            assert same(outcome[0], there[0])
        elif fails:
            assert outcome == ([f"in step {node!r} of flow run {run!r}"], 1)
            self.note_failure(run, node)
        else:
            assert outcome[1] == 1
            assert same(outcome[0], value)
            self.note_made(run, node, value)

    def note_made(self, run: str, node: str, value: Any) -> None:
        life = self.life(run)
        life.made[node] = life.next_attempt(node)
        self.write(run, node, value)

    def note_failure(self, run: str, node: str) -> None:
        life = self.life(run)
        life.failed.setdefault(node, []).append(life.next_attempt(node))
        self.note_change(run)

    # -- forks ---------------------------------------------------------------------------------------------------------

    @rule(store=STORES, run=RUNS)
    def fork(self, store: int, run: str) -> None:
        origin, copied = self.said(run), {"a": "é", "é": "a"}[run]
        if copied in self.deleted or copied in self.lives or origin.keys:
            return
        if not origin.outputs and not origin.values:
            return  # nothing of it would be there
        assert self.doors[store].call("fork_run", run, new_flow_run_id=copied) == copied
        life = self.life(copied)
        life.counters, life.values = dict(origin.counters), dict(origin.values)
        for node in sorted(origin.outputs):  # so few are one commit
            self.write(copied, node, *origin.outputs[node])
            if node in origin.made:
                life.made[node] = origin.made[node]

    # -- looked at -----------------------------------------------------------------------------------------------------

    @rule(store=STORES, run=RUNS)
    def look(self, store: int, run: str) -> None:
        door, life = self.doors[store], self.said(run)
        info = door.call("get_run_info", run)
        assert (info is not None) == (run in self.lives)
        assert info is None or life.agrees(info), repr(info)
        found = {entry.key: (entry.version, entry.value) for entry in door.call("of_run", run, "list_state")}
        assert list(found) == sorted(life.values)
        assert all(found[key][0] == life.values[key][0] and same(found[key][1], life.values[key][1]) for key in found)
        expected = [(node, number, True) for node, numbers in life.failed.items() for number in numbers]
        expected += [(node, number, False) for node, number in life.made.items() if node in life.outputs]
        attempts = door.call("of_run", run, "attempts")
        assert [(one.node_id, one.number, one.error is not None) for one in attempts] == sorted(expected)

    @rule(
        store=STORES,
        state=st.none() | st.sampled_from(STATES),
        attributes=st.none() | ATTRIBUTES,
        parent=PARENTS,
        oldest_first=st.booleans(),
    )
    def find_runs(
        self, store: int, state: str | None, attributes: dict[str, Any] | None, parent: str | None, oldest_first: bool
    ) -> None:
        def fits(life: Said) -> bool:
            wanted = (attributes or {}).items()
            return (
                state in (None, life.state)
                and (parent is None or (life.begun is not None and life.begun[1] == parent))
                and all(name in life.attributes and same(life.attributes[name], value) for name, value in wanted)
            )

        runs = [run for run in self.lives if fits(self.said(run))]
        runs.sort(key=lambda run: self.said(run).number, reverse=not oldest_first)
        options = {"state": state, "attributes": attributes, "parent": parent, "oldest_first": oldest_first}
        found = self.doors[store].call("list_runs", limit=1, **options)
        while found and (page := self.doors[store].call("list_runs", limit=1, after=found[-1].flow_run_id, **options)):
            found += page
        assert [info.flow_run_id for info in found] == runs
        assert all(self.said(info.flow_run_id).agrees(info) for info in found)

    @rule(store=STORES, other=STORES, far=st.floats(0, 1))
    def follow(self, store: int, other: int, far: float) -> None:
        """From its cursor each store is told of what has changed since; then it forgets a part of that, and goes on."""
        self.marked += 1
        marker = MARKER.format(self.marked)
        self.doors[other].call("of_run", marker, "begin")
        self.numbers += 1
        follower = self.followers[store]
        told = self.doors[store].call("follow", follower.cursor, marker)
        assert self.doors[other].call("delete_run", marker, forget=True) == 0
        newest = {info.flow_run_id: info for info in told}
        due = follower.due if follower.cursor is not None else {(run, life.number) for run, life in self.lives.items()}
        for run, number in due:
            if run in self.lives and self.lives[run].number == number:
                assert run in newest, f"nobody was told that {run} has changed"
                assert self.said(run).agrees(newest[run]), repr(newest[run])
            elif (life := self.deleted.get(run)) is not None and life.number == number:
                assert run in newest, f"nobody was told that {run} is deleted"
                assert newest[run].state == "deleted", repr(newest[run])
        assert all(self.said(run).agrees(info) for run, info in newest.items() if run in self.lives)
        place = round(far * (len(told) - 1))
        follower.cursor = told[place].cursor
        numbers = {run: life.number for run, life in self.lives.items()}
        numbers |= {run: life.number for run, life in self.deleted.items() if life is not None and run not in numbers}
        follower.due = {(one.flow_run_id, numbers.get(one.flow_run_id, 0)) for one in told[place + 1 :]}

    # -- ends ----------------------------------------------------------------------------------------------------------

    @rule(store=PROCESSES, other=STORES, run=RUNS, attributes=ATTRIBUTES, microseconds=MOMENTS)
    def kill_in_begin(self, store: int, other: int, run: str, attributes: dict[str, Any], microseconds: int) -> None:
        before = self.said(run)
        answered = self.kill_in(store, microseconds, "of_run", run, "begin", attributes=attributes, parent="p")
        info = self.doors[other].call("get_run_info", run)
        if run not in self.deleted and not before.contradicts(attributes, "p") and before.begun is None:
            is_begun = info is not None and info.begun_at is not None
            assert is_begun or not answered, "it was answered, and is not there"
        outcome = self.said_outcome(other, "of_run", run, "begin", attributes=attributes, parent="p")
        self.note_begin(run, attributes, "p", outcome)  # a retry is safe

    @rule(store=PROCESSES, other=STORES, run=RUNS, state=st.sampled_from(STATES), microseconds=MOMENTS)
    def kill_in_update(self, store: int, other: int, run: str, state: str, microseconds: int) -> None:
        """Of a state and an attribute: both are there, or neither."""
        self.marked += 1
        given = {"state": state, "attributes": {"killed": self.marked}}
        answered = self.kill_in(store, microseconds, "of_run", run, "update", **given)
        info = self.doors[other].call("get_run_info", run)
        is_there = info is not None and info.attributes.get("killed") == self.marked
        if run in self.deleted:
            assert info is None
            return
        assert is_there or not answered, "it was answered, and is not there"
        if is_there:
            self.life(run).update(state, {"killed": self.marked}, None)
            self.note_change(run)
        assert (info is not None) == (run in self.lives)
        assert info is None or self.said(run).agrees(info), repr(info)

    @rule(store=PROCESSES, other=STORES, run=RUNS, key=STATE_KEYS, microseconds=MOMENTS)
    def kill_in_add_to_state(self, store: int, other: int, run: str, key: str, microseconds: int) -> None:
        version, old = self.said(run).values.get(key, (0, []))
        answered = self.kill_in(store, microseconds, "add_to_state", run, key)
        found = {entry.key: entry for entry in self.doors[other].call("of_run", run, "list_state")}.get(key)
        if run in self.deleted:
            assert found is None
            return
        is_there = found is not None and found.version == version + 1
        assert is_there or not answered, "it was answered, and is not there"
        if is_there:
            self.life(run).values[key] = version + 1, [*old, len(old)] if isinstance(old, list) else [old]
        assert found is None or same(found.value, self.said(run).values[key][1])

    @rule(store=PROCESSES, other=STORES, run=RUNS, node=NODES, value=VALUES, fails=st.booleans(), microseconds=MOMENTS)
    def kill_in_step(
        self, store: int, other: int, run: str, node: str, value: Any, fails: bool, microseconds: int
    ) -> None:
        """The output is there with its attempt, or neither is; a failure is there or not."""
        refusal, is_replay = self.refusal_of_step(run, node), node in self.said(run).outputs
        answered = self.kill_in(store, microseconds, "step", run, node, value, fails)
        if refusal is not None or is_replay:
            return
        number = self.said(run).next_attempt(node)
        attempts = self.doors[other].call("of_run", run, "attempts", node)
        is_recorded = number in [one.number for one in attempts]
        assert self.doors[other].call("exists", run, node) == (is_recorded and not fails)
        assert is_recorded or not answered, "it was answered, and is not there"
        if is_recorded and fails:
            self.note_failure(run, node)
        elif is_recorded:
            self.note_made(run, node, value)


if __name__ == "__main__":
    keep_nursery(Here)
