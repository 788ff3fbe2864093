"""Globals: listed by key, deleted, compared and set."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sqlite3
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    CorruptStoreError,
    GlobalAlreadyExistsError,
    GlobalEntry,
    InvalidKeyError,
    ReadOnlyStoreError,
    VersionConflictError,
)
from contextstore._sqlite.worker import connection_here
from contextstore._waiting.threads import run_now

from ..conftest import Target
from ..support.doubles import core_of
from .runs import RUN


async def keys_of(store: Any, *arguments: Any, **options: Any) -> list[str]:
    return [entry.key for entry in await store.list_globals(*arguments, **options)]


def damage(store: Target, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(store.location)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


class TestEntries:
    async def test_an_entry_is_the_value_its_version_and_when_it_was_written(self, store: Any) -> None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
        await store.put_global(RUN, {"a": 1})
        entry = await store.get_global_entry(RUN)
        assert entry == GlobalEntry(str(RUN), {"a": 1}, 1, entry.written_at)
        assert entry.written_at.utcoffset() == datetime.timedelta(0)
        assert before <= entry.written_at <= datetime.datetime.now(datetime.UTC)
        await store.upsert_global(RUN, None)
        later = await store.get_global_entry(str(RUN))
        assert (later.value, later.version) == (None, 2)
        assert later.written_at >= entry.written_at

    async def test_there_is_none_where_there_is_no_such_key(self, store: Any) -> None:
        assert await store.get_global_entry("key") is None
        await store.put_global("key", 1)
        await store.delete_global("key")
        assert await store.get_global_entry("key") is None

    async def test_bytes_come_back_exactly(self, store: Any) -> None:
        await store.put_global("key", b"\x00\xff")
        assert (await store.get_global_entry("key")).value == b"\x00\xff"

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_one_is_an_error_that_names_it(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
            damage(make_store, "UPDATE global_values SET value = '2'")
            calls = [
                lambda: store.get_global_entry("key"),
                lambda: store.list_globals(),
                lambda: store.update_global("key", lambda value: value),
            ]
            for call in calls:
                with pytest.raises(CorruptStoreError, match="'key'"):
                    await call()
            assert await store.delete_global("key") is True
            assert await store.list_globals() == []

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.parametrize(
        "change", ["version = 'damaged'", "written_at = 'damaged'", "written_at = 1 << 61", "written_at = -1"]
    )
    @pytest.mark.usefixtures("embedded")
    async def test_so_is_one_whose_version_or_time_is_none(self, make_store: Target, change: str) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
            damage(make_store, f"UPDATE global_values SET {change}")
            for call in (lambda: store.get_global_entry("key"), lambda: store.list_globals()):
                with pytest.raises(CorruptStoreError, match="'key'"):
                    await call()
            if change.startswith("version"):  # nobody knows which one comes next
                with pytest.raises(CorruptStoreError, match="'key'"):
                    await store.upsert_global("key", 2)
            else:
                await store.upsert_global("key", 2)
                assert (await store.get_global_entry("key")).version == 2

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_value_that_is_gone_does_not_pass_for_a_deleted_one(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
            damage(make_store, "UPDATE global_values SET value = NULL")
            with pytest.raises(CorruptStoreError, match="'key'"):
                await store.get_global("key", "default")


class TestListing:
    NAMES = ("b", "", "a", "B", "é", "\U0001f600", "\uffee", "a%", "a_", "aa", "a b", "10", "9", "\U0010ffff")

    async def test_it_is_ordered_by_code_point(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, name)
        entries = await store.list_globals()
        assert [(entry.key, entry.value) for entry in entries] == [(name, name) for name in sorted(self.NAMES)]
        assert entries == [await store.get_global_entry(entry.key) for entry in entries]

    async def test_a_prefix_is_literal(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, 1)
        for prefix in [*self.NAMES, "a*", "nothing", "\U0010ffff\U0010ffff"]:
            expected = sorted(name for name in self.NAMES if name.startswith(prefix))
            assert await keys_of(store, prefix) == await keys_of(store, prefix=prefix) == expected

    async def test_pages_join_without_a_gap_and_without_a_repetition(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, 1)
        for prefix in ("", "a"):
            for limit in (1, 3, 100):
                seen: list[str] = []
                while page := await keys_of(store, prefix, after=seen[-1] if seen else None, limit=limit):
                    assert len(page) <= limit
                    seen += page
                assert seen == sorted(name for name in self.NAMES if name.startswith(prefix))

    async def test_after_need_not_be_there(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, 1)
        for after in ["0", "a", "a!", "b", "zz", RUN, *self.NAMES]:
            for prefix in ("", "a"):
                expected = sorted(n for n in self.NAMES if n > str(after) and n.startswith(prefix))
                assert await keys_of(store, prefix, after=after) == expected

    async def test_after_the_empty_key_come_all_others(self, store: Any) -> None:
        await store.put_global("", 1)
        await store.put_global("a", 1)
        assert await keys_of(store) == ["", "a"]
        assert await keys_of(store, after="") == ["a"]

    async def test_deleted_ones_are_left_out(self, store: Any) -> None:
        for name in ("a", "b", "c"):
            await store.put_global(name, 1)
        await store.delete_global("b")
        assert await keys_of(store) == ["a", "c"]
        assert await keys_of(store, after="b") == ["c"]

    async def test_a_thousand_is_the_limit_unless_told(self, store: Any) -> None:
        async with begun_batch(store) as batch:
            for i in range(1005):
                batch.upsert_global(f"{i:04}", i)
        assert len(await store.list_globals()) == 1000
        assert len(await store.list_globals(limit=2**40)) == 1005

    async def test_what_cannot_be_meant_is_refused(self, store: Any) -> None:
        with pytest.raises(ValueError, match="limit"):
            await store.list_globals(limit=0)
        with pytest.raises(TypeError, match="limit"):
            await store.list_globals(limit="1")
        with pytest.raises(InvalidKeyError, match="prefix"):
            await store.list_globals(7)
        with pytest.raises(InvalidKeyError, match="after"):
            await store.list_globals(after=7)

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_the_work_of_a_page_does_not_grow_with_those_before_it(self, make_store: Target) -> None:
        async with make_store():
            pass
        with contextlib.closing(sqlite3.connect(make_store.location)) as connection, connection:
            connection.execute(
                """
                WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 19999)
                INSERT INTO global_values (key, version, codec, checksum, written_at, size, value)
                SELECT printf('key-%05d', n), 1, 0, 0, 1, 1, '1' FROM numbers
                """
            )
        with ContextStore(make_store.location) as store:
            engine: Any = core_of(store)._session.engine
            ticks = 0

            def tick() -> int:
                nonlocal ticks
                ticks += 1
                return 0

            async def count(after: str | None) -> int:
                nonlocal ticks
                ticks = 0
                connection_here().set_progress_handler(tick, 1)
                with contextlib.suppress(CorruptStoreError):  # the rows have no checksums
                    await engine.page_globals("key-", after, 100)
                connection_here().set_progress_handler(None, 1)
                return ticks

            first, last = (run_now(core_of(store)._session.read(count, a)) for a in (None, "key-19800"))
            assert last < first * 1.1 + 50


@contextlib.asynccontextmanager
async def begun_batch(store: Any) -> Any:
    if hasattr(store, "plain"):
        with store.plain.batch() as batch:  # it blocks the loop for a moment, which is no matter here
            yield batch
    else:
        async with store.batch() as batch:
            yield batch


class TestDeleting:
    async def test_it_tells_whether_the_key_was_there(self, store: Any) -> None:
        assert await store.delete_global("key") is False
        await store.put_global("key", None)
        assert await store.delete_global("key") is True
        assert await store.delete_global("key") is False
        assert await store.get_global("key", "default") == "default"

    async def test_versions_never_repeat(self, store: Any) -> None:
        seen = []
        for _ in range(3):
            seen.append(await store.upsert_global("key", 1))
            seen.append(await store.upsert_global("key", 2, expected_version=seen[-1]))
            await store.delete_global("key")
            await store.put_global("key", 3)
            seen.append((await store.get_global_entry("key")).version)
            await store.delete_global("key")
        assert seen == sorted(set(seen)) == list(range(1, 10))

    async def test_afterwards_it_may_be_put_once_more(self, store: Any) -> None:
        await store.put_global("key", 1)
        await store.delete_global("key")
        await store.put_global("key", 2)
        assert await store.get_global("key") == 2
        with pytest.raises(GlobalAlreadyExistsError):
            await store.put_global("key", 3)

    async def test_the_empty_key_and_a_uuid_are_keys_like_others(self, store: Any) -> None:
        for key in ("", RUN):
            await store.put_global(key, 1)
            assert await store.delete_global(key) is True
            assert await store.get_global(key) is None

    async def test_of_many_that_delete_at_once_one_has_done_it(self, store: Any) -> None:
        await store.put_global("key", 1)
        assert sorted(await asyncio.gather(*(store.delete_global("key") for _ in range(8)))) == [False] * 7 + [True]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_refuses(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
        called = []
        async with make_store(read_only=True) as store:
            with pytest.raises(ReadOnlyStoreError):
                await store.delete_global("key")
            with pytest.raises(ReadOnlyStoreError):
                await store.update_global("key", called.append)
            assert await store.get_global("key") == 1
        assert called == []  # a function must not work for a write that is refused anyway


class TestCompareAndSet:
    async def test_it_writes_only_at_the_version_expected(self, store: Any) -> None:
        assert await store.upsert_global("key", "a", expected_version=0) == 1
        for stale in (0, 2, 7):
            with pytest.raises(VersionConflictError) as caught:
                await store.upsert_global("key", "b", expected_version=stale)
            assert (caught.value.key, caught.value.expected, caught.value.actual) == ("key", stale, 1)
        assert await store.upsert_global("key", "b", expected_version=1) == 2

    async def test_a_deleted_key_is_at_version_0_and_counts_on(self, store: Any) -> None:
        await store.upsert_global("key", 1)
        await store.delete_global("key")
        with pytest.raises(VersionConflictError) as caught:
            await store.upsert_global("key", 2, expected_version=1)
        assert caught.value.actual == 0
        assert await store.upsert_global("key", 2, expected_version=0) == 2

    async def test_of_many_at_one_version_one_wins(self, store: Any) -> None:
        for version in range(10):
            results = await asyncio.gather(
                *(store.upsert_global("key", i, expected_version=version) for i in range(8)), return_exceptions=True
            )
            winner = results.index(version + 1)
            assert [type(result) for result in results].count(VersionConflictError) == 7
            assert await store.get_global("key") == winner

    @pytest.mark.parametrize("other", [-1, True, 1.0, "1"])
    @pytest.mark.each_input_once
    async def test_an_expected_version_that_cannot_be_meant_is_refused(self, store: Any, other: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="expected_version"):
            await store.upsert_global("key", 1, expected_version=other)
