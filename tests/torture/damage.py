"""Damage: flipped bits, and files made by somebody who means harm.

What must hold for either: a value that is returned is the one that was put; every error is the library's own; no crash,
no endless wait. What SQLite's format cannot tell (a flipped bit may take a name out of an index) may go missing, but
``check()`` must notice.

Run as a program this is the child that does the reading; it prints a line of JSON before and after each case.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from contextstore import ContextStore, ContextStoreError

from .facts import value_of
from .shim import ROOT

GUARD_SECONDS = float(os.environ.get("TORTURE_GUARD_SECONDS", "15"))


class Result(NamedTuple):
    case: str
    outcome: str
    """``right``, ``refused`` (a typed error), ``noticed`` (missing or altered, and check() says so), ``unnoticed``,
    or ``broken``: a wrong value, an error of others, a crash, a hang."""
    notes: list[str]

    def __str__(self) -> str:
        return "\n  ".join([self.case, *(note[:300] for note in self.notes[:4])])


def run(folder: pathlib.Path, *arguments: Any) -> Iterator[Result]:
    """``flips SEED FLIPS_A_PAGE``, or ``crafted NAME ...``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.damage", str(folder), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate()
    case = "?"
    for line in out.splitlines():
        match json.loads(line):
            case ["begin", case]:
                pass
            case ["end", case, outcome, notes]:
                yield Result(case, outcome, notes)
    if process.returncode:
        yield Result(case, "broken", [f"crash or hang: ended with {process.returncode}: {err}"])


# -- in the child ------------------------------------------------------------------------------------------------------

RUNS = {f"run-{run}": [f"node-{node}" for node in range(8)] for run in range(3)}
KEYS = [f"key-{key}" for key in range(6)]


