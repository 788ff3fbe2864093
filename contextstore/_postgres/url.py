"""What a PostgreSQL URL says: where the server is, as whom, and what the store asks of it.

Rules of this module: no I/O. A URL is taken apart here alone, strictly, and put together anew for the driver with every
part encoded: what is ambiguous is refused before anything is looked up by name or sent, since it may be a part of a
password that was not percent-encoded. No message says more of it than the names of options, and these not where they
may be the rest of a password.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
import urllib.parse
from typing import NamedTuple

_Options = dict[str, str]


class Address(NamedTuple):
    """Where the server is, and what the store asks of it."""

    urls: tuple[str, ...]
    """For the driver, with the password; one for each host, in their order."""
    location: str
    """For people, without it."""
    secrets: tuple[str, ...]
    """What no message may show."""
    names: frozenset[str]
    """What of the URL is no secret, even if a password is the same word."""
    schema: str
    application_name: str
    has_pooler: bool
    """Behind a pooler that hands out connections by transaction: nothing may be kept in a session."""
    place: tuple[str, ...]
    """Server, port, database and schema, however the URL says it. Names are not looked up."""
    access: tuple[str, ...]
    """All else that the URL says: as whom, and how."""

    def __repr__(self) -> str:  # also in a traceback that shows variables
        return f"<Address {self.location}>"

    def hide(self, text: str) -> str:
        """The text without the secrets in it.

        Each is hidden where it stands by itself, not as a part of other words: a password of one letter would leave
        nothing of a message. Nothing of the URL's text gets to the driver but encoded; this is for what a server says.
        """
        for secret in self.secrets:
            if len(secret) >= _MIN_SECRET_LENGTH and secret not in self.names:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        return text


_MIN_SECRET_LENGTH = 3
_SECRET = frozenset(["password", "sslpassword"])
_SHOWN = frozenset(["schema", "host", "port", "user", "dbname", "database", "sslmode", "target_session_attrs"])
"""What of a URL's options is no secret."""
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "pooler": ("transaction",),
}
_OURS = ("schema", "pooler", "application_name")
_KNOWN = (
    *("host", "port", "user", "password", "dbname", "database", "passfile", "service", "sslmode", "sslcert", "sslkey"),
    *("sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib", *_OURS),
)
"""Of libpq's options those that the driver knows, and our own. It would send others to the server as settings, and the
store makes the settings that it needs.
"""
_NOT_TAKEN = {
    **dict.fromkeys(
        ("connect_timeout", "command_timeout", "tcp_user_timeout", "statement_timeout", "lock_timeout"),
        "the longest wait is the store's timeout=",
    ),
    **dict.fromkeys(("options", "search_path"), "the store makes the settings that it needs; tables are in schema="),
    **dict.fromkeys(
        ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "gssencmode", "channel_binding"),
        "the driver does not know it",
    ),
}
_PORT = "5432"
_IN_PLACE = ("host", "port", "dbname", "database", "schema", "user", "password")
_PLAIN = re.compile(r"[\w.-]+")
_WORDS = re.compile(r"[\w.,:/-]*")
_NAME = re.compile(r"(?:[\w.~+-]|%[0-9A-Fa-f]{2})*")
_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")


class _Split(NamedTuple):
    """The parts of a URL, as they stand in it."""

    user: str
    password: str
    at: str
    """An '@' if there is one."""
    hosts: str
    path: str
    """With its '/'."""
    query: str


def parse_url(url: str) -> Address:
    """Take a URL apart. Raises ValueError, which shows nothing of a password."""
    rest = url.partition("://")[2]
    _refuse_what_is_not_encoded(rest)
    split = _split(rest)
    options, secrets = _options(split.query)
    _check_names(split, options)
    _check_hosts(split, options)
    names = _names(split, options)
    password = _decoded(split.password)
    return Address(
        urls=tuple(_urls(split, options)),
        location=_location(split, options),
        secrets=tuple(one for one in dict.fromkeys([password, *secrets]) if one),
        names=names,
        schema=_schema(options),
        application_name=options.get("application_name") or "contextstore",
        has_pooler=options.get("pooler") == "transaction",
        place=_place(split, options),
        access=_access(split, options),
    )


