"""A clock that stands still until a test moves it."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """In the place of the module ``time`` in a module that asks it for ``monotonic()``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 1000.0
        for module in modules:
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
