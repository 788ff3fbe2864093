"""What the pages do: they delete, if that was allowed, and begin a check.

Rules of this module: a form is read here alone, and no further than it may be long. ``guard`` has decided that it
comes from a page of ours; the token that it brings shows it once more. An answer leads on to where the change is seen,
so that a reload repeats nothing.
"""

from __future__ import annotations

import functools
import hmac
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from .. import ContextStore, errors
from .._display.text import id_of, shown_id
from .._inspect.runs import was_deleted
from .look import Look, Refusal
from .pages import refused, refused_by

LONGEST_FORM = 64 * 1024

NOT_ALLOWED = (
    "These pages only show the store: contextstore ui --allow-delete, or app(allow_delete=True), lets them delete."
)

Form = Mapping[str, str]
Action = Callable[[Look, Form], str]
"""An action is called in a worker thread, and returns the address at which one sees what it did."""


def delete_run(look: Look, form: Form) -> str:
    """Delete a run, for good, with all of its outputs."""
    run = id_of(_required(form, "id"))  # as a page shows it: a form changes line ends on its way
    # One that was deleted before is known, too: to delete it again removes what an interrupted deletion has left.
    if run and not was_deleted(look.store, run):
        raise Refusal(f"There is no run {shown_id(run)}; nothing was deleted.")
    look.store.delete_run(run)
    return look.href("/run", id=run)


def delete_global(look: Look, form: Form) -> str:
    """Delete a global, unless it has another version than the one that was shown."""
    key, shown = id_of(_required(form, "key")), form.get("version", "")
    if not shown:  # it cannot be read
        is_gone = not look.store.delete_global(key)
    elif shown.isdecimal() and len(shown) < 20:
        is_gone = not _delete_if_still(look.store, key, int(shown))
    else:
        raise Refusal("The form's version is no number.", 400)
    if is_gone:
        raise Refusal(f"There is no global {shown_id(key)} any more; nothing was deleted.")
    return look.href("/globals")


def _delete_if_still(store: ContextStore, key: str, version: int) -> bool:
    """Delete a global of this version in one step. False: it is not there any more."""
    try:
        with store.batch() as batch:
            batch.expect_global(key, version)
            batch.delete_global(key)
    except errors.VersionConflictError as error:
        if error.actual == 0:
            return False
        raise Refusal(
            f"Global {shown_id(key)} has been written since: version {version} was shown, and it has version "
            f"{error.actual}. Nothing was deleted.",
            409,
        ) from None
    return True


def begin_check(look: Look, _: Form) -> str:
    """Begin to look through the whole store for damage, which only reads."""
    look.inspector.check_job.begin()
    return look.href("/health")


ACTIONS: dict[str, Action] = {
    "/run/delete": delete_run,
    "/global/delete": delete_global,
    "/health/check": begin_check,
}

_READING = {begin_check}
"""Those that delete nothing: they take a form since they cost something, and a link would be followed by anything."""


def endpoint(action: Action) -> Callable[[Request], Any]:
    """The endpoint of an action, for POST alone."""

    @functools.wraps(action)
    async def answer(request: Request) -> Response:
        look = Look(request.app.state.inspector, request)
        try:
            if action not in _READING and not look.inspector.allow_delete:
                raise Refusal(NOT_ALLOWED, 403)
            form = await _form_of(request)
            if not hmac.compare_digest(form.get("form_token", "").encode(), look.inspector.form_token.encode()):
                raise Refusal("This form is of before the pages were started anew: load its page again.", 403)
            return RedirectResponse(await run_in_threadpool(action, look, form), 303)
        except Refusal as refusal:
            return refused(look, str(refusal), refusal.status)
        except errors.ContextStoreError as error:
            return refused_by(look, error)

    return answer


def _required(form: Form, name: str) -> str:
    if name not in form:
        raise Refusal(f"the form lacks {name}", 400)
    return form[name]


async def _form_of(request: Request) -> dict[str, str]:
    """What a form sent; of several values for one name none is taken."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refusal("a form is sent as application/x-www-form-urlencoded", 415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            raise Refusal(f"a form is no longer than {LONGEST_FORM} bytes", 413)
    try:
        pairs = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise Refusal("the form cannot be read", 400) from error
    if len(dict(pairs)) != len(pairs):
        raise Refusal("the form has a name twice", 400)
    return dict(pairs)
