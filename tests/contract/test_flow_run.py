"""Flow runs as objects: each call is the store's, bound to one run."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pathlib
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    AsyncFlowRun,
    ContextStore,
    FlowRun,
    InvalidKeyError,
    RunDeletedError,
)
from contextstore._core.lives import Life

from ..conftest import Target

STORES_CALLS = {
    "put": ("put", ("node", 1), {"exist_ok": True, "tag": "text"}),
    "append": ("append", ("log", 1), {"key": "key", "tag": "tag"}),
    "get": ("get", ("node", "default"), {"type": int}),
    "exists": ("exists", ("node",), {}),
    "get_entry": ("get_entry", ("node",), {"type": int}),
    "list_keys": ("list_keys", (), {"prefix": "n", "after": "a", "limit": 5, "reverse": True}),
    "put_many": ("put_many", ({"node": 1},), {"exist_ok": True}),
    "delete_outputs": ("delete_outputs", (), {"node_ids": ["node"], "prefix": "n"}),
    "get_many": ("get_many", (["node"],), {"type": int}),
    "list_outputs": ("list_outputs", (), {"prefix": "n", "after": "a", "limit": 5, "reverse": True, "type": int}),
    "get_run": ("get_run", (), {"prefix": "n", "type": int}),
    "get_or_put": ("get_or_put", ("node", int), {"type": int}),
    "wait_for": ("wait_for", ("node",), {"timeout": 5, "type": int}),
    "wait_for_run": ("wait_for_run", (), {"state": "open", "timeout": 5}),
    "watch": ("watch", (), {"prefix": "n", "after": "cursor", "until": "node", "type": int}),
    "iter_outputs": ("iter_outputs", (), {"prefix": "n", "after": "a", "reverse": True, "type": int}),
    "fork": ("fork_run", (), {"new_flow_run_id": "other", "node_ids": ["node"]}),
    "delete": ("delete_run", (), {"forget": True}),
    "info": ("get_run_info", (), {}),
}
"""Each call of a run: the store's call that it is, with arguments none of which is a default."""
OWN_CALLS = {"step", "attempts", "begin", "update", "get_state", "upsert_state", "update_state", "list_state"}
"""Calls of a run that the store does not have."""

FACES: list[tuple[type, type]] = [(AsyncFlowRun, AsyncContextStore), (FlowRun, ContextStore)]


class Recorder:
    """Stands for a core, and takes down what its services are asked for."""

    session = types.SimpleNamespace(  # where nothing is in memory
        cache=types.SimpleNamespace(find=lambda _: None, find_of=lambda *_: None)
    )

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, service: str) -> Service:
        return Service(self.asked, service)


class Service:
    def __init__(self, asked: list[tuple[Any, ...]], name: str) -> None:
        self._asked = asked
        self._name = name

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._asked.append((self._name, name, args, kwargs))

            async def answer() -> Any:
                return ANSWER

            async def answers() -> AsyncIterator[Any]:
                yield ANSWER

            if name == "iterate_now":
                return iter([ANSWER])
            return answers() if name in ("watch", "iterate") else answer()

        return call


ANSWER = object()


async def answer_of(called: Any) -> Any:
    if inspect.isawaitable(called):
        return await called
    if isinstance(called, AsyncIterator):
        return [one async for one in called]
    return list(called) if isinstance(called, Iterator) else called


def parameters_of(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


class TestEachCall:
    def test_a_run_has_these_calls_and_those_of_its_own(self) -> None:
        for run, _ in FACES:
            assert {name for name in vars(run) if not name.startswith("_")} == {*STORES_CALLS, *OWN_CALLS}

    @pytest.mark.parametrize("name", STORES_CALLS)
    @pytest.mark.parametrize(("run", "store"), FACES)
    def test_it_takes_what_the_stores_takes_but_for_the_run(self, run: type, store: type, name: str) -> None:
        itself, flow_run_id, *others = parameters_of(getattr(store, STORES_CALLS[name][0]))
        assert flow_run_id[0] == "flow_run_id"
        assert parameters_of(getattr(run, name)) == [itself, *others]

    @pytest.mark.parametrize("name", STORES_CALLS)
    @pytest.mark.parametrize(("run", "store"), FACES)
    async def test_it_asks_the_core_for_what_the_stores_asks_for_in_its_life(
        self, run: type, store: type, name: str
    ) -> None:
        stores_name, args, kwargs = STORES_CALLS[name]
        of_run: Any = Recorder()
        answer = await answer_of(getattr(run(of_run, "run"), name)(*args, **kwargs))
        assert answer == {"put": None, "watch": [ANSWER], "iter_outputs": [ANSWER]}.get(name, ANSWER)
        ((service, call, (*handed_over, life), by_name),) = of_run.asked
        assert (handed_over, by_name) == (["run", *args, *kwargs.values()], {})
        assert (type(life), life.flow_run_id) == (Life, "run")
        of_store: Any = Recorder()
        made = store.__new__(store)
        made._core, made._session = of_store, of_store.session
        assert await answer_of(getattr(made, stores_name)("run", *args, **kwargs)) == answer
        assert of_store.asked == [(service, call, tuple(handed_over), by_name)]

    def test_a_run_is_shown_with_its_id_and_its_store(self) -> None:
        assert repr(AsyncContextStore(":memory:").run("r-1")) == (
            "<AsyncFlowRun 'r-1' of <AsyncContextStore :memory: (not opened yet)>>"
        )
        assert (
            repr(ContextStore(":memory:").run("r-1")) == "<FlowRun 'r-1' of <ContextStore :memory: (not opened yet)>>"
        )

    def test_a_uuid_is_its_string_and_a_bad_id_is_refused_at_once(self) -> None:
        run_id = uuid.UUID("018F3A00-0000-7000-8000-00000000000F")
        for store in (AsyncContextStore(":memory:"), ContextStore(":memory:")):
            run: Any = store.run(run_id)
            assert run.flow_run_id == str(run_id)
            for bad in ("", "\0", 5):
                with pytest.raises(InvalidKeyError):
                    store.run(bad)  # type: ignore[arg-type]


class Bound:
    """A run with the calls of AsyncFlowRun, for either face."""

    def __init__(self, store: Any, run: str = "run") -> None:
        self.blocking: FlowRun | None = None
        if hasattr(store, "plain"):
            self.blocking = store.plain.run(run)
        self._run: Any = self.blocking or store.run(run)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._run, name)
        return functools.partial(asyncio.to_thread, call) if self.blocking else call

    async def outputs(self) -> list[str]:
        iterator: Iterator[Any] | AsyncIterator[Any] = self._run.iter_outputs()
        if isinstance(iterator, Iterator):
            return [output.node_id for output in iterator]
        return [output.node_id async for output in iterator]


