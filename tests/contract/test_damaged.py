"""What one damaged output does to calls on many: those before it are given, it is named, and there is a way round it.

The damage is real: rows changed by SQL, and pages of the file overwritten.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import pickle
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from contextstore import ContextStore, CopyReport, CorruptStoreError, InvalidKeyError, Problem, StorageError, copy
from contextstore._postgres import counting

from ..conftest import Target, new_location
from ..support.doubles import core_of
from ..support.nodes import execute

NODES = list("abcdefg")

DAMAGE = {
    "checksum": "checksum = checksum + 1",
    "value": "value = {blob}",
    "size": "size = size + 1",
    "codec": "codec = 7",
    "time": "written_at = -5",
}


@pytest.fixture(autouse=True)
def nothing_is_counted_in_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's clients begin to do so at random, and then a run's times are known though an output's is damaged."""
    monkeypatch.setattr(counting, "_OUTPUTS", 2**40)


def damage(location: Any, request: pytest.FixtureRequest, table: str, change: str, where: str) -> None:
    """Change rows of a store that is closed, or open, by SQL."""
    if isinstance(location, pathlib.Path):
        change = change.format(blob="x'6666'")
        with contextlib.closing(sqlite3.connect(location, isolation_level=None)) as connection:
            assert connection.execute(f"UPDATE {table} SET {change} WHERE {where}").rowcount > 0
    else:
        schema = str(location).partition("?schema=")[2]
        change, where = change.format(blob="'ff'::bytea"), where.replace("FROM flow_runs", f"FROM {schema}.flow_runs")
        query = (
            f"WITH changed AS (UPDATE {schema}.{table} SET {change} WHERE {where} RETURNING 1) SELECT 1 FROM changed"
        )
        assert execute(request.getfixturevalue("postgres"), query)


def output(run: str, *nodes: str) -> str:
    names = ", ".join(f"'{node}'" for node in nodes)
    return f"run = (SELECT serial FROM flow_runs WHERE flow_run_id = '{run}') AND node_id IN ({names})"


async def iterate(store: Any, run: str, **options: Any) -> AsyncIterator[Any]:
    """The outputs, on either face."""
    blocking = getattr(store, "plain", None)
    if blocking is None:
        async for one in store.iter_outputs(run, **options):
            yield one
        return
    iterator = blocking.iter_outputs(run, **options)
    while (one := await asyncio.to_thread(next, iterator, None)) is not None:
        yield one


@pytest.mark.usefixtures("shared_target")
@pytest.mark.parametrize("kind", DAMAGE)
class TestOneOfARun:
    @pytest.fixture
    async def damaged(self, make_store: Target, kind: str, request: pytest.FixtureRequest) -> Any:
        async with make_store() as store:
            await store.put_many("run", {node: node for node in NODES})
            await store.put("whole", "node", 1)
        where = output("run", "c", "e")
        await asyncio.to_thread(damage, make_store.location, request, "node_outputs", DAMAGE[kind], where)
        store = make_store()
        await store.open()
        return store

    @pytest.mark.each_input_once
    async def test_those_before_it_are_given_and_the_iteration_can_be_begun_anew_behind_it(self, damaged: Any) -> None:
        seen, skipped = [], []
        after = None
        while True:
            try:
                async for one in iterate(damaged, "run", after=after):
                    seen.append(one.node_id)
                    assert one.value == one.node_id
                break
            except CorruptStoreError as error:
                assert error.flow_run_id == "run"
                assert error.key is None
                assert f"node {error.node_id!r} of flow run 'run'" in str(error)
                skipped.append(error.node_id)
                assert error.node_id is not None
                assert [node for node in seen if node > error.node_id] == []
                after = error.node_id
        assert (seen, skipped) == (["a", "b", "d", "f", "g"], ["c", "e"])

    @pytest.mark.each_input_once
    async def test_get_run_names_it_and_says_how_to_go_round_it(self, damaged: Any) -> None:
        with pytest.raises(CorruptStoreError, match="after='c'") as caught:
            await damaged.get_run("run")
        assert (caught.value.flow_run_id, caught.value.node_id) == ("run", "c")
        assert await damaged.get_run("whole") == {"node": 1}

    @pytest.mark.each_input_once
    async def test_list_runs_lists_all_runs(self, damaged: Any, kind: str) -> None:
        whole, run = await damaged.list_runs()
        assert (run.flow_run_id, run.outputs, whole.flow_run_id) == ("run", len(NODES), "whole")
        assert isinstance(whole.first_written_at, datetime.datetime)
        known = kind != "time"
        assert (run.first_written_at is not None, run.last_written_at is not None) == (known, known)

    @pytest.mark.each_input_once
    async def test_prune_leaves_a_run_alone_whose_age_it_cannot_know(self, damaged: Any, kind: str) -> None:
        report = await damaged.prune(older_than=datetime.timedelta(0))
        assert report.runs == (1 if kind == "time" else 2)
        assert [run.flow_run_id for run in await damaged.list_runs()] == (["run"] if kind == "time" else [])

    @pytest.mark.each_input_once
    async def test_a_single_read_names_it(self, damaged: Any) -> None:
        for call in (damaged.get, damaged.get_entry):
            with pytest.raises(CorruptStoreError) as caught:
                await call("run", "c")
            assert (caught.value.flow_run_id, caught.value.node_id) == ("run", "c")
        assert await damaged.get("run", "d") == "d"


