"""Attempts that go to another store, by a copy, an export or a backup, and what damage to them is told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import io
import pathlib
from typing import Any

import pytest

from contextstore import (
    Attempt,
    ContextStore,
    CorruptStoreError,
    ExportedFailure,
    ExportedOutput,
    copy,
    export_records,
    import_records,
)
from contextstore.cli.ndjson import Reader, Selection, Writer

from ..conftest import Target
from .attempts import commit, failure, in_short, success
from .test_damaged import damage

THEN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


@pytest.fixture
async def source(tmp_path: pathlib.Path) -> Any:
    """With attempts of every kind: first and later successes, forked ones, failures with inputs and without."""
    with ContextStore(tmp_path / "source.db") as store:
        await commit(store, failure("b"), failure("b", "late", inputs="ab12"))
        await commit(store, success("a", inputs="cd"), success("b"), success("c"))
        store.put("run", "plain", 1)
        store.fork_run("run", new_flow_run_id="fork")
        store.delete_outputs("run", ["c"])
        yield store


@pytest.fixture
def target(make_store: Target) -> Any:
    """A blocking store in the place of each engine."""
    with contextlib.closing(ContextStore(make_store.location)) as store:
        yield store


def attempts_of(store: ContextStore) -> list[list[Attempt]]:
    return [store.run(run).attempts() for run in ("run", "fork")]


async def test_a_copy_has_them_all(source: ContextStore, target: ContextStore) -> None:
    before = attempts_of(source)
    assert [len(some) for some in before] == [4, 3]
    for _ in range(2):
        await asyncio.to_thread(copy, source, target)
        assert await asyncio.to_thread(attempts_of, target) == before
    assert target.check().problems == ()
    info = target.run("run").info()
    assert info is not None
    assert info.failures == 2
    assert await commit(target, failure("b")) == [4]


async def test_an_import_of_an_export_has_them_all(source: ContextStore, target: ContextStore) -> None:
    records = list(export_records(source))
    for _ in range(2):
        await asyncio.to_thread(import_records, target, records)
    assert await asyncio.to_thread(attempts_of, target) == attempts_of(source)
    assert await asyncio.to_thread(lambda: list(export_records(target))) == records


async def test_lines_of_an_export_have_them_all(source: ContextStore) -> None:
    lines = io.BytesIO()
    records = list(export_records(source))
    writer = Writer(lines.write, "here", "0", Selection(None, "", True))
    for record in records:
        writer.add(record)
    writer.finish()
    lines.seek(0)
    assert list(Reader(lines)) == records
    assert {type(record) for record in records} >= {ExportedFailure, ExportedOutput}


async def test_a_backup_has_them_all(source: ContextStore, tmp_path: pathlib.Path) -> None:
    source.backup(tmp_path / "backup.db")
    with ContextStore(tmp_path / "backup.db") as restored:
        assert attempts_of(restored) == attempts_of(source)


SUCCESS = Attempt("node", 1, THEN, THEN)
OUTPUT = ExportedOutput("run", "node", "json", b"1", THEN, None, SUCCESS)
FAILURE = ExportedFailure("run", Attempt("node", 1, THEN, THEN, "no"))
NO_RECORDS = [
    dataclasses.replace(OUTPUT, attempt=dataclasses.replace(SUCCESS, node_id="other")),
    dataclasses.replace(OUTPUT, attempt=dataclasses.replace(SUCCESS, error="no")),
    dataclasses.replace(OUTPUT, attempt=dataclasses.replace(SUCCESS, number=0)),
    dataclasses.replace(OUTPUT, attempt=dataclasses.replace(SUCCESS, number=2**63)),
    dataclasses.replace(OUTPUT, attempt=dataclasses.replace(SUCCESS, inputs="a b")),
    dataclasses.replace(OUTPUT, attempt=dataclasses.replace(SUCCESS, started_at=datetime.datetime(2026, 3, 1))),
    dataclasses.replace(OUTPUT, attempt="none"),  # type: ignore[arg-type]  # what is refused
    dataclasses.replace(FAILURE, attempt=SUCCESS),
    dataclasses.replace(FAILURE, attempt=dataclasses.replace(FAILURE.attempt, error="a\0")),
    dataclasses.replace(FAILURE, attempt=dataclasses.replace(FAILURE.attempt, error="x" * 5000)),
    dataclasses.replace(FAILURE, attempt=dataclasses.replace(FAILURE.attempt, node_id="")),
]


@pytest.mark.parametrize("record", NO_RECORDS, ids=[str(number) for number in range(len(NO_RECORDS))])
def test_what_no_step_can_have_recorded_is_not_imported(record: Any) -> None:
    with ContextStore(":memory:") as store:
        with pytest.raises((ValueError, TypeError)):
            import_records(store, [record])
        assert store.stats().runs == 0


async def test_an_output_whose_attempt_is_damaged_is_named_by_whatever_reads_it(
    make_store: Target, request: pytest.FixtureRequest
) -> None:
    async with make_store() as store:
        await commit(store, success("a"), success("b"))
    for change in ("attempt = '[7' || substr(attempt, 3)", "attempt = NULL"):
        if make_store.engine == "memory":
            pytest.skip("nobody else can change it")
        await asyncio.to_thread(damage, make_store.location, request, "node_outputs", change, "node_id = 'a'")
        async with make_store() as store:
            with pytest.raises(CorruptStoreError) as caught:
                await store.get("run", "a")
            assert caught.value.node_id == "a"
            with pytest.raises(CorruptStoreError):
                await store.list_outputs("run")
            assert await store.get("run", "b") == 1
            assert [problem.key for problem in (await store.check()).problems] == [("run", "a")]


async def test_what_is_no_attempt_is_named_by_attempts(make_store: Target, request: pytest.FixtureRequest) -> None:
    if make_store.engine == "memory":
        pytest.skip("nobody else can change it")
    async with make_store() as store:
        await commit(store, success("a"), success("b"))
    await asyncio.to_thread(damage, make_store.location, request, "node_outputs", "attempt = 'x'", "node_id = 'a'")
    with ContextStore(make_store.location) as plain:
        with pytest.raises(CorruptStoreError, match="'a'"):
            plain.run("run").attempts()
        assert in_short(plain.run("run").attempts("b")) == [("b", 1, None)]


async def test_a_check_finds_failures_that_nobody_counted(make_store: Target, request: pytest.FixtureRequest) -> None:
    if make_store.engine == "memory":
        pytest.skip("nobody else can change it")
    async with make_store() as store:
        await store.put("run", "plain", 1)
        await commit(store, failure("a"), failure("b"))
    await asyncio.to_thread(damage, make_store.location, request, "flow_runs", "failures = 1", "flow_run_id = 'run'")
    await asyncio.to_thread(damage, make_store.location, request, "failed_attempts", "number = 0", "node_id = 'b'")
    async with make_store() as store:
        problems = (await store.check()).problems
        assert {problem.key for problem in problems} == {("run",)}
        assert len(problems) == 2
