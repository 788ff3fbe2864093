"""Cursors: places in the history of a store, as texts that a user keeps and brings back.

Rules of this module: pure functions. What a place is, the engines decide; here it is numbers and strings. A text that
was cut off, or mistyped, is told from a cursor; which history it belongs to is for the engine to compare.
"""

from __future__ import annotations

import base64
import binascii
import zlib

import orjson

from .records import CursorFields

_MOST = 2**20
"""Characters. A server's place names the transactions that are open just then, of some thousand at most."""


def cursor_text(history: str, fields: CursorFields) -> str:
    content = orjson.dumps([history, *fields])
    return base64.urlsafe_b64encode(zlib.crc32(content).to_bytes(4) + content).rstrip(b"=").decode()


def read_cursor(text: str) -> tuple[str, CursorFields]:
    """The history that a cursor names, and its place there. Raises ValueError if it is none."""
    if len(text) > _MOST:
        raise ValueError("it is too long")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError("it is not written as cursors are") from error
    content = raw[4:]
    if zlib.crc32(content) != int.from_bytes(raw[:4]) or len(raw) < 4:
        raise ValueError("it is damaged, or cut off")
    try:
        history, *fields = orjson.loads(content)
    except (ValueError, TypeError) as error:
        raise ValueError("it is not written as cursors are") from error
    if type(history) is not str or not all(type(field) in (int, str) for field in fields):
        raise ValueError("it is not written as cursors are")
    return history, tuple(fields)
