"""Checks of the arguments of a call that are neither ids nor values: functions, seconds, counts.

Rules of this module: pure functions, of builtin types alone. An argument of another type is a ``TypeError``, one out of
its range a ``ValueError``; both name the parameter and say what it must be.
"""

from __future__ import annotations

import inspect
from typing import Literal, TypeAlias

ExistOk: TypeAlias = bool | Literal["keep"]
"""What a put makes of an output that is there already: refuse it, take an equal one for its own, or leave any alone."""

TAG_BYTES = 64
"""How long a tag may be."""


def check_exist_ok(exist_ok: object) -> ExistOk:
    if exist_ok is True or exist_ok is False:
        return exist_ok
    if not isinstance(exist_ok, str):
        raise TypeError(f"exist_ok must be True, False or 'keep', not {type(exist_ok).__name__}")
    if exist_ok != "keep":
        raise ValueError(f"exist_ok must be True, False or 'keep', not {exist_ok!r}")
    return "keep"


def check_tag(tag: object) -> str | None:
    """The tag as it is stored: a plain ``str`` that shows in any terminal, on one line."""
    if tag is None:
        return None
    if not isinstance(tag, str):
        raise TypeError(f"tag must be a str, not {type(tag).__name__}")
    if not 1 <= len(tag) <= TAG_BYTES or not (tag.isascii() and tag.isprintable()):
        raise ValueError(f"tag must be 1 to {TAG_BYTES} printable characters of ASCII, not {tag[:80]!r}")
    return str.__str__(tag)


def check_function(name: str, function: object) -> None:
    if not callable(function):
        kind = type(function).__name__
        raise TypeError(f"{name} must be a function, not {kind}: pass the function itself, not what it returns")


def check_plain_function(name: str, function: object) -> None:
    """For functions that neither face awaits."""
    check_function(name, function)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise TypeError(f"{name} must be a plain function, not a coroutine function: it is never awaited")


def check_flag(name: str, value: object) -> None:
    if type(value) is not bool:
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def check_seconds(name: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    if seconds != seconds:
        raise ValueError(f"{name} must be a number of seconds, not NaN")


def check_count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value
