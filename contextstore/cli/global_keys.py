"""Commands about globals: ``globals list``, ``get``, ``set``, ``delete``.

Rules of this module: as those of ``looking`` and ``writing``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from .. import GlobalEntry
from .._display.brief import brief
from .._display.text import shown_id
from .call import Call
from .columns import Column
from .errors import NotFound, WrongUse
from .options import App
from .values import json_of, print_raw, value_of
from .writing import Bytes, Create, Text

KEYS = 100
_BRIEF = 60


def add_to(app: App) -> None:
    """Add the commands of this room."""
    group = App("List, get, set and delete the globals of a store.")
    group.command("list", examples=_LIST)(list_keys)
    group.command("get", "KEY", examples=_GET)(get)
    group.command("set", "KEY JSON|-", examples=_SET)(set_key)
    group.command("delete", "KEY", examples=_DELETE)(delete)
    app.group("globals", group, usual="list")


_LIST = """
    contextstore globals flows.db
    contextstore globals list flows.db --prefix feature. --json
"""


def list_keys(
    call: Call,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with it.")] = "",
    after: Annotated[str | None, typer.Option("--after", metavar="KEY", help="Only keys above this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")] = KEYS,
) -> None:
    """List globals by key, with versions, and values in short.

    It is what is meant where no other command is named.
    """
    with call.looked_at() as store:
        found = store.list_globals(prefix, after=after, limit=limit + 1)
        page = found[:limit]
        call.screen.results(page, lambda entries: _lines(call, entries))
    if not page:
        call.screen.note("no globals")
    if len(found) > limit:
        call.screen.note(f"there are more: go on with --after {shown_id(page[-1].key)}")


def _lines(call: Call, entries: Iterable[GlobalEntry]) -> list[str]:
    columns = [
        Column("KEY"),
        Column("VERSION", to_the_right=True),
        Column("WRITTEN", least=0),
        Column("VALUE", least=8),
    ]
    rows = [
        (shown_id(entry.key), str(entry.version), call.when(entry.written_at), brief(entry.value, _BRIEF))
        for entry in entries
    ]
    return call.screen.table(columns, rows) if rows else []


_GET = """
    contextstore globals get flows.db feature.fast
    contextstore globals get flows.db feature.fast --json
    contextstore globals get flows.db none --default 0
"""


def get(
    call: Call,
    default: Annotated[
        str | None, typer.Option("--default", metavar="JSON", help="What to print where there is none.")
    ] = None,
) -> None:
    """Print the value of a global.

    With --output json or jsonl also its version, and when it was written.
    """
    (key,) = call.words
    fallback = None if default is None else json_of(default, "--default")
    with call.looked_at() as store:
        entry = store.get_global_entry(key)
    if entry is not None and not call.screen.is_text:
        call.screen.result(entry, lambda _: [])
    elif entry is not None:
        print_raw(call.screen, entry.value)
    elif default is not None:
        call.screen.lines([call.screen.json(fallback)])
    else:
        raise NotFound(f"there is no global {key!r}")


_SET = """
    contextstore globals set flows.db feature.fast true
    contextstore globals set flows.db feature.fast false --expected-version 2
    contextstore globals set flows.db started '"2026-01-01"' --once
    echo '{"rate": 5}' | contextstore globals set flows.db limits -
"""


def set_key(
    call: Call,
    text: Text = False,
    bytes: Bytes = False,
    once: Annotated[bool, typer.Option("--once", help="Only if it is not there: else the exit code is 3.")] = False,
    expected_version: Annotated[
        int | None,
        typer.Option(
            "--expected-version",
            metavar="N",
            min=0,
            help="Only at this version (0: not there); else the exit code is 3.",
        ),
    ] = None,
    create: Create = False,
) -> None:
    """Write a global, over what is there; prints its new version."""
    key, word = call.words
    if once and expected_version is not None:
        raise WrongUse("--once and --expected-version exclude each other")
    value: Any = value_of(word, as_text=text, as_bytes=bytes)
    with call.written_to(create=create) as store:
        if once:
            store.put_global(key, value)
            entry = store.get_global_entry(key)
            version = 1 if entry is None else entry.version
        else:
            version = store.upsert_global(key, value, expected_version=expected_version)
    call.screen.result({"key": key, "version": version}, lambda _: [str(version)])


_DELETE = """
    contextstore globals delete flows.db obsolete
"""


def delete(call: Call) -> None:
    """Delete a global. Where there is none, the exit code is 1."""
    (key,) = call.words
    with call.written_to() as store:
        was_there = store.delete_global(key)
    if not was_there:
        raise NotFound(f"there is no global {key!r}")
    call.screen.result({"key": key}, lambda _: [])
