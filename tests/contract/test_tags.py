"""A tag stands beside a value: written with it, compared with it, and there wherever the value goes."""

from __future__ import annotations

from typing import Any

import pytest

from contextstore import AlreadyExistsError, AsyncContextStore, Output, copy

from ..conftest import Target
from .outputs import begun, damage, iterate

TAGS = ["a", "text/html; charset=utf-8", "x" * 64, " ", "~"]
NO_TAGS = ["", "x" * 65, "é", "a\nb", "\x7f", "\t", "\ud800"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.each_input_once
async def test_a_tag_comes_back_beside_its_value(store: Any, tag: str) -> None:
    await store.put("run", "node", {"a": 1}, tag=tag)
    entry = await store.get_entry("run", "node")
    assert (entry.value, entry.tag) == ({"a": 1}, tag)


async def test_a_tag_changes_neither_the_value_nor_its_size(store: Any) -> None:
    await store.put("run", "node", b"abc", tag="image/png")
    assert await store.get("run", "node") == b"abc"
    assert (await store.get_entry("run", "node")).size == 3


async def test_an_output_without_a_tag_has_none(store: Any) -> None:
    await store.put("run", "node", 1)
    assert (await store.get_entry("run", "node")).tag is None


async def test_an_iteration_gives_the_tags(store: Any) -> None:
    await store.put("run", "a", 1, tag="one")
    await store.put("run", "b", 2)
    found: list[Output] = [output async for output in iterate(store)]
    assert [(output.node_id, output.tag) for output in found] == [("a", "one"), ("b", None)]


@pytest.mark.parametrize("tag", NO_TAGS)
@pytest.mark.each_input_once
async def test_what_can_be_no_tag_is_refused_by_its_name_and_nothing_is_stored(store: Any, tag: str) -> None:
    with pytest.raises(ValueError, match=r"^tag must be"):
        await store.put("run", "node", 1, tag=tag)
    assert not await store.exists("run", "node")


@pytest.mark.parametrize("tag", [1, b"a", ["a"], True])
@pytest.mark.each_input_once
async def test_a_tag_is_a_str(store: Any, tag: Any) -> None:
    with pytest.raises(TypeError, match=r"^tag must be a str"):
        await store.put("run", "node", 1, tag=tag)
    assert not await store.exists("run", "node")


async def test_a_tag_of_another_class_is_stored_as_a_plain_str(store: Any) -> None:
    class Tag(str):
        __slots__ = ()

    await store.put("run", "node", 1, tag=Tag("a"))
    assert type((await store.get_entry("run", "node")).tag) is str


@pytest.mark.parametrize(("first", "second"), [("a", "b"), (None, "a"), ("a", None)])
@pytest.mark.parametrize("value", [{"x": 1, "y": 2}, b"bytes"])
@pytest.mark.each_input_once
async def test_with_another_tag_it_is_another_output(store: Any, first: Any, second: Any, value: Any) -> None:
    await store.put("run", "node", value, tag=first)
    with pytest.raises(AlreadyExistsError) as caught:
        await store.put("run", "node", value, exist_ok=True, tag=second)
    assert not caught.value.same_value
    assert (await store.get_entry("run", "node")).tag == first


async def test_with_the_same_tag_a_retry_is_success(store: Any) -> None:
    await store.put("run", "node", {"x": 1, "y": 2}, tag="a")
    await store.put("run", "node", {"y": 2, "x": 1}, tag="a", exist_ok=True)


async def test_a_batch_writes_tags(store: Any) -> None:
    async with begun(store) as batch:
        batch.put("run", "a", 1, tag="one")
        batch.put("run", "b", 2)
        with pytest.raises(ValueError, match=r"^tag must be"):
            batch.put("run", "c", 3, tag="")
    assert [(await store.get_entry("run", node)).tag for node in "ab"] == ["one", None]
    assert not await store.exists("run", "c")


async def test_a_fork_has_the_tags(store: Any) -> None:
    await store.put("run", "a", 1, tag="one")
    await store.fork_run("run", new_flow_run_id="fork")
    await store.fork_run("run", new_flow_run_id="part", node_ids=["a"])
    assert [(await store.get_entry(run, "a")).tag for run in ("fork", "part")] == ["one", "one"]


@pytest.mark.usefixtures("shared_target")
async def test_a_copy_has_the_tags(make_store: Target) -> None:
    async with make_store() as store, AsyncContextStore(":memory:") as other:
        await store.put("run", "a", 1, tag="one")
        await store.put("run", "b", 1)
        async with AsyncContextStore(make_store.location) as source:
            await copy(source, other)
        assert [(await other.get_entry("run", node)).tag for node in "ab"] == ["one", None]  # type: ignore[union-attr]  # it is there


async def test_a_damaged_tag_is_found(store: Any) -> None:
    await store.put("run", "a", 1, tag="one")
    assert (await store.check()).ok


@pytest.mark.usefixtures("embedded", "shared_target")
async def test_a_tag_that_was_changed_is_damage(make_store: Target) -> None:
    async with make_store(cache_bytes=0) as store:
        await store.put("run", "a", 1, tag="one")
        damage(make_store, "UPDATE node_outputs SET tag = 'two'")
        (problem,) = (await store.check()).problems
        assert problem.key == ("run", "a")


async def test_the_cache_reckons_a_tag_in(make_store: Target) -> None:
    async with make_store() as store:
        await store.put("run", "a", 1)
        plain = (await store.stats()).cache_bytes
        await store.put("run", "b", 1, tag="x" * 64)
        await store.put("run", "c", 1)
        both = (await store.stats()).cache_bytes
    async with make_store() as other:
        await other.put("other", "a", 1)
        await other.put("other", "b", 1)
        await other.put("other", "c", 1)
        without = (await other.stats()).cache_bytes
    assert plain < without
    assert both - without > 64
