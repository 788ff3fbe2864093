"""An encoded value: its size, that it shares nothing with what was given, and which values are equal."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore import SerializationError
from contextstore._values.codec import Encoded, checksum, decode, encode, equal

from ..conftest import named
from ..support.portions import some
from .samples import FORMS, TEXT, VALUES, Data, encoded

# ------------------------------------------------------------------------------------------------------------- the size


@pytest.mark.parametrize("value", [b"12345678", "123456", [1, 2, 3.5], {"é": 1}, Data], ids=named)
def test_max_value_bytes_is_the_size_of_the_encoded_value_and_that_much_fits(value: Any) -> None:
    value = Data("x") if value is Data else value
    size = len(encoded(value).data)
    assert encode(value, size) == encoded(value)
    with pytest.raises(SerializationError, match=rf"^\$: .*{size} bytes.*max_value_bytes is {size - 1}"):
        encode(value, size - 1)


async def test_a_store_takes_values_of_max_value_bytes_and_no_more(make_store: Any) -> None:
    async with make_store(max_value_bytes=10) as store:
        await store.put("run", "bytes", b"x" * 10)
        await store.put("run", "text", "x" * 8)
        for value in (b"x" * 11, "x" * 9, ["x" * 7]):
            with pytest.raises(SerializationError, match="max_value_bytes is 10"):
                await store.put("run", "more", value)
            with pytest.raises(SerializationError, match="max_value_bytes is 10"):
                await store.upsert_global("more", value)
        assert await store.list_keys("run") == ["bytes", "text"]
        assert await store.get_global("more") is None


# ---------------------------------------------------------------------------------------------------- nothing is shared


def test_what_happens_to_the_value_later_does_not_reach_the_encoded_one() -> None:
    value: dict[str, Any] = {"a": [1, {"b": 2}]}
    stored = encoded(value)
    value["a"][1]["b"] = 3
    value["c"] = 4
    assert decode(stored) == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("kind", [None, Any, dict, dict[str, list[Any]]], ids=named)
def test_each_decoding_makes_new_objects(kind: Any) -> None:
    stored = encoded({"a": [1, {"b": 2}]})
    first = decode(stored, kind)
    first["a"][1]["b"] = 3
    first["a"].append(4)
    assert decode(stored, kind) == {"a": [1, {"b": 2}]}


async def test_what_was_put_or_got_can_be_changed_without_touching_the_store(store: Any) -> None:
    value: dict[str, Any] = {"a": [1]}
    await store.put("run", "node", value)
    await store.upsert_global("key", value)
    value["a"].append(2)
    for _ in range(2):
        for got in (await store.get("run", "node"), await store.get_global("key")):
            assert got == {"a": [1]}
            got["a"].append(3)


# ------------------------------------------------------------------------------------------------------------- equality

UNEQUAL = [None, True, False, 0, 1, 0.0, -0.0, 1.0, "1", "", "null", [], {}, [1], [1.0], [True], {"a": 1}, {"a": 1.0}]


@pytest.mark.parametrize("number", range(len(UNEQUAL)))
def test_values_that_python_takes_for_equal_differ_if_their_json_does(number: int) -> None:
    for other in range(len(UNEQUAL)):
        for wrap in (lambda v: v, lambda v: [v], lambda v: {"x": [v], "a": None}):
            assert equal(encoded(wrap(UNEQUAL[number])), encoded(wrap(UNEQUAL[other]))) is (number == other)


@given(VALUES, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_keys_does_not_matter_at_any_level(value: Any, order: random.Random) -> None:
    def shuffled(inner: Any) -> Any:
        if isinstance(inner, list):
            return [shuffled(item) for item in inner]
        if isinstance(inner, dict):
            return {key: shuffled(inner[key]) for key in order.sample(list(inner), len(inner))}
        return inner

    assert equal(encoded(value), encoded(shuffled(value)))


@given(VALUES, VALUES)
@settings(max_examples=some(150, 150 // 5), deadline=None)
def test_equal_is_what_sorted_json_says(one: Any, other: Any) -> None:
    def by_json(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert equal(encoded(one), encoded(other)) is (by_json(one) == by_json(other))


def test_bytes_are_equal_to_the_same_bytes_alone() -> None:
    assert equal(encoded(b"1"), encoded(b"1"))
    assert not equal(encoded(b"1"), encoded(1))
    assert not equal(encoded(1), encoded(b"1"))
    assert not equal(encoded(b'{"a":1,"b":2}'), encoded(b'{"b":2,"a":1}'))


def test_the_order_of_a_list_matters() -> None:
    assert not equal(encoded([1, 2]), encoded([2, 1]))


def test_a_value_is_equal_to_its_json_form() -> None:
    for value, expected in FORMS:
        assert equal(encoded(value), encoded(expected))


@given(st.tuples(TEXT, TEXT), VALUES | st.binary(max_size=9))
@settings(deadline=None)
def test_the_checksum_knows_the_owner_the_name_the_codec_and_every_bit(names: tuple[str, str], value: Any) -> None:
    owner, name = (text.replace("\0", "") for text in names)
    stored = encoded(value)
    right = checksum(owner, name, stored)
    assert right == checksum(owner, name, Encoded(*stored))
    assert right != checksum(owner, name + "x", stored)
    assert right != checksum(owner + "x", name, stored)
    assert right != checksum(owner, name, Encoded(1 - stored.codec, stored.data))
    if name:
        assert right != checksum(owner + name[0], name[1:], stored)
    if stored.data:
        assert right != checksum(owner, name, Encoded(stored.codec, bytes([stored.data[0] ^ 1]) + stored.data[1:]))
