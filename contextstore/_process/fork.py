"""What becomes of a process's state in a forked child.

Rules of this module: the one registration with the operating system's fork; every other module says here what has to be
done, in the order of the imports. Only the forking thread is in the child, so a lock that another thread held stays
locked for ever there: a module with a lock for the whole process makes it anew in the child, without taking it first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

Hook: TypeAlias = Callable[[], None]

_before: list[Hook] = []
_in_parent: list[Hook] = []
_in_child: list[Hook] = []


def at_fork(*, before: Hook | None = None, in_parent: Hook | None = None, in_child: Hook | None = None) -> None:
    """Have these called around each fork. ``before`` in the reverse order of registration, as ``os`` does."""
    for hooks, hook in ((_before, before), (_in_parent, in_parent), (_in_child, in_child)):
        if hook is not None:
            hooks.append(hook)


def _call_all(hooks: Sequence[Hook]) -> None:
    with contextlib.ExitStack() as last_first:  # a hook that fails keeps no other from being called, as with os itself
        for hook in reversed(hooks):
            last_first.callback(hook)


os.register_at_fork(
    before=lambda: _call_all(_before[::-1]),
    after_in_parent=lambda: _call_all(_in_parent),
    after_in_child=lambda: _call_all(_in_child),
)
