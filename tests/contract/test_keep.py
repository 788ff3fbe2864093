"""``exist_ok="keep"``: whatever is there stands, and what ``put_many`` says that it has written."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import pytest

from contextstore import AlreadyExistsError, RunDeletedError

from ..conftest import Target
from .outputs import begun, damage

KEEP = "keep"


async def test_what_is_there_stands_and_nothing_is_raised(store: Any) -> None:
    await store.put("run", "node", 1)
    await store.put("run", "node", 2, exist_ok=KEEP)
    assert await store.get("run", "node") == 1


async def test_what_is_missing_is_written(store: Any) -> None:
    await store.put("run", "node", 2, exist_ok=KEEP)
    assert await store.get("run", "node") == 2


@pytest.mark.usefixtures("shared_target")
async def test_what_another_object_wrote_is_answered_and_not_what_was_given(make_store: Target) -> None:
    async with make_store() as store, make_store() as other:
        await other.put("run", "node", 1)
        await store.put("run", "node", 2, exist_ok=KEEP)
        assert await store.put_many("run", {"node": 3}, exist_ok=KEEP) == []
        assert await store.get("run", "node") == 1
        assert (await store.get_entry("run", "node")).value == 1


async def test_a_deleted_run_refuses_it(store: Any) -> None:
    await store.put("run", "node", 1)
    await store.delete_run("run")
    with pytest.raises(RunDeletedError):
        await store.put("run", "node", 1, exist_ok=KEEP)
    with pytest.raises(RunDeletedError):
        await store.put_many("run", {"other": 1}, exist_ok=KEEP)


async def test_put_many_gives_the_ids_that_it_has_written_in_the_order_of_the_mapping(store: Any) -> None:
    name = uuid.uuid4()
    assert await store.put_many("run", {"c": 1, name: 2, "a": 3}) == ["c", str(name), "a"]
    assert await store.put_many("run", {}) == []


@pytest.mark.parametrize("exist_ok", [True, KEEP])
async def test_put_many_leaves_out_what_was_there(store: Any, exist_ok: Any) -> None:
    await store.put_many("run", {"b": 2, "d": 4})
    assert await store.put_many("run", {"d": 4, "c": 3, "b": 2, "a": 1}, exist_ok=exist_ok) == ["c", "a"]
    assert await store.get_run("run") == {"a": 1, "b": 2, "c": 3, "d": 4}


async def test_put_many_that_keeps_writes_what_is_missing_beside_other_values(store: Any) -> None:
    await store.put_many("run", {"b": 2})
    assert await store.put_many("run", {"a": 1, "b": "other", "c": 3}, exist_ok=KEEP) == ["a", "c"]
    assert await store.get_many("run", ["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}


async def test_put_many_of_very_many_says_which_were_missing(store: Any) -> None:
    nodes = {f"{number:04}": number for number in range(1000)}
    there = dict(random.Random(7).sample(sorted(nodes.items()), 300))
    await store.put_many("run", there)
    assert await store.put_many("run", nodes, exist_ok=KEEP) == [node for node in nodes if node not in there]


async def test_a_batch_keeps(store: Any) -> None:
    await store.put("run", "a", 1)
    async with begun(store) as batch:
        batch.put("run", "a", 2, exist_ok=KEEP)
        batch.put("run", "b", 3, exist_ok=KEEP)
        batch.put_global("key", 4)
    assert await store.get_run("run") == {"a": 1, "b": 3}
    assert await store.get_global("key") == 4


async def test_within_a_batch_a_second_put_is_compared_with_what_is_stored_in_the_end(store: Any) -> None:
    await store.put("run", "a", 5)

    async def put_twice() -> None:
        async with begun(store) as batch:
            batch.put("run", "a", 1, exist_ok=KEEP)
            batch.put("run", "a", 1, exist_ok=True)

    with pytest.raises(AlreadyExistsError) as caught:
        await put_twice()
    assert not caught.value.same_value
    async with begun(store) as batch:
        batch.put("run", "a", 1, exist_ok=KEEP)
        batch.put("run", "a", 5, exist_ok=True)
        batch.put("run", "b", 1, exist_ok=KEEP)
        batch.put("run", "b", 1, exist_ok=True)
        batch.put("run", "b", 2, exist_ok=KEEP)
    assert await store.get_run("run") == {"a": 5, "b": 1}


async def test_of_many_that_keep_at_once_one_has_written(store: Any) -> None:
    for turn in range(5):
        written = await asyncio.gather(
            *[store.put_many("run", {f"node-{turn}": number}, exist_ok=KEEP) for number in range(20)]
        )
        (winner,) = [number for number, nodes in enumerate(written) if nodes]
        assert await store.get("run", f"node-{turn}") == winner


@pytest.mark.usefixtures("embedded", "shared_target")
async def test_what_stands_is_not_read(make_store: Target) -> None:
    async with make_store(cache_bytes=0) as store:
        await store.put("run", "node", 1)
        damage(make_store, "UPDATE node_outputs SET value = 2")
        await store.put("run", "node", 3, exist_ok=KEEP)


@pytest.mark.parametrize("exist_ok", ["Keep", "", "replace"])
@pytest.mark.each_input_once
async def test_another_word_is_refused_by_the_name_of_the_argument(store: Any, exist_ok: Any) -> None:
    with pytest.raises(ValueError, match=r"^exist_ok must be True, False or 'keep'"):
        await store.put("run", "node", 1, exist_ok=exist_ok)
    with pytest.raises(ValueError, match=r"^exist_ok must be"):
        await store.put_many("run", {}, exist_ok=exist_ok)
    assert not await store.exists("run", "node")


@pytest.mark.parametrize("exist_ok", [None, 1, b"keep"])
@pytest.mark.each_input_once
async def test_another_type_is_refused_by_the_name_of_the_argument(store: Any, exist_ok: Any) -> None:
    with pytest.raises(TypeError, match=r"^exist_ok must be True, False or 'keep'"):
        await store.put("run", "node", 1, exist_ok=exist_ok)
    async with begun(store) as batch:
        with pytest.raises(TypeError, match=r"^exist_ok must be"):
            batch.put("run", "node", 1, exist_ok=exist_ok)
    assert not await store.exists("run", "node")
