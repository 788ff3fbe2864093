"""Commands about runs by what was said of them: ``runs``, ``attempts``, ``state``, ``leases``, ``update``.

Rules of this module: as those of ``looking`` and ``writing``. What a filter or an attribute means is decided here by
its form alone, before a store is opened.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from .. import Attempt, ContextStore, RunInfo, StateEntry
from .._display.amounts import duration_words
from .._display.brief import brief
from .._display.text import escaped, shown_id
from .._inspect import typed
from .._inspect.leases import lease_form
from .._inspect.runs import run_page, was_deleted
from .call import Call, now
from .columns import Column
from .errors import NotFound, WrongUse, typed_into
from .options import App
from .values import value_lines

RUNS = 100
"""How many are shown if nothing else is asked for."""

_BRIEF = 60


class State(StrEnum):
    open = "open"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


def add_to(app: App) -> None:
    """Add the commands of this room."""
    app.command("runs", examples=_RUNS)(runs)
    app.command("attempts", "RUN [NODE]", examples=_ATTEMPTS)(attempts)
    app.command("state", "RUN [KEY]", examples=_STATE)(state)
    app.command("leases", "[PREFIX]", examples=_LEASES)(leases)
    app.command("update", "RUN", examples=_UPDATE)(update)


_RUNS = """
    contextstore runs flows.db
    contextstore runs flows.db --state failed --limit 20
    contextstore runs flows.db --state open --oldest-first --output jsonl
    contextstore runs flows.db --attribute flow=nightly --attribute tries=3 --since 7d
    contextstore runs flows.db --parent nightly-1 --since 2026-01-01 --until 2026-02-01
"""

Attributes = Annotated[
    list[str] | None,
    typer.Option("--attribute", metavar="NAME=VALUE", help="A value is JSON, or else a text; may be repeated."),
]


def runs(
    call: Call,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only ids that begin with it.")] = "",
    state: Annotated[State | None, typer.Option("--state", help="Only runs in this state.")] = None,
    attribute: Attributes = None,
    parent: Annotated[str | None, typer.Option("--parent", metavar="RUN", help="Only children of this run.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only begun then or later: 2026-03-01T12:00Z, or 7d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only begun before; 7d is as long ago.")
    ] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="The oldest first, not the newest.")] = False,
    after: Annotated[
        str | None, typer.Option("--after", metavar="RUN", help="Only what comes behind this run in the list.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")] = RUNS,
) -> None:
    """List runs, those alone that fit: with their states, failures and attributes.

    The newest come first. A run that has no output yet is among them. An attribute is compared as JSON:
    --attribute day=1 is the number, --attribute 'day="1"' the text.
    """
    filters = {
        "state": None if state is None else state.value,
        "attributes": attributes_of(attribute) or None,
        "parent": parent,
        "since": time_of(since, "--since"),
        "until": time_of(until, "--until"),
    }
    given = {name: value for name, value in filters.items() if value is not None}
    with call.looked_at() as store:
        show_runs(call, store, prefix, after, limit, oldest_first=oldest_first, **given)


def show_runs(call: Call, store: ContextStore, prefix: str, after: str | None, limit: int, **filters: Any) -> None:
    """Print a page of runs, and say where the next one begins."""
    page = run_page(store, prefix=prefix, after=after, limit=limit, **filters)
    call.screen.results(page.runs, lambda found: _run_lines(call, list(found)))
    if not page.runs:
        is_filtered = any(value for value in filters.values())
        call.screen.note(
            "no runs"
            + (" behind that one" if after else "")
            + (" with that prefix" if prefix else "")
            + (" that fit" if is_filtered else "")
        )
    if page.next_after is not None:
        call.screen.note(f"there are more: go on with --after {shown_id(page.next_after)}")


def _run_lines(call: Call, found: Sequence[RunInfo]) -> list[str]:
    failures, attributes = any(run.failures for run in found), any(run.attributes for run in found)
    columns = [
        Column("RUN"),
        Column("STATE", least=0),
        Column("OUTPUTS", to_the_right=True),
        *([Column("FAILURES", to_the_right=True)] if failures else []),
        Column("FIRST", least=0),
        Column("LAST", least=0),
        *([Column("ATTRIBUTES", least=0)] if attributes else []),
    ]
    rows = [
        [
            shown_id(run.flow_run_id),
            run.state,
            str(run.outputs),
            *([str(run.failures)] if failures else []),
            _when(call, run, run.first_written_at),
            _when(call, run, run.last_written_at),
            *([attribute_words(run)] if attributes else []),
        ]
        for run in found
    ]
    return call.screen.table(columns, rows) if rows else []


def _when(call: Call, run: RunInfo, then: datetime.datetime | None) -> str:
    return call.when(then) if run.outputs or then is not None else "-"


def attribute_words(run: RunInfo) -> str:
    """Attributes as they are typed: a text stands without quotes where it cannot be taken for other JSON."""
    return " ".join(f"{shown_id(name)}={_attribute_text(value)}" for name, value in run.attributes.items())


def _attribute_text(value: str | float | bool) -> str:
    if isinstance(value, str) and value and " " not in value and shown_id(value) == value and not typed.is_json(value):
        return value
    return brief(value, _BRIEF)


def run_lines(call: Call, run: RunInfo) -> Iterator[str]:
    """What was said of a run; nothing, if nothing was."""
    if run.begun_at is None and run.state_changed_at is None and not (run.failures or run.attributes or run.parent):
        return
    facts = [run.state if run.state_changed_at is None else f"{run.state} {call.when(run.state_changed_at)}"]
    if run.begun_at is not None:
        facts.append(f"begun {call.when(run.begun_at)}")
    if run.failures:
        facts.append(f"{run.failures} failed attempt{'s' if run.failures > 1 else ''}")
    if run.parent is not None:
        facts.append(f"parent {shown_id(run.parent)}")
    yield f"{shown_id(run.flow_run_id)}  {call.screen.styled(', '.join(facts), '2')}"
    if run.attributes:
        yield attribute_words(run)
    if run.error is not None:
        yield call.screen.styled(escaped(run.error), "31")


_ATTEMPTS = """
    contextstore attempts flows.db nightly-1
    contextstore attempts flows.db nightly-1 extract --json
