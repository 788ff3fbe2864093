"""``delete_outputs``: the values go, the ids stay used up, on every engine and both faces."""

from __future__ import annotations

import asyncio
import datetime
import random
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AtomicWriter,
    InvalidKeyError,
    OutputDeletedError,
    ReadOnlyStoreError,
    RunDeletedError,
    WriteFailedError,
)

from ..conftest import Target
from .outputs import begun, damage, ids_of
from .runs import Clock, runs_of
from .waiting import waiting as are_waiting

EVERYTHING = datetime.timedelta(0)


async def is_refused(call: Any) -> bool:
    """Whether a call is refused since the output was deleted."""
    with pytest.raises(OutputDeletedError) as caught:
        await call
    return (caught.value.flow_run_id, caught.value.node_id) == ("run", "a")


@pytest.fixture
async def marked(store: Any) -> Any:
    """A store with a run, of whose outputs ``a`` was deleted."""
    await store.put_many("run", {"a": 1, "b": 2, "c": 3})
    assert await store.delete_outputs("run", ["a"]) == 1
    return store


class TestWhatIsGone:
    async def test_get_gives_its_default(self, marked: Any) -> None:
        assert await marked.get("run", "a") is None
        assert await marked.get("run", "a", "default") == "default"

    async def test_it_neither_exists_nor_has_an_entry(self, marked: Any) -> None:
        assert not await marked.exists("run", "a")
        assert await marked.get_entry("run", "a") is None

    async def test_no_list_has_it(self, marked: Any) -> None:
        assert await marked.list_keys("run") == ["b", "c"]
        assert await marked.list_keys("run", prefix="a") == []
        assert await ids_of(marked) == ["b", "c"]

    async def test_no_call_for_several_gives_it(self, marked: Any) -> None:
        assert await marked.get_many("run", ["c", "a", "b"]) == {"c": 3, "b": 2}
        assert await marked.get_run("run") == {"b": 2, "c": 3}

    async def test_no_count_has_it(self, marked: Any) -> None:
        (info,) = await marked.list_runs()
        assert info.outputs == 2
        stats = await marked.stats()
        assert (stats.runs, stats.outputs, stats.value_bytes) == (1, 2, 2)

    async def test_the_others_stay(self, marked: Any) -> None:
        assert await marked.get("run", "b") == 2
        await marked.put("run", "d", 4)
        assert await marked.list_keys("run") == ["b", "c", "d"]

    async def test_check_finds_nothing_wrong(self, marked: Any) -> None:
        report = await marked.check()
        assert report.ok, report.problems
        assert report.outputs == 2

    async def test_the_same_id_in_another_run_is_another_output(self, marked: Any) -> None:
        await marked.put("other", "a", 1)
        assert await marked.get("other", "a") == 1


class TestEveryPutIsRefused:
    @pytest.mark.parametrize("exist_ok", [False, True, "keep"])
    async def test_with_any_exist_ok_by_any_call(self, marked: Any, exist_ok: Any) -> None:
        assert await is_refused(marked.put("run", "a", 1, exist_ok=exist_ok))
        assert await is_refused(marked.put_many("run", {"new": 1, "a": 1}, exist_ok=exist_ok))

        async def put_in_batch() -> None:
            async with begun(marked) as batch:
                batch.put("run", "new", 1)
                batch.put("run", "a", 1, exist_ok=exist_ok)

        assert await is_refused(put_in_batch())
        assert not await marked.exists("run", "new")

    async def test_one_of_many_at_once_and_the_others_are_written(self, marked: Any) -> None:
        nodes = [f"{number}" for number in range(30)]
        puts = [marked.put("run", node, 1) for node in [*nodes[:15], "a", *nodes[15:]]]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [OutputDeletedError]
        assert set(nodes) <= set(await marked.list_keys("run"))

    async def test_a_put_of_many_that_keeps_is_refused_as_a_whole(self, marked: Any) -> None:
        assert await is_refused(marked.put_many("run", {"x": 1, "a": 1, "y": 1}, exist_ok="keep"))
        assert await marked.list_keys("run") == ["b", "c"]

    async def test_get_or_put_calls_nothing(self, marked: Any) -> None:
        called: list[int] = []
        assert await is_refused(marked.get_or_put("run", "a", lambda: called.append(1)))
        assert called == []

    async def test_write_and_complete_completes_nothing(self, marked: Any) -> None:
        called: list[int] = []
        writer = AtomicWriter(getattr(marked, "plain", marked))

        async def write() -> None:
            arguments = ("run", "a", 1, lambda: called.append(1))
            if hasattr(marked, "plain"):
                await asyncio.to_thread(writer.write_and_complete, *arguments)
            else:
                await writer.write_and_complete(*arguments)

        with pytest.raises(WriteFailedError) as caught:
            await write()
        assert isinstance(caught.value.__cause__, OutputDeletedError)
        assert called == []

    async def test_wait_for_waits_for_nothing(self, marked: Any) -> None:
        assert await is_refused(marked.wait_for("run", "a", timeout=30))


