"""The store against a dict: whatever the order of calls, it answers as the model does."""

from __future__ import annotations

import asyncio
import pathlib
import shutil
import tempfile
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    GlobalAlreadyExistsError,
    VersionConflictError,
)

from ..support.portions import some

RUNS = st.sampled_from(["a", "b", "é", "a'b"])
NODES = st.sampled_from(["x", "y", "xy", "x%", "\U0001f600"])
KEYS = st.sampled_from(["", "k", "k'"])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([0.0, -0.0, 1.0, "", "null", b"", b"null", [], {}, {"a": 1, "b": 2}, {"b": 2, "a": 1}]),
    st.binary(max_size=9000),
    st.text(max_size=20),
)


def text_of(value: Any) -> Any:
    return value if isinstance(value, bytes) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def same(one: Any, other: Any) -> bool:
    return isinstance(one, bytes) == isinstance(other, bytes) and text_of(one) == text_of(other)


class StoreMachine(RuleBasedStateMachine):
    """Two store objects on one file, used in turn, closed and opened anew."""

    objects = Bundle("objects")

    @initialize(target=objects)
    def make(self) -> Any:
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.stores = [self.new_store(), self.new_store()]
        self.outputs: dict[tuple[str, str], Any] = {}
        self.globals: dict[str, tuple[Any, int]] = {}
        return multiple(0, 1)

    def new_store(self) -> Any:
        return ContextStore(self.folder / "store.db", cache_bytes=20_000)

    def run_call(self, call: Any) -> Any:
        return call

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                self.run_call(store.close())
            shutil.rmtree(self.folder)

    @rule(store=objects, run=RUNS, node=NODES, value=VALUES, exist_ok=st.booleans())
    def put(self, store: int, run: str, node: str, value: Any, exist_ok: bool) -> None:
        stored = self.outputs.get((run, node), KeyError)
        try:
            self.run_call(self.stores[store].put(run, node, value, exist_ok=exist_ok))
        except AlreadyExistsError as error:
            assert stored is not KeyError
            assert error.same_value == same(stored, value)
            assert not (exist_ok and error.same_value)
        else:
            assert stored is KeyError or (exist_ok and same(stored, value))
            self.outputs.setdefault((run, node), value)

    @rule(store=objects, run=RUNS, node=NODES)
    def get(self, store: int, run: str, node: str) -> None:
        got = self.run_call(self.stores[store].get(run, node, KeyError))
        expected = self.outputs.get((run, node), KeyError)
        assert got is KeyError if expected is KeyError else same(got, expected)

    @rule(store=objects, run=RUNS, prefix=st.sampled_from(["", "x", "x%", "z", "\U0001f600"]))
    def list_keys(self, store: int, run: str, prefix: str) -> None:
        expected = sorted(node for of, node in self.outputs if of == run and node.startswith(prefix))
        assert self.run_call(self.stores[store].list_keys(run, prefix=prefix)) == expected

    @rule(store=objects, key=KEYS, value=VALUES, exist_ok=st.booleans())
    def put_global(self, store: int, key: str, value: Any, exist_ok: bool) -> None:
        stored, version = self.globals.get(key, (KeyError, 0))
        try:
            self.run_call(self.stores[store].put_global(key, value, exist_ok=exist_ok))
        except GlobalAlreadyExistsError as error:
            assert version
            assert error.same_value == same(stored, value)
        else:
            assert not version or (exist_ok and same(stored, value))
            self.globals.setdefault(key, (value, 1))

    @rule(store=objects, key=KEYS, value=VALUES, expected=st.one_of(st.none(), st.integers(0, 4)))
    def upsert_global(self, store: int, key: str, value: Any, expected: int | None) -> None:
        _, version = self.globals.get(key, (None, 0))
        try:
            new = self.run_call(self.stores[store].upsert_global(key, value, expected_version=expected))
        except VersionConflictError as error:
            assert (error.expected, error.actual) == (expected, version)
            assert expected != version
        else:
            assert expected in (None, version)
            assert new == version + 1
            self.globals[key] = (value, new)

    @rule(store=objects, key=KEYS)
    def get_global(self, store: int, key: str) -> None:
        got = self.run_call(self.stores[store].get_global(key, KeyError))
        expected, version = self.globals.get(key, (KeyError, 0))
        assert got is KeyError if not version else same(got, expected)

    @rule(store=objects)
    def reopen(self, store: int) -> None:
        self.run_call(self.stores[store].close())
        self.stores[store] = self.new_store()


class AsyncStoreMachine(StoreMachine):
    @initialize(target=StoreMachine.objects)
    def make(self) -> Any:
        self.runner = asyncio.Runner()
        return super().make()

    def new_store(self) -> Any:
        return AsyncContextStore(self.folder / "store.db", cache_bytes=20_000)

    def run_call(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "runner"):
            self.runner.close()


SETTINGS = settings(
    max_examples=some(25, 5),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

TestStore = StoreMachine.TestCase
TestStore.settings = SETTINGS
TestAsyncStore = AsyncStoreMachine.TestCase
TestAsyncStore.settings = SETTINGS
