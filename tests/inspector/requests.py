"""Requests that no client would send, and every address that there is."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from contextstore.inspector.actions import ACTIONS
from contextstore.inspector.application import VIEWS


def every_address() -> list[str]:
    """Of what there is, and of what there is not."""
    twins = [f"{path}.json" for path in VIEWS]
    static = ["/static/0/js/main.js", "/static/0/nothing.js", "/static/0/", "/static/../runs"]
    return ["/", "/nowhere", "//", "//x", *static, *VIEWS, *twins, "/run/live", "/runs/live", *ACTIONS]


def asked(
    application: Any,
    path: str = "/runs",
    *,
    method: str = "GET",
    query: str = "",
    headers: list[tuple[str, str]] | None = None,
    host: str | None = "127.0.0.1:8787",
    scheme: str = "http",
    body: bytes = b"",
) -> Response:
    """What an application answers, without a server between. Without a host none is named."""
    named = [("host", host)] if host is not None else []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in [*named, *(headers or [])]],
        "scheme": scheme,
        "server": ("127.0.0.1", 8787),
    }
    told: list[Any] = []
    requests = iter([{"type": "http.request", "body": body, "more_body": False}])
    started = asyncio.Event()

    async def receive() -> Any:
        for request in requests:
            return request
        await started.wait()  # who asked for a stream goes as soon as it has begun
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)
        started.set()

    asyncio.run(application(scope, receive, send))
    answer = Response(b"".join(message.get("body", b"") for message in told[1:]), told[0]["status"])
    answer.raw_headers = told[0]["headers"]
    return answer
