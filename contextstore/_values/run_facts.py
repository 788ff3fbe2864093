"""What a caller may say of a flow run, checked: its state, its attributes, its error.

Rules of this module: pure functions. What is refused is a ``TypeError`` or a ``ValueError`` that names it. What passes
is of builtin types alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .._results import RunState

STATES: tuple[RunState, ...] = ("open", "completed", "failed", "cancelled")
"""By the number under which they are stored."""
MAX_ATTRIBUTES = 64
"""How many a run has at most."""
NAME_BYTES = 256
VALUE_BYTES = 1024
ERROR_BYTES = 4096
"""How long the text of an error may be, as UTF-8."""
_INTEGERS = range(-(2**63), 2**64)
"""Those that JSON keeps here, as of values."""


def state_number(name: str, state: object) -> int:
    """The number under which a state is stored."""
    if not isinstance(state, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, STATES))}, not {type(state).__name__}")
    if state not in STATES:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, STATES))}, not {state!r}")
    return STATES.index(state)


def checked_attributes(attributes: object, *, may_remove: bool = False) -> dict[str, Any]:
    """With ``may_remove`` a value may be None."""
    if not isinstance(attributes, Mapping):
        raise TypeError(f"attributes must be a mapping of names to values, not {type(attributes).__name__}")
    checked: dict[str, Any] = {}
    for name, value in attributes.items():
        plain = _name(name)
        if plain in checked:  # two keys of classes of the caller's
            raise ValueError(f"attributes must have each name once, and {_shown(plain)} is there twice")
        checked[plain] = None if value is None and may_remove else _value(plain, value)
    count = sum(value is not None for value in checked.values())
    if count > MAX_ATTRIBUTES:
        raise ValueError(f"attributes must be at most {MAX_ATTRIBUTES}, not {count}")
    return checked


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"attributes must have names that are str, not {type(name).__name__} ({name!r:.80})")
    plain = str.__str__(name)
    _check_text(f"the name {_shown(plain)} of attributes", plain, NAME_BYTES)
    return plain


def _value(name: str, value: object) -> str | int | float | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = str.__str__(value)
        _check_text(f"attributes[{_shown(name)}]", text, VALUE_BYTES)
        return text
    if isinstance(value, int):
        number = int.__int__(value)
        if number not in _INTEGERS:
            raise ValueError(f"attributes[{_shown(name)}] must be an int from -2**63 to 2**64 - 1")
        return number
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"attributes[{_shown(name)}] must be a finite float, not {value!r}")
        return float.__float__(value)
    kind = type(value).__name__
    raise TypeError(f"attributes[{_shown(name)}] must be a str, an int, a float or a bool, not {kind}")


def _check_text(what: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate, which is not text") from None
    if size > most:
        raise ValueError(f"{what} has {size} bytes as UTF-8; {most} is the most")
    if "\0" in text:
        raise ValueError(f"{what} has a NUL character")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def checked_error(error: object) -> str:
    if not isinstance(error, str):
        raise TypeError(f"error must be a str, not {type(error).__name__}: pass str(error), or its traceback as text")
    return storable_text(str.__str__(error))


def storable_text(text: str) -> str:
    """The text of an error, whatever is in it, with at most so many bytes.

    What cannot be stored is written out, as ``repr`` does: that something failed is not to be lost by how it is told.
    """
    text = text[:ERROR_BYTES].replace("\0", "\\x00")
    return text.encode(errors="backslashreplace")[:ERROR_BYTES].decode(errors="ignore")
