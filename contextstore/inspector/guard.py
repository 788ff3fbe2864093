"""Who may look, and what a browser may do with what it is shown.

Rules of this module: it alone decides that, before anything else sees a request, and for every address alike; the style
sheet alone, which is the same for everybody, needs no token. It is told neither what a page shows nor what a store is.
No answer has the token in it, nor the name that a request came under.

A browser brings the token once, in the address that was printed, and is given a cookie for it. It then goes on to the
same address without the token by way of a small page: a cookie that is ``SameSite=Strict`` is not sent along a redirect
of a visit that began at another site, as from a chat. Cookies know no ports. So the cookie's name has the port, or two
servers on one machine would take each other's; and its value is no token, since each of the two is sent it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import urllib.parse
from collections.abc import Collection, Iterator
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .hosts import Host, Hosts, parsed
from .pages import environment, json_response, static_version

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_ON_EVERY_ANSWER = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for what does not know frame-ancestors
    # Other sites are told nothing. Our own forms would name no Origin if it were no-referrer.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_METHODS = ("GET", "HEAD", "POST")
_MOST_PARAMETERS = 128  # a page repeats those that it was asked for in each of its addresses
_STYLE_SHEET = re.compile(r"/static/[0-9a-f]+/style\.css")
_STREAM = re.compile(r".*/live")

WHOLE_ADDRESS_NEEDED = "This needs the whole address that was printed when the pages were started."


class Refused(Exception):  # noqa: N818 - it is an answer more than an error
    """Why a request is not let in."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


class _Request(NamedTuple):
    """A request, as far as it matters here."""

    scope: Scope
    method: str
    path: str  # without that of the mount
    host: Host

    def headers(self, name: bytes) -> list[str]:
        return _headers(self.scope, name)

    def header(self, name: bytes) -> str | None:
        """The value of one that is there at most once; several are none that could be trusted, and are empty."""
        values = self.headers(name)
        return (values[0] if len(values) == 1 else "") if values else None


