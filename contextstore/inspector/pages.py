"""How a view becomes an answer to a request: a page, a part of one, or JSON.

Rules of this module: it alone makes responses of views. Templates escape whatever they are given, and ids of which a
character would not show as itself are written as JSON strings, so that none is mistaken for another.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import pathlib
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from .. import errors
from .._display.amounts import age_words, counted, duration_words, iso, size_words, span_words
from .._display.brief import brief
from .._display.forms import form_of
from .._display.text import escaped, shown_id
from .._inspect.runs import error_line, expected_outputs, other_attributes
from .look import Answer, File, Look, Refusal, View

FOLDER = pathlib.Path(__file__).parent

_STATUS: list[tuple[type[Exception], int]] = [
    (errors.InvalidKeyError, 400),
    (errors.RunDeletedError, 410),
    (errors.ReadOnlyStoreError, 403),
    (errors.StoreBusyError, 503),
    (errors.StoreClosedError, 503),
    (errors.ContextStoreError, 500),
]


def page(view: View) -> Callable[[Request], Response]:
    """The endpoint of a view and of its JSON twin."""

    @functools.wraps(view)
    def endpoint(request: Request) -> Response:
        look = Look(request.app.state.inspector, request)
        try:
            return _response(look, view(look))
        except Refusal as refusal:
            return refused(look, str(refusal), refusal.status)
        except errors.ContextStoreError as error:
            return refused_by(look, error)

    return endpoint


def _response(look: Look, answer: Answer | File) -> Response:
    if isinstance(answer, File):
        return _file_response(answer)
    if look.request.url.path.endswith(".json"):
        return json_response(answer.data, answer.status)
    wanted = look.text("fragment")
    if wanted and wanted not in answer.fragments:
        raise Refusal(f"this page has no part {wanted[:40]!r}", 400)
    template = answer.fragments[wanted] if wanted else answer.template
    return HTMLResponse(render(look, template, **answer.context), answer.status)


def _file_response(file: File) -> Response:
    name = _NO_NAME.sub("_", file.name)[:100].lstrip(".") or "value"
    for_old_ones, for_all = re.sub(r"[^A-Za-z0-9._-]", "_", name), urllib.parse.quote(name, safe="")
    headers = {
        "content-disposition": f"attachment; filename=\"{for_old_ones}\"; filename*=UTF-8''{for_all}",
        "x-content-type-options": "nosniff",
    }
    is_bytes = isinstance(file.content, bytes)
    content = file.content if is_bytes else _json_bytes(file.content)
    return Response(content, media_type=f"application/{'octet-stream' if is_bytes else 'json'}", headers=headers)


_NO_NAME = re.compile(r"[^\w .()+,=@-]")
"""Characters that are no part of a file's name: separators, quotes, what turns the direction of writing."""


def json_response(data: Any, status: int = 200) -> Response:
    """Results of calls as JSON, with the names that the command line gives them, too."""
    return Response(_json_bytes(_form(data)), status, media_type="application/json")


def _json_bytes(form: Any) -> bytes:
    text = json.dumps(form, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="backslashreplace")


def _form(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _form(one) for name, one in data.items()}
    if isinstance(data, list | tuple):
        return [_form(one) for one in data]
    return form_of(data)


def refused(look: Look, sentence: str, status: int) -> Response:
    """A page that says what is wrong, or the same as JSON."""
    if look.request.url.path.endswith(".json"):
        return json_response({"error": sentence}, status)
    return HTMLResponse(render(look, "refusal.html", sentence=sentence, status=status), status)


def refused_by(look: Look, error: errors.ContextStoreError) -> Response:
    """The same of what the store said."""
    return refused(look, str(error), next(status for kind, status in _STATUS if isinstance(error, kind)))


def render(look: Look, template: str, **context: Any) -> str:
    """A template, with what every one of them is given: the look, and the inspector."""
    return environment().get_template(template).render(look=look, inspector=look.inspector, now=look.now, **context)


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, all of them compiled: the first page that a process shows does not wait for it."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        dom_id=dom_id,
        counted=counted,
        size=size_words,
        duration=duration_words,
        span=span_words,
        since=_since,
        iso=iso,
        brief=brief,
        shown_id=shown_id,
        visible=escaped,
        expected=expected_outputs,
        other_attributes=other_attributes,
        error_line=error_line,
        time=_time,
    )
    made.globals.update(version=static_version())
    for name in made.list_templates():
        made.get_template(name)
    return made


def dom_id(text: str, kind: str) -> str:
    """The id of the element that stands for something of the store's: what is swapped when that changes."""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@jinja2.pass_context
def _time(context: jinja2.runtime.Context, then: datetime.datetime | None, missing: str = "—") -> Markup:
    """A time as its age, with the time itself on hover, and for the page to count it on."""
    if then is None:
        return Markup('<span class="muted">{}</span>').format(missing)
    exact, age = iso(then), age_words(then, context["now"])
    return Markup(f'<time datetime="{exact}" title="{exact}">{age}</time>')  # noqa: S704 - digits and words of our own


def _since(seconds: float) -> str:
    """A place on a time line."""
    return f"{'' if seconds < 0 else '+'}{span_words(seconds)}"


@functools.cache
def style_sheet() -> bytes:
    """All of our style sheets as one, so that a page waits for one answer: base first, then each view's."""
    files = sorted((FOLDER / "static" / "css").glob("*.css"), key=lambda file: (file.name != "base.css", file.name))
    return b"\n".join(file.read_bytes() for file in files)


@functools.cache
def static_version() -> str:
    """What changes when a file that browsers keep has changed."""
    digest = hashlib.sha256(style_sheet())
    for file in sorted((FOLDER / "static").rglob("*.*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
