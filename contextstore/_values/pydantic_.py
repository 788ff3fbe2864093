"""pydantic's models, to JSON and back.

Rules of this module: the one that imports pydantic, and only when it is handed one of pydantic's types, so that the
package works without it. The methods of a model are the caller's and may raise anything.
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
from .shapes import Shape, shape_of


class MisfitError(DeserializationError, ValueError):
    """Raised by functions that msgspec calls: it wraps a ValueError into an error of its own that knows the place."""


class TakeApartError(Exception):
    """Raised for a type that its library cannot read as a whole."""


# ------------------------------------------------------------------------------------------------------------- to JSON


def dumped(value: Any, default: Callable[[Any], Any] | None) -> Any:
    """The JSON form that a model gives of itself, with the numbers in it that JSON has not."""
    # fallback is passed only if there is one: a model_dump of the caller's may not have that parameter.
    more: dict[str, Any] = {} if default is None else {"fallback": default}
    try:
        made = value.model_dump(mode="json", **more)
        if _may_have_none(made):
            made = _with_lost_numbers(made, value.model_dump(**more))
    except Exception as error:  # a serializer of the model may raise anything
        raise RefusedError(f"{type(value).__name__}.model_dump raised {error!r}") from error
    return made


def _may_have_none(made: Any) -> bool:
    try:
        return b"null" in plain_json(made)
    except Exception:  # noqa: BLE001 - the walk, which comes next, finds out what is wrong with it
        return True


def _with_lost_numbers(made: Any, objects: Any) -> Any:
    """pydantic makes None of a NaN in a field without a type. Put it back, to be refused by name of its place."""
    root = [made]
    levels: list[tuple[Any, Any]] = [(root, [objects])]
    while levels:
        holder, source = levels.pop()
        steps = list(holder) if isinstance(holder, dict) else range(len(holder))
        sources = list(source.values()) if isinstance(source, dict) else list(source)
        if len(steps) != len(sources):  # a serializer of the model has made something else of it
            continue
        for step, item in zip(steps, sources, strict=True):
            if holder[step] is None and isinstance(item, float) and not math.isfinite(item):
                holder[step] = item
            elif isinstance(holder[step], dict | list) and isinstance(item, collections.abc.Collection):
                levels.append((holder[step], item))
    return root[0]


# ----------------------------------------------------------------------------------------------------------- from JSON

_OLD_PYDANTIC = tuple(f"2.{minor}." for minor in range(11))
"""They read fields by aliases alone. model_dump writes names, and such a field would silently be left out."""


def validated(value: Any, kind: Any) -> Any:
    """The object that a pydantic class makes of JSON."""
    import pydantic  # optional; a caller with such a type has it

    if pydantic.VERSION.startswith(_OLD_PYDANTIC):
        raise TakeApartError(f"it takes pydantic 2.11 or later, and here is {pydantic.VERSION}")
    if isinstance(value, bytes):
        raise MisfitError("$", f"Expected `{type_name(kind)}`, got `bytes`")
    try:
        validate = getattr(kind, "model_validate_json", None) or pydantic.TypeAdapter(kind).validate_json
        shape = shape_of(kind)
        has_computed = None if shape is None else shape.has_computed
        if has_computed or (has_computed is None and _has_computed(kind, set())):
            value = _without_computed(value, kind)
        # From JSON, since a strict model takes less from Python objects. By the names of the fields as well, since
        # model_dump writes those, not the aliases.
        return validate(orjson.dumps(value), by_alias=True, by_name=True)
    except pydantic.ValidationError as error:
        raise _misfit(error.errors(include_url=False, include_context=False)[0], value) from error


def _misfit(first: Any, value: Any) -> MisfitError:
    """An error of ours for the first one that pydantic has found in the value."""
    path, problem = "$", first["msg"]
    for step in first["loc"]:
        members = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(members, dict) and step in members:
            path, value = member_path(path, step), members[step]
        else:  # a missing field, or the member of a union that pydantic has tried
            problem += f" ({step})"
    return MisfitError(path, problem)


# ----------------------------------------------------------------------------------------------------- computed fields


def _shape_of_model(kind: Any) -> Shape | None:
    return shape_of(kind) if isinstance(kind, type) and hasattr(kind, "model_fields") else None


def _has_computed(kind: Any, seen: set[int]) -> bool:
    """Whether a model with computed fields is anywhere in what a type says."""
    shape = _shape_of_model(kind)
    if shape is None:
        return any(_has_computed(arg, seen) for arg in typing.get_args(kind))
    if shape.has_computed is not None:
        return shape.has_computed
    if id(kind) in seen:
        return False
    seen.add(id(kind))
    found = bool(kind.model_computed_fields) or any(_has_computed(field, seen) for field in shape.types().values())
    # A no is not final for a model within others that are still being looked at: it may lead back to one of them.
    if found or len(seen) == 1:
        shape.has_computed = found
    return found


def _without_computed(value: Any, kind: Any) -> Any:
    """The JSON without the computed fields that a dump has.

    A model that forbids extra fields would refuse them, and one that allows extra fields would keep them. They are
    looked for where fields are declared as models, or as containers or unions of models.
    """
    if isinstance(value, list):
        return _items_without_computed(value, kind)
    if isinstance(value, dict):
        return _members_without_computed(value, kind)
    return value


def _items_without_computed(value: list[Any], kind: Any) -> list[Any]:
    args = typing.get_args(kind)
    kinds = args if typing.get_origin(kind) is tuple and args[1:] != (...,) else args[:1] * len(value)
    if len(kinds) != len(value):
        return value
    return [_without_computed(item, item_kind) for item, item_kind in zip(value, kinds, strict=True)]


def _members_without_computed(value: dict[str, Any], kind: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping) and len(args) == 2:
        return {key: _without_computed(item, args[1]) for key, item in value.items()}
    # For a union, or Annotated: the first model that writes these keys.
    written_by = (member for member in args if value.keys() <= _written_keys(member))
    shape = _shape_of_model(next(written_by, kind))
    if shape is None:
        return value
    computed, kinds = _computed_keys(shape), shape.types()
    return {key: _without_computed(item, kinds.get(key)) for key, item in value.items() if key not in computed}


def _computed_keys(shape: Shape) -> set[str]:
    computed = shape.owner.model_computed_fields
    return set(computed) | {field.alias for field in computed.values() if field.alias} - set(shape.names)


def _written_keys(kind: Any) -> set[str]:
    shape = _shape_of_model(kind)
    return set() if shape is None else set(shape.names) | _computed_keys(shape)
