"""``shared``: one store for each place of a process, for code that is handed a path again and again.

Rules of this module: it knows the stores that it has handed out by their places, and holds them until they are closed;
at the end of the interpreter they are closed like any other. The table changes in single steps, or under a lock within
which nothing is called: see ``_waiting/single_flight``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from inspect import ismethod
from typing import Any

from .._core.backend import Backend, State
from .._core.core import backend_for
from .._core.options import Durability, Options
from .._core.target import Place, Target, place_of
from .._process.fork import at_fork
from ..observers import Observer
from .async_store import AsyncContextStore
from .async_store import core_of as core_of_async
from .sync_store import ContextStore, blocking_face_of, core_of


class _Shared:
    """A store that is handed out to all who ask for its place."""

    def __init__(self, place: Place, options: Options) -> None:
        self.place = place
        self.options = options
        self.token = object()
        """Stands for this entry where the store must not be held."""
        self.store = blocking_face_of(self.new_backend())

    def new_backend(self) -> Backend:
        backend = backend_for(self.place.target, self.options)
        backend.share(partial(_withdraw, self.place.key, self.token))
        return backend


_all: dict[tuple[str, ...], _Shared] = {}
_lock = threading.RLock()


def shared(
    target: Target,
    *,
    durability: Durability = "full",
    timeout: float = 30.0,
    cache_bytes: int = 64 * 2**20,
    max_value_bytes: int | None = None,
    read_only: bool = False,
    create: bool = True,
    encode_default: Callable[[Any], Any] | None = None,
    observers: Sequence[Observer] = (),
    max_connections: int = 4,
) -> ContextStore:
    """The store of this process for a place: the same object for all who ask, from any thread.

    For code that is handed a path, or a URL, again and again: one set of threads, files, cache and queue serves all of
    it. Tasks await ``shared(target).awaitable``.

        import contextstore

        with contextstore.shared("flows.db") as store:  # opens it, if need be, and closes nothing
            store.put("run-1", "extract", {"rows": 3})

    It is open until the interpreter ends, which closes it. ``close()`` closes it for all who have it, and the next call
    makes a new one. In a forked child the inherited object works, and so do its runs: it is opened anew there at its
    first use.

    Args:
        target: the same file, by its real path, is one place; or the same server, port, database and schema. Names of
            hosts are compared, not looked up.
        durability, timeout, cache_bytes, max_value_bytes: those of ``ContextStore``, as all that follow. Whoever
            asks for a place asks with the same ones.
        read_only, create, encode_default, observers, max_connections: the same.

    Raises:
        ValueError: the store of this place is open with other options, or as another user; or it is one in memory,
            which is private to its object.
        TypeError, ValueError: an argument that cannot be meant.
    """
    place = place_of(target)
    options = Options(
        durability,
        timeout,
        cache_bytes,
        max_value_bytes,
        read_only,
        create,
        encode_default,
        observers,
        max_connections,
    )
    while True:
        one = _all.get(place.key)
        if one is None:
            one = _all.setdefault(place.key, _Shared(place, options))
        backend = core_of(one.store).backend
        if backend.state is not State.CLOSED:
            _refuse_others(one, backend, place, options)
            return one.store
        _withdraw(place.key, one.token)  # who closes it is about to do so


def _refuse_others(one: _Shared, backend: Backend, place: Place, options: Options) -> None:
    """Raise if the store that is there is another than is asked for."""
    if one.place.access != place.access:
        raise ValueError(f"{backend.location} is shared with another user, password or option of its URL")
    usual = backend.engine.max_value_bytes
    for name in Options.__slots__:
        there, asked = getattr(one.options, name), getattr(options, name)
        if name == "max_value_bytes":
            there, asked = (usual if value is None else value for value in (there, asked))
        if not _is_same(there, asked):
            raise ValueError(
                f"{backend.location} is shared with another {name}: ask with the same options, or make a ContextStore"
            )


def _is_same(there: Any, asked: Any) -> bool:
    if isinstance(there, tuple):
        return len(there) == len(asked) and all(map(_is_same, there, asked))
    if there is asked:
        return True
    # Of a method each look makes a new object.
    is_plain = isinstance(there, str | int | float) or (ismethod(there) and ismethod(asked))
    return is_plain and bool(there == asked)


def _withdraw(key: tuple[str, ...], token: object) -> None:
    """Hand it out no more."""
    withdrawn = None
    with _lock:  # nothing may be called in here
        if key in _all and _all[key].token is token:
            withdrawn = _all[key]
            del _all[key]
    del withdrawn  # and not under the lock


def _renew_in_child() -> None:
    """The stores of the parent stay with it. All that stands on one here stands on a new one from now on."""
    global _lock
    _lock = threading.RLock()
    for one in list(_all.values()):
        views, backend = core_of(one.store).backend.views, one.new_backend()
        for face in views.all():
            if isinstance(face, ContextStore):
                core_of(face).stand_on(backend)
                backend.views.add(ContextStore, face)
            elif isinstance(face, AsyncContextStore):
                core_of_async(face).stand_on(backend)
                backend.views.add(AsyncContextStore, face)


at_fork(in_child=_renew_in_child)
