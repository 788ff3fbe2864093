r"""Text that a terminal shows as it is.

Rules of this module: pure functions. Whatever a store holds may have been written by someone hostile: no escape
sequence, no newline and no mark that turns the direction of writing gets through.
"""

from __future__ import annotations

import json


def escaped(text: str) -> str:
    r"""The text, with each character that is not shown as itself written as in JSON: ``\u001b``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else escape_of(one) for one in text)


def escape_of(character: str) -> str:
    r"""A character as JSON may have it within a string, in ASCII: ``\n``, ``\u202e``."""
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def id_of(shown: str) -> str:
    """The id that ``shown_id`` has written so."""
    if not shown.startswith('"'):
        return shown
    try:
        found = json.loads(shown)
    except ValueError:
        return shown
    return found if isinstance(found, str) else shown


def shown_id(text: str) -> str:
    """An id as it is, if every character of it is shown as itself; else as a JSON string, so that none is mistaken."""
    if text and text.isprintable() and text[0] != '"' and text.strip(" ") == text:
        return text
    return escaped(json.dumps(text, ensure_ascii=False))
