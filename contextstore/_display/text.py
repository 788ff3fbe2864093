r"""Text that a terminal shows as it is.

Rules of this module: pure functions. Whatever the store holds may have been written by someone hostile: an escape
sequence, a newline or a mark that turns the direction of writing never gets through.
"""

from __future__ import annotations

import json


def escaped(text: str) -> str:
    r"""The text with each character that is not shown as itself written as in JSON: ``\u001b``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def shown_id(text: str) -> str:
    """An id as it is, if every character of it is shown as itself; else as a JSON string, so that none is mistaken."""
    if text.isprintable() and text[:1] != '"' and text.strip(" ") == text and text:
        return text
    return escaped(json.dumps(text, ensure_ascii=False))


def _escape(character: str) -> str:
    return _SHORT.get(character) or json.dumps(character)[1:-1].replace("\x7f", "\\u007f")


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
