"""How jobs and epochs are there for a fake engine: jobs run by steps of the test, epochs are those of a place.

Rules of this module: no job runs by itself.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from contextstore._engine.contract import Job
from contextstore._engine.epochs import Epoch

from .fake_place import Place


class Hold:
    """Awaited in a job: the job stands still here, until the test lets it go on."""

    def __init__(self, point: str) -> None:
        self.point = point

    def __await__(self) -> Generator[Hold, None, None]:
        yield self


class RunningJob:
    """A job that the test drives, from one point where it is held to the next."""

    def __init__(self, job: Job) -> None:
        self._coroutine = job()
        self.at: str | None = None
        """Where it is held; None: it is at its end."""
        self.go_on()

    def go_on(self) -> None:
        try:
            self.at = self._coroutine.send(None).point
        except StopIteration:
            self.at = None

    def finish(self) -> None:
        """Wherever else it would be held."""
        while self.at is not None:
            self.go_on()


class FakeEpochs:
    """The place's epoch, which every client sees at once."""

    is_exact = True

    def __init__(self, place: Place) -> None:
        self._place = place
        self._own = self._began = 0
        self.turn: tuple[Epoch, Epoch] = (place.epoch, place.epoch)

    @property
    def now(self) -> Sequence[Any]:
        return (self._place.epoch,)

    @property
    def latest(self) -> Epoch:
        return self._place.epoch

    def begin_write(self) -> None:
        self._own, self._began = 0, self._place.epoch
        self.turn = (self._began, self._began)

    def end_write(self, own: int) -> None:
        """So much of the change is this object's."""
        self._own += own
        only_own = self._place.epoch - self._began == self._own
        self.turn = (self._began if only_own else None, self._place.epoch)
