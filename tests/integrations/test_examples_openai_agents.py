"""examples/openai_agents_session.py: a session keeps its conversation, whoever else adds to it and pops of it."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, Session
from agents.testing import ScriptedModel, assistant_message

from contextstore import AsyncContextStore

from ..support.examples import EXAMPLES, load, run

EXAMPLE = "openai_agents_session.py"


def items(*texts: object) -> list[Any]:
    return [{"role": "user", "content": str(text)} for text in texts]


@pytest.fixture
async def store(target: str) -> AsyncIterator[AsyncContextStore]:
    async with AsyncContextStore(target) as opened:
        yield opened


def session(store: AsyncContextStore, name: str = "ann", **options: Any) -> Any:
    return load(EXAMPLE).ContextStoreSession(store, name, **options)


def test_it_has_fewer_than_sixty_lines() -> None:
    assert len((EXAMPLES / EXAMPLE).read_text().splitlines()) < 60


def test_another_process_goes_on_with_the_conversation_and_sees_no_other(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"
    assert run(EXAMPLE, path, "ann", "I live in Oslo") == (0, ["You said: I live in Oslo"])
    assert run(EXAMPLE, path, "bob", "I am Bob") == (0, ["You said: I am Bob"])
    assert run(EXAMPLE, path, "ann", "And now?") == (0, ["You said: I live in Oslo, And now?"])


async def test_the_runner_gives_the_model_what_was_said_before(store: AsyncContextStore) -> None:
    model = ScriptedModel([[assistant_message("hello")], [assistant_message("again")]])
    ann = session(store)
    assert isinstance(ann, Session)
    for text, answer in [("first", "hello"), ("second", "again")]:
        result = await Runner.run(
            Agent("clerk", model=model), text, session=ann, run_config=RunConfig(tracing_disabled=True)
        )
        assert result.final_output == answer
    kept = await ann.get_items()
    assert [item["role"] for item in kept] == ["user", "assistant", "user", "assistant"]


async def test_the_newest_items_come_in_the_order_of_the_conversation(store: AsyncContextStore) -> None:
    ann = session(store)
    assert await ann.get_items() == []
    await ann.add_items([])
    await ann.add_items(items(*range(12)))
    assert await ann.get_items() == items(*range(12))
    assert await ann.get_items(3) == items(9, 10, 11)
    assert await ann.get_items(0) == []
    assert await session(store, limit=2).get_items() == items(10, 11)
    assert await session(store, limit=2).get_items(100) == items(*range(12))


async def test_an_item_is_popped_once_however_many_pop(store: AsyncContextStore) -> None:
    ann = session(store)
    await ann.add_items(items(*range(20)))
    popped = await asyncio.gather(*(session(store).pop_item() for _ in range(24)))
    got = sorted(int(item["content"]) for item in popped if item is not None)
    assert got == list(range(20))
    assert await ann.pop_item() is None
    await ann.add_items(items("new"))
    assert await ann.get_items() == items("new")


async def test_what_is_added_together_stays_together(store: AsyncContextStore) -> None:
    await asyncio.gather(*(session(store).add_items(items(n, n, n)) for n in range(20)))
    said = [item["content"] for item in await session(store).get_items()]
    assert [said[n : n + 3] for n in range(0, 60, 3)] == [[first] * 3 for first in said[::3]]
    assert sorted(map(int, said[::3])) == list(range(20))


async def test_a_cleared_session_is_empty_and_the_others_are_not(store: AsyncContextStore) -> None:
    ann, bob = session(store), session(store, "bob")
    await ann.add_items(items(1, 2))
    await bob.add_items(items(3))
    await ann.clear_session()
    assert await ann.get_items() == []
    assert await bob.get_items() == items(3)
    await ann.add_items(items(4))
    assert await ann.get_items() == items(4)
