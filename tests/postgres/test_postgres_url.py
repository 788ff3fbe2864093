"""What a PostgreSQL URL says, strictly; and that nothing of a password gets out, however badly it is written."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import re
import socket
import string
import threading
import traceback
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StorageError
from contextstore._postgres.url import parse_url

from ..support.nodes import execute
from ..support.servers import Server

FACES = [AsyncContextStore, ContextStore]


def refusal(url: str) -> str:
    """The one sentence that a URL is refused with, at construction."""
    messages = set()
    for face in FACES:
        with pytest.raises(ValueError) as caught:
            face(url)
        assert caught.value.__cause__ is None
        messages.add(str(caught.value))
    (message,) = messages
    return message


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("passwd=x", "option passwd .* did you mean password?"),
        ("PASSWORD=x", "option PASSWORD .* did you mean password?"),
        ("ssl_mode=require", "did you mean sslmode?"),
        ("aplication_name=x", "did you mean application_name?"),
        ("shema=x", "did you mean schema?"),
        ("pool=x", "did you mean pooler?"),
        ("target_session_attr=any", "did you mean target_session_attrs?"),
        ("zzz=1", "zzz .* is not known: known are host, port"),
        ("work_mem=1GB", "work_mem"),
        ("options=-c%20geqo%3Doff", "the settings that it needs"),
        ("search_path=x", "schema="),
        ("connect_timeout=3", "timeout="),
        ("keepalives=1", "does not know"),
        ("sslmode=required", "sslmode .* is not one of disable, allow"),
        ("target_session_attrs=primary-only", "is not one of any, primary"),
        ("pooler=session", "pooler .* transaction"),
        ("schema=Upper", "lower-case"),
        ("schema=", "lower-case"),
        ("port=x", "is no number"),
        ("host=a_b!c", "a host that can be none"),
        ("sslmode", "without a '='"),
        ("user=a%3Ab", "user's name"),
    ],
)
def test_an_option_that_cannot_be_meant_is_named_before_anything_is_opened(option: str, words: str) -> None:
    assert re.search(words, refusal(f"postgresql://u@h/db?{option}"))


def test_what_may_be_the_rest_of_a_password_is_not_named() -> None:
    for url in (
        "postgresql://u@h/db?password=S3&CRETWORD=1",
        "postgresql://u@h/db?sslpassword=S3&CRETWORD",
        "postgresql://u@h/db?password=S3&sslmode=CRETWORD",
        "postgresql://u@h/db?password=S3&schema=CRETWORD",
        "postgresql://u@h/db?password=S3&port=CRETWORD",
        "postgresql://u@h/db?passfile=/S3&CRETWORD=1",
    ):
        assert "CRETWORD" not in refusal(url)


@pytest.mark.parametrize(
    "rest",
    [
        "h",
        "/db",
        "",
        "u@h",
        "u@/db?host=/run/postgresql",
        "h:5432,[::1]:5433,h3/db",
        "%2Frun%2Fpostgresql/db",
        "u:a:b@h/db",
        "u%40corp:p%2Fw@h/db",
        "h/db?sslmode=verify-full&sslrootcert=/etc/root.crt&target_session_attrs=read-write",
        "h/db?schema=user&pooler=transaction&application_name=mine",
        "h/db?passfile=/home/me/.pgpass&service=mine&krbsrvname=x&gsslib=gssapi&host=a,b&port=1,2",
        "h/db?password=a=b?c/d",
        "h/db?",
        "h/d%2Fb",
        "é:é@h/é",
    ],
)
def test_what_can_be_meant_is_taken(rest: str) -> None:
    for face in FACES:
        face(f"postgresql://{rest}")
        face(f"POSTGRES://{rest}")


def test_the_driver_gets_what_was_written_however_it_was_encoded() -> None:
    from asyncpg import connect_utils  # the driver's own understanding of what we hand it

    for user, password, database in itertools.product(
        ["me", "a@b", "ü;x"], ["p", "a:b/c?d#e&f=g%h@i+j k", "é"], ["d", "a/b"]
    ):
        quoted = [urllib.parse.quote(text, safe="") for text in (user, password, database)]
        in_authority = "postgresql://{}:{}@h:7,[::1]:8/{}".format(*quoted)
        in_options = "postgresql://h:7,[::1]:8/?user={}&password={}&dbname={}".format(*quoted)
        for url in (in_authority, in_options):
            address = parse_url(url)
            assert len(address.urls) == 2
            for url_of_host, expected in zip(address.urls, [("h", 7), ("::1", 8)], strict=True):
                addrs, params = connect_utils._parse_connect_dsn_and_args(
                    dsn=url_of_host, host=None, port=None, user=None, password=None, passfile=None, database=None,
                    ssl=None, service=None, servicefile=None, direct_tls=None, server_settings=None,
                    target_session_attrs=None, krbsrvname=None, gsslib=None,
                )  # fmt: skip
                assert addrs == [expected]
                assert (params.user, params.password, params.database) == (user, password, database)
                assert params.server_settings is None


def test_the_name_of_the_application_counts(postgres: Server, url: str) -> None:
    query = (
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name IN ('contextstore', 'my app')"
    )
    for option, expected in (
        ("", "contextstore"),
        ("&application_name=my%20app", "my app"),
        ("&application_name=", "contextstore"),
    ):
        with ContextStore(url + option) as store:
            store.put("run", "node", 1, exist_ok=True)
            store.get_run("run")
            names = [name for (name,) in execute(postgres, query)]
        assert expected in names
        assert "my app" not in names or expected == "my app"


def test_masking_leaves_alone_what_only_looks_like_the_password() -> None:
    address = parse_url("postgresql://x:x@h/db?schema=contexts")
    assert address.location == "postgresql://x@h/db?schema=contexts"
    for text in ("schema contextstore", 'role "x" does not exist', "x"):
        assert address.hide(text) == text
    address = parse_url("postgresql://postgres:postgres@h/postgres")
    assert address.hide('role "postgres" does not exist') == 'role "postgres" does not exist'
    address = parse_url("postgresql://u:store@h/db")
    assert address.hide("schema contextstore: store, 'store'") == "schema contextstore: ***, '***'"


def test_an_address_shows_no_password_where_variables_are_shown() -> None:
    address = parse_url("postgresql://u:T0PS3CRET@h/db?sslpassword=T0PS3CRET")
    assert "T0PS3CRET" not in f"{address!r} {address} {[address]}"


# ----------------------------------------------------------------------------------------------------- badly written


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("u:S3@CRET@h/db", "more than one '@'"),
        ("u:@@h/db", "more than one '@'"),
        ("u:S3/CRET@h/db", "a '/' or '\\?' in its user or password"),
        ("u:S3?CRET@h/db", "a '/' or '\\?' in its user or password"),
        ("u:S3#CRET@h/db", "'#'"),
        ("u:S3%CRET@h/db", "a '%' that begins no encoded character"),
        ("u:S3 CRET@h/db", "a space"),
        ("u:S3\nCRET@h/db", "a space or a control character"),
        ("u:S3\tCRET@h/db", "a space or a control character"),
        ("u:S3[CRET@h/db", "a bracket"),
        ("u:S3%ffCRET@h/db", "not UTF-8"),
        ("u:S3%00CRET@h/db", "NUL"),
        ("u:S3\uff20CRET@h/db", "may be taken for"),
        ("u;S3CRET@h/db", "user's name"),
        ("u=S3CRET@h/db", "user's name"),
        ("u,S3CRET@h/db", "user's name"),
        ("u%3AS3CRET@h/db", "user's name"),
        ("u:S3CRET/db", "is no number"),
        ("u@S3CRET:h/db", "is no number"),
        ("u@h:S3CRET/db", "is no number"),
        ("u@h:99999/db", "is no number"),
        ("uS3CRET@h:", "is no number"),
        ("u@h,,i/db", "a host that can be none"),
        ("u@S3!CRET/db", "a host that can be none"),
        ("u@[S3CRET]/db", "a host that can be none"),
        ("u@h/db/S3CRET", "more than one name behind the host"),
        ("u@h/db:S3CRET", "more than one name behind the host"),
        ("/u:S3CRET@h/db", "'@' behind its host"),
    ],
)
def test_what_is_not_encoded_is_told_so_and_not_shown(rest: str, words: str) -> None:
    message = refusal(f"postgresql://{rest}")
    assert re.search(words, message)
    assert "CRET" not in message


@contextlib.contextmanager
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names that anything in this process has looked up, of which none is found."""
    names: list[str] = []

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(str(host))
        raise socket.gaierror(-2, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket, "gethostbyname", getaddrinfo)
        yield names


