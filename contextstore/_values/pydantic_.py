"""pydantic's models, there and back.

Rules of this module: pydantic is imported by nobody but a caller who has one of its types.
"""

from __future__ import annotations

import collections.abc
import math
import typing
from collections.abc import Callable
from typing import Any

import orjson

from ..errors import DeserializationError
from .plain import plain_json
from .problems import RefusedError, member_path, type_name
from .shapes import is_pydantic, shape_of


class MisfitError(DeserializationError, ValueError):
    """Raised by what msgspec calls: it wraps a ValueError into one of its own that knows the place."""


class TakeApartError(Exception):
    """Raised for a type that its library cannot read as a whole."""


# --------------------------------------------------------------------------------------------------------------- there


def dumped(value: Any, default: Callable[[Any], Any] | None) -> Any:
    """What a model says that its JSON form is, with the numbers in it that JSON has not."""
    # Handed on only where there is one: a model_dump of the caller's own may not know it.
    more: dict[str, Any] = {} if default is None else {"fallback": default}
    try:
        made = value.model_dump(mode="json", **more)
        if _may_have_none(made):
            made = _with_lost_numbers(made, value.model_dump(**more))
    except Exception as error:  # a serializer of the model's own may raise anything
        raise RefusedError(f"{type(value).__name__}.model_dump raised {error!r}") from error
    return made


def _may_have_none(made: Any) -> bool:
    try:
        return b"null" in plain_json(made)
    except Exception:  # noqa: BLE001 - the walk that comes after this finds out what is wrong with it
        return True


def _with_lost_numbers(made: Any, objects: Any) -> Any:
    """pydantic makes None of a NaN in a field without a type. Put it back, to be refused by name of its place."""
    root = [made]
    levels: list[tuple[Any, Any]] = [(root, [objects])]
    while levels:
        holder, source = levels.pop()
        steps = list(holder) if isinstance(holder, dict) else range(len(holder))
        sources = list(source.values()) if isinstance(source, dict) else list(source)
        if len(steps) != len(sources):  # a serializer of the model's own has made something else of it
            continue
        for step, item in zip(steps, sources, strict=True):
            if holder[step] is None and isinstance(item, float) and not math.isfinite(item):
                holder[step] = item
            elif isinstance(holder[step], dict | list) and isinstance(item, collections.abc.Collection):
                levels.append((holder[step], item))
    return root[0]


# ---------------------------------------------------------------------------------------------------------------- back

# They read aliases alone, and would silently leave out a field of which model_dump has written the name.
_OLD_PYDANTIC = tuple(f"2.{minor}." for minor in range(11))


def validated(value: Any, kind: Any) -> Any:
    """What a pydantic class makes of JSON."""
    import pydantic  # optional; whoever has such a type has it

    if pydantic.VERSION.startswith(_OLD_PYDANTIC):
        raise TakeApartError(f"it takes pydantic 2.11 or later, and here is {pydantic.VERSION}")
    if isinstance(value, bytes):
        raise MisfitError("$", f"Expected `{type_name(kind)}`, got `bytes`")
    try:
        validate = getattr(kind, "model_validate_json", None) or pydantic.TypeAdapter(kind).validate_json
        # From JSON, since a strict model takes less from Python objects. By the names of the fields as well, since
        # model_dump writes those, not the aliases.
        shape = shape_of(kind)
        known = None if shape is None else shape.has_computed
        if known or (known is None and _has_computed(kind, set())):
            value = _without_computed(value, kind)
        return validate(orjson.dumps(value), by_alias=True, by_name=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path, problem = "$", first["msg"]
        for step in first["loc"]:
            members = dict(enumerate(value)) if isinstance(value, list) else value
            if isinstance(members, dict) and step in members:
                path, value = member_path(path, step), members[step]
            else:  # a field that is missing, or the member of a union that was tried
                problem += f" ({step})"
        raise MisfitError(path, problem) from error


def _has_computed(kind: Any, seen: set[int]) -> bool:
    """Whether a model with computed fields is anywhere in what a type says."""
    args = typing.get_args(kind)
    if args:
        return any(_has_computed(arg, seen) for arg in args)
    shape = shape_of(kind) if hasattr(kind, "model_fields") and isinstance(kind, type) else None
    if shape is None or id(kind) in seen:
        return False
    seen.add(id(kind))
    if shape.has_computed is None:
        found = bool(kind.model_computed_fields) or any(
            _has_computed(field.annotation, seen) for field in kind.model_fields.values()
        )
        if not found and len(seen) > 1:  # of those that are still being looked at, it is not known yet
            return False
        shape.has_computed = found
    return shape.has_computed


def _without_computed(value: Any, kind: Any) -> Any:
    """The JSON without computed fields, which a dump has; a model that forbids extras would refuse them, or keep them.

    Looked for where fields are declared as models, or as containers or unions of them.
    """
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if isinstance(value, list):
        kinds = args if origin is tuple and args[1:] != (...,) else args[:1] * len(value)
        if len(kinds) != len(value):
            return value
        return [_without_computed(item, item_kind) for item, item_kind in zip(value, kinds, strict=True)]
    if not isinstance(value, dict):
        return value
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping) and len(args) == 2:
        return {key: _without_computed(item, args[1]) for key, item in value.items()}
    if is_pydantic(origin) and hasattr(origin, "model_computed_fields"):
        return _fields_without_computed(value, origin)
    for member in args:  # of a union, or of Annotated: the first that would have written these keys
        if is_pydantic(member) and value.keys() <= _written_keys(member):
            return _fields_without_computed(value, member)
    return value


def _fields_without_computed(value: dict[str, Any], kind: Any) -> dict[str, Any]:
    computed = _computed_keys(kind)
    hints = {name: field.annotation for name, field in kind.model_fields.items()}
    return {key: _without_computed(item, hints.get(key)) for key, item in value.items() if key not in computed}


def _computed_keys(kind: Any) -> set[str]:
    computed = getattr(kind, "model_computed_fields", {})
    return set(computed) | {field.alias for field in computed.values() if field.alias} - set(kind.model_fields)


def _written_keys(kind: Any) -> set[str]:
    return set(getattr(kind, "model_fields", ())) | _computed_keys(kind) if hasattr(kind, "model_fields") else set()
