"""Classes with real annotations, for what is read as a type; and layers to nest any type in.

They stand at module level, since annotations are resolved by name.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
import typing
import uuid
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic

from .samples import Color

# `type=T`. Classes with real annotations, at module level, since annotations are resolved by name.

T = TypeVar("T")


@dataclasses.dataclass
class Item:
    name: str
    score: float
    tags: list[str] = dataclasses.field(default_factory=list)
    _private: int | None = None
    late: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    at: datetime.datetime
    day: datetime.date | None = None


@dataclasses.dataclass
class Order:
    items: list[Item]
    by_name: dict[str, Item]
    color: Color = Color.RED


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


class Total(TypedDict):
    x: int
    y: typing.NotRequired[Item]


class Partial(TypedDict, total=False):
    x: typing.Required[int]
    y: Item


class Point(NamedTuple):
    x: int
    y: float = 0.0


@attrs.define
class Box:
    _width: int
    height: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    label: str = attrs.field(init=False, default="")
    items: list[Item] = attrs.field(factory=list, alias="contents")


@attrs.define
class Untyped:
    x = attrs.field()
    y = attrs.field(default=2)


class Camel(msgspec.Struct, rename="camel"):
    long_name: int
    by_name: dict[str, int] = {}


class Kebab(msgspec.Struct, rename="kebab", tag="kebab", forbid_unknown_fields=True):
    long_name: int
    by_name: dict[str, int] = {}


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    lives: int


class Array(msgspec.Struct, array_like=True, tag="array"):
    x: int
    by_name: dict[str, int] = {}


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(0, ge=0, alias="theAge")
    born: datetime.date | None = None
    friends: dict[str, Person] = {}


class Strict(pydantic.BaseModel, strict=True):
    at: datetime.datetime
    pair: tuple[int, int] = (0, 0)
    kind: Color = Color.RED


@pydantic.dataclasses.dataclass
class Limited:
    count: typing.Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass
class Team:
    boss: Person | None
    others: list[Person]
    by_name: dict[str, Person] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Apple:
    weight: int


@dataclasses.dataclass
class Pear:
    weight: int
    ripe: bool = False


@dataclasses.dataclass
class Basket:
    best: Apple | Pear
    fruits: dict[str, list[Apple | Pear]]
    when: datetime.datetime | datetime.date | uuid.UUID | str = ""


class FruitRow(NamedTuple):
    fruit: Apple | Pear
    count: int = 1


class FruitDict(TypedDict):
    fruit: Apple | Pear
    count: typing.NotRequired[int]


@attrs.frozen
class FruitBox:
    _fruit: Apple | Pear
    count: int = attrs.field(init=False, default=1)


class FruitStruct(msgspec.Struct, rename="upper", tag="fruit"):
    fruit: Apple | Pear
    count: int = 1


class FruitArray(msgspec.Struct, array_like=True, tag="fruits"):
    fruit: Apple | Pear
    count: int = 1


class Anything(Generic[T]):
    pass


def kind_id(value: Any) -> str:
    return re.sub(r"\btests\.values\.\w+\.", "", repr(value))[:60]


def around_fields(make: Any, step: str = ".field", **names: Any) -> Callable[[Any], Any]:
    def layer(kind: Any) -> Any:
        made = make(kind)
        return made, (lambda value: made(**{names.get("name", "field"): value})), step

    return layer


def typed_dict(kind: Any) -> Any:
    return TypedDict("Made", {"field": kind})  # type: ignore[misc]


LAYERS: list[Callable[[Any], Any]] = [
    lambda kind: (list[kind], lambda value: [value], "[0]"),
    lambda kind: (tuple[int, kind], lambda value: (1, value), "[1]"),
    lambda kind: (tuple[kind, ...], lambda value: (value,), "[0]"),
    lambda kind: (dict[str, kind], lambda value: {"key": value}, ".key"),
    lambda kind: (dict[str, kind], lambda value: {"a b": value}, "['a b']"),
    lambda kind: (collections.OrderedDict[str, kind], lambda value: collections.OrderedDict(key=value), ".key"),
    lambda kind: (typing.Optional[kind], lambda value: value, ""),  # noqa: UP045
    lambda kind: (typing.Annotated[kind, "a note"], lambda value: value, ""),
    lambda kind: (typing.NewType("New", kind), lambda value: value, ""),
    around_fields(lambda kind: dataclasses.make_dataclass("Made", [("field", kind)])),
    around_fields(lambda kind: dataclasses.make_dataclass("Made", [("_field", kind)]), "._field", name="_field"),
    around_fields(lambda kind: attrs.define(type("Made", (), {"__annotations__": {"field": kind}}))),
    around_fields(lambda kind: attrs.frozen(type("Made", (), {"__annotations__": {"_field": kind}})), "._field"),
    around_fields(lambda kind: msgspec.defstruct("Made", [("field", kind)])),
    around_fields(lambda kind: msgspec.defstruct("Made", [("field", kind)], tag=True, rename="upper"), ".FIELD"),
    around_fields(lambda kind: msgspec.defstruct("Made", [("field", kind)], array_like=True, tag=3), "[1]"),
    around_fields(lambda kind: NamedTuple("Made", [("field", kind)]), "[0]"),
    around_fields(typed_dict),
]
