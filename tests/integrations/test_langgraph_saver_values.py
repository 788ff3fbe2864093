"""What a saver gives back: any ids, any values, stored once, and in LangGraph's order."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, TASKS

from contextstore import AsyncContextStore, InvalidKeyError
from contextstore.integrations.langgraph import AsyncContextStoreSaver

from .langgraph_saver import BIG, checkpoint_of, config_of, id_of, listed, metadata_of, put, saver

__all__ = ["saver"]

HOSTILE = [
    "",
    " ",
    "a",
    "a|b",
    "a/b",
    "a b",
    "a!20b",
    "a\0b",
    "\0",
    "../..",
    "%2F",
    "node:1|child:2",
    "🦜🔗",
    "\ud800",
    "#sha256:" + "0" * 64,
    "x" * 5_000,
    "x" * 4_999 + "y",
    "é" * 450,
]


@pytest.mark.parametrize("kind", ["thread", "namespace", "channel"])
async def test_any_text_is_a_name_of_its_own(saver: Any, kind: str) -> None:
    names = [name for name in HOSTILE if kind != "channel" or name != "\ud800"]  # LangGraph's serializer refuses it

    def config(name: str) -> Any:
        return config_of(name if kind == "thread" else "t", name if kind == "namespace" else "")

    stored = {}
    for name in names:
        values = {name if kind == "channel" else "c": f"{name!r}{BIG}", "small": repr(name)}
        stored[name] = await put(saver, config(name), values)
        await saver.aput_writes(stored[name], [(name if kind == "channel" else "c", BIG)], "task")
    for name in names:
        found = await saver.aget_tuple(stored[name])
        assert found is not None
        assert found.config["configurable"]["thread_id"] == config(name)["configurable"]["thread_id"]
        assert found.checkpoint["channel_values"]["small"] == repr(name)
        assert [write[2] for write in found.pending_writes] == [BIG]
        if kind != "channel":
            assert [id_of(one.config) for one in await listed(saver, config(name))] == [id_of(stored[name])]
    everything = await listed(saver, None)
    key = {"thread": "thread_id", "namespace": "checkpoint_ns"}.get(kind)
    assert len(everything) == len(names)
    if key is not None:
        assert {one.config["configurable"][key] for one in everything} == set(names)


async def test_ids_of_checkpoints_sort_by_code_point(saver: Any) -> None:
    names = ["a", "a b", "a!", "a-b", "a/b", "aa", "b", "\x01", "~", "é", "🦜"]
    for name in names:
        await saver.aput(config_of("t"), checkpoint_of({}, checkpoint_id=name), metadata_of(), {})
        await saver.aput_writes(config_of("t", "", name), [("c", name)], "task")
    found = await listed(saver, config_of("t"))
    assert [id_of(one.config) for one in found] == sorted(names, reverse=True)
    assert [one.pending_writes[0][2] for one in found] == sorted(names, reverse=True)
    newest = await saver.aget_tuple(config_of("t"))
    assert newest is not None
    assert newest.checkpoint["id"] == max(names)
    before = await listed(saver, config_of("t"), before=config_of("t", "", "a-b"))
    assert [id_of(one.config) for one in before] == sorted((n for n in names if n < "a-b"), reverse=True)
    with pytest.raises(InvalidKeyError):
        await saver.aput(config_of("t"), checkpoint_of({}, checkpoint_id="x" * 2_000), metadata_of(), {})


async def test_values_come_back_as_the_serializer_makes_them(saver: Any) -> None:
    values = {
        "none": None,
        "bytes": b"\0\xff" * 3_000,
        "set": {1, 2},
        "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "uuid": uuid.UUID(int=7),
        "float": float("inf"),
        "text": "é" * 4_000,
        "huge": list(range(100_000)),
    }
    stored = await put(saver, config_of("t"), values)
    found = await saver.aget_tuple(stored)
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    assert {name: type(value) for name, value in found.checkpoint["channel_values"].items()} == {
        name: type(value) for name, value in values.items()
    }


async def test_an_encrypted_saver_stores_nothing_that_can_be_read(target: str) -> None:
    @dataclasses.dataclass
    class Cipher:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "flip", bytes(byte ^ 0x55 for byte in plaintext)

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            return self.encrypt(ciphertext)[1]

    async with AsyncContextStore(target) as store:
        saver = AsyncContextStoreSaver(store, serde=EncryptedSerializer(Cipher()))
        stored = await put(saver, config_of("t"), {"c": "secret" * 1_000, "d": "secret"}, secret="secret")
        await saver.aput_writes(stored, [("c", "secret")], "task")
        found = await saver.aget_tuple(stored)
        assert found is not None
        assert found.checkpoint["channel_values"]["d"] == "secret"
        assert [write[2] for write in found.pending_writes or ()] == ["secret"]
        assert len(await listed(saver, config_of("t"), filter={"secret": "secret"})) == 1
        for value in (await store.get_run("langgraph/t")).values():
            assert b"secret" not in value.replace(b"\xa6secret\xa6", b"")


async def test_a_large_value_is_stored_once_for_all_checkpoints_that_have_it(saver: Any, target: str) -> None:
    config = config_of("t")
    values = {f"c{i}": f"{i}{BIG}" for i in range(10)}
    versions = dict.fromkeys(values, 1)
    config = await put(saver, config, values, versions)
    for step in range(2, 22):
        channel = f"c{step % 10}"
        values[channel] = f"{step}{BIG}"
        versions[channel] = step
        config = await put(saver, config, values, versions, {channel: step})
    for one in await listed(saver, config_of("t")):
        step = max(one.checkpoint["channel_versions"].values())
        for channel, version in one.checkpoint["channel_versions"].items():
            first = channel[1:] if version == 1 else str(version)
            assert one.checkpoint["channel_values"][channel] == f"{first}{BIG}", step
    async with AsyncContextStore(target) as store:
        outputs = [output async for output in store.iter_outputs("langgraph/t")]
    assert sum(output.size for output in outputs) < 1.4 * len(BIG) * (10 + 20)


async def test_a_saver_that_has_seen_nothing_stores_no_value_again(target: str) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target) as first:
        parent = await put(first, config_of("t"), {"c": BIG})
    async with AsyncContextStoreSaver.from_conn_string(target) as second:
        child = await put(second, parent, {"c": BIG, "d": 1}, {"c": 1, "d": 1}, {"d": 1})
        found = await second.aget_tuple(child)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"c": BIG, "d": 1}
    async with AsyncContextStore(target) as store:
        assert len(await store.list_keys("langgraph/t", prefix="blob/")) == 1


async def test_a_value_is_taken_over_only_if_its_version_is_the_parents(saver: Any) -> None:
    parent = await put(saver, config_of("t"), {"c": BIG}, {"c": 1})
    other_version = await put(saver, parent, {"c": BIG + "2"}, {"c": 2}, {})
    said_to_be_new = await put(saver, parent, {"c": BIG + "3"}, {"c": 1}, {"c": 1})
    for config, value in ((parent, BIG), (other_version, BIG + "2"), (said_to_be_new, BIG + "3")):
        found = await saver.aget_tuple(config)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"c": value}


async def test_a_checkpoint_put_again_takes_the_place_of_the_one_before(saver: Any) -> None:
    for step, value in enumerate(["1" + BIG, "2" + BIG, "3"]):
        checkpoint = checkpoint_of({"c": value}, {"c": step + 1}, checkpoint_id="same")
        await saver.aput(config_of("t"), checkpoint, metadata_of(step), {"c": step + 1})
    await saver.aput_writes(config_of("t", "", "same"), [("c", "w")], "task")
    (one,) = await listed(saver, config_of("t"))
    assert one.checkpoint["channel_values"] == {"c": "3"}
    assert one.metadata["step"] == 2
    assert one.pending_writes == [("task", "c", "w")]
    assert await listed(saver, config_of("t"), filter={"step": 1}) == []


async def test_of_special_channels_the_last_write_counts_and_of_others_the_first(saver: Any) -> None:
    stored = await put(saver, config_of("t"))
    await saver.aput_writes(stored, [("a", 1), (RESUME, "first")], "task")
    await saver.aput_writes(stored, [("a", 2), ("b", 3), (INTERRUPT, "i"), (RESUME, "second")], "task")
    await saver.aput_writes(stored, [(ERROR, "e")], "task")
    found = await saver.aget_tuple(stored)
    assert found is not None
    written = [(channel, value) for _, channel, value in found.pending_writes]
    assert written == [(RESUME, "second"), (INTERRUPT, "i"), (ERROR, "e"), ("a", 1), ("b", 3)]


async def test_a_write_replaces_what_its_writer_has_read_whatever_the_clocks_say(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncContextStore(target) as store:
        ahead, behind = AsyncContextStoreSaver(store), AsyncContextStoreSaver(store)
        stored = await put(ahead, config_of("t"))
        await ahead.aput_writes(stored, [(RESUME, "old")], "task")
        with monkeypatch.context() as patched:
            patched.setattr("time.time_ns", lambda: 1_000_000_000)
            await behind.aget_tuple(stored)
            await behind.aput_writes(stored, [(RESUME, "new")], "task")
        found = await ahead.aget_tuple(stored)
        assert found is not None
        assert [write[2] for write in found.pending_writes or ()] == ["new"]


async def test_pending_writes_come_in_the_order_in_which_a_step_applies_them(saver: Any) -> None:
    stored = await put(saver, config_of("t"))
    await saver.aput_writes(stored, [("c", "z0"), ("c", "z1")], "task-a", "~z")
    await saver.aput_writes(stored, [("c", "a0")], "task-z", "~a")
    await saver.aput_writes(stored, [("c", "none")], "task-m")
    found = await saver.aget_tuple(stored)
    assert found is not None
    assert [write[2] for write in found.pending_writes] == ["none", "a0", "z0", "z1"]


async def test_what_was_sent_before_version_4_becomes_a_channel(saver: Any) -> None:
    parent = await saver.aput(config_of("t"), checkpoint_of({"c": 1}, v=3), metadata_of(), {"c": 1})
    await saver.aput_writes(parent, [(TASKS, "second"), ("c", 2)], "task", "~b")
    await saver.aput_writes(parent, [(TASKS, "first")], "other", "~a")
    child = await saver.aput(parent, checkpoint_of({"c": 2}, {"c": 2}, v=3), metadata_of(), {"c": 2})
    for found in (await saver.aget_tuple(child), (await listed(saver, config_of("t")))[0]):
        assert found is not None
        assert found.checkpoint["channel_values"] == {"c": 2, TASKS: ["first", "second"]}
        assert found.checkpoint["channel_versions"] == {"c": 2, TASKS: 2}


async def test_a_listing_of_a_thread_has_all_namespaces_by_id_and_one_of_all_has_every_thread(saver: Any) -> None:
    stored = []
    for number in range(80):
        thread, namespace = f"t{number % 2}", ("", "a", "a|b", "a/b")[number % 4]
        stored.append(await put(saver, config_of(thread, namespace), {"c": BIG}, step=number))
    everywhere = [config for config in stored if config["configurable"]["thread_id"] == "t1"][::-1]
    config: Any = {"configurable": {"thread_id": "t1"}}
    assert [one.config for one in await listed(saver, config)] == everywhere
    assert [one.config for one in await listed(saver, config, limit=7)] == everywhere[:7]
    before = await listed(saver, config, before=everywhere[3], limit=2)
    assert [one.config for one in before] == everywhere[4:6]
    assert len(await listed(saver, None)) == 80
    assert len(await listed(saver, None, limit=50)) == 50
    assert [one.metadata["step"] for one in await listed(saver, None, filter={"step": 33})] == [33]
    assert await listed(saver, None, limit=0) == []


async def test_versions_rise_in_whatever_form_a_thread_has_them(saver: Any) -> None:
    for first in (None, 7, 0.5, "00000000000000000000000000000009.0.123"):
        version = first
        for _ in range(20):
            after = saver.get_next_version(version, None)
            if version is not None:
                assert after > version
                assert type(after) is type(version)
            version = after


async def test_a_thread_of_which_a_tenth_changes_at_each_step_takes_a_third_of_the_bytes(target: str) -> None:
    """Of what LangGraph's own savers on SQLite take: the whole state at each step."""
    steps, size = 100, 1_024
    async with AsyncContextStore(target) as store:
        saver = AsyncContextStoreSaver(store)
        config, values, versions = config_of("t"), {}, dict.fromkeys(map(str, range(10)), 0)
        for step in range(steps):
            changed = versions if step == 0 else [str(step % 10)]
            new = {channel: saver.get_next_version(versions[channel], None) for channel in changed}
            values |= dict.fromkeys(changed, f"{step}" + "x" * size)
            versions |= new
            config = await put(saver, config, values, versions, new)
            await saver.aput_writes(config, [(channel, values[channel]) for channel in list(changed)[:1]], "task")
        outputs = [output async for output in store.iter_outputs("langgraph/t")]
    assert sum(output.size + len(output.node_id) for output in outputs) < 0.3 * steps * 11 * size
