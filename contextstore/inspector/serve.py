"""The pages served by themselves: uvicorn on one address, until the process is told to stop.

Rules of this module: it knows addresses, ports and signals, and nothing of a command line. It says nothing, and nothing
is logged: an access log would have the token in it.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .. import ContextStore
from .application import make_app
from .hosts import OWN_ADDRESS, Hosts, with_brackets

PORT = 8787
"""The one that is taken if none is named, and if it is free."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_MOST_CONNECTIONS = 500
_SECONDS_TO_END = 1
_SECONDS_TO_ASK = 30.0
"""After so long a connection over which nothing was asked is ended: it counts among the most that there may be."""
_SECONDS_TO_TAKE = 120
"""After so long a browser that takes nothing of what it is sent is taken to be gone: all of that is kept for it."""


def pages_of(store: ContextStore, token: str, hosts: Collection[str], *, allow_delete: bool) -> ASGIApp:
    """The application that is served. No figures are kept: the commits of a store are made by other processes."""
    return make_app(store, token=token, allow_delete=allow_delete, allowed_hosts=hosts, figures=None)


def listener(host: str, port: int | None) -> socket.socket:
    """A socket that listens, though nobody answers yet.

    Args:
        port: 0 for any. None: the usual one, or any if that is taken.

    Raises:
        OSError: it cannot be listened there.
    """
    family, found = _resolved(host)[0]
    try:
        listening = socket.create_server((found, PORT if port is None else port), family=family)
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        listening = socket.create_server((found, 0), family=family)
    _bound_how_long_one_may_take(listening)
    return listening


def _bound_how_long_one_may_take(listening: socket.socket) -> None:
    """Of every connection that is made to it: its options go on to them."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that has gone says nothing
    if sys.platform == "linux":  # elsewhere it lasts as long as the browser does
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SECONDS_TO_TAKE * 1000)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there.

    Raises:
        OSError: the name leads nowhere.
    """
    return all(ipaddress.ip_address(found.partition("%")[0]).is_loopback for _, found in _resolved(host))


def _resolved(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses that a name stands for."""
    found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found]


def allowed_hosts(host: str, others: Collection[str]) -> list[str]:
    """The names under which pages that listen there may be asked for: on any port, as through a tunnel.

    Raises:
        ValueError: one of the others is no host.
    """
    Hosts(others)
    own = [host.strip("[]")] if is_loopback(host) else [host.strip("[]"), socket.gethostname(), OWN_ADDRESS]
    return [*_LOCAL_NAMES, *own, *others]


def address(host: str, listening: socket.socket) -> str:
    """Where a browser finds the pages: of all addresses the machine's own name stands for."""
    is_any = ipaddress.ip_address(str(listening.getsockname()[0]).partition("%")[0]).is_unspecified
    name = socket.gethostname() if is_any else with_brackets(host.strip("[]"))
    return f"http://{name}:{listening.getsockname()[1]}/"


class _Connection(H11Protocol):
    """A connection that is ended unless something is asked for over it soon."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(_SECONDS_TO_ASK, self._end_unless_asked)

    def _end_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()


def serve(application: ASGIApp, listening: socket.socket, announce: Callable[[], None]) -> None:
    """Answer until SIGINT or SIGTERM. Streams that are open then are ended, and nobody is waited for for long.

    Args:
        announce: called once either signal ends it well, and whoever connects is answered soon.
    """
    config = uvicorn.Config(
        application,
        http=_Connection,  # h11 bounds how long a head may be
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    server = uvicorn.Server(config)
    with _ended_by_signals(server):
        announce()
        server.run(sockets=[listening])


@contextlib.contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Also before uvicorn listens to them. Once it has ended, it raises them again for whoever was there before."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