@pytest.mark.parametrize("after", [None, ""])
async def test_an_after_that_is_empty_means_the_first_page(store: Any, after: str | None) -> None:
    await store.put_many("run", dict.fromkeys(NODES, 1))
    assert [one.node_id async for one in iterate(store, "run", after=after)] == NODES


async def test_after_goes_on_behind_a_node_that_need_not_be_there(store: Any) -> None:
    number = uuid.UUID(int=7)
    await store.put_many("run", {**dict.fromkeys(NODES, 1), number: 2})
    assert [one.node_id async for one in iterate(store, "run", after="d")] == ["e", "f", "g"]
    assert [one.node_id async for one in iterate(store, "run", after="dd")] == ["e", "f", "g"]
    assert [one.node_id async for one in iterate(store, "run", after=number)] == NODES
    assert [one async for one in iterate(store, "run", after="z")] == []
    for wrong in (5, "a\0", "x" * 2000):
        with pytest.raises(InvalidKeyError, match="after"):
            [one async for one in iterate(store, "run", after=wrong)]


def test_a_runs_own_iteration_takes_after_as_well() -> None:
    with ContextStore(":memory:") as store:
        store.put_many("run", dict.fromkeys(NODES, 1))
        assert [one.node_id for one in store.run("run").iter_outputs(after="e")] == ["f", "g"]


def test_the_error_is_pickled_with_its_facts() -> None:
    error = pickle.loads(pickle.dumps(CorruptStoreError("message", False, "run", "node")))
    assert (str(error), error.flow_run_id, error.node_id, error.key) == ("message", "run", "node", None)
    plain = pickle.loads(pickle.dumps(CorruptStoreError("message")))
    assert (str(plain), plain.flow_run_id, plain.node_id, plain.outcome_unknown) == ("message", None, None, False)


# --------------------------------------------------------------------------------------------------------------- copy


