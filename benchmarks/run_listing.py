"""Pages of ``list_runs`` at many runs of one output each: each filter alone, and two that have no run in common.

Rules of this module: the runs are written as rows, since a million puts take minutes; all that is measured is a public
call. ``python -m benchmarks.run_listing [runs] [folder or URL of a server]``.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from contextstore import ContextStore
from contextstore._engine.fact_rules import facts_row
from contextstore._engine.records import RunFacts

_BEGUN = 10**15
OLD = ("parent", "until", "prefix, the older half", "prefix, few")
"""Filters that the older half of the runs fits, or a part of it."""
_COLUMNS = (
    "flow_run_id, created_at, outputs, first_written_at, last_written_at, touched_at, state, state_changed_at, "
    "begun_at, begun_attributes, parent, attributes, error, checksum"
)


def run_of(number: int, runs: int) -> tuple[str, tuple[Any, ...], dict[str, str]]:
    """The id of a run, its columns, its attributes as JSON."""
    name = f"{'old' if number < runs // 2 else 'new'}-{number * 7919 % runs:08}-{number}"
    attributes = {"half": number % 2, "many": number % 1000}
    facts = RunFacts(
        state=1 if number % 2 else 0,
        begun_at=_BEGUN + number,
        parent="parent" if number < runs // 2 else None,
        attributes=orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS).decode(),
    )
    at = _BEGUN + number
    columns = (name, at, 1, at, at, at, *facts_row(name, facts))
    return name, columns, {key: orjson.dumps(value).decode() for key, value in attributes.items()}


def fill_file(path: pathlib.Path, runs: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        marks = ", ".join("?" * len(_COLUMNS.split(", ")))
        connection.execute("PRAGMA cache_size = -200000")
        rows = (run_of(number, runs)[1] for number in range(runs))
        connection.executemany(f"INSERT INTO flow_runs ({_COLUMNS}) VALUES ({marks})", rows)
        names = ((key, value, number + 1) for number in range(runs) for key, value in run_of(number, runs)[2].items())
        connection.executemany("INSERT INTO run_attributes VALUES (?, ?, ?)", sorted(names))
        outputs = "INSERT INTO node_outputs (run, node_id, codec, checksum, written_at, size, value) VALUES "
        connection.executemany(outputs + "(?, 'node', 0, 0, ?, 1, '1')", ((n + 1, _BEGUN + n) for n in range(runs)))
        connection.execute("UPDATE store_facts SET value = (SELECT max(id) FROM node_outputs) WHERE name = 'counted'")


async def fill_server(url: str, runs: int) -> None:
    import asyncpg

    server, _, schema = url.partition("?schema=")
    connection = await asyncpg.connect(server)
    await connection.execute(f'SET search_path = "{schema}"')
    nobody = "00000000-0000-0000-0000-000000000000"
    columns = [*_COLUMNS.split(", "), "writer"]
    rows = ((*run_of(number, runs)[1], nobody) for number in range(runs))
    await connection.copy_records_to_table("flow_runs", records=rows, columns=columns, schema_name=schema)
    names = [(key, value, number + 1) for number in range(runs) for key, value in run_of(number, runs)[2].items()]
    await connection.copy_records_to_table("run_attributes", records=names, schema_name=schema)
    outputs = ((n + 1, "node", 0, 0, _BEGUN + n, 1, nobody, b"1") for n in range(runs))
    columns = ["run", "node_id", "codec", "checksum", "written_at", "size", "writer", "value"]
    await connection.copy_records_to_table("node_outputs", records=outputs, columns=columns, schema_name=schema)
    await connection.execute("UPDATE counted_outputs SET before = pg_snapshot_xmax(pg_current_snapshot())")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def seconds(call: Callable[[], Any], times: int = 7) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def gets_beside(store: ContextStore, run: str, call: Callable[[], Any]) -> tuple[float, float]:
    """How long the call takes, and the longest of the gets that are made meanwhile."""
    longest, is_done = 0.0, threading.Event()

    def get() -> None:
        nonlocal longest
        while not is_done.is_set():
            longest = max(longest, seconds(lambda: store.get(run, "node"), 1))
            time.sleep(0.001)

    thread = threading.Thread(target=get)
    thread.start()
    taken = seconds(call, 1)
    is_done.set()
    thread.join()
    return taken, longest


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    place = sys.argv[2] if len(sys.argv) > 2 else tempfile.gettempdir()
    with tempfile.TemporaryDirectory(dir=None if "://" in place else place) as folder:
        target: Any = place if "://" in place else pathlib.Path(folder) / "store.db"
        with ContextStore(target):
            pass
        if isinstance(target, pathlib.Path):
            fill_file(target, runs)
        else:
            asyncio.run(fill_server(target, runs))
        with ContextStore(target, cache_bytes=0) as store:
            measure(store, runs)


def measure(store: ContextStore, runs: int) -> None:
    half = datetime.datetime.fromtimestamp((_BEGUN + runs // 2) / 1e6, datetime.UTC)
    filters: dict[str, dict[str, Any]] = {
        "none": {},
        "state": {"state": "completed"},
        "parent": {"parent": "parent"},
        "an attribute, half": {"attributes": {"half": 1}},
        "an attribute, 1 in 1000": {"attributes": {"many": 7}},
        "since": {"since": half},
        "until": {"until": half},
        "prefix, the newer half": {"prefix": "new"},
        "prefix, the older half": {"prefix": "old"},
        "prefix, few": {"prefix": "old-00001"},
    }
    for name, options in filters.items():
        last = store.list_runs(limit=101, oldest_first=True, **options)[-1].flow_run_id
        middle = run_of(runs // 4 if name in OLD else runs // 4 * 3, runs)[0]
        times = [seconds(partial(store.list_runs, after=after, **options)) for after in (None, middle, last)]
        print(f"{name:28}", *(f"{1000 * one:8.2f} ms" for one in times), flush=True)
    run = "beside"
    store.put(run, "node", 1)
    for name, options in {
        "two halves": {"state": "completed", "attributes": {"half": 0}},
        "halves, by begin": {"state": "completed", "attributes": {"half": 0}, "since": half},
        "a half and a few": {"state": "completed", "attributes": {"many": 8}},
        "three": {"state": "open", "attributes": {"half": 1}, "parent": "parent", "prefix": "new"},
    }.items():
        taken, longest = gets_beside(store, run, partial(store.list_runs, **options))
        print(f"{name:28} {1000 * taken:8.2f} ms, the longest get beside it {1000 * longest:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
