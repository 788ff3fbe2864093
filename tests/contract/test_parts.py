"""Parts of a run: by prefix, beyond an id, so many at most, in either order; and outputs of several runs at once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import random
import sqlite3
import uuid
from typing import Any

import asyncpg
import pytest

from contextstore import (
    CorruptStoreError,
    DeserializationError,
    InvalidKeyError,
    Output,
    StoreClosedError,
    new_flow_run_id,
)

from ..conftest import Target
from ..support.doubles import core_of
from .outputs import damage, ids_of, iterate

AWKWARD = "ab\x01\x7f%_'é\ud7ff\ue000\uffff\U00010000\U0010ffff"
"""Around the places where an order by bytes, by code points, by UTF-16 and by a locale differ."""


@dataclasses.dataclass
class Point:
    x: int


def seeded() -> random.Random:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    return random.Random(seed)


def random_id(chance: random.Random, at_least: int = 1) -> str:
    return "".join(chance.choice(AWKWARD) for _ in range(chance.randint(at_least, 4)))


def part_of(nodes: Any, prefix: str, after: Any, reverse: bool) -> list[str]:
    """What the model has of the ids: Python compares by code point."""
    found = [node for node in nodes if node.startswith(prefix)]
    if after:
        found = [node for node in found if (node < after if reverse else node > after)]
    return sorted(found, reverse=reverse)


def random_part(chance: random.Random, nodes: list[str]) -> dict[str, Any]:
    known = chance.choice(nodes)
    return {
        "prefix": chance.choice(["", "", known[: chance.randint(0, len(known))], random_id(chance)]),
        "after": chance.choice([None, "", known, random_id(chance)]),
        "reverse": chance.random() < 0.5,
    }


async def mark_deleted(place: Target, node_ids: list[str], run: str = "run") -> None:
    """As a commit that deletes outputs leaves them."""
    statements = (
        "UPDATE node_outputs SET codec = -1, size = 0, value = {empty} WHERE node_id = {node} AND run = (SELECT serial"
        " FROM flow_runs WHERE flow_run_id = {run})",
        "UPDATE flow_runs SET marks = marks + 1 WHERE {node} <> '' AND flow_run_id = {run}",
    )
    if place.engine == "file":
        with contextlib.closing(sqlite3.connect(place.location)) as connection, connection:
            for node in node_ids:
                for statement in statements:
                    connection.execute(statement.format(empty="x''", node="?1", run="?2"), (node, run))
        return
    url, schema = str(place.location).split("?schema=")
    server = await asyncpg.connect(url)
    try:
        await server.execute(f"SET search_path TO {schema}")
        for node in node_ids:
            for statement in statements:
                await server.execute(statement.format(empty="''::bytea", node="$1::text", run="$2::text"), node, run)
    finally:
        await server.close()


class TestAgainstAModel:
    async def check(self, store: Any, nodes: list[str], chance: random.Random) -> None:
        part = random_part(chance, nodes)
        limit = chance.choice([1, 2, 7, 1000])
        expected = part_of(nodes, **part)
        about = f"{part} {limit}"
        assert await store.list_keys("run", **part) == expected, about
        assert await store.list_keys("run", **part, limit=limit) == expected[:limit], about
        page = await store.list_outputs("run", **part, limit=limit)
        assert [output.node_id for output in page] == expected[:limit], about
        assert [output.value for output in page] == [{"id": node} for node in expected[:limit]], about
        assert await ids_of(store, **part) == expected, about
        got = await store.get_run("run", prefix=part["prefix"])
        assert list(got.items()) == [(n, {"id": n}) for n in part_of(nodes, part["prefix"], None, False)], about

    async def test_every_part_is_that_of_the_model(self, store: Any) -> None:
        chance = seeded()
        nodes = list({random_id(chance) for _ in range(60)})
        await store.put_many("run", {node: {"id": node} for node in nodes})
        await store.put_many("sun", {random_id(chance): 0 for _ in range(9)})
        for _ in range(25):
            await self.check(store, nodes, chance)

    @pytest.mark.usefixtures("shared_target")
    async def test_marks_of_deleted_outputs_are_in_no_part(self, make_store: Target) -> None:
        chance = seeded()
        nodes = list({random_id(chance) for _ in range(40)})
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {node: {"id": node} for node in nodes})
            marked = chance.sample(nodes, 12)
            await mark_deleted(make_store, marked)
            left = [node for node in nodes if node not in marked]
            for _ in range(12):
                await self.check(store, left, chance)

    @pytest.mark.usefixtures("shared_target")
    async def test_a_run_of_marks_alone_has_no_parts(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {"a": 1, "b": 2})
            await mark_deleted(make_store, ["a", "b"])
            assert (await store.list_keys("run"), await store.list_outputs("run")) == ([], [])
            assert (await store.get_run("run"), await ids_of(store)) == ({}, [])

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_pages_join_without_a_gap_and_without_a_repetition(self, store: Any, reverse: bool) -> None:
        nodes = [f"{i:03}" for i in range(450)]
        await store.put_many("run", dict.fromkeys(nodes))
        seen: list[str] = []
        while page := await store.list_outputs(
            "run", after=seen[-1] if seen else "", limit=101, reverse=reverse, prefix="1"
        ):
            seen += [output.node_id for output in page]
        assert seen == part_of(nodes, "1", None, reverse)
        assert await ids_of(store, reverse=reverse) == part_of(nodes, "", None, reverse)

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_node_ids_beyond_one_look_are_of_the_part_too(self, store: Any, reverse: bool) -> None:
        nodes = [f"{i % 2}-{i:05}" for i in range(12_000)]
        await store.put_many("run", dict.fromkeys(nodes))
        expected = part_of(nodes, "1", "1-00101", reverse)
        for limit in (None, 4999, 5000, 5001, 20_000):
            listed = await store.list_keys("run", prefix="1", after="1-00101", limit=limit, reverse=reverse)
            assert listed == expected[:limit]


class TestAPage:
    async def test_an_output_of_a_page_is_that_of_get_entry(self, store: Any) -> None:
        await store.put_many("run", {"a": {"x": 1}, "b": b"\0\xff", "c": None, "d": "x" * 3000})
        page = await store.list_outputs("run")
        assert page == [await store.get_entry("run", node) for node in "abcd"]
        assert [hash(output.node_id) for output in page]
        assert page == [output async for output in iterate(store)]

    async def test_the_last_output_of_a_run_is_one_call(self, store: Any) -> None:
        await store.put_many("run", {f"{i:04}": i for i in range(300)})
        (last,) = await store.list_outputs("run", reverse=True, limit=1)
        assert (last.node_id, last.value) == ("0299", 299)

    async def test_a_page_has_a_hundred_unless_told_otherwise(self, store: Any) -> None:
        await store.put_many("run", {f"{i:04}": i for i in range(101)})
        assert len(await store.list_outputs("run")) == 100

    async def test_a_page_ends_at_16_mib_and_has_one_output_at_least(self, store: Any) -> None:
        for i in range(5):
            await store.put("run", f"{i}", bytes(6 * 2**20))
        await store.put("run", "9", 1)
        pages = []
        after = None
        while page := await store.list_outputs("run", after=after):
            pages.append([output.node_id for output in page])
            after = page[-1].node_id
        assert pages == [["0", "1", "2"], ["3", "4", "9"]]

    async def test_a_run_never_seen_and_one_that_was_deleted_have_none(self, store: Any) -> None:
        await store.put("run", "a", 1)
        await store.delete_run("run")
        for run in ("run", "never"):
            assert await store.list_outputs(run) == []
            assert await store.get_run(run, prefix="a") == {}
            assert await ids_of(store, run, reverse=True) == []

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "1", True, None])
    @pytest.mark.each_input_once
    async def test_a_limit_that_is_none_is_refused(self, store: Any, limit: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="limit"):
            await store.list_outputs("run", limit=limit)
        if limit is not None:
            with pytest.raises((TypeError, ValueError), match="limit"):
                await store.list_keys("run", limit=limit)

    async def test_what_cannot_be_an_id_is_refused_by_its_name(self, store: Any) -> None:
        for call in (store.list_keys, store.list_outputs):
            with pytest.raises(InvalidKeyError, match="after"):
                await call("run", after="a\0")
            with pytest.raises(InvalidKeyError, match="prefix"):
                await call("run", prefix=5)
            with pytest.raises(InvalidKeyError, match="flow_run_id"):
                await call("")
        with pytest.raises(InvalidKeyError, match="prefix"):
            await store.get_run("run", prefix="\ud800")

    async def test_an_empty_after_is_the_first_page_everywhere(self, store: Any) -> None:
        await store.put("run", "a", 1)
        await store.put_global("key", 1)
        assert await store.list_keys("run", after="", reverse=True) == ["a"]
        assert await ids_of(store, after="", reverse=True) == ["a"]
        assert [entry.key for entry in await store.list_globals(after="")] == ["key"]
        assert [run.flow_run_id for run in await store.list_runs(after="")] == ["run"]

    async def test_a_uuid_is_an_after(self, store: Any) -> None:
        ids = sorted(new_flow_run_id() for _ in range(3))
        await store.put_many("run", dict.fromkeys(ids))
        assert await store.list_keys("run", after=uuid.UUID(ids[1])) == ids[2:]

    async def test_closing_ends_an_iteration_within_a_page(self, make_store: Target) -> None:
        store = make_store()
        await store.put_many("run", {"a": 1, "b": 2})
        iteration = iterate(store, reverse=True)
        assert (await anext(iteration)).node_id == "b"
        await store.close()
        with pytest.raises(StoreClosedError):
            await anext(iteration)

    async def test_a_run_object_has_these_calls_too(self, store: Any) -> None:
        kept = store.run("run") if not hasattr(store, "plain") else store.plain.run("run")
        await store.put_many("run", {"a-1": {"x": 1}, "a-2": {"x": 2}, "b": {"x": 3}})

        async def told(call: Any) -> Any:
            return await call if hasattr(call, "__await__") else call

        assert await told(kept.list_keys(prefix="a", after="a-2", reverse=True, limit=1)) == ["a-1"]
        assert [one.value for one in await told(kept.list_outputs(prefix="a", type=Point))] == [Point(1), Point(2)]
        assert await told(kept.get_run(prefix="a", type=Point)) == {"a-1": Point(1), "a-2": Point(2)}
        assert await told(kept.get_many(["b", "no"], type=Point)) == {"b": Point(3)}
        assert await told(kept.get_entry("b")) == await store.get_entry("run", "b")


class TestDamage:
    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    @pytest.mark.parametrize("reverse", [False, True])
    async def test_it_is_raised_in_its_turn_and_one_can_go_on_behind_it(
        self, make_store: Target, reverse: bool
    ) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {f"{i}": i for i in range(10)})
            damage(make_store, "UPDATE node_outputs SET value = 99 WHERE node_id IN ('4', '5')")
            seen: list[str] = []
            after = None
            while True:
                try:
                    async for output in iterate(store, after=after, reverse=reverse):
                        seen.append(output.node_id)
                    break
                except CorruptStoreError as error:
                    after = error.node_id
                    seen.append(f"damaged {after}")
            expected = ["0", "1", "2", "3", "damaged 4", "damaged 5", "6", "7", "8", "9"]
            assert seen == (expected[::-1] if reverse else expected)

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_page_ends_before_it_and_the_next_one_raises_it(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {f"{i}": i for i in range(6)})
            damage(make_store, "UPDATE node_outputs SET written_at = -1 WHERE node_id = '3'")
            assert [output.node_id for output in await store.list_outputs("run")] == ["0", "1", "2"]
            with pytest.raises(CorruptStoreError, match="'3' of flow run 'run'") as caught:
                await store.list_outputs("run", after="2")
            page = await store.list_outputs("run", after=caught.value.node_id)
            assert [output.node_id for output in page] == ["4", "5"]
            with pytest.raises(CorruptStoreError, match="iter_outputs"):
                await store.get_run("run")
            assert await store.get_run("run", prefix="4") == {"4": 4}


class TestByType:
    async def test_every_bulk_call_converts(self, store: Any) -> None:
        await store.put_many("run", {"a": Point(1), "b": Point(2)})
        await store.put_global("key", Point(3))
        both = {"a": Point(1), "b": Point(2)}
        assert await store.get_many("run", ["a", "b"], type=Point) == both
        assert await store.get_run("run", type=Point) == both
        assert [output.value for output in await store.list_outputs("run", type=Point)] == list(both.values())
        assert [output.value async for output in iterate(store, type=Point)] == list(both.values())
        assert await store.get_outputs([("run", "b")], type=Point) == {("run", "b"): Point(2)}
        assert (await store.get_entry("run", "a", type=Point)).value == Point(1)
        assert (await store.get_global_entry("key", type=Point)).value == Point(3)
        assert [entry.value for entry in await store.list_globals(type=Point)] == [Point(3)]

    async def test_what_does_not_fit_is_named(self, store: Any) -> None:
        await store.put_many("run", {"a": Point(1), "b": {"x": "no"}})
        await store.put_global("key", 5)
        named = "'b' of flow run 'run'"
        for call in (
            lambda: store.get_many("run", ["a", "b"], type=Point),
            lambda: store.get_run("run", type=Point),
            lambda: store.list_outputs("run", type=Point),
            lambda: store.get_outputs([("run", "b")], type=Point),
            lambda: store.get_entry("run", "b", type=Point),
            lambda: ids_of(store, type=Point),
        ):
            with pytest.raises(DeserializationError, match=named):
                await call()
        for call in (
            lambda: store.get_global_entry("key", type=Point),
            lambda: store.list_globals(type=Point),
        ):
            with pytest.raises(DeserializationError, match="global 'key'"):
                await call()

    async def test_an_iteration_gives_what_fits_before_it_raises(self, store: Any) -> None:
        await store.put_many("run", {"a": Point(1), "b": {"x": "no"}})
        iteration = iterate(store, type=Point)
        assert (await anext(iteration)).value == Point(1)
        with pytest.raises(DeserializationError, match="'b'"):
            await anext(iteration)


class TestAcrossRuns:
    @pytest.mark.parametrize("cache_bytes", [0, 2**20])
    async def test_what_is_there_comes_in_the_order_asked_for(self, make_store: Target, cache_bytes: int) -> None:
        async with make_store(cache_bytes=cache_bytes) as store:
            for run in ("one", "two", "three"):
                await store.put_many(run, {"a": f"{run} a", "b": f"{run} b"})
            pairs = [("two", "b"), ("one", "no"), ("none", "a"), ("one", "a"), ("two", "a"), ("two", "b")]
            found = await store.get_outputs(iter(pairs))
            assert list(found.items()) == [
                (("two", "b"), "two b"),
                (("one", "a"), "one a"),
                (("two", "a"), "two a"),
            ]
            assert await store.get_outputs([]) == {}

    async def test_ids_come_back_as_text(self, store: Any) -> None:
        run, node = uuid.uuid4(), uuid.uuid4()
        await store.put(run, node, 1)
        assert await store.get_outputs([(run, node), [str(run), str(node)]]) == {(str(run), str(node)): 1}

    async def test_more_than_one_trip_has(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put_many("large", {f"{i}": i for i in range(1200)})
            await store.put_many("small", {f"{i}": -i for i in range(300)})
            pairs = [(run, f"{i}") for i in range(1201) for run in ("small", "large", "none")]
            found = await store.get_outputs(pairs)
            assert list(found) == [
                (r, n) for r, n in pairs if (r == "large" and n != "1200") or (r, int(n) < 300) == ("small", True)
            ]
            assert all(value == (int(n) if r == "large" else -int(n)) for (r, n), value in found.items())

    @pytest.mark.parametrize("pairs", ["ab", 5, ["ab"], [("a",)], [("a", "b", "c")], ("run", "node"), [None]])
    @pytest.mark.each_input_once
    async def test_what_is_no_pair_is_refused(self, store: Any, pairs: Any) -> None:
        with pytest.raises(TypeError, match="pairs"):
            await store.get_outputs(pairs)


class TestLives:
    async def test_a_run_that_is_deleted_and_made_anew_between_two_pages_is_not_mixed(self, make_store: Target) -> None:
        """By its deletion as this object does it; what is left is what the second life has, whole."""
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {f"{i:04}": "first" for i in range(400)})
            engine: Any = core_of(store)._session.engine
            original, pages = engine.list_outputs, []

            async def second_page_finds_none(flow_run: str, run: Any, part: Any, *limits: Any) -> Any:
                pages.append(run)
                # As if the run had another serial by now, from the second page of the first walk on.
                serial = -1 if len(pages) in (2, 3) else run
                return await original(flow_run, serial, part, *limits)

            engine.list_outputs = second_page_finds_none
            assert len(await store.get_run("run")) == 400
            assert pages[0] is None
            assert pages[3] is None  # begun anew


class TestIdsOfTheGreatestLength:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("alphabet", ["x", "é", "\U0010ffff", AWKWARD, "abcdefghijklmnopqrstuvwxyz0123456789"])
    async def test_they_are_stored_found_and_listed(self, make_store: Target, alphabet: str) -> None:
        chance = seeded()

        def longest() -> str:
            text = ""
            while len((text + alphabet[-1]).encode()) <= 1024 - 4:
                text += chance.choice(alphabet)
            return text + "z" * (1024 - len(text.encode()))

        run = longest()
        nodes = sorted({longest() for _ in range(20)})
        async with make_store() as store:
            for node in nodes[::2]:
                await store.put(run, node, {"id": node})
            await store.put_many(run, {node: {"id": node} for node in nodes[1::2]})
            await store.put_global(nodes[0], 1)
            assert await store.list_keys(run) == nodes
            assert await store.list_keys(run, prefix=nodes[0], reverse=True) == [nodes[0]]
            assert await store.list_keys(run, after=nodes[0]) == nodes[1:]
            assert await store.get_run(run) == {node: {"id": node} for node in nodes}
            assert [entry.key for entry in await store.list_globals()] == [nodes[0]]
            assert (await store.check()).ok
            core_of(store)._session.cache.clear()
            assert await store.get_many(run, nodes) == {node: {"id": node} for node in nodes}


class TestWhatAListedOutputIs:
    """It is made in a quicker way than any other output, and that is not to be seen."""

    async def listed(self, store: Any) -> tuple[Any, Any]:
        await store.put("run", "a", {"x": 1})
        (output,) = await store.list_outputs("run")
        return output, await store.get_entry("run", "a")

    async def test_it_is_an_output_like_any_other(self, store: Any) -> None:
        output, entry = await self.listed(store)
        assert type(output) is type(entry) is Output
        assert repr(output) == repr(entry)
        assert dataclasses.asdict(output) == dataclasses.asdict(entry)
        assert dataclasses.replace(output, node_id="b").written_at == entry.written_at

    async def test_it_travels_and_is_copied(self, store: Any) -> None:
        output, entry = await self.listed(store)
        for other in (pickle.loads(pickle.dumps(output)), copy.copy(output), copy.deepcopy(output)):
            assert other == output == entry

    async def test_it_is_frozen(self, store: Any) -> None:
        output, _ = await self.listed(store)
        for name in ("value", "written_at"):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(output, name, 1)
        with pytest.raises(AttributeError):
            _ = output.nothing
