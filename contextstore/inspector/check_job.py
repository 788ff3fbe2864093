"""A check of the whole store, begun by somebody at a page and seen by all: at most one at a time.

Rules of this module: it runs in a thread of its own, whatever becomes of the browser that has asked for it, and reads
alone. What it found stays until the next one.
"""

from __future__ import annotations

import datetime
import threading
import time
from dataclasses import dataclass

from .. import CheckReport, ContextStore


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far a check is, or what came of it.

    Attributes:
        began_at: when it began; aware, in UTC.
        done, total: of the outputs and globals. ``total`` is 0 until they are counted.
        seconds: how long it took, or has taken so far.
        report: what it found. None: it goes on, or has failed.
        failure: why it could not be done. None: it goes on, or was done.
    """

    began_at: datetime.datetime
    done: int
    total: int
    seconds: float
    report: CheckReport | None = None
    failure: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.report is None and self.failure is None


class CheckJob:
    """The check of one store."""

    def __init__(self, store: ContextStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._progress: CheckProgress | None = None
        self._began = 0.0

    def progress(self) -> CheckProgress | None:
        """How far it is. None: none was begun."""
        with self._lock:
            now = self._progress
            if now is None or not now.is_running:
                return now
            return CheckProgress(now.began_at, now.done, now.total, time.monotonic() - self._began)

    def begin(self) -> None:
        """Begin one, unless one goes on."""
        with self._lock:
            if self._progress is not None and self._progress.is_running:
                return
            self._began = time.monotonic()
            self._progress = CheckProgress(datetime.datetime.now(datetime.UTC), 0, 0, 0.0)
        # A daemon: a check of a large store does not keep a process from ending, which loses nothing.
        threading.Thread(target=self._run, name="check for the inspector", daemon=True).start()

    def _run(self) -> None:
        try:
            report, failure = self._store.check(progress=self._moved), None
        except Exception as error:  # noqa: BLE001 - else it would seem to go on for ever
            report, failure = None, str(error) or type(error).__name__
        self._end(report, failure)

    def _moved(self, done: int, total: int) -> None:
        self._store.open()  # raises if it is being closed, which would wait for the check's end
        with self._lock:
            assert self._progress is not None, "it was begun"
            self._progress = CheckProgress(self._progress.began_at, done, total, 0.0)

    def _end(self, report: CheckReport | None, failure: str | None) -> None:
        with self._lock:
            now = self._progress
            assert now is not None, "it was begun"
            seconds = time.monotonic() - self._began
            self._progress = CheckProgress(now.began_at, now.done, now.total, seconds, report, failure)
