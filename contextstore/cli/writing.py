"""Commands that write: ``put``, ``append``.

Rules of this module: a value is understood before the store is opened, and a store is made only if that was asked for.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .._display.text import shown_id
from .call import Call
from .options import App
from .values import tag_of, value_of

Create = Annotated[bool, typer.Option("--create", help="Make the store if there is none.")]
Text = Annotated[bool, typer.Option("--text", help="The value is a text, not JSON: it is stored as a string.")]
Bytes = Annotated[bool, typer.Option("--bytes", help="The value is bytes, not JSON: they are stored as they are.")]


def add_to(app: App) -> None:
    """Add the commands of this room."""
    app.command("put", "RUN NODE JSON|-", examples=_PUT)(put)
    app.command("append", "RUN PREFIX JSON|-", examples=_APPEND)(append)


_PUT = """
    contextstore put flows.db nightly-1 approval '{"approved": true}'
    contextstore put flows.db nightly-1 approval '{"approved": true}' --exist-ok
    echo '[1, 2, 3]' | contextstore put flows.db nightly-1 numbers -
    contextstore put flows.db nightly-1 comment 'looks good' --text
    contextstore put flows.db nightly-1 page --bytes --tag text/html - < page.html
    contextstore put new.db run-1 first 1 --create
"""


def put(
    call: Call,
    text: Text = False,
    bytes: Bytes = False,
    exist_ok: Annotated[bool, typer.Option("--exist-ok", help="An equal value that is there already is fine.")] = False,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TEXT", help="Stands beside the value: a media type, say.")
    ] = None,
    create: Create = False,
) -> None:
    """Write the output of a node, once; - reads the value from a pipe.

    When it returns, the output is durable, and whoever waits for it has it: so it also answers a run that waits for a
    person. Where there is an output already, that one stands, and the exit code is 3. A value that begins with a dash,
    such as -1, goes behind a --.
    """
    run, node, word = call.words
    value: Any = value_of(word, as_text=text, as_bytes=bytes)
    beside = tag_of(tag)
    with call.written_to(create=create) as store:
        store.put(run, node, value, exist_ok=exist_ok, tag=beside)
    call.screen.result({"flow_run_id": run, "node_id": node}, lambda _: [])


_APPEND = """
    contextstore append flows.db nightly-1 log/ '{"level": "info"}'
    contextstore append flows.db nightly-1 log/ 'it has begun' --text --key begun
    contextstore append flows.db nightly-1 pages/ --bytes --tag text/html - < page.html
"""


def append(
    call: Call,
    text: Text = False,
    bytes: Bytes = False,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Makes a retry safe: the same again gives the first id.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TEXT", help="A word beside the value, such as a media type.")
    ] = None,
    create: Create = False,
) -> None:
    """Append an output to those of a prefix, and print its id; - reads the value from a pipe.

    The id is the prefix and the next number, of 12 digits. When it is printed, the output is durable. With
    a key the same command again stores nothing more, and prints the first id.
    """
    run, prefix, word = call.words
    value: Any = value_of(word, as_text=text, as_bytes=bytes)
    beside = tag_of(tag)
    with call.written_to(create=create) as store:
        node = store.append(run, prefix, value, key=key, tag=beside)
    call.screen.result({"flow_run_id": run, "node_id": node}, lambda _: [shown_id(node)])
