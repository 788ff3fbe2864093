"""Records as HTML, for notebooks.

Rules of this module: no I/O. What is shown is escaped here, so that an id with ``<script>`` in it stays text, and cut,
so that a notebook stays small.
"""

from __future__ import annotations

import dataclasses
import datetime
import html
from collections.abc import Iterable
from typing import Any

from .amounts import iso, size_words
from .brief import MORE, brief
from .text import escaped

_LONGEST = 1200
_MOST_ROWS = 50


def table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and what they stand for, all of it text."""
    lines = "".join(f'<tr><th style="text-align:left">{_text(a)}</th><td>{_text(b)}</td></tr>' for a, b in rows)
    return f"<table><caption>{_text(title)}</caption><tbody>{lines}</tbody></table>"


def record_table(record: Any) -> str:
    """The fields of a dataclass."""
    fields = ((field.name, getattr(record, field.name)) for field in dataclasses.fields(record))
    return table(type(record).__name__, (row for name, value in fields for row in _rows(name, value)))


def _rows(name: str, value: Any) -> Iterable[tuple[str, str]]:
    if name != "value" and isinstance(value, tuple | list):
        yield name, str(len(value))
        for number, one in enumerate(value[:_MOST_ROWS], 1):
            yield f"{name}[{number - 1}]", " · ".join(map(str, _facts(one)))
        if len(value) > _MOST_ROWS:
            yield MORE, f"{len(value) - _MOST_ROWS} more"
    else:
        yield name, _shown(name, value)


def _facts(one: Any) -> Iterable[Any]:
    if not dataclasses.is_dataclass(one):
        return (one,)
    return (getattr(one, field.name) for field in dataclasses.fields(one))


def _shown(name: str, value: Any) -> str:
    if name == "value":
        return brief(value, _LONGEST)
    if isinstance(value, datetime.datetime):
        return iso(value)
    if type(value) is int and (name == "size" or name.endswith("bytes")):
        return f"{value} ({size_words(value)})" if value >= 1024 else f"{value} B"
    return "" if value is None else str(value)


def _text(text: str) -> str:
    return html.escape(escaped(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + MORE))
