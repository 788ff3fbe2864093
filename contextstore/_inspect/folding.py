"""A value as a tree, folded where it is too much to look at.

Rules of this module: pure functions. No more of a value is looked at than is given back, or than what is found to be
too much for its budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from .._display.brief import brief

Path: TypeAlias = tuple[str | int, ...]
"""The keys, and places in lists, that lead to a part of a value."""


@dataclass(slots=True)
class Branch:
    """A line of a tree.

    Attributes:
        path: how to come to it from the value whose tree this is.
        value: what is there.
        text: it in short.
        children: how many are in it.
        offset: how many of these are left out before the first one that is shown.
        inside: those that are shown.
    """

    path: Path
    value: Any
    text: str
    children: int
    offset: int = 0
    inside: list[Branch] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """How deep it is in the value; 0 for the value itself."""
        return len(self.path)

    @property
    def name(self) -> str | int | None:
        """The key, or the place in its list, that leads to it; None for the value itself."""
        return self.path[-1] if self.path else None

    @property
    def shown(self) -> int:
        """How many children there are up to the last one that is shown."""
        return self.offset + len(self.inside)

    @property
    def is_folded(self) -> bool:
        """Whether some of its children are not shown."""
        return len(self.inside) < self.children


def tree(value: Any, *, depth: int = 3, children: int = 20, most: int = 60) -> Iterator[Branch]:
    """The lines of a value, each before those of its children.

    Args:
        depth: how many levels are unfolded.
        children: how many children of each are shown.
        most: how long a line's text may be.
    """
    waiting = [folded(value, depth=depth, children=children, most=most)]
    while waiting:
        branch = waiting.pop()
        yield branch
        waiting += reversed(branch.inside)


class _Limits(NamedTuple):
    children: int
    most: int
    cost: Callable[[Branch], int]


def folded(
    value: Any,
    *,
    depth: int,
    children: int,
    most: int,
    offset: int = 0,
    budget: int | None = None,
    cost: Callable[[Branch], int] = lambda _: 1,
) -> Branch:
    """A value as the root of its tree. Siblings are unfolded all, or none: so a list of records looks like one.

    Where the budget is too small for as many children of each, it may do for a few of each.

    Args:
        depth, children, most: as for ``tree``.
        offset: how many children of the value itself are passed over.
        budget: what the lines may cost together. The first child of the value itself is shown at any cost.
        cost: what a line costs.
    """
    limits = _Limits(children, most, cost)
    few = limits._replace(children=-(-children // 5))
    root = Branch((), value, brief(value, most), _count(value), offset)
    if depth <= 0:
        return root
    left = float("inf") if budget is None else budget
    for branch in _children(root, limits):
        left -= cost(branch)
        if left < 0 and root.inside:
            break
        root.inside.append(branch)
    waiting = deque([root])
    while waiting:
        parent = waiting.popleft()
        if parent.depth + 1 < depth:
            spent = _unfold(parent.inside, limits, left) or _unfold(parent.inside, few, left)
            left -= spent
            waiting += (branch for branch in parent.inside if branch.inside)
    return root


def _unfold(siblings: list[Branch], limits: _Limits, left: float) -> int:
    """Unfold all of them if what is left of the budget allows it. Returns what that cost."""
    if sum(min(branch.children, limits.children) for branch in siblings) > left:
        return 0  # a line costs at least one
    spent, unfolded = 0, list[list[Branch]]()
    for branch in siblings:
        inside: list[Branch] = []
        for child in _children(branch, limits):
            spent += limits.cost(child)
            if spent > left:
                return 0
            inside.append(child)
        unfolded.append(inside)
    for branch, inside in zip(siblings, unfolded, strict=True):
        branch.inside = inside
    return spent


def _children(branch: Branch, limits: _Limits) -> Iterator[Branch]:
    value = branch.value
    if not branch.children:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, child in islice(items, branch.offset, branch.offset + limits.children):
        yield Branch((*branch.path, name), child, brief(child, limits.most), _count(child))


def _count(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0