"""


def attempts(
    call: Call, failed: Annotated[bool, typer.Option("--failed", help="Only those that have failed.")] = False
) -> None:
    """Show the attempts of a run's steps, or of one node, and what they raised.

    They come by node and number. Of a node the newest hundred failures are kept. Outputs that no step has made
    have none.
    """
    run, node = call.words[0], call.optional[0]
    with call.looked_at() as store:
        info = existing(store, run)
        found = store.run(run).attempts(node)
    if failed:
        found = [attempt for attempt in found if attempt.error is not None]
    call.screen.results(found, lambda those: _attempt_lines(call, list(those)))
    if not found:
        call.screen.note("no attempts" if not (info.failures and failed) else "no attempts left of those that failed")


def _attempt_lines(call: Call, found: Sequence[Attempt]) -> Iterator[str]:
    if not found:
        return
    columns = [
        Column("NODE"),
        Column("NUMBER", to_the_right=True),
        Column("STARTED", least=0),
        Column("TOOK", to_the_right=True),
        Column("OUTCOME", least=8),
    ]
    rows = [
        [
            shown_id(attempt.node_id),
            str(attempt.number),
            call.when(attempt.started_at),
            duration_words((attempt.ended_at - attempt.started_at).total_seconds()),
            "output" if attempt.error is None else escaped(attempt.error),
        ]
        for attempt in found
    ]
    titles, *lines = call.screen.table(columns, rows)
    yield titles
    for attempt, line in zip(found, lines, strict=True):
        yield line if attempt.error is None else call.screen.styled(line, "31")


_STATE = """
    contextstore state flows.db nightly-1
    contextstore state flows.db nightly-1 --prefix cursor/ --json
    contextstore state flows.db nightly-1 position
