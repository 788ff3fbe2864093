"""The tables of docs/limits.md are held: to the constants of the code, or by trying it."""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import sys
import tomllib
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, InvalidKeyError, SerializationError
from contextstore._core import backend, outputs, parts, retention
from contextstore._dispatch import writer
from contextstore._engine import attempts
from contextstore._postgres import deletion, retry
from contextstore._postgres import outputs as postgres_outputs
from contextstore._postgres.engine import PostgresEngine
from contextstore._process import log_handover
from contextstore._sqlite import lending, writes
from contextstore._sqlite.engine import SQLiteEngine
from contextstore._values import arguments, encode, keys, plain, run_facts

from .pages import rows, section
from .test_readme import ROOT

PAGE = "limits.md"
TABLE = "Sizes and counts"
WHERE = "What is promised where"


def default(call: Any, parameter: str) -> Any:
    return inspect.signature(call).parameters[parameter].default


def mib(count: int) -> str:
    assert count % 2**20 == 0
    return f"{count >> 20} MiB"


def group(engine: Any) -> str:
    limits = engine.group_limits
    return f"{limits.operations} operations and {mib(limits.bytes)}"


def value(engine: Any) -> str:
    return f"{mib(engine.max_value_bytes)} unless told otherwise; {backend.LARGEST_VALUE:,} bytes at most"


SAME = "the same"
LIMITS = {
    "a flow run's or a node's id": (
        f"1 to {keys.MAX_KEY_BYTES:,} bytes of UTF-8; no NUL, no lone surrogate",
        SAME,
    ),
    "a global's key, a prefix": (f"0 to {keys.MAX_KEY_BYTES:,} bytes, likewise", SAME),
    "a value as it is stored (`max_value_bytes`)": (value(SQLiteEngine), value(PostgresEngine)),
    "a tag": (f"1 to {arguments.TAG_BYTES} printable characters of ASCII", SAME),
    "a run's attributes": (
        f"{run_facts.MAX_ATTRIBUTES}; a name of {run_facts.NAME_BYTES} bytes of UTF-8, "
        f"a text of {run_facts.VALUE_BYTES:,}",
        SAME,
    ),
    "the text of a run's error, or of a failed attempt": (
        f"{run_facts.ERROR_BYTES >> 10} KiB; the rest is cut off",
        SAME,
    ),
    "failed attempts kept of a node": (f"the newest {attempts.MOST_FAILURES}; their numbers go on", SAME),
    "a state value's key": ("as a global's", SAME),
    "the `ttl` of a lease": ("0.05 s to a day", SAME),
    "nesting of a value": (f"200 levels always, {plain.MAX_DEPTH} at most", SAME),
    "an integer": ("`-2**63 to 2**64-1`", SAME),
    "how often `encode_default` is asked for one object": (f"{encode._MOST_ASKED} times", SAME),
    "runs in a store, outputs in a run, globals": ("no limit of its own; measured with a million outputs", SAME),
    "`put_many`, a batch": ("no limit of its own: one commit, all of it in memory", SAME),
    "writes that wait (the queue)": (f"{mib(writer.QUEUE_BYTES)}; a larger one has it for itself", SAME),
    "writes that share a commit": (group(SQLiteEngine), group(PostgresEngine)),
    "outputs that a commit deletes": (f"{retention._REMOVE_ROWS}, and {mib(writes.MAX_BYTES)}", SAME),
    "a page of `list_runs`": (f"{default(ContextStore.list_runs, 'limit')} runs unless told otherwise", SAME),
    "a page of `list_outputs`": (
        f"{default(ContextStore.list_outputs, 'limit')} outputs unless told otherwise, and about "
        f"{mib(parts._LIST_BYTES)}, or one value",
        SAME,
    ),
    "a page of `list_globals`": (
        f"{default(ContextStore.list_globals, 'limit'):,} globals unless told otherwise",
        SAME,
    ),
    "what an iteration holds": (f"{outputs.PAGE_ROWS} outputs and {mib(outputs.PAGE_BYTES)}, or one value", SAME),
    "the cache (`cache_bytes`)": (
        f"{mib(default(ContextStore, 'cache_bytes'))} unless told otherwise, 0 for none",
        SAME,
    ),
    "`timeout`": (
        f"{default(ContextStore, 'timeout'):g} s unless told otherwise; 0 (try once) to any finite number",
        f"the same; {retry.MIN_COMMIT_SECONDS:g} s is the least that a call gets",
    ),
    "connections of a store object (`max_connections`)": (
        f"3, and up to {2 * lending._MOST} that calling threads borrow",
        f"{default(ContextStore, 'max_connections')} unless told otherwise, 2 at least",
    ),
    "threads, descriptors": ("[a table of its own](operating.md#what-a-store-takes)", "likewise"),
    "the path of a file": ("504 bytes, its name 247", ""),
    "the name of a schema": ("", "63 characters: a to z, digits, `_`"),
    "log records that wait for a slow handler": (f"{log_handover._MOST_WAITING:,}; further ones are dropped", SAME),
}


def test_the_table_says_what_the_code_does() -> None:
    assert {what: tuple(cells) for what, *cells in rows(PAGE, TABLE)} == LIMITS
    assert deletion._REMOVE_BYTES == writes.MAX_BYTES  # one row speaks of both engines
    assert PostgresEngine.group_limits == postgres_outputs.GROUP_LIMITS


