"""The inspector: pages that show what flows left behind, live. Needs ``pip install 'contextstore[ui]'``.

    contextstore ui flows.db            # on this machine, at an address with a token of its own

    from contextstore.inspector import app
    service.mount("/flows", app(store))  # within a service of your own, behind its own log-in

Rules of this package: public calls of the package alone, as the command line. ``guard`` alone decides who may look;
``pages`` alone answers requests; each view knows one address, and makes of the store's answers what a template shows.
What the extra brings is imported once it is known that it is there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from .. import AsyncContextStore, ContextStore
from .._inspect.figures import CommitFigures, CommitSummary

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["CommitFigures", "CommitSummary", "app"]

_EXTRA = {"starlette", "jinja2", "sse_starlette", "uvicorn"}


def app(
    store: AsyncContextStore | ContextStore,
    *,
    token: str | None = None,
    allow_delete: bool = False,
    allowed_hosts: Collection[str] | None = None,
    figures: CommitFigures | None = None,
) -> ASGIApp:
    """The pages as an ASGI application: to be served by itself, or mounted in a service of your own.

    It neither opens nor closes the store: whoever made it does. Nothing is written unless ``allow_delete``.

    Args:
        store: either face of the store.
        token: what a browser has to bring once, as ``?token=``, before it is shown anything; a cookie stands for it
            from then on. None: everybody who reaches the application may look, as behind the log-in of a service.
        allow_delete: whether runs and globals may be deleted from the pages.
        allowed_hosts: the names, with or without a port, under which the pages may be asked for, against DNS rebinding;
            others are refused. None: any.
        figures: an observer that the store was made with (``observers=[figures]``), for the plots of commits.

    Raises:
        ImportError: the extra ``ui`` is not installed.
    """
    try:
        from .application import make_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ImportError(
            "contextstore.inspector needs starlette and jinja2: pip install 'contextstore[ui]'"
        ) from error
    return make_app(store, token=token, allow_delete=allow_delete, allowed_hosts=allowed_hosts, figures=figures)
