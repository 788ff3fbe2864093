"""The quick way to JSON: for values of builtin types alone.

Rules of this room: it writes, or it raises. Which of the reasons it was is not told; _encoding finds out, slowly.
"""

from __future__ import annotations

import marshal
import re
from typing import Any

import msgspec
import orjson

MAX_DEPTH = 254  # what orjson writes; it reads 1,024

# Passed through to us instead of being written by orjson: it drops dataclass fields that begin with "_", and cuts the
# seconds off an offset. Subclasses: their base value is right, but only after a look at what they hold.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class NotPlainError(Exception):
    pass


def _refuse(value: Any) -> Any:
    raise NotPlainError


_look_through = msgspec.json.Encoder(enc_hook=_refuse).encode


def plain_json(value: Any) -> bytes:
    """The text of a value of builtin types; for any other, and for what JSON has not, an error of some kind."""
    # orjson alone is not safe: tuples nested some hundred deep overwrite its memory (3.13.0), an Enum member that is
    # its own value kills the process, and an orjson.Fragment is pasted in unread. marshal takes builtins alone,
    # exactly. Not taken: msgspec's encoder alone, which follows that Enum member for ever as well.
    letters = marshal.dumps(value)
    # orjson counts the levels of lists and dicts itself, so it is tuples that matter, in circles or deeper than it
    # takes. What happens to look like one costs a second look, no more; an expression that looks closer costs as much.
    if any(letter in letters for letter in _TUPLES) and _is_too_deep(_look_through(value)):
        raise NotPlainError
    data = orjson.dumps(value, option=_OPTIONS)
    # orjson writes NaN and the infinities as null.
    if b"null" in data and any(number.search(letters) for number in _NO_NUMBERS) and orjson.loads(data) != value:
        raise NotPlainError
    return data


# marshal's letters of tuples, large and small, each without and with the bit of what is referred to again,
_TUPLES = [b"(", b")", b"\xa8", b"\xa9"]
# and its floats that are no numbers.
_NO_NUMBERS = [re.compile(letter + rb".{6}[\xf0-\xff][\x7f\xff]", re.DOTALL) for letter in (b"g", b"\xe7")]
_ONLY_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


def _is_too_deep(data: bytes) -> bool:
    """Whether this JSON is nested deeper than MAX_DEPTH."""
    # Brackets within strings may raise a false alarm; to leave the strings out each time takes longer than all else.
    return _brackets_nest_too_deep(data) and _brackets_nest_too_deep(_STRING.sub(b"", data))


def _brackets_nest_too_deep(data: bytes) -> bool:
    if len(data) <= 2 * MAX_DEPTH:
        return False
    brackets = data.translate(_ONLY_BRACKETS, _NO_BRACKETS)
    if len(brackets) <= 2 * MAX_DEPTH:
        return False
    for _ in range(MAX_DEPTH):
        size = len(brackets)
        brackets = brackets.replace(b"[]", b"")  # the innermost level
        if len(brackets) == size:
            break
    return bool(brackets)


def sorted_json(data: bytes) -> bytes:
    return orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)
