"""Commands about runs as wholes: fork, delete, prune.

Rules of this module: what deletes asks first, and where nobody can answer it wants to be told ``--yes``. What stands
behind a command are calls of the store alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, Literal, TypeAlias

import typer

from .. import ContextStore, InvalidKeyError, PruneReport
from .._display.amounts import counted
from .._display.text import shown_id
from .._inspect import typed
from .call import Call
from .errors import NotFound, WrongUse, typed_into
from .options import App
from .output import complain
from .progress import QUIET, bar, interruption_is_told

_State: TypeAlias = Literal["open", "completed", "failed", "cancelled"]

YES = typer.Option("--yes", "-y", help="Do not ask.")


def add_to(app: App) -> None:
    app.command(
        "fork",
        "RUN",
        examples="""
            contextstore fork flows.db nightly-1
            contextstore fork flows.db nightly-1 --new-id nightly-1-again --node extract
        """,
    )(fork)
    app.command(
        "prune",
        examples="""
            contextstore prune flows.db --older-than 30d --dry-run
            contextstore prune flows.db --older-than 30d --yes
            contextstore prune flows.db --older-than 7d --state completed --state cancelled --yes
            contextstore prune flows.db
        """,
    )(prune)
    app.command(
        "delete",
        "RUN...",
        examples="""
            contextstore delete flows.db nightly-1 --node report --yes
            contextstore delete flows.db nightly-1 --prefix step- --yes
            contextstore delete flows.db nightly-1 nightly-2 --yes
            contextstore delete flows.db nightly-1 --forget --yes
            contextstore delete flows.db no-such-run --yes  # exit 1
        """,
    )(delete)


@dataclasses.dataclass(frozen=True)
class Forked:
    """A run that was made of another.

    Attributes:
        flow_run_id: the new run.
        forked_from: the run whose outputs it begins with.
    """

    flow_run_id: str
    forked_from: str


def fork(
    call: Call,
    new_id: Annotated[str | None, typer.Option("--new-id", metavar="ID", help="Of the new run; else one is made.")] = (
        None
    ),
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="NODE", help="Take this output along; may be repeated.")
    ] = None,
) -> None:
    """Make a new run that begins with the outputs of another.

    It prints the id of the new run. To re-run a flow from a node, take along what comes before it.
    """
    (run,) = call.words
    with call.written_to() as store:
        _refuse_unknown(store, [run])
        for name in node or ():
            if not store.exists(run, name):
                raise NotFound(f"run {shown_id(run)} has no output of node {shown_id(name)}; nothing was forked")
        new = store.fork_run(run, new_flow_run_id=new_id, node_ids=node or None)
    call.screen.result(Forked(new, run), lambda forked: [shown_id(forked.flow_run_id)])


@dataclasses.dataclass(frozen=True)
class Deleted:
    """A run that was deleted, or of which outputs were.

    Attributes:
        flow_run_id: its id.
        outputs: how many outputs were removed.
    """

    flow_run_id: str
    outputs: int


def delete(
    call: Call,
    forget: Annotated[
        bool, typer.Option("--forget", help="Leave no trace: their ids are new, and may be used anew.")
    ] = False,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE", help="Only this output of the run; may be repeated."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Only the run's outputs whose ids begin with it.")
    ] = None,
    yes: Annotated[bool, YES] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Delete runs, for good: with all of their outputs, and no writer can bring them back.

    With --node or --prefix only outputs of one run; their ids stay used up. It asks first; where nobody can answer,
    it wants --yes. Interrupted, the same command goes on.
    """
    runs = call.words
    if node or prefix is not None:
        _delete_outputs(call, _single_run(runs, node, prefix, forget=forget), node, prefix, yes=yes)
        return
    with call.written_to() as store:
        _refuse_unknown(store, runs)
        what = f"run {shown_id(runs[0])}" if len(runs) == 1 else f"these {counted(len(runs), 'run')}"
        ask(f"Delete {what}, for good{', and forget it all' if forget else ''}?", yes=yes)
        with bar("delete", "runs", quiet=quiet) as report:
            call.screen.results(_deleted(store, runs, report, forget=forget), partial(_deleted_lines, forget=forget))


def _deleted(store: ContextStore, runs: list[str], report: object, *, forget: bool) -> Iterator[Deleted]:
    for number, run in enumerate(runs, 1):
        with interruption_is_told(lambda: f"interrupted: {number - 1} of {len(runs)} runs are deleted"):  # noqa: B023 - called within
            yield Deleted(run, store.delete_run(run, forget=forget))
        if callable(report):
            report(number, len(runs))


def _deleted_lines(deleted: Iterable[Deleted], *, forget: bool) -> Iterator[str]:
    for one in deleted:
        done = "deleted and forgotten" if forget else "deleted"
        yield f"{shown_id(one.flow_run_id)}: {done}, with {counted(one.outputs, 'output')}"


def _single_run(runs: list[str], node: list[str] | None, prefix: str | None, *, forget: bool) -> str:
    """The run whose outputs are meant; refused is what cannot be meant of outputs."""
    if node and prefix is not None:
        raise WrongUse("either --node or --prefix says which outputs are meant")
    if forget:
        raise WrongUse("--forget is for whole runs: the ids of deleted outputs stay used up")
    if len(runs) > 1:
        raise WrongUse("--node and --prefix are for the outputs of one run")
    return runs[0]


