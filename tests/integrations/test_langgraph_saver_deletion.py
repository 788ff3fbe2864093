"""What deleting, pruning and copying leave: beside writers, across savers, and with delta channels."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from contextstore import AsyncContextStore, RunDeletedError
from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

from .langgraph_saver import BIG, checkpoint_of, config_of, id_of, listed, metadata_of, put, saver

__all__ = ["saver"]


async def chain(saver: Any, thread: str, length: int, namespace: str = "", **metadata: Any) -> list[Any]:
    """Checkpoints one behind the other: a large value that stays, and one that changes."""
    config, configs = config_of(thread, namespace), []
    for step in range(1, length + 1):
        values = {"stays": BIG, "changes": f"{step}{BIG}"}
        versions = {"stays": 1, "changes": step}
        new = versions if step == 1 else {"changes": step}
        config = await put(saver, config, values, versions, new, step=step, **metadata)
        configs.append(config)
    return configs


async def blobs_of(saver: Any, thread: str) -> list[str]:
    store = saver._threads.store.awaitable
    keys: list[str] = await store.list_keys(f"langgraph/{thread}", prefix="blob/")
    return keys


class TestLives:
    async def test_a_deleted_thread_may_be_used_again(self, saver: Any) -> None:
        for _ in range(3):
            (stored,) = await chain(saver, "t", 1)
            await saver.adelete_thread("t")
            assert await saver.aget_tuple(config_of("t")) is None
            assert await saver.aget_tuple(stored) is None
        await chain(saver, "t", 2)
        assert len(await listed(saver, config_of("t"))) == 2

    async def test_another_savers_late_writer_is_refused(self, target: str) -> None:
        async with AsyncContextStore(target) as store, AsyncContextStore(target) as elsewhere:
            ours, others = AsyncContextStoreSaver(store), AsyncContextStoreSaver(elsewhere)
            stored = (await chain(ours, "t", 2))[-1]
            await others.adelete_thread("t")
            with pytest.raises(RunDeletedError):
                await put(ours, stored, {"c": 1})
            with pytest.raises(RunDeletedError):
                await ours.aput_writes(stored, [("c", 1)], "task")
            assert await others.aget_tuple(config_of("t")) is None

    async def test_whoever_looks_for_the_newest_goes_on_in_the_new_life_and_late_writers_do_not(
        self, target: str
    ) -> None:
        async with AsyncContextStore(target) as store, AsyncContextStore(target) as elsewhere:
            ours, others = AsyncContextStoreSaver(store), AsyncContextStoreSaver(elsewhere)
            late = (await chain(ours, "t", 2))[-1]
            await others.adelete_thread("t")
            new = (await chain(others, "t", 1))[-1]
            found = await ours.aget_tuple(config_of("t"))
            assert found is not None
            assert id_of(found.config) == id_of(new)
            await put(ours, found.config, {"c": 1})
            with pytest.raises(RunDeletedError):
                await put(ours, late, {"c": 1})
            with pytest.raises(RunDeletedError):
                await ours.aput_writes(late, [("c", 1)], "task")
            assert len(await listed(others, config_of("t"))) == 2

    async def test_a_savers_own_late_writer_is_refused(self, saver: Any) -> None:
        late = (await chain(saver, "t", 2))[-1]
        await saver.adelete_thread("t")
        with pytest.raises(RunDeletedError):
            await put(saver, late, {"c": 1})
        await chain(saver, "t", 1)
        with pytest.raises(RunDeletedError):
            await saver.aput_writes(late, [("c", 1)], "task")
        assert len(await listed(saver, config_of("t"))) == 1

    async def test_a_first_checkpoint_begins_a_thread_anew_after_any_deletion(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            saver = AsyncContextStoreSaver(store)
            await chain(saver, "t", 2)
            await store.delete_run("langgraph/t")  # leaves a tombstone
            await chain(saver, "t", 1)
            assert len(await listed(saver, config_of("t"))) == 1
            await store.delete_run("langgraph/t")
            await chain(AsyncContextStoreSaver(store), "t", 3)
            assert len(await listed(saver, config_of("t"))) == 3

    async def test_of_many_that_begin_a_thread_anew_none_is_lost(self, target: str) -> None:
        async with AsyncContextStore(target) as store, AsyncContextStore(target) as elsewhere:
            savers = [AsyncContextStoreSaver(place) for place in (store, elsewhere) * 4]
            await chain(savers[0], "t", 1)
            await store.delete_run("langgraph/t")
            stored = await asyncio.gather(*[put(one, config_of("t"), {"c": BIG}) for one in savers])
            found = await listed(savers[0], config_of("t"))
            assert sorted(id_of(one.config) for one in found) == sorted(map(id_of, stored))


class TestPruning:
    async def test_what_is_kept_is_whole_and_nothing_else_is_left(self, saver: Any) -> None:
        newest = [(await chain(saver, "t", 5, namespace))[-1] for namespace in ("", "a", "a|b")]
        await saver.aprune(["t"], strategy="keep_latest")
        config: Any = {"configurable": {"thread_id": "t"}}
        found = await listed(saver, config)
        assert {id_of(one.config) for one in found} == set(map(id_of, newest))
        assert all(one.checkpoint["channel_values"] == {"stays": BIG, "changes": f"5{BIG}"} for one in found)
        assert len(await blobs_of(saver, "t")) == 2 * len(newest)
        await saver.aprune(["t"], strategy="delete")
        assert await listed(saver, config) == []
        assert await blobs_of(saver, "t") == []

    async def test_unknown_strategies_and_a_text_for_ids_are_refused(self, saver: Any) -> None:
        with pytest.raises(ValueError, match="'keep_latest', 'delete', not 'oldest'"):
            await saver.aprune(["t"], strategy="oldest")
        with pytest.raises(TypeError, match="not a str"):
            await saver.aprune("t")
        with pytest.raises(TypeError, match="not a str"):
            await saver.adelete_for_runs("t")

    async def test_who_goes_on_from_a_checkpoint_that_is_deleted_meanwhile_loses_nothing(self, saver: Any) -> None:
        configs = await chain(saver, "t", 4)
        await saver.aprune(["t"])
        values = {"stays": BIG, "changes": "2" + BIG, "c": 1}
        fork = await put(saver, configs[1], values, {"stays": 1, "changes": 2, "c": 1}, {"c": 1})
        await saver.adelete_for_runs(["none"])
        found = await saver.aget_tuple(fork)
        assert found is not None
        assert found.checkpoint["channel_values"] == values

    @pytest.mark.parametrize("how", ["prune", "runs"])
    async def test_no_put_beside_deletions_is_lost(self, target: str, how: str) -> None:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        async with AsyncContextStore(target) as store, AsyncContextStore(target) as elsewhere:
            ours, others = AsyncContextStoreSaver(store), AsyncContextStoreSaver(elsewhere)
            configs = await chain(ours, "t", 4, run_id="first")
            kept: list[tuple[Any, dict[str, str]]] = []

            async def go_on(branch: int) -> None:
                """Steps of a branch, whose ids are the highest: no deletion means them."""
                config = configs[chance.randrange(4)]
                before = await ours.aget_tuple(config)
                if before is None:
                    return
                values = before.checkpoint["channel_values"]
                versions = dict(before.checkpoint["channel_versions"])
                for step in range(6):
                    values, channel = dict(values), f"b{chance.randrange(3)}"
                    values[channel] = f"{branch} {step}{BIG}"
                    versions[channel] = 100 * branch + step + 1
                    config = await put(ours, config, values, versions, {channel: versions[channel]}, run_id="second")
                    kept.append((config, values))

            async def delete() -> None:
                if how == "prune":
                    await others.aprune(["t"])
                else:
                    await others.adelete_for_runs(["first"])

            await asyncio.gather(delete(), *[go_on(branch) for branch in range(4)], delete())
            newest = max(kept, key=lambda one: id_of(one[0])) if kept else None
            for config, values in kept if how == "runs" else [newest] if newest else []:
                found = await others.aget_tuple(config)
                assert found is not None
                assert found.checkpoint["channel_values"] == values
            for found in await listed(others, config_of("t")):  # each that is there is whole
                assert found.checkpoint["channel_values"].keys() == found.checkpoint["channel_versions"].keys()

    async def test_writes_for_a_checkpoint_that_is_still_to_come_stay(self, saver: Any) -> None:
        (first,) = await chain(saver, "t", 1)
        coming = checkpoint_of({"c": 1})
        config = config_of("t", "", coming["id"])
        await saver.aput_writes(config, [("c", 2)], "task")
        newest = await saver.aget_tuple(config_of("t"))
        assert newest is not None
        assert id_of(newest.config) == id_of(first)
        assert await saver.aget_tuple(config) is None
        await saver.aprune(["t"])
        await saver.adelete_for_runs(["none"])
        await saver.aput(first, coming, metadata_of(), {"c": 1})
        found = await saver.aget_tuple(config_of("t"))
        assert found is not None
        assert found.pending_writes == [("task", "c", 2)]

    async def test_a_parent_with_what_was_sent_before_version_4_is_kept(self, saver: Any) -> None:
        parent = await saver.aput(config_of("t"), checkpoint_of({}, v=3), metadata_of(), {})
        await saver.aput_writes(parent, [(TASKS, "sent")], "task")
        child = await saver.aput(parent, checkpoint_of({}, v=3), metadata_of(), {})
        await saver.aprune(["t"])
        found = await saver.aget_tuple(child)
        assert found is not None
        assert found.checkpoint["channel_values"] == {TASKS: ["sent"]}


async def delta_chain(saver: Any, thread: str, snapshots: dict[int, Any], length: int) -> list[Any]:
    """Checkpoints of which each is followed by a write to the channel ``d``; its counters are as a graph keeps them."""
    config, configs, since = config_of(thread), [], 0
    for step in range(length):
        since = 0 if step in snapshots else since + 1
        counters = {"counters_since_delta_snapshot": {"d": (since, since)}} if since else {}
        values = {"d": snapshots[step]} if step in snapshots else {}
        config = await put(saver, config, values, {"d": step + 1}, step=step, **counters)
        await saver.aput_writes(config, [("d", step), ("other", BIG)], "task", "~p")
        configs.append(config)
    return configs


class TestDeltaChannels:
    @pytest.mark.parametrize("snapshot", [_DeltaSnapshot([7]), _DeltaSnapshot([BIG]), [8], 9, BIG])
    async def test_a_history_has_the_nearest_value_and_the_writes_from_there_on(
        self, saver: Any, snapshot: Any
    ) -> None:
        configs = await delta_chain(saver, "t", {1: "older", 4: snapshot}, 300 if snapshot == 9 else 8)
        last = len(configs) - 1
        history = await saver.aget_delta_channel_history(config=configs[-1], channels=["d", "none"])
        assert history["d"] == {"writes": [("task", "d", n) for n in range(4, last)], "seed": snapshot}
        assert history["none"] == {"writes": []}
        newest = await saver.aget_delta_channel_history(config=config_of("t"), channels=["d"])
        assert newest["d"] == history["d"]
        assert await saver.aget_delta_channel_history(config=configs[-1], channels=[]) == {}
        assert await saver.aget_delta_channel_history(config=config_of("none"), channels=["d"]) == {"d": {"writes": []}}

    async def test_a_history_follows_the_parents_wherever_their_ids_sort(self, saver: Any) -> None:
        config: Any = config_of("t")
        names = ["m", "z", "a", "q", "b"]
        for number, name in enumerate(names):
            checkpoint = checkpoint_of({"d": "root"} if number == 0 else {}, {"d": number + 1}, checkpoint_id=name)
            config = await saver.aput(config, checkpoint, metadata_of(), {"d": number + 1})
            await saver.aput_writes(config, [("d", name)], "task")
        history = await saver.aget_delta_channel_history(config=config, channels=["d"])
        assert [write[2] for write in history["d"]["writes"]] == names[:-1]
        assert history["d"]["seed"] == "root"

    async def test_each_channel_has_its_own_nearest_value(self, saver: Any) -> None:
        config: Any = config_of("t")
        for step in range(5):
            values = {1: {"a": "A"}, 3: {"b": "B"}}.get(step, {})
            config = await put(saver, config, values, dict.fromkeys(values, step))
            await saver.aput_writes(config, [("a", step), ("b", step)], "task")
        history = await saver.aget_delta_channel_history(config=config, channels=["a", "b"])
        assert history == {
            "a": {"writes": [("task", "a", step) for step in (1, 2, 3)], "seed": "A"},
            "b": {"writes": [("task", "b", 3)], "seed": "B"},
        }

    async def test_a_circle_of_parents_ends(self, saver: Any) -> None:
        for name, parent in (("a", None), ("b", "a"), ("a", "b")):
            await saver.aput(config_of("t", "", parent), checkpoint_of({}, checkpoint_id=name), metadata_of(), {})
        history = await saver.aget_delta_channel_history(config=config_of("t", "", "b"), channels=["d"])
        assert history == {"d": {"writes": []}}

    async def test_pruning_keeps_what_a_history_needs_and_no_more(self, saver: Any) -> None:
        configs = await delta_chain(saver, "t", {1: _DeltaSnapshot([1]), 4: _DeltaSnapshot([4])}, 8)
        before = await saver.aget_delta_channel_history(config=configs[-1], channels=["d"])
        await saver.aprune(["t"])
        assert await saver.aget_delta_channel_history(config=configs[-1], channels=["d"]) == before
        assert [one.config for one in await listed(saver, config_of("t"))] == configs[:3:-1]

    async def test_a_copy_has_the_complete_chain(self, saver: Any) -> None:
        configs = await delta_chain(saver, "t", {0: _DeltaSnapshot([BIG])}, 120)
        wanted = await saver.aget_delta_channel_history(config=configs[-1], channels=["d"])
        for target in ("copy", "x" * 5_000):
            await saver.acopy_thread("t", target)
            await saver.acopy_thread("t", target)  # again, as after one that was stopped
            copied = await saver.aget_delta_channel_history(config=config_of(target), channels=["d"])
            assert copied == wanted
            assert len(await listed(saver, config_of(target))) == len(configs)
        await saver.adelete_thread("t")
        assert await saver.aget_delta_channel_history(config=config_of("copy"), channels=["d"]) == wanted
        threads = {one.config["configurable"]["thread_id"] for one in await listed(saver, None)}
        assert threads == {"copy", "x" * 5_000}


async def test_runs_are_deleted_in_all_threads_and_namespaces(saver: Any) -> None:
    for thread in ("t", "u", "x" * 5_000):
        first = await chain(saver, thread, 2, run_id="one")
        await put(saver, first[-1], {"stays": BIG, "changes": "2" + BIG}, {"stays": 1, "changes": 2}, {}, run_id="two")
        await chain(saver, thread, 2, "ns", run_id="one")
    await saver.adelete_for_runs(["one", "none"])
    left = await listed(saver, None)
    assert [one.metadata["run_id"] for one in left] == ["two"] * 3  # type: ignore[typeddict-item]  # of ours
    assert all(one.checkpoint["channel_values"] == {"stays": BIG, "changes": "2" + BIG} for one in left)
    assert len(await blobs_of(saver, "t")) == 2


async def test_the_called_saver_deletes_as_the_awaited_one_does(target: str) -> None:
    with ContextStoreSaver.from_conn_string(target) as saver:
        stored = await asyncio.to_thread(saver.put, config_of("t"), checkpoint_of({"c": BIG}), metadata_of(), {"c": 1})
        await asyncio.to_thread(saver.copy_thread, "t", "u")
        await asyncio.to_thread(saver.prune, ["t"])
        await asyncio.to_thread(saver.delete_thread, "t")
        with pytest.raises(RunDeletedError):
            saver.put(stored, checkpoint_of({}), metadata_of(), {})
        assert [one.config["configurable"]["thread_id"] for one in saver.list(None)] == ["u"]


async def test_a_copy_beside_a_writer_has_only_whole_checkpoints(target: str) -> None:
    async with AsyncContextStore(target) as store, AsyncContextStore(target) as elsewhere:
        ours, others = AsyncContextStoreSaver(store), AsyncContextStoreSaver(elsewhere)
        await chain(ours, "t", 1)
        writing = asyncio.ensure_future(chain(ours, "t", 25, "ns"))
        copies = 0
        while not writing.done() or copies == 0:
            await others.acopy_thread("t", f"copy {copies % 3}")
            copies += 1
        await writing
        for number in range(min(copies, 3)):
            config: Any = {"configurable": {"thread_id": f"copy {number}"}}
            for found in await listed(others, config):
                assert found.checkpoint["channel_values"]["stays"] == BIG
                step = found.checkpoint["channel_versions"]["changes"]
                assert found.checkpoint["channel_values"]["changes"] == f"{step}{BIG}"


async def test_a_thread_that_left_a_tombstone_may_be_copied_to(target: str) -> None:
    async with AsyncContextStore(target) as store:
        saver = AsyncContextStoreSaver(store)
        for thread in ("t", "u"):
            await chain(saver, thread, 2)
        await store.delete_run("langgraph/u")
        await saver.acopy_thread("t", "u")
        assert len(await listed(saver, config_of("u"))) == 2
