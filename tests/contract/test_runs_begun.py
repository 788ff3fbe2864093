"""``begin``, ``update`` and ``info``: what a runner says of its runs."""

from __future__ import annotations

import datetime
import pickle
from typing import Any

import pytest

from contextstore import RunAlreadyExistsError, RunDeletedError, RunInfo, RunStateConflictError

from ..conftest import Target
from .test_flow_run import Bound

STATES = ["open", "completed", "failed", "cancelled"]


@pytest.fixture
async def run(store: Any) -> Bound:
    return Bound(store)


async def test_a_run_is_there_once_it_is_begun(store: Any, run: Bound) -> None:
    assert await run.info() is None
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=5)
    info = await run.begin(attributes={"kind": "report", "year": 2026}, parent="other")
    assert info == await run.info() == await store.get_run_info("run")
    assert [info] == await store.list_runs()
    assert (info.flow_run_id, info.outputs, info.first_written_at, info.last_written_at) == ("run", 0, None, None)
    assert (info.state, info.state_changed_at, info.error, info.failures, info.cursor) == ("open", None, None, 0, None)
    assert (info.attributes, info.parent) == ({"kind": "report", "year": 2026}, "other")
    assert info.begun_at is not None
    assert before < info.begun_at
    assert (await store.check()).problems == ()


async def test_what_is_said_of_a_run_stands_beside_its_outputs(store: Any, run: Bound) -> None:
    begun = await run.begin(attributes={"a": 1})
    await run.put("node", 1)
    info = await run.info()
    assert (info.outputs, info.begun_at, info.attributes) == (1, begun.begun_at, {"a": 1})
    assert info.first_written_at == info.last_written_at is not None
    assert await run.update(state="completed") == await run.info()
    assert (await store.get_run_info("run")).outputs == 1


async def test_a_begin_that_is_repeated_changes_nothing(run: Bound) -> None:
    first = await run.begin(attributes={"a": 1, "b": "x"}, parent="other")
    for again in (
        {},
        {"attributes": {"b": "x", "a": 1}},
        {"parent": "other"},
        {"attributes": {"a": 1, "b": "x"}, "parent": "other"},
    ):
        assert await run.begin(**again) == first


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    "other",
    [
        {"attributes": {}},
        {"attributes": {"a": 1.0}},
        {"attributes": {"a": True}},
        {"attributes": {"a": "1"}},
        {"attributes": {"a": 1, "b": 1}},
        {"parent": "else"},
        {"attributes": {"a": 1}, "parent": "else"},
    ],
    ids=repr,
)
async def test_a_begin_with_others_is_refused(run: Bound, other: dict[str, Any]) -> None:
    first = await run.begin(attributes={"a": 1}, parent="other")
    with pytest.raises(RunAlreadyExistsError) as caught:
        await run.begin(**other)
    assert caught.value.flow_run_id == "run"
    assert await run.info() == first


async def test_a_first_begin_without_any_was_one_with_none(run: Bound) -> None:
    await run.begin()
    await run.begin(attributes={})
    with pytest.raises(RunAlreadyExistsError):
        await run.begin(attributes={"a": 1})
    with pytest.raises(RunAlreadyExistsError, match="no parent"):
        await run.begin(parent="other")


async def test_it_is_the_first_begin_that_is_compared_and_no_update(run: Bound) -> None:
    await run.begin(attributes={"a": 1})
    await run.update(attributes={"a": 2, "b": 3})
    info = await run.begin(attributes={"a": 1})
    assert info.attributes == {"a": 2, "b": 3}
    with pytest.raises(RunAlreadyExistsError):
        await run.begin(attributes={"a": 2, "b": 3})


async def test_a_run_that_is_there_without_a_begin_takes_its_first(run: Bound) -> None:
    await run.put("node", 1)
    assert (await run.info()).begun_at is None
    info = await run.begin(attributes={"a": 1}, parent="other")
    assert info.begun_at is not None
    assert (info.attributes, info.parent, info.outputs) == ({"a": 1}, "other", 1)


async def test_attributes_of_updates_before_it_stay_but_for_those_of_the_same_names(run: Bound) -> None:
    await run.update(attributes={"a": 1, "b": 2})
    info = await run.begin(attributes={"b": 3, "c": 4})
    assert info.attributes == {"a": 1, "b": 3, "c": 4}
    assert (await run.begin(attributes={"b": 3, "c": 4})).attributes == info.attributes


async def test_begin_changes_no_state(run: Bound) -> None:
    failed = await run.update(state="failed", error="it broke")
    begun = await run.begin()
    assert (begun.state, begun.state_changed_at, begun.error) == ("failed", failed.state_changed_at, "it broke")
    assert (await run.begin()).state == "failed"


async def test_each_state_may_follow_each(run: Bound) -> None:
    for one in STATES:
        for other in STATES:
            await run.update(state=one)
            info = await run.update(state=other)
            assert info.state == other
            assert info.state_changed_at is not None


async def test_a_state_that_is_said_again_was_said_later(run: Bound) -> None:
    first = await run.update(state="failed")
    assert (await run.update(attributes={"a": 1})).state_changed_at == first.state_changed_at
    assert (await run.update(state="failed")).state_changed_at >= first.state_changed_at


async def test_a_state_refuses_no_outputs(run: Bound) -> None:
    await run.update(state="completed")
    await run.put("node", 1)
    assert (await run.info()).outputs == 1


