"""Globals that ``prune`` frees: nothing is left of them, and no version of a key ever comes again."""

from __future__ import annotations

import asyncio
import datetime
import random
from typing import Any

import pytest

from contextstore import AlreadyExistsError, GlobalAlreadyExistsError, VersionConflictError
from contextstore._core import retention

from ..conftest import Target
from ..support.portions import some
from .passing import Passing, batch_of
from .runs import DAY, Clock


@pytest.fixture
def passing(make_store: Target, clock: Clock, request: pytest.FixtureRequest) -> Passing:
    return Passing(make_store, clock, request)


class TestPrune:
    async def test_frees_what_is_deleted_or_expired_and_nothing_else(self, store: Any, passing: Passing) -> None:
        await store.put_global("stays", 1)
        await store.put_global("stays for long", 1, ttl=10**6)
        await store.put_global("expired", 1, ttl=60)
        await store.put_global("deleted", 1)
        await store.delete_global("deleted")
        await passing.by(60)
        report = await store.prune(older_than=100 * DAY, dry_run=True)
        assert report.globals == 2
        assert await store.prune(older_than=100 * DAY) == report
        assert await store.list_global_keys() == ["stays", "stays for long"]
        assert (await store.prune(older_than=100 * DAY)).globals == 0
        assert (await store.check()).ok

    async def test_of_many_in_commits_of_bounded_size(
        self, store: Any, passing: Passing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "_REMOVE_ROWS", 7)
        for i in range(20):
            await store.put_global(f"deleted {i}", i)
            await store.put_global(f"expired {i}", i, ttl=60)
        await store.delete_globals(prefix="deleted")
        await passing.by(60)
        before = (await store.stats()).commits
        assert (await store.prune(older_than=DAY)).globals == 40
        assert (await store.stats()).commits - before >= 6

    async def test_of_large_ones_in_commits_of_bounded_bytes(self, store: Any, passing: Passing) -> None:
        for i in range(3):
            await store.put_global(str(i), b"x" * 3_000_000, ttl=60)
        await passing.by(60)
        before = (await store.stats()).commits
        assert (await store.prune(older_than=DAY)).globals == 3
        assert (await store.stats()).commits - before >= 3


class TestVersions:
    async def test_begin_again_above_the_highest_that_was_ever_freed(self, store: Any) -> None:
        for _ in range(7):
            await store.upsert_global("high", 1)
        await store.put_global("low", 1)
        await store.delete_globals(["high", "low"])
        await store.prune(older_than=DAY)
        assert await store.upsert_global("low", 1) == 8
        assert await store.upsert_global("new", 1, expected_version=0) == 8
        await store.put_global("other", 1)
        assert (await store.get_global_entry("other")).version == 8
        assert await store.update_global("yet another", lambda _: 1) == 1
        assert (await store.get_global_entry("yet another")).version == 8

    async def test_of_a_key_that_stays_count_on(self, store: Any) -> None:
        await store.upsert_global("stays", 1)
        for _ in range(7):
            await store.upsert_global("high", 1)
        await store.delete_global("high")
        await store.prune(older_than=DAY)
        assert await store.upsert_global("stays", 2) == 2

    async def test_are_not_lowered_by_a_later_prune(self, store: Any) -> None:
        for _ in range(7):
            await store.upsert_global("high", 1)
        await store.put_global("low", 1)
        for key in ("high", "low"):
            await store.delete_global(key)
            await store.prune(older_than=DAY)
        assert await store.upsert_global("high", 1) == 8

    async def test_an_old_expectation_never_fits_a_key_that_was_freed(self, store: Any, passing: Passing) -> None:
        await store.put_global("key", 1, ttl=60)
        await passing.by(60)
        await store.prune(older_than=DAY)
        await store.put_global("key", 2)
        with pytest.raises(VersionConflictError):
            await store.upsert_global("key", 3, expected_version=1)

    @pytest.mark.usefixtures("shared_target")
    async def test_never_repeat_while_others_delete_and_prune(self, make_store: Target) -> None:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        keys = ["a", "b", "c"]
        given: list[tuple[str, int]] = []
        async with make_store() as one, make_store() as other:
            stores = [one, other]

            async def write(count: int) -> None:
                for _ in range(count):
                    key = chance.choice(keys)
                    given.append((key, await chance.choice(stores).upsert_global(key, 1)))

            async def delete(count: int) -> None:
                for _ in range(count):
                    await chance.choice(stores).delete_global(chance.choice(keys))

            async def prune(count: int) -> None:
                for _ in range(count):
                    await chance.choice(stores).prune(older_than=DAY)

            times = some(60, 25)
            await asyncio.gather(*(call(times) for call in (write, write, write, delete, delete, prune, prune)))
            assert len(given) == len(set(given)), f"seed {seed}"
            assert (await one.check()).ok


