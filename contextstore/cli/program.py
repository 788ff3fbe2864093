"""The run of a command line, from its words to its exit code.

Rules of this module: nothing gets past it but the exit code and one sentence; a traceback never does.
"""

from __future__ import annotations

import os

import typer

from .app import the_app
from .completion import with_command_in_completion
from .errors import INTERRUPTED, NOT_FOUND, OK, NotFound, exit_code_of, sentence_of
from .output import ReaderGone, complain, finish_stdout, make_streams_safe
from .words import VARIABLE, with_command


def run(words: list[str]) -> int:
    """Run a line, and say what went wrong. Returns the exit code."""
    make_streams_safe()
    code = _code_of(words)
    finish_stdout()
    return code


def _code_of(words: list[str]) -> int:
    try:
        return _run(words)
    except ReaderGone:
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort as error:  # typer's own for Ctrl-C, and for a question that was answered with no
        return INTERRUPTED if isinstance(error.__context__, KeyboardInterrupt) else NOT_FOUND
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told in a sentence
        complain(sentence_of(error, [*words, os.environ.get(VARIABLE, "")]))
        return exit_code_of(error)


def _run(words: list[str]) -> int:
    app = the_app()
    if any(name.endswith("_COMPLETE") and name.startswith("_") for name in os.environ):
        with_command_in_completion(os.environ, app.names, app.groups)
    line = with_command(words, app.names, app.groups)
    if not words and VARIABLE not in os.environ:
        line = ["--help"]
    try:
        code = app.program(line, prog_name="contextstore", standalone_mode=False)
    except NotFound as error:
        if line[1:] == words and words[1:2] and words[1] in app.names:  # no command was named, where one may be meant
            raise NotFound(f"{error} (a command comes first: contextstore {words[1]} …)") from error
        raise
    return code if isinstance(code, int) else OK
