"""How deep a value may be: so many levels are taken, more are refused, and no depth ends the interpreter."""

from __future__ import annotations

import functools
import gc
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from contextstore import SerializationError
from contextstore._values import encode as _encoding
from contextstore._values.encode import MAX_DEPTH

from .samples import CHAINS, Data, Mapping, Model, ModelChain, Sequence, depth_of, encoded, form, refusal

NESTINGS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "dict subclass": lambda value: Mapping(a=value),
    "list subclass": lambda value: Sequence([value]),
}
OF_CLASSES: dict[str, Callable[[Any], Any]] = {
    kind.__name__: functools.partial(lambda kind, value: kind(score=value), kind)
    for kind in CHAINS
    if kind is not ModelChain  # pydantic has a limit of its own
}


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap(1)
    for _ in range(levels - 1):
        value = wrap(value)
    return value


def mixture(seed: int) -> Callable[[Any], Any]:
    choices = random.Random(seed)
    return lambda value: choices.choice(list(NESTINGS.values()))(value)


def at_the_end_of_the_stack(function: Callable[[], Any], left: int = 60) -> Any:
    """Call it with so few frames left of what Python's recursion limit allows."""
    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1  # type: ignore[assignment]

    def down(levels: int) -> Any:
        return function() if levels <= 0 else down(levels - 1)

    return down(sys.getrecursionlimit() - used - left)


@pytest.mark.parametrize("levels", [1, 200, MAX_DEPTH])
@pytest.mark.parametrize(
    "wrap",
    [*NESTINGS.values(), *OF_CLASSES.values(), mixture(1), mixture(2)],
    ids=[*NESTINGS, *OF_CLASSES, "mixed", "mixed too"],
)
def test_so_many_levels_are_taken_even_at_the_end_of_the_callers_stack(wrap: Any, levels: int) -> None:
    value = nested(levels, wrap)
    assert depth_of(form(value)) == levels
    assert depth_of(at_the_end_of_the_stack(lambda: form(value))) == levels


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 256, 300, 700])
@pytest.mark.parametrize(
    "wrap",
    [*NESTINGS.values(), *OF_CLASSES.values(), mixture(1), mixture(2)],
    ids=[*NESTINGS, *OF_CLASSES, "mixed", "mixed too"],
)
def test_more_levels_are_refused(wrap: Any, levels: int) -> None:
    error = refusal(nested(levels, wrap))
    assert "deeper than 254" in error.problem
    assert len(str(error)) < 600
    error = at_the_end_of_the_stack(functools.partial(refusal, nested(levels, wrap)), left=120)
    assert "deeper than 254" in error.problem


async def test_200_levels_come_back_from_a_store_and_more_than_254_do_not_enter_it(store: Any) -> None:
    await store.put("run", "deep", nested(200, mixture(3)))
    assert depth_of(await store.get("run", "deep")) == 200
    with pytest.raises(SerializationError):
        await store.put("run", "deeper", nested(255, NESTINGS["tuple"]))
    assert await store.list_keys("run") == ["deep"]


DEEP = """
import sys, threading
from contextstore import SerializationError
from contextstore._values.codec import encode

def attempt():
    for levels in (255, 256, 300, 1500, 5000, 100_000):
        for wrap in (lambda v: (v,), lambda v: [v], lambda v: {"a": v}, lambda v: ({"a": [v]}, 1), lambda v: (1, v)):
            value = ()
            for _ in range(levels):
                value = wrap(value)
            for holder in (value, [value], {"x": value, "n": None}):
                try:
                    encode(holder, 10**9)
                except SerializationError as error:
                    assert "deeper than 254" in str(error)
                else:
                    raise AssertionError(levels)

attempt()
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
print("unharmed")
"""


def test_thousands_of_levels_hurt_nobody() -> None:
    """orjson alone overwrites memory of tuples nested so deep; in a process of its own, since that may crash."""
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")


def test_whatever_contains_itself_is_refused() -> None:
    a_list: list[Any] = [1]
    a_list.append(a_list)
    a_dict: dict[str, Any] = {"x": 1}
    a_dict["self"] = {"a": (a_dict,)}
    data = Data(None)
    data.score = [data]
    in_a_tuple: Any = ([],)
    in_a_tuple[0].append(in_a_tuple)
    model = Model(score=1)
    model.score = [model]
    for value in (a_list, a_dict, data, in_a_tuple):
        assert "contains itself" in refusal(value).problem
    assert refusal([model]).path == "$[0]"  # by pydantic
    for value in (a_list, a_dict, data, in_a_tuple):
        value.clear() if hasattr(value, "clear") else None
    gc.collect()


def test_an_object_met_twice_is_no_circle() -> None:
    shared = [1]
    assert form([shared, {"a": shared}, (shared, shared)]) == [[1], {"a": [1]}, [[1], [1]]]


@pytest.mark.parametrize("text", ["[" * 5000, "]" * 5000, "{[" * 3000, '"[' * 3000, "\\[" * 3000, '\\"[{' * 2000])
def test_brackets_within_strings_are_not_taken_for_depth(text: str) -> None:
    value = {"text": text, text: [text, 1], "rows": [{"t": text[:7]}] * 300}
    assert form(value) == value
    with mock.patch.object(_encoding, "_Walk") as slowly:
        encoded(value)
    slowly.assert_not_called()
