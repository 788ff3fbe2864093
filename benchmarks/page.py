"""The page: docs/benchmarks.md, made of the figures of one run and of what was found out about them.

Rules of this module: it measures nothing and looks at nothing but what it is given, so that the same figures give the
same page. What a user picks by comes first, then the method, then the findings.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from . import goals, plots, postgres, savers, whole
from .contestants import CREATE, INSERT, SELECT, VALUE
from .goals import Figures, Goal, Result, middle_half, results
from .rounds import Times

OURS = "contextstore"


def written(document: Mapping[str, Any], findings: str) -> str:
    """
    Args:
        document: "figures", by measurement, and "about", lines about the machine and the versions.
        findings: Markdown, which ends the page.
    """
    figures: Figures = document["figures"]
    parts: list[Iterator[str]] = [
        _goals(figures),
        _peers(figures, plots.PUT, "One put at a time", {
            "durable": "peers-put-full", '`durability="normal"`': "peers-put-normal",
        }),
        _peers(figures, plots.AT_ONCE, "Many puts at once", {
            f"{count}{how}": f"peers-{count}-{durability}"
            for durability, how in (("full", ""), ("normal", ", normal")) for count in (8, 64, 512)
        }),
        _peers(figures, plots.GET, "Reads", {"gets of the same 64 outputs": "peers-get"}),
        _postgres(figures.get("postgres", {})),
        _savers(figures),
        _others(figures),
        _method(document["about"]),
    ]  # fmt: skip
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures and writes this page. A ratio is one time divided by another of the same round, or one",
        "throughput by another, and what is told is the median of the rounds with the bounds of their middle half. The",
        "machine is a small virtual one, whose disk is noisy: ratios below 1.2 say little.",
        "",
    ]
    for part in parts:
        lines += [*part, ""]
    return "\n".join([*lines, findings.strip(), ""])


def number(figure: float) -> str:
    """Three digits; two of what is small, and all before the point."""
    if figure >= 100:
        return f"{figure:,.0f}"
    if figure >= 10:
        return f"{figure:.1f}"
    return f"{figure:.2f}" if figure >= 0.1 else f"{figure:#.2g}"


def _span(bounds: tuple[float, float]) -> str:
    return f"{number(bounds[0])} to {number(bounds[1])}"


# ------------------------------------------------------------------------------------------------------------- sections


def _goals(figures: Figures) -> Iterator[str]:
    yield "## Goals"
    yield ""
    yield "| what | against | goal | median | half of the rounds | all rounds | |"
    yield "|---|---|---|---|---|---|---|"
    yield from map(goal_line, results(figures))


def goal_line(result: Result | Goal) -> str:
    goal = result.goal if isinstance(result, Result) else result
    limit = f"{'≥' if goal.at_least else '≤'} {goal.limit:g}"
    beginning = f"| {goal.what} | {goal.against} | {limit} |"
    if isinstance(result, Goal):
        return f"{beginning} | | | not measured |"
    spans = f"{_span(result.middle)} | {_span((min(result.ratios), max(result.ratios)))}"
    return f"{beginning} **{number(result.median)}** | {spans} | {'met' if result.is_met else '**not met**'} |"


def _peers(figures: Figures, plot: plots.Plot, title: str, columns: Mapping[str, str]) -> Iterator[str]:
    """Everybody's times as ratios to ours, quickest first."""
    tables = {label: figures[name] for label, name in columns.items() if name in figures}
    yield f"## {title}"
    yield ""
    yield f"![{plot.title}]({plot.file})"
    if not tables:
        return
    yield ""
    yield f"Time of one operation; {OURS} = 1. {plot.note}".strip()
    yield ""
    yield f"| | {' | '.join(tables)} |"
    yield "|---" * (len(tables) + 1) + "|"
    yield f"| **{OURS}** | {' | '.join(f'**1** ({number(_micros(times[OURS]))} µs)' for times in tables.values())} |"
    for name in ranked(list(tables.values())):
        yield f"| {plot.label(name)} | {' | '.join(_ratio(times, name) for times in tables.values())} |"


def ranked(tables: Sequence[Times]) -> list[str]:
    """All but us, by the first table that has them."""

    def place(name: str) -> tuple[int, float]:
        first = next(number for number, times in enumerate(tables) if name in times)
        return first, statistics.median(goals.ratio_of(name, OURS)(tables[first]))

    return sorted({name for times in tables for name in times} - {OURS}, key=place)


def _ratio(times: Times, name: str) -> str:
    if name not in times:
        return ""
    ratios = goals.ratio_of(name, OURS)(times)
    return f"{number(statistics.median(ratios))} ({_span(middle_half(ratios))})"


