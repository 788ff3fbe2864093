"""Values that are taken: JSON comes back as it was, and what is not JSON comes back as its JSON form."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import typing
import zoneinfo
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore._values.codec import BYTES, JSON, decode

from ..conftest import named
from ..support.portions import some
from .samples import (
    FORMS,
    NOW,
    UTC,
    VALUES,
    Attr,
    Data,
    FrozenAttr,
    Mapping,
    Number,
    Row,
    Sequence,
    Slotted,
    Struct,
    Text,
    encoded,
    form,
    refusal,
    same,
    there_and_back,
)
from .typed_samples import Frozen


@given(VALUES)
@settings(max_examples=some(200, 200 // 5), deadline=None)
def test_json_comes_back_equal_and_of_the_same_types_at_every_level(value: Any) -> None:
    stored = encoded(value)
    assert stored.codec == JSON
    assert same(decode(stored), value)
    assert same(json.loads(stored.data), value)  # it is JSON to others too


@given(st.binary(max_size=300))
def test_bytes_come_back_exactly(value: bytes) -> None:
    stored = encoded(value)
    assert stored == (BYTES, value, None)
    assert decode(stored) == value
    assert type(decode(stored)) is bytes


async def test_bytes_that_look_like_json_stay_bytes_in_a_store(store: Any) -> None:
    for value in (b"null", b"", b'{"a": 1}', b"\xff\x00"):
        await store.put("run", repr(value), value)
        await store.put_global(repr(value), value)
        assert await store.get("run", repr(value)) == value
        assert await store.get_global(repr(value)) == value


EDGES = [
    None,
    True,
    False,
    0,
    -0.0,
    1.0,
    2**64 - 1,
    -(2**63),
    5e-324,
    "",
    "\0",
    "null",
    "\U0001f600",
    [],
    {},
    {"": None},
    [[], {}, [None]],
    {"a": {"b": [1, 1.0, True, "1"]}},
]


async def test_edges_of_json_come_back_from_a_store_of_the_same_type(make_store: Any) -> None:
    async with make_store(cache_bytes=0) as store:
        for value in EDGES:
            await store.put("run", repr(value), value)
            await store.upsert_global("key", value)
            assert same(await store.get("run", repr(value), "default"), value)
            assert same(await store.get_global("key", "default"), value)


@given(VALUES)
@settings(deadline=None)
def test_the_same_value_in_other_clothes_is_stored_as_the_same_text(value: Any) -> None:
    """The slow way writes what the quick way writes."""

    def dressed(inner: Any) -> Any:
        if isinstance(inner, list):
            return Sequence(map(dressed, inner))
        if isinstance(inner, dict):
            return Mapping((key, dressed(item)) for key, item in inner.items())
        if isinstance(inner, str):
            return Text(inner)
        return Number(inner) if type(inner) is int else inner

    assert encoded(dressed(value)) == encoded(value)


@pytest.mark.parametrize(("value", "expected"), FORMS, ids=lambda value: repr(value)[:50])
def test_what_is_not_json_has_a_json_form(value: Any, expected: Any) -> None:
    assert same(form(value), expected)
    assert same(form({"a": [None, value]}), {"a": [None, expected]})


async def test_what_is_not_json_comes_back_from_a_store_as_its_form_or_by_type(store: Any) -> None:
    await store.put("run", "node", {"x": Frozen(at=NOW)})
    assert await store.get("run", "node") == {"x": {"at": NOW.isoformat(), "day": None}}
    assert await store.get("run", "node", type=dict[str, Frozen]) == {"x": Frozen(at=NOW)}
    await store.upsert_global("now", NOW)
    assert await store.get_global("now", type=datetime.datetime) == NOW


@pytest.mark.parametrize(
    ("value", "expected"), [pair for pair in FORMS if isinstance(pair[0], str | int | dict | list)]
)
def test_subclasses_lose_their_class_and_nothing_else(value: Any, expected: Any) -> None:
    assert type(form(value)) is type(expected)


def test_an_ordered_dict_keeps_its_order() -> None:
    value = collections.OrderedDict(a=1, b=2)
    value.move_to_end("a")
    assert list(form(value)) == ["b", "a"]


def test_a_dataclass_is_all_of_its_fields_and_no_other_attribute() -> None:
    @dataclasses.dataclass
    class Base:
        _private: int
        __mangled: int = 2
        late: int = dataclasses.field(init=False)
        hidden: int = dataclasses.field(default=4, repr=False, compare=False)
        klass: typing.ClassVar[int] = 5
        init: dataclasses.InitVar[int] = 6

        def __post_init__(self, init: int) -> None:
            self.late = 3
            self.other = init

    class Sub(Base):
        pass

    expected = {"_private": 1, "_Base__mangled": 2, "late": 3, "hidden": 4}
    expected = {key.replace("_Base", f"_{Base.__name__}"): item for key, item in expected.items()}
    assert form(Base(1)) == expected
    assert form(Sub(1)) == expected


def test_a_dataclass_that_is_also_a_dict_is_its_fields() -> None:
    @dataclasses.dataclass
    class Both(dict):  # type: ignore[type-arg]
        a: int

    assert form(Both(1)) == {"a": 1}


@pytest.mark.parametrize("kind", [Data, Slotted, Attr, FrozenAttr, Struct, Row], ids=lambda kind: kind.__name__)
def test_a_field_that_is_not_set_is_refused(kind: Any) -> None:
    unset = kind(score=1)
    object.__delattr__(unset, "score") if not isinstance(unset, msgspec.Struct) else delattr(unset, "score")
    error = refusal({"a": [unset]})
    assert error.path == "$.a[0]"
    assert "score" in error.problem
    assert "not set" in error.problem


def test_a_property_that_raises_is_a_refusal_not_an_error_of_its_own() -> None:
    @dataclasses.dataclass
    class Lazy:
        score: int

    Lazy.score = property(lambda self: 1 / 0, lambda self, value: None)  # type: ignore[assignment]
    assert "division by zero" in refusal([Lazy(1)]).problem


def test_unset_fields_are_left_out_as_msgspec_does() -> None:
    class Patch(msgspec.Struct):
        a: int | msgspec.UnsetType = msgspec.UNSET
        b: int | msgspec.UnsetType = msgspec.UNSET

    @dataclasses.dataclass
    class DataPatch:
        a: int | msgspec.UnsetType = msgspec.UNSET

    assert form(Patch(b=1)) == {"b": 1}
    assert form(DataPatch()) == {}
    assert "msgspec.UnsetType" in str(refusal([msgspec.UNSET])).replace("_core.", "")

    class RowPatch(msgspec.Struct, array_like=True):
        a: int | msgspec.UnsetType = msgspec.UNSET
        b: int = 1

    assert "UNSET" in refusal(RowPatch()).problem  # an array without it would shift the others


@given(st.data())
@settings(deadline=None)
def test_a_datetime_keeps_its_moment_and_its_offset(data: st.DataObject) -> None:
    minutes = st.integers(-23 * 60 - 59, 23 * 60 + 59)
    zones = st.one_of(
        st.none(),
        st.just(UTC),
        minutes.map(lambda m: datetime.timezone(datetime.timedelta(minutes=m))),
        st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]).map(zoneinfo.ZoneInfo),
    )
    zone = data.draw(zones)
    first = datetime.datetime(1975, 1, 1) if isinstance(zone, zoneinfo.ZoneInfo) else datetime.datetime.min
    fold = data.draw(st.sampled_from([0, 1]))
    value = data.draw(st.datetimes(min_value=first)).replace(tzinfo=zone, fold=fold)
    if zone is not None and value.utcoffset() % datetime.timedelta(minutes=1):
        assert "seconds" in refusal(value).problem
        return
    back = there_and_back(value, datetime.datetime)
    assert back.replace(tzinfo=None) == value.replace(tzinfo=None, fold=0)
    assert back.utcoffset() == value.utcoffset()


def test_the_second_of_two_equal_hours_keeps_its_own_offset() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    offsets = [datetime.datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    assert form(offsets) == ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"]


def test_a_subclass_of_datetime_is_its_base_value() -> None:
    class Moment(datetime.datetime):
        def isoformat(self, *args: Any, **kwargs: Any) -> str:
            return "lie"

        def utcoffset(self) -> Any:
            return datetime.timedelta(seconds=7)

        __str__ = isoformat

    assert form(Moment(2020, 1, 1, tzinfo=UTC)) == form(datetime.datetime(2020, 1, 1, tzinfo=UTC))


class Zone(datetime.tzinfo):
    def __init__(self, offset: Any) -> None:
        self.offset = offset

    def utcoffset(self, moment: Any) -> Any:
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset


@pytest.mark.parametrize(
    "value",
    [
        NOW.replace(tzinfo=datetime.timezone(datetime.timedelta(seconds=30))),
        NOW.replace(tzinfo=datetime.timezone(datetime.timedelta(microseconds=1))),
        datetime.datetime(1800, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        NOW.replace(tzinfo=Zone(None)),
        NOW.replace(tzinfo=Zone(ValueError("no"))),
        NOW.replace(tzinfo=Zone("seven")),
    ],
    ids=named,
)
def test_a_time_whose_offset_cannot_be_written_is_refused(value: Any) -> None:
    assert refusal({"at": value}).path == "$.at"


def test_a_datetime_with_nanoseconds_is_refused_not_rounded() -> None:
    class Timestamp(datetime.datetime):  # as that of pandas
        nanosecond = 7

    assert "nanoseconds" in refusal(Timestamp(2020, 1, 1)).problem
