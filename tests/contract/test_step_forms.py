"""What a type checker says of a step is what comes, in every form of function that a step takes."""

from __future__ import annotations

import asyncio
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore

from ..conftest import Target
from ..typing import steps

FORMS = [
    function
    for function in vars(steps).values()
    if inspect.isfunction(function)
    and function.__module__ == steps.__name__
    and "run" in inspect.signature(function).parameters
]
BLOCKING = [form for form in FORMS if not inspect.iscoroutinefunction(form)]
AWAITED = [form for form in FORMS if inspect.iscoroutinefunction(form)]


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is exactly of a type, with all that is in it."""
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in (Any, object):
        return type(value) in (dict, list, str, int, float, bool, type(None))
    if kind is None:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(is_of(value, arg) for arg in args)
    if typing.is_typeddict(kind):
        return type(value) is dict and all(is_of(value[key], of) for key, of in typing.get_type_hints(kind).items())
    if origin in (dict, Mapping):
        return type(value) is dict and all(is_of(k, args[0]) and is_of(v, args[1]) for k, v in value.items())
    if origin is list:
        return type(value) is list and all(is_of(item, args[0]) for item in value)
    if origin is tuple:
        return type(value) is tuple and all(is_of(item, args[0]) for item in value)
    return type(value) is origin


class Asserted:
    """Stands in for ``assert_type``, and looks."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, value: Any, kind: Any) -> Any:
        assert is_of(value, kind), f"{value!r} is no {kind}"
        self.values.append(value)
        return value


@pytest.fixture
def asserted(monkeypatch: pytest.MonkeyPatch) -> Asserted:
    asserted = Asserted()
    monkeypatch.setattr(steps, "assert_type", asserted)
    return asserted


@pytest.mark.parametrize("form", BLOCKING, ids=lambda form: form.__name__)
def test_what_came_is_of_the_asserted_type_at_first_and_as_a_replay(
    form: Callable[[Any], None], asserted: Asserted
) -> None:
    with ContextStore(":memory:") as store:
        form(store.run("run"))
        first = asserted.values.copy()
        form(store.run("run"))
        assert repr(asserted.values) == repr(first * 2)
        assert len(store.list_keys("run")) == len(first)


@pytest.mark.parametrize("form", AWAITED, ids=lambda form: form.__name__)
async def test_so_it_is_where_it_is_awaited(form: Callable[[Any], Any], asserted: Asserted) -> None:
    async with AsyncContextStore(":memory:") as store:
        await form(store.run("run"))
        first = asserted.values.copy()
        await form(store.run("run"))
        assert repr(asserted.values) == repr(first * 2)
        assert len(await store.list_keys("run")) == len(first)


@pytest.mark.usefixtures("shared_target")
async def test_another_object_replays_them_all(make_store: Target, asserted: Asserted) -> None:
    async with make_store() as store:
        for form in BLOCKING:
            await asyncio.to_thread(form, blocking_of(store).run(form.__name__))
    computed = asserted.values.copy()
    async with make_store() as store:
        for form in BLOCKING:
            await asyncio.to_thread(form, blocking_of(store).run(form.__name__))
    assert repr(asserted.values) == repr(computed * 2)  # a local class is another in each call


def blocking_of(store: Any) -> ContextStore:
    plain: ContextStore = store.plain if hasattr(store, "plain") else store.blocking
    return plain


def test_every_function_of_the_file_is_run() -> None:
    source = inspect.getsource(steps)
    assert len(FORMS) == len(re.findall(r"^(?:async )?def \w+\(run: \w*FlowRun\)", source, re.MULTILINE))
    assert source.count("assert_type(") == sum(inspect.getsource(form).count("assert_type(") for form in FORMS)
