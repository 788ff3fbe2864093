"""Outputs that are put, kept, tagged and deleted, against a dict: whatever the order, the store answers as it does."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from contextstore import AlreadyExistsError, ContextStore, OutputDeletedError

from ..support.portions import some

NODES = st.sampled_from(["x", "y", "xy", "x%", "\U0001f600"])
PREFIXES = st.sampled_from(["", "x", "x%", "z"])
VALUES = st.sampled_from([1, 1.0, True, None, "a", b"a", {"a": 1, "b": 2}])
TAGS = st.sampled_from([None, "a", "b"])
EXIST_OK = st.sampled_from([False, True, "keep"])
DELETED = object()


def form(value: Any, tag: str | None) -> Any:
    """What is compared: JSON tells 1, 1.0 and true apart, and Python does not."""
    return type(value), value, tag


class Machine(RuleBasedStateMachine):
    """Two store objects on one file, of which each may have cached what the other deletes."""

    objects = Bundle("objects")

    @initialize(target=objects)
    def make(self) -> Any:
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.stores = [ContextStore(self.folder / "store.db") for _ in range(2)]
        self.outputs: dict[str, Any] = {}
        return multiple(0, 1)

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            shutil.rmtree(self.folder)

    def outcome_of(self, node: str, value: Any, tag: str | None, exist_ok: Any) -> Any:
        """What a put comes to: whether it writes, or the class of its error."""
        stored = self.outputs.get(node)
        if stored is None:
            return True
        if stored is DELETED:
            return OutputDeletedError
        if exist_ok == "keep" or (exist_ok and stored == form(value, tag)):
            return False
        return AlreadyExistsError

    @rule(store=objects, node=NODES, value=VALUES, tag=TAGS, exist_ok=EXIST_OK)
    def put(self, store: int, node: str, value: Any, tag: Any, exist_ok: Any) -> None:
        expected = self.outcome_of(node, value, tag, exist_ok)
        try:
            self.stores[store].put("run", node, value, tag=tag, exist_ok=exist_ok)
        except (AlreadyExistsError, OutputDeletedError) as error:
            assert type(error) is expected
        else:
            assert expected in (True, False)
            self.outputs.setdefault(node, form(value, tag))

    @rule(store=objects, values=st.dictionaries(NODES, VALUES), exist_ok=EXIST_OK)
    def put_many(self, store: int, values: dict[str, Any], exist_ok: Any) -> None:
        expected = {node: self.outcome_of(node, value, None, exist_ok) for node, value in values.items()}
        try:
            written = self.stores[store].put_many("run", values, exist_ok=exist_ok)
        except (AlreadyExistsError, OutputDeletedError) as error:
            assert type(error) is expected[error.node_id]
            assert type(error) is next(one for one in expected.values() if one not in (True, False))
        else:
            assert written == [node for node, is_written in expected.items() if is_written is True]
            assert not {AlreadyExistsError, OutputDeletedError} & set(expected.values())
            for node, value in values.items():
                self.outputs.setdefault(node, form(value, None))

    @rule(store=objects, nodes=st.lists(NODES))
    def delete(self, store: int, nodes: list[str]) -> None:
        there = {node for node in nodes if self.outputs.get(node, DELETED) is not DELETED}
        assert self.stores[store].delete_outputs("run", nodes) == len(there)
        self.outputs |= dict.fromkeys(there, DELETED)

    @rule(store=objects, prefix=PREFIXES)
    def delete_prefix(self, store: int, prefix: str) -> None:
        there = {node for node in self.there() if node.startswith(prefix)}
        assert self.stores[store].delete_outputs("run", prefix=prefix) == len(there)
        self.outputs |= dict.fromkeys(there, DELETED)

    @rule(store=objects, nodes=st.lists(NODES, min_size=1), put=NODES, comes_first=st.booleans())
    def delete_and_put_in_a_batch(self, store: int, nodes: list[str], put: str, comes_first: bool) -> None:
        before = dict(self.outputs)
        deletes = {node for node in nodes if before.get(node, DELETED) is not DELETED}
        expected = self.outcome_of(put, 1, None, False)
        if not comes_first and put in deletes:
            expected = OutputDeletedError
        try:
            with self.stores[store].batch() as batch:
                if comes_first:
                    batch.put("run", put, 1)
                batch.delete_outputs("run", nodes)
                if not comes_first:
                    batch.put("run", put, 1)
        except (AlreadyExistsError, OutputDeletedError) as error:
            assert type(error) is expected
        else:
            assert expected is True
            is_gone = comes_first and put in nodes
            self.outputs |= {put: DELETED if is_gone else form(1, None)} | dict.fromkeys(deletes, DELETED)

    def there(self) -> list[str]:
        return sorted(node for node, stored in self.outputs.items() if stored is not DELETED)

    @rule(store=objects, node=NODES)
    def get(self, store: int, node: str) -> None:
        stored = self.outputs.get(node, DELETED)
        entry = self.stores[store].get_entry("run", node)
        assert self.stores[store].exists("run", node) == (stored is not DELETED) == (entry is not None)
        if entry is not None:
            assert form(entry.value, entry.tag) == stored
            got = self.stores[store].get("run", node)
            assert (type(got), got) == stored[:2]
        else:
            assert self.stores[store].get("run", node, KeyError) is KeyError

    @invariant()
    def both_list_what_is_there(self) -> None:
        for store in getattr(self, "stores", ()):
            assert store.list_keys("run") == list(store.get_run("run")) == self.there()


TestMarks = Machine.TestCase
TestMarks.settings = settings(
    max_examples=some(40, 10),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
