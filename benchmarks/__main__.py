"""Measure, and write docs/benchmarks.md and docs/benchmarks.png.

python -m benchmarks            # about ten minutes; nothing else should run
python -m benchmarks --quick    # about two
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import contextstore
from tests.support.servers import binaries, running_server

from . import measure, postgres
from .contestants import PEERS, available
from .measure import FULL, QUICK, Size, Times

DOCS = pathlib.Path(__file__).parent.parent / "docs"


class Goal:
    """A ratio, what it should be, and what it was round by round."""

    def __init__(self, what: str, ratios: list[float], limit: float, at_least: bool = False) -> None:
        self.what, self.ratios, self.limit, self.at_least = what, ratios, limit, at_least
        self.ratio = statistics.median(ratios)

    def line(self) -> str:
        met = self.ratio >= self.limit if self.at_least else self.ratio <= self.limit
        sign = "≥" if self.at_least else "≤"
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return (
            f"| {self.what} | {sign} {self.limit:g} | **{self.ratio:.2f}** | {spread} | {'met' if met else 'not met'} |"
        )


def ratios(times: Times, one: str, other: str) -> list[float]:
    return [a / b for a, b in zip(times[one], times[other], strict=True)]


def pinned_puts(size: Size) -> list[float]:
    """Ours against sqlite3 with the process on one core."""
    code = (
        "import asyncio, json, os; os.sched_setaffinity(0, {0}); from benchmarks import measure as m\n"
        "from benchmarks.contestants import Ours, RawSQLite\n"
        f"size = m.Size({size.rounds}, {size.operations}, 0)\n"
        "t = asyncio.run(m.sequential_puts(size, 'full', [Ours(), RawSQLite()]))\n"
        "print(json.dumps([a / b for a, b in zip(t['contextstore'], t['sqlite3'])]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: list[float] = json.loads(done.stdout)
    return result


async def run(size: Size) -> tuple[list[Goal], dict[str, Any]]:
    goals: list[Goal] = []
    tables: dict[str, Any] = {}
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731

    for durability in ("full", "normal"):
        say(f"sequential puts, {durability}")
        tables[f"one put after the other, {durability}"] = await measure.sequential_puts(size, durability)
        for at_once in (8, 64, 512):
            say(f"{at_once} puts at once, {durability}")
            larger = size._replace(
                operations=max(size.operations, at_once), rounds=max(3, size.rounds // (at_once // 8))
            )
            larger = larger if at_once == 512 else size
            tables[f"{at_once} puts at once, {durability}"] = await measure.concurrent_puts(larger, durability, at_once)
    at_once_64 = tables["64 puts at once, full"]
    goals.append(
        Goal(
            "64 puts at once: throughput against sqlite3 with 64 to a transaction",
            ratios(at_once_64, "sqlite3, one transaction", "contextstore"), 0.5, at_least=True,
        )
    )  # fmt: skip
    atomic = [kind.name for kind in PEERS if kind.is_atomic and kind.name in at_once_64]
    best = min(atomic, key=lambda name: statistics.median(at_once_64[name]))
    goals.append(
        Goal(
            f"64 puts at once: throughput against the best peer that keeps each put atomic ({best})",
            ratios(at_once_64, best, "contextstore"), 1.0, at_least=True,
        )
    )  # fmt: skip
    puts = tables["one put after the other, full"]
    say("puts on one core")
    goals.append(Goal("one put, on one core, against sqlite3", pinned_puts(size), 1.0))
    goals.append(Goal("one put, on two cores, against sqlite3", ratios(puts, "contextstore", "sqlite3"), 1.5))
    goals.append(Goal("sync put against the awaited one", ratios(puts, "contextstore (sync)", "contextstore"), 1.3))

    say("gets")
    gets = tables["gets of the same 64"] = await measure.repeated_gets(size)
    if "lmdb" in gets:
        goals.append(Goal("repeated get against LMDB's with orjson.loads", ratios(gets, "contextstore", "lmdb"), 1.0))
    goals.append(
        Goal("repeated sync get against the awaited", ratios(gets, "contextstore (sync)", "contextstore"), 1.5)
    )
    no_cache = "contextstore, no cache"
    goals.append(
        Goal(
            "64 gets at once, no cache, each against a get of sqlite3",
            ratios(gets, f"{no_cache}, 64 at once", "sqlite3"),
            1.5,
        )
    )
    goals.append(Goal("one get, no cache, against an aiosqlite hop", ratios(gets, no_cache, "one aiosqlite hop"), 1.2))

    say("threads")
    threads = tables["eight threads, full"] = await measure.threads_of_puts(size, "full")
    goals.append(
        Goal(
            "eight threads: throughput against sqlite3 one by one",
            ratios(threads, "sqlite3", "eight threads"),
            2.5,
            True,
        )
    )
    say("processes")
    shares, together, waits = [], [], []
    for _ in range(3 if size is QUICK else 5):
        ((alone, _, _),) = measure.processes(1, 2)
        four = measure.processes(4, 2)
        counts = [one[0] for one in four]
        shares.append(min(counts) / max(counts))
        together.append(sum(counts) / alone)
        waits.append(max(longest / median for _, median, longest in four))
    goals.append(Goal("four processes together against one alone", together, 1.0, True))
    goals.append(Goal("four processes: the slowest against the fastest", shares, 0.5, True))
    goals.append(Goal("four processes: the longest wait against the median one", waits, 50))

    say("beside other work")
    tables["get beside writers"] = await measure.gets_beside_writes(size)
    tables["put on a busy loop"] = await measure.puts_on_a_busy_loop(size)
    say("values")
    for what, value_bytes in (("4 KB", 4096), ("1 MB", 2**20)):
        tables[f"values of {what}, full"] = await measure.values_of(size, value_bytes)
    say(f"{size.rows} rows")
    grown = await measure.growing(size)
    goals.append(Goal("a put at all rows against one at a hundredth", [grown["put, large"] / grown["put, small"]], 1.3))
    goals.append(
        Goal("memory after iterating all against the beginning", [grown["MB at last"] / grown["MB at first"]], 1.1)
    )
    say("imports")
    rounds = 5 if size is QUICK else 15
    whole = measure.python_seconds("import contextstore", rounds)
    parts = measure.python_seconds("import aiosqlite, orjson, msgspec", rounds)
    goals.append(
        Goal("import, against that of the core dependencies", [a / b for a, b in zip(whole, parts, strict=True)], 1.5)
    )
    say("PostgreSQL")
    if binaries() is not None:
        with running_server() as server:
            times = await postgres.measured(server.url(), size.rounds)
        for what, goal, at_least in postgres.GOALS:
            goals.append(Goal(f"PostgreSQL, {what}", postgres.ratios_of(times, what), goal, at_least))
        tables["postgres"] = times
    opening, closing = measure.open_and_close(size)
    tables["others"] = {
        "opening a store, ms": opening * 1e3,
        "closing it, ms": closing * 1e3,
        **{what: figure for what, figure in grown.items() if what.startswith("list_keys")},
        "iterating, µs an output": grown["iteration"] * 1e6,
        "bytes of file an output of 200 bytes": grown["bytes an output"],
    }
    return goals, tables


def environment() -> list[str]:
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    kernel = ".".join(platform.release().split(".")[:2])
    folder = tempfile.gettempdir()
    system = subprocess.run(
        ["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False
    ).stdout.strip()
    _, missing = available()
    packages = {"apsw", "aiosqlite", "langgraph-checkpoint-sqlite", "diskcache", "sqlitedict", "lmdb", "rocksdict"}
    packages |= {"py-key-value-aio", "dbos", "asyncpg"}
    versions = []
    for package in sorted(packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return [
        f"- {cpu}, {os.cpu_count()} cores, {platform.system()} {kernel}, file system {system}",
        f"- Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"contextstore {contextstore.__version__}",
        f"- {', '.join(versions)}",
        "- Everybody is set to the same durability, and takes turns with the others within each round; a ratio is",
        "  taken within a round, and what is told is the median of the rounds. Each turn of puts begins with some that",
        "  are not counted. A virtual machine's disk is noisy: ratios below 1.2 say little.",
        "- Libraries that block put 64 at once one after the other: that is all that they can do on an event loop.",
        "- DBOS records steps of a workflow; its SQLite is what it offers for development, and PostgreSQL is its home.",
        *([f"- Not installed: {', '.join(missing)}."] if missing else []),
    ]


def page(goals: list[Goal], tables: dict[str, Any]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Measured by `make bench`, which writes this page.",
        "",
        *environment(),
        "",
        "![Puts and gets against the peers](benchmarks.png)",
        "",
        "## Against what we set out for",
        "",
        "| what | goal | median | rounds | |",
        "|---|---|---|---|---|",
        *(goal.line() for goal in goals),
        "",
        "## Everybody",
        "",
        "Microseconds for each operation, medians; in brackets the ratio to contextstore, its median and its bounds.",
        "",
    ]
    columns = [name for name in tables if ("put" in name or "get" in name) and "contextstore" in tables[name]]
    names = list(dict.fromkeys(name for column in columns for name in tables[column]))
    lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = []
        for column in columns:
            if name not in tables[column]:
                cells.append("")
                continue
            median = statistics.median(tables[column][name])
            ratio = statistics.median(ratios(tables[column], name, "contextstore"))
            spread = ratios(tables[column], name, "contextstore")
            bounds = "" if name == "contextstore" else f", {min(spread):.2f} to {max(spread):.2f}"
            cells.append(f"{median * 1e6:.1f} ({ratio:.2f}{bounds})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## Values", "", "| | contextstore, µs a put | against sqlite3 |", "|---|---|---|"]
    for name in (name for name in tables if name.startswith("values")):
        ratio = statistics.median(ratios(tables[name], "contextstore", "sqlite3"))
        lines.append(f"| {name} | {statistics.median(tables[name]['contextstore']) * 1e6:.0f} | {ratio:.2f} |")
    lines += ["", "## Without a goal", "", "| what | |", "|---|---|"]
    lines += [f"| {what} | {figure:.2f} |" for what, figure in tables["others"].items()]
    if "postgres" in tables:
        lines += [
            "",
            "## PostgreSQL",
            "",
            "A server on the same machine; asyncpg with a pool of ten, one statement a put.",
        ]
        lines += ["", "| | µs, median | bounds |", "|---|---|---|"]
        for name, seconds in tables["postgres"].items():
            micros = [second * 1e6 for second in seconds]
            lines.append(f"| {name} | {statistics.median(micros):.0f} | {min(micros):.0f} to {max(micros):.0f} |")
    lines += ["", pathlib.Path(__file__).with_name("findings.md").read_text().rstrip()]
    return "\n".join(lines) + "\n"


def plot(tables: dict[str, Any], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    columns = [("one put after the other, full", "one put"), ("64 puts at once, full", "64 puts at once"),
               ("gets of the same 64", "repeated get")]  # fmt: skip
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4.2))
    for axis, (column, title) in zip(axes, columns, strict=True):
        names = [name for name in tables[column] if name in {kind.name for kind in PEERS}]
        medians = {name: statistics.median(ratios(tables[column], name, "contextstore")) for name in names}
        medians["contextstore"] = 1.0
        order = sorted(medians, key=medians.__getitem__, reverse=True)
        bars = axis.barh(
            order, [medians[n] for n in order], color=["#c0392b" if n == "contextstore" else "#7f8c8d" for n in order]
        )
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.2)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.supxlabel("time of one operation, contextstore = 1, logarithmic: shorter is better", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a smaller store; writes nothing")
    arguments = parser.parse_args()
    goals, tables = asyncio.run(run(QUICK if arguments.quick else FULL))
    text = page(goals, tables)
    print(text)
    if not arguments.quick:
        DOCS.joinpath("benchmarks.md").write_text(text)
        plot(tables, DOCS / "benchmarks.png")


if __name__ == "__main__":
    main()
