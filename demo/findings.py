"""What the survey finds when it puts the measured modules together.

Rules of this module: each function is one combining node of the flow, computed from measured modules alone. It knows
neither the flow nor the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .measure import Module, Ranked, highest


@dataclass(frozen=True)
class Totals:
    """The sums over several modules: the output of a package's node."""

    modules: int
    lines: int
    functions: int
    classes: int
    public: int
    documented: int


@dataclass(frozen=True)
class Report:
    """What the survey found: the output of the last node."""

    totals: Totals
    largest_packages: list[Ranked]
    most_imported: list[Ranked]
    longest_functions: list[Ranked]
    deepest_nesting: list[Ranked]
    import_cycles: list[list[str]]


def totals(modules: Mapping[str, Module]) -> Totals:
    measured = modules.values()
    return Totals(
        modules=len(measured),
        lines=sum(module.lines for module in measured),
        functions=sum(module.functions for module in measured),
        classes=sum(module.classes for module in measured),
        public=sum(module.public for module in measured),
        documented=sum(module.documented for module in measured),
    )


def most_imported(modules: Mapping[str, Module]) -> list[Ranked]:
    importers = Counter[str]()
    for module in modules.values():
        importers.update([*module.imports, *module.late_imports])
    return highest([Ranked(name, count) for name, count in importers.items()], 5)


def longest_functions(modules: Mapping[str, Module]) -> list[Ranked]:
    return highest([function for module in modules.values() for function in module.longest], 5)


def deepest_nesting(modules: Mapping[str, Module]) -> list[Ranked]:
    return highest([Ranked(name, module.nesting) for name, module in modules.items()], 5)


def import_cycles(modules: Mapping[str, Module]) -> list[list[str]]:
    """The sets of modules each of which leads to every other by imports at import time; the largest sets first."""
    imported = {name: modules.keys() & set(module.imports) for name, module in modules.items()}
    leads_to = {name: _reachable(name, imported) for name in imported}
    cycles = {
        frozenset(other for other in reached if name in leads_to[other])
        for name, reached in leads_to.items()
        if name in reached
    }
    return sorted((sorted(cycle) for cycle in cycles if len(cycle) > 1), key=lambda cycle: (-len(cycle), cycle))


def _reachable(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        if (name := ahead.pop()) not in reached:
            reached.add(name)
            ahead.extend(edges[name])
    return reached
