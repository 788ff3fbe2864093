"""What a store does, second by second, while somebody looks at its health.

Rules of this module: public calls of the store alone, and no thread of its own: whoever looks takes the sample of the
second, and all others see it. Counting is what costs (``stats`` goes over all rows), so that is done the more seldom,
the longer it takes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from .. import ContextStore, Counters, StoreStats
from .._inspect.figures import NO_COMMITS, CommitFigures, CommitSummary

SECONDS = 120
"""How many samples are kept, which is how long a plot is."""

_PERIOD = 1.0
_LEFT_ALONE = 10.0
"""Seconds without anybody: what was before them is forgotten, as a plot has no holes."""
_COUNTING_PERIOD = 2.0
_COUNTING_SHARE = 20
"""Of so many seconds at most one goes into counting."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment of a store.

    Attributes:
        at: when, in seconds of ``time.time``.
        outputs_per_second: by which the number of outputs has risen, whoever wrote them. None: not counted yet.
        commits_per_second, writes_per_second: of this process's store object.
        commits: what its commits were like, if an observer was passed to the inspector.
        hits, misses: reads that the cache has answered since the sample before, and those that it could not.
        cache_bytes: what its entries take up.
        trip_seconds: how long one trip to the engine took.
        file_bytes, wal_bytes: of a file, as they are; of a server's tables, when they were last counted.
    """

    at: float
    outputs_per_second: float | None
    commits_per_second: float
    writes_per_second: float
    commits: CommitSummary
    hits: int
    misses: int
    cache_bytes: int
    trip_seconds: float
    file_bytes: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class _Count:
    """What was counted, when (monotonic), and how quickly outputs came since the count before."""

    stats: StoreStats
    at: float
    cost: float
    outputs_per_second: float | None


class Sampler:
    """The samples of one store, for all who look."""

    def __init__(self, store: ContextStore, figures: CommitFigures | None) -> None:
        self._store = store
        self._figures = figures
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=SECONDS)
        self._taken_at = 0.0
        self._before: Counters | None = None
        self._count: _Count | None = None

    def stats(self) -> StoreStats:
        """How much there is, as it was counted last, or is counted now."""
        with self._lock:
            return self._counted(time.monotonic()).stats

    def samples(self) -> list[Sample]:
        """The samples until now, the last one not older than a second."""
        with self._lock:
            now = time.monotonic()
            if now - self._taken_at > _LEFT_ALONE:
                self._samples.clear()
                self._before = None
            if self._before is None or now - self._taken_at >= _PERIOD * 0.9:
                self._take(now)
            return list(self._samples)

    def _take(self, now: float) -> None:
        counters, before, since = self._store.counters(), self._before, self._taken_at
        count = self._counted(now)
        trip = self._store.ping()
        self._before, self._taken_at = counters, now
        if before is None:  # there is nothing yet to compare with
            return
        seconds = now - since
        file_bytes, wal_bytes = _sizes(count.stats)
        self._samples.append(
            Sample(
                at=time.time(),
                outputs_per_second=count.outputs_per_second,
                commits_per_second=(counters.commits - before.commits) / seconds,
                writes_per_second=(counters.writes - before.writes) / seconds,
                commits=NO_COMMITS if self._figures is None else self._figures.since(since),
                hits=counters.cache_hits - before.cache_hits,
                misses=counters.cache_misses - before.cache_misses,
                cache_bytes=counters.cache_bytes,
                trip_seconds=trip,
                file_bytes=file_bytes,
                wal_bytes=wal_bytes,
            )
        )

    def _counted(self, now: float) -> _Count:
        last = self._count
        if last is not None and now - last.at < max(_COUNTING_PERIOD, last.cost * _COUNTING_SHARE):
            return last
        began = time.monotonic()
        stats = self._store.stats()
        rate = None
        if last is not None and now - last.at < _LEFT_ALONE + last.cost * _COUNTING_SHARE:
            rate = max(stats.outputs - last.stats.outputs, 0) / (began - last.at)
        self._count = _Count(stats, began, time.monotonic() - began, rate)
        return self._count


def _sizes(stats: StoreStats) -> tuple[int, int]:
    """Those of the files if it is one, which is no matter of counting; else as counted."""
    try:
        return os.stat(stats.location).st_size, _size_of(stats.location + "-wal")
    except OSError:
        return stats.file_bytes, stats.wal_bytes


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def with_sizes(stats: StoreStats) -> StoreStats:
    """What was counted, with the sizes as they are now."""
    file_bytes, wal_bytes = _sizes(stats)
    return replace(stats, file_bytes=file_bytes, wal_bytes=wal_bytes)
