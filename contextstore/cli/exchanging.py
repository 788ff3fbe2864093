"""Commands that write a store as lines of JSON, and make one of them: export, import.

Rules of this module: options in, lines out; files and streams are those of ``exchange``, and the format is that of
``ndjson``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, BinaryIO, cast

import typer

from .. import (
    AlreadyExistsError,
    ContextStore,
    CorruptStoreError,
    OutputDeletedError,
    Problem,
    RunAlreadyExistsError,
    RunDeletedError,
    VersionConflictError,
)
from .._display.amounts import counted
from .._display.text import escaped, shown_id
from .call import Call
from .errors import CONFLICT, NOT_FOUND, CommandError, NotFound, hide
from .exchange import Import, InChunks, selection_of, whole_file, write_export
from .ndjson import ExchangeError, Selection, Totals
from .options import App
from .output import complain
from .progress import QUIET, Report, bar, interruption_is_told
from .transfer import Damaged, contents_lines, file_named

_CONFLICTS = (AlreadyExistsError, OutputDeletedError, RunAlreadyExistsError, RunDeletedError, VersionConflictError)
_REPORT_EVERY = 100


def add_to(app: App) -> None:
    app.command(
        "export",
        examples="""
            contextstore export flows.db -o flows.ndjson
            contextstore export flows.db -o flows.ndjson.gz
            contextstore export flows.db --run nightly-1 --run nightly-2 --globals
            contextstore export flows.db --prefix nightly- | contextstore import new.db -
        """,
    )(export)
    app.command(
        "import",
        "FILE|-",
        files=True,
        examples="""
            contextstore import new.db flows.ndjson.gz
            contextstore import new.db flows.ndjson.gz --keep --json
            contextstore export flows.db | contextstore import new.db -
        """,
    )(import_)


# -- export -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Exported:
    """An export that was written to a file.

    Attributes:
        path: where it is.
        runs, outputs, globals, tombstones: how many of each are in it.
        bytes: bytes of all values, as they are stored.
        sha256: of all its records: the same for equal stores.
        skipped: how many were damaged, and left out.
    """

    path: str
    runs: int
    outputs: int
    globals: int
    tombstones: int
    bytes: int
    sha256: str
    skipped: int


def export(
    call: Call,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Where to; with .gz compressed.")] = "-",
    run: Annotated[list[str] | None, typer.Option("--run", metavar="RUN", help="Only this run; may be repeated.")] = (
        None
    ),
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only runs whose ids begin so.")] = "",
    globals: Annotated[
        bool | None, typer.Option("--globals/--no-globals", help="Globals, too. Usual, unless runs are selected.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    damaged: Annotated[Damaged, typer.Option("--damaged", help="Stop at what is damaged, or leave it out.")] = (
        Damaged.fail
    ),
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Write a store, or some of its runs, as lines of JSON: with all times, versions and digests.

    A file is there only once it is whole. The store may be in use; what is written meanwhile may or
    may not come along (a backup is of one moment).
    """
    selection = selection_of(run or (), prefix, globals)
    out = file_named(out, "the export")
    skipped = _Told("left out", damaged is Damaged.skip)
    to_terminal = out == "-" and sys.stdout.isatty()
    with call.looked_at() as store, bar("export", "records", quiet=quiet or to_terminal) as report:
        if out == "-":
            chunks = InChunks(call.screen.raw)
            _write(store, chunks.write, selection, skipped, report)
            chunks.flush()
            return
        with whole_file(out, overwrite=overwrite) as write:
            totals = _write(store, write, selection, skipped, report)
    counts = totals.runs, totals.outputs, totals.globals, totals.tombstones, totals.bytes, totals.sha256
    call.screen.result(Exported(hide(out, ()), *counts, skipped.count), _exported_lines)


def _write(
    store: ContextStore, write: Callable[[bytes], Any], selection: Selection, skipped: _Told, report: Report | None
) -> Totals:
    location, total = "", 0
    with contextlib.suppress(CorruptStoreError):
        stats = store.stats()
        location, total = stats.location, stats.runs + stats.outputs + stats.globals + stats.tombstones
    step = None if report is None else _every_so_often(report, lambda count: (count, _total_of(selection, total)))
    try:
        return write_export(store, write, location, selection, on_damaged=skipped.tell, step=step)
    except LookupError as error:
        raise NotFound(f"there is no run {shown_id(str(error.args[0]))}; the export was given up") from error


def _total_of(selection: Selection, everything: int) -> int:
    return everything if selection.runs is None and not selection.prefix else 0


def _exported_lines(report: Exported) -> Iterator[str]:
    yield from contents_lines(report, f"{escaped(report.path)}: ")
    if report.skipped:
        yield f"{report.skipped:,} left out, since damaged"
    yield f"sha256 {report.sha256}"


# -- import -----------------------------------------------------------------------------------------------------------


def import_(
    call: Call,
    keep: Annotated[bool, typer.Option("--keep", help="Leave out what conflicts, and go on; still exit 3.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Make a store of an export, or add to one what an export has; to do so twice changes nothing.

    Nothing that is there is replaced or deleted. A file is verified to its end before anything of it
    is imported. Of a pipe (-) each line is verified as it comes, and at its end whether it was whole.
    Interrupted, the same command goes on.
    """
    (path,) = call.words
    conflicts = _Told("not imported", keep)
    with _opened(path) as stream, bar("import", "bytes", quiet=quiet) as report:
        source = Import(stream)
        step = None if report is None else _every_so_often(report, lambda _: (source.done(), source.size or 0))
        try:
            source.verify(step)
            with (
                call.written_to(create=True) as store,
                interruption_is_told(lambda: "interrupted: what was imported stays; the same command goes on"),
            ):
                result = source.load(store, on_conflict=conflicts.tell, step=step)
        except ExchangeError as error:
            raise CommandError(_told_of(error, path, source), NOT_FOUND) from error
        except _CONFLICTS as error:
            sentence = f"{_conflict_words(error)} (what came before it is imported; --keep goes on)"
            raise CommandError(sentence, CONFLICT) from error
    call.screen.result(result, contents_lines)
    if result.conflicts:
        raise CommandError(
            f"{counted(result.conflicts, 'conflict')}: what is there stays, these were left out", CONFLICT
        )


def _conflict_words(error: Exception) -> str:
    """What the library advises after a compare-and-set is nothing that an import could do."""
    if isinstance(error, VersionConflictError):
        return f"global {error.key!r} of version {error.expected}: another one is here at version {error.actual}"
    return str(error)


def _told_of(error: ExchangeError, path: str, source: Import) -> str:
    name = "the export" if path == "-" else path
    after = "what came before may be imported: do it again with the whole export"
    return f"{name}, {error} ({after if source.has_begun else 'nothing was imported'})"


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield cast("BinaryIO", sys.stdin.buffer)
        return
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    with stream:
        yield stream


# -- both -------------------------------------------------------------------------------------------------------------


class _Told:
    """Says on the standard error what is left out, as it comes, however much it is."""

    def __init__(self, what: str, is_wanted: bool) -> None:
        self.count = 0
        self._what = what
        self.tell = self._say if is_wanted else None

    def _say(self, problem: Problem) -> None:
        self.count += 1
        complain(f"{self._what}: {escaped(problem.message)}")


def _every_so_often(report: Report, state: Callable[[int], tuple[int, int]]) -> Callable[[], None]:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count % _REPORT_EVERY == 0:
            report(*state(count))

    return step
