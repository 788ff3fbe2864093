"""State values go where their run goes: into forks, copies, backups and exports."""

from __future__ import annotations

import dataclasses
import datetime
import io
import pathlib
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    CorruptStoreError,
    ExportedState,
    Problem,
    RunDeletedError,
    SerializationError,
    StateEntry,
    VersionConflictError,
    copy,
    export_records,
    import_records,
    restore,
)
from contextstore.cli import ndjson

from ..conftest import new_location
from .test_flow_run import Bound
from .test_what_is_left import Place


async def with_states(store: Any, count: int = 3) -> list[StateEntry]:
    run = Bound(store)
    for number in range(count):
        await run.upsert_state(f"key/{number:04}", "first")
        await run.upsert_state(f"key/{number:04}", [number])
    await run.upsert_state("", b"\x00bytes")
    return list(await run.list_state())


class TestForks:
    async def test_a_fork_has_all_of_them_with_their_versions_and_times(self, store: Any) -> None:
        states = await with_states(store)
        await store.put("run", "node", 1)
        await store.fork_run("run", new_flow_run_id="fork")
        assert await Bound(store, "fork").list_state() == states
        await store.fork_run("run", new_flow_run_id="part", node_ids=[])
        assert await Bound(store, "part").list_state() == states

    async def test_a_run_without_outputs_is_forked_with_its_state(self, store: Any) -> None:
        states = await with_states(store)
        fork = await Bound(store).fork()
        assert await Bound(store, fork).list_state() == states
        assert (await store.check()).problems == ()

    async def test_from_then_on_the_two_are_apart(self, store: Any) -> None:
        await with_states(store)
        await store.fork_run("run", new_flow_run_id="fork")
        assert await Bound(store, "fork").upsert_state("", "changed", expected_version=1) == 2
        assert await Bound(store).get_state("") == b"\x00bytes"

    async def test_a_fork_that_was_cut_off_is_finished_by_the_next(self, store: Any) -> None:
        states = await with_states(store)
        await store.put("run", "node", 1)
        for _ in range(2):
            await store.fork_run("run", new_flow_run_id="fork")
        assert await Bound(store, "fork").list_state() == states

    async def test_what_the_other_run_has_is_not_written_over(self, store: Any) -> None:
        await with_states(store)
        await Bound(store, "fork").upsert_state("", "its own")
        with pytest.raises(VersionConflictError):
            await store.fork_run("run", new_flow_run_id="fork")
        assert await Bound(store, "fork").get_state("") == "its own"

    async def test_many_are_forked(self, store: Any) -> None:
        run = Bound(store)
        await run.upsert_state("key", 1)
        await with_states(store, 30)
        await store.fork_run("run", new_flow_run_id="fork")
        assert len(await Bound(store, "fork").list_state()) == 32

    async def test_of_a_deleted_run_there_is_no_fork(self, store: Any) -> None:
        await with_states(store)
        await store.delete_run("run")
        with pytest.raises(RunDeletedError):
            await store.fork_run("run", new_flow_run_id="fork")
        assert await Bound(store, "fork").list_state() == []


ENGINES = ["file", "postgres"]


def fill(store: ContextStore) -> dict[str, list[StateEntry]]:
    """Runs with outputs and state, with one of the two, and a deleted one."""
    store.put("both", "node", 1)
    for name in ("both", "state alone"):
        run = store.run(name)
        run.upsert_state("a", {"x": 1})
        run.upsert_state("a", {"x": 2})
        run.upsert_state("", b"bytes")
    for number in range(450):
        store.run("many").upsert_state(f"{number:03}", number)
    store.put("output alone", "node", 1)
    store.run("deleted").upsert_state("a", 1)
    store.delete_run("deleted")
    return states_of(store)


def states_of(store: ContextStore) -> dict[str, list[StateEntry]]:
    return {name: store.run(name).list_state() for name in ("both", "state alone", "many", "output alone", "deleted")}


@pytest.mark.parametrize(("source", "target"), [("file", "postgres"), ("postgres", "file"), ("file", "file")])
def test_a_copy_has_them_with_their_versions_and_times(
    source: str, target: str, request: pytest.FixtureRequest
) -> None:
    with ContextStore(new_location(source, request)) as one, ContextStore(new_location(target, request)) as other:
        states = fill(one)
        first = copy(one, other)
        assert states_of(other) == states
        assert copy(one, other).digest == first.digest  # once more, and nothing changes
        one.run("both").upsert_state("a", "newer")
        copy(one, other)
        assert states_of(other) == states_of(one)
        assert other.check().problems == ()


def test_a_copy_of_runs_has_those_of_these_runs(request: pytest.FixtureRequest) -> None:
    with ContextStore(new_location("file", request)) as one, ContextStore(":memory:") as other:
        states = fill(one)
        copy(one, other, runs=["state alone"])
        assert states_of(other)["state alone"] == states["state alone"]
        assert states_of(other)["both"] == []


