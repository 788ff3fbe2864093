"""How a store is to behave: what a face was given beside the target, checked.

Rules of this module: no I/O. What cannot be meant is a TypeError or a ValueError that names the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .._values.arguments import check_count, check_seconds

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