class TestWhichAreDeleted:
    async def test_the_number_is_of_those_that_had_an_output(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})
        assert await store.delete_outputs("run", ["a", "x", "a", "y"]) == 1
        assert await store.delete_outputs("run", ["a", "b"]) == 1

    async def test_ids_without_an_output_stay_free(self, store: Any) -> None:
        await store.put("run", "a", 1)
        assert await store.delete_outputs("run", ["x"]) == 0
        await store.put("run", "x", 1)
        assert await store.get("run", "x") == 1

    async def test_a_prefix_is_literal(self, store: Any) -> None:
        await store.put_many("run", {"a%": 1, "ab": 2, "a": 3, "b": 4, "a%c": 5})
        assert await store.delete_outputs("run", prefix="a%") == 2
        assert await store.list_keys("run") == ["a", "ab", "b"]

    async def test_the_empty_prefix_is_all_of_the_run_and_of_no_other(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "\U0010ffff": 2})
        await store.put("run-2", "a", 1)
        assert await store.delete_outputs("run", prefix="") == 2
        assert await store.list_keys("run") == []
        assert await store.list_keys("run-2") == ["a"]

    async def test_of_a_run_that_was_never_seen_none_and_no_run_is_made(self, store: Any) -> None:
        assert await store.delete_outputs("run", prefix="") == 0
        assert await store.delete_outputs("run", ["a"]) == 0
        assert await runs_of(store) == []
        await store.put("run", "a", 1)

    async def test_of_a_deleted_run_none(self, store: Any) -> None:
        await store.put("run", "a", 1)
        await store.delete_run("run")
        assert await store.delete_outputs("run", prefix="") == 0

    async def test_of_an_empty_selection_none(self, store: Any) -> None:
        await store.put("run", "a", 1)
        assert await store.delete_outputs("run", []) == 0
        assert await store.get("run", "a") == 1

    async def test_more_than_go_into_one_commit(self, store: Any) -> None:
        await store.put_many("run", {f"{number:05}": number for number in range(1300)})
        assert await store.delete_outputs("run", [f"{number:05}" for number in range(0, 1300, 2)]) == 650
        assert await store.delete_outputs("run", prefix="") == 650
        assert await store.list_keys("run") == []
        assert (await store.check()).ok

    async def test_large_ones_in_several_commits(self, store: Any) -> None:
        await store.put_many("run", {f"{number}": b"x" * 2**20 for number in range(10)})
        before = (await store.stats()).commits
        assert await store.delete_outputs("run", prefix="") == 10
        assert (await store.stats()).commits - before > 1

    async def test_a_list_beside_very_many_marks_is_whole(self, store: Any) -> None:
        names = [f"{number:05}" for number in range(6000)]
        await store.put_many("run", dict.fromkeys(names, 1))
        gone = set(random.Random(5).sample(names, 900))
        assert await store.delete_outputs("run", gone) == 900
        left = [name for name in names if name not in gone]
        assert await store.list_keys("run") == left
        assert await store.list_keys("run", prefix="000") == [name for name in left if name.startswith("000")]
        assert await store.get_run("run") == dict.fromkeys(left, 1)