def _not_encoded(what: str) -> ValueError:
    return ValueError(
        f"the PostgreSQL URL has {what}: percent-encode what belongs to the user, the password or an option "
        "(urllib.parse.quote(text, safe=''))"
    )


def _bad_port() -> ValueError:
    return ValueError("a port of the PostgreSQL URL is no number; if it is a part of a password, percent-encode it")


def _refuse_what_is_not_encoded(rest: str) -> None:
    if any(not character.isprintable() or character.isspace() for character in rest):
        raise _not_encoded("a space or a control character")
    if "#" in rest:
        raise _not_encoded("a '#'")
    if any(not one.isascii() and set(unicodedata.normalize("NFKC", one)) & set("/?#@:%") for one in rest):
        raise _not_encoded("a character that may be taken for '/', '?', '#', '@', ':' or '%'")
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        raise _not_encoded("a '%' that begins no encoded character")
    if rest.count("@") > 1:
        raise _not_encoded("more than one '@'")
    if "@" in rest and "@" not in _sections(rest)[0]:
        raise _not_encoded("a '/' or '?' in its user or password, or an '@' behind its host")


def _sections(rest: str) -> tuple[str, str, str]:
    """Up to the first '/' or '?'; the path, with its '/'; the query."""
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    return authority, slash + path, query


def _split(rest: str) -> _Split:
    authority, path, query = _sections(rest)
    credentials, at, hosts = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    return _Split(user, password, at, hosts, path, query)


def _decoded(text: str) -> str:
    try:
        decoded = urllib.parse.unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise _not_encoded("percent-encoded bytes that are not UTF-8") from None
    if "\0" in decoded:
        raise ValueError("the PostgreSQL URL has a NUL character, which the server takes nowhere")
    return decoded


def _options(query: str) -> tuple[_Options, list[str]]:
    """The options by name, and those of their values that are secret."""
    options: _Options = {}
    secrets = []
    is_after_secret = False  # an '&' in a password, or in the name of a file, makes an option of its rest
    for part in query.split("&"):
        name, equals, text = part.partition("=")
        if not part:
            continue
        if not equals:
            raise _not_encoded("an option without a '='")
        if name not in _KNOWN:
            raise _unknown(name, is_after_secret)
        value = options[name] = _decoded(text)
        is_after_secret = is_after_secret or name not in _SHOWN
        if name in _SECRET:
            secrets.append(value)
        if value and value not in _CHOICES.get(name, (value,)):
            raise ValueError(f"{name} of the PostgreSQL URL is not one of {', '.join(_CHOICES[name])}")
    return options, secrets


def _unknown(name: str, is_after_secret: bool) -> ValueError:
    if is_after_secret or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
        return _not_encoded("an option that is not known")
    if name in _NOT_TAKEN:
        return ValueError(f"{name} is not taken in a PostgreSQL URL: {_NOT_TAKEN[name]}")
    close = difflib.get_close_matches(name.lower(), _KNOWN, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_KNOWN)}"
    return ValueError(f"the option {name} of the PostgreSQL URL is not known: {hint}")


def _check_names(split: _Split, options: _Options) -> None:
    """Raises for what can be none, of the user and the database; a part of a password may have got there."""
    if not _NAME.fullmatch(split.user) or ":" in _decoded(split.user) or ":" in options.get("user", ""):
        raise _not_encoded("a character in the user's name that no name has")
    if set(split.password) & set("[]"):
        raise _not_encoded("a bracket in its password")
    if not _NAME.fullmatch(split.path[1:]):
        raise _not_encoded("more than one name behind the host, which is that of the database,")