class TestWithAStore:
    async def test_its_calls_do_what_the_stores_do(self, store: Any) -> None:
        run = Bound(store)
        await run.put("a", 1)
        with pytest.raises(AlreadyExistsError):
            await run.put("a", 1)
        await run.put("a", 1, exist_ok=True)
        await run.put_many({"b": [2], "c": 3})
        assert await store.get_run("run") == {"a": 1, "b": [2], "c": 3}
        assert (await run.get("a"), await run.get("z", 5), await run.get("b", type=tuple[int])) == (1, 5, (2,))
        assert (await run.exists("a"), await run.exists("z")) == (True, False)
        assert await run.list_keys() == ["a", "b", "c"] == await run.outputs()
        assert await run.list_keys(prefix="b") == ["b"]
        assert await run.list_keys(after="a", limit=1) == ["b"]
        assert await run.get_many(["c", "z", "a"]) == {"c": 3, "a": 1}
        assert await run.get_run(prefix="b", type=tuple[int]) == {"b": (2,)}
        assert [output.value for output in await run.list_outputs(limit=2, reverse=True)] == [3, [2]]
        entry = await run.get_entry("b")
        assert (entry.node_id, entry.value, await run.get_entry("z")) == ("b", [2], None)
        assert await run.get_or_put("d", lambda: 4) == 4
        assert await run.wait_for("d", timeout=0) == 4
        assert await run.fork(new_flow_run_id="fork", node_ids=["a"]) == "fork"
        assert await store.get_run("fork") == {"a": 1}
        assert await run.append("log/", "begun", key="first") == await run.append("log/", "begun", key="first")
        assert await run.get_run(prefix="log/") == {"log/000000000001": "begun"}
        assert await run.delete() == 5
        with pytest.raises(RunDeletedError):
            await run.put("e", 5)
        assert await store.get_run("fork") == {"a": 1}

    async def test_two_runs_of_one_store_are_apart(self, store: Any) -> None:
        one, other = Bound(store, "one"), Bound(store, "other")
        assert await one.step("node", lambda: 1) == 1
        assert await other.step("node", lambda: 2) == 2
        assert await one.get("node") == 1


class TestStep:
    async def test_a_step_is_computed_once_and_then_replayed(self, store: Any) -> None:
        computed: list[int] = []

        def compute(n: int) -> int:
            computed.append(n)
            return n * 2

        assert [await Bound(store).step("node", compute, n) for n in (1, 2, 3)] == [2, 2, 2]
        assert computed == [1]

    async def test_a_step_passes_on_its_arguments(self, store: Any) -> None:
        def show(*args: Any, **kwargs: Any) -> Any:
            return [args, kwargs]

        shown = await Bound(store).step("node", show, 1, [2], a=3, b=None)
        assert shown == [[1, [2]], {"a": 3, "b": None}]

    async def test_the_names_of_a_steps_own_arguments_are_free_for_the_function(self, store: Any) -> None:
        run: Any = Bound(store)

        def show(**kwargs: Any) -> Any:
            return kwargs

        names = {
            "self": 1,
            "node_id": 2,
            "fn": 3,
            "func": 4,
            "factory": 5,
            "flow_run_id": 6,
            "args": 7,
            "kwargs": 8,
            "type": 9,
        }
        step = run._run.step
        shown = (
            await asyncio.to_thread(lambda: step("node", show, **names))
            if run.blocking
            else await step("node", show, **names)
        )
        assert shown == names

    async def test_what_is_no_function_is_refused_at_once(self, store: Any) -> None:
        with pytest.raises(TypeError):
            await Bound(store).step("node", 5)
        assert await Bound(store).list_keys() == []

    async def test_coroutine_functions_are_awaited(self, file_path: pathlib.Path) -> None:
        async def add(a: int, b: int) -> int:
            await asyncio.sleep(0)
            return a + b

        async with AsyncContextStore(file_path) as store:
            run = store.run("run")
            assert await run.step("node", add, 1, b=2) == 3
            assert await run.step("partial", functools.partial(add, 1), 1) == 2

    def test_the_blocking_face_refuses_coroutine_functions(self, file_path: pathlib.Path) -> None:
        async def add(a: int, b: int) -> int:
            return a + b

        with ContextStore(file_path) as store:
            run = store.run("run")
            with pytest.raises(TypeError, match=r"^<function .*add at \w+> .*: use AsyncContextStore"):
                run.step("node", add, 1, 2)
            assert run.list_keys() == []


@pytest.mark.usefixtures("shared_target")
async def test_a_run_is_another_objects_run_as_well(make_store: Target) -> None:
    async with make_store() as one, make_store() as other:
        await Bound(one).step("node", lambda: "computed")
        assert await Bound(other).step("node", lambda: pytest.fail("computed anew")) == "computed"
