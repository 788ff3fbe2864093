"""The faces of one store: the same object at each look, for as long as somebody refers to it.

Rules of this module: faces are known by weak references alone, and nothing of them but their class. No lock: whoever
makes a face puts it down first, in one step, and looks then which was the first; so all who look at once find that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast
from weakref import ref

F = TypeVar("F")


class Views:
    """The faces that stand on one backend, by their class."""

    def __init__(self) -> None:
        self._known: dict[type, list[ref[object]]] = {}

    def add(self, kind: type[F], face: F) -> None:
        known = self._known.setdefault(kind, [])
        known.append(ref(face, known.remove))

    def the(self, kind: type[F], make: Callable[[], F]) -> F:
        """The face of a kind: the first that was put down and is still there. It is made if there is none."""
        face = self._first(kind)
        if face is None:
            face = make()
            self.add(kind, face)
            first = self._first(kind)
            face = face if first is None else first
        return face

    def all(self) -> list[object]:
        """Those that are there."""
        known = [one for some in self._known.copy().values() for one in some.copy()]
        return [face for one in known if (face := one()) is not None]

    def _first(self, kind: type[F]) -> F | None:
        for known in self._known.get(kind, []).copy():
            face = known()
            if face is not None:
                return cast("F", face)
        return None