def _check_hosts(split: _Split, options: _Options) -> None:
    """Raises for what can be none: it would be looked up by name, on a stranger's server."""
    if split.hosts:
        _check_each_host(split.hosts)
    if "host" in options:
        _check_each_host(options["host"])
    if not all(_is_port(port) for port in options.get("port", "").split(",")):
        raise _bad_port()


def _check_each_host(hosts: str) -> None:
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None or not _is_host(_decoded(match["name"])):
            raise _not_encoded("a host that can be none")
        if match["port"] == "" or not _is_port(match["port"] or ""):
            raise _bad_port()


def _is_host(name: str) -> bool:
    if name.startswith("/"):  # a folder with a socket
        return True
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            return False
        return True
    return bool(_PLAIN.fullmatch(name))


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536)


def _schema(options: _Options) -> str:
    schema = options.get("schema", "contextstore")
    if not (schema.isascii() and schema.isidentifier() and schema.islower() and len(schema) <= 63):
        raise ValueError("schema= of the PostgreSQL URL must be a lower-case name of letters, digits and underscores")
    if schema.startswith("pg_"):
        raise ValueError("schema= of the PostgreSQL URL: names that begin with pg_ are the server's own")
    return schema


def _names(split: _Split, options: _Options) -> frozenset[str]:
    """What of the URL is no secret."""
    names = {_decoded(split.user), _decoded(split.path[1:])}
    names.update(split.hosts.split(","), options.get("host", "").split(","))
    names.update(value for name, value in options.items() if name in (*_SHOWN, "application_name"))
    return frozenset(names - {""})


def _urls(split: _Split, options: _Options) -> list[str]:
    """For the driver: each host by itself, since it would wait for the first for all the time there is. It alone knows
    how to prefer a standby among several.
    """
    passed_on = [(name, value) for name, value in options.items() if value and name not in _OURS]
    query = urllib.parse.urlencode(passed_on, quote_via=urllib.parse.quote, safe="")
    hosts = split.hosts.split(",")
    if options.get("target_session_attrs") == "prefer-standby":
        hosts = [split.hosts]
    user, password, database = (_encoded(_decoded(part)) for part in (split.user, split.password, split.path[1:]))
    credentials = user + (f":{password}" if password else "")
    before = f"{credentials}@" if credentials else ""
    behind = (f"/{database}" if database else "") + (f"?{query}" if query else "")
    return [f"postgresql://{before}{host}{behind}" for host in hosts]


def _place(split: _Split, options: _Options) -> tuple[str, ...]:
    hosts = (options.get("host") or _decoded(split.hosts)).split(",")
    ports = options.get("port", "").split(",")
    if len(ports) < len(hosts):
        ports = ports[:1] * len(hosts)
    servers = []
    for host, usual_port in zip(hosts, ports, strict=False):
        is_folder = host.startswith("/")
        match = None if is_folder else _HOST.fullmatch(host)
        name, port = (host, None) if match is None else (match["name"].lower(), match["port"])
        servers.append(f"{name}:{port or usual_port or _PORT}")
    user = options.get("user") or _decoded(split.user)
    database = options.get("dbname") or options.get("database") or _decoded(split.path[1:]) or user
    return (",".join(servers), database, _schema(options))


def _access(split: _Split, options: _Options) -> tuple[str, ...]:
    user = options.get("user") or _decoded(split.user)
    password = options.get("password") or _decoded(split.password)
    others = (f"{name}={value}" for name, value in sorted(options.items()) if value and name not in _IN_PLACE)
    return (user, password, *others)


def _encoded(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _location(split: _Split, options: _Options) -> str:
    shown = "&".join(
        f"{name}={_encoded(value)}" if name in _SHOWN and _WORDS.fullmatch(value) else f"{name}=***"
        for name, value in options.items()
        if name not in ("pooler", "application_name")
    )
    user = split.user if not split.user or _PLAIN.fullmatch(split.user) else "***"
    database = split.path if not split.path[1:] or _PLAIN.fullmatch(split.path[1:]) else "/***"
    return f"postgresql://{user}{split.at}{split.hosts}{database}" + (f"?{shown}" if shown else "")
