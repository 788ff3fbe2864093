"""The filters of LangGraph's store: which values fit ``{"kind": "note", "score": {"$gte": 3}}``.

Rules of this module: no I/O. A filter is checked before anything is read, so that a wrong one is told whatever is
stored; what does not compare (a text with a list, a number with nothing) does not fit, and is no error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_EQUALITIES: dict[str, Callable[[Any, Any], bool]] = {"$eq": operator.eq, "$ne": operator.ne}


def check_filter(wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    """The filter in JSON's types, if it is one.

    Raises:
        TypeError, ValueError: no value could ever fit it, or an operator is unknown.
    """
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping):
        raise TypeError(f"a filter is a mapping of fields, not {type(wanted).__name__}")
    return {_field_name(field): _checked(condition) for field, condition in wanted.items()}


def fits(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a value fits a filter that was checked."""
    return all(_is_match(_field(value, field), condition) for field, condition in wanted.items())


def _field_name(field: object) -> str:
    if not isinstance(field, str):
        raise TypeError(f"the fields of a filter are texts, not {field!r}")
    return field


def _checked(condition: Any) -> Any:
    if condition is None or isinstance(condition, bool | int | float | str):
        return condition
    if isinstance(condition, list | tuple):
        return [_checked(part) for part in condition]
    if not isinstance(condition, Mapping):
        raise _no_json(condition)
    if not any(_field_name(name).startswith("$") for name in condition):
        return {name: _checked(part) for name, part in condition.items()}
    for name, bound in condition.items():
        if name in _ORDERS:
            if not isinstance(bound, int | float | str):
                raise TypeError(f"{name} compares with a number or a text, not with {bound!r}")
        elif name not in _EQUALITIES:
            raise ValueError(f"Unsupported operator: {name} (there are {', '.join([*_EQUALITIES, *_ORDERS])})")
    return {name: _plain(bound) for name, bound in condition.items()}


def _plain(bound: Any) -> Any:
    """What is compared as a whole: names that begin with ``$`` mean nothing in it."""
    if bound is None or isinstance(bound, bool | int | float | str):
        return bound
    if isinstance(bound, list | tuple):
        return [_plain(part) for part in bound]
    if isinstance(bound, Mapping):
        return {_field_name(name): _plain(part) for name, part in bound.items()}
    raise _no_json(bound)


def _no_json(condition: object) -> TypeError:
    return TypeError(
        f"a filter compares with what is stored, which is JSON, and {type(condition).__name__} is not: "
        "give the form in which it is stored"
    )


def _field(value: Mapping[str, Any], field: str) -> Any:
    """A field of a value; where there is none of that name, ``"user.name"`` is one within another."""
    if field in value or "." not in field:
        return value.get(field)
    inner: Any = value
    for part in field.split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return inner


def _is_match(value: Any, condition: Any) -> bool:
    if isinstance(condition, dict):
        if any(name.startswith("$") for name in condition):
            return all(_is_in_order(value, name, bound) for name, bound in condition.items())
        return isinstance(value, dict) and all(_is_match(value.get(name), part) for name, part in condition.items())
    if isinstance(condition, list):
        return (
            isinstance(value, list)
            and len(value) == len(condition)
            and all(_is_match(part, wanted) for part, wanted in zip(value, condition, strict=True))
        )
    return bool(value == condition)


def _is_in_order(value: Any, name: str, bound: Any) -> bool:
    if name in _EQUALITIES:
        return _EQUALITIES[name](value, bound)
    if isinstance(value, str) and isinstance(bound, str):
        return _ORDERS[name](value, bound)
    number, other = _number(value), _number(bound)
    return number is not None and other is not None and _ORDERS[name](number, other)


def _number(value: Any) -> float | None:
    """A number, also one that is written as a text, as LangGraph's own stores read it."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) else None
