"""Commands about a store as a whole: how much there is in it, and whether it is well.

Rules of this module: each command is a call of the store, and the lines that show what it gave.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from .. import CheckReport, Problem
from .._display.amounts import counted, iso, size_words
from .._display.text import escaped
from .call import Call
from .errors import NOT_FOUND, CommandError
from .options import App
from .progress import QUIET, bar


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

    It counts all rows: about a second for a million outputs. JSON has also what stats() says of commits and of the
    cache; that is about this command's own process.
    """
    with call.looked_at() as store:
        call.screen.result(store.stats(), lambda record: _field_lines(record, _OF_THE_STORE))


_COUNTED = ("runs", "outputs", "globals", "tombstones", "value_bytes", "file_bytes", "wal_bytes")
_OF_THE_STORE = ("location", *_COUNTED, "engine")
"""Figures of this process would be taken for those of the store: it has made no commit."""


def _field_lines(record: Any, names: Sequence[str] = ()) -> Iterator[str]:
    names = names or [field.name for field in dataclasses.fields(record)]
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


def check(call: Call, quiet: Annotated[bool, QUIET] = False) -> None:
    """Look through a whole store for damage.

    Each problem is a line, and with any the exit code is 1. It reads every page and every value, while others go on
    reading and writing, and changes nothing.
    """
    with call.looked_at() as store, bar("check", "outputs and globals", quiet=quiet) as progress:
        report = store.check(progress=progress)
    call.screen.result(report, _report_lines)
    if not report.ok:
        found = counted(len(report.problems), "problem")
        raise CommandError(f"{found} {'was' if len(report.problems) == 1 else 'were'} found", NOT_FOUND)


def _place_of(problem: Problem) -> str:
    """Where it is, for the kinds whose message may leave that to the key."""
    match problem.kind, problem.key:
        case "output", (run, node):
            return f"node {node!r} of run {run!r}: "
        case (("global" | "run"), (name,)):
            return f"{name!r}: "
    return ""


def _report_lines(report: CheckReport) -> Iterator[str]:
    for problem in report.problems:
        yield escaped(f"{problem.kind}: {_place_of(problem)}{problem.message}")
    for note in report.notes:
        yield f"note: {escaped(note)}"
    counts = counted(report.runs, "run"), counted(report.outputs, "output"), counted(report.globals, "global")
    yield f"{', '.join(counts)}: {'ok' if report.ok else 'NOT OK'}"