"""


def state(
    call: Call,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with it.")] = "",
) -> None:
    """Show the state values of a run by key, with versions, or one of them."""
    run, key = call.words[0], call.optional[0]
    if key is not None and prefix:
        raise WrongUse("--prefix is for lists, and one value is none")
    with call.looked_at() as store:
        existing(store, run)
        found = store.run(run).list_state(prefix if key is None else key)
    if key is None:
        call.screen.results(found, lambda entries: _state_lines(call, list(entries)))
        if not found:
            call.screen.note("no state values" + (" with that prefix" if prefix else ""))
        return
    entry = next((one for one in found if one.key == key), None)
    if entry is None:
        raise NotFound(f"run {run!r} has no state value {key!r}")
    call.screen.result(entry, lambda one: value_lines(call.screen, one.value, lambda value: iter([brief(value, 1000)])))


def _state_lines(call: Call, entries: Sequence[StateEntry]) -> list[str]:
    columns = [
        Column("KEY"),
        Column("VERSION", to_the_right=True),
        Column("WRITTEN", least=0),
        Column("VALUE", least=8),
    ]
    rows = [
        [shown_id(entry.key), str(entry.version), call.when(entry.written_at), brief(entry.value, _BRIEF)]
        for entry in entries
    ]
    return call.screen.table(columns, rows) if rows else []


_LEASES = """
    contextstore leases flows.db
    contextstore leases flows.db nightly- --time iso
"""


def leases(call: Call) -> None:
    """Show the leases that are held: by whom, and until when unless they are renewed."""
    (prefix,) = call.optional
    with call.looked_at() as store:
        found = store.list_leases(prefix or "")
    call.screen.results((lease_form(lease) for lease in found), lambda _: _lease_lines(call, found))
    if not found:
        call.screen.note("no leases" + (" with that prefix" if prefix else ""))


def _lease_lines(call: Call, found: Sequence[Any]) -> list[str]:
    columns = [
        Column("LEASE"),
        Column("TOKEN", to_the_right=True),
        Column("EXPIRES", least=0),
        Column("HOLDER", least=8),
    ]
    rows = [
        [shown_id(lease.name), str(lease.token), call.when(lease.expires_at), escaped(lease.holder)] for lease in found
    ]
    return call.screen.table(columns, rows) if rows else []


_UPDATE = """
    contextstore update flows.db nightly-1 --state failed --error 'the source is gone'
    contextstore update flows.db nightly-1 --state open --expected-state failed --error ''
    contextstore update flows.db nightly-1 --attribute owner=ada --attribute note=null
"""


def update(
    call: Call,
    state: Annotated[State | None, typer.Option("--state", help="What it is from now on.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", metavar="NAME=VALUE", help="To set; null removes it; may be repeated."),
    ] = None,
    error: Annotated[
        str | None, typer.Option("--error", metavar="TEXT", help="What is said of its failure; '' clears it.")
    ] = None,
    expected_state: Annotated[
        State | None, typer.Option("--expected-state", help="Only if that is its state: else the exit code is 3.")
    ] = None,
) -> None:
    """End a run by hand, open it again, or change its attributes.

    A state is what is said of a run: a worker that holds it now is not stopped.
    """
    (run,) = call.words
    changes = attributes_of(attribute)
    if state is None and error is None and not changes:
        raise WrongUse("nothing is to be changed: give --state, --attribute or --error")
    with call.written_to() as store:
        existing(store, run)
        info = store.run(run).update(
            state=None if state is None else state.value,
            attributes=changes or None,
            error=error,
            expected_state=None if expected_state is None else expected_state.value,
        )
    call.screen.result(info, lambda changed: run_lines(call, changed))


# -- what words mean --------------------------------------------------------------------------------------------------


def existing(store: ContextStore, run: str) -> RunInfo:
    """A run that is there, with outputs or without."""
    info = store.get_run_info(run)
    if info is None:
        raise NotFound(f"run {run!r} was deleted" if was_deleted(store, run) else f"there is no run {run!r}")
    return info


def attributes_of(words: Iterable[str] | None) -> dict[str, Any]:
    """Attributes as they are typed: ``flow=nightly``, ``tries=3``, ``day="1"``."""
    with typed_into("--attribute"):
        return typed.attributes_of(words)


def time_of(text: str | None, option: str) -> datetime.datetime | None:
    """A time as it is typed: ISO 8601, in UTC where it says nothing else, or how long ago."""
    with typed_into(option):
        return None if text is None else typed.time_of(text, now())
