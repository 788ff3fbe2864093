"""What a command prints: as text, as JSON, or as a line of JSON for each.

Rules of this module: it alone writes to the standard output. Nothing that is written moves the cursor: text comes
escaped, or is escaped here. When whoever reads has gone away, that is told by ``ReaderGone``, and is no error.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from .._display.forms import form_of, json_text
from .columns import Column, laid_out

T = TypeVar("T")

Form = Literal["text", "json", "jsonl"]


class ReaderGone(Exception):  # noqa: N818 - it is no error
    """Nobody reads the standard output any more, as behind ``| head -1``."""


class Screen:
    """The standard output of one command.

    Args:
        form: what is printed: text, one JSON document, or a line of JSON for each result.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        self.ascii_only = not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
        self.is_terminal = sys.stdout.isatty()
        self.has_colour = _has_colour(os.environ, self.is_terminal)

    @property
    def is_text(self) -> bool:
        return self.form == "text"

    @property
    def width(self) -> int | None:
        """How many columns a line may have; None where it is no terminal, and nothing is to be cut."""
        return shutil.get_terminal_size().columns if self.is_terminal else None

    def result(self, result: Any, lines: Callable[[Any], Iterable[str]]) -> None:
        """Print one result: its JSON, or the lines of text that are made of it."""
        self._print(lines(result) if self.is_text else [self.json(form_of(result))])

    def results(self, results: Iterable[T], lines: Callable[[Iterable[T]], Iterable[str]]) -> None:
        """Print several results, one after the other as they come; in JSON they are one list."""
        if self.is_text:
            self._print(lines(results))
        elif self.form == "jsonl":
            self._print(self.json(form_of(result)) for result in results)
        else:
            self._print(self._list(results))

    def live(self, results: Iterable[T], lines: Callable[[Iterable[T]], Iterable[str]]) -> None:
        """Print results that come over time, each at once. JSON is a line for each: a list would have no end."""
        as_json = (self.json(form_of(result)) for result in results)
        self._print(lines(results) if self.is_text else as_json, at_once=True)

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines of text, of which none has line breaks or control characters."""
        self._print(lines)

    def note(self, sentence: str) -> None:
        """Say something that is no result: on the standard error."""
        complain(sentence)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
        """Rows under the titles of their columns."""
        titles, *lines = laid_out(columns, rows, self.width)
        return [self.styled(titles, "2"), *lines]

    def styled(self, text: str, style: str) -> str:
        """The text in a colour or style (the number of ECMA-48's SGR), if there is to be any."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.has_colour else text

    def json(self, form: Any, indent: int | None = None) -> str:
        """The text of what is JSON."""
        return json_text(form, ascii_only=self.ascii_only, indent=indent)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        with _told_if_the_reader_is_gone():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _list(self, results: Iterable[Any]) -> Iterator[str]:
        """A JSON list, an element a line, so that it is never all in memory."""
        line = None
        for result in results:
            yield "[" if line is None else line + ","
            line = "  " + self.json(form_of(result))
        yield from ["[]"] if line is None else [line, "]"]

    def _print(self, lines: Iterable[str], *, at_once: bool = False) -> None:
        with _told_if_the_reader_is_gone():
            for line in lines:
                sys.stdout.write((line.translate(_IN_ASCII) if self.ascii_only else line) + "\n")
                if at_once:
                    sys.stdout.flush()
            sys.stdout.flush()


_IN_ASCII = str.maketrans({"…": "~", "●": "*", "×": "x", "·": ".", "─": "-"})  # noqa: RUF001 - that is what it is for


def _has_colour(environment: Mapping[str, str], is_terminal: bool) -> bool:
    """As no-color.org and force-color.org have it."""
    if environment.get("NO_COLOR"):
        return False
    return bool(environment.get("FORCE_COLOR")) or (is_terminal and environment.get("TERM") != "dumb")


@contextlib.contextmanager
def _told_if_the_reader_is_gone() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


def finish_stdout() -> None:
    """Write what is left; if it cannot be written, let it go nowhere.

    That was told by then, or is nothing to be told, as where the reader has gone. The interpreter would try again at
    its end, print a traceback, and change the exit code.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _let_go_of_stdout()


def _let_go_of_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def complain(sentence: str) -> None:
    """Write a sentence to the standard error, if that is still there."""
    try:
        sys.stderr.write(f"contextstore: {sentence}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody is there to read it


def make_streams_safe() -> None:
    """Let no character that a stream cannot encode raise: it is written as an escape.

    In the place of one that was closed is nothing, and not the next file that is opened, such as a store's.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
