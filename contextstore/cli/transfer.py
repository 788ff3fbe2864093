"""Commands that make a store of another one: backup, restore, copy.

Rules of this module: each command is a call of the library, a bar, and the lines that show its result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Protocol

import typer

from .. import CopyReport, TargetExistsError, copy, export_records, restore
from .._display.amounts import counted
from .._display.text import escaped, shown_id
from .call import Call
from .errors import CONFLICT, CommandError, NotFound, WrongUse, hide
from .options import App
from .output import complain
from .progress import QUIET, bar, interruption_is_told


class Contents(Protocol):
    """A report of what was moved."""

    @property
    def runs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def globals(self) -> int: ...
    @property
    def tombstones(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Damaged(StrEnum):
    fail = "raise"
    skip = "skip"


def add_to(app: App) -> None:
    app.command(
        "backup",
        "PATH",
        files=True,
        examples="""
            contextstore backup flows.db flows-2026-03-01.db
            contextstore backup flows.db flows-2026-03-01.db  # exit 3
            contextstore backup flows.db flows-latest.db --overwrite
        """,
    )(backup)
    app.command(
        "restore",
        "BACKUP TARGET",
        store="",
        examples="""
            contextstore restore flows-2026-03-01.db drill.db
            contextstore restore flows-2026-03-01.db flows.db --overwrite
        """,
    )(restore_)
    app.command(
        "copy",
        "SRC DST",
        store="",
        examples="""
            contextstore copy flows.db new.db
            contextstore copy flows.db rescued.db --damaged skip
            contextstore copy flows.db some.db --run nightly-1 --run nightly-2
        """,
    )(copy_)


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A store's file that was made.

    Attributes:
        path: where it is.
        bytes: how large it is.
        verified: whether all of it was read again and found to be whole.
    """

    path: str
    bytes: int
    verified: bool


def backup(
    call: Call,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not verify it: half the time.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Copy a store in a file to another file, while it is in use.

    The copy is of one moment, and a store itself. It is there only once it is whole and verified:
    if anything is damaged, the command fails and leaves no copy. Of a store on a server: see copy.
    """
    path = file_named(call.words[0], "the backup")
    if call.place.target.startswith(("postgresql:", "postgres:")):
        raise WrongUse("a store on a server is no file: see contextstore copy, or the server's pg_dump")
    with (
        call.looked_at() as store,
        bar("backup", "pages", quiet=quiet) as report,
        _told_of_the_option(path, overwrite=overwrite),
    ):
        store.backup(path, check=not no_check, overwrite=overwrite, progress=report)
    call.screen.result(WrittenFile(hide(path, ()), os.stat(path).st_size, not no_check), _file_lines)


def restore_(
    call: Call,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store that is there.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Make a store of its backup, while no process has that store open.

    The backup is verified first, and takes the store's place in one step: until then, and if
    anything is wrong, the store is left as it was.
    """
    source, target = file_named(call.words[0], "the backup"), file_named(call.words[1], "the target")
    with bar("restore", "pages", quiet=quiet) as report, _told_of_the_option(target, overwrite=overwrite):
        restore(source, target, overwrite=overwrite, progress=report)
    call.screen.result(WrittenFile(hide(target, ()), os.stat(target).st_size, verified=True), _file_lines)


def file_named(word: str, what: str) -> str:
    """The path that a word is. What can only be meant for a server is none, though it could be made one."""
    if "://" in word or "password=" in word:
        raise WrongUse(f"{what} must be a file, and a server is named: see contextstore copy")
    return word


@contextlib.contextmanager
def _told_of_the_option(path: str, *, overwrite: bool) -> Iterator[None]:
    """What the library says of its own parameter is said of the option."""
    try:
        yield
    except TargetExistsError as error:
        if overwrite:
            raise
        raise CommandError(f"{path} is there already; --overwrite replaces a file", CONFLICT) from error


def _file_lines(file: WrittenFile) -> Iterator[str]:
    yield f"{escaped(file.path)}: {file.bytes:,} bytes, {'verified' if file.verified else 'not verified'}"


def copy_(
    call: Call,
    run: Annotated[list[str] | None, typer.Option("--run", metavar="RUN", help="Only this run; may be repeated.")] = (
        None
    ),
    damaged: Annotated[Damaged, typer.Option("--damaged", help="Stop at what is damaged, or leave it out.")] = (
        Damaged.fail
    ),
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Copy everything from one store to another, or some runs of it, and prove the two equal.

    Between files and servers (postgresql://...), with all times, versions and deleted runs. The other
    store is made if need be, and should be empty or hold an earlier copy. With --run it may hold
    anything else, and globals stay where they are. Interrupted, the same command goes on.
    """
    source, target = call.words
    if source == target:
        raise WrongUse("the two stores are the same")
    done, missing = 0, list[str]()

    with (
        call.store(source, "SRC", read_only=True) as one,
        call.store(target, "DST", create=True) as other,
        bar("copy", "runs and globals", quiet=quiet) as report,
        interruption_is_told(lambda: f"interrupted: {done:,} runs and globals are copied; the same command goes on"),
    ):

        def progress(number: int, total: int) -> None:
            nonlocal done
            done = number
            if report is not None:
                report(number, total)

        result = copy(one, other, runs=run, damaged=damaged.value, progress=progress)
        if run and result.runs + result.tombstones < len(set(run)):
            missing = [name for name in run if next(export_records(other, runs=[name]), None) is None]
    for problem in result.skipped:
        complain(f"left out: {problem.message}")
    call.screen.result(result, _copy_lines)
    if missing and not result.skipped:
        raise NotFound(f"there is no run {shown_id(missing[0])}; what else was asked for is copied")


def contents_lines(report: Contents, before: str = "") -> Iterator[str]:
    """How much a report says that there is."""
    counts = ((report.runs, "run"), (report.outputs, "output"), (report.globals, "global"), (report.bytes, "byte"))
    yield before + ", ".join(counted(number, what) for number, what in counts)
    if report.tombstones:
        yield counted(report.tombstones, "deleted run")


def _copy_lines(report: CopyReport) -> Iterator[str]:
    yield from contents_lines(report)
    if report.skipped:
        yield f"{len(report.skipped):,} left out, since damaged"
    yield f"both have the digest {report.digest}"
