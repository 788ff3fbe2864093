"""A session of the OpenAI Agents SDK in a store: a conversation is a flow run, and each of its items an output.

pip install contextstore openai-agents; python examples/openai_agents_session.py flows.db ann "I live in Oslo"
Whatever process says more to ann: the model is given what was said before.
"""

import asyncio
import sys
from typing import Any

from agents import Agent, RunConfig, Runner, SessionSettings, TResponseInputItem
from agents.memory import SessionABC
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message

from contextstore import AsyncContextStore


class ContextStoreSession(SessionABC):
    """Items that are added together stay together, and each is popped once, whoever else adds and pops."""

    def __init__(self, store: AsyncContextStore, session_id: str, limit: int | None = None) -> None:
        self.session_id, self.session_settings = session_id, SessionSettings(limit)
        self._store, self._id = store, f"session/{session_id}"

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        limit = self.session_settings.limit if limit is None and self.session_settings else limit
        newest = await self._store.list_keys(self._id, prefix="item/", reverse=True, limit=limit) if limit != 0 else []
        return list((await self._store.get_many(self._id, newest[::-1])).values())

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        async with self._store.batch() as batch:  # one commit
            for item in items:
                batch.append(self._id, "item/", item)

    async def pop_item(self) -> TResponseInputItem | None:
        while newest := await self._store.list_outputs(self._id, prefix="item/", reverse=True, limit=1):
            item: TResponseInputItem = newest[0].value
            if await self._store.delete_outputs(self._id, [newest[0].node_id]):  # else somebody else has popped it
                return item
        return None

    async def clear_session(self) -> None:
        await self._store.delete_outputs(self._id, prefix="item/")


def reply(call: ModelCall) -> Any:  # stands for the model
    return [assistant_message("You said: " + ", ".join(i["content"] for i in call.input if i["role"] == "user"))]


async def main(path: str, session_id: str, message: str) -> None:
    agent = Agent("clerk", model=ScriptedModel([ModelStep.respond(reply)]))
    async with AsyncContextStore(path) as store:
        session, config = ContextStoreSession(store, session_id), RunConfig(tracing_disabled=True)
        print((await Runner.run(agent, message, session=session, run_config=config)).final_output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
