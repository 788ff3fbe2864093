"""Whether a row can be what was written, and what sorts after a prefix."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contextstore._engine.records import after_prefix, is_intact, is_time
from contextstore._values.codec import BYTES, JSON, Encoded, checksum

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.builds(Encoded, st.sampled_from([JSON, BYTES]), st.binary(max_size=20))


class TestIsIntact:
    @given(TEXTS, TEXTS, VALUES)
    def test_holds_of_whatever_was_written(self, owner: str, name: str, value: Encoded) -> None:
        assert is_intact(owner, name, value, checksum(owner, name, value), len(value.data))

    @given(VALUES, st.data())
    def test_fails_if_any_one_bit_of_a_value_was_flipped(self, value: Encoded, data: st.DataObject) -> None:
        if value.data:
            bit = data.draw(st.integers(0, 8 * len(value.data) - 1))
            flipped = bytearray(value.data)
            flipped[bit // 8] ^= 1 << bit % 8
            damaged = Encoded(value.codec, bytes(flipped))
            assert not is_intact("run", "node", damaged, checksum("run", "node", value), len(value.data))

    @pytest.mark.parametrize("owner", ["", "ru", "runn"])
    def test_fails_under_another_owner_or_name(self, owner: str) -> None:
        value = Encoded(JSON, b"1")
        written = checksum("run", "node", value)
        assert not is_intact(owner, "node", value, written, 1)
        assert not is_intact("run", owner, value, written, 1)

    def test_tells_an_owner_and_a_name_that_share_their_letters_apart(self) -> None:
        value = Encoded(JSON, b"1")
        assert not is_intact("ru", "nnode", value, checksum("run", "node", value), 1)

    @pytest.mark.parametrize("codec", [None, -1, 2, "0"])
    def test_fails_for_a_codec_that_is_none_even_if_the_checksum_fits(self, codec: Any) -> None:
        value = Encoded(codec, b"1")
        assert not is_intact("run", "node", value, checksum("run", "node", value), 1)

    @pytest.mark.parametrize("data", [None, "1", 1, bytearray(b"1")])
    def test_fails_for_what_is_no_bytes(self, data: Any) -> None:
        assert not is_intact("run", "node", Encoded(JSON, data), checksum("run", "node", Encoded(JSON, b"1")), 1)

    @pytest.mark.parametrize("name", [None, 1, b"node"])
    def test_fails_for_a_name_that_is_no_text(self, name: Any) -> None:
        value = Encoded(JSON, b"1")
        assert not is_intact("run", name, value, checksum("run", name, value), 1)


@pytest.mark.parametrize(
    ("moment", "is_one"),
    [
        (0, True),
        (1, True),
        (253_402_300_799_999_999, True),
        (253_402_300_800_000_000, False),
        (-1, False),
        (None, False),
        (1.0, False),
        ("1", False),
        (True, False),
    ],
)
def test_a_time_is_a_whole_number_of_microseconds_of_the_calendar(moment: object, is_one: bool) -> None:
    assert is_time(moment) is is_one


class TestAfterPrefix:
    @given(TEXTS, TEXTS)
    @example("a\U0010ffff", "a\U0010ffff\U0010ffff")
    @example("\ud7ff", "\ue000")
    @example("\U0010ffff", "\U0010ffff")
    @example("", "anything")
    def test_what_has_the_prefix_is_what_lies_between_the_two(self, prefix: str, text: str) -> None:
        end = after_prefix(prefix)
        for one in (text, prefix + text):
            assert one.startswith(prefix) == (prefix <= one and (end is None or one < end))

    @pytest.mark.parametrize("prefix", ["", "\U0010ffff", "\U0010ffff" * 3])
    def test_nothing_comes_after_what_has_no_prefix_or_the_last_one(self, prefix: str) -> None:
        assert after_prefix(prefix) is None

    @given(TEXTS)
    @example("a\ud7ff")  # what comes next by code point is no text
    def test_it_can_be_stored(self, prefix: str) -> None:
        (after_prefix(prefix) or "").encode()
