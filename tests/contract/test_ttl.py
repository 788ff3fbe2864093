"""Globals that expire: there until then, and for every call as if they were not there from then on."""

from __future__ import annotations

import asyncio
import copy as copying
import datetime
import decimal
import pickle
from typing import Any

import pytest

import contextstore
from contextstore import KEEP, GlobalAlreadyExistsError, VersionConflictError

from ..conftest import Target
from .passing import Passing
from .runs import Clock

MINUTE = datetime.timedelta(minutes=1)
TEN_YEARS = datetime.timedelta(days=3653)


@pytest.fixture
def passing(make_store: Target, clock: Clock, request: pytest.FixtureRequest) -> Passing:
    return Passing(make_store, clock, request)


async def expiry(store: Any, key: str = "key") -> Any:
    entry = await store.get_global_entry(key)
    return None if entry is None else entry.expires_at


class TestExpiry:
    async def test_a_key_is_there_until_it_expires_and_not_from_then_on(self, store: Any, passing: Passing) -> None:
        await store.put_global("key", 1, ttl=60)
        await passing.by(59)
        assert await store.get_global("key") == 1
        await passing.by(1)
        assert await store.get_global("key", "gone") == "gone"
        assert await store.get_global_entry("key") is None

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("ttl", [60, 60.0, MINUTE])
    async def test_seconds_and_timedeltas_mean_the_same(self, store: Any, passing: Passing, ttl: Any) -> None:
        before = await store.upsert_global("reference", 1, ttl=60)
        await store.put_global("key", 1, ttl=ttl)
        assert before == 1
        assert abs(await expiry(store) - await expiry(store, "reference")) < MINUTE / 2
        assert (await expiry(store)).utcoffset() == datetime.timedelta(0)

    async def test_it_is_counted_from_the_write_by_the_stores_clock(self, make_store: Target, clock: Clock) -> None:
        async with make_store() as store:
            await store.put_global("key", 1, ttl=MINUTE)
            now = datetime.datetime.now(datetime.UTC) if make_store.engine == "postgres" else clock.now
            assert abs(await expiry(store) - MINUTE - now) < MINUTE / 2

    async def test_a_key_without_one_stays(self, store: Any, passing: Passing) -> None:
        await store.put_global("key", 1)
        await passing.by(10**6)
        assert await store.get_global("key") == 1
        assert await expiry(store) is None

    async def test_each_write_sets_it_anew(self, store: Any, passing: Passing) -> None:
        await store.put_global("key", 1, ttl=60)
        await store.upsert_global("key", 2, ttl=600)
        await passing.by(60)
        assert await store.get_global("key") == 2
        await store.upsert_global("key", 3)
        assert await expiry(store) is None

    async def test_a_retry_that_writes_nothing_leaves_it(self, store: Any) -> None:
        await store.put_global("key", 1, ttl=60)
        before = await expiry(store)
        await store.put_global("key", 1, exist_ok=True, ttl=600)
        assert await expiry(store) == before

    async def test_an_update_keeps_it_unless_told_otherwise(self, store: Any) -> None:
        await store.put_global("key", 1, ttl=60)
        before = await expiry(store)
        assert await store.update_global("key", lambda value: value + 1) == 2
        assert await expiry(store) == before
        assert await store.update_global("key", lambda value: value + 1, ttl=KEEP) == 3
        assert await expiry(store) == before
        await store.update_global("key", lambda value: value + 1, ttl=600)
        assert await expiry(store) > before + 8 * MINUTE
        assert await store.update_global("key", lambda value: value + 1, ttl=None) == 5
        assert await expiry(store) is None

    async def test_an_update_of_an_expired_key_begins_with_the_default_and_stays(
        self, store: Any, passing: Passing
    ) -> None:
        await store.put_global("key", 1, ttl=60)
        await passing.by(60)
        assert await store.update_global("key", lambda value: value + 10, default=0) == 10
        assert await expiry(store) is None