class TestMistakes:
    @pytest.mark.parametrize(("node_ids", "prefix"), [(None, None), (["a"], "a"), ([], "")])
    @pytest.mark.each_input_once
    async def test_exactly_one_of_the_two_is_passed(self, store: Any, node_ids: Any, prefix: Any) -> None:
        await store.put("run", "a", 1)
        with pytest.raises(TypeError, match="either node_ids or a prefix"):
            await store.delete_outputs("run", node_ids, prefix=prefix)
        assert await store.get("run", "a") == 1

    async def test_one_id_is_not_several(self, store: Any) -> None:
        await store.put("run", "a", 1)
        with pytest.raises(TypeError, match="node_ids must be several ids"):
            await store.delete_outputs("run", "a")
        assert await store.get("run", "a") == 1

    @pytest.mark.parametrize(("arguments", "options"), [((["a", ""],), {}), ((), {"prefix": 1}), (([1],), {})])
    @pytest.mark.each_input_once
    async def test_what_can_be_no_id_deletes_nothing(self, store: Any, arguments: Any, options: Any) -> None:
        await store.put("run", "a", 1)
        with pytest.raises(InvalidKeyError):
            await store.delete_outputs("run", *arguments, **options)
        with pytest.raises(InvalidKeyError):
            await store.delete_outputs("", ["a"])
        assert await store.get("run", "a") == 1

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_refuses_it(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
        async with make_store(read_only=True) as reader:
            with pytest.raises(ReadOnlyStoreError):
                await reader.delete_outputs("run", prefix="")
            assert await reader.get("run", "a") == 1


class TestBatch:
    async def test_it_deletes_in_the_one_commit_of_the_block(self, store: Any) -> None:
        await store.put_many("run", {f"{number:04}": 1 for number in range(1200)})
        before = (await store.stats()).commits
        async with begun(store) as batch:
            assert batch.delete_outputs("run", prefix="0") is None
            batch.delete_outputs("run", ["1000"])
            batch.put_global("key", 1)
        assert (await store.stats()).commits - before == 1
        assert await store.list_keys("run") == [f"{number:04}" for number in range(1001, 1200)]
        assert await store.get_global("key") == 1

    async def test_a_refused_block_deletes_nothing(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})

        async def delete_and_put() -> None:
            async with begun(store) as batch:
                batch.delete_outputs("run", ["a"])
                batch.put("run", "b", 3)

        with pytest.raises(AlreadyExistsError):
            await delete_and_put()
        assert await store.get_run("run") == {"a": 1, "b": 2}
        assert (await store.check()).ok

    @pytest.mark.parametrize("exist_ok", [False, True, "keep"])
    async def test_a_put_behind_the_deletion_of_what_was_there_is_refused(self, store: Any, exist_ok: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})

        async def delete_and_put() -> None:
            async with begun(store) as batch:
                batch.delete_outputs("run", prefix="a")
                batch.put("run", "a", 1, exist_ok=exist_ok)

        assert await is_refused(delete_and_put())
        assert await store.get_run("run") == {"a": 1, "b": 2}

    async def test_a_put_behind_the_deletion_of_what_was_not_there_is_written(self, store: Any) -> None:
        await store.put("run", "ab", 1)
        async with begun(store) as batch:
            batch.delete_outputs("run", prefix="a")
            batch.put("run", "a", 2)
        assert await store.get_run("run") == {"a": 2}
        assert (await store.check()).ok

    async def test_what_the_block_puts_before_the_deletion_is_deleted(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.put("run", "a", 1)
            batch.put("run", "b", 1)
            batch.delete_outputs("run", ["a"])
        assert await store.get_run("run") == {"b": 1}
        assert await store.get("run", "a") is None
        assert await is_refused(store.put("run", "a", 1))

        async def twice() -> None:
            async with begun(store) as batch:
                batch.put("new", "a", 1)
                batch.delete_outputs("new", prefix="")
                batch.put("new", "a", 1, exist_ok=True)

        with pytest.raises(OutputDeletedError):
            await twice()
        assert await store.list_keys("new") == []

    async def test_mistakes_are_raised_by_the_call(self, store: Any) -> None:
        async with begun(store) as batch:
            with pytest.raises(TypeError, match="either node_ids or a prefix"):
                batch.delete_outputs("run")
            with pytest.raises(InvalidKeyError):
                batch.delete_outputs("run", [""])


class TestRunsOfMarksAlone:
    async def test_it_is_a_run_without_outputs(self, store: Any) -> None:
        await store.put("run", "a", 1)
        await store.delete_outputs("run", prefix="")
        (info,) = await store.list_runs()
        assert (info.flow_run_id, info.outputs, info.first_written_at, info.last_written_at) == ("run", 0, None, None)
        assert (await store.stats()).runs == 1
        assert (await store.check()).ok

    async def test_deleting_the_run_counts_no_marks_and_frees_it_altogether(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2, "c": 3})
        await store.delete_outputs("run", ["a", "b"])
        assert await store.delete_run("run") == 1
        with pytest.raises(RunDeletedError):
            await store.put("run", "a", 1)
        await store.prune(older_than=EVERYTHING)
        await store.put("run", "a", 4)
        assert await store.get_run("run") == {"a": 4}
        assert (await store.check()).ok

    async def test_prune_counts_no_marks(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 22, "c": 3})
        await store.put("empty", "a", 1)
        await store.delete_outputs("run", ["a", "c"])
        await store.delete_outputs("empty", prefix="")
        await asyncio.sleep(0.002)  # to be older than the last write, by the clock
        plan = await store.prune(older_than=EVERYTHING, dry_run=True)
        assert (plan.runs, plan.outputs, plan.bytes) == (2, 1, 2)
        report = await store.prune(older_than=EVERYTHING)
        assert (report.runs, report.outputs, report.bytes) == (2, 1, 2)
        assert await runs_of(store) == []

    async def test_a_deletion_is_a_write_to_prune(self, clock: Clock, store: Any) -> None:
        await store.put("run", "a", 1)
        clock.now += datetime.timedelta(days=10)
        await store.delete_outputs("run", ["a"])
        report = await store.prune(older_than=datetime.timedelta(days=5))
        assert report.runs == 0
        assert await runs_of(store) == ["run"]


