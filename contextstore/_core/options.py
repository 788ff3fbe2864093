"""How a store is to behave: what a face was given beside the target, checked.

Rules of this module: no I/O. What cannot be meant is a TypeError or a ValueError that names the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._engine.reports import METHODS
from .._values.arguments import check_count, check_plain_function, check_seconds
from ..observers import Observer

Durability = Literal["full", "normal"]


@dataclass(frozen=True, slots=True)
class Options:
    """The parameters of a store, under the names that they have there."""

    durability: Durability
    timeout: float
    cache_bytes: int
    max_value_bytes: int | None
    read_only: bool
    create: bool
    encode_default: Callable[[Any], Any] | None
    observers: Sequence[Observer]
    max_connections: int

    def __post_init__(self) -> None:
        """Check what can be judged before the engine is known; the session checks the rest."""
        if self.durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {self.durability!r}")
        check_seconds("timeout", self.timeout)
        if not 0 <= self.timeout < 1e300:
            raise ValueError(f"timeout must be a finite number of seconds from 0 on, not {self.timeout!r}")
        check_count("cache_bytes", self.cache_bytes, 0)
        check_count("max_connections", self.max_connections, 2)
        object.__setattr__(self, "observers", checked_observers(self.observers))


def checked_observers(observers: object) -> tuple[Observer, ...]:
    """What was passed for observers, in its order."""
    if isinstance(observers, str | bytes) or not isinstance(observers, Iterable):
        raise TypeError(f"observers must be several observers, not {type(observers).__name__}: pass [observer]")
    checked = tuple(observers)
    for observer in checked:
        if isinstance(observer, type):
            raise TypeError(f"observers must be objects, not the class {observer.__name__}: pass {observer.__name__}()")
        methods = {name: method for name in METHODS if (method := getattr(observer, name, None)) is not None}
        if not methods:
            names = ", ".join(METHODS)
            raise TypeError(f"an observer has at least one of {names}; {type(observer).__name__} has none")
        for name, method in methods.items():
            check_plain_function(f"an observer's {name}", method)
    return checked