async def test_an_update_makes_a_run_that_is_not_there(store: Any, run: Bound) -> None:
    info = await run.update()
    assert info == RunInfo("run", 0, None, None)
    assert await store.list_runs() == [info]
    assert (await store.check()).problems == ()


async def test_attributes_are_merged_and_none_removes_one(run: Bound) -> None:
    await run.begin(attributes={"a": 1, "b": 2})
    info = await run.update(attributes={"b": None, "c": "x", "nothing": None})
    assert info.attributes == {"a": 1, "c": "x"}
    assert (await run.update(attributes={"a": None, "c": None})).attributes == {}
    assert (await run.update(attributes={"c": 1.5})).attributes == {"c": 1.5}


async def test_an_error_stays_until_another_or_none_is_said(run: Bound) -> None:
    assert (await run.update(state="failed", error="it broke")).error == "it broke"
    assert (await run.update(state="open")).error == "it broke"
    assert (await run.update(error="otherwise")).error == "otherwise"
    assert (await run.update(error="")).error is None


async def test_an_error_is_cut_at_a_character_s_boundary(run: Bound) -> None:
    assert (await run.update(error="x" * 5000)).error == "x" * 4096
    assert (await run.update(error="x" + "é" * 5000)).error == "x" + "é" * 2047
    assert (await run.update(error="🦉" * 1024)).error == "🦉" * 1024


async def test_an_error_that_cannot_be_stored_is_written_out(run: Bound) -> None:
    assert (await run.update(error="a\0b\udcffc")).error == "a\\x00b\\udcffc"


async def test_an_update_that_expects_another_state_changes_nothing(store: Any, run: Bound) -> None:
    before = await run.update(state="failed", attributes={"a": 1})
    with pytest.raises(RunStateConflictError) as caught:
        await run.update(state="open", attributes={"a": 2}, error="no", expected_state="completed")
    assert (caught.value.flow_run_id, caught.value.expected, caught.value.actual) == ("run", "completed", "failed")
    assert await run.info() == before
    assert (await run.update(state="open", expected_state="failed")).state == "open"
    assert (await store.check()).problems == ()


async def test_a_run_that_is_not_there_is_open_and_is_not_made_by_what_is_refused(store: Any, run: Bound) -> None:
    with pytest.raises(RunStateConflictError) as caught:
        await run.update(expected_state="failed")
    assert caught.value.actual == "open"
    assert await run.info() is None
    assert await store.list_runs() == []
    assert (await run.update(state="completed", expected_state="open")).state == "completed"


async def test_a_deleted_run_is_not_begun_nor_updated_and_has_no_info(store: Any, run: Bound) -> None:
    await run.begin()
    await store.delete_run("run")
    for one in (run, Bound(store)):
        with pytest.raises(RunDeletedError):
            await one.begin()
        with pytest.raises(RunDeletedError):
            await one.update(state="failed")
        assert await one.info() is None
    assert await store.get_run_info("run") is None
    assert await store.list_runs() == []


async def test_a_run_that_was_forgotten_begins_anew_with_nothing_said(store: Any, run: Bound) -> None:
    await run.begin(attributes={"a": 1}, parent="other")
    await run.update(state="failed", error="it broke")
    await store.delete_run("run", forget=True)
    with pytest.raises(RunDeletedError):
        await run.begin()
    info = await Bound(store).begin(attributes={"b": 1})
    assert (info.state, info.error, info.attributes, info.parent) == ("open", None, {"b": 1}, None)


async def test_deleting_a_parent_leaves_its_children(store: Any) -> None:
    await Bound(store, "parent").begin()
    await Bound(store, "child").begin(parent="parent")
    await store.delete_run("parent", forget=True)
    assert (await store.get_run_info("child")).parent == "parent"


async def test_a_fork_begins_with_nothing_said(store: Any, run: Bound) -> None:
    await run.begin(attributes={"a": 1}, parent="other")
    await run.put("node", 1)
    await run.update(state="failed", error="it broke")
    fork = await store.get_run_info(await run.fork())
    assert (fork.outputs, fork.state, fork.state_changed_at, fork.error) == (1, "open", None, None)
    assert (fork.attributes, fork.parent, fork.begun_at) == ({}, None, None)


async def test_its_info_is_picklable(run: Bound) -> None:
    info = await run.begin(attributes={"a": 1, "b": True, "c": 1.5, "d": "x"}, parent="other")
    copy = pickle.loads(pickle.dumps(info))
    assert copy == info
    assert [type(value) for value in copy.attributes.values()] == [int, bool, float, str]


async def test_a_run_without_outputs_is_counted_as_one_that_is_there(store: Any, run: Bound) -> None:
    await run.begin()
    assert (await store.stats()).runs == 1 == (await store.check()).runs
    await store.delete_run("run")
    assert (await store.stats()).runs == 0


async def test_what_is_said_in_one_place_is_seen_in_another_at_once(make_store: Target, shared_target: None) -> None:
    async with make_store() as one, make_store() as other:
        await Bound(one).begin(attributes={"a": 1})
        assert (await Bound(other).update(state="failed")).attributes == {"a": 1}
        assert (await one.get_run_info("run")).state == "failed"
        await other.delete_run("run", forget=True)
        await Bound(other).begin(attributes={"b": 1})
        assert (await one.get_run_info("run")).attributes == {"b": 1}
