"""Names that look like code are data, on every face and engine."""

from __future__ import annotations

import asyncio
import datetime
import logging
import pathlib
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    AtomicWriter,
    ContextStore,
    InvalidKeyError,
    RunDeletedError,
)

HOSTILE = [
    "'; DROP TABLE outputs;--",
    "'; DROP TABLE node_outputs; --",
    '"; DELETE FROM flow_runs; --',
    "x' OR '1'='1",
    "') ON CONFLICT DO UPDATE SET value = 'x' --",
    "?",
    "?1",
    ":name",
    "@name",
    "$1",
    "%",
    "_",
    "*",
    "[a-z]*",
    "\\",
    "\\x00",
    "%s",
    "%n%n%n",
    "%(key)s",
    "{0}",
    "{}",
    "{0.__class__.__mro__}",
    "{key!r:>1000000000}",
    "../../x",
    "/etc/passwd",
    "~/x",
    "C:\\x",
    "file:x?mode=memory",
    ":memory:",
    "sqlite:///x.db",
    "x\n; y",
    "\x1b[2J",
    "$(touch x)",
    "`touch x`",
    "__import__('os').system('touch x')",
    "<script>",
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "null",
    '{"a": 1}',
    "\N{FULLWIDTH APOSTROPHE}; DROP TABLE flow_runs",
]


async def test_ids_and_keys_that_look_like_code_are_plain_data(store: Any) -> None:
    for number, name in enumerate(HOSTILE):
        await store.put(name, name, {name: name, "number": number})
        await store.put("run", name, number)
        assert await store.upsert_global(name, name) == 1
    for number, name in enumerate(HOSTILE):
        assert await store.get(name, name) == {name: name, "number": number}
        assert await store.get("run", name) == number
        assert await store.get_many("run", [name]) == {name: number}
        assert await store.exists(name, name)
        assert await store.wait_for("run", name, timeout=5) == number
        assert (await store.get_entry("run", name)).node_id == name
        assert await store.get_global(name) == name
        assert (await store.get_global_entry(name)).key == name
    assert await store.list_keys("run") == sorted(HOSTILE)
    assert await store.get_run("run") == {name: HOSTILE.index(name) for name in sorted(HOSTILE)}
    assert {info.flow_run_id for info in await store.list_runs()} == {"run", *HOSTILE}
    assert [entry.key for entry in await store.list_globals()] == sorted(HOSTILE)
    assert (await store.check()).problems == ()


async def test_a_prefix_that_looks_like_a_pattern_is_literal(store: Any) -> None:
    for name in HOSTILE:
        await store.put("run", name, 1)
        await store.put(name, "node", 1)
        await store.put_global(name, 1)
    for prefix in [*HOSTILE, *(name[:2] for name in HOSTILE)]:
        expected = sorted(name for name in HOSTILE if name.startswith(prefix))
        assert await store.list_keys("run", prefix=prefix) == expected
        assert sorted(info.flow_run_id for info in await store.list_runs(prefix=prefix)) == expected
        assert [entry.key for entry in await store.list_globals(prefix)] == expected
        after = [entry.key for entry in await store.list_globals(after=prefix)]
        assert after == sorted(name for name in HOSTILE if name > prefix)


async def test_what_is_deleted_by_such_a_name_is_that_alone(store: Any) -> None:
    for name in HOSTILE:
        await store.put(name, "node", name)
        await store.put_global(name, name)
    for number, name in enumerate(HOSTILE):
        assert await store.fork_run(name, new_flow_run_id=f"copy of {name}") == f"copy of {name}"
        assert await store.delete_run(name) == 1
        assert await store.delete_global(name)
        with pytest.raises(RunDeletedError) as caught:
            await store.put(name, "node", 1)
        assert caught.value.flow_run_id == name
        assert await store.get(f"copy of {name}", "node") == name
        assert len(await store.list_globals()) == len(HOSTILE) - number - 1
    assert len(await store.list_runs()) == len(HOSTILE)
    assert (await store.prune(older_than=datetime.timedelta(0))).runs == len(HOSTILE)


async def test_errors_and_logs_hold_such_names_as_they_are(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in HOSTILE:
        await store.put(name, name, 1)
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put(name, name, 2)
        assert (caught.value.flow_run_id, caught.value.node_id) == (name, name)
        assert len(str(caught.value)) < 2000
    assert all(len(record.getMessage()) < 2000 for record in caplog.records)


def test_what_the_writer_says_of_such_a_name_can_be_formatted(caplog: pytest.LogCaptureFixture) -> None:
    with ContextStore(":memory:") as store:
        for name in HOSTILE:
            store.put(name, name, "first")
            assert AtomicWriter(store).write_and_complete(name, name, "second", lambda: "done") == "done"
    assert len(caplog.records) >= len(HOSTILE)
    for record in caplog.records:
        assert record.getMessage()


async def test_a_nul_is_refused_by_every_kind_of_name(store: Any) -> None:
    for call in (
        lambda name: store.put(name, "node", 1),
        lambda name: store.put("run", name, 1),
        lambda name: store.put_many("run", {name: 1}),
        lambda name: store.get(name, "node"),
        lambda name: store.list_keys("run", prefix=name),
        lambda name: store.list_runs(prefix=name),
        lambda name: store.put_global(name, 1),
        lambda name: store.list_globals(name),
        lambda name: store.delete_run(name),
    ):
        for name in ("\x00", "x\x00", "x\x00'; DROP TABLE flow_runs;--"):
            with pytest.raises(InvalidKeyError):
                await call(name)
    assert await store.list_runs() == []


@pytest.mark.parametrize("face", ["async", "sync"])
def test_no_name_is_taken_for_a_path(tmp_path: pathlib.Path, face: str) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)

    async def use() -> None:
        async with AsyncContextStore(folder / "store.db") as store:
            for name in HOSTILE:
                await store.put(name, name, name)
                await store.upsert_global(name, name)

    if face == "async":
        asyncio.run(use())
    else:
        with ContextStore(folder / "store.db") as store:
            for name in HOSTILE:
                store.put(name, name, name)
                store.upsert_global(name, name)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"deep/folder/store.db", "deep/folder/store.db-lock"}


def test_values_that_look_like_code_or_like_pickles_come_back_as_they_are() -> None:
    values: list[Any] = [
        *HOSTILE,
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x01x\x94\x85\x94R\x94.",
        b"cos\nsystem\n(S'touch x'\ntR.",
        {"__class__": "os.system", "$ref": "#", "py/object": "os.system", "__reduce__": ["touch x"]},
        {"$type": "bytes", "codec": 1},
    ]
    with ContextStore(":memory:") as store:
        for number, value in enumerate(values):
            store.put("run", f"{number}", value)
        assert [store.get("run", f"{number}") for number in range(len(values))] == values