SPECIAL = "@/#?:%&=+;,[]{}()<>!$'\"\\|^~` \t\n\x7f*-_.é\u2100"


def secret_of(chance: random.Random, number: int) -> str:
    """A password with, in turn, each of the special characters in it, between parts that stand nowhere else."""
    parts = ["".join(chance.choices("QZXJKVWY", k=chance.randint(4, 8))) for _ in range(chance.randint(2, 4))]
    specials = [SPECIAL[number % len(SPECIAL)], *chance.choices(SPECIAL, k=3)]
    secret = parts[0]
    for part in parts[1:]:
        secret += specials.pop(0) + part
    return secret


def urls_with(secret: str, chance: random.Random) -> Iterator[str]:
    encoded = urllib.parse.quote(secret, safe="")
    half = secret[: len(secret) // 2] + urllib.parse.quote(secret[len(secret) // 2 :], safe="")
    for text in (secret, encoded, half, urllib.parse.quote(secret), urllib.parse.quote(encoded)):
        for form in (
            "postgresql://app:{}@db.invalid:5432/flows",
            "postgresql://app:{}@db.invalid,other.invalid/flows?target_session_attrs=read-write",
            "postgresql://db.invalid/flows?user=app&password={}",
            "postgresql://app@db.invalid/flows?sslpassword={}&sslmode=require",
            "postgresql://app@db.invalid/flows?password={}&schema=mine",
            "postgresql://app@db.invalid/flows?passfile=/{}",
            "postgres://app:{}@db.invalid",
            "postgresql://app:{}@/flows?host=db.invalid",
            "app:{}@db.invalid:5432/flows",
            "host=db.invalid user=app password={}",
            "host=db.invalid user=app password='{}'",
            "Server=db.invalid;Password={};",
            "jdbc:postgresql://db.invalid/flows?password={}",
            "postgresql+asyncpg://app:{}@db.invalid/flows",
            "postgresql:/app:{}@db.invalid/flows",
        ):
            url = form.format(text)
            yield url
            if "://" in (other := mangled(url, chance, secret)):  # else it may be a path
                yield other


def mangled(url: str, chance: random.Random, secret: str) -> str:
    """One of the marks that a URL is made of is lost, doubled, moved, or another one."""
    places = [place for place, character in enumerate(url) if character in ":/@?&=" and character not in secret]
    if not places:
        return url
    place = chance.choice(places)
    # (Where a mark is lost altogether a password is a part of the user's name, as far as anybody can tell.)
    way = chance.choice(["doubled", "another", "moved"])
    if way == "doubled":
        return url[:place] + url[place] + url[place:]
    if way == "another":
        return url[:place] + chance.choice(":/@?&=#;,%") + url[place + 1 :]
    return url[:place] + url[place + 1 :] + url[place]


def pieces_of(secret: str) -> set[str]:
    plain = urllib.parse.quote(secret, safe="")
    return {text[i : i + 3] for text in (secret, plain) for i in range(len(text) - 2) if text[i : i + 3].isalnum()}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2, 3))])
