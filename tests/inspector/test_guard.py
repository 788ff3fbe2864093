"""Who may look, and what a browser may do with what it is shown: as whoever must not would try it."""

from __future__ import annotations

import itertools
import random
import socket
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from contextstore import ContextStore
from contextstore.inspector import app

from .requests import asked, every_address
from .site import served

TOKEN = "a-token-that-nobody-guesses"
SECRET = "the-secret-run"


@pytest.fixture
def store(file_path: Any) -> Iterator[ContextStore]:
    with ContextStore(file_path) as opened:
        opened.put(SECRET, "extract", {"rows": 3})
        yield opened


@pytest.fixture
def site(store: ContextStore) -> Iterator[str]:
    with served(app(store, token=TOKEN, allowed_hosts=["127.0.0.1"])) as address:
        yield address


@pytest.fixture
def http(site: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site, timeout=60) as client:
        yield client


@pytest.fixture
def known(http: httpx.Client) -> httpx.Client:
    """A client that brought the token once."""
    assert http.get("/", params={"token": TOKEN}).status_code == 200
    return http


# ----------------------------------------------------------------------------------------------------------- the token


def test_without_the_token_nothing_of_the_store_is_told_at_any_address(http: httpx.Client, store: ContextStore) -> None:
    for path, method in itertools.product(every_address(), ("GET", "POST", "HEAD")):
        answer = http.request(method, path, params={"id": SECRET}, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code in ((400, 401) if path.startswith("//") else (401,)), (method, path)
        assert SECRET not in answer.text
        assert store.location not in answer.text
        assert "set-cookie" not in answer.headers


def test_whoever_has_no_token_is_told_what_to_do(http: httpx.Client) -> None:
    assert "the whole address that was printed" in http.get("/runs").text
    assert "the whole address that was printed" in http.get("/runs.json").json()["error"]


def test_the_page_that_says_so_has_the_style_of_the_others(http: httpx.Client) -> None:
    style = http.get("/runs").text.partition('rel="stylesheet" href="')[2].partition('"')[0]
    assert http.get(style).headers["content-type"].startswith("text/css")


def test_the_token_is_brought_once(http: httpx.Client) -> None:
    first = http.get("/runs", params={"prefix": "the-", "token": TOKEN})
    assert first.status_code == 200
    assert SECRET not in first.text
    assert 'content="0; url=/runs?prefix=the-"' in first.text
    cookie = first.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert TOKEN not in cookie + first.text
    assert SECRET in http.get("/runs").text


def test_a_program_brings_it_in_a_header(http: httpx.Client) -> None:
    assert http.get("/runs.json", headers={"authorization": f"Bearer {TOKEN}"}).json()["runs"]
    for header in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "", f"Bearer {TOKEN[:-1]}"):
        assert http.get("/runs.json", headers={"authorization": header}).status_code == 401


def test_guesses_are_refused(http: httpx.Client) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    guesses = [
        "",
        " ",
        TOKEN[:-1],
        TOKEN + "x",
        TOKEN.upper(),
        f" {TOKEN}",
        "\0",
        "é",
        "None",
        "null",
        "%00",
        "a" * 20_000,
    ]
    guesses += ["".join(chance.choices(string.printable, k=len(TOKEN))) for _ in range(30)]
    for guess in guesses:
        answer = http.get("/runs", params={"token": guess})
        assert answer.status_code == 401, guess
        assert "set-cookie" not in answer.headers
    assert http.get(f"/runs?token={TOKEN}&token={TOKEN}").status_code == 401
    assert http.get(f"/runs?token=x&token={TOKEN}").status_code == 401


def test_an_old_token_does_not_sign_anybody_out(known: httpx.Client) -> None:
    answer = known.get("/runs", params={"token": "of-the-server-before"})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers


def test_behind_https_the_cookie_is_for_https(store: ContextStore) -> None:
    application = app(store, token=TOKEN)
    answer = asked(application, query=f"token={TOKEN}", scheme="https")
    assert "secure" in answer.headers["set-cookie"].lower()


def test_cookies_of_two_servers_on_one_host_stand_beside_each_other(store: ContextStore) -> None:
    with (
        served(app(store, token=TOKEN)) as one,
        served(app(store, token="another-token-altogether")) as other,
        httpx.Client() as browser,
    ):
        browser.get(one, params={"token": TOKEN})
        assert browser.get(f"{other}/runs").status_code == 401
        browser.get(other, params={"token": "another-token-altogether"})
        assert len(browser.cookies) == 2
        for site in (one, other):
            assert browser.get(f"{site}/runs").status_code == 200


def test_the_cookie_of_another_server_opens_nothing(known: httpx.Client, store: ContextStore) -> None:
    ((name, value),) = known.cookies.items()
    other = app(store, token="another-token-altogether")
    for cookie in (f"contextstore-8787={value}", f"{name}={value}", f"contextstore-8787={TOKEN}", "contextstore-8787="):
        assert asked(other, headers=[("cookie", cookie)]).status_code == 401


