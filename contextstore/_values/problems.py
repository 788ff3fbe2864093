"""The messages for values that cannot be stored or read; hints for numpy's and others' classes, without their import.

Rules of this module: a value is judged by its type alone, since it may lie about itself. A message is one sentence:
what the value is, and what the caller can do. No library is imported for its classes: they are known by package and
name.
"""

from __future__ import annotations

import collections
import collections.abc
import datetime
import decimal
import enum
import functools
import itertools
import math
import os
import re
import typing
from typing import Any

from ..errors import SerializationError


class RefusedError(Exception):
    """There is no JSON form of a value. The walk, which knows the place, makes a ``SerializationError`` of it."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


def refused_at(steps: list[int | str], problem: str, start: str = "$") -> SerializationError:
    return SerializationError(_shortened(functools.reduce(member_path, steps, start)), problem)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def member_path(path: str, step: int | str) -> str:
    if isinstance(step, str) and len(step) <= 60 and _IDENTIFIER.fullmatch(step):
        return f"{path}.{step}"
    return f"{path}[{shown(step)}]"


def _shortened(path: str) -> str:
    return path if len(path) <= 500 else f"{path[:300]}...{path[-100:]}"


def shown(value: Any, most: int = 60) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a failing repr of the caller's class must not hide the message
        return f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


def type_name(kind: Any) -> str:
    if not isinstance(kind, type) or typing.get_origin(kind) is not None:
        return shown(kind, 200).replace("typing.", "")
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_NO_BYTES = "bytes are a value only as a whole, not within JSON; put bytes() of it on its own, or encode it (base64)"
_HINTS: dict[type, str] = {
    bytes: _NO_BYTES,
    bytearray: _NO_BYTES,
    memoryview: _NO_BYTES,
    tuple: "convert it with tuple()",
    collections.abc.Set: "convert it to a list",
    collections.abc.Iterator: "convert it to a list",
    collections.deque: "convert it to a list",
    collections.abc.Mapping: "convert it with dict()",
    decimal.Decimal: "convert it with str(), which keeps it exactly, or with float()",
    datetime.timedelta: "store its total_seconds()",
    os.PathLike: "convert it with str()",
    type: "it is a class, not an object of that class",
    enum.Enum: "its value is an Enum member again, and so on; give it a value that is JSON",
    float: "it is a subclass of float; convert it with float()",
}
# For classes of other libraries, by the package and the name of the class or of one of its bases. The hints prefer the
# library's own bytes: they are stored exactly, and hold the whole object with its types.
_NPY = "put its bytes on its own: file = io.BytesIO(); numpy.save(file, array, allow_pickle=False); put file.getvalue()"
_FOREIGN_HINTS: dict[tuple[str, str], str] = {
    ("numpy", "ndarray"): f"{_NPY}; or put its tolist()",
    ("numpy", "datetime64"): "convert it with its astype('datetime64[us]').item(), or with str()",
    ("numpy", "timedelta64"): "convert it with its astype('timedelta64[us]').item().total_seconds(), or with str()",
    ("pandas", "DataFrame"): "put its to_parquet(), which are bytes, on its own; or put its to_json()",
    ("pandas", "Series"): "put its to_frame().to_parquet(), which are bytes, on its own; or put its to_list()",
    ("pandas", "Index"): "put its to_list()",
    ("polars", "DataFrame"): (
        "put its bytes on its own: file = io.BytesIO(); frame.write_parquet(file); put file.getvalue()"
    ),
    ("polars", "LazyFrame"): "collect() it first",
    ("polars", "Series"): "put its to_list()",
    ("pyarrow", "Table"): "put its bytes on its own: pyarrow.parquet.write_table into an io.BytesIO()",
    ("torch", "Tensor"): "put its numpy() as bytes (numpy.save into an io.BytesIO()), or its tolist()",
}
_GENERAL_HINT = (
    "convert it to dict, list, str, int, float, bool or None, make it a dataclass, or give the store an encode_default "
    "that does so"
)


def why_not(value: Any) -> str:
    kind = type(value)
    try:
        hint = _hint(kind)
    except Exception:  # noqa: BLE001 - a metaclass of the caller's may raise at any question
        hint = _GENERAL_HINT
    return f"{type_name(kind)} is not JSON: {hint}"


def _hint(kind: type) -> str:
    foreign = (
        _FOREIGN_HINTS[name]
        for base in kind.__mro__
        if (name := (str(base.__module__).partition(".")[0], base.__name__)) in _FOREIGN_HINTS
    )
    hints = (hint for refused, hint in _HINTS.items() if issubclass(kind, refused))
    own = (f"store what its {method}() returns" for method in ("tolist", "to_dict") if hasattr(kind, method))
    return next(itertools.chain(foreign, hints, own, [_GENERAL_HINT]))


# ------------------------------------------------------------------------------------------------------ numpy's scalars


def is_numpy_scalar(kind: type) -> bool:
    return any(base.__name__ == "generic" and base.__module__ == "numpy" for base in kind.__mro__)


def python_scalar(value: Any) -> Any:
    """The bool, int, float or str that equals a scalar of numpy exactly. Raises ``RefusedError`` if there is none."""
    match value.dtype.kind:
        case "b":
            return bool(value)
        case "i" | "u":
            return int(value)
        case "U":
            return str.__str__(value)
        case "f":
            number = float(value)
            if number != value and not math.isnan(number):  # a longdouble
                raise RefusedError(
                    f"no float equals this {type_name(type(value))} exactly; convert it with float() or with str()"
                )
            return number
    raise RefusedError(why_not(value))
