"""The options that every command has, and how a function becomes a command.

Rules of this module: typer is told everything here. A command is a function of a ``Call`` and of its own options; its
words and the common options are added to it, so that they are the same everywhere.
"""

from __future__ import annotations

import functools
import inspect
import os
import textwrap
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand

from .call import TIMEOUT, Call
from .completion import completion_of
from .words import Place, place_of

Function = Callable[..., None]

WIDEST_HELP = 110
"""How wide --help may be on a terminal that is wide enough: the list of commands has each sentence whole."""


class OutputForm(StrEnum):
    text = "text"
    json = "json"
    jsonl = "jsonl"


class TimeForm(StrEnum):
    relative = "relative"
    iso = "iso"


class App:
    """A typer application, or a group of commands within one."""

    def __init__(self, help: str) -> None:
        self.help = textwrap.dedent(help).strip()
        self.typer = typer.Typer(
            help=self.help,
            rich_markup_mode=None,  # plain text, laid out as it stands here, and nothing of rich imported for it
            pretty_exceptions_enable=False,
            add_completion=True,
            no_args_is_help=True,
            context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDEST_HELP},
        )
        self.names: set[str] = set()
        self.groups: dict[str, tuple[set[str], str]] = {}

    @functools.cached_property
    def program(self) -> Any:
        """What runs a line, made of the commands that were added by then: for each line anew it would take longer
        than most commands do."""
        return typer.main.get_command(self.typer)

    def group(self, name: str, group: App, usual: str) -> None:
        """Add a command that has commands of its own; ``usual`` is meant where none of them is named."""
        self.typer.add_typer(group.typer, name=name)
        self.names.add(name)
        self.groups[name] = (group.names, usual)

    def command(
        self, name: str, words: str = "", *, store: str = "[STORE]", files: bool = False, examples: str
    ) -> Callable[[Function], Function]:
        """Make a function a command.

        Args:
            name: the command.
            words: the words that it takes beside the store: ``RUN [NODE]``.
            store: how the word for the store stands in the usage. Empty: no word is the store (the command names its
                stores itself), and ``--store`` is not taken.
            files: whether the words beside the store are files, which may look like stores.
            examples: lines as they are typed, in an order in which they can be run.
        """

        def add(function: Function) -> Function:
            wanted = f"{store} {words}".strip()
            epilog = "\b\nExamples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  ")
            usage = f"[OPTIONS] {wanted}".strip()
            declared = self.typer.command(name, cls=_Command, options_metavar=usage, epilog=epilog)
            names = words.split()
            store_of = functools.partial(place_of, files=len(names) if files else 0) if store else None
            declared(_with_common_options(function, wanted, names, store_of))
            self.names.add(name)
            return function

        return add


class _Command(TyperCommand):
    """A command whose usage names its words one by one, though to typer they are a list."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [self.options_metavar or ""]


def _with_common_options(
    function: Function, wanted: str, names: list[str], store_of: Callable[..., Place] | None
) -> Function:
    """The function as typer is to see it: with its words, its own options, and the common ones."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        words: list[str] = given.pop("words", None) or []
        option: str | None = given.pop("store", None)
        form, is_json = given.pop("output"), given.pop("json")
        place = Place("", "", list(words)) if store_of is None else store_of(words, option, os.environ)
        time, timeout = given.pop("time"), given.pop("timeout")
        function(Call(place, names, "json" if is_json else form.value, time.value, timeout), **given)

    signature = inspect.signature(function, eval_str=True)
    own = [_keyword(one.name, one.annotation, one.default) for one in list(signature.parameters.values())[1:]]
    parameters = [*_words(wanted, names), *own, *_common(has_store=store_of is not None)]
    command.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]  # typer looks
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _words(wanted: str, names: list[str]) -> list[inspect.Parameter]:
    if not wanted:
        return []
    argument = typer.Argument(metavar="WORDS", hidden=True, autocompletion=completion_of(names))
    return [_keyword("words", Annotated[list[str] | None, argument], None)]


def _common(*, has_store: bool) -> list[inspect.Parameter]:
    store = [_keyword("store", Annotated[str | None, typer.Option("--store", metavar="PATH|URL", help=_STORE)], None)]
    return [
        *(store if has_store else []),
        _keyword("output", Annotated[OutputForm, typer.Option("--output", help=_OUTPUT)], OutputForm.text),
        _keyword("json", Annotated[bool, typer.Option("--json", help="Short for --output json.")], False),
        _keyword("time", Annotated[TimeForm, typer.Option("--time", help=_TIME)], TimeForm.relative),
        _keyword(
            "timeout", Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0, help=_TIMEOUT)], TIMEOUT
        ),
    ]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_STORE = "The store; then no word names it. Else the first word does, or CONTEXTSTORE_URL."
_OUTPUT = "Text for people, one JSON document, or a line of JSON for each result."
_TIME = "How text shows times: as an age, or in full."
_TIMEOUT = "How long to wait for another process's lock, or a server."
