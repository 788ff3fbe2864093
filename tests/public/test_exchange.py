"""``export_records`` and ``import_records``: a store as records, and an equal store made of them."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    CorruptStoreError,
    ExportedGlobal,
    ExportedOutput,
    ExportedRun,
    InvalidKeyError,
    Problem,
    RunAlreadyExistsError,
    RunDeletedError,
    SerializationError,
    VersionConflictError,
    copy,
    export_records,
    import_records,
)

from .conftest import Location
from .test_transfer import ENGINES, contents, fill

THEN = datetime.datetime(2026, 3, 1, 5, 0, 0, 123456, tzinfo=datetime.UTC)


def output(node: str, data: bytes, encoding: Any = "json", run: str = "run") -> ExportedOutput:
    return ExportedOutput(run, node, encoding, data, THEN)


def a_global(data: bytes | None, version: int = 1, key: str = "key") -> ExportedGlobal:
    return ExportedGlobal(key, None if data is None else "json", data, version, THEN)


class TestThereAndBack:
    @pytest.mark.parametrize("one", ENGINES)
    @pytest.mark.parametrize("other", ENGINES)
    def test_a_store_that_is_made_of_the_records_is_equal(self, location: Location, one: str, other: str) -> None:
        with ContextStore(location(one)) as source, ContextStore(location(other)) as target:
            fill(source)
            report = import_records(target, export_records(source))
            assert contents(target) == contents(source)
            stats = source.stats()
            assert (report.runs, report.outputs, report.globals, report.tombstones, report.bytes, report.conflicts) == (
                *(stats.runs, stats.outputs, stats.globals, stats.tombstones, stats.value_bytes),
                0,
            )
            copy(source, target)  # which proves the two equal, to the byte and the microsecond

    @pytest.mark.parametrize("engine", ENGINES)
    def test_twice_changes_nothing(self, location: Location, engine: str) -> None:
        with ContextStore(location("file")) as source, ContextStore(location(engine)) as target:
            fill(source)
            first = import_records(target, export_records(source))
            before = list(export_records(target))
            assert import_records(target, export_records(source)) == first
            assert list(export_records(target)) == before

    @pytest.mark.parametrize("engine", ["file", "postgres"])
    def test_one_that_was_interrupted_goes_on(self, location: Location, engine: str) -> None:
        with ContextStore(location("file")) as source, ContextStore(location(engine)) as target:
            fill(source)
            records = list(export_records(source))
            seed = random.randrange(2**32)
            print("seed", seed)
            chance = random.Random(seed)

            def up_to(end: int) -> Iterator[Any]:
                yield from records[:end]
                raise KeyboardInterrupt

            for _ in range(4):
                with pytest.raises(KeyboardInterrupt):
                    import_records(target, up_to(chance.randrange(len(records))))
            import_records(target, records)
            assert list(export_records(target)) == records

    def test_memory_is_that_of_a_portion(self, location: Location) -> None:
        """A million records would go through: they are asked for as they are loaded."""
        given = loaded = 0
        with ContextStore(location("file")) as target:

            def records() -> Iterator[Any]:
                nonlocal given, loaded
                for number in range(1000):
                    loaded = target.stats().outputs
                    given += 1
                    assert given - loaded <= 402
                    yield output(f"{number:05}", b"1")

            assert import_records(target, records()).outputs == 1000

    def test_it_can_be_left_half_read(self, location: Location) -> None:
        with ContextStore(location("file")) as source:
            source.put_many("run", {f"{i:04}": i for i in range(500)})
            records = export_records(source)
            assert isinstance(next(records), ExportedRun)
            del records
            source.put("run", "later", 1)


class TestSelection:
    @pytest.fixture
    def store(self) -> Iterator[ContextStore]:
        with ContextStore(":memory:") as store:
            for run in ("a-1", "a-2", "b-1"):
                store.put(run, "node", run)
            store.delete_run("a-2")
            store.upsert_global("key", 1)
            yield store

    @staticmethod
    def names(records: Iterable[Any]) -> list[str]:
        return [one.key if isinstance(one, ExportedGlobal) else type(one).__name__[8:] for one in records]

    def test_all_of_it_is_usual(self, store: ContextStore) -> None:
        assert self.names(export_records(store)) == ["Run", "Output", "Run", "Run", "Output", "key"]

    def test_runs_by_id_come_without_globals(self, store: ContextStore) -> None:
        records = list(export_records(store, runs=["b-1", "never"]))
        assert [one.flow_run_id for one in records] == ["b-1", "b-1"]  # type: ignore[union-attr]  # no globals

    def test_runs_by_prefix_with_those_that_were_deleted(self, store: ContextStore) -> None:
        records = export_records(store, prefix="a-")
        assert [(one.flow_run_id, type(one)) for one in records if not isinstance(one, ExportedGlobal)] == [
            ("a-1", ExportedRun),
            ("a-1", ExportedOutput),
            ("a-2", ExportedRun),
        ]

    def test_globals_can_be_asked_for_and_left_out(self, store: ContextStore) -> None:
        assert self.names(export_records(store, runs=[], globals=True)) == ["key"]
        assert "key" not in self.names(export_records(store, globals=False))

    def test_one_id_is_not_several(self, store: ContextStore) -> None:
        with pytest.raises(TypeError, match="several"):
            export_records(store, runs="b-1")
        with pytest.raises(InvalidKeyError):
            export_records(store, runs=[""])


CONFLICTS: list[tuple[str, Callable[[ContextStore], Any], list[Any], type[Exception], Problem]] = [
    (
        "another output",
        lambda store: store.put("run", "node", 2),
        [output("node", b"1")],
        AlreadyExistsError,
        Problem("output", ("run", "node"), ""),
    ),
    (
        "a run that is deleted here",
        lambda store: store.delete_run("run"),
        [ExportedRun("run", THEN), output("node", b"1"), output("node 2", b"1")],
        RunDeletedError,
        Problem("run", ("run",), ""),
    ),
    (
        "a run that is deleted there",
        lambda store: store.put("run", "node", 1),
        [ExportedRun("run", THEN, THEN)],
        RunAlreadyExistsError,
        Problem("run", ("run",), ""),
    ),
    (
        "a global with another value",
        lambda store: store.upsert_global("key", 2),
        [a_global(b"1")],
        VersionConflictError,
        Problem("global", ("key",), ""),
    ),
    (
        "a global that has come less far here",
        lambda store: store.upsert_global("key", 1),
        [a_global(b"1", 7)],
        VersionConflictError,
        Problem("global", ("key",), ""),
    ),
    (
        "a global that is deleted there",
        lambda store: store.upsert_global("key", 1),
        [a_global(None, 7)],
        VersionConflictError,
        Problem("global", ("key",), ""),
    ),
]


class TestConflicts:
    """What is there stays, and is named."""

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("case", CONFLICTS, ids=lambda case: case[0])
    def test_the_first_one_is_raised_and_what_is_there_stays(self, location: Location, engine: str, case: Any) -> None:
        _, fill_it, records, error, problem = case
        with ContextStore(location(engine)) as store:
            fill_it(store)
            before = list(export_records(store))
            with pytest.raises(error):
                import_records(store, records)
            assert list(export_records(store)) == before
            told: list[Problem] = []
            with_others = [output("node", b"1", run="first"), *records, a_global(b"1", key="last")]
            report = import_records(store, with_others, on_conflict=told.append)
            assert [(one.kind, one.key) for one in told] == [(problem.kind, problem.key)]
            assert report.conflicts == 1
            assert (store.get("first", "node"), store.get_global("last")) == (1, 1)
            kept = [one for one in export_records(store) if getattr(one, "flow_run_id", "") != "first"]
            assert [one for one in kept if getattr(one, "key", "") != "last"] == before

    @pytest.mark.parametrize("engine", ENGINES)
    def test_what_came_before_the_first_one_is_loaded_and_nothing_behind_it(
        self, location: Location, engine: str
    ) -> None:
        with ContextStore(location(engine)) as store:
            store.put("run-2", "017", "other")
            store.delete_run("run-3")
            runs = ("run-1", "run-2", "run-3", "run-4")
            records = [output(f"{number:03}", b"1", run=run) for run in runs for number in range(30)]
            with pytest.raises(AlreadyExistsError, match="'017'"):
                import_records(store, records)
            assert len(store.list_keys("run-1")) == 30
            assert len(store.list_keys("run-2")) == 18
            assert store.list_keys("run-4") == []

    @pytest.mark.parametrize("engine", ENGINES)
    def test_each_of_many_is_named_and_all_others_are_loaded(self, location: Location, engine: str) -> None:
        conflicting = {f"{number:03}" for number in range(0, 300, 29)}
        with ContextStore(location(engine)) as store:
            store.put_many("run", dict.fromkeys(conflicting, "other"))
            told: list[Problem] = []
            records = [ExportedRun("run", THEN), *(output(f"{number:03}", b"1") for number in range(300))]
            report = import_records(store, records, on_conflict=told.append)
            assert {one.key[1] for one in told} == conflicting
            assert (report.outputs, report.conflicts) == (300 - len(conflicting), len(conflicting))
            assert store.get_run("run") == {
                f"{number:03}": "other" if f"{number:03}" in conflicting else 1 for number in range(300)
            }

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_global_that_was_deleted_here_before_is_written(self, location: Location, engine: str) -> None:
        with ContextStore(location(engine)) as store:
            store.upsert_global("key", 1)
            store.delete_global("key")
            import_records(store, [a_global(b"5", 2)])
            entry = store.get_global_entry("key")
            assert entry is not None
            assert (entry.value, entry.version, entry.written_at) == (5, 2, THEN)

    def test_an_equal_output_keeps_its_own_time(self, location: Location) -> None:
        with ContextStore(location("file")) as store:
            store.put("run", "node", {"a": 1, "b": 2})
            before = store.get_entry("run", "node")
            import_records(store, [output("node", b'{"b":2,"a":1}')])
            assert store.get_entry("run", "node") == before


class TestWhatOthersHaveMade:
    def stored(self, *records: Any) -> list[Any]:
        with ContextStore(":memory:") as store:
            import_records(store, records)
            return list(export_records(store))

    @pytest.mark.parametrize(
        ("text", "stored"),
        [
            (b' { "b" : 1.50, "a": "\\u00e9\\u2028" } ', '{"b":1.5,"a":"é\u2028"}'.encode()),
            (b"18446744073709551615", b"18446744073709551615"),
            (b"-9223372036854775808", b"-9223372036854775808"),
            (b"[1.0, -0.0, 1e2]", b"[1.0,-0.0,100.0]"),
        ],
    )
    def test_json_that_is_written_otherwise_is_stored_as_usual(self, text: bytes, stored: bytes) -> None:
        assert self.stored(output("node", text))[1].data == stored

    @pytest.mark.parametrize(
        "text",
        [
            *(b"", b"[1", b"nul", b"NaN", b"[Infinity]", b"1e400", b'"\xff"', b'"\\ud800"', b"1 2"),
            *(b"18446744073709551616", b"[-9223372036854775809]", b'{"a":1,"a":2}', b"[" * 300 + b"]" * 300),
        ],
    )
    def test_what_is_no_value_is_refused(self, text: bytes) -> None:
        with pytest.raises(SerializationError):
            self.stored(output("node", text))

    @pytest.mark.parametrize(
        "record",
        [
            dataclasses.replace(output("node", b"1"), written_at=THEN.replace(tzinfo=None)),
            dataclasses.replace(output("node", b"1"), written_at=datetime.datetime(1969, 1, 1, tzinfo=datetime.UTC)),
            dataclasses.replace(output("node", b"1"), encoding="pickle"),
            dataclasses.replace(output("node", b"1"), flow_run_id=""),
            dataclasses.replace(output("node", b"1"), node_id="\0"),
            a_global(b"1", 0),
            a_global(b"1", 2**63),
        ],
        ids=lambda record: type(record).__name__,
    )
    def test_what_no_store_could_have_given_is_refused(self, record: Any) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            self.stored(record)

    @pytest.mark.parametrize("record", [None, {"flow_run_id": "run"}, dataclasses.replace(output("n", b""), data="1")])
    def test_what_is_no_record_is_refused(self, record: Any) -> None:
        with pytest.raises(TypeError):
            self.stored(record)

    def test_a_run_without_outputs_is_not_loaded(self) -> None:
        assert self.stored(ExportedRun("empty", THEN), ExportedRun("run", THEN), output("node", b"1")) == [
            ExportedRun("run", THEN),
            output("node", b"1"),
        ]

    def test_a_run_need_not_come_first(self) -> None:
        assert self.stored(output("node", b"1"))[0] == ExportedRun("run", THEN)


class TestDamage:
    @pytest.fixture
    def damaged(self, tmp_path: pathlib.Path) -> Iterator[ContextStore]:
        path = tmp_path / "damaged.db"
        with ContextStore(path) as store:
            store.put_many("run", {"a": 1, "b": 2, "c": 3})
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE node_outputs SET value = '7' WHERE node_id = 'b'")
        connection.close()
        with ContextStore(path) as store:
            yield store

    def test_it_is_raised(self, damaged: ContextStore) -> None:
        with pytest.raises(CorruptStoreError, match="'b'"):
            list(export_records(damaged))

    def test_or_left_out_and_told(self, damaged: ContextStore) -> None:
        told: list[Problem] = []
        records = list(export_records(damaged, on_damaged=told.append))
        assert [one.node_id for one in records if isinstance(one, ExportedOutput)] == ["a", "c"]
        assert [(one.kind, one.key) for one in told] == [("output", ("run", "b"))]


async def test_an_awaited_store_is_refused_with_what_to_do() -> None:
    async with AsyncContextStore(":memory:") as store:
        for call in (lambda: export_records(store), lambda: import_records(store, [])):  # type: ignore[arg-type]  # the point
            with pytest.raises(TypeError, match="in a thread"):
                call()
