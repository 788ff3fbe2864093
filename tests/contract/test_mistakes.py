"""What is easily got wrong is told in words that name the parameter, the key and what to do; and nothing is stored."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import gc
import pathlib
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import contextstore
from contextstore import (
    AtomicWriter,
    ContextStore,
    DeserializationError,
    InvalidKeyError,
    SerializationError,
    StorageError,
    StoreNotFoundError,
)

from ..conftest import Target


@dataclasses.dataclass
class Point:
    x: int


async def nothing() -> None:
    """A coroutine function of the user's."""


CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("factory must be a function, not int", lambda store: store.get_or_put("run", "node", 5)),
    ("fn must be a function, not int", lambda store: store.run("run").step("node", 5)),
    ("fn must be a function, not dict", lambda store: store.update_global("key", {})),
    ("outputs must be a mapping of node ids to values, not list", lambda store: store.put_many("run", ["a", 1])),
    ("outputs must be a mapping of node ids to values, not str", lambda store: store.put_many("run", "node")),
    ("outputs must be a mapping of node ids to values, not NoneType", lambda store: store.put_many("run", None)),
    ("node_ids must be several ids, not NoneType", lambda store: store.get_many("run", None)),
    ("path must be a str or a Path, not NoneType", lambda store: store.backup(None)),
    ("progress must be a function, not int", lambda store: store.backup("/nowhere", progress=5)),
    ("progress must be a function, not int", lambda store: store.prune(older_than=datetime.timedelta(1), progress=5)),
    ("timeout must be a number of seconds, not str", lambda store: store.wait_for("run", "node", timeout="1")),
    ("timeout must be a number of seconds, not bool", lambda store: store.wait_for("run", "node", timeout=True)),
]


@pytest.mark.parametrize(("words", "call"), CALLS, ids=[words for words, _ in CALLS])
@pytest.mark.each_input_once
async def test_an_argument_that_cannot_be_meant_is_a_type_error_by_its_name(
    make_store: Target, words: str, call: Callable[[Any], Any]
) -> None:
    async with make_store() as store:
        is_awaited = make_store.face != "sync"

        async def make_the_call() -> None:
            if is_awaited:
                await call(store)
            else:
                call(store.plain)

        with pytest.raises(TypeError, match=words):
            await make_the_call()
        assert await store.list_runs() == []
        assert await store.list_globals() == []


async def test_a_timeout_that_is_no_number_is_refused(store: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds, not NaN"):
        await store.wait_for("run", "node", timeout=float("nan"))


async def test_whoever_waits_in_vain_is_told_for_what(store: Any) -> None:
    with pytest.raises(TimeoutError, match=r"node 'report' of flow run 'run-1' had no output within 0\.01 seconds"):
        await store.wait_for("run-1", "report", timeout=0.01)


async def test_a_value_that_cannot_be_stored_is_told_with_its_key(store: Any) -> None:
    whose = r"\$\.bad: .*set.* \(node 'n' of flow run 'r'\)"
    with pytest.raises(SerializationError, match=whose):
        await store.put("r", "n", {"bad": {1}})
    with pytest.raises(SerializationError, match=whose):
        await store.get_or_put("r", "n", lambda: {"bad": {1}})
    for write in (store.put_global, store.upsert_global):
        with pytest.raises(SerializationError, match=r"\(global 'k'\)"):
            await write("k", {1})
    with pytest.raises(SerializationError, match=r"\(global 'k'\)"):
        await store.update_global("k", lambda _: {1})


async def test_a_value_that_does_not_fit_the_type_is_told_with_its_key(store: Any) -> None:
    await store.put("r", "n", {"x": "one"})
    await store.put_global("k", {"x": "one"})
    whose = r"\$\.x: .* \(node 'n' of flow run 'r'\)"
    for call in (store.get, store.wait_for):
        with pytest.raises(DeserializationError, match=whose) as caught:
            await call("r", "n", type=Point)
        assert type(caught.value) is DeserializationError
        assert caught.value.path == "$.x"
        assert caught.value.__cause__ is not None
    with pytest.raises(DeserializationError, match=r"\(global 'k'\)"):
        await store.get_global("k", type=Point)


async def test_a_run_info_is_no_run_to_go_on_after(store: Any) -> None:
    await store.put("r", "n", 1)
    (run,) = await store.list_runs()
    with pytest.raises(InvalidKeyError, match=r"^after must be a str"):
        await store.list_runs(after=run)


@pytest.mark.parametrize("carry", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.each_input_once
async def test_a_store_is_not_copied_or_pickled(store: Any, carry: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="make a store object there"):
        carry(getattr(store, "plain", store))


async def test_what_cannot_be_called_completes_nothing_and_writes_nothing(make_store: Target) -> None:
    async with make_store() as store:
        writer: Any = AtomicWriter(getattr(store, "plain", store))
        with pytest.raises(TypeError, match="complete must be a function, not NoneType"):
            writer.write_and_complete("r", "n", 1, None)
        assert not await store.exists("r", "n")


def test_a_copy_to_a_path_says_how(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store, pytest.raises(TypeError, match=r"ContextStore\(\.\.\.\)"):
        contextstore.copy(store, "copy.db")  # type: ignore[call-overload]


def test_a_store_that_is_only_read_is_not_made(file_path: pathlib.Path) -> None:
    with pytest.raises(StoreNotFoundError, match="open it once without"):
        ContextStore(file_path, read_only=True).open()
    assert not file_path.exists()


def test_a_home_folder_that_was_not_expanded_is_told_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StoreNotFoundError, match="expanduser"):
        ContextStore(f"{tmp_path}/~/flows.db").open()


def test_a_backup_to_a_folder_that_is_not_there_says_so(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store, pytest.raises(StoreNotFoundError, match="there is no folder"):
        store.backup(file_path.parent / "missing" / "backup.db")


def test_a_check_of_a_file_that_was_deleted_says_so(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("r", "n", 1)
        file_path.unlink()
        with pytest.raises(StorageError, match="was deleted while it was open"):
            store.check()
        with pytest.raises(StorageError, match="was deleted while it was open"):
            store.backup(file_path.parent / "backup.db")


def test_a_time_that_is_none_is_refused_as_such() -> None:
    class NotATime(datetime.datetime):  # as pandas.NaT is one: it passes for a datetime and equals nothing
        nanosecond = float("nan")

        def __eq__(self, other: object) -> bool:
            return False

        def __ne__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    with ContextStore(":memory:") as store, pytest.raises(SerializationError, match="is no time; store None"):
        store.put("r", "n", {"at": NotATime(1, 1, 1)})


def test_what_knows_how_to_become_a_list_is_told_so() -> None:
    class Matrix:
        def tolist(self) -> list[int]:
            return [1]

    with ContextStore(":memory:") as store, pytest.raises(SerializationError, match=r"its tolist\(\) returns"):
        store.put("r", "n", Matrix())


def test_a_forgotten_close_warns_once_and_names_the_line_if_tracemalloc_knows_it(file_path: pathlib.Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = ContextStore(file_path)
        store.put("r", "n", 1)
        del store
        gc.collect()
    (warning,) = [one for one in caught if one.category is ResourceWarning]
    assert warning.source is not None
    program = textwrap.dedent("""
        import sys
        from contextstore import ContextStore
        store = ContextStore(sys.argv[1])
        store.put("r", "other", 1)
    """)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, file_path], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.count("was not closed") == 1