@pytest.fixture(params=["file", "postgres"])
def location(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


def fill(location: Any) -> None:
    with ContextStore(location) as store:
        for run in ("first", "second", "third", "fourth"):
            store.put_many(run, {node: f"{run} {node}" for node in NODES})
        store.put("gone", "node", 1)
        store.delete_run("gone")
        for number in range(5):
            store.upsert_global(f"key-{number}", number)
        store.upsert_global("deleted", 1)
        store.delete_global("deleted")


def copied_to_memory(source: ContextStore, **options: Any) -> CopyReport:
    with ContextStore(":memory:") as target:
        return copy(source, target, **options)


def keys_of(problems: tuple[Problem, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(problem.kind, problem.key) for problem in problems]


class TestCopy:
    def test_what_is_damaged_is_left_out_and_listed(self, location: Any, request: pytest.FixtureRequest) -> None:
        fill(location)
        damage(location, request, "node_outputs", "checksum = checksum + 1", output("first", "a", "d", "g"))
        damage(location, request, "node_outputs", "written_at = -1", output("third", "b"))
        damage(location, request, "node_outputs", "value = {blob}", output("second", *NODES))
        damage(location, request, "global_values", "checksum = checksum + 1", "key IN ('key-0', 'key-3')")
        with ContextStore(location) as source, ContextStore(":memory:") as target:
            report = copy(source, target, damaged="skip")
            assert keys_of(report.skipped) == [
                *(("output", ("first", node)) for node in "adg"),
                *(("output", ("second", node)) for node in NODES),
                ("run", ("second",)),
                ("output", ("third", "b")),
                ("global", ("key-0",)),
                ("global", ("key-3",)),
            ]
            assert all(problem.message for problem in report.skipped)
            assert (report.runs, report.globals, report.tombstones) == (3, 3, 1)
            assert report.outputs == 3 * len(NODES) - 4
            assert [run.flow_run_id for run in target.list_runs()] == ["fourth", "third", "first"]
            assert target.get_run("first") == {node: f"first {node}" for node in "bcef"}
            assert target.get_run("third") == {node: f"third {node}" for node in NODES if node != "b"}
            assert [entry.key for entry in target.list_globals()] == ["key-1", "key-2", "key-4"]
            assert target.check().ok
            again = copy(source, target, damaged="skip")  # which goes on where it was
            assert (again.digest, again.skipped) == (report.digest, report.skipped)
            plain = copied_to_memory(target)  # the proof is one of what was copied
            assert (plain.digest, plain.skipped) == (report.digest, ())

    @pytest.mark.parametrize("way", [{}, {"damaged": "raise"}])
    def test_unless_told_so_it_is_raised_by_its_name(
        self, location: Any, way: dict[str, Any], request: pytest.FixtureRequest
    ) -> None:
        fill(location)
        with ContextStore(location) as source:
            damage(location, request, "global_values", "checksum = checksum + 1", "key = 'key-3'")
            with pytest.raises(CorruptStoreError, match="'key-3'") as caught:
                copied_to_memory(source, **way)
            assert caught.value.key == "key-3"
            damage(location, request, "node_outputs", "written_at = -1", output("third", "b"))
            with pytest.raises(CorruptStoreError, match="'b' of flow run 'third'") as caught:
                copied_to_memory(source, **way)
            assert (caught.value.flow_run_id, caught.value.node_id) == ("third", "b")
            damage(location, request, "flow_runs", "created_at = -1", "flow_run_id = 'second'")
            with pytest.raises(CorruptStoreError, match="'second'") as caught:
                copied_to_memory(source, **way)
            assert (caught.value.flow_run_id, caught.value.node_id) == ("second", None)

    def test_a_run_with_a_damaged_time_comes_over_with_its_outputs_and_a_deleted_one_stays_deleted(
        self, location: Any, request: pytest.FixtureRequest
    ) -> None:
        fill(location)
        damage(location, request, "flow_runs", "created_at = -1", "flow_run_id = 'second'")
        damage(location, request, "flow_runs", "deleted_at = -1", "flow_run_id = 'gone'")
        with ContextStore(location) as source, ContextStore(":memory:") as target:
            report = copy(source, target, damaged="skip")
            assert keys_of(report.skipped) == [("run", ("second",)), ("run", ("gone",))]
            assert len(target.get_run("second")) == len(NODES)
            with pytest.raises(Exception, match="was deleted"):
                target.put("gone", "late", 1)
            assert copy(source, target, damaged="skip").digest == report.digest

    @pytest.mark.parametrize("damaged", ["ignore", None, True, "SKIP", ""])
    def test_another_word_is_refused(self, damaged: Any) -> None:
        with pytest.raises(ValueError, match="damaged must be 'raise' or 'skip'"):
            copy(ContextStore(":memory:"), ContextStore(":memory:"), damaged=damaged)

    def test_a_target_that_had_something_else_is_told_all_the_same(
        self, location: Any, request: pytest.FixtureRequest
    ) -> None:
        fill(location)
        damage(location, request, "node_outputs", "checksum = checksum + 1", output("first", "a"))
        with ContextStore(location) as source, ContextStore(":memory:") as target:
            target.put("first", "a", "what the source does not have any more")
            with pytest.raises(StorageError, match="is not equal"):
                copy(source, target, damaged="skip")

    def test_where_nothing_is_damaged_nothing_is_skipped(self, location: Any) -> None:
        fill(location)
        with ContextStore(location) as source, ContextStore(":memory:") as target:
            one = copy(source, target, damaged="skip")
            other = copied_to_memory(source)
            assert one == other
            assert one.skipped == ()


# ------------------------------------------------------------------------------------------------- pages of the file


def pages_with(path: pathlib.Path, marker: bytes) -> list[int]:
    size = 4096
    content = path.read_bytes()
    return [number for number in range(len(content) // size) if marker in content[number * size : (number + 1) * size]]


def overwrite(path: pathlib.Path, page: int) -> None:
    with open(path, "r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)


def names(count: int) -> Iterator[str]:
    return (f"node-{number:03}" for number in range(count))


class TestDamagedPages:
    @pytest.fixture
    def path(self, file_path: pathlib.Path) -> pathlib.Path:
        with ContextStore(file_path) as store:
            for run in ("first", "second"):
                for name in names(40):
                    store.put(run, name, f"{run}:{name}:" + "x" * 1200)
            for name in names(40):
                store.upsert_global(name, f"global:{name}:" + "y" * 1200)
        return file_path

    def test_the_rest_of_the_run_can_be_read_around_it(self, path: pathlib.Path) -> None:
        (page,) = pages_with(path, b"first:node-017:")
        overwrite(path, page)
        with ContextStore(path) as store:
            seen, skipped = [], []
            after = None
            while True:
                try:
                    for one in store.iter_outputs("first", after=after):
                        seen.append(one.node_id)
                    break
                except CorruptStoreError as error:
                    skipped.append(error.node_id)
                    after = error.node_id
                    assert after is not None
            assert "node-017" in skipped
            assert 1 <= len(skipped) <= 4
            assert sorted([*seen, *(name for name in skipped if name)]) == list(names(40))
            with pytest.raises(CorruptStoreError, match="after="):
                store.get_run("first")
            assert len(store.get_run("second")) == 40

    def test_list_runs_counts_them_all(self, path: pathlib.Path) -> None:
        (page,) = pages_with(path, b"first:node-017:")
        overwrite(path, page)
        with ContextStore(path) as store:
            second, first = store.list_runs()
            assert (second.flow_run_id, second.outputs) == ("second", 40)
            assert (first.flow_run_id, first.outputs) == ("first", 40)
            assert (first.first_written_at, first.last_written_at) == (None, None)
            assert second.first_written_at is not None

    def test_copy_brings_over_what_can_be_read(self, path: pathlib.Path) -> None:
        for marker in (b"first:node-017:", b"second:node-030:", b"global:node-020:"):
            (page,) = pages_with(path, marker)
            overwrite(path, page)
        with ContextStore(path) as source, ContextStore(":memory:") as target:
            with pytest.raises(CorruptStoreError, match="node-"):
                copy(source, target)
            report = copy(source, target, damaged="skip", progress=lambda done, total: None)
            skipped = {problem.key for problem in report.skipped}
            assert {("first", "node-017"), ("second", "node-030"), ("node-020",)} <= skipped
            assert report.outputs + sum(problem.kind == "output" for problem in report.skipped) == 80
            assert report.globals + sum(problem.kind == "global" for problem in report.skipped) == 40
            assert len(skipped) <= 12
            for run in ("first", "second"):
                assert {*target.list_keys(run)} == {*names(40)} - {key[1] for key in skipped if key[0] == run}
            assert target.check().ok

    def test_a_page_of_the_runs_is_named_run_by_run(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            for number in range(300):
                store.put(f"run-{number:03}-" + "z" * 200, "node", number)
        found = pages_with(file_path, b"run-150-")
        with contextlib.closing(sqlite3.connect(file_path)) as connection:
            (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'flow_runs'").fetchone()
        leaves = [page for page in found if file_path.read_bytes()[page * 4096] == 13]  # of a table, not of an index
        assert root not in leaves
        (leaf,) = leaves
        overwrite(file_path, leaf)
        with ContextStore(file_path) as source, ContextStore(":memory:") as target:
            with pytest.raises(CorruptStoreError, match="run-"):
                copy(source, target)
            report = copy(source, target, damaged="skip")
            assert {problem.kind for problem in report.skipped} == {"run"}
            assert any(problem.key[0].startswith("run-150-") for problem in report.skipped)
            assert report.runs + len(report.skipped) == 300
            assert len(report.skipped) < 40
            assert target.check().ok


class TestWhatAServerCannotRead:
    """A page of a table that is damaged there makes the server refuse every statement that looks at it."""

    def unreadable(self, store: ContextStore) -> None:
        engine: Any = core_of(store)._session.engine
        pool, statements = engine._pool, engine._statements
        fetch = pool.fetch

        async def refusing(statement: str, *arguments: Any) -> Any:
            if statement == statements.page_outputs:
                _, _, after, limit, _, _ = arguments
                if "c" in [node for node in NODES if node > after][:limit]:
                    raise CorruptStoreError("invalid page in block 7 (XX001)")
            if statement == statements.list_outputs:
                _, _, low, _, limit, _ = arguments
                if "c" in [node for node in NODES if node >= low][:limit]:
                    raise CorruptStoreError("invalid page in block 7 (XX001)")
            if statement == statements.page_global_rows:
                after, limit, _ = arguments
                if "key-2" in [f"key-{n}" for n in range(5) if f"key-{n}" > (after or "")][:limit]:
                    raise CorruptStoreError("invalid page in block 9 (XX001)")
            return await fetch(statement, *arguments)

        pool.fetch = refusing

    def test_it_is_gone_round(self, url: str) -> None:
        fill(url)
        with ContextStore(url) as store, ContextStore(":memory:") as target:
            self.unreadable(store)
            seen: list[str] = []
            with pytest.raises(CorruptStoreError, match="block 7") as caught:
                seen.extend(one.node_id for one in store.iter_outputs("first"))
            assert (seen, caught.value.node_id) == (["a", "b"], "c")
            assert [one.node_id for one in store.iter_outputs("first", after="c")] == list("defg")
            report = copy(store, target, damaged="skip")
            assert keys_of(report.skipped) == [
                *(("output", (run, "c")) for run in ("first", "second", "third", "fourth")),
                ("global", ("key-2",)),
            ]
            with pytest.raises(CorruptStoreError) as caught:
                copied_to_memory(store)
            assert (caught.value.flow_run_id, caught.value.node_id) == ("first", "c")
