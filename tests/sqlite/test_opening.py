"""The first call opens: what it was given, whom the store belongs to afterwards, and what SQLite must have answered."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import pathlib
import weakref
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StorageError, StoreNotFoundError
from contextstore._sqlite import worker as _worker

from ..support.doubles import until


async def test_a_value_that_is_changed_while_the_store_opens_is_stored_as_it_was_given(file_path: pathlib.Path) -> None:
    async with AsyncContextStore(file_path) as store:
        pass
    for number, call in enumerate(("put", "put_many", "put_global", "upsert_global")):
        store = AsyncContextStore(file_path)
        value = [1]
        arguments: dict[str, tuple[Any, ...]] = {
            "put": ("run", f"{number}", value),
            "put_many": ("run", {f"{number}": value}),
            "put_global": (f"{number}", value),
            "upsert_global": (f"{number}", value),
        }
        writing = asyncio.ensure_future(getattr(store, call)(*arguments[call]))
        await asyncio.sleep(0)
        value.append(2)
        await writing
        stored = await (store.get_global(f"{number}") if "global" in call else store.get("run", f"{number}"))
        assert stored == [1], call
        await store.close()


def test_a_failed_opening_and_the_next_ones_may_each_be_on_a_loop_of_their_own(tmp_path: pathlib.Path) -> None:
    store = AsyncContextStore(tmp_path / "folder" / "store.db")
    with pytest.raises(StoreNotFoundError):
        asyncio.run(store.open())
    (tmp_path / "folder").mkdir()

    async def put_and_get() -> Any:
        await store.put("run", "node", 1)
        return await store.get("run", "node")

    async def again() -> Any:
        await store.put("run", "node", 1, exist_ok=True)
        return await store.get("run", "node")

    assert asyncio.run(put_and_get()) == 1
    assert asyncio.run(again()) == 1
    asyncio.run(store.close())


@pytest.mark.parametrize(("statement", "answer"), [("journal_mode = WAL", "delete"), ("synchronous", 1)])
def test_what_sqlite_answers_to_a_setting_is_looked_at(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, statement: str, answer: object
) -> None:
    execute = _worker._JobConnection.execute

    class Answer:
        def fetchall(self) -> list[tuple[object]]:
            return [(answer,)]

    def doctored(self: Any, sql: Any, parameters: Any = (), /) -> Any:
        if isinstance(sql, str) and sql.endswith(statement):
            return Answer()
        return execute(self, sql, parameters)

    monkeypatch.setattr(_worker._JobConnection, "execute", doctored)
    with pytest.raises(StorageError, match=r"would not switch to WAL|does not take synchronous"):
        ContextStore(file_path).open()


async def test_nothing_that_outlives_a_call_keeps_its_context(file_path: pathlib.Path) -> None:
    class Span:
        """What a tracer keeps in a context variable."""

    current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("current", default=None)
    async with AsyncContextStore(file_path) as store:

        async def first_of_all(what: str) -> weakref.ref[Span]:
            span = Span()
            current.set(span)
            if what == "wait_for":
                with pytest.raises(TimeoutError):
                    await store.wait_for("run", "never", timeout=0.05)
            else:
                await store.put("run", what, 1)
            return weakref.ref(span)

        put = await asyncio.create_task(first_of_all("put"))
        waited = asyncio.create_task(first_of_all("wait_for"))
        await until(lambda: store._core.session.subscriptions._polling)
        waiting = asyncio.create_task(store.wait_for("run", "other"))  # keeps the poller that the first has started
        span = await waited
        del waited  # a task keeps its context, also for some turns of the loop after its end
        await asyncio.sleep(0.05)
        gc.collect()
        assert put() is None
        assert span() is None
        await store.put("run", "other", 1)
        await waiting


def test_a_side_file_that_goes_while_it_is_looked_at_is_in_nobodys_way(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a journal does, when another process has just made the file."""
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
    journal = file_path.with_name(file_path.name + "-journal")
    journal.touch(0o600)
    access = os.access

    def late(path: Any, *args: Any, **kwargs: Any) -> bool:
        if str(path) == str(journal):
            journal.unlink(missing_ok=True)
        return access(path, *args, **kwargs)

    monkeypatch.setattr(os, "access", late)
    monkeypatch.setattr(os, "supports_effective_ids", {late})
    with ContextStore(file_path) as store:
        assert store.get("run", "node") == 1
    assert not journal.exists()
