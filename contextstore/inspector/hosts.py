"""The names under which the pages may be asked for.

Rules of this module: pure functions of texts. A page of another site can give its own name any address, ours too (DNS
rebinding), and is then of one origin with us in a browser's eyes: the Host that the browser sends along is still its
own name, and gives it away.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import NamedTuple

OWN_ADDRESS = "<the address that the connection came to>"
"""Among allowed hosts: that very IP address. No name of anybody else's can be one, whatever it leads to."""

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_](?:[a-z0-9._-]{0,252}))(?::([0-9]{1,5}))?")
_USUAL_PORTS = {80, 443}
"""What a Host leaves out. Behind a proxy nobody knows which of the two."""


class Host(NamedTuple):
    """A name or an address, and a port. None: none was named."""

    name: str
    port: int | None


def parsed(text: str) -> Host | None:
    """What a Host header means, or the part of an Origin that is like one. None: nothing."""
    matched = _HOST.fullmatch(text.lower())
    if matched is None:
        return None
    name, port = matched[1], matched[2]
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
        except ValueError:
            return None
    return Host(name, int(port) if port else None)


def with_brackets(name: str) -> str:
    """A name or an address as it stands in a URL."""
    return f"[{name}]" if ":" in name else name


class Hosts:
    """Those that are allowed.

    Raises:
        ValueError: one of them is no host.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        if isinstance(allowed, str):
            raise ValueError("allowed_hosts is a collection of names, and not one of them")  # noqa: TRY004 - a str is a collection of str: a wrong value
        self._own_address = OWN_ADDRESS in allowed
        self._allowed = {_allowed(text) for text in allowed if text != OWN_ADDRESS}

    def allow(self, host: Host, own_address: str | None) -> bool:
        """Whether a request may name this one.

        Args:
            own_address: that of the server's own end of the connection. None: it is not known.
        """
        if self._own_address and own_address is not None and parsed(with_brackets(own_address)) == (host.name, None):
            return True
        ports = _USUAL_PORTS if host.port is None else {host.port}
        return any((host.name, port) in self._allowed for port in (None, *ports))


def _allowed(text: str) -> Host:
    host = parsed(text)
    if host is None and text.count(":") > 1:
        host = parsed(f"[{text}]")
    if host is None:
        raise ValueError(f"this is no host that could be allowed: {text!r}")
    return host
