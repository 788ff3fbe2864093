"""Where an item of LangGraph's store is kept: the global key of a namespace and a key, and the way back.

Rules of this module: text alone, no I/O. Two items never share a global key, and global keys sort as the tuples of
namespaces do, so that a prefix of labels is one prefix of global keys and a listing of namespaces can skip what it has.

``("users", "alice")`` and ``"food"`` are ``langgraph/store/users!alice! food``: each label ends with ``!``, and a space
comes before the key. Within labels what is not above ``"`` is written as ``"`` and two hex digits, within keys NUL and
``"`` alone. What would be longer than a global key may be ends with ``"#`` and a SHA-256 in place of the key, or of the
labels that do not fit and the key; such an item has its whole namespace and key beside its value.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple, TypeAlias

from langgraph.store.base import InvalidNamespaceError

Namespace: TypeAlias = tuple[str, ...]

ROOT = "langgraph/store/"

_END = "!"
_BEFORE_KEY = " "
_ESCAPE = '"'
_SHORT = '"#'
"""No label and no key begins so: what they have of the escape is followed by hex digits."""
_MOST_BYTES = 1024
"""Of a global key."""
_MOST_BYTES_OF_LABELS = _MOST_BYTES - len(_BEFORE_KEY) - len(_SHORT) - 64
"""With the root; so that a digest fits in behind them."""

_LOW = re.compile(r'[\x00-"]')
_NUL_OR_ESCAPE = re.compile(r'[\x00"]')
_ESCAPED = re.compile(r'"([0-9a-f]{2})')


class Place(NamedTuple):
    """Where an item is kept."""

    global_key: str
    is_short: bool
    """The global key does not tell the whole namespace and key."""


def check_namespace(namespace: object) -> Namespace:
    """The labels as a tuple, if they can be some; LangGraph's own methods have looked already, ``batch`` has not."""
    if isinstance(namespace, str) or not isinstance(namespace, tuple | list):
        raise InvalidNamespaceError(f"a namespace is a tuple of labels, not {namespace!r}")
    for label in namespace:
        if not isinstance(label, str) or not label or "." in label:
            raise InvalidNamespaceError(f"{label!r} in {namespace!r} is no label: a text, not empty, without a period")
    return tuple(namespace)


def place_of(namespace: Namespace, key: str) -> Place:
    """Where the item with this key is kept."""
    labels, fits = _labels_that_fit(namespace)
    if fits:
        whole = f"{labels}{_BEFORE_KEY}{_NUL_OR_ESCAPE.sub(_escape, key)}"
        if _is_at_most(whole, _MOST_BYTES):
            return Place(whole, is_short=False)
        labels += _BEFORE_KEY
    digest = hashlib.sha256(json.dumps([*namespace, key]).encode()).hexdigest()
    return Place(f"{labels}{_SHORT}{digest}", is_short=True)


def item_of(global_key: str) -> tuple[Namespace | None, str | None]:
    """The namespace and the key that the global key tells; None where it is a short form."""
    labels, before_key, key = global_key.removeprefix(ROOT).partition(_BEFORE_KEY)
    if not before_key:
        return None, None
    namespace = tuple(_unescaped(label) for label in labels.split(_END)[:-1])
    return namespace, None if key.startswith(_SHORT) else _unescaped(key)


def prefix_of(namespace: Namespace) -> tuple[str, bool]:
    """The prefix of the global keys of all items there and below; whether items of other namespaces have it, too."""
    labels, fits = _labels_that_fit(namespace)
    return (labels, False) if fits else (labels + _SHORT, True)


def behind_items_of(namespace: Namespace) -> str:
    """Above all global keys of items there, and below those of namespaces below. Only for what is not a short form."""
    labels, _ = _labels_that_fit(namespace)
    return labels + _END


def behind_all_below(namespace: Namespace) -> str:
    """Above the global keys of all items there and below, and below all others. Only for what is not a short form."""
    labels, _ = _labels_that_fit(namespace)
    return labels.removesuffix(_END) + _ESCAPE


def _labels_that_fit(namespace: Namespace) -> tuple[str, bool]:
    """The root and the labels, as many as fit; whether these are all."""
    labels = ROOT + "".join([_escaped_label(label) + _END for label in namespace])
    if _is_at_most(labels, _MOST_BYTES_OF_LABELS):
        return labels, True
    labels = ROOT
    for label in namespace:
        longer = labels + _escaped_label(label) + _END
        if not _is_at_most(longer, _MOST_BYTES_OF_LABELS):
            break
        labels = longer
    return labels, False


def _is_at_most(text: str, most: int) -> bool:
    # A lone surrogate is refused by the store, with a sentence.
    return len(text) * 4 <= most or len(text.encode(errors="surrogatepass")) <= most


def _escaped_label(label: str) -> str:
    return _LOW.sub(_escape, label)


def _escape(found: re.Match[str]) -> str:
    return f"{_ESCAPE}{ord(found[0]):02x}"


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if _ESCAPE in text else text