@pytest.mark.each_pair
class TestAnExpiredKeyIsNotThere:
    @pytest.fixture
    async def expired(self, store: Any, passing: Passing) -> Any:
        await store.put_global("key", 1, ttl=60)
        await store.put_global("other", 1)
        await passing.by(60)
        return store

    async def test_put_global_writes_it_and_its_version_counts_on(self, expired: Any) -> None:
        await expired.put_global("key", 2)
        entry = await expired.get_global_entry("key")
        assert (entry.value, entry.version, entry.expires_at) == (2, 2, None)
        with pytest.raises(GlobalAlreadyExistsError):
            await expired.put_global("key", 3)

    async def test_it_is_at_version_0(self, expired: Any) -> None:
        with pytest.raises(VersionConflictError) as caught:
            await expired.upsert_global("key", 2, expected_version=1)
        assert caught.value.actual == 0
        assert await expired.upsert_global("key", 2, expected_version=0) == 2

    async def test_it_is_not_deleted(self, expired: Any) -> None:
        assert await expired.delete_global("key") is False
        assert await expired.delete_globals(["key", "other"]) == 1

    async def test_it_is_not_listed_nor_counted(self, expired: Any) -> None:
        assert [entry.key for entry in await expired.list_globals()] == ["other"]
        assert await expired.list_global_keys() == ["other"]
        assert await expired.get_globals(["key", "other"]) == {"other": 1}
        stats = await expired.stats()
        assert (stats.globals, stats.value_bytes) == (1, 1)

    async def test_the_store_is_whole(self, expired: Any) -> None:
        report = await expired.check()
        assert report.ok, report.problems


class TestWhatIsNoTtl:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("ttl", [0, -1, 0.0, float("nan"), float("inf"), -MINUTE, TEN_YEARS * 1.001, 10**400])
    async def test_out_of_range_is_a_value_error_that_names_it(self, store: Any, ttl: Any) -> None:
        for call in _calls(store, ttl):
            with pytest.raises(ValueError, match=r"^ttl "):
                await call()
        assert await store.list_global_keys() == []

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("ttl", ["60", True, b"", decimal.Decimal(60), object(), [60]])
    async def test_another_type_is_a_type_error_that_names_it(self, store: Any, ttl: Any) -> None:
        for call in _calls(store, ttl):
            with pytest.raises(TypeError, match=r"^ttl "):
                await call()
        assert await store.list_global_keys() == []

    async def test_only_an_update_can_keep_it(self, store: Any) -> None:
        for call in (store.put_global, store.upsert_global):
            with pytest.raises(TypeError, match=r"^ttl .* not KEEP"):
                await call("key", 1, ttl=KEEP)

    async def test_the_shortest_and_the_longest_are_taken(self, store: Any) -> None:
        await store.put_global("long", 1, ttl=TEN_YEARS)
        assert await store.get_global("long") == 1
        await store.put_global("short", 1, ttl=1e-12)
        assert await store.upsert_global("short", 1) == 2


def _calls(store: Any, ttl: Any) -> list[Any]:
    return [
        lambda: store.put_global("key", 1, ttl=ttl),
        lambda: store.upsert_global("key", 1, ttl=ttl),
        lambda: store.update_global("key", lambda value: 1, ttl=ttl),
    ]


@pytest.mark.one_python
class TestKeep:
    def test_shows_itself_by_its_name(self) -> None:
        assert repr(KEEP) == str(KEEP) == "KEEP"

    def test_is_the_same_object_after_any_copy(self) -> None:
        assert pickle.loads(pickle.dumps(KEEP)) is KEEP
        assert copying.deepcopy(KEEP) is KEEP
        assert contextstore.KEEP is KEEP


async def test_of_many_who_put_an_expired_key_one_wins(store: Any, passing: Passing) -> None:
    await store.put_global("key", "old", ttl=60)
    await passing.by(60)
    outcomes = await asyncio.gather(*(store.put_global("key", i) for i in range(20)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, GlobalAlreadyExistsError) for outcome in outcomes) == 19
    assert await store.upsert_global("key", 1) == 3
