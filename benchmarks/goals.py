"""What the library is to reach: each goal a ratio, computed from figures round by round.

Rules of this module: arithmetic alone. A ratio is taken within a round, between those who took turns in it; the median
of the rounds decides. Of times a ratio is ours to theirs, of throughputs too: a throughput is the inverse of a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import gets, puts, reads, savers, whole
from .contestants import PEERS
from .rounds import Times

Figures = Mapping[str, Times]
"""By measurement."""


def ratio_of(one: str, other: str) -> Callable[[Times], list[float]]:
    return lambda times: [a / b for a, b in zip(times[one], times[other], strict=True)]


def throughput_of(one: str, other: str) -> Callable[[Times], list[float]]:
    return ratio_of(other, one)


def _saver(what: str) -> Callable[[Times], list[float]]:
    return throughput_of(savers.of(savers.OURS, what), savers.of(savers.THEIRS, what))


def throughput_of_what_a_loop_allows(times: Times) -> list[float]:
    ours, transaction, tasks = (times[name] for name in (puts.GROUP_OF_OURS, puts.TRANSACTION, puts.TASKS))
    return [(rows + waits) / one for one, rows, waits in zip(ours, transaction, tasks, strict=True)]


def time_of_a_get_with_its_task(times: Times) -> list[float]:
    ours, raw, tasks = (times[name] for name in (gets.GROUP, gets.RAW, gets.TASKS))
    return [one / (1.5 * get + task) for one, get, task in zip(ours, raw, tasks, strict=True)]


def best_atomic_peer(times: Times) -> str:
    atomic = [kind.name for kind in PEERS if kind.is_atomic and kind.name in times]
    return min(atomic, key=lambda name: statistics.median(times[name]))


class Goal(NamedTuple):
    what: str
    against: str
    measurement: str
    ratios: Callable[[Times], list[float]]
    limit: float
    at_least: bool = False


class Result(NamedTuple):
    """A goal with the ratio of each round."""

    goal: Goal
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def middle(self) -> tuple[float, float]:
        """Bounds of the middle half of the rounds."""
        return middle_half(self.ratios)

    @property
    def is_met(self) -> bool:
        return self.median >= self.goal.limit if self.goal.at_least else self.median <= self.goal.limit


def middle_half(figures: list[float]) -> tuple[float, float]:
    if len(figures) == 1:
        return figures[0], figures[0]
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, high


def results(figures: Figures) -> list[Result | Goal]:
    """Of each goal what was measured, or the goal alone where nothing was."""
    found: list[Result | Goal] = []
    for goal in GOALS:
        try:
            found.append(Result(goal, goal.ratios(figures[goal.measurement])))
        except KeyError:  # it was not asked for, or the peer is not installed
            found.append(goal)
    return found


_RAW, _RAW_NORMAL, _POOL = "sqlite3", "sqlite3 at NORMAL", "asyncpg with a pool"
_SYNC_PUT, _AWAITED_PUT = ratio_of(puts.SYNC_MAIN, puts.RAW_MAIN), ratio_of(puts.AWAITED, puts.RAW_MAIN)

_SAVERS = [
    Goal(f"LangGraph{where}: {what}, throughput", f"LangGraph's saver{where}", of, _saver(what), limit, at_least=True)
    for where, of, what, limit in (
        ("", "saver", savers.STEPS, 5),
        ("", "saver", savers.LARGE_STEPS, 3),
        ("", "saver", savers.ALL_LARGE_STEPS, 3),
        ("", "saver", savers.ALONE, 1),
        ("", "saver-reads", savers.NEWEST, 1),
        ("", "saver-reads", savers.LISTED, 1),
        (" on PostgreSQL", "saver-postgres", savers.STEPS, 5),
    )
]
_BYTES_OF_A_THREAD = ratio_of(savers.of(savers.OURS, savers.FILE), savers.of(savers.THEIRS, savers.FILE))

GOALS = [
    Goal("sync put, main thread", _RAW, "put", _SYNC_PUT, 1.1),
    Goal("sync put, another thread", "sqlite3 there", "put", ratio_of(puts.SYNC_THREAD, puts.RAW_THREAD), 1.1),
    Goal("awaited put", _RAW, "put", _AWAITED_PUT, 1.4),
    Goal("awaited put", "aiosqlite: BEGIN, execute, commit", "put", ratio_of(puts.AWAITED, puts.AIOSQLITE), 0.9),
    Goal("sync put, main thread", "the awaited one", "put", ratio_of(puts.SYNC_MAIN, puts.AWAITED), 1.3),
    Goal('sync put, `durability="normal"`', _RAW_NORMAL, "put-normal", _SYNC_PUT, 3),
    Goal('awaited put, `durability="normal"`', _RAW_NORMAL, "put-normal", _AWAITED_PUT, 6),
    Goal(
        "64 puts at once, throughput", "what a loop allows: 64 rows a transaction, 64 bare tasks", "puts-64",
        throughput_of_what_a_loop_allows, 0.75, at_least=True,
    ),
    Goal(
        "64 puts at once, throughput", "the best peer that keeps each put atomic", "peers-64-full",
        lambda times: throughput_of("contextstore", best_atomic_peer(times))(times), 1, at_least=True,
    ),
    Goal(
        "eight threads that put, throughput", "sqlite3, one by one", "threads",
        throughput_of(puts.EIGHT_THREADS, puts.RAW_MAIN), 2, at_least=True,
    ),
    Goal("sync get, cold", _RAW, "get-cold", ratio_of(gets.SYNC, gets.RAW), 3),
    Goal("awaited get, cold", "aiosqlite: execute, fetchone", "get-cold", ratio_of(gets.AWAITED, gets.AIOSQLITE), 0.8),
    Goal(
        "64 awaited gets at once, cold, each", "1.5 gets of sqlite3 and a bare task", "get-cold",
        time_of_a_get_with_its_task, 1.5,
    ),
    Goal("awaited get, hot", "LMDB with orjson", "get-hot", ratio_of(gets.AWAITED, "lmdb"), 0.8),
    Goal("sync get, hot", "the awaited one", "get-hot", ratio_of(gets.SYNC, gets.AWAITED), 1.5),
    Goal("the last output of a run", "a get, cold", "parts", ratio_of(reads.LAST, reads.GET), 1.2),
    Goal("a page of 100 outputs", _RAW, "parts", ratio_of(reads.PAGE, reads.RAW_PAGE), 1.5),
    Goal("each of 10,000 outputs", _RAW, "parts", ratio_of(reads.WALK, reads.RAW_WALK), 1.5),
    Goal(
        "the newest output of 1,000", "the newest checkpoint of LangGraph's saver", "peers-parts",
        ratio_of(reads.NEWEST, reads.SAVER_NEWEST), 1,
    ),
    Goal(
        "the newest 100 outputs of 1,000", "the newest 100 checkpoints of LangGraph's saver", "peers-parts",
        ratio_of(reads.LIST, reads.SAVER_LIST), 1,
    ),
    Goal("bytes of file an output of 200 bytes", "", "bytes", lambda figures: figures[whole.BYTES], 280),
    Goal("PostgreSQL: put", _POOL, "postgres", ratio_of("contextstore, one put", "asyncpg, one put"), 1.2),
    Goal(
        "PostgreSQL: 64 puts at once, throughput", _POOL, "postgres",
        throughput_of("contextstore, 64 puts", "asyncpg, 64 puts"), 5, at_least=True,
    ),
    Goal(
        "PostgreSQL: 64 gets at once, throughput", _POOL, "postgres",
        throughput_of("contextstore, 64 gets", "asyncpg, 64 gets"), 6, at_least=True,
    ),
    *_SAVERS,
    Goal(f"LangGraph: {savers.FILE}", "LangGraph's saver", "saver-bytes", _BYTES_OF_A_THREAD, 0.3),
    Goal(
        "four processes on one file, puts together", "one alone", "processes",
        ratio_of(whole.TOGETHER, whole.ALONE), 1, at_least=True,
    ),
    Goal(
        "four processes on one file, puts of the slowest", "the fastest", "processes",
        ratio_of(whole.SLOWEST, whole.FASTEST), 0.5, at_least=True,
    ),
    Goal(
        "four processes on one file, longest wait", "the median one", "processes",
        ratio_of(whole.LONGEST_WAIT, whole.MEDIAN_WAIT), 50,
    ),
    Goal(
        "put into a full store", "one with a hundredth in it", "growth",
        ratio_of(whole.PUT_IN_LARGE, whole.PUT_IN_SMALL), 1.3,
    ),
    Goal(
        "memory after iterating all", "after 2,000 outputs", "growth",
        ratio_of(whole.MEMORY_LAST, whole.MEMORY_FIRST), 1.1,
    ),
    Goal("import", "that of what it needs", "import", ratio_of(whole.IMPORT, whole.IMPORT_OF_OTHERS), 1.5),
]  # fmt: skip
"""Times are at most the limit, throughputs at least."""
