"""A value in short: one line, of bounded length, whatever its size and depth.

Rules of this module: no more of a value is looked at than is shown. Only plain containers are walked into; the code of
a class runs for ``repr`` alone, where it may fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .text import escaped

MORE = "…"

_DEEPEST = 20
_LONGEST_NUMBER = 2**128
_BYTES = 16


class _Spelling(NamedTuple):
    """How what is no container is written."""

    string: Callable[[str], str]
    constants: dict[Any, str]
    data: Callable[[bytes], str]
    other: Callable[[Any], str]


def brief(value: Any, most: int = 60) -> str:
    """A value in short, as JSON has it; bytes in hexadecimal, with how many there are.

    Args:
        most: the greatest length of what is returned; what is cut off shows as "…".
    """
    return escaped(_cut(value, _JSON, most))


def brief_repr(value: Any, most: int = 1000) -> str:
    """A value in short, as Python writes it."""
    return _cut(value, _PYTHON, most)


def hex_head(data: bytes, most: int = _BYTES) -> str:
    """The first bytes in hexadecimal."""
    return data[:most].hex(" ") + (" " + MORE if len(data) > most else "")


def _cut(value: Any, spelling: _Spelling, most: int) -> str:
    text = ""
    for piece in _pieces(value, spelling, most, 0):
        text += piece
        if len(text) > most:
            return text[: max(most - 1, 0)] + MORE
    return text


def _pieces(value: Any, spelling: _Spelling, most: int, depth: int) -> Iterator[str]:
    kind = type(value)
    if kind is dict or kind is list or kind is tuple:
        if depth > _DEEPEST:
            yield MORE
        else:
            yield from _container(value, spelling, most, depth + 1)
    elif kind is str:
        yield spelling.string(value[: most + 1])
    elif kind is bytes:
        yield spelling.data(value)
    elif value is None or kind is bool:
        yield spelling.constants[value]
    elif kind is float or (kind is int and abs(value) < _LONGEST_NUMBER):
        yield repr(value)
    else:
        yield spelling.other(value)


def _container(value: Any, spelling: _Spelling, most: int, depth: int) -> Iterator[str]:
    is_dict = type(value) is dict
    yield "{" if is_dict else "(" if type(value) is tuple and spelling is _PYTHON else "["
    between = ""
    for one in value.items() if is_dict else value:
        yield between
        if is_dict:
            yield from _pieces(one[0], spelling, most, depth)
            yield ": "
        yield from _pieces(one[1] if is_dict else one, spelling, most, depth)
        between = ", "
    if type(value) is tuple and spelling is _PYTHON:
        yield ",)" if len(value) == 1 else ")"
    else:
        yield "}" if is_dict else "]"


def _of_class(value: Any) -> str:
    return f"<{type(value).__name__}>"


def _own_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a repr is asked for in the middle of a debugging: it never raises
        return _of_class(value)


_JSON = _Spelling(
    lambda text: json.dumps(text, ensure_ascii=False),
    {None: "null", True: "true", False: "false"},
    lambda data: f"{len(data)} bytes" + (f": {hex_head(data)}" if data else ""),
    _of_class,
)
_PYTHON = _Spelling(
    repr,
    {None: "None", True: "True", False: "False"},
    lambda data: repr(data) if len(data) <= _BYTES * 4 else f"<{len(data)} bytes: {hex_head(data)}>",
    _own_repr,
)
