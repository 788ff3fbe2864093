"""Commands that look at runs: ``show``, ``get``, ``watch``.

Rules of this module: every store is opened to be looked at. A list of runs loads no values; of a run each
value is loaded once, and kept in short.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .. import ContextStore, Output
from .._display.amounts import duration_words, iso, size_words
from .._display.brief import brief
from .._display.text import escaped, shown_id
from .._inspect.folding import tree
from .._inspect.runs import was_deleted
from .._inspect.timeline import Damaged, Mark, TimeLine, outputs, time_line
from ..errors import ContextStoreError
from .call import Call
from .columns import Column
from .errors import UNUSABLE, CommandError, NotFound, WrongUse
from .flow_runs import RUNS, run_lines, show_runs
from .options import App
from .values import json_of, print_raw, value_lines

OUTPUTS = 1000
"""How many are shown if nothing else is asked for."""

_TRACK = 16
_BRIEF = 60
_BRIEF_ON_A_TERMINAL = 300

Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only ids that begin with it.")]
After = Annotated[str | None, typer.Option("--after", metavar="ID", help="Only what comes behind this id in the list.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="Of a run's outputs the last ids first.")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help=f"How many at most; else {RUNS} runs, or {OUTPUTS} outputs."),
]


def add_to(app: App) -> None:
    """Add the commands of this room."""
    app.command("show", "[RUN] [NODE]", examples=_SHOW)(show)
    app.command("get", "RUN NODE", examples=_GET)(get)
    app.command("watch", "[RUN]", examples=_WATCH)(watch)


_SHOW = """
    contextstore flows.db
    contextstore flows.db --prefix nightly- --limit 20 --time iso
    contextstore flows.db nightly-1
    contextstore flows.db nightly-1 --prefix step- --reverse --limit 10
    contextstore flows.db nightly-1 extract
    contextstore show flows.db --output jsonl
    contextstore show --store flows.db nightly-1 --json
"""


def show(call: Call, prefix: Prefix = "", after: After = None, limit: Limit = None, reverse: Reverse = False) -> None:
    """Show the runs of a store, the outputs of a run, or one output.

    It is what is meant where the first word is no command. Runs come newest first; the outputs of a run in the order in
    which they were written (as JSON: by node id, with their whole values). Nothing in the store is changed.
    """
    run, node = call.optional
    if node is not None and (prefix or after is not None or limit is not None or reverse):
        raise WrongUse("--prefix, --after, --limit and --reverse are for lists, and one output is none")
    if run is None and reverse:
        raise WrongUse("--reverse is for the outputs of a run: name one")
    with call.looked_at() as store:
        if run is None:
            show_runs(call, store, prefix, after, limit or RUNS)
        elif node is None:
            _show_run(call, store, run, prefix, after, limit or OUTPUTS, reverse)
        else:
            call.screen.result(_output(store, run, node), lambda output: _output_lines(call, output))


def _show_run(
    call: Call, store: ContextStore, run: str, prefix: str, after: str | None, limit: int, reverse: bool
) -> None:
    info = None if prefix or after is not None else store.get_run_info(run)
    if call.screen.is_text:
        if info is not None:
            call.screen.lines(run_lines(call, info))
        most = _brief_length(call)
        line = time_line(store, run, prefix=prefix, after=after, limit=limit, reverse=reverse, most=most)
        is_empty, next_after = not line.marks, line.next_after
        damaged = sum(mark.written_at is None for mark in line.marks)
        if not is_empty:
            call.screen.lines(_time_line_lines(call, line))
    else:
        page = _Page(outputs(store, run, prefix=prefix, after=after, reverse=reverse), limit)
        is_empty = page.is_empty
        if not is_empty or info is not None:
            call.screen.results(page, lambda _: [])
        next_after, damaged = page.next_after, page.damaged
    if is_empty and info is None:
        raise _no_outputs(store, run, is_part=bool(prefix or after))
    if is_empty:
        call.screen.note(f"run {run!r} has no outputs yet")
    _tell_of_more(call, next_after)
    if damaged:
        raise CommandError(f"{damaged} of these outputs are damaged: check tells more", UNUSABLE)


class _Page:
    """At most so many outputs, one after the other, and whether there are more."""

    def __init__(self, all_outputs: Iterator[Output | Damaged], limit: int) -> None:
        first = next(all_outputs, None)
        self.is_empty = first is None
        self.next_after: str | None = None
        self.damaged = 0
        self._left = all_outputs if first is None else itertools.chain([first], all_outputs)
        self._limit = limit

    def __iter__(self) -> Iterator[Output | Damaged]:
        last = None
        for number, output in enumerate(self._left):
            if number == self._limit:
                self.next_after = last
                return
            self.damaged += isinstance(output, Damaged)
            last = output.node_id
            yield output


def _brief_length(call: Call) -> int:
    return _BRIEF_ON_A_TERMINAL if call.screen.is_terminal else _BRIEF


def _time_line_lines(call: Call, line: TimeLine) -> Iterator[str]:
    columns = [
        Column("NODE"),
        Column("WRITTEN"),
        Column("GAP", least=0, to_the_right=True),
        Column("TIME LINE", least=0),
        Column("SIZE", to_the_right=True),
        Column("VALUE", least=8),
    ]
    titles, *lines = call.screen.table(columns, [_row(call, mark) for mark in line.marks])
    yield titles
    for mark, text in zip(line.marks, lines, strict=True):
        yield call.screen.styled(text, "31") if mark.written_at is None or mark.failed else text


def _row(call: Call, mark: Mark) -> tuple[str, ...]:
    if mark.written_at is None:
        return shown_id(mark.node_id), "?", "", "", "?", escaped(mark.value)
    at = round(mark.position * (_TRACK - 1))
    track = "·" * at + ("×" if mark.failed else "●") + "·" * (_TRACK - 1 - at)  # noqa: RUF001 - it marks what failed
    return (
        shown_id(mark.node_id),
        call.when(mark.written_at),
        "+" + duration_words(mark.gap),
        track,
        "" if mark.size is None else size_words(mark.size),
        escaped(mark.value) if mark.failed else mark.value,
    )


def _tell_of_more(call: Call, next_after: str | None) -> None:
    if next_after is not None:
        call.screen.note(f"there are more: go on with --after {shown_id(next_after)}")


def _no_outputs(store: ContextStore, run: str, *, is_part: bool) -> NotFound:
    if is_part:
        return NotFound(f"run {run!r} has no outputs there")
    if was_deleted(store, run):
        return NotFound(f"run {run!r} was deleted")
    return NotFound(f"there is no run {run!r}")


def _output(store: ContextStore, run: str, node: str) -> Output:
    output = store.get_entry(run, node)
    if output is not None:
        return output
    if store.get_run_info(run) is not None:
        raise NotFound(f"node {node!r} of run {run!r} has no output")
    raise _no_outputs(store, run, is_part=False)


def _output_lines(call: Call, output: Output) -> Iterator[str]:
    tag = "" if output.tag is None else f", {output.tag}"
    facts = f"{call.when(output.written_at)}, {size_words(output.size)}{tag}"
    title = f"{shown_id(output.flow_run_id)}  {shown_id(output.node_id)}"
    yield f"{title}  {call.screen.styled(facts, '2')}"
    yield from value_lines(call.screen, output.value, _folded)


def _folded(value: Any) -> Iterator[str]:
    """A value of too many lines: what is left out is told, and ``get`` prints it whole."""
    yield "(folded: get prints it whole)"
    for branch in tree(value):
        name = "" if branch.name is None else f"{escaped(str(branch.name))}: "
        count = f"  ({branch.children})" if branch.is_folded else ""
        yield f"{'  ' * branch.depth}{name}{branch.text}{count}"


_GET = """
    contextstore get flows.db nightly-1 extract
    contextstore get flows.db nightly-1 report > report.bin
    contextstore get flows.db nightly-1 missing --default null
    contextstore get --store flows.db nightly-1 extract --json
