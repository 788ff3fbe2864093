"""The words of a command line: which is the command, which the store, and which the rest.

Rules of this module: pure functions of the words, the options and the environment. No file is looked at, so the same
line means the same wherever it is typed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from .errors import WrongUse

VARIABLE = "CONTEXTSTORE_URL"
FIRST_WORD = "the first word"

_LOOKS_LIKE_A_STORE = re.compile(r"\.{0,2}/|~/|.*\.(db3?|sqlite3?)$|.*://", re.IGNORECASE | re.DOTALL)
_WITH_VALUE = {"--store", "--output", "--time", "--timeout"}
_WITHOUT_VALUE = {"--json"}
_ALONE = {"--help", "--version", "--install-completion", "--show-completion"}


class Place(NamedTuple):
    """The store that a line names, and its other words."""

    target: str
    named_by: str
    """How the line named it, for messages; without the name itself, in which there may be a password."""
    words: list[str]


def looks_like_a_store(word: str) -> bool:
    """Whether the word is a path or URL by its look: ``/…``, ``./…``, ``~/…``, ``….db``, ``….sqlite``, ``…://…``."""
    return _LOOKS_LIKE_A_STORE.match(word) is not None


def place_of(words: Sequence[str], option: str | None, environment: Mapping[str, str], files: int = 0) -> Place:
    """Which store is meant.

    1. ``--store`` names it; then no word does.
    2. Else the first word does, if it looks like a store, or if the environment names none.
    3. Else the environment does.

    Args:
        files: how many words the command needs that are files, and so look like stores: where there are no more than
            these, the environment does all the same.
    """
    if option is not None:
        return Place(option, "--store", list(words))
    named = environment.get(VARIABLE, "")
    if words and (not named or (len(words) > files and looks_like_a_store(words[0]))):
        return Place(words[0], FIRST_WORD, list(words[1:]))
    if named:
        return Place(named, VARIABLE, list(words))
    raise WrongUse(f"no store is named: give it as the first word, with --store, or in {VARIABLE}")


def filled(words: Sequence[str], names: Sequence[str], place: Place) -> tuple[list[str], list[str | None]]:
    """The words beside the store: those that a command needs, and those that it may be given, with None for the others.

    Args:
        names: ``RUN``, or ``[RUN]`` for one that may be left out; these come last. ``RUN...`` alone: one or more.
    """
    if names and names[-1].endswith("..."):
        names = [*names, *[names[-1]] * (len(words) - len(names))]
    required = [name for name in names if not name.startswith("[")]
    if len(words) < len(required):
        missing = [name.removesuffix("...") for name in required[len(words) :]]
        verb = "is" if len(missing) == 1 else "are"
        raise WrongUse(f"{' and '.join(missing)} {verb} missing; {_understood(words, names, place)}")
    if len(words) > len(names):
        raise WrongUse(f"too many words; {_understood(words, names, place)}")
    count = len(required)
    return list(words[:count]), [*words[count:], *[None] * (len(names) - len(words))]


def _understood(words: Sequence[str], names: Sequence[str], place: Place) -> str:
    """What was made of the line: the first thing to look at where it was meant otherwise."""
    labels = [*(name.strip("[].") for name in names), *["?"] * len(words)]
    said = [f"{label} {word!r}" for label, word in zip(labels, words, strict=False)]
    return f"understood was: {', '.join([*_store_understood(place), *said]) or 'nothing'}"


def _store_understood(place: Place) -> list[str]:
    """The store, where the command takes one. What may be a run, taken for a store, is worth showing; a URL is not."""
    if not place.named_by:
        return []
    if place.named_by != FIRST_WORD or "://" in place.target:
        return [f"the store by {place.named_by}"]
    return [f"the store {place.target!r} by {place.named_by}"]


def with_command(
    words: Sequence[str], commands: Collection[str], groups: Mapping[str, tuple[Collection[str], str]]
) -> list[str]:
    """The line with its command in front: ``show`` where the first word is none.

    Args:
        groups: the commands that have commands of their own, and which of these is meant where none is named.
    """
    front = _leading_options(words)
    command, rest = words[front : front + 1], list(words[front + 1 :])
    if not command and set(words) & _ALONE:
        return list(words)
    if not command or command[0] not in commands:
        if command and command[0] in _ALONE:
            return list(words)
        return ["show", *words]
    name = command[0]
    if name in groups and not set(rest[:1]) & {"--help"}:
        within, usual = groups[name]
        behind = _leading_options(rest)
        if rest[behind : behind + 1] and rest[behind] in within:
            return [name, rest[behind], *words[:front], *rest[:behind], *rest[behind + 1 :]]
        return [name, usual, *words[:front], *rest]
    return [name, *words[:front], *rest]


def _leading_options(words: Sequence[str]) -> int:
    """How many words in front are options that every command has, with their values."""
    front = 0
    while front < len(words):
        word = words[front]
        if word in _WITH_VALUE:
            front += 2
        elif word in _WITHOUT_VALUE or word.partition("=")[0] in _WITH_VALUE:
            front += 1
        else:
            break
    return min(front, len(words))
