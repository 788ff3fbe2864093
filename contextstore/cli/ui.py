"""The command ``ui``: the pages of the inspector, served by themselves.

Rules of this module: the token stands on the standard output alone, once. It never stands on a command line, where
whoever lists the machine's processes would see it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated

import typer

from .. import ContextStore
from .call import Call
from .errors import UNUSABLE, CommandError, WrongUse
from .options import App

VARIABLE = "CONTEXTSTORE_UI_TOKEN"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")
_EXTRA = {"starlette", "jinja2", "markupsafe", "sse_starlette", "uvicorn"}


def add_to(app: App) -> None:
    """Add the commands of this room."""
    app.command("ui", examples=_UI)(ui)


_UI = """
    contextstore ui flows.db  # until Ctrl-C
    contextstore ui flows.db --port 0 --allow-delete --json  # until Ctrl-C
    contextstore ui flows.db --host 0.0.0.0  # exit 2
"""


@dataclasses.dataclass(frozen=True)
class Served:
    """Where the pages are.

    Attributes:
        address: what a browser is to open, with the token in it.
        host, port: where it is listened.
        location: the store.
        allow_delete: whether the pages may delete.
    """

    address: str
    host: str
    port: int
    location: str
    allow_delete: bool


def ui(
    call: Call,
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 for any; else 8787, or any if that is taken."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let --host be an address that other machines reach; nothing is encrypted.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A further name to be asked for under, as behind a proxy."),
    ] = None,
    allow_delete: Annotated[
        bool, typer.Option("--allow-delete", help="Let the pages delete runs and globals.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the address in a browser.")] = False,
) -> None:
    """Show a store in a browser, live: serve pages of it, and print their address, until Ctrl-C.

    The address has a token in it, a new one at each start: who does not have it is shown nothing. With
    CONTEXTSTORE_UI_TOKEN it is that one, so that browsers stay signed in when it is started anew. Only this
    machine reaches the pages, unless --host and --public say otherwise. The store is opened read-only, unless
    --allow-delete says otherwise.
    """
    serving = _serving()
    token = _token()
    is_local = _refuse_to_be_public(serving, host, public=public)
    hosts = _hosts(serving, host, allow_host or [])
    with _opened(call, allow_delete=allow_delete) as store, _listening(serving, host, port) as listener:
        application = serving.pages_of(store, token, hosts, allow_delete=allow_delete)
        own_address, own_port = listener.getsockname()[:2]
        address = f"{serving.address(host, listener)}?token={token}"
        served = Served(address, own_address, own_port, store.location, allow_delete)

        def announce() -> None:
            call.screen.result(served, lambda served: [served.address])
            call.screen.note("Ctrl-C stops it" if is_local else _MEANING.format(host=own_address, port=own_port))
            if open_browser:  # in a thread: a browser in this very terminal ends when it is left
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        serving.serve(application, listener, announce)


_MEANING = (
    "whoever reaches {host}, port {port}, over the network may look with the address above. Nothing is encrypted (no "
    "TLS): who is on the way reads the token, and all that is shown. A proxy with TLS in front of it keeps both"
)


def _serving() -> ModuleType:
    try:
        from ..inspector import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise WrongUse("the pages need more than is installed: pip install 'contextstore[cli,ui]'") from error
    return serve


def _token() -> str:
    token = os.environ.get(VARIABLE) or secrets.token_urlsafe(32)
    if not _TOKEN.fullmatch(token):
        raise WrongUse(f"{VARIABLE} must have 16 to 256 letters, digits, - or _")
    return token


def _refuse_to_be_public(serving: ModuleType, host: str, *, public: bool) -> bool:
    """Whether it is this machine alone that reaches the pages."""
    try:
        is_local = bool(serving.is_loopback(host))
    except (OSError, ValueError) as error:
        raise WrongUse(f"--host {host!r} leads nowhere") from error
    if not is_local and not public:
        raise WrongUse(
            f"other machines reach --host {host}: say --public if they are to, and read what --help says of it"
        )
    return is_local


def _hosts(serving: ModuleType, host: str, others: list[str]) -> list[str]:
    try:
        return list(serving.allowed_hosts(host, others))
    except ValueError as error:
        raise WrongUse(f"--allow-host: {error}") from error


@contextlib.contextmanager
def _opened(call: Call, *, allow_delete: bool) -> Iterator[ContextStore]:
    with call.written_to() if allow_delete else call.looked_at() as store:
        yield store


@contextlib.contextmanager
def _listening(serving: ModuleType, host: str, port: int | None) -> Iterator[socket.socket]:
    try:
        listener: socket.socket = serving.listener(host, port)
    except OSError as error:
        where = f"at {host}" if port is None else f"at {host}, port {port}"
        reason = (error.strerror or str(error)).lower()
        raise CommandError(
            f"it cannot be listened {where}: {reason} (--port 0 takes one that is free)", UNUSABLE
        ) from error
    with listener:
        yield listener
