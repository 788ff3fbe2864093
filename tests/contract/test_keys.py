"""Ids and keys: what may name an output or a global, and that it is kept as exactly that text."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import unicodedata
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contextstore import ContextStoreError, InvalidKeyError, new_flow_run_id
from contextstore._values import keys as _keys
from contextstore._values.arguments import check_count
from contextstore._values.keys import flow_run_key, global_key, node_key, prefix_key

from ..conftest import named

ID = uuid.UUID("01234567-89AB-7DEF-8123-456789ABCDEF")
CHECKS: list[Callable[[Any], str]] = [flow_run_key, node_key, global_key]


class Liar(str):
    """A str whose own methods all lie."""

    def __str__(self) -> str:
        return "lie"

    def __len__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return True

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return True

    def __contains__(self, part: object) -> bool:
        return False

    def isascii(self) -> bool:
        return True

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        return b"lie"

    def __format__(self, spec: str) -> str:
        return "lie"

    __repr__ = __str__


class LyingUUID(uuid.UUID):
    def __str__(self) -> str:
        return "lie"

    __repr__ = __str__


GOOD = [
    "a",
    " ",
    "\n",
    "\x01",
    "\x7f",
    "%",
    "_",
    "'; DROP TABLE runs; --",
    "a/b\\c",
    "é",
    "\U0001f600",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "x" * 1024,
    "é" * 512,
    "\U0001f600" * 256,
    "\U0010ffff" * 256,
    "null",
    "None",
    "0",
    str(ID).upper(),
]
BAD: list[tuple[Any, str]] = [
    ("x" * 1025, "1024"),
    ("x" + "é" * 512, "1025 bytes"),
    ("\U0001f600" * 256 + "x", "1025 bytes"),
    ("€" * 342, "1026 bytes"),
    ("x" * 10**6, "1000000 bytes"),
    ("\0", "NUL"),
    ("a\0b", "NUL"),
    ("é\0", "NUL"),
    ("\ud800", "surrogate"),
    ("a\udfffb", "surrogate"),
    ("\ud83d\ude00", "surrogate"),
    (Liar("x" * 1025), "1025 bytes"),
    (Liar("é" * 513), "1026 bytes"),
    (Liar("a\0b"), "NUL"),
    (Liar("\ud800"), "surrogate"),
    (None, "NoneType"),
    (1, "int"),
    (True, "bool"),
    (1.5, "float"),
    (b"a", "bytes"),
    (bytearray(b"a"), "bytearray"),
    (["a"], "list"),
    (("a", "b"), "tuple"),
    (object(), "object"),
    (str, "type"),
    (uuid, "module"),
]
EMPTY: list[tuple[Any, str]] = [("", "empty"), (Liar(""), "empty")]


# ---------------------------------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize("check", CHECKS)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128))
@example("x" * 1024)
def test_text_passes_unchanged_as_a_plain_str(check: Any, text: str) -> None:
    for given_text in (text, Liar(text)):
        key = check(given_text)
        assert type(key) is str
        assert key == text


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("text", GOOD, ids=ascii)
def test_what_is_good_passes(check: Any, text: str) -> None:
    assert check(text) is text  # a plain str is not copied
    assert str.__eq__(check(Liar(text)), text)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("value", "word"), BAD, ids=lambda value: ascii(named(value))[1:40] or "empty")
def test_what_is_bad_is_an_invalid_key_error_that_says_why(check: Any, value: Any, word: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check(value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ContextStoreError)
    assert word in str(caught.value)
    assert str(caught.value).startswith({flow_run_key: "flow_run_id", node_key: "node_id", global_key: "key"}[check])
    assert len(str(caught.value)) < 200
    str(caught.value).encode()  # it can be logged, lone surrogates and all


@pytest.mark.parametrize("value", [value for value, _ in EMPTY], ids=type)
def test_the_empty_text_is_a_global_key_and_a_prefix_but_no_id(value: Any) -> None:
    for check in (global_key, prefix_key):
        assert type(check(value)) is str
        assert check(value) == ""
    for check in (flow_run_key, node_key):
        with pytest.raises(InvalidKeyError, match="empty"):
            check(value)


@pytest.mark.parametrize("check", CHECKS)
def test_a_uuid_and_its_string_are_one_key(check: Any) -> None:
    for value in (ID, LyingUUID(int=ID.int), str(ID)):
        key = check(value)
        assert type(key) is str
        assert key == "01234567-89ab-7def-8123-456789abcdef"


def test_other_spellings_of_a_uuid_are_other_keys() -> None:
    spellings = {str(ID), str(ID).upper(), ID.hex, ID.urn, f"{{{ID}}}"}
    assert {node_key(spelling) for spelling in spellings} == spellings


def test_a_prefix_is_a_str_under_the_same_rules() -> None:
    assert prefix_key("a%_") == "a%_"
    assert type(prefix_key(Liar("a"))) is str
    for value, word in [*BAD, (ID, "UUID")]:
        with pytest.raises(InvalidKeyError, match=r"^prefix ") as caught:
            prefix_key(value)
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [0, 1, 2**70])
def test_a_count_is_an_int_from_its_least_on(value: int) -> None:
    assert check_count("limit", value, 0) == value
    with pytest.raises(ValueError, match=rf"^limit must be at least {value + 1}, not {value}$"):
        check_count("limit", value, value + 1)


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_a_count_of_another_type_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^limit must be an int, not "):
        check_count("limit", value, 0)


# ---------------------------------------------------------------------------------------------------------- in a store


async def test_every_good_id_names_its_own_output_and_comes_back_as_it_was(store: Any) -> None:
    for number, text in enumerate(GOOD):
        await store.put("run", text, number)
        await store.put(text, "node", number)
        await store.put_global(text, number)
    for number, text in enumerate(GOOD):
        assert await store.get("run", text) == number
        assert await store.get(text, "node") == number
        assert await store.get_global(text) == number
        assert await store.list_keys(text) == ["node"]
    assert await store.list_keys("run") == sorted(GOOD)


async def test_a_bad_id_is_refused_by_every_call_and_nothing_is_stored(store: Any) -> None:
    for value, _ in [*BAD, *EMPTY]:
        for call in (
            store.put(value, "node", 1),
            store.put("run", value, 1),
            store.put("run", value, 1, exist_ok=True),
            store.get(value, "node"),
            store.get("run", value),
            store.list_keys(value),
        ):
            with pytest.raises(InvalidKeyError):
                await call
    for value, _ in BAD:
        for call in (
            store.put_global(value, 1),
            store.upsert_global(value, 1),
            store.get_global(value),
            store.list_keys("run", prefix=value),
        ):
            with pytest.raises(InvalidKeyError):
                await call
    assert await store.list_keys("run") == []
    assert await store.get_global("", "nothing") == "nothing"


async def test_a_uuid_and_its_string_name_the_same_output(store: Any) -> None:
    await store.put(ID, ID, 1)
    await store.upsert_global(ID, 2)
    assert await store.get(str(ID), str(ID)) == 1
    assert await store.get(LyingUUID(int=ID.int), Liar(str(ID))) == 1
    assert await store.get_global(str(ID)) == 2
    assert await store.get(str(ID).upper(), ID) is None
    (key,) = await store.list_keys(ID)
    assert type(key) is str
    assert key == str(ID)


async def test_a_subclass_of_str_names_what_its_base_value_names(store: Any) -> None:
    await store.put(Liar("run"), Liar("node"), 1)
    await store.put_global(Liar("key"), 2)
    assert await store.get("run", "node") == 1
    assert await store.get(Liar("run"), Liar("node")) == 1
    assert await store.get(Liar("other"), Liar("node")) is None
    assert await store.get_global("key") == 2
    assert [type(key) for key in await store.list_keys("run")] == [str]


async def test_the_empty_global_key_is_one_of_its_own(store: Any) -> None:
    await store.put_global("", 1)
    await store.put_global(" ", 2)
    assert await store.get_global("") == 1
    assert await store.get_global(" ") == 2


async def test_forms_of_unicode_that_look_the_same_are_different_keys(store: Any) -> None:
    forms = sorted({unicodedata.normalize(form, "ñ\u212bﬁ") for form in ("NFC", "NFD", "NFKC", "NFKD")} | {"ñ\u212bﬁ"})
    assert len(forms) >= 4
    for form in forms:
        await store.put("run", form, form)
        await store.put_global(form, form)
    assert await store.list_keys("run") == forms
    for form in forms:
        assert await store.get("run", form) == form
        assert await store.get_global(form) == form
    assert await store.list_keys("run", prefix="n") == [form for form in forms if form.startswith("n")]


async def test_keys_differ_by_case_and_by_spaces(store: Any) -> None:
    keys = sorted(["a", "A", " a", "a ", "a\n", "a\u00a0", "á", "a\u200b"])
    for key in keys:
        await store.put("run", key, key)
    assert await store.list_keys("run") == keys


# ------------------------------------------------------------------------------------------------------ new_flow_run_id


def stamp_of(text: str) -> int:
    """The 60 bits that rise: a millisecond and 12 bits of its fraction."""
    value = uuid.UUID(text).int
    return (value >> 80) << 12 | (value >> 64) & 0xFFF


def test_an_id_is_a_uuid_of_version_7_in_its_canonical_form_with_the_time_of_now() -> None:
    before = time.time_ns() // 1_000_000
    text = new_flow_run_id()
    value = uuid.UUID(text)
    assert type(text) is str
    assert str(value) == text == flow_run_key(text)
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert before <= value.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_rise_strictly_as_strings_and_as_uuids() -> None:
    ids = [new_flow_run_id() for _ in range(20_000)]
    assert ids == sorted(set(ids))
    assert [uuid.UUID(text).int for text in ids] == sorted(uuid.UUID(text).int for text in ids)
    assert {uuid.UUID(text).version for text in ids} == {7}


def test_ids_rise_strictly_in_each_of_many_threads_and_never_repeat() -> None:
    lists: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(len(lists))

    def make(mine: list[str]) -> None:
        start.wait()
        mine.extend(new_flow_run_id() for _ in range(2_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in lists]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(mine == sorted(mine) for mine in lists)
    made = [text for mine in lists for text in mine]
    assert len({stamp_of(text) for text in made}) == len(made)  # not by chance alone


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in nanoseconds, to be set; what was counted before is forgotten afterwards."""
    now = [time.time_ns()]
    monkeypatch.setattr(_keys, "_uuid7_last", _keys._uuid7_last)
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    return now


