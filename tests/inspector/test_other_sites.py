"""What pages of other sites, other ports and odd clients can do with the inspector: lead to it, and nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from contextstore import ContextStore
from contextstore.inspector import app

from .requests import asked, every_address
from .site import served

TOKEN = "a-token-that-nobody-guesses"

SAME = ("sec-fetch-site", "same-origin")
OWN = ("origin", "http://127.0.0.1:8787")
LINK = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]


@pytest.fixture
def store(file_path: Any) -> Iterator[ContextStore]:
    with ContextStore(file_path) as opened:
        opened.put("run-1", "extract", {"rows": 3})
        yield opened


@pytest.fixture
def visited(browser: Browser) -> Iterator[Page]:
    """A page of a browser that has been nowhere yet."""
    context = browser.new_context()
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


# ------------------------------------------------------------------------------------------------------- by the headers


def test_every_answer_has_every_header_whatever_it_says(store: ContextStore) -> None:
    for application in (app(store), app(store, token=TOKEN), app(store, allowed_hosts=["other.example"])):
        for path in every_address():
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"):
                answer = asked(application, path, method=method, headers=[SAME])
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
                assert "unsafe" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] in ("same-origin", "no-referrer")
                assert answer.headers["cross-origin-opener-policy"] == "same-origin"
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"
                assert not [name for name in answer.headers if name.startswith("access-control")]
                is_kept = path == "/static/0/js/main.js" and answer.status_code == 200
                assert ("immutable" if is_kept else "no-store") in answer.headers["cache-control"], (path, method)


def test_other_methods_are_refused_with_those_that_there_are(store: ContextStore) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"):
        answer = asked(app(store), method=method)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert asked(app(store), method="HEAD").status_code == 200
    assert asked(app(store), method="POST", headers=[SAME]).status_code == 405


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ([SAME], True),
        ([SAME, OWN], True),
        ([OWN], True),
        ([], False),
        ([("origin", "null")], False),
        ([("origin", "")], False),
        ([("origin", "http://127.0.0.1:9999")], False),
        ([("origin", "http://localhost:8787")], False),
        ([("origin", "http://evil.example")], False),
        ([("origin", "http://127.0.0.1:8787.evil.example")], False),
        ([OWN, ("origin", "http://evil.example")], False),
        ([OWN, ("sec-fetch-site", "cross-site")], False),
        ([OWN, ("sec-fetch-site", "same-site")], False),
        ([OWN, ("sec-fetch-site", "none")], False),
        ([OWN, SAME, ("sec-fetch-site", "cross-site")], False),
        ([("sec-fetch-site", "cross-site"), *LINK], False),
    ],
)
def test_a_form_comes_from_a_page_of_ours_or_not_at_all(
    headers: list[tuple[str, str]], is_ours: bool, store: ContextStore
) -> None:
    answer = asked(app(store), "/run/delete", method="POST", headers=headers)
    assert answer.status_code == 403
    assert (b"--allow-delete" in answer.body) is is_ours


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([SAME], 200),
        ([("sec-fetch-site", "none"), *LINK], 200),
        ([("sec-fetch-site", "cross-site"), *LINK], 200),
        ([("sec-fetch-site", "same-site"), *LINK], 200),
        ([("sec-fetch-site", "cross-site")], 403),
        ([("sec-fetch-site", "same-site")], 403),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")], 403),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], 403),
        ([("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")], 403),
        ([("origin", "http://evil.example")], 403),
        ([("origin", "null")], 403),
    ],
)
def test_other_sites_may_lead_to_a_page_and_do_nothing_else(
    headers: list[tuple[str, str]], status: int, store: ContextStore
) -> None:
    assert asked(app(store), headers=headers).status_code == status


def test_other_sites_do_not_even_lead_to_a_stream(store: ContextStore) -> None:
    for path in ("/runs/live", "/run/live", "/health/live"):
        for site in ("cross-site", "same-site"):
            assert asked(app(store), path, headers=[("sec-fetch-site", site), *LINK]).status_code == 403


# -------------------------------------------------------------------------------------------------------- in a browser


def other_site(html: str) -> Starlette:
    def page(_: Request) -> HTMLResponse:
        return HTMLResponse(f"<!doctype html><title>other</title>{html}")

    return Starlette(routes=[Route("/", page)])


def test_a_visit_that_begins_at_another_site_signs_in_and_the_address_has_no_token(
    store: ContextStore, visited: Page
) -> None:
    referers: list[str] = []
    visited.on("request", lambda request: referers.append(request.headers.get("referer", "")))
    with served(app(store, token=TOKEN)) as site:
        link = f'<a href="{site}/runs?prefix=run&amp;token={TOKEN}">look</a>'
        with served(other_site(link)) as elsewhere:
            visited.goto(
                elsewhere.replace("127.0.0.1", "localhost")
            )  # another site, as localhost is none of an address
            visited.get_by_role("link", name="look").click()
            expect(visited.get_by_role("link", name="run-1")).to_be_visible()
            assert visited.url == f"{site}/runs?prefix=run"
            assert TOKEN not in "".join(referers)
            visited.goto(f"{site}/runs")
            expect(visited.get_by_role("link", name="run-1")).to_be_visible()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_another_port_deletes_nothing(name: str, store: ContextStore, visited: Page) -> None:
    """With the same host it is the same site: the cookie comes along, and does not help."""
    application = app(store, token=TOKEN, allow_delete=True)
    with served(application) as site:
        form = (
            f'<form method="post" action="{site}/run/delete"><input name="id" value="run-1">'
            f'<input name="form_token" value="{application.form_token}"><button>Win</button></form>'  # type: ignore[attr-defined]  # the guard's
        )
        visited.goto(f"{site}/?token={TOKEN}")
        expect(visited.get_by_role("link", name="run-1")).to_be_visible()
        with served(other_site(form)) as elsewhere:
            visited.goto(elsewhere.replace("127.0.0.1", name))
            with visited.expect_response(lambda response: response.request.method == "POST") as answered:
                visited.get_by_role("button").click()
    assert answered.value.status in (401, 403)
    assert store.list_keys("run-1") == ["extract"]


def test_a_page_of_another_port_reads_and_frames_nothing(store: ContextStore, visited: Page) -> None:
    with served(app(store, token=TOKEN)) as site:
        visited.goto(f"{site}/?token={TOKEN}")
        expect(visited.get_by_role("link", name="run-1")).to_be_visible()
        with served(other_site(f'<iframe src="{site}/runs"></iframe>')) as elsewhere:
            visited.goto(elsewhere)
            assert visited.frames[1].locator("text=run-1").count() == 0
            tries = """async (site) => {
                const tell = (given) => given.then((answer) => answer.text(), () => "refused");
                const script = () => new Promise((tell) => {
                    const made = document.createElement("script");
                    made.src = site + "/runs.json";
                    made.onload = () => tell("loaded");
                    made.onerror = () => tell("refused");
                    document.head.append(made);
                });
                const credentials = "include";
                return [
                    await tell(fetch(site + "/runs.json", {credentials})),
                    await tell(fetch(site + "/runs.json", {credentials, mode: "no-cors"})),
                    await script(),
                ];
            }"""
            assert visited.evaluate(tries, site) in (["refused"] * 3, ["refused", "", "refused"])


def test_a_script_that_got_into_a_page_would_not_run(store: ContextStore, visited: Page) -> None:
    """Were anything not escaped: by an element, by an attribute, by an address, and from elsewhere."""
    with served(app(store)) as site:
        visited.goto(f"{site}/runs")
        refused: list[str] = []
        visited.on("console", lambda message: refused.append(message.text))
        ran = visited.evaluate(
            """async () => {
                window.ran = [];
                const into = document.querySelector("main");
                const script = document.createElement("script");
                script.textContent = "ran.push('script')";
                into.append(script);
                into.insertAdjacentHTML("beforeend", `
                    <img src="data:," onerror="ran.push(1)">
                    <a href="javascript:ran.push(2)">x</a>
                    <base href="//evil.example/">
                    <iframe srcdoc="<script>parent.ran.push(3)</script>"></iframe>`);
                into.querySelector("a[href^=javascript]").click();
                await new Promise((then) => setTimeout(then, 100));
                return [window.ran, new URL("x", document.baseURI).origin === location.origin];
            }"""
        )
        assert ran == [[], True]
        assert refused


HOSTILE = [
    "<script>window.ran=1</script>",
    '"><img src=x onerror="window.ran=1">',
    "'-window.ran=1-'",
    "javascript:window.ran=1",
    "{{ 7*7 }}<svg/onload=window.ran=1>",
    "</title><script>window.ran=1</script>",
    "..",
    "a/b?c#d%2f",
]


def test_what_is_hostile_is_text_in_every_view(store: ContextStore, visited: Page) -> None:
    from contextstore.inspector.application import VIEWS

    for text in HOSTILE:
        store.run(text).begin(attributes={"flow": text})
        store.put(text, text, {text: text})
        store.upsert_global(text, text)
    said: list[str] = []
    visited.on("dialog", lambda dialog: said.append(dialog.message))
    visited.on("pageerror", lambda error: said.append(str(error)))
    with served(app(store, allow_delete=True)) as site:
        for path in [path for path in VIEWS if "{" not in path]:
            for text in HOSTILE[:2]:
                given = dict.fromkeys(("id", "run", "key", "prefix", "a", "b", "state", "after"), text)
                address = str(httpx.URL(f"{site}{path}", params=given))
                visited.goto(address)
                assert visited.evaluate("window.ran") is None, address
                assert visited.locator("main script, main img, main svg[onload]").count() == 0, address
    assert said == []


# -------------------------------------------------------------------------------------------- mounted, and odd clients


def test_mounted_in_a_service_addresses_and_the_cookie_are_below_its_path(store: ContextStore) -> None:
    mounted = app(store, token=TOKEN)
    with (
        served(Starlette(routes=[Mount("/flows", mounted)])) as site,
        httpx.Client(base_url=site) as client,
    ):
        answer = client.get(f"/flows/runs?token={TOKEN}")
        assert 'content="0; url=/flows/runs"' in answer.text
        assert "Path=/flows" in answer.headers["set-cookie"].split("; ")
        assert "run-1" in client.get("/flows/runs").text
        style = client.get("/flows/runs").text.partition('rel="stylesheet" href="')[2].partition('"')[0]
        assert style.startswith("/flows/static/")
        assert httpx.get(f"{site}{style}").status_code == 200
        assert httpx.get(f"{site}/flows/runs").status_code == 401


def test_odd_heads_are_refused_and_break_nothing(store: ContextStore) -> None:
    with served(app(store)) as site:
        host, port = site.removeprefix("http://").split(":")
        for head in (
            b"GET /runs?prefix=" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
            b"GET /runs\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /runs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        ):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                try:
                    connection.sendall(head)
                    answer = connection.makefile("rb").read()
                except ConnectionError:  # it did not read to the end
                    answer = b""
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
        for query in (
            "prefix=%",
            "prefix=%zz",
            "prefix=%ff%fe",
            "prefix=%00",
            "limit=-1",
            "after=%F0%9F",
            "&&&===",
            "prefix",
        ):
            assert httpx.get(f"{site}/runs?{query}").status_code in (200, 400), query


def test_clients_that_stop_half_way_leave_nothing(store: ContextStore) -> None:
    with served(app(store, allow_delete=True)) as site:
        host, port = site.removeprefix("http://").split(":")
        assert httpx.get(f"{site}/runs").status_code == 200  # from here on every thread is there that there will be
        before = threading.active_count()
        head = f"POST /run/delete HTTP/1.1\r\nHost: {host}:{port}\r\nSec-Fetch-Site: same-origin\r\n"
        form = f"{head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nid=run-1&"
        open_ones = []
        for number in range(60):
            connection = socket.create_connection((host, int(port)), timeout=60)
            connection.sendall((form if number % 2 else head).encode())
            open_ones.append(connection)
        assert httpx.get(f"{site}/runs").status_code == 200
        assert threading.active_count() <= before
        for connection in open_ones:
            connection.close()
        assert httpx.get(f"{site}/runs").status_code == 200
    assert store.list_keys("run-1") == ["extract"]
