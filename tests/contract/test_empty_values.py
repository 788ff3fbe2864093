"""A value of no bytes is a value as any other, wherever it stands in a commit."""

from __future__ import annotations

from typing import Any


async def test_it_may_be_the_first_of_several_that_are_put_together(store: Any) -> None:
    await store.put_many("run", {"a": b"", "b": b"x", "c": b""})
    assert await store.get_many("run", ["a", "b", "c"]) == {"a": b"", "b": b"x", "c": b""}


async def test_it_may_be_the_only_one(store: Any) -> None:
    await store.put("run", "node", b"")
    await store.put("run", "node", b"", exist_ok=True)
    await store.put_global("key", b"")
    assert (await store.get("run", "node"), await store.get_global("key")) == (b"", b"")
