"""The digest of a function's arguments, by which a replay tells that they are others.

Rules of this module: pure functions. Arguments are taken in their JSON form, as the caller gives them: no default of
the function's is filled in, and the object of a bound method is none of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SerializationError
from .encode import Default, encode_json
from .plain import sorted_json
from .returns import name_of


def digest_of(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], default: Default | None) -> str:
    """SHA-256, hex, over the arguments of ``fn(*args, **kwargs)``: those of a partial first, then keywords by name.

    Raises ``SerializationError`` for one that has no JSON form and is no bytes.
    """
    name = name_of(fn)
    keywords = dict(kwargs)
    while isinstance(fn, functools.partial):
        args, keywords, fn = (*fn.args, *args), {**fn.keywords, **keywords}, fn.func
    digest = hashlib.sha256()
    for number, value in enumerate(args, 1):
        _add(digest.update, b"", value, default, f"argument {number} of {name}")
    for keyword in sorted(keywords):
        label = keyword.encode(errors="surrogatepass")
        _add(digest.update, b"=" + label, keywords[keyword], default, f"argument {keyword!r} of {name}")
    return digest.hexdigest()


def _add(update: Callable[[bytes], None], label: bytes, value: Any, default: Default | None, which: str) -> None:
    # Each with its length, so that no two lists of arguments run into the same bytes.
    if type(value) is bytes:
        kind, data = b"bytes", value
    else:
        try:
            kind, data = b"json", sorted_json(encode_json(value, default))
        except SerializationError as error:
            problem = f"{error.problem} ({which}; with check_inputs=True the arguments have to be JSON, or bytes)"
            raise SerializationError(error.path, problem) from error.__cause__
    update(b"%b\0%b %d\0" % (label, kind, len(data)))
    update(data)