class TestForks:
    async def test_a_fork_has_no_marks_and_its_ids_are_free(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2})
        await store.delete_outputs("run", ["a"])
        await store.fork_run("run", new_flow_run_id="fork")
        await store.fork_run("run", new_flow_run_id="part", node_ids=["a", "b"])
        for run in ("fork", "part"):
            assert await store.get_run(run) == {"b": 2}
            await store.put(run, "a", 3)


@pytest.mark.usefixtures("shared_target")
class TestOtherObjects:
    async def test_what_another_object_has_cached_is_not_answered(self, make_store: Target) -> None:
        async with make_store() as store, make_store() as other:
            await store.put_many("run", {"a": 1, "b": 2})
            assert await other.get_run("run") == {"a": 1, "b": 2}
            assert await other.get("run", "a") == 1
            await store.delete_outputs("run", ["a"])
            assert await other.get("run", "a") is None
            assert await other.get_many("run", ["a", "b"]) == {"b": 2}

    async def test_what_another_object_deletes_ends_the_waiting(self, make_store: Target) -> None:
        async with make_store() as store, make_store() as other:
            waiting = asyncio.ensure_future(store.wait_for("run", "a", timeout=60))
            await are_waiting(store)
            async with begun(other) as batch:  # written and deleted between two looks
                batch.put("run", "a", 1)
                batch.delete_outputs("run", prefix="")
            assert await is_refused(waiting)

    async def test_puts_and_deletions_that_race_end_as_one_of_the_two(self, make_store: Target) -> None:
        async with make_store() as store, make_store() as other:
            for number in range(20):
                node = f"node-{number}"
                await store.put("run", node, 1)
                put, deleted = await asyncio.gather(
                    store.put("run", node, 1, exist_ok=True),
                    other.delete_outputs("run", [node]),
                    return_exceptions=True,
                )
                assert put is None or isinstance(put, OutputDeletedError)
                assert deleted == 1
                assert not await store.exists("run", node)
            assert (await store.check()).ok


async def test_who_waits_in_the_same_object_is_told(store: Any) -> None:
    waiting = asyncio.ensure_future(store.wait_for("run", "a", timeout=60))
    await are_waiting(store)
    async with begun(store) as batch:
        batch.put("run", "a", 1)
        batch.delete_outputs("run", ["a"])
    assert await is_refused(waiting)


@pytest.mark.usefixtures("embedded", "shared_target")
class TestDamage:
    @pytest.mark.parametrize(
        "change", ["checksum = checksum + 1", "size = 1", "value = x'00'", "tag = 'a'", "written_at = -1"]
    )
    async def test_a_damaged_mark_is_found(self, make_store: Target, change: str) -> None:
        async with make_store() as store:
            await store.put_many("run", {"a": 1, "b": 2})
            await store.delete_outputs("run", ["a"])
            damage(make_store, f"UPDATE node_outputs SET {change} WHERE node_id = 'a'")
            (problem,) = (await store.check()).problems
            assert problem.key == ("run", "a")

    async def test_a_count_of_marks_that_does_not_fit_is_found(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_many("run", {"a": 1, "b": 2})
            await store.delete_outputs("run", ["a"])
            damage(make_store, "UPDATE flow_runs SET marks = 2")
            (problem,) = (await store.check()).problems
            assert (problem.kind, problem.key) == ("run", ("run",))
            damage(make_store, "UPDATE flow_runs SET marks = 0")
            (problem,) = (await store.check()).problems
            assert (problem.kind, problem.key) == ("run", ("run",))
