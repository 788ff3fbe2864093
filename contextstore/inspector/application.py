"""The application: every address, and the view that answers there.

Rules of this module: it wires the rooms of this package together, and does nothing else. The address of a view's JSON
twin is its own with ``.json``.
"""

from __future__ import annotations

import functools
import mimetypes
from collections.abc import Collection

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .. import AsyncContextStore, ContextStore
from .._inspect.figures import CommitFigures
from . import actions, compare, global_keys, health, leases, run, run_stream, runs, streams, value
from .check_job import CheckJob
from .feed import Feeds
from .following import Fill, stream
from .guard import Guard
from .look import Inspector, Look, View
from .pages import FOLDER, environment, page, refused, style_sheet
from .sampling import Sampler

VIEWS: dict[str, View] = {
    "/runs": runs.runs,
    "/run": run.run,
    "/health": health.health,
    "/node": value.node,
    "/state": value.state_value,
    "/compare": compare.compare,
    "/globals": global_keys.list_globals,
    "/global": global_keys.one_global,
    "/leases": leases.leases,
}

STREAMS: dict[str, Fill] = {
    "/runs/live": streams.runs_live,
    "/run/live": run_stream.run_live,
    "/health/live": streams.health_live,
}

_FOR_GOOD = {"cache-control": "public, max-age=31536000, immutable"}


def make_app(
    store: AsyncContextStore | ContextStore,
    *,
    token: str | None,
    allow_delete: bool,
    allowed_hosts: Collection[str] | None,
    figures: CommitFigures | None,
) -> ASGIApp:
    """The application, as ``contextstore.inspector.app`` documents it."""
    environment()  # before anyone looks
    _files()
    routes = [
        Route("/", _front),
        Route("/static/{version}/{name:path}", _file),
    ]
    for path, view in VIEWS.items():
        routes += [Route(path, page(view)), Route(f"{path}.json", page(view))]
    routes += [Route(path, actions.endpoint(action), methods=["POST"]) for path, action in actions.ACTIONS.items()]
    routes += [Route(path, stream(fill)) for path, fill in STREAMS.items()]
    application = Starlette(routes=routes, exception_handlers={404: _not_found})
    application.router.redirect_slashes = False  # an address is ours, or is none
    guard = Guard(application, token=token, allowed_hosts=allowed_hosts)
    called = store if isinstance(store, ContextStore) else store.blocking
    application.state.feeds = Feeds()
    application.state.inspector = Inspector(
        store=called,
        awaitable=called.awaitable,
        location=called.location,
        allow_delete=allow_delete,
        form_token=guard.form_token,
        figures=figures,
        sampler=Sampler(called, figures),
        check_job=CheckJob(called),
    )
    return guard


def _front(request: Request) -> Response:
    return RedirectResponse(Look(request.app.state.inspector, request).href("/runs"))


@functools.cache
def _files() -> dict[str, tuple[bytes, str | None]]:
    """What a browser may ask for by name, and the type of each: no name of its own making ever becomes a path.

    All is kept in memory, and handed out by the loop itself: a page waits for it, and a trip to a thread takes as long
    as all the rest.
    """
    found: dict[str, tuple[bytes, str | None]] = {"style.css": (style_sheet(), "text/css")}
    folder = FOLDER / "static"
    for path in folder.rglob("*.*"):
        if path.suffix != ".css":
            found[path.relative_to(folder).as_posix()] = path.read_bytes(), mimetypes.guess_type(path.name)[0]
    return found


async def _file(request: Request) -> Response:
    content, media_type = _files().get(request.path_params["name"], (None, None))
    if content is None:
        return Response("there is no such file", 404, media_type="text/plain")
    return Response(content, media_type=media_type, headers=_FOR_GOOD)


def _not_found(request: Request, _: Exception) -> Response:
    return refused(Look(request.app.state.inspector, request), "there is no such page", 404)
