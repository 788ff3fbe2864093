"""By its own class a value comes back equal, or it is refused: classes made at random, of each of the five families."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import typing
import uuid
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import hypothesis
import msgspec
import pydantic
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore import SerializationError
from contextstore._values.codec import decode, encode

from ..support.portions import some

PLENTY = 10**9
NOTHING = object()
T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    POINT = (1, 2)
    DAY = datetime.date(2020, 2, 29)


@dataclasses.dataclass
class Base:
    number: int


@dataclasses.dataclass
class Wider(Base):
    """What must not be stored where a Base is declared: it would come back without its text."""

    text: str = "more"


class BaseModel(pydantic.BaseModel):
    number: int


class WiderModel(BaseModel):
    text: str = "more"


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


class BoxOfBase(Box[Base]):
    pass


class StructBox(msgspec.Struct, Generic[T]):
    content: T


@attrs.define
class AttrsBox(Generic[T]):
    content: T


class ModelBox(pydantic.BaseModel, Generic[T]):
    content: T


class Pair(NamedTuple):
    left: int
    right: Base | None = None


class Total(TypedDict):
    base: Base
    note: typing.NotRequired[str]


@dataclasses.dataclass(eq=False)
class Unequal:
    """Compared by its fields, since it has no ``__eq__``."""

    number: int


# ----------------------------------------------------------------------------------------------------------- the fields


class Held(NamedTuple):
    """What a field is declared as, what it can hold, and whether a value of it has to be taken."""

    kind: Any
    values: st.SearchStrategy[Any]
    is_taken: bool = True


INTS = st.integers(-9, 9)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
JSON = st.recursive(
    st.none() | INTS | TEXTS | st.booleans() | st.just(0.5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)
BASES = INTS.map(Base)

FIELDS: list[Held] = [
    Held(int, INTS),
    Held(str, TEXTS),
    Held(float, st.floats(-1, 1)),
    Held(int | None, INTS | st.none()),
    Held(bool, st.booleans()),
    Held(datetime.datetime, st.datetimes(timezones=st.sampled_from([None, datetime.UTC]))),
    Held(datetime.date, st.dates()),
    Held(uuid.UUID, st.uuids()),
    Held(Color, st.sampled_from(Color)),
    Held(list[int], st.lists(INTS, max_size=2)),
    Held(dict[str, int], st.dictionaries(TEXTS, INTS, max_size=2)),
    Held(tuple[int, str], st.tuples(INTS, TEXTS)),
    Held(tuple[int, ...], st.lists(INTS, max_size=2).map(tuple)),
    Held(Any, JSON),
    Held(Base, BASES),
    Held(list[Base], st.lists(BASES, max_size=2)),
    Held(dict[str, Base], st.dictionaries(TEXTS, BASES, max_size=2)),
    Held(Base | None, BASES | st.none()),
    Held(Base | Wider, BASES | st.builds(Wider, INTS, TEXTS)),
    Held(Pair, st.builds(Pair, INTS, BASES | st.none())),
    Held(Total, st.fixed_dictionaries({"base": BASES}, optional={"note": TEXTS})),
    Held(BaseModel, st.builds(BaseModel, number=INTS)),
    Held(list[BaseModel], st.lists(st.builds(BaseModel, number=INTS), max_size=2)),
    Held(Unequal, INTS.map(Unequal)),
    Held(Box[int], INTS.map(Box[int])),
    Held(Box[Base], BASES.map(Box)),
    Held(BoxOfBase, BASES.map(BoxOfBase)),
    Held(StructBox[Base], BASES.map(StructBox)),
    Held(AttrsBox[Base], BASES.map(AttrsBox)),
    Held(ModelBox[int], INTS.map(lambda number: ModelBox[int](content=number))),
    # what is not what is declared
    Held(Base, st.builds(Wider, INTS, TEXTS), is_taken=False),
    Held(BaseModel, st.builds(WiderModel, number=INTS, text=TEXTS), is_taken=False),
    Held(int, TEXTS, is_taken=False),
    Held(str, INTS, is_taken=False),
    Held(list[int], st.lists(INTS, max_size=2).map(tuple), is_taken=False),
    Held(Any, BASES | st.tuples(INTS) | st.sampled_from(Color) | st.dates(), is_taken=False),
    Held(dict, st.dictionaries(TEXTS, st.dates(), min_size=1, max_size=2), is_taken=False),
    Held(Box, BASES.map(Box), is_taken=False),
]


class Field(NamedTuple):
    name: str
    kind: Any
    value: Any
    default: Any  # NOTHING, or what it has if it is not given
    is_init: bool


class Made(NamedTuple):
    """A class, an object of it, and whether it has to be taken."""

    kind: Any
    value: Any
    is_taken: bool


@st.composite
def fields(
    draw: st.DrawFn, *, prefix: str = "", may_be_late: bool = True, of: list[Held] = FIELDS
) -> tuple[list[Field], bool]:
    chosen = draw(st.lists(st.sampled_from(of), min_size=1, max_size=4))
    made = []
    for number, held in enumerate(chosen):
        value = draw(held.values)
        has_default = may_be_late and draw(st.booleans())
        default = draw(held.values) if has_default else NOTHING
        is_init = not has_default or draw(st.booleans())
        made.append(Field(f"{prefix}{number}", held.kind, value, default, is_init))
    return sorted(made, key=lambda field: field.default is not NOTHING), all(held.is_taken for held in chosen)


# --------------------------------------------------------------------------------------------------------- the families


def hook(chosen: list[Field], which: str) -> Callable[..., None]:
    """What a class may do once its fields are set: overwrite all of those with a default, or look at them."""

    def overwrite(self: Any) -> None:
        for field in chosen:
            if field.default is not NOTHING:
                change = msgspec.structs.force_setattr if isinstance(self, msgspec.Struct) else object.__setattr__
                change(self, field.name, field.default)

    def look(self: Any) -> None:
        for field in chosen:
            getattr(self, field.name, None)

    return {"overwrite": overwrite, "look": look}[which]


HOOKS = st.sampled_from([None, "overwrite", "look"])


@st.composite
def dataclass_objects(draw: st.DrawFn) -> Made:
    chosen, is_taken = draw(fields(prefix=draw(st.sampled_from(["field", "_field"]))))
    which, is_frozen, has_slots = draw(HOOKS), draw(st.booleans()), draw(st.booleans())
    specs = []
    for field in chosen:
        options: dict[str, Any] = {"init": field.is_init, "compare": draw(st.booleans())}
        if field.default is not NOTHING:
            options["default_factory"] = lambda default=field.default: default
        specs.append((field.name, field.kind, dataclasses.field(**options)))
    kind = dataclasses.make_dataclass(
        "Random",
        specs,
        frozen=is_frozen,
        slots=has_slots,
        kw_only=draw(st.booleans()),
        eq=draw(st.booleans()) or is_frozen,
        namespace={"__post_init__": hook(chosen, which)} if which else {},
    )
    value = kind(**{field.name: field.value for field in chosen if field.is_init})
    for field in chosen:  # changed after it was made, as nothing forbids
        object.__setattr__(value, field.name, field.value)
    return Made(kind, value, is_taken)


@st.composite
def attrs_objects(draw: st.DrawFn) -> Made:
    prefix = draw(st.sampled_from(["field", "_field"]))
    chosen, is_taken = draw(fields(prefix=prefix))
    which = draw(HOOKS)
    namespace: dict[str, Any] = {"__annotations__": {field.name: field.kind for field in chosen}}
    for field in chosen:
        options: dict[str, Any] = {"init": field.is_init}
        if field.default is not NOTHING:
            options["factory"] = lambda default=field.default: default
        if draw(st.booleans()):
            options["alias"] = f"alias_{field.name}"
        if draw(st.booleans()):
            options["converter"] = lambda given: given
        namespace[field.name] = attrs.field(**options)
    if which:
        namespace["__attrs_post_init__"] = hook(chosen, which)
    kind = attrs.define(type("Random", (), namespace), frozen=draw(st.booleans()), slots=draw(st.booleans()))
    aliases = {field.name: field.alias for field in attrs.fields(kind)}
    value = kind(**{aliases[field.name]: field.value for field in chosen if field.is_init})
    for field in chosen:
        object.__setattr__(value, field.name, field.value)
    return Made(kind, value, is_taken)


@st.composite
def struct_objects(draw: st.DrawFn) -> Made:
    chosen, is_taken = draw(fields(prefix=draw(st.sampled_from(["field", "_field"]))))
    specs = []
    for field in chosen:
        default = NOTHING if field.default is NOTHING else lambda default=field.default: default
        options = {} if default is NOTHING else {"default_factory": default}
        if draw(st.booleans()):
            options["name"] = f"Its {field.name}"
        specs.append((field.name, field.kind, msgspec.field(**options)))
    which = draw(HOOKS)
    kind: Any = msgspec.defstruct(
        "Random",
        specs,
        namespace={"__post_init__": hook(chosen, which)} if which else {},
        array_like=draw(st.booleans()),
        tag=draw(st.sampled_from([None, True, 7])),
        rename=draw(st.sampled_from([None, "camel"])),
        omit_defaults=draw(st.booleans()),
        forbid_unknown_fields=draw(st.booleans()),
        frozen=draw(st.booleans()),
        kw_only=draw(st.booleans()),
        eq=draw(st.booleans()),
    )
    value = kind(**{field.name: field.value for field in chosen})
    for field in chosen:
        msgspec.structs.force_setattr(value, field.name, field.value)
    return Made(kind, value, is_taken)


@st.composite
def model_objects(draw: st.DrawFn) -> Made:
    # pydantic wants the TypedDict of typing_extensions on older Pythons.
    chosen, _ = draw(fields(prefix="field", of=[held for held in FIELDS if held.kind is not Total]))
    namespace: dict[str, Any] = {}
    if draw(st.booleans()):

        def computed(self: Any) -> int:
            return 7

        computed.__annotations__ = {"return": int}
        namespace["computed"] = pydantic.computed_field(property(computed))
    which = draw(st.sampled_from([None, None, "overwrite", "look"]))
    if which:
        act = hook(chosen, which)
        namespace["model_post_init"] = lambda self, context: act(self)
    specs: dict[str, Any] = {}
    for field in chosen:
        options: dict[str, Any] = {}
        if field.default is not NOTHING:
            options["default_factory"] = lambda default=field.default: default
        if draw(st.booleans()):
            options["alias"] = f"alias_{field.name}"
        options["exclude"] = draw(st.sampled_from([None, None, True]))
        specs[field.name] = (field.kind, pydantic.Field(**options))
    extra = draw(st.sampled_from(["allow", "forbid", "ignore"]))
    base = type(
        "Settings",
        (pydantic.BaseModel,),
        {"model_config": pydantic.ConfigDict(extra=extra, arbitrary_types_allowed=True), "__module__": __name__}
        | namespace,
    )
    kind = pydantic.create_model("Random", __base__=base, **specs)
    more = {"more": draw(JSON)} if extra == "allow" else {}
    value = kind.model_construct(**{field.name: field.value for field in chosen}, **more)
    return Made(kind, value, is_taken=False)  # its own validation, exclusions and dumps may be anything


@st.composite
def tuple_objects(draw: st.DrawFn) -> Made:
    chosen, is_taken = draw(fields(prefix="field", may_be_late=False))
    kind: Any = NamedTuple("Random", [(field.name, field.kind) for field in chosen])  # type: ignore[misc]
    return Made(kind, kind(*(field.value for field in chosen)), is_taken)


FAMILIES: dict[str, st.SearchStrategy[Made]] = {
    "dataclass": dataclass_objects(),
    "attrs": attrs_objects(),
    "struct": struct_objects(),
    "model": model_objects(),
    "tuple": tuple_objects(),
}


# ----------------------------------------------------------------------------------------------------------- what holds


def names_of(value: Any) -> list[str] | None:
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if isinstance(value, pydantic.BaseModel):
        return [*kind.model_fields, *(value.model_extra or {})]
    if isinstance(value, msgspec.Struct):
        return list(kind.__struct_fields__)
    return [field.name for field in kind.__attrs_attrs__] if hasattr(kind, "__attrs_attrs__") else None


def same(one: Any, other: Any) -> bool:
    """Equal by each field, whatever the class compares; and where it compares all of them, by ``==`` as well."""
    names = names_of(one)
    if names is not None:
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    if isinstance(one, list | tuple):
        return (
            isinstance(other, tuple if isinstance(one, tuple) else list)
            and [*map(type, one)] == [*map(type, other)]
            and len(one) == len(other)
            and all(map(same, one, other))
        )
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


def form_of(value: Any) -> Any:
    """The JSON form, as the documentation says it."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, msgspec.Struct):
        config = type(value).__struct_config__
        held = {} if config.tag is None else {config.tag_field: config.tag}
        held |= {step: form_of(getattr(value, name)) for step, name in zip(*_struct_names(value), strict=True)}
        return list(held.values()) if config.array_like else held
    names = names_of(value)
    if names is not None:
        return {name: form_of(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: form_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [form_of(item) for item in value]
    if isinstance(value, enum.Enum):
        return form_of(value.value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value) if isinstance(value, uuid.UUID) else value


def _struct_names(value: Any) -> tuple[Any, Any]:
    return type(value).__struct_encode_fields__, type(value).__struct_fields__


def taken(value: Any) -> bool:
    try:
        encode(value, PLENTY)
    except SerializationError as error:
        hypothesis.note(str(error))
        return False
    return True


def back(value: Any, kind: Any) -> Any:
    return decode(encode(value, PLENTY), kind)


def check(made: Made) -> None:
    value, kind = made.value, made.kind
    if not taken(value):
        assert not made.is_taken
        assert not taken([value])
        assert not taken({"a": (1, value)})
        return
    for wrapped, wrapping in [
        (value, kind),
        ([value, value], list[kind]),
        ({"a": value}, dict[str, kind]),
        ((1, value), tuple[int, kind]),
        (value, kind | None),
        ([None, {"a": value}], list[dict[str, kind] | None]),
    ]:
        assert same(back(wrapped, wrapping), wrapped)
    assert decode(encode(value, PLENTY)) == form_of(value)


@given(st.data())
@settings(max_examples=some(150, 30), deadline=None, print_blob=True)
def test_a_dataclass_comes_back_equal_or_is_refused(data: st.DataObject) -> None:
    check(data.draw(FAMILIES["dataclass"]))


@given(st.data())
@settings(max_examples=some(150, 30), deadline=None, print_blob=True)
def test_an_attrs_class_comes_back_equal_or_is_refused(data: st.DataObject) -> None:
    check(data.draw(FAMILIES["attrs"]))


@given(st.data())
@settings(max_examples=some(150, 30), deadline=None, print_blob=True)
def test_a_struct_comes_back_equal_or_is_refused(data: st.DataObject) -> None:
    check(data.draw(FAMILIES["struct"]))


@given(st.data())
@settings(max_examples=some(150, 30), deadline=None, print_blob=True)
def test_a_model_comes_back_equal_or_is_refused(data: st.DataObject) -> None:
    check(data.draw(FAMILIES["model"]))


@given(st.data())
@settings(max_examples=some(150, 30), deadline=None, print_blob=True)
def test_a_named_tuple_comes_back_equal_or_is_refused(data: st.DataObject) -> None:
    check(data.draw(FAMILIES["tuple"]))
