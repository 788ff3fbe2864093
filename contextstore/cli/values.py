"""A user's values, on their way from a command line into a store and back.

Rules of this module: what is not understood is refused with the place where it is wrong, before a store is opened. No
value is changed on its way: what a lenient reader of JSON would take for something else is refused.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from .._display.hexadecimal import WIDTH, hex_rows
from .._inspect.typed import strict_json
from .errors import WrongUse
from .output import Screen

STDIN = "-"


def value_of(word: str, *, as_text: bool = False, as_bytes: bool = False) -> Any:
    """The value that a word means: JSON, or a text, or bytes; with ``-`` what comes on the standard input."""
    if as_text and as_bytes:
        raise WrongUse("--text and --bytes exclude each other")
    data = _stdin() if word == STDIN else os.fsencode(word)
    if as_bytes:
        return data
    where = "the standard input" if word == STDIN else "the value"
    text = _decoded(data, where)
    return text if as_text else json_of(text, where)


def _stdin() -> bytes:
    """What comes on the standard input, piece by piece: a Ctrl-C within one long read may pass unseen."""
    stream = cast("io.BufferedReader", sys.stdin.buffer)
    return b"".join(iter(lambda: stream.read1(2**16), b""))


def tag_of(word: str | None) -> str | None:
    """A tag that the store takes."""
    if word is not None and not (1 <= len(word) <= 64 and word.isascii() and word.isprintable()):
        raise WrongUse("--tag takes 1 to 64 printable characters of ASCII")
    return word


def json_of(text: str, where: str) -> Any:
    """The value of a JSON text.

    Args:
        where: what to call it in an error.
    """
    try:
        return strict_json(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        hint = " (--text stores it as it is, as a string)" if where != "the standard input" else ""
        raise WrongUse(f"{where} is not JSON: {error.msg} at {place}{hint}") from error
    except ValueError as error:  # of a number of too many digits, too
        raise WrongUse(f"{where} is not taken: {error}") from error
    except RecursionError as error:
        raise WrongUse(f"{where} is nested too deeply") from error


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is {data[error.start]:#04x}"
        raise WrongUse(f"{where} is not UTF-8: {found} (--bytes takes it as it is)") from error


def print_raw(screen: Screen, value: Any) -> None:
    """Print a value alone: JSON on a line, bytes as they are, but not to a terminal."""
    if not isinstance(value, bytes):
        screen.lines([screen.json(value)])
    elif screen.is_terminal:
        raise WrongUse(
            f"the value is {len(value)} bytes, which a terminal might take for commands: send them to a file with >, "
            "or see them with show"
        )
    else:
        screen.raw(value)


def value_lines(screen: Screen, value: Any, folded: Callable[[Any], Iterator[str]]) -> Iterator[str]:
    """A value for people: JSON over several lines, folded if that is too much; bytes in hexadecimal."""
    if isinstance(value, bytes):
        yield from _hex_lines(value)
        return
    lines = screen.json(value, indent=2).split("\n")
    yield from lines if len(lines) <= _MOST_LINES else folded(value)


_MOST_LINES = 400
_MOST_HEX = 64


def _hex_lines(data: bytes) -> Iterator[str]:
    yield from map(str, hex_rows(data, rows=_MOST_HEX))
    if len(data) > _MOST_HEX * WIDTH:
        yield f"… {len(data) - _MOST_HEX * WIDTH} more bytes"
