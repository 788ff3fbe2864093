"""The view of runs: newest first, found by id, state, attribute, parent and time, page by page.

Rules of this module: public calls of the store alone; no values are loaded. Whatever is looked for is in the address,
so that it can be kept and passed on; what cannot be meant of it is told beside its field.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from .. import InvalidKeyError
from .._inspect.runs import RunFilters, RunPage
from .._inspect.typed import Unclear, attribute_word, attributes_of, time_of
from .._results import RunState
from .look import Answer, Look

PER_PAGE = 50
SIZES = (25, 50, 100, 200)
"""How many runs a page has, as the page itself offers it."""
STATES: tuple[str, ...] = get_args(RunState)

_WORDS = {"prefix": "id begins with", "parent": "child of", "since": "begun since", "until": "begun before"}


class Chip(NamedTuple):
    """A part of what is looked for, and the address without it."""

    name: str
    text: str
    href: str


@dataclass
class Search:
    """What is looked for, as it was typed, and as it is meant.

    Attributes:
        given: the parameters of the address, by name; those of the page that is shown are not among them.
        filters: what they mean.
        mistakes: what cannot be meant, by the name of the parameter.
        unclear: the attribute of which that is so.
    """

    look: Look
    given: dict[str, list[str]]
    filters: RunFilters = field(default_factory=RunFilters)
    limit: int = PER_PAGE
    mistakes: dict[str, str] = field(default_factory=dict)
    unclear: str = ""

    @property
    def is_any(self) -> bool:
        """Whether there is anything that a run has to fit."""
        return any(values for name, values in self.given.items() if name != "limit")

    def typed(self, name: str) -> str:
        """What stands in a field."""
        return (self.given[name] or [""])[0]

    def href(self, path: str = "/runs", /, **changes: Any) -> str:
        """The address of the first page of this search, with some of its parameters changed."""
        return self.look.href(path, **{**self.given, **changes})

    def href_with_attribute(self, name: str, value: str | float | bool) -> str | None:
        """The address of this search among the runs that have this attribute; None where it cannot be typed."""
        word = attribute_word(name, value)
        if word is None:
            return None
        others = [one for one in self.given["attribute"] if one.partition("=")[0] != name]
        return self.href(attribute=[*others, word])

    @functools.cached_property
    def hrefs_by_state(self) -> dict[str, str]:
        """The address of this search among the runs of one state, for each."""
        return {state: self.href(state=[state]) for state in STATES}

    def href_with_state(self, state: str) -> str:
        """The address of this search with a state more, or without it."""
        states = self.given["state"]
        return self.href(state=[one for one in states if one != state] if state in states else [*states, state])

    def chips(self) -> Iterator[Chip]:
        """What is looked for, each to be taken away. (States have their own.)"""
        for name, words in _WORDS.items():
            if self.given[name] and name not in self.mistakes:
                yield Chip(words, self.typed(name), self.href(**{name: None}))
        for word in self.given["attribute"]:
            name, _, value = word.partition("=")
            yield Chip(name, value, self.href(attribute=[one for one in self.given["attribute"] if one != word]))

    def page(self, after: str) -> RunPage:
        """The runs that are found; none, if there are mistakes."""
        if not self.mistakes:
            try:
                return self.filters.page(self.look.store, after=after, limit=self.limit)
            except InvalidKeyError as error:
                self.mistakes[error.name] = str(error)
            except ValueError as error:  # all else that can be too much, or not be at all, is an attribute
                self._refuse_attribute(str(error))
        return RunPage([], None)

    def read_attributes(self) -> dict[str, Any]:
        """The attributes that are meant."""
        words: list[str] = []
        for word in self.given["attribute"]:
            try:
                _attributes_of([*words, word])
            except Unclear as error:
                self.mistakes["attribute"], self.unclear = str(error), word
            else:
                words.append(word)
        self.given["attribute"] = words
        return _attributes_of(words)

    def _refuse_attribute(self, sentence: str) -> None:
        """The store has refused one, and does not say which: the last one is up for change."""
        self.mistakes["attribute"], self.unclear = sentence, self.given["attribute"].pop()


def search_of(look: Look) -> Search:
    """What a look, at a page of runs or at their stream, is looking for."""
    names = ("prefix", "state", "attribute", "parent", "since", "until", "limit")
    search = Search(look, {name: look.every(name) for name in names})
    meant: dict[str, Any] = {
        "prefix": search.typed("prefix"),
        "parent": search.typed("parent") or None,
        "states": _meant(search, "state", _states_of, search.given["state"], ()),
        "attributes": search.read_attributes(),
    }
    for name in ("since", "until"):
        text = search.typed(name).strip()
        meant[name] = _meant(search, name, lambda text: time_of(text, look.now), text, None) if text else None
    search.limit = _meant(search, "limit", _limit_of, search.typed("limit"), PER_PAGE)
    search.filters = RunFilters(**meant)
    return search


def _meant(search: Search, name: str, reader: Callable[[Any], Any], typed: Any, otherwise: Any) -> Any:
    try:
        return reader(typed)
    except Unclear as error:
        search.mistakes[name] = str(error)
        return otherwise


def _states_of(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if name not in STATES:
            raise Unclear(f"{name!r} is no state: it is {', '.join(STATES[:-1])} or {STATES[-1]}")
    return tuple(names)


def _attributes_of(words: list[str]) -> dict[str, Any]:
    found = attributes_of(words)
    for name, value in found.items():
        if not isinstance(value, str | int | float):
            raise Unclear(f"{name!r} cannot be looked for: a value is a text, a number, true or false")
    return found


def _limit_of(text: str) -> int:
    if not text:
        return PER_PAGE
    if len(text) <= 9 and text.isdecimal() and text.isascii() and 1 <= int(text) <= SIZES[-1]:
        return int(text)
    raise Unclear(f"{text!r} is no size of a page: it is from 1 to {SIZES[-1]}")


def runs(look: Look) -> Answer:
    """A page of runs."""
    search, after = search_of(look), look.text("after")
    cursor = look.store.cursor("runs")  # before it is read: what happens meanwhile is told once more, not lost
    page = search.page(after)
    if search.mistakes:
        sentences = {name: f"{name}: {sentence}" for name, sentence in search.mistakes.items()}
        data: dict[str, Any] = {"error": "; ".join(sentences.values()), "mistakes": search.mistakes}
    else:
        more = page.next_after is not None
        data = {"runs": page.runs, "next_after": page.next_after}
        data["next"] = search.href("/runs.json", after=page.next_after) if more else None
    live = search.href("/runs/live", after=cursor, page="later" if after else None)
    return Answer(
        "runs.html",
        {"search": search, "page": page, "after": after, "live": live, "sizes": SIZES, "states": STATES},
        data,
        {"rows": "_runs_rows.html", "list": "_runs_list.html"},
        400 if search.mistakes else 200,
    )
