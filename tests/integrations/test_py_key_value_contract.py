"""py-key-value's protocol, call by call, as its base class and its other stores keep it."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import subprocess
import sys
import uuid
from typing import Any

import pytest

pytest.importorskip("key_value.aio")

from key_value.aio.errors import DeserializationError, InvalidTTLError, SerializationError
from key_value.aio.protocols import key_value as protocols

from contextstore import AsyncContextStore, ContextStore, StoreClosedError, StoreNotFoundError
from contextstore.integrations.py_key_value import ContextStoreKeyValue

from ..public.test_readme import ROOT

OPTIONAL = [
    protocols.AsyncCullProtocol,
    protocols.AsyncDestroyCollectionProtocol,
    protocols.AsyncDestroyStoreProtocol,
    protocols.AsyncEnumerateCollectionsProtocol,
    protocols.AsyncEnumerateKeysProtocol,
]


async def test_all_protocols_of_the_framework_are_seen(kv: ContextStoreKeyValue) -> None:
    known = {value for name, value in vars(protocols).items() if name.startswith("Async")}
    assert known == {*OPTIONAL, protocols.AsyncKeyValue, protocols.AsyncKeyValueProtocol}
    assert [protocol for protocol in known if not isinstance(kv, protocol)] == []


class TestOneEntry:
    async def test_what_is_not_there_is_none(self, kv: ContextStoreKeyValue) -> None:
        assert await kv.get("k", collection="c") is None
        assert await kv.ttl("k", collection="c") == (None, None)
        assert await kv.delete("k", collection="c") is False

    async def test_it_comes_back_until_it_is_deleted(self, kv: ContextStoreKeyValue) -> None:
        await kv.put("k", {"a": 1}, collection="c")
        assert await kv.get("k", collection="c") == {"a": 1}
        await kv.put("k", {"a": 2}, collection="c")
        assert await kv.get("k", collection="c") == {"a": 2}
        assert await kv.delete("k", collection="c") is True
        assert await kv.delete("k", collection="c") is False
        assert await kv.get("k", collection="c") is None
        await kv.put("k", {"a": 3}, collection="c")
        assert await kv.get("k", collection="c") == {"a": 3}

    async def test_a_collection_that_is_not_named_is_the_default_one(self, store: AsyncContextStore) -> None:
        kv = ContextStoreKeyValue(store, default_collection="mine")
        await kv.put("k", {"a": 1})
        assert await kv.get("k", collection="mine") == {"a": 1}
        assert await kv.get("k", collection="") == {"a": 1}
        assert await kv.collections() == ["mine"]
        assert await ContextStoreKeyValue(store).get("k") is None

    async def test_changes_to_what_was_given_or_got_reach_nobody_else(self, kv: ContextStoreKeyValue) -> None:
        value = {"items": [1]}
        await kv.put("k", value)
        value["items"].append(2)
        got = await kv.get("k")
        assert got == {"items": [1]}
        got["items"].append(3)
        assert await kv.get("k") == {"items": [1]}


class TestSeveral:
    async def test_they_are_answered_in_the_order_asked_for(self, kv: ContextStoreKeyValue) -> None:
        await kv.put_many(["a", "b", "c"], ({"n": 1}, {"n": 2}, {"n": 3}), collection="c")
        found = await kv.get_many(["c", "missing", "a", "c"], collection="c")
        assert found == [{"n": 3}, None, {"n": 1}, {"n": 3}]
        assert await kv.ttl_many(["b", "missing"], collection="c") == [({"n": 2}, None), (None, None)]

    async def test_those_deleted_are_counted(self, kv: ContextStoreKeyValue) -> None:
        await kv.put_many(["a", "b"], [{"n": 1}, {"n": 2}])
        assert await kv.delete_many(["a", "missing", "a"]) == 1
        assert await kv.delete_many(["a", "b"]) == 1
        assert await kv.get_many(["a", "b"]) == [None, None]

    async def test_none_at_all_do_nothing(self, kv: ContextStoreKeyValue) -> None:
        await kv.put_many([], [])
        assert await kv.get_many([]) == []
        assert await kv.ttl_many([]) == []
        assert await kv.delete_many([]) == 0

    async def test_a_key_that_is_put_twice_has_the_last_value(self, kv: ContextStoreKeyValue) -> None:
        await kv.put_many(["a", "a"], [{"n": 1}, {"n": 2}])
        assert await kv.get("a") == {"n": 2}

    async def test_keys_without_values_are_refused(self, kv: ContextStoreKeyValue) -> None:
        with pytest.raises(ValueError, match="different number"):
            await kv.put_many(["a", "b"], [{"n": 1}])
        assert await kv.get("a") is None

    async def test_one_that_is_refused_leaves_none_of_them(self, kv: ContextStoreKeyValue) -> None:
        with pytest.raises(SerializationError):
            await kv.put_many(["a", "b"], [{"n": 1}, {"n": object()}])
        assert await kv.get_many(["a", "b"]) == [None, None]

    async def test_they_are_one_commit(self, kv: ContextStoreKeyValue, store: AsyncContextStore) -> None:
        before = (await store.stats()).commits
        await kv.put_many([f"{n}" for n in range(100)], [{"n": n} for n in range(100)])
        await kv.delete_many([f"{n}" for n in range(100)])
        assert (await store.stats()).commits == before + 2


class Colour(enum.StrEnum):
    RED = "red"


TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"a": None, "b": [True, False, None], "c": {"d": {"e": [[]]}}}, {}),
    ({"int": -(2**63), "large": 10**18, "float": 1.5e300, "one": 1.0}, {}),
    ({"text": "Hello 世界 🌍\n\t\0", "": "empty", "1": "one", "null": "null"}, {}),
    ({"tuple": (1, "two", 3.0)}, {"tuple": [1, "two", 3.0]}),
    ({"numbers as keys": {1: "one", 2: "two"}}, {"numbers as keys": {"1": "one", "2": "two"}}),
    ({"enum": Colour.RED}, {"enum": "red"}),
    # What a store's own JSON has no form for, and json.dumps has.
    ({"larger": 2**64, "least": -(2**63) - 1, "far": 10**400}, {}),
    ({"infinite": math.inf, "least": -math.inf}, {}),
    ({"half of a pair": "\ud83d", "\udc00": 1}, {}),
    ({"value": {"value": "value"}, "created_at": 1, "expires_at": "never"}, {}),
]


class TestValues:
    @pytest.mark.parametrize(("value", "expected"), TAKEN, ids=[next(iter(value), "nothing") for value, _ in TAKEN])
    async def test_what_json_dumps_takes_comes_back(
        self, value: dict[str, Any], expected: dict[str, Any], kv: ContextStoreKeyValue
    ) -> None:
        await kv.put("k", value)
        await kv.put_many(["many"], [value])
        for key in ("k", "many"):
            got = await kv.get(key)
            assert got == (expected or value)
            assert type(got) is dict

    async def test_nan_comes_back(self, kv: ContextStoreKeyValue) -> None:
        await kv.put("k", {"nan": math.nan})
        got = await kv.get("k")
        assert got is not None
        assert math.isnan(got["nan"])

    async def test_nesting_deeper_than_a_stores_json_comes_back(self, kv: ContextStoreKeyValue) -> None:
        value: dict[str, Any] = {}
        for _ in range(300):
            value = {"in": value}
        await kv.put("k", value)
        assert await kv.get("k") == value

    @pytest.mark.parametrize(
        "refused",
        [
            datetime.datetime.now(datetime.UTC),
            datetime.date(2025, 1, 1),
            uuid.uuid4(),
            b"bytes",
            {1, 2},
            decimal.Decimal(1),
            pathlib.Path("a"),
            object(),
            dataclasses.make_dataclass("Point", ["x"])(1),
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_what_json_dumps_refuses_is_their_error_and_leaves_what_was_there(
        self, refused: object, kv: ContextStoreKeyValue
    ) -> None:
        await kv.put("k", {"old": 1})
        with pytest.raises(SerializationError):
            await kv.put("k", {"new": refused})
        with pytest.raises(SerializationError):
            await kv.put_many(["k"], [{"new": refused}])
        assert await kv.get("k") == {"old": 1}

    async def test_a_circle_is_their_error(self, kv: ContextStoreKeyValue) -> None:
        circle: dict[str, Any] = {}
        circle["in"] = circle
        with pytest.raises(SerializationError):
            await kv.put("k", circle)

    async def test_nesting_without_end_is_their_error(self, kv: ContextStoreKeyValue) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(SerializationError):
            await kv.put("k", {"deep": deep})

    async def test_one_that_is_larger_than_the_store_takes_is_their_error(self, target: str) -> None:
        async with ContextStoreKeyValue.from_conn_string(target, max_value_bytes=10_000) as kv:
            await kv.put("k", {"a": "x" * 9_000})
            with pytest.raises(SerializationError, match="bytes"):
                await kv.put("k", {"a": "x" * 10_000})
            with pytest.raises(SerializationError, match="bytes"):
                await kv.put_many(["other", "k"], [{}, {"a": "x" * 10_000}])
            assert await kv.get("other") is None
            assert await kv.get("k") == {"a": "x" * 9_000}

    async def test_a_large_one_comes_back(self, kv: ContextStoreKeyValue) -> None:
        value = {"text": "ä" * 1_000_000, "items": list(range(50_000))}
        await kv.put("k", value)
        assert await kv.get("k") == value

    @pytest.mark.parametrize(
        "alien", [1, "text", [], {}, {"value": 1}, {"value": "no json"}, {"value": {}, "created_at": "x"}]
    )
    async def test_a_global_of_somebody_elses_is_their_error(
        self, alien: Any, kv: ContextStoreKeyValue, store: AsyncContextStore
    ) -> None:
        await store.upsert_global("key_value/c/k", alien)
        with pytest.raises(DeserializationError):
            await kv.get("k", collection="c")


class TestArguments:
    @pytest.mark.parametrize("ttl", [0, -1, -0.5, True, False])
    async def test_a_ttl_that_is_none_is_their_error(self, ttl: float, kv: ContextStoreKeyValue) -> None:
        with pytest.raises(InvalidTTLError):
            await kv.put("k", {}, ttl=ttl)
        with pytest.raises(InvalidTTLError):
            await kv.put_many(["k"], [{}], ttl=ttl)
        assert await kv.get("k") is None

    @pytest.mark.parametrize("key", [None, 1, b"k"])
    async def test_a_key_is_text(self, key: Any, kv: ContextStoreKeyValue) -> None:
        with pytest.raises(TypeError):
            await kv.put(key, {})

    async def test_a_value_is_a_mapping(self, kv: ContextStoreKeyValue) -> None:
        wrong: Any = [1]
        with pytest.raises(TypeError):
            await kv.put("k", wrong)

    def test_a_store_is_one_of_ours(self) -> None:
        wrong: Any = "flows.db"
        with pytest.raises(TypeError, match="ContextStore"):
            ContextStoreKeyValue(wrong)

    def test_a_namespace_has_its_limit(self) -> None:
        with pytest.raises(ValueError, match="namespace"):
            ContextStoreKeyValue(ContextStore(":memory:"), namespace="x" * 128)


class TestLifetime:
    @pytest.mark.parametrize("face", [ContextStore, AsyncContextStore])
    async def test_a_store_that_is_handed_in_is_not_closed(self, target: str, face: type) -> None:
        store = face(target)
        async with ContextStoreKeyValue(store) as kv:
            await kv.put("k", {"a": 1})
        await kv.close()
        assert await ContextStoreKeyValue(store).get("k") == {"a": 1}
        await (store.awaitable if isinstance(store, ContextStore) else store).close()
        with pytest.raises(StoreClosedError):
            await kv.get("k")
        with pytest.raises(StoreClosedError):
            await kv.put("k", {})

    async def test_one_of_its_own_is_closed_at_the_end_of_the_block(self, target: str) -> None:
        async with ContextStoreKeyValue.from_conn_string(target, default_collection="c", namespace="n") as kv:
            await kv.put("k", {"a": 1})
        with pytest.raises(StoreClosedError):
            await kv.get("k")
        async with AsyncContextStore(target) as store:
            assert await store.list_global_keys() == ["n/c/k"]

    async def test_one_that_cannot_be_opened_is_an_error_at_the_beginning_of_the_block(
        self, tmp_path: pathlib.Path
    ) -> None:
        store = AsyncContextStore(tmp_path / "missing.db", create=False)
        with pytest.raises(StoreNotFoundError):
            async with ContextStoreKeyValue(store):
                pass

    async def test_a_seed_is_there_at_the_first_use(self, target: str) -> None:
        seed = {"c": {"a": {"n": 1}}, "": {"b": {"n": 2}}}
        async with ContextStoreKeyValue.from_conn_string(target, seed=seed) as kv:
            assert await kv.get("a", collection="c") == {"n": 1}
            assert await kv.get("b") == {"n": 2}


def test_without_the_framework_the_import_says_what_to_install(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['key_value'] = None\n")
    program = (
        "import contextstore\ntry:\n import contextstore.integrations.py_key_value\nexcept ImportError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "pip install 'contextstore[py-key-value]'" in done.stdout, done.stderr
