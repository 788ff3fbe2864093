"""Reading parts of a run: its last output, a page, many pages; and the same by a checkpointer of LangGraph's.

Rules of this module: as of ``gets``. Raw SQLite reads the very file of the store, the same columns in one statement,
and decodes each value; it verifies no checksum, and makes no object.
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from .contestants import RUN, SYNCHRONOUS, VALUE, OursBlocking
from .rounds import Size, Times, Turns, keys, opened

LAST, GET = "contextstore, last output", "contextstore, get"
PAGE, CACHED_PAGE, RAW_PAGE = (
    "contextstore, page of 100",
    "contextstore with its cache, page of 100",
    "sqlite3, 100 rows",
)
WALK, RAW_WALK = "contextstore, each of 10,000", "sqlite3, each of 10,000"
IDS, RAW_IDS = "contextstore, 100 node ids", "sqlite3, 100 node ids"
NEWEST, LIST = "contextstore, newest", "contextstore, newest 100"
SAVER_NEWEST, SAVER_LIST = "langgraph saver, newest", "langgraph saver, newest 100"

SAVER = "langgraph.checkpoint.sqlite"
_PER_COMMIT = 1000
_ROWS = """
    SELECT {} FROM node_outputs WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL)
    ORDER BY node_id LIMIT ?
"""


def _fill(store: Any, count: int) -> list[str]:
    names = keys(count)
    for start in range(0, count, _PER_COMMIT):
        store.put_many(RUN, dict.fromkeys(names[start : start + _PER_COMMIT], VALUE))
    return names


def _times(call: Callable[[], object], count: int) -> Callable[[], float]:
    def work() -> float:
        began = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - began) / count

    return work


def parts(size: Size) -> Times:
    """Of a run of a tenth of the rows; the walk over a tenth of these."""
    cold, cached = OursBlocking(cache_bytes=0), OursBlocking()
    with opened([cold, cached], "normal") as turns:
        names = _fill(cold.store, max(size.rows // 10, 200))
        _fill(cached.store, 200)
        raw = sqlite3.connect(_path_of(turns), isolation_level=None)
        with contextlib.closing(raw):
            rows, ids = _ROWS.format("node_id, value, written_at, size"), _ROWS.format("node_id")

            def raw_rows(limit: int) -> Iterator[tuple[Any, ...]]:
                return ((a, orjson.loads(b), c, d) for a, b, c, d in raw.execute(rows, (RUN, limit)))

            many, count = len(names) // 10, size.operations
            store = cold.store
            return turns.take(
                {
                    LAST: _times(lambda: store.list_outputs(RUN, reverse=True, limit=1), count * 4),
                    GET: _times(lambda: store.get(RUN, names[-1]), count * 4),
                    PAGE: _times(lambda: store.list_outputs(RUN, limit=100), count),
                    CACHED_PAGE: _times(lambda: cached.store.list_outputs(RUN, limit=100), count),
                    RAW_PAGE: _times(lambda: list(raw_rows(100)), count),
                    WALK: _times(lambda: [None for _ in zip(range(many), store.iter_outputs(RUN), strict=False)], 1),
                    RAW_WALK: _times(lambda: [None for _ in raw_rows(many)], 1),
                    IDS: _times(lambda: store.list_keys(RUN, limit=100), count),
                    RAW_IDS: _times(lambda: [one for (one,) in raw.execute(ids, (RUN, 100))], count),
                },
                size,
            )


def _path_of(turns: Turns) -> str:
    return str(turns.folder / "0" / "store.db")


def peers(size: Size) -> Times:
    """The newest of a thousand, and the newest hundred, with an equal payload."""
    ours = OursBlocking(cache_bytes=0)
    with opened([ours], "normal") as turns, contextlib.ExitStack() as stack:
        names = _fill(ours.store, max(100, min(1000, size.rows // 10)))
        store, count = ours.store, size.operations
        works: dict[str, Any] = {
            NEWEST: _times(lambda: store.list_outputs(RUN, reverse=True, limit=1), count),
            LIST: _times(lambda: store.list_outputs(RUN, reverse=True, limit=100), max(1, count // 8)),
        }
        with contextlib.suppress(ImportError):
            kind = importlib.import_module(SAVER).SqliteSaver
            saver = stack.enter_context(kind.from_conn_string(str(turns.folder / "saver.db")))
            saver.conn.execute(f"PRAGMA synchronous = {SYNCHRONOUS['normal']}")
            config = {"configurable": {"thread_id": RUN, "checkpoint_ns": ""}}
            for name in names:
                checkpoint = {
                    "v": 1, "ts": "2026-01-01T00:00:00+00:00", "id": name, "channel_values": VALUE,
                    "channel_versions": {}, "versions_seen": {},
                }  # fmt: skip
                saver.put(config, checkpoint, {}, {})
            works[SAVER_NEWEST] = _times(lambda: saver.get_tuple(config), count)
            works[SAVER_LIST] = _times(lambda: list(saver.list(config, limit=100)), max(1, count // 8))
        return turns.take(works, size)
