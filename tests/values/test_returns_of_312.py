"""Return annotations in the syntax of Python 3.12: type parameters and ``type`` statements."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import pytest

from contextstore._values.returns import UNKNOWN, Returns, returns_of

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no type parameters yet")

SOURCE = """
{future}
from dataclasses import dataclass

type Rows = list[int]
type Named[T] = dict[str, T]

@dataclass
class Box[T]:
    content: T
    def opened(self) -> T:
        return self.content
    def several(self) -> list[T]:
        return [self.content]
    def itself(self) -> Box[T]:
        return self

class IntBox(Box[int]):
    pass

def same[T](value: T) -> T:
    return value

def several[T, *Ts](value: T, *more: *Ts) -> list[T]:
    return [value]

async def fetched[T: int](value: T) -> T:
    return value

def rows() -> Rows:
    return [1]

def named() -> Named[int]:
    return {{"a": 1}}

def within():
    type Local = list[int]
    def fn() -> Local:
        Local
        return [1]
    return fn
"""


@pytest.fixture(params=["", "from __future__ import annotations"], ids=["evaluated", "as text"])
def names(request: pytest.FixtureRequest) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": __name__}
    exec(textwrap.dedent(SOURCE.format(future=request.param)), names)
    return names


def test_a_type_parameter_that_nothing_binds_says_nothing(names: dict[str, Any]) -> None:
    for name in ("same", "several", "fetched"):
        assert returns_of(names[name], is_awaited=True) == UNKNOWN
    assert returns_of(names["Box"](1).opened, is_awaited=True) == UNKNOWN


def test_an_object_that_knows_its_argument_binds_its_class_s_parameter(names: dict[str, Any]) -> None:
    for box in (names["IntBox"](5), names["Box"][int](5)):
        assert returns_of(box.opened, is_awaited=True) == Returns(int, is_own_form=False)
        assert returns_of(box.several, is_awaited=True) == Returns(list[int], is_own_form=False)


def test_a_type_statement_is_what_it_names(names: dict[str, Any]) -> None:
    assert returns_of(names["rows"], is_awaited=True).kind is names["Rows"]
    assert returns_of(names["named"], is_awaited=True).kind == names["Named"][int]
    assert not returns_of(names["within"](), is_awaited=True).is_own_form