def _micros(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e6


def _postgres(times: Times) -> Iterator[str]:
    yield "## PostgreSQL"
    yield ""
    yield "A server on the same machine; asyncpg with a pool of ten, one statement a put. Time of one operation in µs."
    if not times:
        return
    yield ""
    yield f"| | {OURS} | asyncpg | asyncpg / {OURS} |"
    yield "|---|---|---|---|"
    for call in postgres.CALLS:
        ours, theirs = f"{OURS}, {call}", f"asyncpg, {call}"
        ratios = goals.ratio_of(theirs, ours)(times)
        ratio = f"{number(statistics.median(ratios))} ({_span(middle_half(ratios))})"
        yield f"| {call} | {number(_micros(times[ours]))} | {number(_micros(times[theirs]))} | {ratio} |"


def _savers(figures: Figures) -> Iterator[str]:
    yield "## As a saver of LangGraph's"
    yield ""
    yield "`AsyncContextStoreSaver` beside LangGraph's `AsyncSqliteSaver`, and `AsyncPostgresSaver` with a pool of ten."
    yield "A step is `aput` of a checkpoint and `aput_writes` of what a node wrote on it. Time of one in µs."
    yield ""
    yield f"| | {OURS} | LangGraph's | LangGraph's / {OURS} |"
    yield "|---|---|---|---|"
    for where, measurement in (("", "saver"), ("PostgreSQL: ", "saver-postgres"), ("", "saver-reads")):
        times = figures.get(measurement, {})
        for name in times:
            who, _, what = name.partition(", ")
            theirs = savers.of(savers.THEIRS, what.removesuffix(savers.COLD))
            if who == OURS and theirs in times:
                ratios = goals.ratio_of(theirs, name)(times)
                ratio = f"{number(statistics.median(ratios))} ({_span(middle_half(ratios))})"
                yield f"| {where}{what} | {number(_micros(times[name]))} | {number(_micros(times[theirs]))} | {ratio} |"


def _others(figures: Figures) -> Iterator[str]:
    yield "## Besides"
    yield ""
    yield f"| | {OURS} | {OURS} / sqlite3 |"
    yield "|---|---|---|"
    for label, measurement in (
        ("put of 4 KB", "values-4KB"),
        ("put of 1 MB", "values-1MB"),
        ("put, while another task works for a millisecond at each turn of the loop", "busy-loop"),
        ("cold get beside eight writers", "beside-writers"),
    ):
        if times := figures.get(measurement):
            ratios = goals.ratio_of(OURS, "sqlite3")(times)
            ratio = f"{number(statistics.median(ratios))} ({_span(middle_half(ratios))})"
            yield f"| {label} | {number(_micros(times[OURS]))} µs | {ratio} |"
    sizes = {whole.BYTES, whole.MEMORY_FIRST, whole.MEMORY_LAST, whole.PUT_IN_SMALL, whole.PUT_IN_LARGE}
    for measurement in ("growth", "opening"):
        for label, seconds in figures.get(measurement, {}).items():
            if label not in sizes:
                yield f"| {label} | {number(_micros(seconds))} µs | |"


def _method(about: Sequence[str]) -> Iterator[str]:
    yield "## Method"
    yield ""
    yield from about
    yield from f"""\
- Everybody takes a turn in each round, in an order that moves on by one each round. A turn begins with some operations
  that are not counted: after others' turns the processor's caches are theirs.
- A write-ahead log that grows costs about twice as much to sync as one that is overwritten, and a store's grows in its
  first minute alone. So everybody works uncounted until its own has kept its length for two turns. Checkpoints fall
  into the turns that they fall into, on all sides.
- Who blocks is called while no event loop runs, who is awaited on one loop. "Another thread" is a new one in each turn;
  the main thread waits for it meanwhile. Eight threads are started before the clock is.
- A value is a dictionary, {len(orjson.dumps(VALUE))} bytes of JSON, which each put encodes and each get decodes.
- "Durable" survives a power cut (`synchronous = FULL`, a sync each commit), "normal" the death of the process alone
  (`synchronous = NORMAL`); everybody is set to the same.
- "Cold" is without our memory (`cache_bytes=0`); the pages are in SQLite's on both sides. "Hot" is answered from it.
- *64 bare tasks* are 64 tasks gathered, each awaiting one future that is then resolved: the least that an event loop
  takes for 64 calls at once. *What a loop allows* is these and a transaction of 64 rows. 64 gets at once are held
  against one and a half gets of sqlite3 and one bare task each.
- Libraries that block put 64 at once one after the other: that is all that they can do on an event loop. Of them
  sqlite3 alone was asked for 512, too.
- LangGraph's savers and ours are given the same checkpoints, made as LangGraph makes them, and are set to the same
  durability (`AsyncSqliteSaver` leaves `synchronous` as SQLite was built; here it is set). No thread begins a step
  before its last one is done, and each value is random but for that of 200 bytes.
- DBOS records steps of a workflow; its SQLite is what it offers for development, and PostgreSQL is its home.
- `make bench BENCH_ARGS=--quick` is a look in two minutes that writes nothing, `BENCH_ARGS="--only put,get-*"` a part.
  `python -m benchmarks.compare ONE OTHER --only put` has two checkouts take turns.

*sqlite3* is what one would write with the standard library: one connection, opened once, in autocommit, so that each
INSERT is a commit. For *aiosqlite: BEGIN, execute, commit* the same statements are awaited on one connection, three
awaits a put, and `execute` and `fetchone` a get; *aiosqlite* among the peers leaves out the BEGIN.

```text
connection = sqlite3.connect(path, isolation_level=None)
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL
{CREATE}

put:                    {INSERT}
get:                    {SELECT}
a transaction of 64:    BEGIN IMMEDIATE; executemany of the INSERT; COMMIT
on PostgreSQL, put:     {postgres.INSERT}
on PostgreSQL, get:     {postgres.SELECT}
```""".splitlines()
