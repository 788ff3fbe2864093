"""A job that serves all who have asked for it: posted once, however many ask, and again for whoever came too late.

Rules of this module: no lock. The thread that runs the job never waits for one that a caller holds, whose thread may be
in a finalizer just now, or interrupted, and waits for that very job. What callers do here is atomic in CPython: single
steps of lists, under the GIL.

A caller puts down what it wants, and asks then. The job looks at what was put down, marks itself as not posted, and
looks once more. So of the two one sees the other, whatever comes between their steps. A caller that is interrupted
between its mark and its post has left a mark that says so: the next one posts the job itself. Two jobs at a time are
one too many, and do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial

from .._engine.contract import Job


class SharedJob:
    """One job for all who ask.

    It does not hold whoever does the work and holds it: the two would live on until the collector came.

    Args:
        post: how the engine is told to run a job.
        wanted: what callers put down. Empty: there is nothing to do.
    """

    def __init__(self, post: Callable[[Job], None], wanted: Sized) -> None:
        self._post = post
        self._wanted = wanted
        self._posted: list[bool] = []
        """Not empty: a job was posted, or runs, that will look at what there is after it has put an empty one here."""
        self._is_running = False

    def ask(self, work: Job) -> None:
        """See to it that the work is done on what the caller has put down. From any thread; never waits."""
        if not self._posted:
            posted = self._posted = []  # first, or the end of a job that is quick would be overlooked
            self._post(partial(self._look, work))
            posted.append(True)

    @property
    def is_asked_for(self) -> bool:
        """Whether one was posted, or runs."""
        return bool(self._posted)

    async def _look(self, work: Job) -> None:
        if self._is_running:  # where jobs run beside each other; that one looks again at its end
            return
        self._is_running = True
        try:
            if self._wanted:
                await work()
        finally:
            self._is_running = False
            self._posted = []
            if self._wanted:  # by someone who came while it was marked, or for whom there was no room
                self.ask(work)  # behind others' jobs, where the thread is shared
