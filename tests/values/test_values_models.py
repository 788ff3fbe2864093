"""Classes that check, pydantic's above all: what comes back, and what is refused, since its JSON has not all of it."""

from __future__ import annotations

import dataclasses
import datetime
import typing
import uuid
from typing import Any, Generic, TypeVar

import attrs
import pydantic
import pytest

from contextstore import DeserializationError, SerializationError
from contextstore._values.codec import decode, encode

PLENTY = 10**9
T = TypeVar("T")


def back(value: Any, kind: Any = None) -> Any:
    return decode(encode(value, PLENTY), kind or type(value))


def refusal(value: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode(value, PLENTY)
    return caught.value


def changed(value: Any, **fields: Any) -> Any:
    for name, field in fields.items():
        object.__setattr__(value, name, field)
    return value


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__


class Sheet(pydantic.BaseModel, Generic[T]):
    cells: list[T]


class Square(pydantic.BaseModel):
    side: int

    @pydantic.computed_field
    def area(self) -> int:
        return self.side**2


class StrictSquare(Square, extra="forbid"):
    pass


class OpenSquare(Square, extra="allow"):
    pass


class Squares(pydantic.BaseModel, extra="forbid"):
    one: StrictSquare | None
    many: dict[str, list[OpenSquare]]


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Optional(pydantic.BaseModel):
    name: str = pydantic.Field("nobody", exclude=True)


class Needed(pydantic.BaseModel):
    name: str = pydantic.Field(exclude=True)


class Private(pydantic.BaseModel):
    name: str
    _seen: int = 0


class Fresh(pydantic.BaseModel):
    number: str = ""

    def model_post_init(self, context: Any) -> None:
        self.number = uuid.uuid4().hex


class Upper(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def shout(cls, name: str) -> str:
        return name.upper()


class Longer(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def add(cls, name: str) -> str:
        return name + "!"


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)
    name: str = pydantic.Field(alias="theName")


class Renamed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)
    name: str = pydantic.Field(serialization_alias="out")


class Crossed(pydantic.BaseModel):
    one: int = pydantic.Field(alias="two")
    two: int = pydantic.Field(alias="one")


class Message(pydantic.BaseModel):
    text: str


class ToolMessage(Message):
    call: str


class History(pydantic.BaseModel):
    messages: list[Message]
    kinds: dict[str, Message | ToolMessage] = {}


class Anything(pydantic.BaseModel):
    value: Any


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    "value",
    [
        Square(side=2),
        StrictSquare(side=2),
        OpenSquare(side=2, more=[1, {"a": None}]),
        Squares(one=StrictSquare(side=1), many={"a": [OpenSquare(side=2, x=1)]}),
        Squares(one=None, many={}),
        Optional(),
        Private(name="a"),
        Upper(name="a"),
        Aliased(theName="a"),
        History(messages=[Message(text="a")], kinds={"a": ToolMessage(text="b", call="c")}),
        Anything(value={"a": [1, None]}),
        Sheet[int](cells=[1]),
        pydantic.RootModel[list[Square]]([Square(side=1)]),
    ],
    ids=name_of,
)
async def test_a_model_comes_back_equal(value: Any, make_store: Any) -> None:
    kind = type(value)
    async with make_store() as store:
        await store.put("run", "node", {"a": [value]})
        assert await store.get("run", "node") == {"a": [value.model_dump(mode="json")]}
        assert await store.get("run", "node", type=dict[str, list[kind]]) == {"a": [value]}
        await store.upsert_global("key", value)
        assert await store.get_global("key", type=kind) == value


@pytest.mark.parametrize(
    ("value", "path", "word"),
    [
        (Login(user="a", password="b"), "$.password", "another pydantic.types.SecretStr"),
        (Optional(name="ann"), "$.name", "another str"),
        (Needed(name="ann"), "$", "Field required (name)"),
        (changed(Private(name="a"), __pydantic_private__={"_seen": 3}), "$", "private attributes"),
        (Fresh(), "$.number", "another str"),
        (Longer(name="a"), "$.name", "another str"),
        (Renamed(name="a"), "$", "Field required"),
        (Crossed(two=1, one=2), "$.one", "another int"),
        (History(messages=[ToolMessage(text="a", call="b")]), "$.messages[0]", "come back as a tests."),
        (Anything(value=datetime.date(2020, 1, 1)), "$.value", "would come back as a str"),
        (OpenSquare(side=2, more=(1,)), "$", "extra fields"),
        (Message.model_construct(text=3), "$.text", "string"),
    ],
    ids=name_of,
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_model_whose_json_does_not_have_all_of_it_is_refused(value: Any, path: str, word: str) -> None:
    for wrapped, start in ((value, "$"), ([value], "$[0]"), ({"x": [value]}, "$.x[0]")):
        error = refusal(wrapped)
        assert error.path == start + path[1:]
        assert word in error.problem
        assert "model_dump(mode='json')" in error.problem


def test_a_refusal_has_no_part_of_a_secret() -> None:
    assert "hunter2" not in str(refusal(Login(user="a", password="hunter2")))


@pydantic.dataclasses.dataclass
class Limited:
    count: typing.Annotated[int, pydantic.Field(gt=0)]
    late: int = dataclasses.field(init=False, default=0)


def test_a_pydantic_dataclass_is_checked_by_pydantic_also_within_other_types() -> None:
    assert back([Limited(3)], list[Limited]) == [Limited(3)]
    with pytest.raises(DeserializationError, match="greater than 0"):
        decode(encode([{"count": 0}], PLENTY), list[Limited])
    assert "another int" in refusal(changed(Limited(3), late=5)).problem


@attrs.define
class Positive:
    number: int = attrs.field(validator=attrs.validators.gt(0))

    def __attrs_post_init__(self) -> None:
        pass


def test_the_checks_of_attrs_are_heard_on_both_ways() -> None:
    assert back(Positive(1)) == Positive(1)
    with pytest.raises(DeserializationError, match=r"^\$\.a: "):
        decode(encode({"a": {"number": 0}}, PLENTY), dict[str, Positive])
