"""The seed's contract, case by case, on every face and engine."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    GlobalAlreadyExistsError,
    InvalidKeyError,
    SerializationError,
    StoreClosedError,
    VersionConflictError,
)

from ..conftest import Target

pytestmark = [pytest.mark.disk, pytest.mark.each_pair]


class TestOutputs:
    async def test_what_was_put_is_what_get_returns(self, store: Any) -> None:
        await store.put("run", "node", {"a": [1, 2.5, None, True, "é"]})
        assert await store.get("run", "node") == {"a": [1, 2.5, None, True, "é"]}

    async def test_get_returns_the_default_where_nothing_is_written(self, store: Any) -> None:
        marker = object()
        assert await store.get("run", "node") is None
        assert await store.get("run", "node", marker) is marker

    async def test_a_stored_null_is_none_whatever_the_default(self, store: Any) -> None:
        await store.put("run", "node", None)
        assert await store.get("run", "node", "default") is None

    async def test_bytes_come_back_exactly(self, store: Any) -> None:
        await store.put("run", "node", b"\x00\xff not JSON {")
        assert await store.get("run", "node") == b"\x00\xff not JSON {"

    async def test_a_second_put_raises_and_the_first_value_stands(self, store: Any) -> None:
        await store.put("run", "node", 1)
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put("run", "node", 2)
        assert (caught.value.flow_run_id, caught.value.node_id, caught.value.same_value) == ("run", "node", False)
        assert await store.get("run", "node") == 1

    async def test_a_second_put_of_the_same_value_raises_too_and_says_so(self, store: Any) -> None:
        await store.put("run", "node", {"a": 1, "b": 2})
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put("run", "node", {"b": 2, "a": 1})
        assert caught.value.same_value

    async def test_exist_ok_takes_an_equal_value_as_success(self, store: Any) -> None:
        await store.put("run", "node", {"a": 1, "b": {"c": 1, "d": 2}})
        await store.put("run", "node", {"b": {"d": 2, "c": 1}, "a": 1}, exist_ok=True)
        assert await store.get("run", "node") == {"a": 1, "b": {"c": 1, "d": 2}}

    @pytest.mark.parametrize(
        ("first", "second"), [(1, 1.0), (1, True), (0.0, -0.0), (b"1", 1), (b"1", b"2"), ([1, 2], [2, 1]), ("1", 1)]
    )
    @pytest.mark.each_input_once
    async def test_exist_ok_refuses_a_different_value(self, store: Any, first: Any, second: Any) -> None:
        await store.put("run", "node", first)
        with pytest.raises(AlreadyExistsError):
            await store.put("run", "node", second, exist_ok=True)
        stored = await store.get("run", "node")
        assert stored == first
        assert type(stored) is type(first)

    async def test_outputs_of_other_runs_and_nodes_are_apart(self, store: Any) -> None:
        await store.put("a", "bc", 1)
        await store.put("ab", "c", 2)
        assert (await store.get("a", "bc"), await store.get("ab", "c"), await store.get("a", "c")) == (1, 2, None)

    async def test_a_uuid_and_its_string_are_one_key(self, store: Any) -> None:
        run = uuid.UUID("018F3A00-0000-7000-8000-00000000000F")
        await store.put(run, run, 1)
        assert await store.get(str(run), str(run)) == 1
        assert await store.list_keys(run) == [str(run)]

    async def test_later_changes_to_a_value_reach_nobody_else(self, store: Any) -> None:
        value = {"a": [1]}
        await store.put("run", "node", value)
        value["a"].append(2)
        first = await store.get("run", "node")
        first["a"].append(3)
        assert await store.get("run", "node") == {"a": [1]}

    async def test_a_value_is_the_one_at_the_time_of_the_call(self, store: Any) -> None:
        value = [1]
        if hasattr(store, "plain"):
            pytest.skip("a blocked caller has no chance to change it")
        put = asyncio.ensure_future(store.put("run", "node", value))
        await asyncio.sleep(0)
        value.append(2)
        await put
        assert await store.get("run", "node") == [1]

    async def test_a_value_may_be_read_as_a_type(self, store: Any) -> None:
        at = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
        await store.put("run", "node", {"at": at})
        assert await store.get("run", "node", type=dict[str, datetime.datetime]) == {"at": at}
        assert await store.get("run", "other", "a default is returned as it is", type=int) == (
            "a default is returned as it is"
        )


class TestListKeys:
    async def test_a_run_that_was_never_seen_has_no_keys(self, store: Any) -> None:
        assert await store.list_keys("run") == []

    async def test_keys_are_sorted_by_code_point(self, store: Any) -> None:
        nodes = ["b", "a", "B", "é", "z", "\U0001f600", "\uffff", "aa", "a\x01", "~"]
        for node in nodes:
            await store.put("run", node, 0)
        assert await store.list_keys("run") == sorted(nodes)

    async def test_a_prefix_is_literal(self, store: Any) -> None:
        nodes = ["a%", "a%b", "a_", "ab", "a", "A%", "a\U0010ffff", "a\U0010ffffz", "a\ud7ff", "a\ue000"]
        for node in nodes:
            await store.put("run", node, 0)
        for prefix in ["", "a", "a%", "a_", "a%b", "x", "a\U0010ffff", "a\ud7ff", "\U0010ffff"]:
            expected = sorted(node for node in nodes if node.startswith(prefix))
            assert await store.list_keys("run", prefix=prefix) == expected, prefix

    async def test_ids_that_look_like_sql_or_paths_are_just_ids(self, store: Any) -> None:
        nodes = ["'; DROP TABLE runs; --", "../../etc/passwd", "%s%n{0}", '"', "\\", "\n", " "]
        for node in nodes:
            await store.put(node, node, node)
        assert [await store.get(node, node) for node in nodes] == nodes


class TestGlobals:
    async def test_put_global_writes_once(self, store: Any) -> None:
        await store.put_global("key", 1)
        with pytest.raises(GlobalAlreadyExistsError) as caught:
            await store.put_global("key", 2)
        assert (caught.value.key, caught.value.same_value) == ("key", False)
        await store.put_global("key", 1, exist_ok=True)
        assert await store.get_global("key") == 1

    async def test_upsert_overwrites_what_put_global_wrote_and_counts_versions(self, store: Any) -> None:
        await store.put_global("key", 1)
        assert await store.upsert_global("key", 2) == 2
        assert await store.upsert_global("key", b"3") == 3
        assert await store.get_global("key") == b"3"
        assert await store.upsert_global("other", 1) == 1

    async def test_compare_and_set_takes_the_expected_version_alone(self, store: Any) -> None:
        assert await store.upsert_global("key", "a", expected_version=0) == 1
        with pytest.raises(VersionConflictError) as caught:
            await store.upsert_global("key", "b", expected_version=0)
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("key", 0, 1)
        with pytest.raises(VersionConflictError):
            await store.upsert_global("key", "b", expected_version=2)
        assert await store.upsert_global("key", "b", expected_version=1) == 2
        assert await store.get_global("key") == "b"

    @pytest.mark.parametrize(("version", "error"), [(-1, ValueError), ("1", TypeError), (True, TypeError)])
    @pytest.mark.each_input_once
    async def test_an_expected_version_that_cannot_be_is_refused(
        self, store: Any, version: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="expected_version"):
            await store.upsert_global("key", 1, expected_version=version)
        assert await store.get_global("key") is None

    async def test_the_empty_string_is_a_global_key(self, store: Any) -> None:
        await store.put_global("", "here")
        assert await store.get_global("") == "here"

    async def test_get_global_returns_the_default_where_there_is_none(self, store: Any) -> None:
        assert await store.get_global("key", 5) == 5
        await store.upsert_global("key", None)
        assert await store.get_global("key", 5) is None

    async def test_outputs_and_globals_do_not_meet(self, store: Any) -> None:
        await store.put("a", "b", 1)
        assert await store.get_global("a") is None


class TestRefusals:
    @pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 513, "a\0b", "\ud800", 5, None, b"a", ["a"]])
    @pytest.mark.each_input_once
    async def test_a_bad_id_is_refused_everywhere(self, store: Any, key: Any) -> None:
        calls = [
            store.put(key, "node", 1),
            store.put("run", key, 1),
            store.get(key, "node"),
            store.get("run", key),
            store.list_keys(key),
        ]
        if key != "":
            calls += [store.put_global(key, 1), store.upsert_global(key, 1), store.get_global(key)]
            calls += [store.list_keys("run", prefix=key)]
        for call in calls:
            with pytest.raises(InvalidKeyError) as caught:
                await call
            assert isinstance(caught.value, ValueError)
        assert await store.list_keys("run") == []

    async def test_a_bad_value_names_its_place_and_stores_nothing(self, store: Any) -> None:
        bad = {"items": [0, 1, 2, {"score": float("nan")}]}
        for write in [store.put("run", "node", bad), store.put_global("key", bad), store.upsert_global("key", bad)]:
            with pytest.raises(SerializationError, match=r"^\$\.items\[3\]\.score: NaN") as caught:
                await write
            assert caught.value.path == "$.items[3].score"
        assert await store.get("run", "node", "nothing") == "nothing"
        assert await store.get_global("key", "nothing") == "nothing"

    async def test_max_value_bytes_counts_the_encoded_value(self, make_store: Target) -> None:
        async with make_store(max_value_bytes=10) as store:
            await store.put("run", "fits", "x" * 8)
            await store.put("run", "bytes", b"x" * 10)
            for value in ["x" * 9, b"x" * 11]:
                with pytest.raises(SerializationError, match="max_value_bytes is 10"):
                    await store.put("run", "node", value)
            assert await store.list_keys("run") == ["bytes", "fits"]

    async def test_a_bad_value_among_concurrent_puts_hurts_nobody_else(self, store: Any) -> None:
        values: list[Any] = [float("inf") if i % 7 == 0 else i for i in range(50)]
        results = await asyncio.gather(
            *(store.put("run", f"{i:02}", value) for i, value in enumerate(values)), return_exceptions=True
        )
        for i, result in enumerate(results):
            assert isinstance(result, SerializationError) if i % 7 == 0 else result is None
        assert await store.list_keys("run") == [f"{i:02}" for i in range(50) if i % 7]


class TestOpeningAndClosing:
    async def test_the_first_operation_opens(self, make_store: Target) -> None:
        store = make_store()
        assert "not opened" in repr(store) or hasattr(store, "plain")
        await store.put("run", "node", 1)
        assert await store.get("run", "node") == 1

    async def test_open_and_close_are_idempotent(self, make_store: Target) -> None:
        store = make_store()
        await store.open()
        await store.open()
        await store.close()
        await store.close()

    async def test_a_store_that_was_never_opened_can_be_closed(self, make_store: Target) -> None:
        store = make_store()
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.open()

    async def test_a_closed_store_stays_closed_for_cache_hits_too(self, make_store: Target) -> None:
        store = make_store()
        await store.put("run", "node", 1)
        assert await store.get("run", "node") == 1
        await store.close()
        for call in [
            store.get("run", "node"),
            store.put("run", "other", 1),
            store.list_keys("run"),
            store.get_global("key"),
            store.put_global("key", 1),
            store.upsert_global("key", 1),
            store.open(),
        ]:
            with pytest.raises(StoreClosedError, match="is closed: make a new store object"):
                await call

    async def test_many_first_calls_open_one_store(self, make_store: Target) -> None:
        store = make_store()
        await asyncio.gather(*(store.put("run", str(i), i) for i in range(30)))
        assert len(await store.list_keys("run")) == 30


@pytest.mark.usefixtures("shared_target")
class TestTwoObjectsOnOneFile:
    async def test_each_sees_the_writes_of_the_other_at_once(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            for i in range(50):
                writer, reader = (one, other) if i % 2 else (other, one)
                await writer.put("run", str(i), i)
                assert await reader.get("run", str(i)) == i
                version = await writer.upsert_global("key", i)
                assert version == i + 1
                assert await reader.get_global("key") == i

    async def test_what_one_has_written_the_other_refuses(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            await one.put("run", "node", 1)
            with pytest.raises(AlreadyExistsError):
                await other.put("run", "node", 2)
            await other.put("run", "node", 1, exist_ok=True)

    async def test_what_is_stored_is_there_for_the_next_object(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "node", {"a": 1})
            await store.upsert_global("key", 1)
        async with make_store() as store:
            assert await store.get("run", "node") == {"a": 1}
            assert await store.upsert_global("key", 2) == 2

    async def test_racing_for_one_key_has_one_winner_and_all_agree(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            for key in range(20):
                results = await asyncio.gather(
                    *((one, other)[i % 2].put("run", str(key), i) for i in range(10)), return_exceptions=True
                )
                assert [type(r) for r in results].count(AlreadyExistsError) == 9
                winner = next(i for i, r in enumerate(results) if r is None)
                assert await one.get("run", str(key)) == await other.get("run", str(key)) == winner


async def test_a_timeout_may_be_as_long_as_one_likes(make_store: Target) -> None:
    async with make_store(timeout=1e10) as store:
        await store.put("run", "a", 1)
        assert await store.get("run", "a") == 1
        assert await store.list_keys("run") == ["a"]
