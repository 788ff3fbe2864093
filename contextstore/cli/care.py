"""Commands about a store as a whole: how much there is in it, and whether it is well.

Rules of this module: each command is a call of the store, and the lines that show what it gave.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

from .. import CheckReport
from .._display.amounts import iso, size_words
from .._display.text import escaped
from .call import Call
from .errors import NOT_FOUND, CommandError
from .options import App


def add_to(app: App) -> None:
    """Add the commands of this room."""
    app.command("stats", examples=_STATS)(stats)
    app.command("counters", examples=_COUNTERS)(counters)
    app.command("ping", examples=_PING)(ping)
    app.command("check", examples=_CHECK)(check)


_STATS = """
    contextstore stats flows.db
    contextstore stats flows.db --json
"""


def stats(call: Call) -> None:
    """Show how much there is in a store.

    It counts all rows: about a second for a million outputs. What is said of commits and of the cache is about this
    command's own process.
    """
    with call.looked_at() as store:
        call.screen.result(store.stats(), _field_lines)


def _field_lines(record: Any) -> Iterator[str]:
    names = [field.name for field in dataclasses.fields(record)]
    width = max(map(len, names))
    for name in names:
        value = getattr(record, name)
        words = f"  ({size_words(value)})" if name.endswith("bytes") and value >= 1024 else ""
        yield f"{name:{width}}  {escaped(_in_words(value))}{words}"


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    if isinstance(value, datetime.datetime):
        return iso(value)
    return "none" if value is None else str(value)


_COUNTERS = """
    contextstore counters flows.db
    contextstore counters flows.db --json
"""


def counters(call: Call) -> None:
    """Make one trip to a store and count what it took.

    That is calls, errors, waits and troubles. Counters are those of this command's own process: a running program asks
    its store for its own.
    """
    with call.looked_at() as store:
        store.ping()
        call.screen.result(store.counters(), _field_lines)


_PING = """
    contextstore ping flows.db
    contextstore ping flows.db --timeout 2 --json
"""


def ping(call: Call) -> None:
    """Make one trip to a store and show how long it took.

    Where the store cannot be reached, the exit code is 4.
    """
    with call.looked_at() as store:
        seconds = store.ping()
    call.screen.result({"seconds": seconds}, lambda _: [f"{seconds * 1000:.3f} ms"])


_CHECK = """
    contextstore check flows.db
    contextstore check flows.db --output jsonl
"""


def check(call: Call) -> None:
    """Look through a whole store for damage.

    Each problem is a line, and with any the exit code is 1. It reads every page and every value, while others go on
    reading and writing, and changes nothing.
    """
    with call.looked_at() as store:
        report = store.check()
    call.screen.result(report, _report_lines)
    if not report.ok:
        raise CommandError(f"{len(report.problems)} problems were found", NOT_FOUND)


def _report_lines(report: CheckReport) -> Iterator[str]:
    for problem in report.problems:
        yield f"{problem.kind}: {escaped(problem.message)}"
    for note in report.notes:
        yield f"note: {escaped(note)}"
    yield f"{report.runs} runs, {report.outputs} outputs, {report.globals} globals: {'ok' if report.ok else 'NOT OK'}"
