"""Who may look, and what a browser may do with what it is shown.

Rules of this module: it alone decides that, before anything else sees a request, and for every address alike.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """The application behind a token, a cookie, and checks of Host and Origin."""

    def __init__(self, app: ASGIApp, *, token: str | None, allowed_hosts: Collection[str] | None) -> None:
        self._app = app
        self._token = token
        self._allowed_hosts = allowed_hosts
        self.form_token = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