def test_ids_rise_when_the_clock_stands_still_or_is_set_back_and_follow_it_again(clock: list[int]) -> None:
    start = clock[0]
    ids = [new_flow_run_id() for _ in range(10_000)]  # more than the 12 bits of one millisecond
    for back in (1, 1_000_000, 3_600 * 10**9, start):
        clock[0] = start - back
        ids += [new_flow_run_id() for _ in range(10)]
    clock[0] = start + 60 * 10**9
    ids.append(new_flow_run_id())
    assert ids == sorted(set(ids))
    assert all((uuid.UUID(text).version, uuid.UUID(text).variant) == (7, uuid.RFC_4122) for text in ids)
    assert stamp_of(ids[-1]) >> 12 == clock[0] // 1_000_000


def test_no_thread_comes_between_the_last_id_and_the_next(clock: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(one: int, other: int) -> int:
        time.sleep(0.0001)
        return max(one, other)

    monkeypatch.setattr(_keys, "max", slowly, raising=False)
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_flow_run_id() for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({stamp_of(text) for text in made}) == 400


def test_two_moments_of_one_millisecond_make_different_stamps(clock: list[int]) -> None:
    start = clock[0] = clock[0] // 1_000_000 * 1_000_000 + 10**9
    first = stamp_of(new_flow_run_id())
    clock[0] = start + 999_999
    last = stamp_of(new_flow_run_id())
    assert (first & 0xFFF, last & 0xFFF) == (0, 0xFFF)
    assert first >> 12 == last >> 12 == start // 1_000_000


def test_ids_of_a_moment_differ_in_62_random_bits(clock: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tails = []
    for _ in range(64):
        monkeypatch.setattr(_keys, "_uuid7_last", 0)
        tails.append(uuid.UUID(new_flow_run_id()).int & (1 << 62) - 1)
    assert len(set(tails)) == 64
    assert all(any(tail >> bit & 1 for tail in tails) for bit in range(62))


FORK = """
import os, sys, threading
from contextstore import new_flow_run_id
from contextstore._values import keys as _keys

parent = [new_flow_run_id() for _ in range(100)]
_keys._uuid7_lock.acquire()          # as if another thread were in the middle of it
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(write, " ".join(new_flow_run_id() for _ in range(100)).encode())
    os._exit(0)
_keys._uuid7_lock.release()
os.close(write)
parent += [new_flow_run_id() for _ in range(100)]
with os.fdopen(read) as pipe:
    child = pipe.read().split()
assert os.waitpid(pid, 0)[1] == 0
assert len(child) == 100 and child == sorted(child) and child[0] > parent[99], child
assert len({*child, *parent}) == 300
assert parent == sorted(parent)
print("fine")
"""


def test_a_forked_child_makes_ids_of_its_own_even_if_the_lock_was_held_while_it_forked() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)
