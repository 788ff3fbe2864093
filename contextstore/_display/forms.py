"""The results of calls as JSON: the names of their fields are the names of the result classes' attributes.

Rules of this module: pure functions. A value that is bytes stands under ``base64`` in place of ``value``, so that it is
never mistaken for JSON that looks like it. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
from typing import Any

from .text import escape_of


def form_of(result: Any) -> Any:
    """A result, or what is in one, as JSON."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return dict(_field(name, value) for name, value in fields.items())
    if isinstance(result, datetime.datetime):
        return result.isoformat()
    if isinstance(result, list | tuple):
        return [form_of(one) for one in result]
    return result


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name == "value":  # what a user has stored: JSON already, or bytes
        return ("base64", base64.b64encode(value).decode()) if isinstance(value, bytes) else (name, value)
    return name, form_of(value)


def json_text(form: Any, *, ascii_only: bool, indent: int | None = None) -> str:
    """The JSON text, in which nothing is that a terminal would not show as itself."""
    separators = (", ", ": ") if indent is None else (",", ": ")
    text = json.dumps(form, ensure_ascii=ascii_only, indent=indent, separators=separators, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else escape_of(one) for one in text)
