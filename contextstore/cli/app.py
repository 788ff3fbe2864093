"""The application: every command, by the rooms that they stand in.

Rules of this module: a room adds its commands here, and does nothing else as it is imported.
"""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from .. import __version__
from . import care, exchanging, flow_runs, global_keys, lifetime, looking, transfer, ui, writing
from .options import App

HELP = """
    Look at a store of flow outputs, and work on it.

    \b
      contextstore flows.db             its runs, the newest first
      contextstore flows.db RUN         the outputs of a run
      contextstore flows.db RUN NODE    one output
      contextstore ui flows.db          all of it in a browser, live

    The store is a path or a URL: what --store names, else the first word behind the command, else what CONTEXTSTORE_URL
    names. (A first word that looks like a store, as ./x, x.db or a URL does, is one even then.)

    Exit codes: 0 done, 1 not found or not ok, 2 usage, 3 conflict, 4 the store cannot be used, 70 a bug, 130
    interrupted.
"""


@functools.cache
def the_app() -> App:
    """The one of this process, which any number of lines are run by."""
    app = App(HELP)
    app.typer.callback(help=app.help)(_options)
    for room in (looking, flow_runs, writing, global_keys, lifetime, care, transfer, exchanging, ui):
        room.add_to(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"contextstore {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the program itself."""