def test_a_cookie_that_somebody_else_set_does_not_hide_the_right_one(known: httpx.Client, site: str) -> None:
    ((name, value),) = known.cookies.items()
    answer = httpx.get(f"{site}/runs", headers={"cookie": f"{name}=garbage; other=1; {name}={value}; {name}="})
    assert answer.status_code == 200


def test_a_server_that_was_started_anew_with_the_same_token_knows_its_browsers(store: ContextStore) -> None:
    first, second = app(store, token=TOKEN), app(store, token=TOKEN)
    cookie = asked(first, query=f"token={TOKEN}").headers["set-cookie"].partition(";")[0]
    assert asked(second, headers=[("cookie", cookie)]).status_code == 200


def test_an_address_that_would_lead_elsewhere_is_not_gone_on_to(store: ContextStore) -> None:
    application = app(store, token=TOKEN)
    for path in ("//evil.example/x", "///evil.example", "http://evil.example/", "", "*"):
        answer = asked(application, path, query=f"token={TOKEN}")
        assert answer.status_code == 400, path
        assert b"evil" not in answer.body
    answer = asked(application, '/"><script>', query=f"token={TOKEN}&a=%22%3E%3Cscript%3E;url=//evil.example")
    assert b'content="0; url=/%22%3E%3Cscript%3E?a=%22%3E%3Cscript%3E%3Burl%3D%2F%2Fevil.example"' in answer.body


def test_an_empty_token_is_refused(store: ContextStore) -> None:
    for token in ("", "  "):
        with pytest.raises(ValueError, match="the token is empty"):
            app(store, token=token)


def test_the_token_is_in_no_repr(store: ContextStore) -> None:
    application: Any = app(store, token=TOKEN)
    assert TOKEN not in repr(application)


# ------------------------------------------------------------------------------------------------------------ the host


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8787",
        "127.0.0.2",
        "localhost",
        "0x7f.1",
        "2130706433",
        "127.0.0.1@evil.example",
        "127.0.0.1 evil.example",
        "127.0.0.1:",
        "127.0.0.1:port",
        "127.0.0.1:80:80",
        "[::1]",
        "[",
        "[::1",
        "",
        "é",
        "127.0.0.1,evil.example",
        "127.0.0.1.",
    ],
)
def test_under_another_name_nothing_is_answered(host: str, store: ContextStore) -> None:
    application = app(store, allowed_hosts=["127.0.0.1"])
    for path in every_address():
        answer = asked(application, path, host=host)
        assert answer.status_code in (400, 403), path
        assert SECRET.encode() not in answer.body
        assert b"evil" not in answer.body


def test_a_request_names_one_host(store: ContextStore) -> None:
    for application in (app(store, allowed_hosts=["127.0.0.1"]), app(store)):
        assert asked(application, host=None).status_code == 400
        assert asked(application, headers=[("host", "127.0.0.1:8787")]).status_code == 400
        assert asked(application).status_code == 200


@pytest.mark.parametrize(
    ("allowed", "right", "wrong"),
    [
        (
            ["pages.example"],
            ["pages.example", "PAGES.example:80", "pages.example:8787"],
            ["example", "a.pages.example"],
        ),
        (["Pages.Example:8787"], ["pages.example:8787"], ["pages.example", "pages.example:80"]),
        (["pages.example:443"], ["pages.example", "pages.example:443"], ["pages.example:8787"]),
        (["::1"], ["[::1]", "[::1]:8787", "[0:0::1]:1"], ["[::2]", "127.0.0.1", "::1"]),
        (["[::1]:80", "localhost"], ["[::1]", "localhost:9"], ["[::1]:81"]),
        ([], [], ["127.0.0.1:8787", "localhost"]),
    ],
)
def test_allowed_hosts_are_names_with_or_without_a_port(
    allowed: list[str], right: list[str], wrong: list[str], store: ContextStore
) -> None:
    application = app(store, allowed_hosts=allowed)
    for hosts, is_right in ((right, True), (wrong, False)):
        for host in hosts:
            answer = asked(application, host=host)
            assert (answer.status_code == 200) is is_right, host


def test_what_is_no_host_cannot_be_allowed(store: ContextStore) -> None:
    wrong: list[Any] = [["http://pages.example"], ["*"], ["a b"], ["pages.example/x"], [""], "pages.example"]
    for allowed in wrong:
        with pytest.raises(ValueError, match="host"):
            app(store, allowed_hosts=allowed)


def test_an_absolute_target_does_not_get_around_it(site: str) -> None:
    host, port = site.removeprefix("http://").split(":")
    for target in (f"http://{host}:{port}/runs", "http://evil.example/runs", "evil.example:80", "*"):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert SECRET.encode() not in answer


def test_an_address_of_very_many_parameters_is_refused(store: ContextStore) -> None:
    application = app(store)
    for count, status in ((128, 200), (129, 400), (20_000, 400)):
        answer = asked(application, query="&".join(["state=open"] * count))
        assert answer.status_code == status, count
    assert len(answer.body) < 2000