"""


def get(
    call: Call,
    default: Annotated[
        str | None, typer.Option("--default", metavar="JSON", help="What to print where nothing is written.")
    ] = None,
) -> None:
    """Print the value of an output, and nothing else.

    JSON is printed on a line, bytes are written as they are (not to a terminal: see show). With --output json or jsonl:
    the output with its time and size, as show prints it.
    """
    run, node = call.words
    fallback = None if default is None else json_of(default, "--default")
    with call.looked_at() as store:
        if default is not None and not store.exists(run, node):
            call.screen.lines([call.screen.json(fallback)])
            return
        output = _output(store, run, node)
        if call.screen.is_text:
            print_raw(call.screen, output.value)
        else:
            call.screen.result(output, lambda _: [])


_WATCH = """
    contextstore watch flows.db nightly-1 --until report
    contextstore watch flows.db nightly-1 --until report --output jsonl
    contextstore watch flows.db --prefix report --output jsonl  # until Ctrl-C
    contextstore watch flows.db --after CURSOR  # until Ctrl-C
"""


def watch(
    call: Call,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only nodes whose ids begin with it, and that of --until.")
    ] = "",
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="CURSOR", help="Only what comes behind an output, by its cursor in the JSON."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="NODE", help="End once this one of the run is written.")
    ] = None,
) -> None:
    """Follow a run, or all runs: the outputs so far, then each as it is written.

    In the order of the commits, whichever process makes them. It goes on until Ctrl-C, or until the node of --until has
    its output. JSON is a line for each output, also with --output json, and has its cursor.
    """
    (run,) = call.optional
    if run is None and until is not None:
        raise WrongUse("--until names a node of one run, and RUN is missing")
    with call.looked_at() as store:
        if run is not None and next(outputs(store, run), None) is None and not was_deleted(store, run):
            call.screen.note(f"run {run!r} has no outputs yet: waiting for the first")
        watched = _watched(store, run, prefix, after, until)
        call.screen.live(watched, lambda found: (_watch_line(call, output, run) for output in found))


def _watched(
    store: ContextStore, run: str | None, prefix: str, after: str | None, until: str | None
) -> Iterator[Output]:
    with contextlib.closing(store.watch(run, prefix=prefix, after=after, until=until)) as watched:
        try:
            first = next(watched, None)
        except ValueError as error:
            if isinstance(error, ContextStoreError):
                raise
            raise WrongUse(f"--{error}") from error  # it begins with the name of the argument
        if first is not None:
            yield first
            yield from watched


def _watch_line(call: Call, output: Output, run: str | None) -> str:
    return "  ".join(
        [
            iso(output.written_at),  # an age would be "now" in each line
            *([shown_id(output.flow_run_id)] if run is None else []),
            shown_id(output.node_id),
            size_words(output.size),
            brief(output.value, _BRIEF),
        ]
    )