def _delete_outputs(call: Call, run: str, nodes: list[str] | None, prefix: str | None, *, yes: bool) -> None:
    with call.written_to() as store:
        _refuse_unknown(store, [run])
        there = _there(store, run, nodes, prefix)
        # What is not there is told, and is no error: after an interruption the same command goes on.
        for missing in (node for node in dict.fromkeys(nodes or ()) if node not in there):
            call.screen.note(f"run {shown_id(run)} has no output of node {shown_id(missing)}")
        ask(f"Delete {counted(len(there), 'output')} of run {shown_id(run)}, for good?", yes=yes)
        with interruption_is_told(lambda: "interrupted: what was deleted so far stays so; the same command goes on"):
            outputs = store.delete_outputs(run, nodes or None, prefix=prefix)
    call.screen.results([Deleted(run, outputs)], _deleted_outputs_lines)


def _there(store: ContextStore, run: str, nodes: list[str] | None, prefix: str | None) -> set[str]:
    """Those of the outputs meant that are there, by their ids alone."""
    if prefix is not None:
        return set(store.list_keys(run, prefix=prefix))
    return {node for node in nodes or () if store.exists(run, node)}


def _deleted_outputs_lines(deleted: Iterable[Deleted]) -> Iterator[str]:
    return (f"{shown_id(one.flow_run_id)}: {counted(one.outputs, 'output')} deleted" for one in deleted)


def prune(
    call: Call,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Such as 30d, 12h, 90m, 1w, 1d12h.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only runs in this state; may be given several times."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Annotated[bool, YES] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Delete the runs that were last written to longer ago, and give the space back.

    A run whose id is the name of a lease that is held stays. What was deleted that long ago is forgotten,
    too. Globals stay, but nothing is left of deleted and expired ones. It looks first, and asks; where
    nobody can answer, it wants --yes. Interrupted, the same command goes on. Without --older-than no run is
    deleted, and nothing asked: it only finishes deletions that were interrupted, and clears away deleted
    and expired globals.
    """
    age = None if older_than is None else age_of(older_than)
    states = _states(state, age)
    yes = yes or age is None
    if dry_run:
        with call.looked_at() as store:
            call.screen.result(_prune(store, (age, states), "look", dry_run=True, quiet=quiet), _would_delete)
        return
    if not yes:
        refuse_if_nobody_answers()
    with call.written_to() as store:
        if not yes:
            plan = _prune(store, (age, states), "look", dry_run=True, quiet=quiet)
            for line in _would_delete(plan):
                complain(line)
            ask("Do it?", yes=False)
        with interruption_is_told(lambda: "interrupted: what was deleted so far stays so; the same command goes on"):
            report = _prune(store, (age, states), "prune", dry_run=False, quiet=quiet)
    call.screen.result(report, _has_deleted)


_STATES: tuple[_State, ...] = ("open", "completed", "failed", "cancelled")


def _states(named: list[str] | None, age: datetime.timedelta | None) -> tuple[_State, ...] | None:
    """Those that were named. None: any."""
    if not named:
        return None
    for state in named:
        if state not in _STATES:
            raise WrongUse(f"--state must be one of {', '.join(_STATES)}, not {state!r}")
    if age is None:
        raise WrongUse("--state says which of the runs --older-than deletes: pass that, too")
    return tuple(state for state in _STATES if state in named)


def _prune(
    store: ContextStore,
    which: tuple[datetime.timedelta | None, tuple[_State, ...] | None],
    title: str,
    *,
    dry_run: bool,
    quiet: bool,
) -> PruneReport:
    age, states = which
    with bar(title, "runs", quiet=quiet) as report:
        return store.prune(older_than=age, state=states, dry_run=dry_run, progress=report)


def _would_delete(report: PruneReport) -> Iterator[str]:
    yield f"would delete {_counted(report)}"


def _has_deleted(report: PruneReport) -> Iterator[str]:
    yield f"deleted {_counted(report)}"


def _counted(report: PruneReport) -> str:
    forgotten = f"; {counted(report.tombstones, 'deleted run')} forgotten" if report.tombstones else ""
    freed = f"; {counted(report.globals, 'deleted or expired global')} freed" if report.globals else ""
    size = f"{counted(report.outputs, 'output')}, {counted(report.bytes, 'byte')}"
    return f"{counted(report.runs, 'run')} with {size}{forgotten}{freed}"


# -- ages -------------------------------------------------------------------------------------------------------------


def age_of(text: str) -> datetime.timedelta:
    """The age that ``30d``, ``1.5h`` or ``1d12h`` means."""
    return span_of(text, "--older-than", "age")


def span_of(text: str, option: str, name: str = "span of time") -> datetime.timedelta:
    """The same for any option that takes one."""
    with typed_into(option):
        return typed.span_of(text, name)


# -- before anything is deleted ---------------------------------------------------------------------------------------


def _refuse_unknown(store: ContextStore, runs: Iterable[str]) -> None:
    """A deleted one is known: deleting it again removes what an interrupted deletion has left."""
    for run in filter(None, runs):  # of an empty one the call itself will complain
        try:
            store.list_runs(after=run, limit=1)
        except InvalidKeyError as error:
            raise NotFound(f"there is no run {shown_id(run)}; nothing was done") from error


def refuse_if_nobody_answers() -> None:
    if not sys.stdin.isatty():
        raise WrongUse("this deletes for good, and nobody is there to be asked: say --yes")


def ask(question: str, *, yes: bool) -> None:
    if not yes:
        refuse_if_nobody_answers()
        typer.confirm(question, abort=True, err=True)
