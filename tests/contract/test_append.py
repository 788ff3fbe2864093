"""``append``: outputs under the next id of a prefix, and keys that make a retry safe."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import pytest

from contextstore import AlreadyExistsError, InvalidKeyError, RunDeletedError, SerializationError
from contextstore._values.keys import MAX_KEY_BYTES

from ..conftest import Target
from .test_batch import begun

RUN = uuid.UUID("018f3a00-0000-7000-8000-00000000000f")


def ids(prefix: str, *numbers: int) -> list[str]:
    return [f"{prefix}{number:012}" for number in numbers]


async def append_and_put(store: Any, node_id: str) -> None:
    """Both in one batch."""
    async with begun(store) as batch:
        batch.append("run", "p", 1, key="a")
        batch.put("run", node_id, "put")


async def test_it_gives_the_ids_of_a_prefix_one_after_the_other(store: Any) -> None:
    given = [await store.append("run", "log/", {"number": number}) for number in range(1, 4)]
    assert given == ids("log/", 1, 2, 3)
    assert await store.get_run("run") == {node: {"number": n} for n, node in enumerate(given, 1)}


async def test_each_prefix_of_each_run_counts_by_itself(store: Any) -> None:
    assert await store.append(RUN, "", 1) == "000000000001"
    assert await store.append(str(RUN), "", 2) == "000000000002"
    assert await store.append(RUN, "é", 3) == "é000000000001"
    assert await store.append("another", "", 4) == "000000000001"


async def test_what_was_appended_is_an_output_like_any_other(store: Any) -> None:
    node = await store.append("run", "log/", b"bytes")
    assert await store.get("run", node) == b"bytes"
    assert await store.exists("run", node)
    assert (await store.get_entry("run", node)).size == 5
    with pytest.raises(AlreadyExistsError):
        await store.put("run", node, b"other")
    assert (await store.list_runs())[0].outputs == 1
    assert (await store.check()).problems == ()


async def test_an_id_that_a_put_has_taken_is_passed_over(store: Any) -> None:
    await store.put("run", "log/000000000001", "put")
    await store.put("run", "log/000000000003", "put")
    assert [await store.append("run", "log/", "appended") for _ in range(3)] == ids("log/", 2, 4, 5)
    assert await store.get("run", "log/000000000003") == "put"


async def test_very_many_ids_that_puts_have_taken_are_passed_over(store: Any) -> None:
    taken = ids("p", *range(2, 700))
    await store.put_many("run", dict.fromkeys([*taken, "p", "p1", "p10", "p000000000350x", "p99999999999999"], 0))
    assert [await store.append("run", "p", 1) for _ in range(2)] == ids("p", 1, 700)


async def test_a_key_gives_the_first_id_again_and_stores_nothing(store: Any) -> None:
    first = await store.append("run", "log/", "first", key="a")
    assert await store.append("run", "log/", "second", key="a") == first
    assert await store.append("run", "log/", "third", key="b") == ids("log/", 2)[0]
    assert await store.get_run("run") == {first: "first", ids("log/", 2)[0]: "third"}


async def test_a_key_is_one_of_its_run_and_prefix(store: Any) -> None:
    given = [await store.append(run, prefix, 0, key=RUN) for run in ("one", "two") for prefix in ("", "p", "q")]
    assert given == [*ids("", 1), *ids("p", 1), *ids("q", 1)] * 2


async def test_a_key_given_many_times_at_once_stores_one_output(store: Any) -> None:
    given = await asyncio.gather(*(store.append("run", "p", number, key="same") for number in range(30)))
    assert set(given) == {"p000000000001"}
    assert await store.list_keys("run") == ["p000000000001"]


async def test_what_a_repeated_key_brings_is_not_taken_for_the_output(store: Any) -> None:
    node = await store.append("run", "p", "first", key="same")
    await asyncio.gather(store.append("run", "p", "second", key="same"), store.append("run", "p", "third"))
    assert await store.get("run", node) == "first"


async def test_many_at_once_share_commits_and_each_gets_a_number_of_its_own(store: Any) -> None:
    given = await asyncio.gather(*(store.append("run", f"p{n % 3}/", n) for n in range(300)))
    assert sorted(given) == sorted(node for prefix in range(3) for node in ids(f"p{prefix}/", *range(1, 101)))
    assert {node: await store.get("run", node) for node in given} == {node: n for n, node in enumerate(given)}
    assert (await store.stats()).commits < 300


async def test_numbers_rise_in_the_order_of_the_calls_of_one_caller(store: Any) -> None:
    async def caller(name: int) -> list[str]:
        return [await store.append("run", "p", name) for _ in range(20)]

    for given in await asyncio.gather(*map(caller, range(10))):
        assert given == sorted(given)


async def test_two_stores_of_one_place_give_no_number_twice(make_store: Target, shared_target: None) -> None:
    async with make_store() as one, make_store() as other:
        given = await asyncio.gather(*((one, other)[n % 2].append("run", "p", n, key=str(n // 4)) for n in range(200)))
        assert sorted(set(given)) == ids("p", *range(1, 51))
        for start in range(0, 200, 4):
            assert len(set(given[start : start + 4])) == 1
        assert await one.list_keys("run") == await other.list_keys("run") == sorted(set(given))


async def test_it_goes_on_where_it_was_after_the_store_was_closed(make_store: Target, shared_target: None) -> None:
    async with make_store() as store:
        await store.append("run", "p", 1, key="a")
    async with make_store() as store:
        assert await store.append("run", "p", 2) == "p000000000002"
        assert await store.append("run", "p", 3, key="a") == "p000000000001"


# -- batches -----------------------------------------------------------------------------------------------------------


async def test_a_batch_appends_in_the_order_of_its_calls(store: Any) -> None:
    await store.append("run", "p", 0)
    async with begun(store) as batch:
        assert batch.append("run", "p", 1) is None
        batch.put("run", "p000000000003", "put")
        batch.append("run", "p", 2, key="a")
        batch.append("run", "p", 3, key="a")
        batch.append("run", "q", 4)
        batch.upsert_global("appended", 4)
    written = {f"p{n:012}": value for n, value in enumerate([0, 1, "put", 2], 1)}
    assert await store.get_run("run") == {**written, "q000000000001": 4}
    assert await store.append("run", "p", 5, key="a") == "p000000000004"


async def test_a_put_of_an_id_that_its_batch_has_appended_is_a_conflict(store: Any) -> None:
    with pytest.raises(AlreadyExistsError):
        await append_and_put(store, "p000000000001")
    assert await store.list_keys("run") == []


async def test_a_refused_batch_uses_up_no_number_and_no_key(store: Any) -> None:
    await store.put("run", "there", 1)
    with pytest.raises(AlreadyExistsError):
        await append_and_put(store, "there")
    assert await store.append("run", "p", 2) == "p000000000001"
    assert await store.append("run", "p", 3, key="a") == "p000000000002"


async def test_batches_and_single_appends_at_once_share_one_counter(store: Any) -> None:
    async def batch_of(number: int) -> None:
        async with begun(store) as batch:
            for _ in range(number):
                batch.append("run", "p", "batch")

    singles = [store.append("run", "p", "single") for _ in range(20)]
    await asyncio.gather(*singles, *map(batch_of, range(1, 8)))
    assert await store.list_keys("run") == ids("p", *range(1, 20 + sum(range(1, 8)) + 1))


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        (("", "p", 1), InvalidKeyError, "flow_run_id"),
        (("run", "p" * 2000, 1), InvalidKeyError, "prefix"),
        (("run", None, 1), InvalidKeyError, "prefix"),
        (("run", "a\0", 1), InvalidKeyError, "prefix"),
        (("run", "p", {1}), SerializationError, "set"),
    ],
    ids=str,
)
async def test_bad_arguments_are_refused_by_their_names(
    store: Any, arguments: tuple[Any, ...], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=name):
        await store.append(*arguments)
    assert await store.list_runs() == []


@pytest.mark.each_input_once
@pytest.mark.parametrize("key", ["", "k" * 2000, "a\0", "\ud800", 7], ids=repr)
async def test_a_bad_key_is_refused(store: Any, key: Any) -> None:
    with pytest.raises(InvalidKeyError, match="key"):
        await store.append("run", "p", 1, key=key)
    assert await store.list_runs() == []


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("tag", "error"), [("", ValueError), ("t" * 65, ValueError), ("é", ValueError), (1, TypeError)]
)
async def test_a_bad_tag_is_refused(store: Any, tag: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="tag"):
        await store.append("run", "p", 1, tag=tag)


async def test_the_longest_prefix_leaves_room_for_the_digits(store: Any) -> None:
    node = await store.append("run", "p" * (MAX_KEY_BYTES - 12), 1)
    assert node == "p" * (MAX_KEY_BYTES - 12) + "000000000001"
    assert await store.get("run", node) == 1


async def test_nothing_is_appended_to_a_deleted_run(store: Any) -> None:
    await store.append("run", "p", 1, key="a")
    await store.delete_run("run")
    for key in (None, "a"):
        with pytest.raises(RunDeletedError):
            await store.append("run", "p", 2, key=key)
    with pytest.raises(RunDeletedError):
        async with begun(store) as batch:
            batch.append("run", "p", 2)
    assert (await store.check()).problems == ()


# -- those who wait ----------------------------------------------------------------------------------------------------


async def test_who_waits_for_an_id_is_told_when_it_is_appended(store: Any) -> None:
    waiting = asyncio.ensure_future(store.wait_for("run", "p000000000002", timeout=60))
    while not (await store.list_keys("run")):
        await store.append("run", "p", "first")
    await store.append("run", "p", "second")
    assert await waiting == "second"


async def test_who_waits_in_another_store_is_told_too(make_store: Target, shared_target: None) -> None:
    async with make_store() as one, make_store() as other:
        waiting = asyncio.ensure_future(other.wait_for("run", "p000000000001", timeout=60))
        await one.append("run", "p", "value")
        assert await waiting == "value"


async def test_an_appended_value_is_answered_from_memory(store: Any) -> None:
    node = await store.append("run", "p", {"a": 1})
    before = (await store.stats()).cache_hits
    assert await store.get("run", node) == {"a": 1}
    assert (await store.stats()).cache_hits == before + 1


async def test_a_run_object_appends_to_its_run(make_store: Target) -> None:
    async with make_store() as store:
        run = getattr(store, "plain", store).run("run")
        call = run.append
        node = await (asyncio.to_thread(call, "p", 1, key="a") if hasattr(store, "plain") else call("p", 1, key="a"))
        assert await store.append("run", "p", 2, key="a") == node == "p000000000001"


# -- against a model ---------------------------------------------------------------------------------------------------


class Model:
    """What a run has, by the rules alone."""

    def __init__(self) -> None:
        self.outputs: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.keys: dict[tuple[str, str], str] = {}

    def append(self, prefix: str, value: int, key: str | None) -> str:
        if key is not None and (prefix, key) in self.keys:
            return self.keys[prefix, key]
        number = self.last.get(prefix, 0) + 1
        while (node := f"{prefix}{number:012}") in self.outputs:
            number += 1
        self.last[prefix] = number
        self.outputs[node] = value
        if key is not None:
            self.keys[prefix, key] = node
        return node


async def test_it_does_what_the_model_does(store: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, model = random.Random(seed), Model()
    for step in range(120):
        prefix = chance.choice(["", "0", "p", "p0"])
        key = chance.choice([None, None, "a", "b", str(step)])
        match chance.choice(["append", "append", "put", "batch"]):
            case "append":
                assert await store.append("run", prefix, step, key=key) == model.append(prefix, step, key)
            case "put":
                node = f"{prefix}{model.last.get(prefix, 0) + chance.randint(1, 3):012}"
                if node not in model.outputs:
                    await store.put("run", node, step)
                    model.outputs[node] = step
            case "batch":
                async with begun(store) as batch:
                    for _ in range(chance.randint(1, 4)):
                        batch.append("run", prefix, step, key=key)
                        model.append(prefix, step, key)
        assert await store.get_run("run") == dict(sorted(model.outputs.items()))
    assert (await store.check()).problems == ()
