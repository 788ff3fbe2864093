"""Commands about globals: ``globals list``, ``get``, ``set``, ``delete``, ``wait``.

Rules of this module: as those of ``looking`` and ``writing``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from .. import GlobalEntry
from .._display.amounts import counted
from .._display.brief import brief
from .._display.text import shown_id
from .call import Call
from .columns import Column
from .errors import NotFound, WrongUse
from .lifetime import YES, ask, refuse_if_nobody_answers, span_of
from .options import App
from .values import json_of, print_raw, value_of
from .writing import Bytes, Create, Text

KEYS = 100
_BRIEF = 60
_LONGEST = datetime.timedelta(days=3653)  # what the store takes for ten years


def add_to(app: App) -> None:
    """Add the commands of this room."""
    group = App("List, get, set, delete and wait for the globals of a store.")
    group.command("list", examples=_LIST)(list_keys)
    group.command("get", "KEY", examples=_GET)(get)
    group.command("set", "KEY JSON|-", examples=_SET)(set_key)
    group.command("delete", "[KEY]", examples=_DELETE)(delete)
    group.command("wait", "KEY", examples=_WAIT)(wait)
    app.group("globals", group, usual="list")


_LIST = """
    contextstore globals flows.db
    contextstore globals list flows.db --prefix feature. --json
    contextstore globals list flows.db --keys
"""


def list_keys(
    call: Call,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with it.")] = "",
    after: Annotated[str | None, typer.Option("--after", metavar="KEY", help="Only keys above this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")] = KEYS,
    keys: Annotated[bool, typer.Option("--keys", help="Only the keys: no values are read.")] = False,
) -> None:
    """List globals by key, with versions, and values in short.

    It is what is meant where no other command is named.
    """
    with call.looked_at() as store:
        if keys:
            names = store.list_global_keys(prefix, after=after, limit=limit + 1)
            call.screen.results(({"key": name} for name in names[:limit]), _keys)
        else:
            found = store.list_globals(prefix, after=after, limit=limit + 1)
            names = [entry.key for entry in found]
            call.screen.results(found[:limit], lambda entries: _lines(call, entries))
    if not names:
        call.screen.note("no globals")
    if len(names) > limit:
        call.screen.note(f"there are more: go on with --after {shown_id(names[limit - 1])}")


def _keys(listed: Iterable[dict[str, str]]) -> Iterable[str]:
    return (shown_id(one["key"]) for one in listed)


def _lines(call: Call, entries: Iterable[GlobalEntry]) -> list[str]:
    there = list(entries)
    columns = [Column("KEY"), Column("VERSION", to_the_right=True), Column("WRITTEN", least=0)]
    expire = any(entry.expires_at is not None for entry in there)
    if expire:
        columns.append(Column("EXPIRES", least=0))
    columns.append(Column("VALUE", least=8))
    rows = [_row(call, entry, expire) for entry in there]
    return call.screen.table(columns, rows) if rows else []


def _row(call: Call, entry: GlobalEntry, expire: bool) -> list[str]:
    row = [shown_id(entry.key), str(entry.version), call.when(entry.written_at)]
    if expire:
        row.append("" if entry.expires_at is None else call.when(entry.expires_at))
    return [*row, brief(entry.value, _BRIEF)]


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

    With --output json or jsonl also its version, when it was written, and when it expires.
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
    contextstore globals set flows.db seen.8f3a true --once --ttl 1d
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
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="SPAN", help="For how long it is there, such as 30d, 12h, 90m, 45s.")
    ] = None,
    create: Create = False,
) -> None:
    """Write a global, over what is there; prints its new version.

    Without --ttl it stays, also if it was there for a time only.
    """
    key, word = call.words
    lasts = None if ttl is None else _lasts(ttl)
    if once and expected_version is not None:
        raise WrongUse("--once and --expected-version exclude each other")
    value: Any = value_of(word, as_text=text, as_bytes=bytes)
    with call.written_to(create=create) as store:
        if once:
            store.put_global(key, value, ttl=lasts)
            entry = store.get_global_entry(key)
            version = 1 if entry is None else entry.version
        else:
            version = store.upsert_global(key, value, expected_version=expected_version, ttl=lasts)
    call.screen.result({"key": key, "version": version}, lambda _: [str(version)])


def _lasts(ttl: str) -> datetime.timedelta:
    lasts = span_of(ttl, "--ttl")
    if not datetime.timedelta(0) < lasts <= _LONGEST:
        raise WrongUse(f"--ttl {ttl!r} is not more than nothing and at most ten years")
    return lasts


_DELETE = """
    contextstore globals delete flows.db obsolete
    contextstore globals delete flows.db --prefix feature. --yes
"""


def delete(
    call: Call,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Instead of one: all that begin with it.")
    ] = None,
    yes: Annotated[bool, YES] = False,
) -> None:
    """Delete a global. Where there is none, the exit code is 1.

    With --prefix all whose keys begin with it, in one commit; it asks first, and where nobody can answer, it wants
    --yes.
    """
    (key,) = call.optional
    if prefix is not None and key is None:
        _delete_below(call, prefix, yes)
        return
    if key is None or prefix is not None:
        raise WrongUse("name either a key or a --prefix")
    with call.written_to() as store:
        was_there = store.delete_global(key)
    if not was_there:
        raise NotFound(f"there is no global {key!r}")
    call.screen.result({"key": key}, lambda _: [])


def _delete_below(call: Call, prefix: str, yes: bool) -> None:
    with call.written_to() as store:
        if not yes:
            refuse_if_nobody_answers()
            there = len(store.list_global_keys(prefix))
            ask(f"Delete {counted(there, 'global')}?", yes=False)
        deleted = store.delete_globals(prefix=prefix)
    result = {"prefix": prefix, "globals": deleted}
    call.screen.result(result, lambda _: [f"deleted {counted(deleted, 'global')}"])


_WAIT = """
    contextstore globals wait flows.db feature.fast --within 5s
    contextstore globals wait flows.db no-such-key --within 0s  # exit 1
"""


def wait(
    call: Call,
    after_version: Annotated[
        int, typer.Option("--after-version", metavar="N", min=0, help="Until it is above this version (0: there).")
    ] = 0,
    within: Annotated[
        str | None, typer.Option("--within", metavar="SPAN", help="Give up after so long, with exit code 1.")
    ] = None,
) -> None:
    """Wait until a global is there, written by any process, and print its value.

    With --output json or jsonl also its version, with which one goes on: --after-version waits for the next.
    """
    (key,) = call.words
    seconds = None if within is None else span_of(within, "--within").total_seconds()
    with call.looked_at() as store:
        entry = store.wait_for_global(key, after_version=after_version, timeout=seconds)
    if call.screen.is_text:
        print_raw(call.screen, entry.value)
    else:
        call.screen.result(entry, lambda _: [])
