"""One look of a browser, or a program, at the store: what it asks for, and what it is told.

Rules of this module: ids come in the query, as whatever they are: in a path, ``/`` and ``..`` in an id would mean
something else. A parameter that is not understood is refused with a sentence.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.requests import Request

from .. import AsyncContextStore, ContextStore
from .._inspect.figures import CommitFigures
from .check_job import CheckJob
from .sampling import Sampler


class Refusal(Exception):  # noqa: N818 - it is an answer more than an error
    """What was asked for cannot be shown: the sentence says why, and what to do."""

    def __init__(self, sentence: str, status: int = 404) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Inspector:
    """What every look has in common.

    Attributes:
        store, awaitable: the two faces of the store. Pages are made in worker threads, by the former; what goes on for
            longer than a page follows the latter.
        location: where the store is; without a password.
        allow_delete: whether anything may be deleted.
        form_token: what a form has to bring along.
        figures: those of the store's commits. None: nobody keeps any.
        sampler: what the store does, second by second.
        check_job: the check that somebody has begun.
    """

    store: ContextStore
    awaitable: AsyncContextStore
    location: str
    allow_delete: bool
    form_token: str
    figures: CommitFigures | None
    sampler: Sampler
    check_job: CheckJob


@dataclass(frozen=True)
class Answer:
    """What a view answers: the same for people and for programs.

    Attributes:
        template: that of the page.
        context: what the template is given beside the look itself.
        data: what the JSON twin has: results of calls, or dicts and lists of these.
        fragments: the parts of the page that may be asked for by themselves (``?fragment=<name>``), and their
            templates, which are given the same.
        status: of a page that shows what is known of something that is not there, or is damaged, another than 200.
    """

    template: str
    context: Mapping[str, Any]
    data: Any
    fragments: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class File:
    """What a view answers with a file: it is downloaded, never shown as a page of ours.

    Attributes:
        name: what it is called; whatever is in it that a file system may take for something else is replaced.
        content: its bytes, or what is to be JSON.
    """

    name: str
    content: Any


class Look:
    """A request, as views see it."""

    def __init__(self, inspector: Inspector, request: Request) -> None:
        self.inspector = inspector
        self.request = request
        self.store = inspector.store
        self.now = datetime.datetime.now(datetime.UTC)

    def text(self, name: str, default: str = "") -> str:
        """A parameter; ``default`` where it was not given."""
        return self.request.query_params.get(name, default)

    def every(self, name: str) -> list[str]:
        """A parameter that may be there several times, without those that are empty."""
        return [text for text in self.request.query_params.getlist(name) if text]

    def required(self, name: str) -> str:
        """A parameter that a view cannot do without."""
        if name not in self.request.query_params:
            raise Refusal(f"the address lacks {name}=", 400)
        return self.text(name)

    def number(self, name: str, default: int, *, most: int, least: int = 1) -> int:
        """A parameter that is a whole number, within its bounds."""
        text = self.text(name)
        try:
            return min(max(int(text), least), most) if text else default
        except ValueError as error:
            raise Refusal(f"{name} is no number: {text[:40]!r}", 400) from error

    def href(self, path: str, /, **parameters: object) -> str:
        """The address of a page of ours, wherever the application is mounted.

        None leaves a parameter out; of a list each is one.
        """
        query = "&".join(
            f"{quote(name, safe='')}={quote(str(one), safe='')}"  # urlencode takes twice as long: a page has hundreds
            for name, value in parameters.items()
            for one in (value if isinstance(value, list) else (value,))
            if one is not None and one != ""
        )
        return f"{self.request.scope.get('root_path', '')}{path}" + (f"?{query}" if query else "")

    def href_here(self, /, **changes: object) -> str:
        """The address of this look with some parameters changed; the JSON twin's is that of its page."""
        path = self.request.scope["path"].removeprefix(self.request.scope.get("root_path", ""))
        given = {name: self.request.query_params.getlist(name) for name in self.request.query_params}
        parameters = {**given, **changes}
        return self.href(path.removesuffix(".json"), **{k: v for k, v in parameters.items() if k != "fragment"})

    def json_href(self) -> str:
        """The address of this page's JSON twin."""
        path, _, query = self.href_here().partition("?")
        return f"{path}.json" + (f"?{query}" if query else "")


View = Callable[[Look], Answer | File]
"""A view is called in a worker thread."""
