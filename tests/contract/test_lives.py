"""The lives of a run's id: a run object's calls belong to the first run that one of them finds, or makes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import AlreadyExistsError, RunDeletedError, RunStateConflictError

from ..conftest import Target
from ..support.doubles import core_of
from .runs import rows_of, runs_of
from .test_flow_run import Bound

WRITES: dict[str, Callable[[Bound], Any]] = {
    "put": lambda run: run.put("new", 1),
    "put what is there": lambda run: run.put("node", "second", exist_ok=True),
    "put_many": lambda run: run.put_many({"new": 1, "newer": 2}),
    "get_or_put": lambda run: run.get_or_put("new", lambda: 1),
    "get_or_put what is there": lambda run: run.get_or_put("node", lambda: 1),
    "step": lambda run: run.step("new", lambda: 1),
    "step that was replayed": lambda run: run.step("node", lambda: 1),
    "wait_for": lambda run: run.wait_for("new", timeout=60),
    "wait_for what is there": lambda run: run.wait_for("node", timeout=60),
    "fork": lambda run: run.fork(),
    "begin": lambda run: run.begin(),
    "update": lambda run: run.update(state="failed"),
}
"""Calls that raise once their life is over."""

READS: dict[str, tuple[Callable[[Bound], Any], Any]] = {
    "get": (lambda run: run.get("node", "default"), "default"),
    "exists": (lambda run: run.exists("node"), False),
    "list_keys": (lambda run: run.list_keys(), []),
    "get_many": (lambda run: run.get_many(["node"]), {}),
    "iter_outputs": (lambda run: run.outputs(), []),
    "info": (lambda run: run.info(), None),
}
"""Calls that answer then as for a deleted run, and how."""

BINDING: dict[str, Callable[[Bound], Any]] = {
    "put": lambda run: run.put("other", 1),
    "put what is there": lambda run: run.put("node", "first", exist_ok=True),
    "a refused put": lambda run: raises(AlreadyExistsError, run.put("node", "else")),
    "put_many": lambda run: run.put_many({"other": 1}),
    "get_or_put": lambda run: run.get_or_put("other", lambda: 1),
    "a replayed step": lambda run: run.step("node", lambda: 1),
    "wait_for": lambda run: run.wait_for("node"),
    "get": lambda run: run.get("node"),
    "get of what is not there": lambda run: run.get("nothing"),
    "exists of what is not there": lambda run: run.exists("nothing"),
    "list_keys": lambda run: run.list_keys(prefix="nothing"),
    "get_many of nothing that is there": lambda run: run.get_many(["nothing"]),
    "iter_outputs": lambda run: run.outputs(),
    "fork": lambda run: run.fork(),
    "begin": lambda run: run.begin(),
    "update": lambda run: run.update(attributes={"a": 1}),
    "a refused update": lambda run: raises(RunStateConflictError, run.update(expected_state="failed")),
    "info": lambda run: run.info(),
}
"""First calls of a run object, each of which finds the run."""


async def raises(kind: type[Exception], awaited: Any) -> None:
    with pytest.raises(kind):
        await awaited


async def bound(store: Any) -> Bound:
    """A run object of the first life of the id, with an output."""
    run = Bound(store)
    await run.put("node", "first")
    assert await run.get("node") == "first"
    return run


async def begin_anew(store: Any) -> None:
    await store.delete_run("run", forget=True)
    await store.put("run", "node", "second")


async def deleted(store: Any) -> None:
    await store.delete_run("run")


async def forgotten(store: Any) -> None:
    await store.delete_run("run", forget=True)


ENDS = {"deleted": deleted, "forgotten": forgotten, "begun anew": begin_anew}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
class TestOnceItsLifeIsOver:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("by", ["this object", "another"])
    async def test_its_writes_and_waits_raise_and_its_reads_answer_as_for_a_deleted_run(
        self, make_store: Target, shared_target: None, end: Callable[[Any], Any], by: str
    ) -> None:
        store = make_store()
        run = await bound(store)
        await end(store if by == "this object" else make_store())
        if not core_of(store)._session.engine.epochs.is_exact and by == "another":
            await asyncio.sleep(1.1)  # its memory may answer for a second
        for name, (read, answer) in READS.items():
            assert await read(run) == answer, name
        for name, write in WRITES.items():
            with pytest.raises(RunDeletedError):
                await write(run)
            assert name in WRITES
        assert await store.get_run("run") == ({"node": "second"} if end is begin_anew else {})

    async def test_writes_are_refused_by_an_object_that_has_not_looked_since(
        self, make_store: Target, shared_target: None, end: Callable[[Any], Any]
    ) -> None:
        runs = [await bound(make_store())]
        for _ in range(2):
            runs.append(Bound(make_store()))
            assert await runs[-1].get("node") == "first"
        await end(make_store())
        for run, write in zip(runs, (WRITES["put"], WRITES["put_many"], WRITES["get_or_put"]), strict=True):
            with pytest.raises(RunDeletedError):
                await write(run)

    async def test_a_deletion_by_it_touches_no_other_life(self, store: Any, end: Callable[[Any], Any]) -> None:
        run = await bound(store)
        await end(store)
        assert [await run.delete(), await run.delete(forget=True)] == [0, 0]
        assert await store.get_run("run") == ({"node": "second"} if end is begin_anew else {})

    async def test_who_waits_is_told(self, make_store: Target, shared_target: None, end: Callable[[Any], Any]) -> None:
        store, other = make_store(), make_store()
        run = await bound(store)
        waiting = [asyncio.ensure_future(run.wait_for("new", timeout=60))]
        waiting.append(asyncio.ensure_future(store.wait_for("run", "new", timeout=60)))
        waits = core_of(store)._session.subscriptions._everyone
        while len([wait for wait in list(waits) if wait.run is not None]) < 2:  # before, a wait is for any life
            await asyncio.sleep(0.001)
        await end(other)
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, RunDeletedError)


class TestALifeBegins:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("call", BINDING.values(), ids=BINDING)
    async def test_with_the_first_call_that_finds_the_run(self, store: Any, call: Callable[[Bound], Any]) -> None:
        await store.put("run", "node", "first")
        run = Bound(store)
        await call(run)
        await begin_anew(store)
        with pytest.raises(RunDeletedError):
            await run.put("new", 1)
        assert await run.get("node") is None
        assert await store.get_run("run") == {"node": "second"}

    async def test_no_sooner_than_there_is_a_run(self, store: Any) -> None:
        run = Bound(store)
        for read, answer in READS.values():
            assert await read(run) == answer
        await begin_anew(store)
        assert await run.get("node") == "second"
        await run.put("new", 1)

    async def test_with_the_first_write_that_makes_the_run(self, store: Any) -> None:
        run = Bound(store)
        assert await run.get("node") is None
        await run.put("node", "first")
        await begin_anew(store)
        with pytest.raises(RunDeletedError):
            await run.put("new", 1)

    async def test_not_with_an_id_that_is_deleted(self, store: Any) -> None:
        await store.delete_run("run")
        run = Bound(store)
        with pytest.raises(RunDeletedError):
            await run.put("node", 1)
        assert await run.get("node") is None
        await begin_anew(store)
        await run.put("new", 1)
        assert await run.get("node") == "second"

    async def test_anew_with_each_run_object(self, store: Any) -> None:
        runs = []
        for life in range(4):
            runs.append(Bound(store))
            await runs[-1].put("node", life)
            assert [await run.get("node") for run in runs] == [None] * life + [life]
            await store.delete_run("run", forget=True)
        assert [await run.get("node") for run in runs] == [None] * 4

    async def test_for_all_calls_that_begin_at_once_with_the_same_run(self, store: Any) -> None:
        run = Bound(store)
        await asyncio.gather(*(run.put(f"{number}", number) for number in range(20)))
        assert len(await run.list_keys()) == 20
        await begin_anew(store)
        for outcome in await asyncio.gather(*(run.put(f"{n}", n) for n in range(20)), return_exceptions=True):
            assert isinstance(outcome, RunDeletedError)

    async def test_with_a_deletion_that_finds_the_run(self, store: Any) -> None:
        await store.put("run", "node", "first")
        run = Bound(store)
        assert await run.delete(forget=True) == 1
        await store.put("run", "node", "second")
        with pytest.raises(RunDeletedError):
            await run.put("new", 1)
        assert await run.delete() == 0
        assert await store.get("run", "node") == "second"


class TestTheStoresOwnCalls:
    async def test_know_no_lives(self, store: Any) -> None:
        await store.put("run", "node", "first")
        await begin_anew(store)
        await store.put("run", "new", 1)
        assert await store.get_run("run") == {"new": 1, "node": "second"}
        assert await store.get_or_put("run", "node", lambda: "third") == "second"
        assert await store.delete_run("run") == 2


class TestForget:
    async def test_nothing_of_the_run_is_left_and_its_id_is_new(self, store: Any) -> None:
        await store.put_many("run", {f"{number:04}": number for number in range(1200)})
        assert await store.delete_run("run", forget=True) == 1200
        stats = await store.stats()
        assert (stats.runs, stats.tombstones, stats.outputs) == (0, 0, 0)
        assert await runs_of(store) == []
        await store.put("run", "0000", "second")
        assert await store.get_run("run") == {"0000": "second"}

    async def test_of_a_run_that_is_deleted_already_the_tombstone_goes(self, store: Any) -> None:
        await store.put("run", "node", 1)
        assert await store.delete_run("run") == 1
        assert await store.delete_run("run", forget=True) == 0
        assert (await store.stats()).tombstones == 0

    async def test_of_a_run_never_seen_leaves_nothing(self, store: Any) -> None:
        assert await store.delete_run("run", forget=True) == 0
        assert (await store.stats()).tombstones == 0
        await store.put("run", "node", 1)

    async def test_several_at_once_leave_nothing(self, store: Any) -> None:
        await store.put_many("run", {f"{number:04}": number for number in range(700)})
        removed = await asyncio.gather(*(store.delete_run("run", forget=True) for _ in range(4)))
        assert sum(removed) == 700
        assert (await store.stats()).tombstones == 0

    async def test_interrupted_the_id_stays_deleted_until_it_is_repeated(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.put_many("run", {f"{number:04}": number for number in range(1200)})
        session: Any = core_of(store)._session
        commit, left = session.commit, 2

        async def cut_off(operations: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyError("cut off")
            return await commit(operations)

        with monkeypatch.context() as patched:
            patched.setattr(session, "commit", cut_off)
            with pytest.raises(KeyError):
                await core_of(store).delete_run("run", forget=True)
        with pytest.raises(RunDeletedError):
            await store.put("run", "new", 1)
        assert await store.get_run("run") == {}
        assert 0 < await store.delete_run("run", forget=True) <= 1200
        assert (await store.stats()).tombstones == 0
        await store.put("run", "new", 1)

    async def test_what_appending_has_left_goes_with_the_run(self, make_store: Target, embedded: None) -> None:
        store = make_store()
        if make_store.engine == "memory":
            pytest.skip("no other connection can look")
        for how in ("forget", "prune"):
            await store.put("run", "node", 1)
            with contextlib.closing(sqlite3.connect(make_store.location)) as connection, connection:
                ((serial,),) = connection.execute("SELECT serial FROM flow_runs WHERE flow_run_id = 'run'")
                connection.execute("INSERT INTO append_counters VALUES (?, 'log/', 700)", (serial,))
                keys = [(serial, "log/", f"{number}", f"log/{number}") for number in range(700)]
                connection.executemany("INSERT INTO append_keys VALUES (?, ?, ?, ?)", keys)
            if how == "forget":
                assert await store.delete_run("run", forget=True) == 1
            else:
                await asyncio.sleep(0.002)
                assert (await store.prune(older_than=datetime.timedelta(0))).outputs == 1
                await asyncio.sleep(0.002)
                assert (await store.prune(older_than=datetime.timedelta(0))).tombstones == 1
            for table in ("flow_runs", "append_counters", "append_keys", "node_outputs WHERE run > 0"):
                assert rows_of(make_store, f"SELECT count(*) FROM {table}") == [(0,)]


class TestPruneOfNoAge:
    async def test_deletes_no_run_and_forgets_no_tombstone(self, store: Any) -> None:
        await store.put("run", "node", 1)
        await store.delete_run("gone")
        for dry_run in (True, False):
            report = await store.prune(older_than=None, dry_run=dry_run)
            assert (report.runs, report.outputs, report.tombstones) == (0, 0, 0)
        assert await runs_of(store) == ["run"]
        assert (await store.stats()).tombstones == 1

    async def test_finishes_a_deletion_that_was_interrupted(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        await store.put_many("run", {f"{number:04}": number for number in range(1200)})
        retention: Any = core_of(store)._core.retention
        with monkeypatch.context() as patched:

            async def cut_off(_: Any) -> Any:
                raise KeyError("cut off")

            patched.setattr(retention._service, "_remove_outputs", cut_off)
            with pytest.raises(KeyError):
                await core_of(store).delete_run("run")
        await store.prune(older_than=None)
        assert await store.delete_run("run") == 0  # nothing was left
        assert (await store.stats()).tombstones == 1
        assert (await store.prune(older_than=datetime.timedelta(0))).tombstones == 1
