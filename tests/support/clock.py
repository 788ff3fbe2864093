"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time
from types import ModuleType

import pytest


class Clock:
    """In the place of the module ``time`` in a module that asks it for ``monotonic()``. The time of day goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 1000.0
        for module in modules:
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    time = staticmethod(time.time)

    def advance(self, seconds: float) -> None:
        self.now += seconds
