"""The views of globals: a list of them, and one by itself.

Rules of this module: public calls of the store alone. What is on a page is asked for anew by the browser: of globals
there is no watch.
"""

from __future__ import annotations

import dataclasses

from .._display.text import shown_id
from .._inspect.global_keys import DamagedGlobal, global_entry, global_page, value_size
from .look import Answer, File, Look, Refusal
from .value import Source, value_answer

PER_PAGE = 50

_WORDS = {"title": "Globals", "path": "/globals", "label": "Key", "rows": "_globals_rows.html"}
_NEWS = {"news": "_global_news.html"}


def list_globals(look: Look) -> Answer:
    """A page of globals, by key."""
    prefix = look.text("prefix")
    page = global_page(look.store, prefix=prefix, after=look.text("after"), limit=PER_PAGE)
    return Answer(
        "listed.html",
        {**_WORDS, "page": page, "prefix": prefix},
        {"globals": page.entries, "next_after": page.next_after},
        {"rows": _WORDS["rows"]},
    )


def one_global(look: Look) -> Answer | File:
    """A global. Without a key it is that of the empty key, which is one."""
    key = look.text("key")
    if look.text("fragment") == "news":
        return _news(look, key)
    entry = global_entry(look.store, key)
    if entry is None:
        raise Refusal(f"there is no global {shown_id(key)}; it may have expired, or was deleted")
    if isinstance(entry, DamagedGlobal):
        return Answer("global.html", {"key": key, "entry": None, "damaged": entry.damaged}, entry, status=500)
    context = {"key": key, "entry": entry, "size": value_size(entry.value), "damaged": ""}
    source = Source("/global", {"key": key}, key or "global", entry)
    return value_answer(look, source, "global.html", **context)


def _news(look: Look, key: str) -> Answer:
    """What has become of a global since one has seen it; no value is read as long as that is nothing."""
    seen = look.number("seen", 0, least=0, most=2**63 - 1)
    try:
        entry = look.store.wait_for_global(key, after_version=seen, timeout=0)
    except TimeoutError:
        entry = None
    is_gone = entry is None and look.store.list_global_keys(key, limit=1) != [key]
    data = None if entry is None else dataclasses.replace(entry, value=None)
    return Answer("_global_news.html", {"key": key, "seen": seen, "entry": entry, "is_gone": is_gone}, data, _NEWS)
