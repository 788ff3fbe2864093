"""Which runs are pruned: by state, by the last write of any kind, with outputs or without, and under no lease."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import sqlite3
import time
from typing import Any

import asyncpg
import pytest

from contextstore import ContextStore, PruneReport, RunDeletedError
from contextstore._process import boot_clock

from ..conftest import Target
from .followed import called
from .runs import DAY, Clock, before_each_commit, runs_of


class TestTheLastWrite:
    async def test_of_any_kind_makes_a_run_young(self, store: Any, clock: Clock) -> None:
        for name in ("old", "begun again", "updated", "written"):
            await called(store, "begin", name)
            await store.put(name, "a", 1)
        clock.now += 10 * DAY
        await called(store, "update", "updated", attributes={"seen": True})
        await called(store, "begin", "begun anew")
        await store.put("written", "b", 1)
        clock.now += DAY
        assert (await store.prune(older_than=2 * DAY)).runs == 2
        assert sorted(await runs_of(store)) == ["begun anew", "updated", "written"]

    async def test_a_state_value_or_a_failure_that_is_the_newest_does_so_too(self, store: Any, clock: Clock) -> None:
        names = ["old", "state", "failed", "state again", "failed again", "old state", "old failure"]
        for name in names:
            await store.put(name, "a", 1)
        for name in ("state again", "old state"):
            await called(store, "upsert_state", name, "key", 1)
        for name in ("failed again", "old failure"):
            with pytest.raises(ZeroDivisionError):
                await called(store, "step", name, "b", divmod, 1, 0)
        clock.now += 10 * DAY
        for name in ("state", "state again", "only state"):
            await called(store, "upsert_state", name, "key", 2)
        for name in ("failed", "failed again", "only failed"):
            with pytest.raises(ZeroDivisionError):
                await called(store, "step", name, "b", divmod, 1, 0)
        clock.now += DAY
        assert (await store.prune(older_than=2 * DAY)).runs == 3
        young = ["failed", "failed again", "only failed", "only state", "state", "state again"]
        assert sorted(await runs_of(store)) == young
        clock.now += 10 * DAY
        assert (await store.prune(older_than=2 * DAY)).runs == len(young)
        assert await runs_of(store) == []

    async def test_a_run_without_outputs_is_deleted_as_well(self, store: Any, clock: Clock) -> None:
        await called(store, "begin", "begun")
        await called(store, "update", "updated", state="failed")
        clock.now += 10 * DAY
        await called(store, "begin", "young")
        dry = await store.prune(older_than=DAY, dry_run=True)
        assert dry == PruneReport(runs=2, outputs=0, bytes=0, tombstones=0)
        assert await store.prune(older_than=DAY) == dry
        assert await store.get_run_info("begun") is None
        with pytest.raises(RunDeletedError):
            await called(store, "update", "updated", state="open")
        assert (await store.get_run_info("young")).state == "open"

    async def test_so_is_one_whose_outputs_were_all_deleted(self, store: Any, clock: Clock) -> None:
        await store.append("run", "log/", 1)
        await store.delete_outputs("run", prefix="")
        clock.now += 10 * DAY
        assert (await store.prune(older_than=DAY)).runs == 1
        with pytest.raises(RunDeletedError):
            await store.append("run", "log/", 1)

    async def test_one_with_append_counters_alone_too(self, store: Any, clock: Clock) -> None:
        await store.append("origin", "log/", 1)
        await store.fork_run("origin", new_flow_run_id="copy", node_ids=[])
        clock.now += 10 * DAY
        await store.put("origin", "young", 1)
        assert await store.prune(older_than=DAY) == PruneReport(runs=1, outputs=0, bytes=0, tombstones=0)
        with pytest.raises(RunDeletedError):
            await store.put("copy", "a", 1)

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.parametrize("write", ["put", "update", "lease"])
    async def test_it_is_looked_at_in_the_commit_that_deletes(
        self, make_store: Target, clock: Clock, write: str
    ) -> None:
        async with make_store() as store:
            for name in ("run", "idle"):
                await called(store, "begin", name)
                await store.put(name, "a", 1)
            clock.now += 10 * DAY
            done: list[str] = []

            async def act() -> None:
                if not done:
                    done.append(write)
                    with ContextStore(make_store.location) as other:
                        if write == "put":
                            other.put("run", "young", 1)
                        elif write == "update":
                            other.run("run").update(attributes={"young": True})
                        else:
                            lease(make_store, "run", seconds=600)

            before_each_commit(store, act)
            assert (await store.prune(older_than=DAY)).runs == 1
            assert done
            assert await store.get("run", "a") == 1


def lease(make_store: Target, name: str, seconds: float) -> None:
    """Have somebody hold the lease, as the tables say it."""
    location = str(make_store.location)
    if "://" in location:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _lease_on_server(location, name, seconds)).result()
        return
    ends = boot_clock.now() + int(seconds * 1e6)
    row = (name, 1, "other", boot_clock.boot(), ends, 1, int((time.time() + seconds) * 1e6))
    with contextlib.closing(sqlite3.connect(location)) as connection, connection:
        connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?)", row)


async def _lease_on_server(url: str, name: str, seconds: float) -> None:
    address, _, options = url.partition("?")
    schema = dict(option.split("=") for option in options.split("&")).get("schema", "contextstore")
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(
            f"""
            INSERT INTO "{schema}".leases
            SELECT $1, 1, 'other', 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint + $2, gen_random_uuid()
            """,
            name,
            int(seconds * 1e6),
        )
    finally:
        await connection.close()


class TestLeases:
    @pytest.mark.usefixtures("shared_target")
    async def test_a_run_stays_while_a_lease_of_its_name_is_held(self, make_store: Target, clock: Clock) -> None:
        async with make_store() as store:
            for name in ("held", "ended", "free"):
                await called(store, "begin", name)
                await store.put(name, "a", 1)
            lease(make_store, "held", 600)
            lease(make_store, "ended", -1)
            clock.now += 10 * DAY
            dry = await store.prune(older_than=DAY, dry_run=True)
            assert dry.runs == 2
            assert await store.prune(older_than=DAY) == dry
            assert await runs_of(store) == ["held"]


class TestStates:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize(
        ("state", "gone"),
        [
            ("completed", {"completed"}),
            (["failed", "cancelled"], {"failed", "cancelled"}),
            (("open",), {"open", "outputs alone"}),
            (None, {"open", "completed", "failed", "cancelled", "outputs alone"}),
        ],
        ids=["one", "two", "open", "any"],
    )
    async def test_only_runs_in_one_of_them_are_deleted(
        self, store: Any, clock: Clock, state: Any, gone: set[str]
    ) -> None:
        names = {"open", "completed", "failed", "cancelled"}
        for name in sorted(names):
            await called(store, "update", name, state=name)
            await store.put(name, "a", 1)
        await store.put("outputs alone", "a", 1)
        clock.now += 10 * DAY
        dry = await store.prune(older_than=DAY, state=state, dry_run=True)
        assert dry == await store.prune(older_than=DAY, state=state)
        assert dry.runs == len(gone)
        assert set(await runs_of(store)) == (names | {"outputs alone"}) - gone

    async def test_tombstones_are_forgotten_whatever_the_state(self, store: Any, clock: Clock) -> None:
        await store.put("gone", "a", 1)
        await store.delete_run("gone")
        clock.now += 10 * DAY
        assert (await store.prune(older_than=DAY, state="failed")).tombstones == 1

    @pytest.mark.parametrize(("state", "error"), [("deleted", ValueError), ([], ValueError), (1, TypeError)], ids=str)
    @pytest.mark.each_input_once
    async def test_what_is_none_is_refused(self, store: Any, state: Any, error: type[Exception]) -> None:
        for age in (DAY, None):
            with pytest.raises(error, match="state must be"):
                await store.prune(older_than=age, state=state)


async def test_a_late_write_spares_a_run_of_very_many_outputs(store: Any, clock: Clock) -> None:
    await store.put_many("large", {f"{number:05}": number for number in range(1500)})
    clock.now += 10 * DAY
    await called(store, "update", "large", attributes={"seen": 1})
    clock.now += datetime.timedelta(hours=1)
    assert (await store.prune(older_than=DAY)).runs == 0
    clock.now += 2 * DAY
    assert (await store.prune(older_than=DAY)).outputs == 1500
