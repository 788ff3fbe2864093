"""What a command prints: as text, as JSON, or as a line of JSON for each.

Rules of this module: it alone writes to the standard output. Nothing that is written moves the cursor: text comes
escaped, or is escaped here. When whoever reads has gone away, that is told by ``ReaderGone``, and is no error.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from .forms import form_of, json_text

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

    @property
    def is_text(self) -> bool:
        return self.form == "text"

    def result(self, result: Any, lines: Callable[[Any], Iterable[str]]) -> None:
        """Print one result: its JSON, or the lines of text that are made of it."""
        if self.is_text:
            self._print_all(lines(result))
        else:
            self.line(self.json(form_of(result)))

    def results(self, results: Iterable[T], lines: Callable[[Iterable[T]], Iterable[str]]) -> None:
        """Print several results: one after the other as they come, in JSON as one list."""
        if self.is_text:
            self._print_all(lines(results))
        elif self.form == "jsonl":
            self._print_all(self.json(form_of(result)) for result in results)
        else:
            self._print_all(self._list(results))

    def line(self, text: str) -> None:
        """Print a line, which has no line breaks and no control characters."""
        self._print_all([text])

    def json(self, form: Any, indent: int | None = None) -> str:
        return json_text(form, ascii_only=self.ascii_only, indent=indent)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        with _reader_gone_is_told():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _list(self, results: Iterable[Any]) -> Iterator[str]:
        """A JSON list, an element a line, so that it is never all in memory."""
        before = "["
        for result in results:
            yield before + self.json(form_of(result))
            before = ","
        yield "[]" if before == "[" else "]"

    def _print_all(self, lines: Iterable[str]) -> None:
        with _reader_gone_is_told():
            for line in lines:
                sys.stdout.write(line + "\n")
            sys.stdout.flush()


class _reader_gone_is_told:  # noqa: N801 - used as a function is
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from error


def let_go_of_stdout() -> None:
    """Let the interpreter's last flush go nowhere: the reader has gone, and that is not to be complained of."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(sentence: str) -> None:
    """Write a sentence to the standard error, if that is still there."""
    try:
        sys.stderr.write(f"contextstore: {sentence}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody is there to read it


def make_streams_safe() -> None:
    """Let no character that the streams cannot encode raise: it is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def now() -> datetime.datetime:
    """The time that ages are reckoned from."""
    return datetime.datetime.now(datetime.UTC)