def test_no_part_of_a_password_gets_out_however_badly_the_url_is_written(
    seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(traceback, "print_exc", lambda: None)
    caplog.set_level(logging.DEBUG)
    chance = random.Random(seed)
    opened = 0
    with looked_up(monkeypatch) as names:
        for number in range(seed * 12, seed * 12 + 12):
            secret = secret_of(chance, number)
            for url in urls_with(secret, chance):
                said = []
                try:
                    store = ContextStore(url, timeout=0, create=False)
                    said.append(repr(store))
                    if opened < 400:  # the rest would take too long
                        opened += 1
                        try:
                            store.open()
                        finally:
                            said.append(repr(store))
                            store.close()
                except (ValueError, StorageError) as error:
                    said += [str(error), repr(error), "".join(traceback.format_exception(error))]
                    # Each line of the test's own program that the traceback shows is constant text.
                text = " ".join([*said, *names, caplog.text])
                found = {piece for piece in pieces_of(secret) if piece in text}
                assert not found, (url, found, said)
                names.clear()
                caplog.clear()
    assert opened > 50
    assert os.listdir() == []


def test_a_server_that_repeats_the_password_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    class Verbose:
        """Answers whatever it is asked with an error that has the password in it."""

        def __init__(self) -> None:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
            threading.Thread(target=self.serve, daemon=True).start()

        def serve(self) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = self.listener.accept()
                    connection.recv(1000)  # asks for TLS
                    connection.sendall(b"N")
                    connection.recv(1000)
                    fields = b"SFATAL\0VFATAL\0C28P01\0Mthe password 'T0P-S3CRET' of u is wrong, not T0P\0\0"
                    connection.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
                    connection.close()

    server = Verbose()
    try:
        for url in (
            f"postgresql://u:T0P-S3CRET@127.0.0.1:{server.port}/db?sslmode=prefer",
            f"postgresql://u@127.0.0.1:{server.port}/db?password=T0P-S3CRET&sslmode=prefer",
        ):
            for face in FACES:
                store = face(url, timeout=2)
                opening = store.open if face is ContextStore else lambda store=store: asyncio.run(store.open())
                with pytest.raises(StorageError) as caught:
                    opening()
                shown = "".join(traceback.format_exception(caught.value))
                assert "T0P-S3CRET" not in shown + caplog.text
                assert "the password '***' of u is wrong" in str(caught.value)
    finally:
        server.listener.close()


def test_help_knows_postgresql() -> None:
    text = AsyncContextStore.__doc__ or ""
    for word in (
        "postgresql://",
        "the extra ``postgres``",  # without the name of a package: on PyPI that is another project's
        "?schema=",
        "16 MiB",
        "max_connections",
        "application_name",
    ):
        assert word in text


def test_all_characters_may_stand_in_a_password_that_is_encoded(postgres: Server) -> None:
    password = string.printable.replace("\0", "") + "é\u2100"
    credentials = f"postgres:{urllib.parse.quote(password, safe='')}"
    with ContextStore(f"postgresql://{credentials}@127.0.0.1:{postgres.port}/postgres?schema=printable") as store:
        store.put("run", "node", 1)
        assert store.get("run", "node") == 1
