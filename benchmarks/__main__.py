"""Measure, and write docs/benchmarks.md with its plots.

python -m benchmarks                         # about ten minutes; nothing else should run
python -m benchmarks --quick                 # about two; writes nothing
python -m benchmarks --only put,get-cold     # a part, by names or patterns; writes nothing
python -m benchmarks --page                  # measures nothing: the page anew, from the figures of the last run
"""

from __future__ import annotations

import argparse
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
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import contextstore

from . import page, plots
from .contestants import available
from .goals import Result, results
from .measurements import MEASUREMENTS, chosen
from .rounds import FULL, QUICK, Size, Times

FIGURES = pathlib.Path(__file__).with_name("figures.json")
FINDINGS = pathlib.Path(__file__).with_name("findings.md")
DOCS = pathlib.Path(__file__).parent.parent / "docs"
_PACKAGES = (
    "aiosqlite apsw asyncpg dbos diskcache langgraph-checkpoint-postgres langgraph-checkpoint-sqlite lmdb psycopg "
    "py-key-value-aio rocksdict sqlitedict"
)


def measured(names: Iterable[str], size: Size) -> dict[str, Times]:
    figures = {}
    for name in names:
        print(name, end="", file=sys.stderr, flush=True)
        began = time.perf_counter()
        times = MEASUREMENTS[name](size)
        print(f", {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if times:
            figures[name] = {who: [_rounded(figure) for figure in some] for who, some in times.items()}
    return figures


def _rounded(figure: float) -> float:
    return float(f"{figure:.4g}")


def about(size: Size) -> list[str]:
    """The machine and the versions."""
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    command = ["stat", "-f", "-c", "%T", tempfile.gettempdir()]
    system = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    _, missing = available()
    versions = []
    for package in _PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    kernel = ".".join(platform.release().split(".")[:2])
    return [
        f"- {cpu}, {os.cpu_count()} cores, {platform.system()} {kernel}, file system {system}; {size.rounds} rounds",
        f"- Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"contextstore {contextstore.__version__}",
        f"- {', '.join(versions)}",
        *([f"- Not installed: {', '.join(missing)}."] if missing else []),
    ]


def write_page() -> None:
    document = json.loads(FIGURES.read_text())
    DOCS.joinpath("benchmarks.md").write_text(page.written(document, FINDINGS.read_text()))
    for plot in plots.PLOTS:
        if times := document["figures"].get(plot.measurement):
            plots.draw(plot, times, DOCS / plot.file)


def saved(document: Mapping[str, Any]) -> str:
    """JSON with a line for everybody who was measured."""
    return json.dumps(document, indent=1).replace("\n    ", " ").replace("\n   ]", " ]") + "\n"


def show(figures: Mapping[str, Times]) -> None:
    print("| what | against | goal | median | half of the rounds | all rounds | |\n|---|---|---|---|---|---|---|")
    for result in results(figures):
        if isinstance(result, Result):
            print(page.goal_line(result))
    for name, times in figures.items():
        print(f"\n{name}")
        for who, some in times.items():
            print(f"  {who}: {_shown(some)}")


def _shown(figures: Sequence[float]) -> str:
    low, high = min(figures), max(figures)
    if high >= 10:  # not seconds
        return f"{statistics.median(figures):,.1f}"
    return f"{statistics.median(figures) * 1e6:,.1f} µs, {low * 1e6:,.1f} to {high * 1e6:,.1f}"


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a smaller store; writes nothing")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(MEASUREMENTS)}; writes nothing")
    parser.add_argument("--rounds", type=int, help="others than 21, or 5 if quick")
    parser.add_argument("--save", metavar="FILE", type=pathlib.Path, help="write the figures there, as JSON")
    parser.add_argument("--page", action="store_true", help="write the page from the saved figures")
    arguments = parser.parse_args()
    if arguments.page:
        write_page()
        return
    try:
        names = chosen(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    size = QUICK if arguments.quick else FULL
    size = size._replace(rounds=arguments.rounds or size.rounds)
    figures = measured(names, size)
    show(figures)
    is_whole = not (arguments.quick or arguments.only)
    if where := arguments.save or (FIGURES if is_whole else None):
        where.write_text(saved({"about": about(size), "figures": figures}))
    if is_whole:
        write_page()


if __name__ == "__main__":
    main()