@pytest.mark.thorough
async def test_the_store_answers_as_a_model_does(store: Any, passing: Passing) -> None:
    """Every call about globals, in any order, against a dict with a clock."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    model = Model()
    for _ in range(150):
        key, ttl = chance.choice("abc"), chance.choice([None, 50, 500])
        match chance.randrange(8):
            case 0:
                await passing.by(100)
                model.now += 100
            case 1:
                model.prune()
                await store.prune(older_than=datetime.timedelta(days=1000))
            case 2:
                assert await store.delete_global(key) == model.delete(key), seed
            case 3:
                assert await outcome(store.put_global(key, 1, ttl=ttl)) == model.put(key, ttl), seed
            case 4:
                expected = chance.choice([None, 0, model.version(key)])
                told = await outcome(store.upsert_global(key, 1, expected_version=expected, ttl=ttl))
                assert told == model.upsert(key, ttl, expected), seed
            case 5:
                await store.update_global(key, lambda _: 1)
                model.upsert(key, model.ttl_left(key), None)
            case 6:
                prefix = chance.choice(["", "a"])
                assert await store.delete_globals(prefix=prefix) == model.delete_all(prefix), seed
            case 7:
                assert await store.list_global_keys() == model.keys(), seed
        entries = [(entry.key, entry.version) for entry in await store.list_globals()]
        assert entries == model.entries(), seed


async def outcome(call: Any) -> Any:
    try:
        return await call
    except (GlobalAlreadyExistsError, VersionConflictError) as error:
        return type(error)


class Model:
    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[str, tuple[int, bool, float | None]] = {}
        """By key: the last version, whether it was deleted, and when it expires."""
        self.freed = 0

    def is_there(self, key: str) -> bool:
        _, is_deleted, expires_at = self.rows.get(key, (0, True, None))
        return not is_deleted and (expires_at is None or expires_at > self.now)

    def keys(self) -> list[str]:
        return sorted(filter(self.is_there, self.rows))

    def entries(self) -> list[tuple[str, int]]:
        there = self.keys()
        return [(key, self.version(key)) for key in there]

    def version(self, key: str) -> int:
        return self.rows[key][0] if self.is_there(key) else 0

    def ttl_left(self, key: str) -> float | None:
        expires_at = self.rows[key][2] if self.is_there(key) else None
        return None if expires_at is None else expires_at - self.now

    def put(self, key: str, ttl: float | None) -> Any:
        if self.is_there(key):
            return GlobalAlreadyExistsError
        self.upsert(key, ttl, None)
        return None

    def upsert(self, key: str, ttl: float | None, expected: int | None) -> Any:
        if expected is not None and expected != self.version(key):
            return VersionConflictError
        version = (self.rows[key][0] if key in self.rows else self.freed) + 1
        self.rows[key] = (version, False, None if ttl is None else self.now + ttl)
        return version

    def delete(self, key: str) -> bool:
        was_there = self.is_there(key)
        if was_there:
            self.rows[key] = (self.rows[key][0], True, None)
        return was_there

    def delete_all(self, prefix: str) -> int:
        return sum(self.delete(key) for key in self.keys() if key.startswith(prefix))

    def prune(self) -> None:
        for key in [key for key in self.rows if not self.is_there(key)]:
            self.freed = max(self.freed, self.rows.pop(key)[0])


class TestBatch:
    async def test_deletes_in_its_commit_and_the_last_word_on_a_key_stands(self, store: Any) -> None:
        await store.put_global("deleted", 1)
        await store.put_global("kept", 1)
        async with batch_of(store) as batch:
            batch.delete_global("deleted")
            batch.upsert_global("new", 1)
            batch.delete_global("new")
            batch.delete_global("kept")
            batch.upsert_global("kept", 2, ttl=60)
        assert {entry.key: entry.value for entry in await store.list_globals()} == {"kept": 2}
        assert (await store.get_global_entry("kept")).expires_at is not None

    async def test_expects_what_was_there_before_it(self, store: Any) -> None:
        await store.upsert_global("key", 1)
        async with batch_of(store) as batch:
            batch.upsert_global("key", 2)
            batch.expect_global("key", 1)
            batch.expect_global("none", 0)
            batch.put_global("none", 1)
        assert await store.get_globals(["key", "none"]) == {"key": 2, "none": 1}

    @pytest.mark.parametrize(("key", "version", "actual"), [("key", 0, 1), ("key", 2, 1), ("none", 1, 0)])
    async def test_stores_nothing_where_an_expectation_fails(
        self, store: Any, key: str, version: int, actual: int
    ) -> None:
        await store.upsert_global("key", 1)

        async def commit() -> None:
            async with batch_of(store) as batch:
                batch.put("run", "node", 1)
                batch.upsert_global("key", 2)
                batch.expect_global(key, version)

        with pytest.raises(VersionConflictError) as caught:
            await commit()
        assert (caught.value.key, caught.value.expected, caught.value.actual) == (key, version, actual)
        assert await store.get("run", "node") is None
        assert await store.get_globals(["key", "none"]) == {"key": 1}

    async def test_of_two_conflicts_the_first_is_raised(self, store: Any) -> None:
        await store.put("run", "node", 1)

        async def commit(put_first: bool) -> None:
            async with batch_of(store) as batch:
                for is_put in (put_first, not put_first):
                    if is_put:
                        batch.put("run", "node", 2)
                    else:
                        batch.expect_global("key", 1)

        with pytest.raises(AlreadyExistsError):
            await commit(put_first=True)
        with pytest.raises(VersionConflictError):
            await commit(put_first=False)

    async def test_of_expectations_alone_looks_at_them(self, store: Any) -> None:
        async def commit() -> None:
            async with batch_of(store) as batch:
                batch.expect_global("key", 0)

        await commit()
        assert (await store.check()).ok
        await store.put_global("key", 1)
        with pytest.raises(VersionConflictError):
            await commit()

    @pytest.mark.each_input_once
    @pytest.mark.parametrize(("version", "error"), [(-1, ValueError), (True, TypeError), ("1", TypeError)])
    async def test_refuses_what_is_no_version(self, store: Any, version: Any, error: type[Exception]) -> None:
        async with batch_of(store) as batch:
            with pytest.raises(error, match="version"):
                batch.expect_global("key", version)


class TestSeveral:
    async def test_are_got_in_the_order_of_the_call(self, store: Any) -> None:
        for key in "abc":
            await store.put_global(key, key)
        assert list((await store.get_globals(["c", "none", "a", "c"])).items()) == [("c", "c"), ("a", "a")]
        assert await store.get_globals([]) == {}
        assert await store.get_globals(iter(["b"])) == {"b": "b"}

    async def test_are_converted_to_a_type(self, store: Any) -> None:
        await store.put_global("key", [1, 2])
        assert await store.get_globals(["key"], type=tuple[int, ...]) == {"key": (1, 2)}

    async def test_keys_are_listed_by_prefix_and_page(self, store: Any) -> None:
        for key in ["", "a", "a%", "ab", "b", "\U0001f600"]:
            await store.put_global(key, 1)
        assert await store.list_global_keys() == ["", "a", "a%", "ab", "b", "\U0001f600"]
        assert await store.list_global_keys("a") == ["a", "a%", "ab"]
        assert await store.list_global_keys("a%") == ["a%"]
        assert await store.list_global_keys(limit=2) == ["", "a"]
        assert await store.list_global_keys("a", after="a", limit=1) == ["a%"]
        assert await store.list_global_keys("b", after="a") == ["b"]
        assert await store.list_global_keys(after="") == ["a", "a%", "ab", "b", "\U0001f600"]  # it is a key

    async def test_are_deleted_by_key_or_by_prefix_in_one_commit(self, store: Any) -> None:
        for key in ["a", "a%", "ab", "b", "c"]:
            await store.put_global(key, 1)
        before = (await store.stats()).commits
        assert await store.delete_globals(prefix="a") == 3
        assert await store.delete_globals(["b", "none", "b"]) == 1
        assert (await store.stats()).commits - before == 2
        assert await store.list_global_keys() == ["c"]
        assert await store.delete_globals([]) == 0
        assert await store.delete_globals(prefix="") == 1
        assert await store.upsert_global("a", 1) == 2

    async def test_either_keys_or_a_prefix_are_deleted(self, store: Any) -> None:
        with pytest.raises(TypeError, match="either"):
            await store.delete_globals()
        with pytest.raises(TypeError, match="either"):
            await store.delete_globals(["a"], prefix="a")

    @pytest.mark.parametrize("call", ["get_globals", "delete_globals"])
    async def test_one_key_is_not_taken_for_its_letters(self, store: Any, call: str) -> None:
        for keys in ("key", 5):
            with pytest.raises(TypeError, match="several keys"):
                await getattr(store, call)(keys)
