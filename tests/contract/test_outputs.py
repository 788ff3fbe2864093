"""Several outputs at once: written in one commit, read in one call."""

from __future__ import annotations

import asyncio
import datetime
import pathlib
import random
import time
import types
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    CorruptStoreError,
    InvalidKeyError,
    Output,
    ReadOnlyStoreError,
    SerializationError,
    StorageError,
)

from ..conftest import Target
from ..support.doubles import Gate, core_of, fail
from .outputs import Victims, damage, iterate
from .runs import RUN


async def commits_of(store: Any) -> int:
    commits: int = (await store.stats()).commits
    return commits


class TestExists:
    async def test_an_output_that_was_put_exists_and_others_do_not(self, store: Any) -> None:
        await store.put("run", "node", 1)
        assert await store.exists("run", "node") is True
        assert await store.exists("run", "other") is False
        assert await store.exists("other", "node") is False

    async def test_a_stored_null_exists(self, store: Any) -> None:
        await store.put("run", "node", None)
        assert await store.exists("run", "node")

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_it_loads_no_value(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put("run", "node", 1)
            damage(make_store, "UPDATE node_outputs SET value = 2")
            assert await store.exists("run", "node")

    async def test_a_uuid_and_its_string_are_one_output(self, store: Any) -> None:
        await store.put(RUN, RUN, 1)
        assert await store.exists(str(RUN), str(RUN))
        assert await store.exists(RUN, RUN)

    async def test_an_invalid_key_is_refused_and_not_just_absent(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await store.exists("run", "")


class TestGetEntry:
    async def test_it_tells_whose_the_output_is_when_it_was_written_and_its_size(self, store: Any) -> None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
        await store.put(RUN, "node", {"text": "é"})
        entry = await store.get_entry(RUN, "node")
        after = datetime.datetime.now(datetime.UTC)
        assert entry == Output(str(RUN), "node", {"text": "é"}, entry.written_at, len('{"text":"é"}'.encode()))
        assert entry.written_at.utcoffset() == datetime.timedelta(0)
        assert before <= entry.written_at <= after

    @pytest.mark.parametrize(("value", "size"), [(None, 4), ("é", 4), (b"\x00\xff", 2), (b"", 0), ([1, 2], 5), ("", 2)])
    @pytest.mark.each_input_once
    async def test_the_size_is_that_of_the_stored_value(self, store: Any, value: Any, size: int) -> None:
        await store.put("run", "node", value)
        entry = await store.get_entry("run", "node")
        assert (entry.value, entry.size) == (value, size)

    async def test_there_is_none_where_nothing_is_written(self, store: Any) -> None:
        assert await store.get_entry("run", "node") is None

    async def test_the_time_is_that_of_the_first_write(self, store: Any) -> None:
        await store.put("run", "node", 1)
        first = await store.get_entry("run", "node")
        await store.put("run", "node", 1, exist_ok=True)
        with pytest.raises(AlreadyExistsError):
            await store.put("run", "node", 2)
        assert await store.get_entry("run", "node") == first

    async def test_each_call_makes_fresh_objects(self, store: Any) -> None:
        await store.put("run", "node", [1])
        first = await store.get_entry("run", "node")
        first.value.append(2)
        assert (await store.get_entry("run", "node")).value == [1]

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_output_is_an_error_that_names_it(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "node", 1)
            damage(make_store, "UPDATE node_outputs SET value = 2")
            with pytest.raises(CorruptStoreError, match="'node' of flow run 'run'"):
                await store.get_entry("run", "node")

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.parametrize("time", ["'yesterday'", "-1", "1 << 61", "1e300"])
    @pytest.mark.usefixtures("embedded")
    async def test_so_is_one_whose_time_can_be_none(self, make_store: Target, time: str) -> None:
        async with make_store() as store:
            await store.put("run", "node", 1)
            damage(make_store, f"UPDATE node_outputs SET written_at = {time}")
            for call in (lambda: store.get_entry("run", "node"), lambda: store.get_run("run")):
                with pytest.raises(CorruptStoreError, match="flow run 'run'"):
                    await call()
            (run,) = await store.list_runs()
            assert (run.first_written_at, run.last_written_at) == (None, None)


class TestPutMany:
    async def test_all_are_there_afterwards(self, store: Any) -> None:
        await store.put_many("run", {"b": 1, "a": None, "c": b"\x00"})
        assert await store.get_run("run") == {"a": None, "b": 1, "c": b"\x00"}

    async def test_it_is_one_commit_and_one_moment(self, store: Any) -> None:
        gate = Gate(store)
        gate.open()
        before = await commits_of(store)
        await store.put_many("run", {str(i): i for i in range(300)})
        assert await commits_of(store) == before + 1
        assert gate.groups == [1]
        assert len({output.written_at async for output in iterate(store)}) == 1

    @pytest.mark.parametrize("position", [0, 70, 199])
    @pytest.mark.each_input_once
    async def test_one_that_is_there_already_refuses_all(self, store: Any, position: int) -> None:
        nodes = [f"{i:03}" for i in range(200)]
        await store.put("run", nodes[position], "first")
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put_many("run", dict.fromkeys(nodes, "second"))
        assert (caught.value.node_id, caught.value.same_value) == (nodes[position], False)
        assert await store.get_run("run") == {nodes[position]: "first"}

    async def test_a_refused_one_leaves_no_new_run(self, store: Any) -> None:
        with pytest.raises(AlreadyExistsError):
            await store.put_many("run", {RUN: 1, str(RUN): 2})
        assert await store.list_runs() == []

    async def test_the_first_that_is_refused_is_named(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put_many("run", {"new": 0, "b": 2, "a": 2})
        assert (caught.value.node_id, caught.value.same_value) == ("b", True)

    async def test_with_exist_ok_equal_ones_stay_and_missing_ones_are_written(self, store: Any) -> None:
        await store.put("run", "a", {"x": 1, "y": 2})
        first = await store.get_entry("run", "a")
        await store.put_many("run", {"a": {"y": 2, "x": 1}, "b": 2}, exist_ok=True)
        assert await store.get_run("run") == {"a": {"x": 1, "y": 2}, "b": 2}
        assert await store.get_entry("run", "a") == first
        await store.put_many("run", {"b": 2, "c": 3}, exist_ok=True)
        assert await store.list_keys("run") == ["a", "b", "c"]

    async def test_with_exist_ok_one_different_refuses_all(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put_many("run", {"new": 0, "a": 1, "b": 2.0, "newer": 0}, exist_ok=True)
        assert (caught.value.node_id, caught.value.same_value) == ("b", False)
        assert await store.get_run("run") == {"a": 1, "b": 2}

    async def test_a_uuid_and_its_string_as_keys_are_the_same_output_twice(self, store: Any) -> None:
        with pytest.raises(AlreadyExistsError) as caught:
            await store.put_many("run", {RUN: 1, "other": 1, str(RUN): 1})
        assert (caught.value.node_id, caught.value.same_value) == (str(RUN), True)
        assert await store.list_keys("run") == []
        await store.put_many("run", {RUN: 1, str(RUN): 1}, exist_ok=True)
        assert await store.get_run("run") == {str(RUN): 1}

    async def test_an_empty_mapping_does_nothing(self, store: Any) -> None:
        before = await commits_of(store)
        await store.put_many("run", {})
        assert await commits_of(store) == before
        assert await store.list_runs() == []

    async def test_any_mapping_will_do(self, store: Any) -> None:
        await store.put_many("run", types.MappingProxyType({"a": 1}))
        assert await store.get_run("run") == {"a": 1}

    async def test_a_value_that_cannot_be_stored_names_its_node_and_place(self, store: Any) -> None:
        with pytest.raises(SerializationError) as caught:
            await store.put_many("run", {"fine": 1, "bad": {"items": [1, {"score": float("nan")}]}})
        assert caught.value.path == "$.items[1].score"
        assert "node 'bad' of flow run 'run'" in str(caught.value)
        assert await store.list_keys("run") == []

    async def test_a_bad_node_id_refuses_all(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError, match="node_id"):
            await store.put_many("run", {"fine": 1, "": 2})
        with pytest.raises(InvalidKeyError, match="flow_run_id"):
            await store.put_many("", {"fine": 1})
        assert await store.list_runs() == []

    async def test_a_value_is_the_one_at_the_time_of_the_call(self, store: Any) -> None:
        outputs = {"a": [1], "b": [2]}
        gate = Gate(store)
        writing = asyncio.ensure_future(store.put_many("run", outputs))
        await gate.wait_for_arrival()
        outputs["a"].append(9)
        outputs["c"] = [3]
        gate.open()
        await writing
        assert await store.get_run("run") == {"a": [1], "b": [2]}

    async def test_five_thousand_outputs_go_into_one_commit(self, store: Any) -> None:
        outputs = {f"node-{i:05}": {"i": i} for i in range(5000)}
        before = await commits_of(store)
        await store.put_many("run", outputs)
        assert await commits_of(store) == before + 1
        assert await store.get_run("run") == outputs

    async def test_one_of_five_thousand_refuses_all_the_others(self, store: Any) -> None:
        await store.put("run", "node-04999", "first")
        with pytest.raises(AlreadyExistsError):
            await store.put_many("run", {f"node-{i:05}": {"i": i} for i in range(5000)})
        assert await store.get_run("run") == {"node-04999": "first"}

    async def test_a_fault_of_the_engine_stores_nothing(self, store: Any) -> None:
        fail(store, "commit", StorageError("no"))
        with pytest.raises(StorageError):
            await store.put_many("run", {"a": 1, "b": 2})
        assert await store.list_runs() == []

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_refuses(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
        async with make_store(read_only=True) as store:
            with pytest.raises(ReadOnlyStoreError):
                await store.put_many("run", {"b": 1})


@pytest.mark.slow
def test_a_put_many_that_was_killed_has_stored_all_or_nothing(file_path: pathlib.Path) -> None:
    work = """
        for i in range(10**9):
            store.put_many(f"{number}-{i:05}", {f"{node:03}": "x" * node for node in range(300)})
            say("put", i)
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    whole = dict.fromkeys(f"{node:03}" for node in range(300))
    stored = 0
    with Victims(file_path, work) as victims:
        for kill in range(20):
            victim = victims.begin(kill)
            said = [victims.hear()]
            time.sleep(moments.uniform(0, 0.03))
            said += victims.kill(victim)
            acknowledged = sum(line.startswith("put ") for line in said)
            with ContextStore(file_path) as store:
                runs = store.list_runs(prefix=f"{kill}-", limit=10**6)
                # One more may have been committed than was heard of.
                assert acknowledged <= len(runs) <= acknowledged + 1, f"seed {seed}"
                for run in runs:
                    assert store.list_keys(run.flow_run_id) == list(whole), f"seed {seed}"
                stored += len(runs)
    with ContextStore(file_path) as store:
        assert store.check().ok
        assert store.stats().runs == stored


class TestGetMany:
    async def test_it_keeps_the_order_asked_for_and_leaves_out_what_is_not_there(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": None, "c": 3})
        await store.put("other", "d", 4)
        found = await store.get_many("run", ["c", "missing", "a", "d", "b"])
        assert list(found.items()) == [("c", 3), ("a", 1), ("b", None)]

    async def test_the_order_does_not_depend_on_what_is_cached(self, make_store: Target) -> None:
        async with make_store(cache_bytes=5 * 450) as store:  # room for some of them
            await store.put_many("run", {str(i): i for i in range(20)})
            nodes = [str(i) for i in random.Random(1).sample(range(20), 20)]
            assert list(await store.get_many("run", nodes)) == nodes
            assert list(await store.get_many("run", nodes[::-1])) == nodes[::-1]

    async def test_keys_are_plain_strings(self, store: Any) -> None:
        class Name(str):
            pass

        await store.put_many("run", {RUN: 1, Name("a"): 2})
        found = await store.get_many("run", [RUN, Name("a")])
        assert found == {str(RUN): 1, "a": 2}
        assert {type(key) for key in found} == {str}

    async def test_what_is_asked_for_twice_is_there_once_where_it_came_first(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, str(RUN): 2})
        assert list(await store.get_many("run", [RUN, "a", str(RUN), "a"])) == [str(RUN), "a"]

    async def test_three_thousand_ids_at_once(self, store: Any) -> None:
        nodes = [f"{i:04}" for i in range(3000)]
        await store.put_many("run", {node: int(node) for node in nodes[::2]})
        assert await store.get_many("run", nodes) == {node: int(node) for node in nodes[::2]}

    async def test_the_ids_may_come_from_a_generator(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})
        assert await store.get_many("run", (node for node in "ab")) == {"a": 1, "b": 2}
        assert await store.get_many("run", {"a": None}.keys()) == {"a": 1}

    async def test_one_id_in_place_of_several_is_refused(self, store: Any) -> None:
        """It would be taken for its letters, and find nothing."""
        await store.put("run", "node", 1)
        with pytest.raises(TypeError, match=r"node_ids.*\['node'\]"):
            await store.get_many("run", "node")
        with pytest.raises(TypeError, match="node_ids"):
            await store.get_many(RUN, RUN)

    async def test_nothing_asked_for_is_nothing_found(self, store: Any) -> None:
        assert await store.get_many("run", []) == {}

    async def test_each_call_makes_fresh_objects(self, store: Any) -> None:
        await store.put("run", "a", [1])
        (await store.get_many("run", ["a"]))["a"].append(2)
        assert await store.get_many("run", ["a"]) == {"a": [1]}

    async def test_what_was_read_answers_the_next_get(self, store: Any) -> None:
        core_of(store)._session.cache.clear()
        await store.put("run", "a", 1)
        core_of(store)._session.cache.clear()
        await store.get_many("run", ["a"])
        fail(store, "fetch", AssertionError("the cache has it"))
        assert await store.get("run", "a") == 1

    async def test_an_invalid_id_is_refused(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await store.get_many("run", ["a", ""])

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_output_among_them_is_an_error_that_names_it(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {"a": 1, "b": 2})
            damage(make_store, "UPDATE node_outputs SET value = 3 WHERE node_id = 'b'")
            with pytest.raises(CorruptStoreError, match="'b'"):
                await store.get_many("run", ["a", "b"])
            assert await store.get_many("run", ["a"]) == {"a": 1}


class TestGetRun:
    async def test_it_is_all_outputs_by_node_id(self, store: Any) -> None:
        nodes = ["b", "a", "B", "é", "\U0001f600", "\uffee", "a b", "10", "9", str(RUN)]
        await store.put_many("run", {node: node for node in nodes})
        await store.put("other", "x", 1)
        found = await store.get_run("run")
        assert list(found.items()) == [(node, node) for node in sorted(nodes)]
        assert list(found) == await store.list_keys("run")

    async def test_a_run_never_seen_is_empty(self, store: Any) -> None:
        assert await store.get_run("run") == {}

    async def test_a_uuid_and_its_string_are_one_run(self, store: Any) -> None:
        await store.put(RUN, "node", 1)
        assert await store.get_run(str(RUN)) == await store.get_run(RUN) == {"node": 1}

    async def test_an_invalid_run_is_refused(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await store.get_run("")