def test_a_copy_is_refused_where_a_value_has_come_further(request: pytest.FixtureRequest) -> None:
    with ContextStore(new_location("file", request)) as one, ContextStore(":memory:") as other:
        fill(one)
        copy(one, other)
        other.run("both").upsert_state("a", "further")
        with pytest.raises(VersionConflictError):
            copy(one, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_one_is_left_out_of_a_copy_and_listed(engine: str, request: pytest.FixtureRequest) -> None:
    place = Place(engine, request)
    with ContextStore(place.location) as store, ContextStore(":memory:") as other:
        store.run("run").upsert_state("damaged", 1)
        store.run("run").upsert_state("sound", 1)
        place.execute("UPDATE {schema}run_states SET checksum = 1 WHERE key = 'damaged'")
        with pytest.raises(CorruptStoreError):
            copy(store, other)
        report = copy(store, other, damaged="skip")
        assert [(problem.kind, problem.key) for problem in report.skipped] == [("state", ("run", "damaged"))]
        assert [entry.key for entry in other.run("run").list_state()] == ["sound"]


def test_a_backup_has_them(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "flows.db") as store:
        states = fill(store)
        store.backup(tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "restored.db")
    with ContextStore(tmp_path / "restored.db") as restored:
        assert states_of(restored) == states


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "change",
    ["value = '2'", "checksum = 1", "version = 0", "written_at = -1", "run = 77"],
)
def test_a_check_finds_those_that_are_damaged(engine: str, change: str, request: pytest.FixtureRequest) -> None:
    place = Place(engine, request)
    with ContextStore(place.location) as store:
        store.put("run", "node", 1)
        store.run("run").upsert_state("damaged", 1)
        store.run("run").upsert_state("sound", 1)
        place.execute(f"UPDATE {{schema}}run_states SET {change} WHERE key = 'damaged'")
        problems: list[Problem] = [problem for problem in store.check().problems if problem.kind == "state"]
        owner = "run number 77" if change == "run = 77" else "run"
        assert [problem.key for problem in problems] == [(owner, "damaged")]


@pytest.mark.parametrize(("source", "target"), [("file", "postgres"), ("postgres", "file")])
def test_an_export_has_them_and_an_import_brings_them(source: str, target: str, request: pytest.FixtureRequest) -> None:
    with ContextStore(new_location(source, request)) as one, ContextStore(new_location(target, request)) as other:
        states = fill(one)
        records = list(export_records(one))
        of_both = [record for record in records if isinstance(record, ExportedState) and record.flow_run_id == "both"]
        assert [(record.key, record.encoding, record.data, record.version) for record in of_both] == [
            ("", "bytes", b"bytes", 1),
            ("a", "json", b'{"x":2}', 2),
        ]
        import_records(other, records)
        assert states_of(other) == states
        assert list(export_records(other)) == records
        assert import_records(other, records).conflicts == 0  # once more, and nothing changes


def test_through_lines_of_json_they_come_back_as_they_were() -> None:
    with ContextStore(":memory:") as one:
        fill(one)
        records = list(export_records(one))
    lines = io.BytesIO()
    writer = ndjson.Writer(lines.write, "a store", "1", ndjson.Selection(runs=None, prefix="", globals=True))
    for record in records:
        writer.add(record)
    writer.finish()
    lines.seek(0)
    assert list(ndjson.Reader(lines)) == records


def test_an_import_leaves_what_is_here_and_tells_of_it() -> None:
    with ContextStore(":memory:") as one, ContextStore(":memory:") as other:
        fill(one)
        states = [record for record in export_records(one) if isinstance(record, ExportedState)]
        other.run("both").upsert_state("a", "its own")
        with pytest.raises(VersionConflictError):
            import_records(other, states)
        told: list[Problem] = []
        report = import_records(other, states, on_conflict=told.append)
        assert report.conflicts == 1
        assert [(problem.kind, problem.key) for problem in told] == [("state", ("both", "a"))]
        assert other.run("both").get_state("a") == "its own"
        assert other.run("both").get_state("") == b"bytes"


@pytest.mark.parametrize(
    "wrong",
    [{"version": 0}, {"key": "a\0"}, {"flow_run_id": ""}, {"data": b"{"}, {"encoding": None}, {"data": None}],
    ids=repr,
)
def test_what_can_be_no_state_value_is_refused(wrong: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    record = dataclasses.replace(ExportedState("run", "key", "json", b"1", 1, now), **wrong)
    with ContextStore(":memory:") as store:
        with pytest.raises((ValueError, TypeError, SerializationError)):
            import_records(store, [record])
        assert store.run("run").list_state() == []
