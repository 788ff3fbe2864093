"""Places within a value, as JSON Pointers (RFC 6901) name them: ``/rows/0/a~1b``.

Rules of this module: pure functions. A pointer that leads nowhere is told in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .folding import Path

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_ESCAPES = re.compile(r"~(.?)", re.DOTALL)
_MEANT = {"0": "~", "1": "/"}


def token_of(name: str | int) -> str:
    """A key, or a place in a list, as a pointer has it."""
    return str(name).replace("~", "~0").replace("/", "~1")


def pointer_of(path: Iterable[str | int]) -> str:
    """The pointer that leads along a path."""
    return "".join(f"/{token_of(name)}" for name in path)


def part_of(value: Any, pointer: str) -> tuple[Path, Any]:
    """The path that a pointer means, and what is there. Raises ``LookupError`` with a sentence."""
    if pointer and pointer[0] != "/":
        raise LookupError("a JSON Pointer is empty, or begins with a slash")
    path: list[str | int] = []
    for token in pointer.split("/")[1:]:
        name = _name_in(value, _ESCAPES.sub(_unescaped, token))
        value = value[name]
        path.append(name)
    return tuple(path), value


def _unescaped(found: re.Match[str]) -> str:
    try:
        return _MEANT[found[1]]
    except KeyError:
        raise LookupError("in a JSON Pointer a ~ is written ~0, and a slash within a key ~1") from None


def _name_in(value: Any, token: str) -> str | int:
    if isinstance(value, dict) and token in value:
        return token
    if isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
        return int(token)
    shown = token if len(token) <= 60 else token[:59] + "…"
    raise LookupError(f"there is no {shown!r} at that place of the value")
