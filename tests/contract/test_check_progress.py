"""``check`` tells how far it has come: where it was called, rising to what was counted, and given up if that raises."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from contextstore import AsyncContextStore, StorageError
from contextstore._engine import check_progress as _check_progress

from ..conftest import Target, new_location
from ..support.doubles import core_of

ROWS = 1203 + 2
"""Of the store below: outputs and marks of deleted ones, and globals, a deleted one too."""


@pytest.fixture
async def filled(store: Any) -> Any:
    await store.put_many("run", {f"{number:04}": number for number in range(1200)})
    await store.put_many("other", {"a": 1, "b": 2, "c": 3})
    await store.delete_outputs("other", ["a"])
    await store.put_many("gone", {"a": 1, "b": 2})
    await store.delete_run("gone", forget=True)  # which leaves a row that is no output
    await store.put_global("there", 1)
    await store.put_global("deleted", 1)
    await store.delete_global("deleted")
    return store


@pytest.fixture
def at_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check_progress, "SECONDS", 0.0)


@pytest.mark.usefixtures("at_each_row")
async def test_it_rises_to_what_there_is(filled: Any) -> None:
    told: list[tuple[int, int]] = []
    report = await filled.check(progress=lambda *event: told.append(event))
    assert report == await filled.check()
    assert (report.outputs, report.globals, report.ok) == (1202, 1, True)
    assert told == sorted(set(told))
    assert {total for _, total in told} == {ROWS}
    assert told[-1] == (ROWS, ROWS)


async def test_of_an_empty_store_it_is_told_that_there_is_nothing(store: Any) -> None:
    told: list[tuple[int, int]] = []
    assert (await store.check(progress=lambda *event: told.append(event))).ok
    assert told == [(0, 0)]


@pytest.mark.usefixtures("at_each_row")
async def test_what_is_written_meanwhile_is_not_counted(filled: Any) -> None:
    told: list[tuple[int, int]] = []
    if hasattr(filled, "plain"):

        def progress(done: int, total: int) -> None:
            filled.plain.put("zzz", f"{len(told):06}", 1)
            told.append((done, total))

        await filled.check(progress=progress)
    else:

        async def progress_async(done: int, total: int) -> None:
            await filled.put("zzz", f"{len(told):06}", 1)
            told.append((done, total))

        await filled.check(progress=progress_async)
    assert told == sorted(told)
    assert {total for _, total in told} == {ROWS}
    assert told[-1] == (ROWS, ROWS)


async def test_it_is_called_where_check_was_called(filled: Any) -> None:
    called_in: set[Any] = set()
    if hasattr(filled, "plain"):

        def check() -> int:
            filled.plain.check(progress=lambda *_: called_in.add(threading.get_ident()))
            return threading.get_ident()

        assert {await asyncio.to_thread(check)} == called_in
    else:
        await filled.check(progress=lambda *_: called_in.add(asyncio.current_task()))
        assert called_in == {asyncio.current_task()}


async def test_it_may_be_a_coroutine_function_on_the_async_face_alone(filled: Any) -> None:
    told = []

    async def progress(done: int, total: int) -> None:
        told.append((done, total))

    if hasattr(filled, "plain"):
        with pytest.raises(TypeError, match="AsyncContextStore"):
            await filled.check(progress=progress)
    else:
        assert (await filled.check(progress=progress)).ok
        assert told[-1] == (ROWS, ROWS)


async def test_what_is_no_function_is_refused(store: Any) -> None:
    with pytest.raises(TypeError, match=r"^progress must be"):
        await store.check(progress=5)


async def test_when_it_raises_the_check_is_given_up_and_the_store_goes_on(filled: Any) -> None:
    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await filled.check(progress=progress)
    await filled.put("run", "new", 1)
    assert (await filled.check()).outputs == 1203


async def test_a_store_that_is_closed_meanwhile_lets_the_check_come_to_its_end(filled: Any) -> None:
    told: list[tuple[int, int]] = []
    if hasattr(filled, "plain"):

        def progress(done: int, total: int) -> None:
            filled.plain.close()
            told.append((done, total))

        report = await filled.check(progress=progress)
    else:

        async def progress_async(done: int, total: int) -> None:
            await filled.close()
            told.append((done, total))

        report = await filled.check(progress=progress_async)
    assert report.ok
    assert told[-1] == (ROWS, ROWS)


async def test_cancelled_it_ends_at_once_and_the_store_goes_on(make_store: Target) -> None:
    if make_store.face != "async":
        pytest.skip("is about a task of asyncio")
    async with make_store() as store:
        await store.put("run", "a", 1)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def progress(done: int, total: int) -> None:
            begun.set_result(None)
            await asyncio.Event().wait()

        task = asyncio.ensure_future(store.check(progress=progress))
        await begun
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await store.check()).ok


@pytest.mark.usefixtures("at_each_row")
@pytest.mark.parametrize("engine", ["memory", "file", "postgres"])
class TestAnEngine:
    async def opened(self, engine: str, request: pytest.FixtureRequest) -> AsyncContextStore:
        store = AsyncContextStore(new_location(engine, request))
        await store.put_many("run", {f"{number:04}": number for number in range(1200)})
        return store

    async def test_tells_of_the_way_between_the_ends(self, engine: str, request: pytest.FixtureRequest) -> None:
        told: list[tuple[int, int]] = []
        async with await self.opened(engine, request) as store:
            session = core_of(store)._session
            await session.on_host(lambda: session.engine.check(lambda *event: told.append(event)))
        assert (told[0], told[-1]) == ((0, 1200), (1200, 1200))
        assert len(set(told)) > 3
        assert told == sorted(told)

    async def test_ends_soon_once_nobody_wants_its_report(self, engine: str, request: pytest.FixtureRequest) -> None:
        told: list[int] = []

        def give_up(done: int, total: int) -> None:
            told.append(done)
            if done:
                raise StorageError("given up")

        async with await self.opened(engine, request) as store:
            session = core_of(store)._session
            with pytest.raises(StorageError, match="given up"):
                await session.on_host(lambda: session.engine.check(give_up))
        assert max(told) < 1200
