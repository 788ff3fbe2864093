"""The list of what is measured: names by which a part of it is asked for, and the functions that measure.

Rules of this module: a measurement can be made alone; it knows nothing of others' results. A function takes a size and
returns figures, or nothing where what it needs is not installed.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from functools import partial

from tests.support.servers import binaries, running_server

from . import gets, puts, reads, savers, whole
from . import postgres as _postgres
from .rounds import Size, Times

Measurement = Callable[[Size], Times]


def _on_a_server(measured: Callable[[str, Size], Times]) -> Measurement:
    def measurement(size: Size) -> Times:
        if binaries() is None:
            return {}
        with running_server() as server:
            return measured(server.url(), size)

    return measurement


def _fewer_rounds(measurement: Measurement) -> Measurement:
    """Of what takes long."""
    return lambda size: measurement(size._replace(rounds=max(1, size.rounds // 3)))


MEASUREMENTS: dict[str, Measurement] = {
    "put": partial(puts.single, durability="full"),
    "put-normal": partial(puts.single, durability="normal"),
    "puts-64": puts.at_once,
    "threads": puts.by_threads,
    "get-cold": gets.cold,
    "get-hot": gets.hot,
    "parts": reads.parts,
    "peers-parts": reads.peers,
    "bytes": whole.file_bytes,
    "postgres": _on_a_server(_postgres.measured),
    "saver": _fewer_rounds(savers.steps),
    "saver-reads": _fewer_rounds(savers.reads),
    "saver-bytes": savers.file_bytes,
    "saver-postgres": _fewer_rounds(_on_a_server(savers.on_postgres)),
    "processes": whole.of_processes,
    "growth": whole.growing,
    "import": whole.imports,
    "opening": whole.opening,
    "peers-put-full": partial(puts.peers_one_by_one, durability="full"),
    "peers-put-normal": partial(puts.peers_one_by_one, durability="normal"),
    "peers-8-full": partial(puts.peers_at_once, durability="full", at_once=8),
    "peers-8-normal": partial(puts.peers_at_once, durability="normal", at_once=8),
    "peers-64-full": partial(puts.peers_at_once, durability="full", at_once=64),
    "peers-64-normal": partial(puts.peers_at_once, durability="normal", at_once=64),
    "peers-512-full": _fewer_rounds(partial(puts.peers_at_once, durability="full", at_once=512)),
    "peers-512-normal": _fewer_rounds(partial(puts.peers_at_once, durability="normal", at_once=512)),
    "peers-get": gets.peers,
    "beside-writers": gets.beside_writers,
    "busy-loop": puts.on_a_busy_loop,
    "values-4KB": partial(puts.of_large_values, value_bytes=4096),
    "values-1MB": partial(puts.of_large_values, value_bytes=2**20),
}


def chosen(patterns: str | None) -> list[str]:
    """The names that one of the patterns, which commas part, is about; all, without any."""
    if patterns is None:
        return list(MEASUREMENTS)
    asked = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in asked:
        if not fnmatch.filter(MEASUREMENTS, pattern):
            raise ValueError(f"there is no measurement {pattern!r}; there are {', '.join(MEASUREMENTS)}")
    return [name for name in MEASUREMENTS if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked)]
