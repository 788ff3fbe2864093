"""What an error is on the command line: an exit code, and one sentence on the standard error.

Rules of this module: decided by classes, never by a message. No sentence shows a password, nor what could be one:
what the user typed is hidden wherever it may hold one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import typer

from .. import errors
from .._display.text import escaped
from .._inspect.typed import Unclear

OK, NOT_FOUND, USAGE, CONFLICT, UNUSABLE, BUG, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130

MEANINGS = {
    OK: "done",
    NOT_FOUND: "not found, or not ok",
    USAGE: "what was asked for cannot be meant",
    CONFLICT: "refused: it is there already, deleted, or at another version or state",
    UNUSABLE: "the store cannot be used",
    BUG: "a bug in contextstore",
    INTERRUPTED: "interrupted",
}
"""Every exit code, and what it says."""


class CommandError(Exception):
    """An error of the command line's own, with its exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class NotFound(CommandError):  # noqa: N818 - it is an answer more than an error
    """What was asked for is not there."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, NOT_FOUND)


class WrongUse(CommandError):  # noqa: N818 - it says whose mistake it is
    """The words or options cannot be meant."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, USAGE)


@contextlib.contextmanager
def typed_into(option: str) -> Iterator[None]:
    """Whatever cannot be meant of what was typed behind an option is a wrong use of it."""
    try:
        yield
    except Unclear as error:
        raise WrongUse(f"{option} {error}") from error


TyperUsageError: type[Exception] = typer.BadParameter.__base__ or typer.BadParameter
"""The base of the errors that typer raises for arguments; it has no public name."""

_CODES: list[tuple[type[BaseException], int]] = [
    (errors.TargetExistsError, CONFLICT),
    (errors.StorageError, UNUSABLE),
    (errors.AlreadyExistsError, CONFLICT),
    (errors.OutputDeletedError, CONFLICT),
    (errors.GlobalAlreadyExistsError, CONFLICT),
    (errors.VersionConflictError, CONFLICT),
    (errors.RunDeletedError, CONFLICT),
    (errors.RunAlreadyExistsError, CONFLICT),
    (errors.RunStateConflictError, CONFLICT),
    (errors.InvalidKeyError, USAGE),
    (errors.SerializationError, USAGE),
    (errors.DeserializationError, UNUSABLE),
    (errors.ContextStoreError, UNUSABLE),
    (TimeoutError, NOT_FOUND),
    (OSError, UNUSABLE),
]


def exit_code_of(error: BaseException) -> int:
    """The exit code for an error, ``BUG`` where nothing here raises such a one on purpose."""
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, TyperUsageError):
        return USAGE
    if isinstance(error, ModuleNotFoundError):  # of an extra that the store asks for
        return UNUSABLE
    return next((code for kind, code in _CODES if isinstance(error, kind)), BUG)


def sentence_of(error: BaseException, typed: Iterable[str]) -> str:
    """What an error says, on one line and without a password.

    Args:
        typed: the words of the command line and of the environment, from which a password may have come.
    """
    if isinstance(error, TyperUsageError):
        text = error.format_message()  # type: ignore[attr-defined]  # all of these have it
        text = text.replace(": Value error, ", ": ")  # what the check beneath typer calls it, which no user knows
        if hasattr(error, "option_name"):  # there is none of that name
            text += " (words that begin with a dash go behind a --)"
    elif exit_code_of(error) == BUG:
        text = f"{type(error).__name__}: {error} (this is a bug in contextstore)"
    else:
        text = str(error) or type(error).__name__
    return escaped(hide(" ".join(text.split()), typed))


_WITH_SECRET = re.compile(r"://|password|passwd|pwd|secret|[^/@\s]+:[^@\s]*@|//.*@", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(://)[^/@\s]*@|((?:password|passwd|pwd|sslpassword)\s*=\s*)[^\s&;'\"]+", re.IGNORECASE)
_USER_AND_PASSWORD = re.compile(r"[^\s/:'\"]+:(?!//\*\*\*@)[^\s:]\S*@")
"""Also of a URL that was taken for a path, in which no ``://`` is left."""


def hide(text: str, typed: Iterable[str]) -> str:
    """The text without any word that was typed and may hold a password, and without credentials of any URL."""
    for word in sorted(filter(_WITH_SECRET.search, typed), key=len, reverse=True):
        for part in _forms_of(word):
            if len(part) > 3:
                text = text.replace(part, "***")
    text = _CREDENTIALS.sub(lambda match: f"{match[1]}***@" if match[1] else f"{match[2]}***", text)
    return _USER_AND_PASSWORD.sub("***@", text)


def _forms_of(word: str) -> list[str]:
    """In what forms a message may have a word: as it is, quoted, as a path, and the folders that this is in."""
    path = os.path.normpath(word)
    folders = itertools.takewhile(lambda one: "@" in one, (str(one) for one in pathlib.PurePath(path).parents))
    return [word, repr(word)[1:-1], word.partition("=")[2], " ".join(word.split()), path, *folders]
