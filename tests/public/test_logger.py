"""The package's logger: quiet unless the program asks, and with facts that a program can read."""

from __future__ import annotations

import datetime
import logging
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StorageError
from contextstore._dispatch import writer as _writer

from ..conftest import Target
from ..contract.test_counters import counters_of
from ..support.doubles import core_of, fail
from ..support.proxy import Proxy
from .test_readme import ROOT, section_of

PAGE = ROOT / "docs" / "telemetry.md"
OWN = set(vars(logging.makeLogRecord({})))
"""The attributes that a record has of its own."""


def facts_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(record, "contextstore") for record in caplog.records if hasattr(record, "contextstore")]  # noqa: B009 - of logging's records, mypy knows no further attribute


def events_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [facts["event"] for facts in facts_of(caplog)]


async def test_a_life_is_told_at_info(make_store: Target, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "contextstore")
    async with make_store() as store:
        await store.put_many("run", {"a": 1, "b": 2})
        await store.put("other", "a", 1)
        location = (await store.stats()).location
        await store.delete_run("run")
        await store.prune(older_than=datetime.timedelta(0))
    opened, deleted, pruned, closed = facts_of(caplog)
    assert opened["event"] == "opened"
    assert opened["seconds"] >= 0
    told = {"event": "run_deleted", "location": location, "flow_run_id": "run", "outputs": 2, "forgotten": False}
    assert deleted == told
    assert pruned["event"] == "pruned"
    assert (pruned["runs"], pruned["outputs"]) == (1, 1)
    assert closed == {"event": "closed", "location": location}
    assert {record.levelno for record in caplog.records if record.name == "contextstore"} == {logging.INFO}
    assert all(record.getMessage().startswith(f"{location}: ") for record in caplog.records)


async def test_a_put_and_a_get_are_not_logged(make_store: Target, caplog: pytest.LogCaptureFixture) -> None:
    async with make_store() as store:
        await store.put("run", "a", 1)
        caplog.set_level(logging.DEBUG, "contextstore")
        caplog.clear()
        await store.put("run", "b", 1)
        await store.get("run", "b")
        assert [record for record in caplog.records if record.name == "contextstore"] == []


def test_a_slow_commit_is_told_with_its_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "contextstore")
    monkeypatch.setattr(_writer, "SLOW_COMMIT", 0.0)  # each is slow
    with ContextStore(":memory:") as store:
        store.put_many("run", {"a": 1, "b": 2})
    (slow,) = [facts for facts in facts_of(caplog) if facts["event"] == "slow_commit"]
    assert slow["units"] == 1
    assert slow["seconds"] > 0


def test_a_slow_commit_of_the_calling_thread_is_told(
    file_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "a", 1)
        while not core_of(store)._session.writer.inline_commits:  # the first ones are the store's own thread's
            store.put("run", f"{time.monotonic_ns()}", 1)
        caplog.set_level(logging.INFO, "contextstore")
        monkeypatch.setattr(_writer, "SLOW_COMMIT", 0.0)
        store.put("run", "b", 1)
    assert "slow_commit" in events_of(caplog)


def test_a_checkpoint_that_fails_is_told_and_counted(file_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "a", 1)
        engine: Any = core_of(store)._session.engine
        wal = engine._database._wal

        def failing() -> None:
            raise OSError(5, "of the disk")

        wal._copy_to_file = failing
        wal._shortens_file, wal._frames = True, 10**6  # a checkpoint is due
        for n in range(3):
            store.put_many("run", {f"b{n}": 1, f"c{n}": 2})
        store.get("run", "missing")
        deadline = time.monotonic() + 60
        while not store.counters().troubles:
            assert time.monotonic() < deadline
        assert "checkpoint" in store.counters().troubles
    failed = next(facts for facts in facts_of(caplog) if facts["event"] == "checkpoint_failed")
    assert failed["location"] == str(file_path)


def test_a_lost_connection_is_told_and_counted_and_mended(
    proxy: Proxy, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "contextstore")
    with ContextStore(proxy.url(schema=schema)) as store:
        store.put("run", "a", 1)
        proxy.lose_answer_to("COMMIT")
        with store.batch() as batch:
            batch.put_global("a", 1)
            batch.put_global("b", 1)
        assert store.counters().troubles["connection"] == 1
    assert [event for event in events_of(caplog) if "connect" in event] == ["connection_lost", "reconnected"]


def test_so_is_one_whose_end_was_seen_between_two_calls(
    proxy: Proxy, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "contextstore")
    with ContextStore(proxy.url(schema=schema)) as store:
        store.put("run", "a", 1)
        engine: Any = core_of(store)._session.engine
        proxy.cut_all()
        deadline = time.monotonic() + 60
        while engine._writing.is_connected:
            assert time.monotonic() < deadline
        store.put("run", "b", 1)
        assert store.counters().troubles["connection"] == 1
    assert [event for event in events_of(caplog) if "connect" in event] == ["connection_lost", "reconnected"]


async def test_what_a_handler_raises_does_not_reach_the_call(make_store: Target) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("of a handler")

    logger, handler = logging.getLogger("contextstore"), Raising()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        async with make_store() as store:
            await store.put("run", "a", 1)
            assert counters_of(store).calls == {"put": 1}
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def test_trouble_with_the_poll_is_counted(file_path: pathlib.Path) -> None:
    async with AsyncContextStore(file_path) as store:
        await store.put("run", "a", 1)
        fail(store, "poll", StorageError("of the disk"))
        with pytest.raises(StorageError):
            await store.wait_for("run", "never", timeout=30)
        assert store.counters().troubles == {"poll": 1}


LIFE = """
import datetime, sys
from contextstore import ContextStore
from contextstore import Observer

class Raising(Observer):
    def on_operation(self, event): raise ValueError

with ContextStore(sys.argv[1], observers=[Raising()]) as store:
    store.put_many("run", {"a": 1, "b": 2})
    store.put("run", "c", 1)
    try: store.put("run", "c", 2)
    except Exception: pass
    store.get("run", "c")
    store.check(); store.stats(); store.backup(sys.argv[1] + ".backup")
    store.delete_run("run")
    store.prune(older_than=datetime.timedelta(0))
    store.put("run-2", "a", "x" * 10_000_000)
with ContextStore(sys.argv[1], read_only=True) as store:
    store.get("run-2", "a")
"""


def test_nothing_is_printed_in_a_program_that_does_not_ask_for_it(file_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", LIFE, str(file_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_page_has_every_event_that_the_package_logs() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "contextstore").rglob("*.py"))
    logged = set(re.findall(r'logging\.(?:INFO|WARNING|DEBUG),\s*"(\w+)"', sources))
    assert len(logged) > 10
    table = section_of(PAGE, "The log")
    assert set(re.findall(r"^\| `(\w+)` \| [A-Z]", table, re.MULTILINE)) == logged


def test_its_attribute_is_none_of_loggings_own() -> None:
    assert "contextstore" not in OWN
