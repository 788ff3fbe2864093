"""How a saver is called: cancelled, from several threads, loops and processes, and where it must not block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import multiprocessing
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import contextstore
from contextstore import AsyncContextStore, ContextStore, StoreClosedError
from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

from .langgraph_saver import BIG, checkpoint_of, config_of, id_of, listed, metadata_of, put

CALLS: dict[str, Any] = {
    "get_tuple": lambda saver: saver.get_tuple(config_of("t")),
    "get": lambda saver: saver.get(config_of("t")),
    "list": lambda saver: list(saver.list(config_of("t"))),
    "put": lambda saver: saver.put(config_of("t"), checkpoint_of({"c": BIG}), metadata_of(), {"c": 1}),
    "put_writes": lambda saver: saver.put_writes(config_of("t", "", "c"), [("c", 1)], "task"),
    "delete_thread": lambda saver: saver.delete_thread("t"),
    "delete_for_runs": lambda saver: saver.delete_for_runs(["r"]),
    "copy_thread": lambda saver: saver.copy_thread("t", "u"),
    "prune": lambda saver: saver.prune(["t"]),
    "history": lambda saver: saver.get_delta_channel_history(config=config_of("t"), channels=["c"]),
}


async def cancelled_after(steps: int, call: Any) -> bool:
    """Cancel a call after so many turns of the loop. Whether it was over by then."""
    task = asyncio.ensure_future(call)
    for _ in range(steps):
        await asyncio.sleep(0)
        if task.done():
            break
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
        return True
    return False


async def test_a_cancelled_put_has_stored_all_of_a_checkpoint_or_nothing(target: str) -> None:
    values = {"stays": BIG, "changes": "1" + BIG, "small": 1}
    async with AsyncContextStore(target) as store:
        saver = AsyncContextStoreSaver(store)
        parent = await put(saver, config_of("t"), {"stays": BIG})
        outcomes = set()
        for steps in [*range(12), 10_000]:
            fresh = AsyncContextStoreSaver(store)  # which looks the parent up, too
            for one in (saver, fresh):
                versions = {"stays": 1, "changes": steps + 2, "small": 1}
                checkpoint = checkpoint_of(values, versions)
                new = {"changes": steps + 2, "small": 1}
                ended = await cancelled_after(steps, one.aput(parent, checkpoint, metadata_of(), new))
                found = await one.aget_tuple(config_of("t", "", checkpoint["id"]))
                outcomes.add((ended, found is not None))
                assert found is not None or not ended
                if found is not None:
                    assert found.checkpoint["channel_values"] == values
                again = await one.aput(parent, checkpoint, metadata_of(), new)
                found = await one.aget_tuple(again)
                assert found is not None
                assert found.checkpoint["channel_values"] == values
        assert {(True, True), (False, False)} <= outcomes
        assert len(await listed(saver, config_of("t"))) == 1 + 2 * 13


async def test_cancelled_writes_are_stored_together_or_not_at_all(target: str) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        for steps in [*range(8), 10_000]:
            stored = await put(saver, config_of("t"), {})
            writes = [("a", BIG), ("b", 2), ("c", 3)]
            ended = await cancelled_after(steps, saver.aput_writes(stored, writes, "task"))
            found = await saver.aget_tuple(stored)
            assert found is not None
            pending = [(channel, value) for _, channel, value in found.pending_writes or ()]
            assert pending in ([], writes)
            assert pending == writes or not ended
            await saver.aput_writes(stored, writes, "task")
            found = await saver.aget_tuple(stored)
            assert found is not None
            assert [write[1:] for write in found.pending_writes or ()] == writes


async def test_a_cancelled_deletion_gives_its_lease_back(target: str) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        config = config_of("t")
        for step in range(5):
            config = await put(saver, config, {"c": f"{step}{BIG}"}, {"c": step + 1}, run_id="r")
        for steps in range(12):
            await cancelled_after(steps, saver.aprune(["t"]))
            await cancelled_after(steps, saver.adelete_for_runs(["none", "r" if steps == 11 else "no"]))
        await saver.aprune(["t"])
        await saver.adelete_for_runs(["r"])
        assert await listed(saver, config_of("t")) == []


@pytest.mark.parametrize("name", CALLS)
async def test_the_awaited_saver_refuses_to_block_the_thread_of_a_running_loop(name: str) -> None:
    async with AsyncContextStore(":memory:") as store:
        saver = AsyncContextStoreSaver(store)
        with pytest.raises(asyncio.InvalidStateError, match=r"await a\w+\(\) of the saver"):
            CALLS[name](saver)
        await asyncio.to_thread(CALLS[name], saver)


@pytest.mark.parametrize("name", CALLS)
async def test_the_called_saver_may_be_called_in_the_thread_of_a_running_loop(name: str, target: str) -> None:
    with ContextStoreSaver.from_conn_string(target) as saver:
        CALLS[name](saver)


async def test_both_savers_take_a_store_of_either_face_and_close_none(target: str) -> None:
    async with AsyncContextStore(target) as store:
        for saver in (ContextStoreSaver(store), AsyncContextStoreSaver(store.blocking)):
            stored = await put(saver, config_of("t"), {"c": BIG})
            found = await asyncio.to_thread(saver.get_tuple, stored)
            assert found is not None
            assert found.checkpoint["channel_values"] == {"c": BIG}
        assert await store.ping() > 0
    with pytest.raises(TypeError, match="takes a ContextStore or an AsyncContextStore, not str"):
        ContextStoreSaver(target)  # type: ignore[arg-type]  # that is the point


async def test_a_saver_from_a_target_closes_its_store(target: str) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target, durability="normal", timeout=7) as saver:
        await put(saver, config_of("t"))
    with pytest.raises(StoreClosedError):
        await saver.aget_tuple(config_of("t"))
    with ContextStoreSaver.from_conn_string(target) as called:
        assert called.get_tuple(config_of("t")) is not None
    with pytest.raises(StoreClosedError):
        called.get_tuple(config_of("t"))


def test_threads_share_a_saver(target: str) -> None:
    with ContextStoreSaver.from_conn_string(target) as saver, concurrent.futures.ThreadPoolExecutor(8) as pool:

        def steps(number: int) -> list[str]:
            config, made = config_of(f"t{number % 4}", f"ns{number}"), []
            for step in range(10):
                checkpoint = checkpoint_of({"c": BIG, "d": f"{step}{BIG}"}, {"c": 1, "d": step + 1})
                new = {"c": 1, "d": 1} if step == 0 else {"d": step + 1}
                config = saver.put(config, checkpoint, metadata_of(step), new)
                saver.put_writes(config, [("d", step)], "task")
                made.append(id_of(config))
            return made

        for number, made in enumerate(pool.map(steps, range(16))):
            found = list(saver.list(config_of(f"t{number % 4}", f"ns{number}")))
            assert [one.checkpoint["id"] for one in found] == made[::-1]
            assert [one.pending_writes for one in found] == [[("task", "d", step)] for step in range(9, -1, -1)]


def _steps_of_a_process(target: str, name: str) -> list[str]:
    with ContextStoreSaver.from_conn_string(target) as saver:
        made = []
        for step in range(20):
            newest = saver.get_tuple(config_of("t", name))
            config = newest.config if newest else config_of("t", name)
            values = {**(newest.checkpoint["channel_values"] if newest else {"c": BIG}), "d": step}
            versions = {"c": 1, "d": step + 1}
            new = versions if step == 0 else {"d": step + 1}
            made.append(id_of(saver.put(config, checkpoint_of(values, versions), metadata_of(step), new)))
        return made


@pytest.mark.slow
def test_processes_share_a_thread(target: str) -> None:
    with concurrent.futures.ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(_steps_of_a_process, [target] * 3, ["", "a", "a"]))
    with ContextStoreSaver.from_conn_string(target) as saver:
        for name, wanted in (("", made[0]), ("a", made[1] + made[2])):
            found = list(saver.list(config_of("t", name)))
            assert [one.checkpoint["id"] for one in found] == sorted(wanted, reverse=True)
            assert all(one.checkpoint["channel_values"]["c"] == BIG for one in found)


def test_one_loop_after_another_may_use_a_saver() -> None:
    saver = AsyncContextStoreSaver(ContextStore(":memory:"))
    config: Any = config_of("t")
    for step in range(3):
        config = asyncio.run(put(saver, config, {"c": BIG}, {"c": 1}, {"c": 1} if step == 0 else {}))
    assert len(list(saver.list(config_of("t")))) == 3
    saver._threads.store.blocking.close()


def test_a_shallow_copy_of_a_saver_as_langgraph_makes_them_knows_what_the_saver_knows() -> None:
    with ContextStoreSaver.from_conn_string(":memory:") as saver:
        stored = copy.copy(saver).put(config_of("t"), checkpoint_of({"c": BIG}), metadata_of(), {"c": 1})
        saver.delete_thread("t")
        with pytest.raises(contextstore.RunDeletedError):
            copy.copy(saver).put(stored, checkpoint_of({}), metadata_of(), {})


def test_without_langgraph_the_error_names_the_extra(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys; sys.modules['langgraph.checkpoint.base'] = None\n"
        "try:\n    import contextstore.integrations.langgraph\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "contextstore[langgraph]" in done.stdout