class Guard:
    """The application behind a token, a cookie, and checks of Host and Origin.

    Raises:
        ValueError: the token is empty, or an allowed host is none.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, allowed_hosts: Collection[str] | None) -> None:
        if token is not None and not token.strip():
            raise ValueError("the token is empty: None is what lets everybody look")
        self._app = app
        self._token = None if token is None else token.encode()
        self._cookie = _derived(self._token, "cookie")
        self._hosts = None if allowed_hosts is None else Hosts(allowed_hosts)
        self.form_token = _derived(self._token, "form")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        try:
            answer = self._answer(scope)
        except Refused as refusal:
            answer = _refusal(scope, refusal)
        await (answer or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """What the guard answers itself. None: the request is let in."""
        request = self._read(scope)
        _refuse_other_sites(request)
        if self._token is None or _STYLE_SHEET.fullmatch(request.path):
            return None
        if request.method != "POST" and (given := _tokens_in(scope)):
            return self._moved_on(request, given)
        if not self._is_known(request):
            raise Refused(401, WHOLE_ADDRESS_NEEDED, **{"www-authenticate": "Bearer"})
        return None

    def _read(self, scope: Scope) -> _Request:
        """The request, with its name checked: that is what everything else is held against."""
        hosts = _headers(scope, b"host")
        host = parsed(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            raise Refused(400, "A request names one host, and this one does not.")
        own_address = (scope.get("server") or (None,))[0]
        if self._hosts is not None and not self._hosts.allow(host, own_address):
            raise Refused(
                403, "The pages are not to be asked for under this name. (--allow-host, or allowed_hosts, allows one.)"
            )
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not scope["path"].startswith("/") or scope["path"].startswith("//"):
            raise Refused(400, "This is no address of a page.")
        if scope["method"] not in _METHODS:
            raise Refused(405, "The pages know GET, HEAD and POST.", allow=", ".join(_METHODS))
        if scope.get("query_string", b"").count(b"&") >= _MOST_PARAMETERS:
            raise Refused(400, f"An address has at most {_MOST_PARAMETERS} parameters.")
        return _Request(scope, scope["method"], path, host)

    # -- the token ----------------------------------------------------------------------------------------------------

    def _moved_on(self, request: _Request, given: list[str]) -> Response:
        """The same address without the token, with a cookie if the token was the right one."""
        is_right = len(given) == 1 and _same(given[0], self._token)
        if not is_right and not self._is_known(request):
            raise Refused(401, WHOLE_ADDRESS_NEEDED, **{"www-authenticate": "Bearer"})
        answer = _door(200, "Signed in", next=_address_without_token(request.scope))
        answer.headers["referrer-policy"] = "no-referrer"  # this page's own address has the token
        if is_right:
            answer.set_cookie(
                _cookie_name(request),
                self._cookie,
                path=request.scope.get("root_path") or "/",
                secure=request.scope.get("scheme") == "https",
                httponly=True,
                samesite="strict",
            )
        return answer

    def _is_known(self, request: _Request) -> bool:
        """Whether it brings the cookie, or as a program the token itself."""
        scheme, _, token = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and _same(token.strip(), self._token):
            return True
        # Somebody else on this host may have set more of that name: they are passed over.
        return any(_same(value, self._cookie.encode()) for value in _cookies(request))


def _derived(token: bytes | None, purpose: str) -> str:
    """A secret that servers with one token share, and from which nobody finds the token."""
    return hmac.new(token or secrets.token_bytes(32), f"contextstore {purpose}".encode(), hashlib.sha256).hexdigest()


def _same(given: str, wanted: bytes | None) -> bool:
    return wanted is not None and hmac.compare_digest(given.encode(errors="surrogateescape"), wanted)


def _tokens_in(scope: Scope) -> list[str]:
    return [value for name, value in _parameters(scope) if name == "token"]


def _parameters(scope: Scope) -> list[tuple[str, str]]:
    text = scope.get("query_string", b"").decode("latin-1")
    return urllib.parse.parse_qsl(text, keep_blank_values=True, errors="replace")


def _address_without_token(scope: Scope) -> str:
    rest = [(name, value) for name, value in _parameters(scope) if name != "token"]
    root = scope.get("root_path", "")
    path = urllib.parse.quote(root + scope["path"].removeprefix(root))
    return path + ("?" + urllib.parse.urlencode(rest, quote_via=urllib.parse.quote) if rest else "")


def _cookie_name(request: _Request) -> str:
    default = 443 if request.scope.get("scheme") == "https" else 80
    return f"contextstore-{request.host.port or default}"


def _cookies(request: _Request) -> Iterator[str]:
    for header in request.headers(b"cookie"):
        for pair in header.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == _cookie_name(request):
                yield value


# -- who asks ---------------------------------------------------------------------------------------------------------


def _refuse_other_sites(request: _Request) -> None:
    """A page of another origin may lead here by a link, and do nothing else: no form, no frame, no stream, no image.

    Another port of this host is another origin, though it is the same site: cookies alone would let it in.
    """
    site, origin = request.header(b"sec-fetch-site"), request.header(b"origin")
    if site is not None:  # no script of a page's can set it
        is_ours = site == "same-origin" or (site == "none" and request.method != "POST")
    elif origin is not None:
        is_ours = parsed(origin.partition("://")[2]) == request.host
    else:
        is_ours = request.method != "POST"
    if not is_ours and not _is_followed_link(request):
        raise Refused(403, "Pages of other sites may lead here, and do nothing else.")


def _is_followed_link(request: _Request) -> bool:
    return (
        request.method != "POST"
        and request.header(b"sec-fetch-mode") == "navigate"
        and request.header(b"sec-fetch-dest") == "document"
        and not _STREAM.fullmatch(request.path)
    )


# -- answers ----------------------------------------------------------------------------------------------------------


def _headers(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted]


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ON_EVERY_ANSWER.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return send_with_headers


def _refusal(scope: Scope, refusal: Refused) -> Response:
    answer = (
        json_response({"error": str(refusal)}, refusal.status)
        if scope["path"].endswith(".json")
        else _door(refusal.status, str(refusal), style=_style_sheet_of(scope) if refusal.status == 401 else "")
    )
    answer.headers.update(refusal.headers)
    return answer


def _door(status: int, sentence: str, *, next: str = "", style: str = "") -> Response:
    """A page that has nothing of the store's in it, nor of what the browser sent but where it goes on to."""
    page = environment().get_template("door.html").render(sentence=sentence, next=next, style=style)
    return HTMLResponse(page, status)


def _style_sheet_of(scope: Scope) -> str:
    return f"{scope.get('root_path', '')}/static/{static_version()}/style.css"