@pytest.fixture(params=["memory", "file", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Any:
    target: Any = {"memory": ":memory:", "file": tmp_path / "store.db"}.get(request.param)
    with ContextStore(target or request.getfixturevalue("url")) as opened:
        yield opened


class TestByTrying:
    def test_an_id_of_1024_bytes_is_taken_and_one_of_1025_is_not(self, store: ContextStore) -> None:
        longest = "é" * 512
        store.put(longest, longest, 1)
        store.put_global(longest, 1)
        store.put_global("", 1)
        assert store.list_keys(longest, prefix=longest) == [longest]
        for wrong in (longest + "x", "", "a\0b", "\ud800"):
            with pytest.raises(InvalidKeyError):
                store.put(wrong, "node", 1)
            with pytest.raises(InvalidKeyError):
                store.put("run", wrong, 1)
        with pytest.raises(InvalidKeyError):
            store.put_global(longest + "x", 1)

    def test_a_runs_attributes_state_keys_and_leases_end_where_the_table_says(self, store: ContextStore) -> None:
        run = store.run("run")
        run.begin(attributes={f"{number:0256}": "é" * 512 for number in range(64)})
        for beyond in ({"one more": 1}, {"x" * 257: 1}, {f"{0:0256}": "x" * 1025}):
            with pytest.raises(ValueError, match=r"attribute"):
                run.update(attributes=beyond)
        error = run.update(state="failed", error="é" * 4096).error
        assert error is not None
        assert 4000 < len(error.encode()) <= 4096
        run.upsert_state("é" * 512, 1)
        with pytest.raises(InvalidKeyError):
            run.upsert_state("x" * 1025, 1)
        for ttl in (0.05, 86_400):
            with store.lease("name", ttl=ttl):
                pass
        for ttl in (0.04, 86_401):
            with pytest.raises(ValueError, match="ttl"), store.lease("name", ttl=ttl):
                pass

    def test_integers_end_where_the_table_says(self, store: ContextStore) -> None:
        store.put("run", "least", -(2**63))
        store.put("run", "most", 2**64 - 1)
        assert store.get_many("run", ["least", "most"]) == {"least": -(2**63), "most": 2**64 - 1}
        for beyond in (-(2**63) - 1, 2**64):
            with pytest.raises(SerializationError):
                store.put("run", "beyond", beyond)

    def test_nesting_ends_where_the_table_says(self, store: ContextStore) -> None:
        def nested(levels: int) -> Any:
            return [nested(levels - 1)] if levels > 1 else []

        store.put("run", "deep", nested(200))
        assert store.get("run", "deep") == nested(200)
        with pytest.raises(SerializationError):
            store.put("run", "deeper", nested(255))

    def test_a_batch_that_is_larger_than_the_queue_is_committed(
        self, store: ContextStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "QUEUE_BYTES", 100_000)
        store.put_many("run", {f"{number:04}": "x" * 100 for number in range(2000)})
        assert len(store.list_keys("run")) == 2000


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": -1},
        {"timeout": float("inf")},
        {"cache_bytes": -1},
        {"max_connections": 1},
        {"max_value_bytes": 0},
        {"max_value_bytes": 999_000_001},
    ],
    ids=str,
)
@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
def test_an_option_beyond_its_bounds_is_refused(face: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        face(":memory:", **wrong)


@pytest.mark.parametrize(("schema", "is_taken"), [("s" * 63, True), ("s" * 64, False), ("Upper", False), ("a_1", True)])
def test_the_name_of_a_schema_ends_where_the_table_says(schema: str, is_taken: bool) -> None:
    if is_taken:
        ContextStore(f"postgresql://host/db?schema={schema}")
    else:
        with pytest.raises(ValueError, match="schema"):
            ContextStore(f"postgresql://host/db?schema={schema}")


def test_the_longest_path_and_name_are_those_of_the_table(tmp_path: pathlib.Path) -> None:
    from contextstore._sqlite.location import _LONGEST_PATH, _LONGEST_SIDE_NAME

    name = os.pathconf(tmp_path, "PC_NAME_MAX") - len(_LONGEST_SIDE_NAME)
    assert f"{_LONGEST_PATH} bytes, its name {name}" == LIMITS["the path of a file"][0]


# ---------------------------------------------------------------------------------------------------- what is promised


def versions_in(text: str) -> set[str]:
    return set(re.findall(r"\b3\.\d+\b(?!t)", text))


def test_the_pythons_that_are_supported_are_those_that_the_package_names_and_that_are_tested() -> None:
    pythons = [what for what, promise, _ in rows(PAGE, WHERE) if promise == "supported" and "Python" in what]
    supported = set().union(*map(versions_in, pythons))
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = {line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)}
    assert supported == named
    if (ROOT / ".ci" / "run").exists():  # not in what is released
        (tested,) = re.findall(r"^for version in (.*); do", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
        assert supported == set(tested.split())


def test_without_the_gil_nothing_is_promised() -> None:
    assert "**not supported**" in section(PAGE, WHERE)
    assert getattr(sys, "_is_gil_enabled", lambda: True)()


def test_the_poolers_version_is_the_one_that_the_other_page_names() -> None:
    (pooler,) = (what for what, *_ in rows(PAGE, WHERE) if "PgBouncer" in what)
    (version,) = re.findall(r"PgBouncer ([\d.]+)", pooler)
    assert f"tested with version {version}" in section("postgresql.md", "Pools")