def make_store(path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        for run, nodes in RUNS.items():
            store.put_many(run, {node: value_of(run, node) for node in nodes})
        store.put("run-0", "large", "x" * 20_000)
        for key in KEYS:
            store.upsert_global(key, value_of("", key))
        store.put("deleted", "1", 1)
        store.delete_run("deleted")


class _Reading:
    def __init__(self) -> None:
        self.broken: list[str] = []
        self.altered: list[str] = []
        self.refused: list[str] = []

    def call(self, what: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except ContextStoreError as error:
            self.refused.append(f"{what}: {type(error).__name__}")
        except BaseException as error:
            self.broken.append(f"{what}: not an error of the library: {type(error).__name__}: {error}")
        return _NOTHING

    def compare(self, what: str, found: Any, expected: Any) -> None:
        if found is _NOTHING or found == expected:
            return
        (self.altered if found is None or found == "missing" else self.broken).append(f"{what} is {found!r:.60}")

    def outcome(self, noticed: bool) -> str:
        if self.broken:
            return "broken"
        if self.altered:
            return "noticed" if noticed else "unnoticed"
        return "refused" if self.refused else "right"


_NOTHING = object()


def _read_all(path: pathlib.Path, read_only: bool) -> tuple[str, list[str]]:
    reading = _Reading()
    store = ContextStore(path, cache_bytes=0, timeout=2, read_only=read_only)
    noticed = False
    try:
        if reading.call("open", store.open) is _NOTHING:
            return reading.outcome(False), reading.broken + reading.refused
        expected = {run: {node: value_of(run, node) for node in nodes} for run, nodes in RUNS.items()}
        expected["run-0"]["large"] = "x" * 20_000
        for run, outputs in expected.items():
            for node, value in outputs.items():
                found = reading.call("get", lambda run=run, node=node: store.get(run, node, "missing"))  # type: ignore[misc]
                reading.compare(f"{run}/{node}", found, value)
            keys = reading.call("list_keys", lambda run=run: store.list_keys(run))  # type: ignore[misc]
            if keys is not _NOTHING and keys != sorted(outputs):
                reading.altered.append(f"the nodes of {run} are {keys!r:.200}")
            whole = reading.call("get_run", lambda run=run: store.get_run(run))  # type: ignore[misc]
            if whole is not _NOTHING:
                for node, value in whole.items():
                    reading.compare(f"{run}/{node} of get_run", value, outputs.get(node))
                if whole.keys() != outputs.keys():
                    reading.altered.append(f"get_run of {run} gives {list(whole)!r:.200}")
        for key in KEYS:
            value = value_of("", key)
            found = reading.call("get_global", lambda key=key: store.get_global(key, "missing"))  # type: ignore[misc]
            reading.compare(f"global {key}", found, value)
            entry = reading.call("get_global_entry", lambda key=key: store.get_global_entry(key))  # type: ignore[misc]
            if entry is not _NOTHING and entry is not None and entry.version != 1:
                reading.altered.append(f"the version of global {key} is {entry.version}")
        if reading.call("get", lambda: store.get("deleted", "1", "missing")) not in ("missing", _NOTHING):
            reading.altered.append("an output of a deleted run is there")
        listed = reading.call("list_runs", lambda: [run.flow_run_id for run in store.list_runs()])
        if listed is not _NOTHING and sorted(listed) != sorted(RUNS):
            reading.altered.append(f"the runs are {listed!r:.200}")
        report = reading.call("check", store.check)
        noticed = report is _NOTHING or bool(report.problems)
    finally:
        reading.call("close", store.close)
    return reading.outcome(noticed), reading.broken + reading.altered + reading.refused[:3]


def _flips(folder: pathlib.Path, seed: int, flips: int) -> None:
    original = folder / "original.db"
    make_store(original)
    content = original.read_bytes()
    dice = random.Random(seed)
    path = folder / "flipped.db"
    for page in range(len(content) // 4096):
        for _ in range(flips):
            # The first hundred bytes of a page hold its structure, and of the file its header.
            place = page * 4096 + (dice.randrange(4096) if dice.random() < 0.6 else dice.randrange(100))
            bit = dice.randrange(8)
            _guarded(
                f"page {page + 1}, byte {place % 4096}, bit {bit}",
                path,
                content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :],
                lambda path: _read_all(path, read_only=False),
            )


def _guarded(
    case: str, path: pathlib.Path, content: bytes, read: Callable[[pathlib.Path], tuple[str, list[str]]]
) -> None:
    _say("begin", case)
    faulthandler.dump_traceback_later(GUARD_SECONDS, exit=True)
    path.write_bytes(content)
    outcome, notes = read(path)
    faulthandler.cancel_dump_traceback_later()
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    _say("end", case, outcome, notes)


def _say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


# -- crafted files -----------------------------------------------------------------------------------------------------

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def _replace_value(value: bytes, kind: str = "TEXT", codec: Any = 0) -> Callable[[sqlite3.Connection], None]:
    """A value that the library would never write, with a checksum that fits."""

    def craft(connection: sqlite3.Connection) -> None:
        checksum = _checksum("run-1", "node-1", codec if isinstance(codec, int) else 0, value)
        connection.execute(
            f"UPDATE node_outputs SET codec = ?, value = CAST(? AS {kind}), size = ?, checksum = ? "
            "WHERE node_id = 'node-1' AND run = (SELECT serial FROM flow_runs WHERE flow_run_id = 'run-1')",
            (codec, value, len(value), checksum),
        )

    return craft


def _checksum(run: str, node: str, codec: int, value: bytes) -> int:
    from contextstore._values.codec import Encoded, checksum

    with contextlib.suppress(Exception):
        return checksum(run, node, Encoded(codec, value))
    return zlib.crc32(value)


def _sql(*statements: str) -> Callable[[sqlite3.Connection], None]:
    def craft(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return craft


CRAFTED: dict[str, Callable[[sqlite3.Connection], None]] = {
    "a trigger that takes back what is put": _sql(
        "CREATE TRIGGER t AFTER INSERT ON node_outputs BEGIN DELETE FROM node_outputs WHERE id = new.id; END"
    ),
    "a trigger that never ends": _sql(
        f"CREATE TRIGGER t AFTER INSERT ON node_outputs BEGIN INSERT INTO flow_runs (flow_run_id, created_at) "
        f"SELECT x, 0 FROM ({ENDLESS} SELECT x FROM n); END"
    ),
    "a table replaced by an endless view": _sql(
        "DROP TABLE node_outputs",
        f"CREATE VIEW node_outputs AS {ENDLESS} SELECT x AS id, 1 AS run, 'a' || x AS node_id, 0 AS codec, "
        "0 AS checksum, 0 AS written_at, 1 AS size, '1' AS value FROM n",
    ),
    "the views replaced by endless ones": _sql(
        "DROP VIEW outputs", f"CREATE VIEW outputs AS {ENDLESS} SELECT x FROM n", "DROP VIEW globals"
    ),
    "right marks and no tables": _sql("DROP VIEW outputs", "DROP TABLE node_outputs", "DROP TABLE flow_runs"),
    "invalid UTF-8 in a value": _replace_value(b'"\xff\xfe"'),
    "invalid UTF-8 in a node id": _sql("UPDATE node_outputs SET node_id = CAST(x'ff41' AS TEXT) WHERE id = 3"),
    "invalid UTF-8 in a run id": _sql("UPDATE flow_runs SET flow_run_id = CAST(x'ff41' AS TEXT) WHERE serial = 1"),
    "invalid UTF-8 in a key": _sql("UPDATE global_values SET key = CAST(x'ff41' AS TEXT) WHERE id = 1"),
    "deep JSON": _replace_value(b"[" * 100_000 + b"]" * 100_000),
    "JSON that is cut off": _replace_value(b'{"a": [1, 2'),
    "NaN": _replace_value(b"NaN"),
    "a lone surrogate": _replace_value(b'"\\ud800"'),
    "a huge integer": _replace_value(b"9" * 5000),
    "a value of 20 MB": _replace_value(b'"' + b"x" * 20_000_000 + b'"'),
    "an unknown codec": _replace_value(b"1", codec=7),
    "a text as codec": _replace_value(b"1", codec="zero"),
    "a codec beyond 32 bits": _replace_value(b"1", codec=2**40),
    "wrong types in every column": _sql(
        "UPDATE node_outputs SET checksum = 'x', written_at = x'00', size = 'many', value = 1.5 WHERE id = 2",
        "UPDATE node_outputs SET node_id = x'0102' WHERE id = 4",
        "UPDATE global_values SET version = 'two', checksum = 'x' WHERE id = 2",
        "UPDATE flow_runs SET created_at = 'yesterday', deleted_at = 'never' WHERE serial = 2",
    ),
    "times beyond all calendars": _sql("UPDATE node_outputs SET written_at = 9223372036854775807"),
    "negative times": _sql("UPDATE node_outputs SET written_at = -9223372036854775807"),
    "the last serial": _sql("UPDATE sqlite_sequence SET seq = 9223372036854775807"),
    "the last version": _sql("UPDATE global_values SET version = 9223372036854775807"),
    "a negative schema version": _sql("PRAGMA user_version = -1"),
}


def _crafted(folder: pathlib.Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    _say("begin", name)
    faulthandler.dump_traceback_later(GUARD_SECONDS, exit=True)
    path = folder / "crafted.db"
    make_store(path)
    connection = sqlite3.connect(path, isolation_level=None)
    CRAFTED[name](connection)
    connection.close()
    notes: list[str] = []
    reading = _Reading()
    for read_only in (True, False):
        outcome, more = _read_all(path, read_only)
        # What is altered here was altered by the file's author, whose right that is; what counts is that no error of
        # others comes up, and that nothing written through the library goes wrong.
        reading.broken += [note for note in more if outcome == "broken" and "not an error of the library" in note]
        notes += more
    store = ContextStore(path, cache_bytes=0, timeout=2)
    for key in ("iter", "entries"):
        read = {
            "iter": lambda: [list(store.iter_outputs(run)) for run in RUNS],
            "entries": lambda: [store.get_entry(run, node) for run, nodes in RUNS.items() for node in nodes],
        }[key]
        reading.call(key, read)
    for run in ("new", "run-0"):
        if reading.call("put", lambda run=run: store.put(run, "new", 1)) is None:  # type: ignore[misc]
            found = reading.call("get", lambda run=run: store.get(run, "new", "missing"))  # type: ignore[misc]
            if found != 1:
                reading.broken.append(f"a put to {run} was acknowledged and is {found!r:.60}")
    version = reading.call("upsert_global", lambda: store.upsert_global("key-1", "new"))
    if version is not _NOTHING and reading.call("get_global", lambda: store.get_global("key-1")) != "new":
        reading.broken.append("an upsert was acknowledged and is not there")
    reading.call("delete_run", lambda: store.delete_run("run-2"))
    reading.call("list", lambda: (store.list_globals(), store.list_runs(), store.stats()))
    reading.call("close", store.close)
    faulthandler.cancel_dump_traceback_later()
    _say("end", name, reading.outcome(True), (reading.broken + reading.refused + notes)[:12])


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    match sys.argv[2:]:
        case ["flips", seed, flips]:
            _flips(target, int(seed), int(flips))
        case ["crafted", *crafted]:
            for crafted_file in crafted:
                _crafted(target, crafted_file)
                shutil.rmtree(target)
